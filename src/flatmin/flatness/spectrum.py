"""`spectrum` and `spectral_density`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from flatmin import linalg
from flatmin._core import Estimate, UsageError
from flatmin._core.forks import refuse_fork
from flatmin.flatness.methods import AbstractMethod, Auto, Dense, TangentKernel
from flatmin.flatness.tangent_kernel import gauss_newton_spectrum, residual_part_vanishes
from flatmin.flatness.trace import Loss, loss_of
from flatmin.problems import RecoveryProblem

SPECTRUM_LIMIT = 3000  # parameters up to which Auto() forms a dense Hessian for all eigenvalues


def spectrum(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractMethod | None = None,
) -> Estimate:
    """All non-zero eigenvalues of the Hessian, descending, each with its error.

    At interpolating points and least-squares minimisers they are those of `(2/m) K` (at most m of them); elsewhere
    those of the dense Hessian.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point.
        method: `Auto()` (default), `TangentKernel()` or `Dense()`.

    Returns:
        The eigenvalues that differ from zero by more than their rounding error. Cost: one m x m (or p x p)
        symmetric eigenproblem.

    Raises:
        UsageError: for a method that does not apply, or too many parameters for a dense Hessian.
    """
    refuse_fork()
    method = Auto() if method is None else method
    is_problem = isinstance(problem_or_fn, RecoveryProblem)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if isinstance(method, Auto):
        if is_problem and residual_part_vanishes(problem_or_fn, params):
            method = TangentKernel()
        elif size <= SPECTRUM_LIMIT:
            method = Dense()
        else:
            raise UsageError(
                f"params: {size} parameters at a point that does not interpolate are too many for all eigenvalues "
                f"(limit {SPECTRUM_LIMIT}); use spectral_density, or method=Dense() if the memory is there"
            )
    match method:
        case TangentKernel() if is_problem:
            if not residual_part_vanishes(problem_or_fn, params):
                raise UsageError(
                    "method: TangentKernel() is exact only where A*(r) = 0 (interpolation, least-squares minima), and "
                    "this point is not one; use Dense() or spectral_density"
                )
            values, name, matvecs = gauss_newton_spectrum(problem_or_fn, params), "tangent kernel", 0
        case Dense():
            hessian = linalg.flat_hessian(loss_of(problem_or_fn), params)
            values, name, matvecs = jnp.linalg.eigvalsh(hessian.dense()), "dense", size
        case _:
            raise UsageError(
                f"method: {type(method).__name__} does not give the spectrum of this object; use Auto() or Dense()"
            )
    values = values[::-1]
    error = 10 * values.shape[0] * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    values = values[jnp.abs(values) > error]
    return Estimate(values, jnp.full_like(values, error), "rounding", name, matvecs)


def spectral_density(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    *,
    key: Key[Array, ""],
    order: int = 40,
    num_probes: int = 8,
) -> linalg.SpectralDensity:
    """The density of Hessian eigenvalues by stochastic Lanczos quadrature, at any point and for any JAX loss.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point.
        key: random key of the probes.
        order: Lanczos steps a probe.
        num_probes: probes; the standard error comes from their spread.

    Returns:
        The density, with `smoothed(grid, width)` and `moment(k)`, each with its standard error.

    Raises:
        UsageError: for an order or number of probes out of range.
    """
    hessian = linalg.flat_hessian(loss_of(problem_or_fn), params)
    return linalg.lanczos_density(
        hessian.matvec, hessian.size, hessian.dtype, order=min(order, hessian.size), num_probes=num_probes, key=key
    )
