"""The partial products of a deep matrix, kept in range.

`P_l = W_L ... W_{l+1}` stands left of layer l and `Q_l = W_{l-1} ... W_1` right of it. Products of many layers
leave the range of floating point numbers long before the Hessian does, so each is kept as `2^e` times a
matrix with entries of order one; powers of two cost no accuracy.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flatmin.measurements import AbstractMeasurements, gram_form
from flatmin.parameterizations import DeepMatrix

Scaled = tuple[Float[Array, "_ _"], Int[Array, ""]]


def normalise(matrix: Float[Array, "a b"]) -> Scaled:
    """`(X, e)` with `matrix = 2^e X` and the largest entry of X in [1/2, 1)."""
    size = jnp.max(jnp.abs(matrix))
    exponent = jax.lax.stop_gradient(jnp.where(jnp.isfinite(size), jnp.frexp(size)[1], 0))
    return shift(matrix, -exponent), exponent


def shift(value: Array, exponent: Int[Array, ""]) -> Array:
    """`2^exponent value`, in two steps so that the factor itself stays in range."""
    one = jnp.ones((), value.dtype)
    half = exponent // 2
    return value * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)


def partial_products(params: tuple[Array, ...]) -> tuple[list[Scaled | None], list[Scaled | None]]:
    """`([P_1..P_L], [Q_1..Q_L])`, each scaled; `None` stands for the identity (`P_L` and `Q_1`)."""
    layers = [normalise(W) for W in params]

    def multiply(left: tuple[Array, Array], right: tuple[Array, Array]) -> Scaled:
        product, extra = normalise(jnp.matmul(left[0], right[0], precision=jax.lax.Precision.HIGHEST))
        return product, left[1] + right[1] + extra

    lefts: list[Scaled | None] = [None]
    for layer in layers[:0:-1]:
        lefts.append(layer if lefts[-1] is None else multiply(lefts[-1], layer))
    rights: list[Scaled | None] = [None]
    for layer in layers[:-1]:
        rights.append(layer if rights[-1] is None else multiply(layer, rights[-1]))
    return lefts[::-1], rights


def outer_grams(params: tuple[Array, ...]) -> list[tuple[Array | None, Array | None, Int[Array, ""]]]:
    """Per layer `(S_l, T_l, e_l)` with `P_l P_l^T (x) Q_l^T Q_l = 2^{e_l} S_l (x) T_l`."""
    lefts, rights = partial_products(params)
    grams = []
    for left, right in zip(lefts, rights, strict=True):
        exponent = jnp.zeros((), jnp.int32)
        S = T = None
        if left is not None:
            S = jnp.matmul(left[0], left[0].T, precision=jax.lax.Precision.HIGHEST)
            exponent = exponent + 2 * left[1]
        if right is not None:
            T = jnp.matmul(right[0].T, right[0], precision=jax.lax.Precision.HIGHEST)
            exponent = exponent + 2 * right[1]
        grams.append((S, T, exponent))
    return grams


def deep_layer_traces(
    parameterization: DeepMatrix, measurements: AbstractMeasurements, params: tuple[Array, ...]
) -> Float[Array, " L"]:
    """Trace of each diagonal block of the Hessian: `(2/m) sum_i ||P_l^T A_i Q_l^T||_F^2` [G, Lemma 2].

    Args:
        parameterization: the deep matrix.
        measurements: the operator.
        params: the factors.

    Returns:
        One value a layer, exact at every point: the product is linear in each layer.
    """
    scale = 2 / measurements.num_measurements
    return jnp.stack(
        [
            shift(scale * gram_form(measurements, S, T).astype(params[0].dtype), exponent)
            for S, T, exponent in outer_grams(params)
        ]
    )
