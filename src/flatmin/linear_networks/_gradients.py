"""Loss and gradient of many runs at once, as vector recursions in batch-last layout.

Shapes: d features, w width, k inner layers, n samples, R runs. Sums over small axes are written out, because a sum of
slices vectorises over the runs, and a reduction does not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin._core import UsageError
from flatmin.linear_networks.data import RegressionData
from flatmin.linear_networks.network import Network, Weights


class Moments(NamedTuple):
    """What a linear network sees of its data."""

    covariance: Array
    solution: Array
    least_loss: Array


class Samples(NamedTuple):
    """What a network with an activation sees of its data; features first."""

    inputs: Array
    outputs: Array


def device_data(network: Network, data: RegressionData, dtype) -> Moments | Samples:
    """The arrays that the compiled functions take, in the precision of the weights."""
    if network.activation == "identity":
        return Moments(*(jnp.asarray(v, dtype=dtype) for v in (data.covariance, data.solution, data.least_loss)))
    return Samples(jnp.asarray(data.inputs.T, dtype=dtype), jnp.asarray(data.outputs, dtype=dtype))


def _row(u: Float[Array, "i R"], W: Float[Array, "i j R"]) -> Float[Array, "j R"]:
    """`u^T W`."""
    total = u[0][None] * W[0]
    for i in range(1, W.shape[0]):
        total = total + u[i][None] * W[i]
    return total


def _column(W: Float[Array, "i j R"], v: Float[Array, "j R"]) -> Float[Array, "i R"]:
    """`W v`."""
    total = W[:, 0] * v[0][None]
    for j in range(1, W.shape[1]):
        total = total + W[:, j] * v[j][None]
    return total


def end_to_end(network: Network, weights: Weights) -> Float[Array, "d R"]:
    """The vector w with prediction `w^T x` (linear networks)."""
    return _down(network, weights)[0]


def _down(network: Network, weights: Weights):
    """From the output to the input: the end-to-end vector, and what stands left of each layer."""
    if weights.last is None:
        p = jnp.asarray(network.output_vector, weights.inner.dtype)
        top = jnp.broadcast_to(p[:, None], (p.shape[0], weights.runs))
    else:
        top = weights.last
    bottom, lefts = jax.lax.scan(lambda u, W: (_row(u, W), u), top, weights.inner, reverse=True)
    w = bottom if weights.first is None else _row(bottom, weights.first)
    return w, lefts, bottom


def excess_loss(moments: Moments, w: Float[Array, "d R"]) -> tuple[Array, Array]:
    """`(w - w*)^T Sigma (w - w*)` and `Sigma (w - w*)`; no cancellation near the minimum."""
    away = w - moments.solution[:, None]
    pull = moments.covariance[:, 0, None] * away[0][None]
    for j in range(1, away.shape[0]):
        pull = pull + moments.covariance[:, j, None] * away[j][None]
    total = away[0] * pull[0]
    for j in range(1, away.shape[0]):
        total = total + away[j] * pull[j]
    return total, pull


def sweep_linear(
    network: Network, moments: Moments, weights: Weights, rate: Float[Array, " R"], bound: Array
) -> tuple[Array, Weights]:
    """One step of gradient descent: the loss before it, and the new weights.

    Beyond `bound` (or not finite) the new weights are NaN, and stay so.
    """
    w, lefts, bottom = _down(network, weights)
    excess, pull = excess_loss(moments, w)
    loss = excess + moments.least_loss
    v = jnp.where(loss <= bound, 2 * rate, jnp.nan)[None] * pull
    first = None
    if weights.first is not None:
        first = weights.first - bottom[:, None] * v[None]
        v = _column(weights.first, v)

    def up(v, layer):
        W, u = layer
        return _column(W, v), W - u[:, None] * v[None]

    v, inner = jax.lax.scan(up, v, (weights.inner, lefts))
    return loss, Weights(first, inner, None if weights.last is None else weights.last - v)


def _gelu(z):
    squared, factor = z * z, (2 / np.pi) ** 0.5
    t = jnp.tanh(factor * z * (1 + 0.044715 * squared))
    half = 0.5 * (1 + t)
    return z * half, half + 0.5 * z * (1 - t * t) * factor * (1 + 3 * 0.044715 * squared)


def _relu(z):
    on = (z > 0).astype(z.dtype)
    return z * on, on


def _tanh(z):
    t = jnp.tanh(z)
    return t, 1 - t * t


ACTIVATIONS = {"gelu": _gelu, "relu": _relu, "tanh": _tanh}
"""Value and derivative of each activation."""


def _apply(W: Float[Array, "i j R"], h: Float[Array, "j n R"]) -> Float[Array, "i n R"]:
    total = W[:, 0, None] * h[0][None]
    for j in range(1, W.shape[1]):
        total = total + W[:, j, None] * h[j][None]
    return total


def _apply_transposed(W: Float[Array, "i j R"], g: Float[Array, "i n R"]) -> Float[Array, "j n R"]:
    total = W[0][:, None] * g[0][None]
    for i in range(1, W.shape[0]):
        total = total + W[i][:, None] * g[i][None]
    return total


def _outer(g: Float[Array, "i n R"], h: Float[Array, "j n R"]) -> Float[Array, "i j R"]:
    """`sum_n g_n h_n^T`."""
    total = g[:, None, 0] * h[None, :, 0]
    for k in range(1, g.shape[1]):
        total = total + g[:, None, k] * h[None, :, k]
    return total


def _last(weights: Weights) -> Float[Array, "w R"]:
    if weights.last is None:
        raise UsageError("weights: got a residual network, expected an MLP")
    return weights.last


def sweep_activated(
    network: Network, samples: Samples, weights: Weights, rate: Float[Array, " R"], bound: Array
) -> tuple[Array, Weights]:
    """As `sweep_linear`, for an MLP with an activation: O(L n w^2) a run and step."""
    act = ACTIVATIONS[network.activation]
    d, n = samples.inputs.shape
    runs = weights.runs
    h = jnp.broadcast_to(samples.inputs[:, :, None], (d, n, runs))
    top = _last(weights)

    def up(h, W):
        # the barrier keeps z from being computed once for the value and once for the derivative
        value, slope = act(jax.lax.optimization_barrier(_apply(W, h)))
        return value, (h, slope)

    bottom = None
    if weights.first is not None:
        h, bottom = up(h, weights.first)
    h, (hs, slopes) = jax.lax.scan(up, h, weights.inner)
    prediction = _row(top, h)
    residual = prediction - samples.outputs[:, None]
    loss = jnp.mean(residual**2, axis=0)
    g = jnp.where(loss <= bound, (2 / n) * rate, jnp.nan)[None] * residual
    last = top - _outer(g[None], h)[0]

    def down(delta, layer):
        W, h, slope = layer
        delta = jax.lax.optimization_barrier(delta * slope)
        return _apply_transposed(W, delta), W - _outer(delta, h)

    delta, inner = jax.lax.scan(down, top[:, None] * g[None], (weights.inner, hs, slopes), reverse=True)
    first = None
    if weights.first is not None and bottom is not None:
        _, first = down(delta, (weights.first, *bottom))
    return loss, Weights(first, inner, last)


def step(
    network: Network, data: Moments | Samples, weights: Weights, rate: Float[Array, " R"], bound: Array
) -> tuple[Array, Weights]:
    """One step of gradient descent for every run: (losses before the step, new weights)."""
    if isinstance(data, Moments):
        return sweep_linear(network, data, weights, rate, bound)
    return sweep_activated(network, data, weights, rate, bound)


def loss_of(network: Network, data: Moments | Samples, weights: Weights) -> Float[Array, " R"]:
    """`f` of every run."""
    if isinstance(data, Moments):
        return excess_loss(data, end_to_end(network, weights))[0] + data.least_loss
    act = ACTIVATIONS[network.activation]
    h = jnp.broadcast_to(data.inputs[:, :, None], (*data.inputs.shape, weights.runs))
    if weights.first is not None:
        h = act(_apply(weights.first, h))[0]
    h, _ = jax.lax.scan(lambda h, W: (act(_apply(W, h))[0], None), h, weights.inner)
    return jnp.mean((_row(_last(weights), h) - data.outputs[:, None]) ** 2, axis=0)
