"""The loop behind `train` and `train_ensemble`: compiled stretches of steps, with records between them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from flatmin._core import AbstractObjective, Outcome, Result, UsageError, check_finite
from flatmin.dynamics import _engine
from flatmin.dynamics._base import AbstractDynamics, DynamicsState
from flatmin.dynamics.checkpoint import Checkpoint, Store, fingerprint, restore
from flatmin.dynamics.record import History, Record, whole
from flatmin.dynamics.until import Until

Progress = Callable[[int, int], Any]


@dataclasses.dataclass(frozen=True, repr=False)
class TrainResult(Result):
    """How a run ended. In an ensemble, each entry has a leading run axis.

    Attributes:
        params: the last point in the range of finite numbers.
        state: the state there; `state.params` is `params`.
        records: name -> `History`.
        outcome: `completed`, `converged` (see `Until`), `diverged` or `interrupted`; a tuple, one per run, in an
            ensemble.
        step: number of steps done at `params`.
        divergence_step: number (from 1) of the first step that could not be taken, because the loss at its
            start was not finite, or because it made a parameter not finite; -1 for none. A
            diverged run has `step = divergence_step - 1`.
        method: `train`.
    """

    params: PyTree
    state: DynamicsState
    records: dict[str, History]
    outcome: Outcome | tuple[Outcome, ...]
    step: int | np.ndarray
    divergence_step: int | np.ndarray
    method: str = "train"

    def headline(self) -> str:
        """How it ended, after how many steps, and the last value of each record."""
        outcomes = self.outcome if isinstance(self.outcome, tuple) else (self.outcome,)
        counts = ", ".join(f"{outcomes.count(o)} {o.name}" for o in dict.fromkeys(outcomes))
        ended = f"{len(outcomes)} runs ({counts})" if isinstance(self.outcome, tuple) else counts
        steps = np.atleast_1d(self.step)
        done = f"{steps.min():,}" + (f" to {steps.max():,}" if steps.min() < steps.max() else "")
        lasts = "".join(f"; {name} {history.last()}" for name, history in self.records.items())
        return f"{ended} after {done} steps{lasts}"

    def reached(self) -> str:
        """The good steps of the first run that failed."""
        outcomes = self.outcome if isinstance(self.outcome, tuple) else (self.outcome,)
        first = next((i for i, outcome in enumerate(outcomes) if not outcome.success), 0)
        return f"after {np.atleast_1d(self.step)[first]} good steps"


@dataclasses.dataclass(frozen=True)
class Model:
    """`(dynamics, objective)` cut into leaves with a run axis and the others; see `_engine`.

    Attributes:
        whole: dynamics and objective.
        mask: a pytree of bools: which leaves have a run axis.
        runs: number of runs, `None` for a single run without a run axis.
    """

    whole: tuple[AbstractDynamics, AbstractObjective]
    mask: PyTree[bool]
    runs: int | None

    @functools.cached_property
    def parts(self) -> tuple[bool, PyTree, PyTree]:
        """Whether there are runs, the leaves with a run axis, the others: what `_engine` takes."""
        return self.runs is not None, *eqx.partition(self.whole, self.mask)


@dataclasses.dataclass(frozen=True)
class _Point:
    """Where a run is: replaced in one assignment, so that an interrupt leaves a consistent one.

    Attributes:
        position: steps done by the runs that go on.
        state: state of each run; a diverged one stays at its last good step.
        divergence: number of each run's first bad step, -1 for none.
        finished: which runs are done early, see `Until`; they stay where they are.
        samples: how many entries of the log belong to it.
    """

    position: int
    state: DynamicsState
    divergence: np.ndarray
    finished: np.ndarray
    samples: int

    @property
    def alive(self) -> np.ndarray:
        return np.asarray((self.divergence < 0) & ~self.finished)


Log = list[tuple[int, dict[str, PyTree]]]


def run(
    model: Model,
    params: PyTree,
    *,
    steps: int,
    key: Key[Array, "..."] | Any,
    records: Mapping[str, Record] | Any,
    chunk: int,
    checkpoint: Checkpoint | str | Any | None,
    progress: Progress | None,
    throw: bool,
    until: Until | None = None,
) -> TrainResult:
    """See `train` and `train_ensemble`, which only prepare the arguments.

    Args:
        model: dynamics and objective.
        params: initial point(s), JAX arrays.
        steps: as in `train`.
        key: one key, or one per run.
        records: as in `train`.
        chunk: as in `train`.
        checkpoint: as in `train`.
        progress: as in `train`.
        throw: as in `train`.
        until: as in `train`.

    Returns:
        The result.

    Raises:
        UsageError: as in `train`.
        JobError: as in `train`.
    """
    steps, chunk = whole("steps", steps, 0), whole("chunk", chunk, 1)
    if steps >= 2**31:
        raise UsageError(f"steps: got {steps}, expected less than 2**31, the range of the step counter")
    _check_key(key, model.runs)
    params = moving(params)
    records = dict(records or {})
    for name, record in records.items():
        if not isinstance(record, Record):
            raise UsageError(
                f"records: {name!r} is a {type(record).__name__}, expected a Record; write Record(fn, every=100)"
            )
    times = {name: record.times(steps) for name, record in records.items()}
    due = _by_step(times)
    measures = {name: _Measure(model, record.fn) for name, record in records.items()}
    chunk = min(chunk, max(steps, 1))
    looks = np.zeros(0, int) if until is None else np.arange(0, steps, until.every)
    stops = np.unique(np.concatenate([np.arange(chunk, steps, chunk), [steps], looks[1:], *times.values()])).astype(int)

    state = _engine.init_state(*model.parts, params)
    shape = () if model.runs is None else (model.runs,)
    log: Log = []
    point = _Point(0, state, np.full(shape, -1), np.zeros(shape, bool), 0)
    store = None
    if checkpoint is not None:
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint(checkpoint)
        store = Store(checkpoint, fingerprint(*model.whole, params, key))
        point = _load(store, point, log, times, measures, steps, until) or point

    draws, block, first, interrupted = None, None, np.zeros((), np.int32), False
    try:
        if point.position == 0 and not log:
            log.append((0, {name: measure(point.state.params) for name, measure in measures.items()}))
            point = dataclasses.replace(point, samples=1)
        if until is not None and point.position == 0:
            point = dataclasses.replace(point, finished=_finished(model, until, point))
        for stop in stops[stops > point.position].tolist():
            if not point.alive.any():
                break
            if point.position // chunk != block:
                block = point.position // chunk
                first = np.asarray(block * chunk, np.int32)
                draws = _engine.draw_chunk(*model.parts, params, key, first, chunk)
            state, divergence = _advance(model, draws, first, point, stop)
            if stop in due and (divergence < 0).any():
                log.append((stop, {name: measures[name](state.params) for name in due[stop]}))
            point = _Point(stop, state, divergence, point.finished, len(log))
            if until is not None and (stop % until.every == 0 or stop == steps):
                point = dataclasses.replace(point, finished=_finished(model, until, point))
            if store is not None and store.due:
                _save(store, point, log, until)
            if progress is not None:
                progress(point.position, steps)
        if point.finished.any() and not point.alive.any():  # nothing moves any more
            rest = [step for step in due if step > log[-1][0]]
            last = {name: measures[name](point.state.params) for step in rest for name in due[step]}
            log += [(step, {name: last[name] for name in due[step]}) for step in sorted(rest)]
            point = dataclasses.replace(point, samples=len(log))
    except KeyboardInterrupt:
        interrupted = True
    if store is not None and (point.position > 0 or point.samples > 0):
        _save(store, point, log, until)
    result = _result(model, point, log, measures, interrupted=interrupted)
    return result.raise_if_failed() if throw else result


def moving(params: PyTree) -> PyTree:
    """Initial params as JAX arrays of a definite type, at least one of which moves.

    Args:
        params: a pytree; its real floating point arrays move.

    Returns:
        The same tree, see `strong`.

    Raises:
        UsageError: if nothing moves, or for arrays that are complex, not finite, or no numbers.
    """
    params = strong(params)
    floats = jax.tree_util.tree_leaves_with_path(eqx.filter(params, eqx.is_inexact_array))
    if not floats:
        raise UsageError("params: got no floating point array, expected at least one to move; write 1.0 for 1")
    for path, leaf in floats:
        name = f"params{jax.tree_util.keystr(path)}"
        if jnp.iscomplexobj(leaf):  # JAX's gradient is the conjugate of the direction that a complex number has to go
            raise UsageError(
                f"{name}: got {leaf.dtype}, expected real numbers; write it as two real arrays, re and im, and build "
                "re + 1j * im inside the loss"
            )
        check_finite(name, leaf)
    return params


def strong(tree: PyTree) -> PyTree:
    """Arrays of `tree` as JAX arrays of a definite type, so that the loop is traced once.

    Args:
        tree: a pytree with JAX or numpy arrays among its leaves.

    Returns:
        The same tree; other leaves unchanged.
    """

    def definite(leaf: Any) -> Any:
        if not (eqx.is_array(leaf) or isinstance(leaf, np.ndarray)):
            return leaf
        try:
            return jnp.asarray(leaf, dtype=leaf.dtype)
        except TypeError as error:  # dates, objects, text
            raise UsageError(f"params: got an array of {leaf.dtype}, expected arrays of real numbers") from error

    return jax.tree.map(definite, tree)


def _check_key(key: Any, runs: int | None) -> None:
    argument = "key" if runs is None else "keys"
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        got = getattr(key, "dtype", type(key).__name__)
        raise UsageError(f"{argument}: got {got}, expected a typed key; write jax.random.key(0)")
    if runs is None and key.shape != ():
        raise UsageError(f"key: got {key.shape[0]} keys, expected one; use train_ensemble for many runs")


def _advance(
    model: Model, draws: PyTree, first: np.ndarray, point: _Point, stop: int
) -> tuple[DynamicsState, np.ndarray]:
    """Go on to `stop`; a run that diverges on the way ends just before its first bad step.

    The compiled loop only looks at the loss of each step, and at the params at the end. If something is wrong
    there, the stretch is run again, with bisection on its length: the good runs pay nothing for the exact
    answer.
    """

    def to(stops: np.ndarray) -> tuple[DynamicsState, np.ndarray, np.ndarray]:
        bound = np.asarray(stops, np.int32)
        state, in_range, finite = _engine.advance(*model.parts, draws, first, point.state, bound)
        return state, np.asarray(in_range), np.asarray(finite)

    began = np.asarray(point.state.step).astype(int)
    state, in_range, finite = to(np.where(point.alive, stop, began))
    bad = ~(in_range & finite)
    if not bad.any():
        return state, point.divergence
    ended = np.asarray(state.step).astype(int)
    # the first bad step is in (good, refused]; for runs without one, good is where they ended
    good, refused = np.where(bad, began, ended), np.where(bad, ended, ended + 1)
    probe = np.where(bad, ended - 1, ended)
    while True:
        state, _, finite = to(probe)
        good, refused = np.where(finite, np.maximum(good, probe), good), np.where(finite, refused, probe)
        if np.array_equal(probe, good) and (refused - good == 1).all():
            return state, np.asarray(np.where(bad, refused, point.divergence))
        probe = np.where(refused - good > 1, (good + refused) // 2, good)


def _finished(model: Model, until: Until, point: _Point) -> np.ndarray:
    loss, norm = _engine.level(*model.parts, until.gradient is not None, point.state.params)
    return np.asarray(point.finished | (point.alive & until.reached(np.asarray(loss), np.asarray(norm))))


class _Measure:
    """A record's function, compiled, over the run axis if there is one."""

    def __init__(self, model: Model, fn: Callable[[PyTree], PyTree]):
        # a bound method of the objective sees each run's own objective
        own = getattr(fn, "__self__", None) is model.whole[1]
        self._arguments = (*model.parts, getattr(fn, "__func__", fn) if own else fn, own)

    def __call__(self, params: PyTree) -> PyTree:
        return _engine.measure(*self._arguments, params)

    def structure(self, params: PyTree) -> PyTree:
        return eqx.filter_eval_shape(self, params)


