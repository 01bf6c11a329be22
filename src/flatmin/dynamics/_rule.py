"""What the rules share: momentum, weight decay, the step, and how a mini-batch is drawn.

With learning rate eta, momentum mu and weight decay lambda (both optional), for the direction g_k at W_k:

    v_{k+1} = mu v_k + g_k + lambda W_k,   v_0 = 0
    W_{k+1} = W_k - eta_k v_{k+1}
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from flatmin.dynamics._base import DynamicsState, StepInfo
from flatmin.dynamics.schedule import check_hyperparameter, value_at

Scalar = Float[Array, "..."]
Loss = Callable[[PyTree], Float[Array, ""]]


def check_rule(dynamics: Any) -> None:
    """Refuse hyperparameters out of range.

    Args:
        dynamics: a rule with `learning_rate`, `momentum` and `weight_decay`.

    Raises:
        UsageError: with the value that was got.
    """
    check_hyperparameter("learning_rate", dynamics.learning_rate, lambda x: x > 0, "positive finite value(s)")
    check_hyperparameter("momentum", dynamics.momentum, lambda x: (x >= 0) & (x < 1), "0 <= momentum < 1")
    check_hyperparameter("weight_decay", dynamics.weight_decay, lambda x: x >= 0, "finite value(s) >= 0")


def start(momentum: Scalar | None, params: PyTree) -> DynamicsState:
    """Step 0, with zero velocity where there is momentum.

    Args:
        momentum: mu or None.
        params: the point.

    Returns:
        The state.
    """
    floats = eqx.filter(params, eqx.is_inexact_array)
    velocity = None if momentum is None else jax.tree.map(jnp.zeros_like, floats)
    return DynamicsState(params, jnp.zeros((), jnp.int32), velocity)


def descend(dynamics: Any, loss: Loss, state: DynamicsState) -> tuple[DynamicsState, StepInfo]:
    """One step of the rule along the gradient of `loss`.

    Args:
        dynamics: the hyperparameters.
        loss: what to descend.
        state: where the step starts.

    Returns:
        The next state, and the loss where the step started.
    """
    value, direction = eqx.filter_value_and_grad(loss)(state.params)
    return step_along(dynamics, value, direction, state)


def step_along(
    dynamics: Any, value: Float[Array, ""], direction: PyTree, state: DynamicsState
) -> tuple[DynamicsState, StepInfo]:
    """One step of the module's rule along a given direction g_k.

    Args:
        dynamics: the hyperparameters.
        value: the loss to report.
        direction: g_k, of the structure of the floating point arrays of the params.
        state: where the step starts.

    Returns:
        The next state and the diagnostics.
    """
    floats, rest = eqx.partition(state.params, eqx.is_inexact_array)
    velocity, decay, momentum = None, dynamics.weight_decay, dynamics.momentum
    if decay is not None:
        direction = jax.tree.map(lambda g, w: g + decay.astype(w.dtype) * w, direction, floats)
    if momentum is not None:
        direction = velocity = jax.tree.map(lambda v, g: momentum.astype(v.dtype) * v + g, state.buffers, direction)
    floats = jax.tree.map(lambda w, v: w - value_at(dynamics.learning_rate, state.step, w.dtype) * v, floats, direction)
    info = StepInfo(value, value_at(dynamics.learning_rate, state.step, value.dtype))
    return DynamicsState(eqx.combine(floats, rest), state.step + 1, velocity), info


def draw_batch(key: Key[Array, ""], batch_size: int, num_samples: int) -> Int[Array, " B"]:
    """Indices of a mini-batch, uniform with replacement.

    Args:
        key: random key.
        batch_size: B.
        num_samples: n.

    Returns:
        int32 in every precision mode: the same key draws the same samples.
    """
    return jax.random.randint(key, (batch_size,), 0, num_samples, dtype=jnp.int32)


def unit(direction: PyTree) -> PyTree:
    """`g / ||g||`, the norm over all arrays together; zero where g is zero.

    Args:
        direction: a pytree of arrays (None where there is none).

    Returns:
        The same structure and types.
    """
    leaves = jax.tree.leaves(direction)
    size = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in leaves if g.size]))
    size = jnp.where(size > 0, size, 1)  # so that neither squares nor their sum leave the range
    norm = jnp.sqrt(jnp.sum(jnp.stack([jnp.sum((g / size) ** 2) for g in leaves if g.size])))
    norm = jnp.where(norm > 0, norm, 1)
    return jax.tree.map(lambda g: (g / size.astype(g.dtype)) / norm.astype(g.dtype), direction)
