"""Compiled pieces: a stretch of steps, and what is measured between stretches."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flatmin.linear_networks._gradients import Moments, Samples, end_to_end, loss_of, step
from flatmin.linear_networks.network import Network, Weights

# XLA's older CPU emitters, which versions up to jaxlib 0.10 know, and full vector width: together 2.5 times the speed
# on loops of many small kernels. The newer emitters of jaxlib 0.12 are as fast without any option, and wider vectors
# slow them down 1.7 times (benchmarks/deep_regression.py), so the width goes with the older emitters.
_EMITTERS: dict[str, bool | int] = {"xla_cpu_use_fusion_emitters": False}
_WIDTH: dict[str, bool | int] = {"xla_cpu_prefer_vector_width": 512}


def _known(option: dict[str, bool | int]) -> bool:
    """Whether this version of XLA takes the option."""
    try:
        jax.jit(jnp.negative, compiler_options=option)(jnp.zeros(()))
    except jax.errors.JaxRuntimeError:
        return False
    return True


@functools.cache
def compiler_options() -> dict[str, bool | int]:
    """The options that this backend and this version of XLA know, asked one by one; speed only, never the meaning."""
    if jax.default_backend() != "cpu" or not _known(_EMITTERS):
        return {}
    return _EMITTERS | (_WIDTH if _known(_WIDTH) else {})


def compiled(fn: Callable) -> Callable:
    """`jax.jit` with these options, decided at the first call."""

    @functools.cache
    def jitted():
        return jax.jit(fn, compiler_options=compiler_options() or None)

    @functools.wraps(fn)
    def call(*args):
        return jitted()(*args)

    call.cache_size = lambda: jitted()._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
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
