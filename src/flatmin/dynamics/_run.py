"""The loop behind `train` and `train_ensemble`: compiled stretches of steps, and hooks between them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from flatmin._core import Outcome, Result
from flatmin.dynamics import _engine
from flatmin.dynamics._base import DynamicsState
from flatmin.dynamics._model import Model
from flatmin.dynamics._params import moving, strong
from flatmin.dynamics._records import Recorder
from flatmin.dynamics._saving import Saving
from flatmin.dynamics.record import History
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
class Point:
    """Where a run is: replaced in one assignment, so that an interrupt leaves a consistent one.

    Attributes:
        position: steps done by the runs that go on.
        state: state of each run; a diverged one stays at its last good step.
        divergence: number of each run's first bad step, -1 for none.
        finished: which runs are done early, see `Until`; they stay where they are.
        blocks: how many blocks of the recorder belong to it.
    """

    position: int
    state: DynamicsState
    divergence: np.ndarray
    finished: np.ndarray
    blocks: int = 0

    @property
    def alive(self) -> np.ndarray:
        """Which runs go on."""
        return np.asarray((self.divergence < 0) & ~self.finished)


Hook = Callable[[Point], Point]
"""Called between stretches."""


class _Walker:
    """Takes a point on to a step, through the compiled loop; draws the random numbers chunk by chunk."""

    def __init__(self, model: Model, params: PyTree, key: Key[Array, "..."], chunk: int, recorder: Recorder):
        self._model, self._params, self._key, self._chunk = model, params, key, chunk
        self._recorder, self._block, self._draws = recorder, -1, None
        self._first = np.zeros((), np.int32)

    def __call__(self, point: Point, stop: int) -> Point:
        """Go on to `stop`; a run that diverges on the way ends just before its first bad step.

        The compiled loop only looks at the loss of each step, and at the params at the end. If something is wrong
        there, the stretch is run again, with bisection on its length: the good runs pay nothing for the exact answer.
        """
        if point.position // self._chunk != self._block:
            self._block = point.position // self._chunk
            self._first = np.asarray(self._block * self._chunk, np.int32)
            self._draws = _engine.draw_chunk(*self._model.parts, self._params, self._key, self._first, self._chunk)
        marks = self._recorder.ahead(point.position, stop)

        def to(stops: np.ndarray) -> tuple[_engine.Stretch, np.ndarray, np.ndarray]:
            stretch = _engine.advance(
                *self._model.parts, self._chunk, self._draws, self._first, np.asarray(point.position, np.int32),
                point.state, np.asarray(stops, np.int32), self._recorder.measures, marks,
            )  # fmt: skip
            return stretch, np.asarray(stretch.in_range), np.asarray(stretch.finite)

        began = np.asarray(point.state.step).astype(int)
        stretch, in_range, finite = to(np.where(point.alive, stop, began))
        losses, divergence, bad = stretch.losses, point.divergence, ~(in_range & finite)
        if bad.any():
            ended = np.asarray(stretch.state.step).astype(int)
            # the first bad step is in (good, refused]; for runs without one, good is where they ended
            good, refused = np.where(bad, began, ended), np.where(bad, ended, ended + 1)
            probe = np.where(bad, ended - 1, ended)
            while True:
                stretch, _, finite = to(probe)
                good, refused = np.where(finite, np.maximum(good, probe), good), np.where(finite, refused, probe)
                if np.array_equal(probe, good) and (refused - good == 1).all():
                    break
                probe = np.where(refused - good > 1, (good + refused) // 2, good)
            divergence = np.asarray(np.where(bad, refused, divergence))
        upto = stop + 1 if (divergence < 0).any() else int(divergence.max())
        self._recorder.take(point.position, stop, int(self._first), stretch, losses, upto, np.asarray(~point.alive))
        return Point(stop, stretch.state, divergence, point.finished, len(self._recorder.blocks))


def run(
    model: Model,
    params: PyTree,
    *,
    steps: int,
    key: Any,
    records: Any,
    chunk: int,
    checkpoint: Any,
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
    params = moving(params)
    chunk = min(chunk, max(steps, 1))
    recorder = Recorder(model, records, steps, chunk, params)
    looks = np.zeros(0, int) if until is None else np.arange(0, steps, until.every)
    stops = np.unique(np.concatenate([np.arange(chunk, steps, chunk), [steps], looks[1:], recorder.stops])).astype(int)

    shape = () if model.runs is None else (model.runs,)
    start = strong(_engine.init_state(*model.parts, params))
    point = Point(0, start, np.full(shape, -1), np.zeros(shape, bool))
    hooks: list[Hook] = []
    if until is not None:
        hooks.append(_Watch(model, until, steps))
    saving = None
    if checkpoint is not None:
        saving = Saving(checkpoint, model, params, key, recorder, until)
        point = saving.load(point, steps) or point
        hooks.append(saving.when_due)
    if progress is not None:
        hooks.append(_Report(progress, steps))

    walk, interrupted = _Walker(model, params, key, chunk, recorder), False
    try:
        if point.position == 0 and not recorder.blocks:
            recorder.begin(point.state.params)
            point = dataclasses.replace(point, blocks=len(recorder.blocks))
        if until is not None and point.position == 0:
            point = hooks[0](point)
        for stop in stops[stops > point.position].tolist():
            if not point.alive.any():
                break
            point = walk(point, stop)
            for hook in hooks:
                point = hook(point)
    except KeyboardInterrupt:
        interrupted = True
    del recorder.blocks[point.blocks :]
    if point.alive.any() or point.finished.any():  # what no step has fed; and once nothing moves, all that is left
        recorder.end(point.state.params, point.position if point.alive.any() else steps)
        point = dataclasses.replace(point, blocks=len(recorder.blocks))
    if saving is not None and (point.position > 0 or point.blocks > 0):
        saving.write(point)
    result = _result(model, point, recorder, interrupted=interrupted)
    return result.raise_if_failed() if throw else result


class _Watch:
    """Sees which runs are done, every now and then."""

    def __init__(self, model: Model, until: Until, steps: int):
        self._model, self._until, self._steps = model, until, steps

    def __call__(self, point: Point) -> Point:
        if point.position % self._until.every and point.position != self._steps:
            return point
        loss, norm = _engine.level(*self._model.parts, self._until.gradient is not None, point.state.params)
        reached = point.alive & self._until.reached(np.asarray(loss), np.asarray(norm))
        return dataclasses.replace(point, finished=np.asarray(point.finished | reached))


class _Report:
    """Tells the caller how far the run is."""

    def __init__(self, progress: Progress, steps: int):
        self._progress, self._steps = progress, steps

    def __call__(self, point: Point) -> Point:
        self._progress(point.position, self._steps)
        return point


def _result(model: Model, point: Point, recorder: Recorder, *, interrupted: bool) -> TrainResult:
    ensemble = model.runs is not None
    histories = recorder.histories(point.blocks)
    if ensemble:
        histories = {name: _blank(_runs_first(history), point.divergence) for name, history in histories.items()}

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


def _runs_first(history: History) -> History:
    return History(history.steps, jax.tree.map(lambda v: np.moveaxis(v, 0, 1), history.values))


def _blank(history: History, divergence: np.ndarray) -> History:
    """NaN from a run's divergence on."""
    gone = (divergence[:, None] >= 0) & (history.steps >= divergence[:, None])
    if not gone.any():
        return history

    def blank(values: np.ndarray) -> np.ndarray:
        return np.where(gone.reshape(*gone.shape, *[1] * (values.ndim - 2)), np.nan, values)

    return History(history.steps, jax.tree.map(blank, history.values))
