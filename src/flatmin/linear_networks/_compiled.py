"""Compiled pieces: a stretch of steps, and what is measured between stretches."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flatmin.linear_networks._gradients import Moments, Samples, end_to_end, loss_of, step
from flatmin.linear_networks.network import Network, Weights

# XLA's older CPU emitters and full vector width: three times the speed on loops of many small kernels
_CPU_OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_prefer_vector_width": 512}


@functools.cache
def compiler_options() -> dict[str, bool | int]:
    """The options that this backend and this version of XLA know; speed only, never the result's meaning."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(jnp.negative, compiler_options=_CPU_OPTIONS)(jnp.zeros(()))
    except Exception:  # noqa: BLE001  # an XLA without these options raises its own error class
        return {}
    return dict(_CPU_OPTIONS)


def compiled(fn: Callable) -> Callable:
    """`jax.jit` with these options, decided at the first call."""

    @functools.cache
    def jitted():
        return jax.jit(fn, compiler_options=compiler_options() or None)

    @functools.wraps(fn)
    def call(*args):
        return jitted()(*args)

    call.cache_size = lambda: jitted()._cache_size()  # type: ignore[attr-defined]
    return call


@compiled
def advance(
    network: Network,
    data: Moments | Samples,
    weights: Weights,
    rate: Float[Array, " R"],
    bound: Array,
    alive: Int[Array, " R"],
    steps: Int[Array, ""],
) -> tuple[Weights, Int[Array, " R"]]:
    """`steps` steps (traced: one compilation for any number); `alive` counts those from a loss within bounds."""

    def body(_, carry):
        weights, alive = carry
        loss, weights = step(network, data, weights, rate, bound)
        return weights, alive + (loss <= bound)

    return jax.lax.fori_loop(0, steps, body, (weights, alive))


@compiled
def measure(network: Network, data: Moments | Samples, weights: Weights) -> dict[str, Array]:
    """Loss, and for linear networks the end-to-end vector, at the weights."""
    found = {"loss": loss_of(network, data, weights)}
    if isinstance(data, Moments):
        found["end_to_end"] = end_to_end(network, weights)
    return found