def _by_step(times: dict[str, np.ndarray]) -> dict[int, list[str]]:
    due: dict[int, list[str]] = {}
    for name, steps in times.items():
        for step in steps.tolist():
            due.setdefault(step, []).append(name)
    return due


def _samples(log: Log, count: int, name: str) -> list[tuple[int, PyTree]]:
    return [(step, values[name]) for step, values in log[:count] if name in values]


def _save(store: Store, point: _Point, log: Log, until: Until | None) -> None:
    names = sorted({name for _, values in log[: point.samples] for name in values})
    histories = {name: History.stack(_samples(log, point.samples, name), axis=0) for name in names}
    meta = {
        "position": point.position,
        "divergence": point.divergence.tolist(),
        "finished": point.finished.tolist(),
        "until": None if until is None else list(dataclasses.astuple(until)),
        "records": {name: [history.steps.tolist()] for name, history in histories.items()},
    }
    tree = [eqx.filter(point.state, eqx.is_array), {name: h.values for name, h in histories.items()}]
    store.write(tree, meta)


def _load(
    store: Store,
    start: _Point,
    log: Log,
    times: dict[str, np.ndarray],
    measures: dict[str, _Measure],
    steps: int,
    until: Until | None,
) -> _Point | None:
    """The point of the file, with `log` filled; `None` if there is no file."""
    found = store.read()
    if found is None:
        return None
    meta, leaves = found
    path, position = store.checkpoint.path, meta["position"]
    if position > steps:
        raise UsageError(f"steps: got {steps}, but {path} has already done {position}; ask for at least as many")
    if meta.get("until") != (None if until is None else list(dataclasses.astuple(until))):
        raise UsageError(f"until: {path} was begun with another condition; keep it, or delete the file")
    stored = {name: np.asarray(held[0]) for name, held in meta["records"].items()}
    if set(stored) != set(measures):
        raise UsageError(
            f"records: got {sorted(measures)}, but {path} holds {sorted(stored)}; keep the names, or delete the file"
        )
    divergence = np.asarray(meta["divergence"])
    finished = np.asarray(meta.get("finished", np.zeros(divergence.shape, bool)))
    goes_on = ((divergence < 0) & ~finished).any()
    state_like, static = eqx.partition(start.state, eqx.is_array)
    like = [state_like, {name: m.structure(start.state.params) for name, m in measures.items()}]
    state, values = restore(like, leaves)
    entries: dict[int, dict[str, PyTree]] = {}
    for name, held in stored.items():
        wanted = times[name][times[name] <= (position if goes_on else held[-1])]
        missing = np.setdiff1d(wanted, held)
        if missing.size:
            raise UsageError(
                f"records: {name!r} is wanted at step {missing[0]}, but {path} has passed it without; "
                "keep the times of the first part, or delete the file"
            )
        for step in wanted:
            row = int(np.searchsorted(held, step))
            entries.setdefault(int(step), {})[name] = jax.tree.map(lambda v, r=row: v[r], values[name])
    log.extend(sorted(entries.items()))
    return _Point(position, eqx.combine(state, static), divergence, finished, len(log))


