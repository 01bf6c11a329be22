"""`spectrum` and `spectral_density`."""

import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from flatmin import linalg
from flatmin._core import Estimate, Integer, JobError, checked, is_traced
from flatmin.flatness.methods import METHOD, AbstractSpectrumMethod, Auto
from flatmin.flatness.select import resolve
from flatmin.flatness.target import OF_POINT, Loss, finished, target_of
from flatmin.problems import RecoveryProblem


@checked(**OF_POINT, method=METHOD)
def spectrum(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractSpectrumMethod | Auto | None = None,
    *,
    batch: PyTree = None,
) -> Estimate:
    """All non-zero eigenvalues of the Hessian, descending, each with its error.

    At interpolating points and least-squares minimisers they are those of `(2/m) K` (at most m of them); elsewhere
    those of the dense Hessian.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar (with a batch, (params, batch) -> scalar).
        params: the point.
        method: `Auto()` (default, see `select_method`), `TangentKernel()` or `Dense()`.
        batch: arrays that the loss takes as second argument.

    Returns:
        The eigenvalues that differ from zero by more than their rounding error; under jit, vmap and in records all p
        of them. Cost: one m x m (or p x p) symmetric eigenproblem.

    Raises:
        UsageError: for a method that does not apply, or too many parameters for a dense Hessian.
    """
    target = target_of(problem_or_fn, params, batch)
    found = finished(resolve("spectrum", method, target).spectrum(target))  # pyright: ignore[reportAttributeAccessIssue]
    values, error = found.value[::-1], found.error[::-1]
    if not is_traced(values) and found.error_kind != "none":
        kept = jnp.abs(values) > error
        values, error = values[kept], error[kept]
    return Estimate(values, error, found.error_kind, found.method, found.matvecs)


@checked(**OF_POINT, num_probes=Integer(2))
def spectral_density(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    *,
    key: Key[Array, ""],
    order: int = 40,
    num_probes: int = 16,
    batch: PyTree = None,
) -> linalg.SpectralDensity:
    """The density of Hessian eigenvalues by stochastic Lanczos quadrature, at any point and for any JAX loss.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point.
        key: random key of the probes.
        order: Lanczos steps a probe.
        num_probes: probes; the standard error comes from their spread.
        batch: arrays that the loss takes as second argument.

    Returns:
        The density, with `smoothed(grid, width)` and `moment(k)`, each with its standard error.

    Raises:
        UsageError: for an order or number of probes out of range.
    """
    hessian = target_of(problem_or_fn, params, batch).hessian
    found = linalg.lanczos_density(
        hessian.matvec, hessian.size, hessian.dtype, order=min(order, hessian.size), num_probes=num_probes, key=key
    )
    if not is_traced(found.nodes) and not bool(jnp.all(jnp.isfinite(found.nodes))):
        raise JobError("params: the Hessian at this point has NaN or infinite products; check the parameters")
    return found
