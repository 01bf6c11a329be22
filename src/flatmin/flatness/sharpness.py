"""`sharpness`: the largest eigenvalue of the Hessian, with its sign and a residual bound."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Key, PyTree

from flatmin import linalg
from flatmin._core import Estimate, UsageError
from flatmin._core.forks import refuse_fork
from flatmin.flatness.methods import AbstractMethod, Auto, Dense, Lanczos, TangentKernel
from flatmin.flatness.tangent_kernel import kernel_matvec, kernel_to_params, residual_part_vanishes
from flatmin.flatness.trace import DENSE_LIMIT, Loss, loss_of
from flatmin.problems import RecoveryProblem


def sharpness_method(problem_or_fn: RecoveryProblem | Loss, params: PyTree) -> AbstractMethod:
    """The method that `Auto()` chooses for the sharpness at this point, without running it.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point; its values matter, so it cannot be traced.

    Returns:
        `TangentKernel()` where the residual part of the Hessian vanishes, else `Dense()` for few parameters, else
        `Lanczos()`.
    """
    if isinstance(problem_or_fn, RecoveryProblem) and residual_part_vanishes(problem_or_fn, params):
        return TangentKernel()
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Dense() if size <= DENSE_LIMIT else Lanczos()


def sharpness(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractMethod | None = None,
    *,
    key: Key[Array, ""] | None = None,
) -> Estimate:
    """The algebraically largest Hessian eigenvalue `lambda_max(H)`, signed, with a residual bound.

    At interpolating points and least-squares minimisers `S = (2/m) lambda_max(K)` [theory, Sec 1]; away from them the
    full Hessian. Whatever found the eigenvector, the value returned is its Rayleigh quotient with the true Hessian
    and the error is `||H v - lambda v||`, so some eigenvalue lies within `error` of `value`.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point.
        method: `Auto()` (default), `TangentKernel()`, `Dense()` or `Lanczos(...)`.
        key: random key of the starting vector of Lanczos; default: a fixed one.

    Returns:
        The sharpness. A negative value means that every curvature is negative.

    Raises:
        UsageError: for a method that does not apply, or `TangentKernel()` away from the points where it is exact.
        JobError: if Lanczos does not converge within its budget.
    """
    refuse_fork()
    return _end(problem_or_fn, params, method, key, "highest")


def lowest_curvature(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractMethod | None = None,
    *,
    key: Key[Array, ""] | None = None,
) -> Estimate:
    """The algebraically smallest Hessian eigenvalue `lambda_min(H)`; arguments, result and errors as `sharpness`.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point.
        method: `Auto()` (default), `Dense()` or `Lanczos(...)`.
        key: random key of the starting vector of Lanczos; default: a fixed one.

    Returns:
        The lowest curvature with its residual bound.

    Raises:
        UsageError: for a method that does not apply.
    """
    if isinstance(method, TangentKernel):
        raise UsageError("method: TangentKernel() knows no negative curvature; use Dense() or Lanczos()")
    if method is None or isinstance(method, Auto):
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        method = Dense() if size <= DENSE_LIMIT else Lanczos()
    return _end(problem_or_fn, params, method, key, "lowest")


def _end(problem_or_fn, params, method, key, end) -> Estimate:
    method = Auto() if method is None else method
    if isinstance(method, Auto):
        method = sharpness_method(problem_or_fn, params)
    key = jax.random.key(0) if key is None else key
    hessian = linalg.flat_hessian(loss_of(problem_or_fn), params)
    match method:
        case TangentKernel():
            if not isinstance(problem_or_fn, RecoveryProblem):
                raise UsageError("method: TangentKernel() needs a RecoveryProblem; use Dense() or Lanczos() for a loss")
            if not residual_part_vanishes(problem_or_fn, params):
                raise UsageError(
                    "method: TangentKernel() is exact only where A*(r) = 0 (interpolation, least-squares minima), and "
                    "this point is not one; use Dense() or Lanczos()"
                )
            vector, matvecs = _kernel_direction(problem_or_fn, hessian.params, hessian.dtype, key)
            name = "tangent kernel"
        case Dense():
            _, vectors = jnp.linalg.eigh(hessian.dense())
            vector, matvecs = vectors[:, -1 if end == "highest" else 0], hessian.size
            name = "dense"
        case Lanczos():
            vector, matvecs = linalg.extreme_eigenvector(
                hessian.matvec,
                hessian.size,
                hessian.dtype,
                key=key,
                end=end,
                tolerance=method.tolerance,
                max_matvecs=method.max_matvecs,
            )
            name = "lanczos"
        case _:
            raise UsageError(
                f"method: {type(method).__name__} does not compute an eigenvalue; use Auto(), TangentKernel(), "
                "Dense() or Lanczos()"
            )
    value, residual = linalg.eigenpair_residual(hessian.matvec, vector)
    return Estimate(value, residual, "residual bound", name, matvecs + 1)


def _kernel_direction(problem: RecoveryProblem, params: PyTree, dtype, key) -> tuple[Array, int]:
    """The parameter direction `J^T u` of the top eigenvector u of K."""
    u, matvecs = linalg.extreme_eigenvector(
        lambda v: kernel_matvec(problem, params, v), problem.num_samples, dtype, key=key
    )
    direction = ravel_pytree(kernel_to_params(problem, params, u.astype(dtype)))[0]
    # at a point with J = 0 every direction is an eigenvector of the zero Hessian
    fallback = jnp.ones_like(direction)
    return jnp.where(jnp.max(jnp.abs(direction)) > 0, direction, fallback), matvecs
