"""`hessian_trace` and `scaled_trace`."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from flatmin import linalg
from flatmin._core import Estimate, UsageError
from flatmin._core.forks import refuse_fork
from flatmin.flatness.methods import AbstractMethod, Auto, Dense, Exact, Hutchinson, XTrace
from flatmin.flatness.trace_forms import block_traces
from flatmin.parameterizations import DeepMatrix
from flatmin.problems import RecoveryProblem

Loss = Callable[[PyTree], Array]

DENSE_LIMIT = 400  # parameters up to which a dense Hessian is the automatic choice


def loss_of(problem_or_fn: RecoveryProblem | Loss) -> Loss:
    """The loss as a function of the parameters."""
    return problem_or_fn.loss if isinstance(problem_or_fn, RecoveryProblem) else problem_or_fn


def needs_key(method: AbstractMethod, key: Key[Array, ""] | None) -> Key[Array, ""]:
    """Return `key`, or say that it is missing."""
    if key is None:
        raise UsageError(f"key: {type(method).__name__} is stochastic; pass key=jax.random.key(...)")
    return key


def trace_method(problem_or_fn: RecoveryProblem | Loss, params: PyTree) -> AbstractMethod:
    """The method that `Auto()` chooses for a Hessian trace, without running it.

    Args:
        problem_or_fn: a recovery problem, or any scalar JAX loss of the parameters.
        params: the point.

    Returns:
        `Exact()` for recovery problems, `Dense()` for a loss of few parameters, else `XTrace()`.
    """
    if isinstance(problem_or_fn, RecoveryProblem):
        return Exact()
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Dense() if size <= DENSE_LIMIT else XTrace()


_jitted_block_traces = eqx.filter_jit(block_traces)


def _rounding(problem: RecoveryProblem, blocks: Float[Array, " blocks"]) -> Float[Array, " blocks"]:
    # a sum of non-negative products: n u to first order in the longest sum, times the nesting of the products
    longest = max(*problem.measurements.matrix_shape, 4)
    return 50 * longest * jnp.finfo(blocks.dtype).eps * jnp.abs(blocks)


def hessian_trace(
    problem_or_fn: RecoveryProblem | Loss,
    params: PyTree,
    method: AbstractMethod | None = None,
    *,
    key: Key[Array, ""] | None = None,
    per_layer: bool = False,
) -> Estimate:
    """Trace of the Hessian of `f = (1/m) sum (<A_i, X> - b_i)^2`, or of any scalar JAX loss.

    For the deep matrix `tr H = (2/m) sum_l sum_i ||P_l^T A_i Q_l^T||_F^2` [G, Lemma 2], exact at every point and
    whatever the residual: the product is linear in each layer. Quadratic networks add their residual term.

    Args:
        problem_or_fn: a recovery problem, or a function params -> scalar.
        params: the point.
        method: `Auto()` (default), `Exact()`, `Dense()`, `Hutchinson(...)` or `XTrace(...)`.
        key: random key, for the stochastic methods.
        per_layer: return one value a factor (closed form only).

    Returns:
        The trace with its error. Cost of the closed form: for dense measurements one product of (m d1, d2) with
        (d2, d2) and one contraction an inner layer, and the two moments (free after `with_moments`).

    Raises:
        UsageError: for a method that does not apply, or a missing key.
    """
    refuse_fork()
    method = Auto() if method is None else method
    if isinstance(method, Auto):
        method = trace_method(problem_or_fn, params)
        key = jax.random.key(0) if key is None else key
    if isinstance(method, Exact):
        if not isinstance(problem_or_fn, RecoveryProblem):
            raise UsageError(
                "method: Exact() needs a RecoveryProblem; use Dense(), Hutchinson() or XTrace() for a loss"
            )
        blocks = _jitted_block_traces(problem_or_fn, params)
        errors = _rounding(problem_or_fn, blocks)
        if per_layer:
            return Estimate(blocks, errors, "rounding", "closed form")
        return Estimate(jnp.sum(blocks), jnp.sum(errors), "rounding", "closed form")
    if per_layer:
        raise UsageError(f"per_layer: only Exact() gives one value a layer, got {type(method).__name__}")
    hessian = linalg.flat_hessian(loss_of(problem_or_fn), params)
    match method:
        case Dense():
            diagonal = jnp.diagonal(hessian.dense())
            rounding = 50 * hessian.size * jnp.finfo(hessian.dtype).eps * jnp.sum(jnp.abs(diagonal))
            return Estimate(jnp.sum(diagonal), rounding, "rounding", "dense", hessian.size)
        case Hutchinson():
            probes = method.num_probes
            return linalg.hutchinson(
                hessian.matvec, hessian.size, hessian.dtype, num_probes=probes, key=needs_key(method, key)
            )
        case XTrace():
            budget = method.num_matvecs
            return linalg.xtrace(
                hessian.matvec, hessian.size, hessian.dtype, num_matvecs=budget, key=needs_key(method, key)
            )
    raise UsageError(
        f"method: {type(method).__name__} does not compute a trace; use Auto(), Exact(), Dense(), Hutchinson() "
        "or XTrace()"
    )


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
    refuse_fork()
    if not isinstance(problem.parameterization, DeepMatrix) or problem.parameterization.depth != 2:
        raise UsageError("problem: the scaled trace is defined for two factors; use a DeepMatrix of depth 2")
    d1, d2 = problem.measurements.matrix_shape
    blocks = hessian_trace(problem, params, Exact(), per_layer=True)
    weights = jnp.asarray([1 / d2, 1 / d1], blocks.value.dtype)
    return Estimate(weights @ blocks.value, weights @ blocks.error, "rounding", "closed form")
