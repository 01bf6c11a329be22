"""Laws of a training rule."""

import pathlib
import tempfile
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from flatmin._core import Descended, Free, Integer, Key, checked
from flatmin._core.trees import floating_type
from flatmin.dynamics import AbstractDynamics, Checkpoint, Record, step_loss, train

_ROUNDING = 1e3
"""Machine epsilons, relative to the largest entry, that a compiled run may be away from the same steps one by one."""


@checked(objective=Descended(), params=Free("`train` looks at them"), key=Key(), steps=Integer(6))
def rule_laws(rule: AbstractDynamics, objective: Any, params: PyTree, key: Any, *, steps: int = 12) -> None:
    """What `train` relies on, checked on one run.

    A step counts itself and keeps structure and types; compiled steps are those one by one, to rounding; neither
    chunks, nor records, nor an interruption with a checkpoint change a bit; the same key gives the same bits, and
    another key other ones exactly if the rule draws random numbers; `full_loss` is true where it says so.

    Args:
        rule: the rule.
        objective: what it descends, as for `train`.
        params: a point where it moves.
        key: a typed random key.
        steps: length of the run, >= 6.

    Raises:
        AssertionError: naming the law.
    """
    whole = train(objective, rule, params, steps=steps, key=key)
    if whole.step != steps:
        raise AssertionError(f"runs: ended as {whole.outcome} after {whole.step} of {steps} steps")
    if not _bits(whole.params, params, other=True):
        raise AssertionError("moves: the params are those of the start; give a point where the rule moves")
    _one_by_one(rule, objective, params, key, steps, whole)
    again = train(objective, rule, params, steps=steps, key=key, chunk=5)
    _same("chunks", whole.state, again.state)
    losses = Record(step_loss, every=1)
    recorded = train(
        objective, rule, params, steps=steps, key=key, records={"loss": losses, "p": Record(lambda p: p, every=1)}
    )
    _same("records", whole.state, recorded.state)
    _same("records of the end", whole.params, jax.tree.map(lambda x: x[-1], recorded.records["p"].values))
    _resumes(rule, objective, params, key, steps, whole)
    other = train(objective, rule, params, steps=steps, key=jax.random.fold_in(key, 1))
    random = bool(jax.tree.leaves(_draws(rule, objective, params, key, 1)))
    if _bits(whole.params, other.params, other=True) != random:
        raise AssertionError(
            f"keys: the rule draws {'' if random else 'no '}random numbers, but another key says otherwise"
        )
    if rule.full_loss:
        points = [jax.tree.map(lambda x, i=i: x[i], recorded.records["p"].values) for i in range(steps)]
        expected = [float(objective.loss(point)) for point in points]
        if not np.allclose(recorded.records["loss"].values, expected, rtol=1e3 * _eps(params), atol=0):
            raise AssertionError("full_loss: the loss that a step reports is not the objective's where it starts")


def _draws(rule: AbstractDynamics, objective: Any, params: PyTree, key: Any, steps: int) -> PyTree:
    return rule.draw_steps(key, jnp.arange(steps, dtype=jnp.int32), objective, floating_type(params))


def _one_by_one(rule, objective, params, key, steps, whole) -> None:
    state = rule.init(params)
    if int(state.step) != 0 or _bits(state.params, params, other=True):
        raise AssertionError("start: init has to give step 0 at the params")
    draws = _draws(rule, objective, params, key, steps)
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(eqx.filter(state, eqx.is_array))]
    for k in range(steps):
        state, _ = rule.update(jax.tree.map(lambda d, k=k: d[k], draws), objective, state)
        if int(state.step) != k + 1:
            raise AssertionError(f"counts: step {k + 1} left the counter at {int(state.step)}")
        if [(x.shape, x.dtype) for x in jax.tree.leaves(eqx.filter(state, eqx.is_array))] != shapes:
            raise AssertionError(f"types: step {k + 1} changed shapes or types of the state")
    for got, expected in zip(_floats(whole.params), _floats(state.params), strict=True):
        if not np.allclose(got, expected, rtol=0, atol=_ROUNDING * _eps(params) * max(np.abs(expected).max(), 1e-300)):
            raise AssertionError("compiled: the compiled steps are not those one by one")


def _resumes(rule, objective, params, key, steps, whole) -> None:
    def stop(done: int, _steps: int) -> None:
        if done >= steps // 2:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        file = Checkpoint(pathlib.Path(folder) / "run", seconds=0)
        first = train(objective, rule, params, steps=steps, key=key, chunk=3, checkpoint=file, progress=stop)
        if not 0 < first.step < steps:
            raise AssertionError(f"interrupts: the first part ended after {first.step} steps")
        _same("resumption", whole.state, train(objective, rule, params, steps=steps, key=key, checkpoint=file).state)


def _floats(tree: PyTree) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]


def _eps(params: PyTree) -> float:
    return float(jnp.finfo(floating_type(params)).eps)


def _bits(a: PyTree, b: PyTree, *, other: bool = False) -> bool:
    """Whether all arrays have the same bits; or, with `other`, whether any has not."""
    pairs = zip(*(jax.tree.leaves(eqx.filter(tree, _array)) for tree in (a, b)), strict=True)
    same = all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)
    return same != other


def _array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray)


def _same(law: str, a: PyTree, b: PyTree) -> None:
    if not _bits(a, b):
        raise AssertionError(f"{law}: the run has other bits")
