"""Both ends of the Hessian's spectrum: no negative curvature is ever called a sharpness."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from flatmin import linalg
from flatmin._core import Estimate, UsageError, shown_tuple
from flatmin.flatness.methods import AbstractMethod, Auto, Dense, Lanczos
from flatmin.flatness.trace import DENSE_LIMIT, Loss, loss_of
from flatmin.problems import RecoveryProblem


@shown_tuple
class CurvatureRange(NamedTuple):
    """The lowest and the highest eigenvalue of a Hessian.

    Attributes:
        lowest: `lambda_min`, with its residual bound.
        highest: `lambda_max`, the sharpness, with its residual bound.
    """

    lowest: Estimate
    highest: Estimate

    @property
    def dominated_by_negative(self) -> bool:
        """Whether the eigenvalue of largest size is negative: what a power iteration on |Hv| takes for a sharpness."""
        return float(self.lowest) < -float(self.highest)

    def headline(self) -> str:
        """Both ends with their errors, in one sentence."""
        text = (
            f"curvature from {float(self.lowest):.6g} (+- {float(self.lowest.error):.1g}) to "
            f"{float(self.highest):.6g} (+- {float(self.highest.error):.1g})"
        )
        return f"{text}; the largest in size is negative" if self.dominated_by_negative else text


def curvature_range(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractMethod | None = None,
    *,
    key: Key[Array, ""] | None = None,
) -> CurvatureRange:
    """`(lambda_min(H), lambda_max(H))` of the full Hessian at any point, signed, each with a residual bound.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point.
        method: `Dense()` (one p x p eigenproblem for both ends), `Lanczos(...)`, or `Auto()` (default): dense up to a
            few hundred parameters.
        key: random key of the starting vectors of Lanczos; default: a fixed one.

    Returns:
        Both ends; `lowest, highest = curvature_range(...)`.

    Raises:
        UsageError: for another method.
        JobError: if Lanczos does not converge within its budget.
    """
    hessian = linalg.flat_hessian(loss_of(problem_or_fn), params)
    if method is None or isinstance(method, Auto):
        method = Dense() if hessian.size <= DENSE_LIMIT else Lanczos()
    match method:
        case Dense():
            vectors = jnp.linalg.eigh(hessian.dense())[1]
            low, high, matvecs, name = vectors[:, 0], vectors[:, -1], hessian.size, "dense"
        case Lanczos():
            key = jax.random.key(0) if key is None else key
            low, high, matvecs = linalg.extreme_eigenvectors(
                hessian.matvec,
                hessian.size,
                hessian.dtype,
                key=key,
                tolerance=method.tolerance,
                max_matvecs=method.max_matvecs,
            )
            name = "lanczos"
        case _:
            raise UsageError(
                f"method: {type(method).__name__} does not give both ends of the spectrum; use Auto(), Dense() or "
                "Lanczos()"
            )

    def estimate(vector: Array) -> Estimate:
        value, residual = linalg.eigenpair_residual(hessian.matvec, vector)
        return Estimate(value, residual, "residual bound", name, matvecs + 2)

    return CurvatureRange(estimate(low), estimate(high))


def hessian_ends(problem_or_fn: RecoveryProblem | Loss, params: PyTree) -> Float[Array, " 2"]:
    """`[lambda_min(H), lambda_max(H)]` by the dense Hessian, for use under jit and vmap and in records.

    `Record(functools.partial(hessian_ends, problem), every=100)`. At least-squares minimisers
    `gauss_newton_spectrum(problem, params)[-1]` is the same sharpness from a d x d problem, under jit and vmap too.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point.

    Returns:
        The two eigenvalues, exact to rounding (`p eps ||H||`); memory p^2.
    """
    values = jnp.linalg.eigvalsh(linalg.flat_hessian(loss_of(problem_or_fn), params).dense())
    return jnp.stack([values[0], values[-1]])
