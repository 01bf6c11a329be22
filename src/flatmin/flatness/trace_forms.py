"""Closed forms of the Hessian trace, block by block, for each parameterization.

The seam to the measurements is `gram_form` and its relatives, so a new parameterization registers one function here
and works with every kind of measurement.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from flatmin._core import UsageError
from flatmin.flatness.deep_products import deep_layer_traces, shift
from flatmin.measurements import entry_gram, row_gram, symmetrised
from flatmin.parameterizations import (
    AbstractParameterization,
    DeepMatrix,
    Hadamard,
    Quadratic,
    ResidualChain,
    check_params,
)
from flatmin.problems import RecoveryProblem


def block_traces(problem: RecoveryProblem, params: PyTree) -> Float[Array, " blocks"]:
    """Trace of the diagonal block of the Hessian of each factor, exact at every point.

    Args:
        problem: the recovery problem.
        params: its parameters.

    Returns:
        One value a factor; their sum is `tr H`.

    Raises:
        UsageError: if the parameterization has no closed form, or params are not its own.
    """
    return _block_traces(problem.parameterization, problem, check_params(problem.parameterization, params))


@functools.singledispatch
def _block_traces(parameterization: AbstractParameterization, problem: RecoveryProblem, params: PyTree) -> Array:
    raise UsageError(
        f"method: no closed form of the Hessian trace is registered for {type(parameterization).__name__}; use "
        "Dense(), Hutchinson() or XTrace()"
    )


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
