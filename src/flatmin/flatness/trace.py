"""`hessian_trace` and `scaled_trace`."""

import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from flatmin._core import Estimate, UsageError, checked
from flatmin.flatness.methods import METHOD, AbstractTraceMethod, Auto, Exact
from flatmin.flatness.select import resolve
from flatmin.flatness.target import OF_POINT, Loss, finished, target_of
from flatmin.parameterizations import DeepMatrix
from flatmin.problems import RecoveryProblem


@checked(**OF_POINT, method=METHOD)
def hessian_trace(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractTraceMethod | Auto | None = None,
    *,
    key: Key[Array, ""] | None = None,
    per_layer: bool = False,
    batch: PyTree = None,
) -> Estimate:
    """Trace of the Hessian of `f = (1/m) sum (<A_i, X> - b_i)^2`, or of any scalar JAX loss.

    For the deep matrix `tr H = (2/m) sum_l sum_i ||P_l^T A_i Q_l^T||_F^2` [G, Lemma 2], exact at every point and
    whatever the residual: the product is linear in each layer. Quadratic networks add their residual term. For a
    parameterization without a closed form (`register_block_traces`) it is one Hessian-vector product a parameter.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar (with a batch, (params, batch) -> scalar).
        params: the point.
        method: `Auto()` (default, see `select_method`), `Exact()`, `Dense()`, `Hutchinson(...)` or
            `HutchPlusPlus(...)`.
        key: random key, for the stochastic methods; needed also where `Auto()` chooses one.
        per_layer: return one value a factor of a problem (`Exact()` only).
        batch: arrays that the loss takes as second argument; another batch of the same shapes compiles nothing.

    Returns:
        The trace with its error. Cost of the closed form: for dense measurements one product of (m d1, d2) with
        (d2, d2) and one contraction an inner layer, and the two moments (free after `with_moments`).

    Raises:
        UsageError: for a method that does not apply, or a missing key.
        JobError: where the Hessian is not finite.
    """
    target = target_of(problem_or_fn, params, batch)
    if per_layer and target.problem is not None and (method is None or isinstance(method, Auto)):
        method = Exact()
    chosen = resolve("hessian_trace", method, target)
    if not per_layer:
        return finished(chosen.trace(target, key))  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(chosen, Exact):
        raise UsageError(f"per_layer: only Exact() gives one value a layer, got {type(chosen).__name__}")
    return finished(chosen.blocks(target))


@checked()
def scaled_trace(problem: RecoveryProblem, params: PyTree) -> Estimate:
    """`(1/d1) tr(L block) + (1/d2) tr(R block)` for `X = L R^T` [D, Def. 2.1], here `L = W_2`, `R = W_1^T`.

    It equals `2 ||D_1 L||_F^2 + 2 ||D_2 R||_F^2` with `D_1 = ((1/(m d2)) sum A_i A_i^T)^{1/2}` and
    `D_2 = ((1/(m d1)) sum A_i^T A_i)^{1/2}`, and `tr H / d` for square matrices.

    Args:
        problem: a recovery problem whose parameterization is a deep matrix of depth 2.
        params: `(W_1, W_2)`.

    Returns:
        The scaled trace; exact.

    Raises:
        UsageError: for any other parameterization.
    """
    parameterization = problem.parameterization
    if not isinstance(parameterization, DeepMatrix) or parameterization.depth != 2:
        raise UsageError("problem: the scaled trace is defined for two factors; use a DeepMatrix of depth 2")
    d1, d2 = problem.measurements.matrix_shape
    blocks = hessian_trace(problem, params, Exact(), per_layer=True)
    weights = jnp.asarray([1 / d2, 1 / d1], blocks.value.dtype)
    return Estimate(weights @ blocks.value, weights @ blocks.error, "rounding", "closed form")
