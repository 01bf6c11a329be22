"""The Hessian trace, block by block, for each parameterization: closed forms, and products where there is none.

The seam to the measurements is `gram_form` and its relatives, so a new parameterization registers one function here
and works with every kind of measurement.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from flatmin._core import UsageError, checked
from flatmin.flatness.deep_products import deep_layer_traces, shift
from flatmin.measurements import entry_gram, row_gram, symmetrised
from flatmin.parameterizations import (
    AbstractParameterization,
    DeepMatrix,
    Hadamard,
    Quadratic,
    ResidualChain,
    Sum,
    check_params,
)
from flatmin.problems import RecoveryProblem

Form = Callable[[RecoveryProblem, PyTree], Array]

CHUNK = 16  # Hessian-vector products side by side: memory of so many, at nearly the speed of more


@checked()
def block_traces(problem: RecoveryProblem, params: PyTree) -> Float[Array, " blocks"]:
    """Trace of the diagonal block of the Hessian of each factor, exact at every point.

    Args:
        problem: the recovery problem.
        params: its parameters.

    Returns:
        One value a factor (a leaf of params, in the order of `jax.tree.leaves`); their sum is `tr H`. By the closed
        form where one is registered (`register_block_traces`), else by one Hessian-vector product a parameter, a few
        at a time.

    Raises:
        UsageError: if params are not those of the parameterization, or a registered form returns another shape.
    """
    params = check_params(problem.parameterization, params, finite=True)
    blocks = _block_traces(problem.parameterization, problem, params)
    expected = (len(jax.tree.leaves(params)),)
    if jnp.shape(blocks) != expected:
        raise UsageError(
            f"form: the block traces registered for {type(problem.parameterization).__name__} have shape "
            f"{jnp.shape(blocks)}, expected {expected}; return one value a leaf of params"
        )
    return blocks


def has_block_traces(parameterization: AbstractParameterization) -> bool:
    """Whether a closed form is registered; of a `Sum`, for each of its parts."""
    if isinstance(parameterization, Sum):
        return all(has_block_traces(part) for part in parameterization.parts)
    return _block_traces.dispatch(type(parameterization)) is not _block_traces.dispatch(object)


def register_block_traces(cls: type[AbstractParameterization]) -> Callable[[Form], Form]:
    """Register the closed form of the Hessian trace of a parameterization of your own; a decorator.

    Without it every verb works by Hessian-vector products, one a parameter. With `f = (1/m) ||A(X) - b||^2` the block
    of a factor v is `(2/m) (sum_i |grad_v <A_i, X>|^2 + sum_i r_i Laplacian_v <A_i, X>)`; write the first sum with
    `measurements.gram_form` or a relative, and drop the second where X is linear in v. Compare with
    `testing.parameterization_laws`. Compiled functions are forgotten (`jax.clear_caches`), so that none keeps the
    form that was registered before.

        @register_block_traces(Free)  # X = params[0]
        def _(problem, params):
            return 2 / problem.num_samples * gram_form(problem.measurements)[None]

    Args:
        cls: the class; its subclasses take the form, too, unless they have their own.

    Returns:
        A decorator for `form(problem, params) -> blocks`, one value a leaf of params; params are checked already, and
        may be traced.

    Raises:
        UsageError: for anything but a class of parameterizations.
    """
    if not (isinstance(cls, type) and issubclass(cls, AbstractParameterization)):
        raise UsageError(f"cls: got {cls!r}, expected a subclass of AbstractParameterization; pass the class itself")

    def register(form: Form) -> Form:
        if not callable(form):
            raise UsageError(f"form: got {type(form).__name__}, expected a function of (problem, params)")
        _block_traces.register(cls)(lambda _parameterization, problem, params: form(problem, params))
        jax.clear_caches()
        return form

    return register


def _products(problem: RecoveryProblem, params: PyTree) -> Float[Array, " blocks"]:
    """The block traces by one Hessian-vector product a parameter."""
    leaves, structure = jax.tree.flatten(params)
    traces = []
    for k, leaf in enumerate(leaves):

        def loss(x: Array, k: int = k) -> Array:
            return problem.loss(structure.unflatten([*leaves[:k], x, *leaves[k + 1 :]]))

        @jax.checkpoint  # derivatives of the trace keep no more than its value does
        def entry(i: Array, leaf: Array = leaf, loss: Callable = loss) -> Array:
            unit = jnp.zeros(leaf.size, leaf.dtype).at[i].set(1).reshape(leaf.shape)
            return jax.jvp(jax.grad(loss), (leaf,), (unit,))[1].reshape(-1)[i]

        empty = jnp.zeros(0, leaf.dtype)
        diagonal = jax.lax.map(entry, jnp.arange(leaf.size), batch_size=min(CHUNK, leaf.size)) if leaf.size else empty
        traces.append(jnp.sum(diagonal))
    return jnp.stack(traces)


@functools.singledispatch
def _block_traces(parameterization: AbstractParameterization, problem: RecoveryProblem, params: PyTree) -> Array:
    return _products(problem, params)


@_block_traces.register
def _(parameterization: Sum, problem, params):
    # the block of a part is that of the part alone, with what the others give taken off the targets
    predictions = [
        problem.measurements.forward(part.matrix(p)) for part, p in zip(parameterization.parts, params, strict=True)
    ]
    blocks = []
    for k, (part, p) in enumerate(zip(parameterization.parts, params, strict=True)):
        targets = problem.targets - sum(predictions[:k] + predictions[k + 1 :], start=jnp.zeros_like(problem.targets))
        alone = eqx.tree_at(lambda q: (q.parameterization, q.targets), problem, (part, targets))
        blocks.append(block_traces(alone, p))
    return jnp.concatenate(blocks)


@_block_traces.register
def _(parameterization: DeepMatrix, problem, params):
    return deep_layer_traces(parameterization, problem.measurements, params)


@_block_traces.register
def _(parameterization: ResidualChain, problem, params):
    # a deep product whose last factor is not trained
    factors = (*params, parameterization.readout.astype(params[0].dtype))
    return deep_layer_traces(
        DeepMatrix((params[0].shape[1],) * len(factors) + (len(parameterization.readout),)),
        problem.measurements,
        factors,
    )[:-1]


@_block_traces.register
def _(parameterization: Hadamard, problem, params):
    # block j: 2 sum_c D_c prod_{l != j} v_lc^2, D = (1/m) sum_i A_i o A_i; no residual term: linear in each factor
    # mantissas and exponents apart, entry by entry: the partial products may leave the range of the numbers
    weights = entry_gram(problem.measurements) * (2 / problem.num_samples)
    exponents = [jax.lax.stop_gradient(jnp.frexp(v)[1]) for v in params]
    mantissas = [shift(v, -e) for v, e in zip(params, exponents, strict=True)]
    blocks = []
    for j in range(len(params)):
        others, powers = jnp.ones_like(params[0]), jnp.zeros_like(exponents[0])
        for mantissa, exponent in zip(
            mantissas[:j] + mantissas[j + 1 :], exponents[:j] + exponents[j + 1 :], strict=True
        ):
            others, powers = others * mantissa, powers + exponent
        blocks.append(jnp.sum(shift(weights * others**2, 2 * powers)))
    return jnp.stack(blocks)


@_block_traces.register
def _(parameterization: Quadratic, problem, params):
    # (2/m) (4 tr(U^T G U) +- 2 k tr(A*(r))), G = sum_i sym(A_i)^2; the network is quadratic, not linear, in each block
    gram = row_gram(symmetrised(problem.measurements))
    pull = jnp.trace(problem.measurements.adjoint(problem.residual(params)))
    counts = (parameterization.positive, parameterization.negative)
    return jnp.stack(
        [
            (2 / problem.num_samples) * (4 * jnp.vdot(U, gram @ U) + sign * 2 * k * pull)
            for U, k, sign in zip(params, counts, (1, -1), strict=True)
        ]
    )
