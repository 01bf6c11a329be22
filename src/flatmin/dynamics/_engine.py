"""The compiled pieces of a run: random numbers of a chunk, a stretch of steps, a measurement.

Each is one function for single runs and for ensembles. `batched` and `shared` are the two halves of
`(dynamics, objective)`: the leaves that have a leading run axis, and the others. A single run has no batched
leaf and is not vmapped, so that it pays nothing for ensembles.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from flatmin.dynamics._base import DynamicsState, float_dtype

LOSS_LIMIT = 1e30
"""A loss beyond it, or not finite, is a divergence."""


def _lift(fn, runs: bool):
    return eqx.filter_vmap(fn) if runs else fn


@eqx.filter_jit
def init_state(runs: bool, batched: PyTree, shared: PyTree, params: PyTree) -> DynamicsState:
    """The state at step 0 (of each run)."""
    return _lift(lambda batched, params: eqx.combine(batched, shared)[0].init(params), runs)(batched, params)


@eqx.filter_jit
def draw_chunk(
    runs: bool,
    batched: PyTree,
    shared: PyTree,
    params: PyTree,
    key: Key[Array, "..."],
    first: Array | np.ndarray,
    length: int,
) -> PyTree:
    """Random numbers of the steps `first .. first + length - 1`, stacked; step k uses `fold_in(key, k)`."""

    def one(batched, params, key):
        dynamics, objective = eqx.combine(batched, shared)
        return dynamics.draw_steps(key, first + jnp.arange(length, dtype=jnp.int32), objective, float_dtype(params))

    return _lift(one, runs)(batched, params, key)


@eqx.filter_jit
def advance(
    runs: bool,
    batched: PyTree,
    shared: PyTree,
    draws: PyTree,
    first: Array | np.ndarray,
    state: DynamicsState,
    stop: Array | np.ndarray,
) -> tuple[DynamicsState, Bool[Array, "..."], Bool[Array, "..."]]:
    """Steps until `state.step == stop`, or until a step's loss leaves the range of finite numbers.

    The bounds are traced: any stretch of a chunk runs in one compilation, and gives the same bits.

    Args:
        runs: whether there is a run axis.
        batched: leaves of (dynamics, objective) with a run axis.
        shared: the other leaves.
        draws: random numbers of the chunk.
        first: the step of `draws[0]`.
        state: where to start.
        stop: number of steps that shall be done at the end.

    Returns:
        The state, whether the losses of all steps were in range (if not, the last step taken is the bad
        one), and whether all params are finite.
    """

    def one(batched, draws, state, stop):
        dynamics, objective = eqx.combine(batched, shared)
        arrays, static = eqx.partition(state, eqx.is_array)

        def wanted(carry):
            arrays, in_range = carry
            return (arrays.step < stop) & in_range

        def body(carry):
            state = eqx.combine(carry[0], static)
            row = jax.tree.map(lambda d: d[state.step - first], draws)
            state, info = dynamics.update(row, objective, state)
            return eqx.filter(state, eqx.is_array), jnp.isfinite(info.loss)

        arrays, in_range = jax.lax.while_loop(wanted, body, (arrays, jnp.array(True)))
        state = eqx.combine(arrays, static)
        finite = [jnp.all(jnp.isfinite(p)) for p in jax.tree.leaves(eqx.filter(state.params, eqx.is_inexact_array))]
        return state, in_range, jnp.stack(finite).all()

    return _lift(one, runs)(batched, draws, state, stop)


@eqx.filter_jit
def level(
    runs: bool, batched: PyTree, shared: PyTree, with_gradient: bool, params: PyTree
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The loss over all samples, and the norm of its gradient (NaN unless it is asked for)."""

    def one(batched, params):
        objective = eqx.combine(batched, shared)[1]
        moving, still = eqx.partition(params, eqx.is_inexact_array)

        def loss(moving):
            return objective.loss(eqx.combine(moving, still))

        if not with_gradient:
            value = loss(moving)
            return value, jnp.full_like(value, jnp.nan)
        value, gradient = jax.value_and_grad(loss)(moving)
        return value, jnp.sqrt(sum(jnp.sum(jnp.abs(g) ** 2) for g in jax.tree.leaves(gradient)))

    return _lift(one, runs)(batched, params)


@eqx.filter_jit
def measure(runs: bool, batched: PyTree, shared: PyTree, fn: Any, of_objective: bool, params: PyTree) -> PyTree:
    """`fn(params)`, or `fn(objective, params)` with each run's own objective."""

    def one(batched, params):
        arguments = (eqx.combine(batched, shared)[1],) if of_objective else ()
        return jax.tree.map(jnp.asarray, fn(*arguments, params))

    return _lift(one, runs)(batched, params)
