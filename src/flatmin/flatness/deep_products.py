"""The partial products of a deep matrix, kept in range.

`P_l = W_L ... W_{l+1}` stands left of layer l and `Q_l = W_{l-1} ... W_1` right of it. Products of many layers
leave the range of floating point numbers long before the Hessian does, so each is kept as `2^e` times a
matrix with entries of order one; powers of two cost no accuracy.

Deep stacks of equal hidden layers are scanned, so that compile time does not grow with depth.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flatmin.measurements import AbstractMeasurements, gram_form
from flatmin.parameterizations import DeepMatrix

Scaled = tuple[Float[Array, "..."], Int[Array, "..."]]
Gram = tuple[Array | None, Array | None, Array]
HIGHEST = jax.lax.Precision.HIGHEST

SCAN_DEPTH = 8  # from this depth on, equal hidden layers are scanned; below, unrolled code is faster


def normalise(matrix: Float[Array, "..."]) -> Scaled:
    """`(X, e)` with `matrix = 2^e X` and the largest entry of X in [1/2, 1)."""
    size = jnp.max(jnp.abs(matrix))
    exponent = jax.lax.stop_gradient(jnp.where(jnp.isfinite(size), jnp.frexp(size)[1], 0))
    return shift(matrix, -exponent), exponent


def shift(value: Array, exponent: Int[Array, ""]) -> Array:
    """`2^exponent value`, in two steps so that the factor itself stays in range."""
    one = jnp.ones((), value.dtype)
    half = exponent // 2
    return value * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)


def add(first: Scaled, second: Scaled) -> Scaled:
    """The sum of two scaled arrays, scaled."""
    highest = jnp.maximum(first[1], second[1])
    total, extra = normalise(shift(first[0], first[1] - highest) + shift(second[0], second[1] - highest))
    return total, highest + extra


def multiply(left: Scaled, right: Scaled) -> Scaled:
    """The product of two scaled matrices, scaled."""
    product, extra = normalise(jnp.matmul(left[0], right[0], precision=HIGHEST))
    return product, left[1] + right[1] + extra


def map_layers(fn: Callable[[Gram], Array], params: tuple[Array, ...]) -> Float[Array, "L ..."]:
    """`fn((S_l, T_l, e_l))` for every layer, stacked, where `P_l P_l^T (x) Q_l^T Q_l = 2^{e_l} S_l (x) T_l`.

    Args:
        fn: a function of the grams of one layer; `S` is None (the identity) for the last, `T` for the first.
        params: the factors.

    Returns:
        The values of all layers.
    """
    first, middle, last = _layer_grams(params)
    parts = [fn(first)[None]]
    if isinstance(middle, list):
        parts += [fn(gram)[None] for gram in middle]
    else:
        parts.append(jax.lax.map(fn, middle))
    if last is not None:
        parts.append(fn(last)[None])
    return jnp.concatenate(parts)


def sum_layers(fn: Callable[[Array | None, Array | None], Array], params: tuple[Array, ...]) -> Scaled:
    """`sum_l 2^{e_l} fn(S_l, T_l)` for a bilinear `fn`, as a scaled array.

    Args:
        fn: a function of the grams of one layer, linear in each; None stands for the identity.
        params: the factors.

    Returns:
        The sum.
    """

    def term(gram: Gram) -> Scaled:
        value, extra = normalise(fn(gram[0], gram[1]))
        return value, gram[2] + extra

    first, middle, last = _layer_grams(params)
    total = term(first)
    if isinstance(middle, list):
        for gram in middle:
            total = add(total, term(gram))
    else:
        total, _ = jax.lax.scan(lambda partial, gram: (add(partial, term(gram)), None), total, middle)
    return total if last is None else add(total, term(last))


def _layer_grams(params: tuple[Array, ...]) -> tuple[Gram, list[Gram] | Gram, Gram | None]:
    """Grams of the first layer, the middle ones (a list, or stacked along a leading axis), and the last."""
    if len(params) == 1:
        return (None, None, jnp.zeros((), jnp.int32)), [], None
    layers = params[1:-1]
    if len(params) >= SCAN_DEPTH and len({layer.shape for layer in layers}) == 1:
        stacked = jnp.stack(layers)

        def forward(Q: Scaled, W: Array) -> tuple[Scaled, Scaled]:
            return multiply(normalise(W), Q), Q

        def backward(P: Scaled, W: Array) -> tuple[Scaled, Scaled]:
            return multiply(P, normalise(W)), P

        last_right, rights = jax.lax.scan(forward, normalise(params[0]), stacked)
        first_left, lefts = jax.lax.scan(backward, normalise(params[-1]), stacked, reverse=True)
        middle = jax.vmap(_gram)(lefts, rights)
    else:
        rights = [normalise(params[0])]
        for layer in layers:
            rights.append(multiply(normalise(layer), rights[-1]))
        lefts = [normalise(params[-1])]
        for layer in layers[::-1]:
            lefts.append(multiply(lefts[-1], normalise(layer)))
        first_left, last_right = lefts[-1], rights[-1]
        middle = [_gram(P, Q) for P, Q in zip(lefts[-2::-1], rights[:-1], strict=True)]
    return _gram(first_left, None), middle, _gram(None, last_right)


def _gram(left: Scaled | None, right: Scaled | None) -> Gram:
    exponent = jnp.zeros((), jnp.int32)
    S = T = None
    if left is not None:
        S, exponent = jnp.matmul(left[0], left[0].T, precision=HIGHEST), exponent + 2 * left[1]
    if right is not None:
        T, exponent = jnp.matmul(right[0].T, right[0], precision=HIGHEST), exponent + 2 * right[1]
    return S, T, exponent


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

    def trace(gram: Gram) -> Array:
        return shift(scale * gram_form(measurements, gram[0], gram[1]).astype(params[0].dtype), gram[2])

    return map_layers(trace, params)