def _result(model: Model, point: _Point, log: Log, measures: Mapping[str, Any], *, interrupted: bool) -> TrainResult:
    ensemble = model.runs is not None
    histories = {}
    for name in measures:
        samples = _samples(log, point.samples, name)
        if samples:
            history = History.stack(samples, axis=1 if ensemble else 0)
            histories[name] = _blank(history, point.divergence) if ensemble else history

    def outcome(divergence: int, finished: bool) -> Outcome:
        if divergence >= 0 or finished:
            return Outcome.diverged if divergence >= 0 else Outcome.converged
        return Outcome.interrupted if interrupted else Outcome.completed

    runs = zip(np.atleast_1d(point.divergence).tolist(), np.atleast_1d(point.finished).tolist(), strict=True)
    outcomes = tuple(outcome(*run) for run in runs)
    step = np.asarray(point.state.step).astype(int)
    return TrainResult(
        params=point.state.params,
        state=point.state,
        records=histories,
        outcome=outcomes if ensemble else outcomes[0],
        step=step if ensemble else int(step),
        divergence_step=point.divergence if ensemble else int(point.divergence),
    )


def _blank(history: History, divergence: np.ndarray) -> History:
    """NaN from a run's divergence on."""
    gone = (divergence[:, None] >= 0) & (history.steps >= divergence[:, None])
    if not gone.any():
        return history

    def blank(values: np.ndarray) -> np.ndarray:
        return np.where(gone.reshape(*gone.shape, *[1] * (values.ndim - 2)), np.nan, values)

    return History(history.steps, jax.tree.map(blank, history.values))
