"""Both ends of the Hessian's spectrum: no negative curvature is ever called a sharpness."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from flatmin._core import Estimate, UsageError, checked, shown_tuple
from flatmin.flatness.methods import METHOD, AbstractEndsMethod, Auto, TangentKernel
from flatmin.flatness.select import resolve
from flatmin.flatness.target import OF_POINT, Loss, LossOrProblem, finished, target_of
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


@checked(**OF_POINT, method=METHOD)
def curvature_range(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractEndsMethod | Auto | None = None,
    *,
    key: Key[Array, ""] | None = None,
    batch: PyTree = None,
) -> CurvatureRange:
    """`(lambda_min(H), lambda_max(H))` of the full Hessian at any point, signed, each with a residual bound.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point.
        method: `Dense()` (one p x p eigenproblem for both ends), `Lanczos(...)`, or `Auto()` (default, see
            `select_method`).
        key: as for `sharpness`.
        batch: as for `sharpness`.

    Returns:
        Both ends; `lowest, highest = curvature_range(...)`.

    Raises:
        UsageError: for another method.
        JobError: where the Hessian is not finite.
    """
    target = target_of(problem_or_fn, params, batch)
    chosen = resolve("curvature_range", method, target)
    if isinstance(chosen, TangentKernel):
        raise UsageError(
            "method: TangentKernel does not give both ends of the spectrum; use Auto(), Dense() or Lanczos()"
        )
    low, high = chosen.ends(target, key, ("lowest", "highest"))  # pyright: ignore[reportAttributeAccessIssue]
    return CurvatureRange(finished(low), finished(high))


@checked(problem_or_fn=LossOrProblem())
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
    H = target_of(problem_or_fn, params).hessian.dense()
    outer = jax.lax.stop_gradient(jnp.linalg.eigh(jax.lax.stop_gradient(H))[1][:, jnp.array([0, -1])])
    return jnp.sum(outer * jnp.matmul(H, outer, precision=jax.lax.Precision.HIGHEST), axis=0)
