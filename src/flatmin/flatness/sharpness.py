"""`sharpness` and `lowest_curvature`: one end of the Hessian's spectrum, with its sign and a residual bound."""

from jaxtyping import Array, Key, PyTree

from flatmin._core import Estimate, UsageError, checked
from flatmin.flatness.methods import METHOD, AbstractEndsMethod, Auto, TangentKernel
from flatmin.flatness.select import resolve
from flatmin.flatness.target import OF_POINT, Loss, finished, target_of
from flatmin.problems import RecoveryProblem


@checked(**OF_POINT, method=METHOD)
def sharpness(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractEndsMethod | Auto | None = None,
    *,
    key: Key[Array, ""] | None = None,
    batch: PyTree = None,
) -> Estimate:
    """The algebraically largest Hessian eigenvalue `lambda_max(H)`, signed, with a residual bound.

    At interpolating points and least-squares minimisers `S = (2/m) lambda_max(K)` [theory, Sec 1]; away from them the
    full Hessian. Whatever found the eigenvector, the value returned is its Rayleigh quotient with the true Hessian
    and the error is `||H v - lambda v||` with the measured rounding, so some eigenvalue lies within `error` of
    `value`. Where it is repeated, the gradient is a subgradient.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar (with a batch, (params, batch) -> scalar).
        params: the point.
        method: `Auto()` (default, see `select_method`), `TangentKernel()`, `Dense()` or `Lanczos(...)`. Under jit,
            vmap, grad and in records `Dense()` is chosen; Lanczos cannot be traced.
        key: random key of the starting vector of iterations; without a key they start from the same vector at every
            call, drawn from `jax.random.key(0)`: the result depends on it within its error only.
        batch: arrays that the loss takes as second argument; another batch of the same shapes compiles nothing.

    Returns:
        The sharpness. A negative value means that every curvature is negative. Where Lanczos spent its budget the
        outcome is `max_iterations`, the value the best found and the error its residual.

    Raises:
        UsageError: for a method that does not apply, or `TangentKernel()` away from the points where it is exact.
        JobError: where the Hessian is not finite.
    """
    return _end("sharpness", "highest", problem_or_fn, params, method, key, batch)


@checked(**OF_POINT, method=METHOD)
def lowest_curvature(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractEndsMethod | Auto | None = None,
    *,
    key: Key[Array, ""] | None = None,
    batch: PyTree = None,
) -> Estimate:
    """The algebraically smallest Hessian eigenvalue `lambda_min(H)`; arguments, result and errors as `sharpness`.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar (with a batch, (params, batch) -> scalar).
        params: the point.
        method: `Auto()` (default), `Dense()` or `Lanczos(...)`.
        key: as for `sharpness`.
        batch: as for `sharpness`.

    Returns:
        The lowest curvature with its residual bound.

    Raises:
        UsageError: for a method that does not apply.
        JobError: where the Hessian is not finite.
    """
    if isinstance(method, TangentKernel):
        raise UsageError("method: TangentKernel() knows no negative curvature; use Dense() or Lanczos()")
    return _end("lowest_curvature", "lowest", problem_or_fn, params, method, key, batch)


def _end(verb, end, problem_or_fn, params, method, key, batch) -> Estimate:
    target = target_of(problem_or_fn, params, batch)
    (found,) = resolve(verb, method, target).ends(target, key, (end,))  # pyright: ignore[reportAttributeAccessIssue]
    return finished(found)
