"""The compiled pieces of a run: random numbers of a chunk, a stretch of steps, a measurement.

Each is one function for single runs and for ensembles. `batched` and `shared` are the two halves of
`(dynamics, objective)`: the leaves that have a leading run axis, and the others. A single run has no batched
leaf and is not vmapped, so that it pays nothing for ensembles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from flatmin._core.trees import floating_type
from flatmin.dynamics._base import DynamicsState


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
        return dynamics.draw_steps(key, first + jnp.arange(length, dtype=jnp.int32), objective, floating_type(params))

    return _lift(one, runs)(batched, params, key)


class Measured(NamedTuple):
    """A function to evaluate at the params of a run.

    Attributes:
        fn: `fn(params)`, or `fn(objective, params)` with each run's own objective.
        of_objective: which of the two.
    """

    fn: Callable[..., Any]
    of_objective: bool


class Marks(NamedTuple):
    """Where a stretch measures on its way; fixed shapes, so that all stretches are one compilation.

    Attributes:
        steps: shape (K,), increasing; entries from `used` on are not looked at.
        used: how many count.
        due: shape (K, functions), which of the functions at each.
    """

    steps: Int[np.ndarray, " K"]
    used: Int[np.ndarray, ""]
    due: Bool[np.ndarray, "K functions"]


class Stretch(NamedTuple):
    """What `advance` returns.

    Attributes:
        state: where it ended.
        in_range: whether the losses of all steps were finite (if not, the last step taken is the bad one).
        finite: whether all params are finite.
        losses: shape (length,) or (length, runs), the loss that step `first + i` computed where it started; others 0.
        values: of each measured function, with a leading axis of length K.
    """

    state: DynamicsState
    in_range: Bool[Array, "..."]
    finite: Bool[Array, "..."]
    losses: Float[Array, "length ..."]
    values: tuple[PyTree, ...]


@eqx.filter_jit
def advance(
    runs: bool,
    batched: PyTree,
    shared: PyTree,
    length: int,
    draws: PyTree,
    first: Array | np.ndarray,
    position: Array | np.ndarray,
    state: DynamicsState,
    stop: Array | np.ndarray,
    measures: tuple[Measured, ...] = (),
    marks: Marks | None = None,
) -> Stretch:
    """Steps until `state.step == stop`, or until a step's loss is not finite.

    The bounds are traced: any stretch of a chunk runs in one compilation, and gives the same bits, measured or not: the
    body of the loop over steps is the same.

    Args:
        runs: whether there is a run axis.
        batched: leaves of (dynamics, objective) with a run axis.
        shared: the other leaves.
        length: of the chunk.
        draws: random numbers of the chunk, `(length, ...)` or `(runs, length, ...)`.
        first: the step of the first draws.
        position: steps done by the runs that move, all of them the same.
        state: where to start.
        stop: number of steps that shall be done at the end, of each run.
        measures: what to measure on the way.
        marks: when; None if nothing is measured.

    Returns:
        The end, the losses and the measured values.
    """
    arrays, static = eqx.partition(state, eqx.is_array)

    def step(batched, arrays, draws):
        dynamics, objective = eqx.combine(batched, shared)
        new, info = dynamics.update(draws, objective, eqx.combine(arrays, static))
        return eqx.filter(new, eqx.is_array), info.loss

    def go(carry, bound):
        def moving(carry):
            return (carry[0].step < bound) & carry[1]

        def body(carry):
            arrays, in_range, at, losses = carry
            row = jax.tree.map(lambda d: jax.lax.dynamic_index_in_dim(d, at - first, int(runs), keepdims=False), draws)
            new, loss = _lift(step, runs)(batched, arrays, row)
            losses = losses.at[at - first].set(loss.astype(losses.dtype))
            fine = jnp.isfinite(loss)
            if runs:  # those that do not move stay as they are
                on = moving(carry)
                new = jax.tree.map(lambda a, b: jnp.where(on.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, arrays)
                fine = jnp.where(on, fine, in_range)
            return new, fine, at + 1, losses

        return jax.lax.while_loop(lambda carry: jnp.any(moving(carry)), body, carry)

    shape = arrays.step.shape
    at = jnp.asarray(position, jnp.int32)
    carry = (arrays, jnp.ones(shape, bool), at, jnp.zeros((length, *shape), jnp.result_type(float)))
    values: tuple[PyTree, ...] = ()
    if marks is not None:
        carry, values = _measured_walk(go, carry, stop, static, measures, marks, runs, batched, shared)
    arrays, in_range, _, losses = go(carry, stop)
    state = eqx.combine(arrays, static)

    def whole(state):
        floats = jax.tree.leaves(eqx.filter(state.params, eqx.is_inexact_array))
        return jnp.stack([jnp.all(jnp.isfinite(p)) for p in floats]).all()

    return Stretch(state, in_range, _lift(whole, runs)(state), losses, values)


def _measured_walk(go, carry, stop, static, measures, marks, runs, batched, shared):
    """From mark to mark, with the measured values of each kept in a row."""
    functions = [lambda params, m=m: _evaluate(runs, batched, shared, m, params) for m in measures]
    params = eqx.combine(carry[0], static).params
    empty = [jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), eqx.filter_eval_shape(fn, params)) for fn in functions]
    rows = tuple(jax.tree.map(lambda z: jnp.zeros((marks.steps.shape[0], *z.shape), z.dtype), tree) for tree in empty)
    steps, due = jnp.asarray(marks.steps), jnp.asarray(marks.due)

    def body(loop):
        i, carry, rows = loop
        carry = go(carry, jnp.minimum(stop, steps[i]))
        params = eqx.combine(carry[0], static).params
        # a branch of its own: nothing of a measurement is fused with the step
        found = [
            jax.lax.cond(due[i, j], lambda fn=fn: fn(params), lambda z=z: z)
            for j, (fn, z) in enumerate(zip(functions, empty, strict=True))
        ]
        rows = tuple(jax.tree.map(lambda r, v: r.at[i].set(v), row, v) for row, v in zip(rows, found, strict=True))
        return i + 1, carry, rows

    start = (jnp.zeros((), jnp.int32), carry, rows)
    _, carry, rows = jax.lax.while_loop(lambda loop: (loop[0] < marks.used) & jnp.any(loop[1][1]), body, start)
    return carry, rows


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


def _evaluate(runs: bool, batched: PyTree, shared: PyTree, measured: Measured, params: PyTree) -> PyTree:
    def one(batched, params):
        arguments = (eqx.combine(batched, shared)[1],) if measured.of_objective else ()
        return jax.tree.map(jnp.asarray, measured.fn(*arguments, params))

    return _lift(one, runs)(batched, params)


measure = eqx.filter_jit(_evaluate)
"""`measured` at the params (of each run)."""
