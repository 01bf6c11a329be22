"""What a run records: which way each record takes, and its values so far.

Three ways, all with the values of the same points:

    fed      the loss that each step computes anyway, where it starts: a store of one number
    inside   evaluated inside the compiled loop: for records of many steps
    between  evaluated between compiled stretches: for few steps; nothing of it is compiled into the loop
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from flatmin._core import UsageError
from flatmin.dynamics import _engine
from flatmin.dynamics._engine import Marks, Measured, Stretch
from flatmin.dynamics._model import Model
from flatmin.dynamics.record import History, Record, step_loss

_MANY, _CLOSE = 64, 32
"""A record of at least 64 steps that are at most 32 apart, on average, is taken inside the loop: a stop costs
about 0.2 ms each time, a compilation with the record in it once."""
_BUFFER_BYTES = 1 << 26
"""Of values that one compiled stretch holds."""


class Plan:
    """One record of a run.

    Attributes:
        times: the steps at which it is wanted.
        fed: whether the step's own loss is its value.
        inside: whether it is evaluated inside the loop.
    """

    def __init__(self, model: Model, name: str, record: Record, steps: int):
        dynamics, objective = model.whole
        self.name, self.times = name, record.times(steps)
        own = getattr(record.fn, "__self__", None) is objective  # sees each run's own objective
        fn = getattr(record.fn, "__func__", record.fn) if own else record.fn
        self.of_steps = record.fn is step_loss
        self.fed = self.of_steps or (own and dynamics.full_loss and fn is type(objective).loss)
        if self.of_steps:  # no step starts at the end
            self.times = self.times[self.times < steps]
        many = len(self.times) >= _MANY and np.ptp(self.times) <= _CLOSE * len(self.times)
        self.inside = not self.fed and bool(many)
        self.measured = Measured(fn, own)
        self._parts = model.parts

    def __call__(self, params: PyTree) -> PyTree:
        """The values at the params (of each run), compiled on its own."""
        with self.sentence():
            return _engine.measure(*self._parts, self.measured, params)

    def structure(self, params: PyTree) -> PyTree:
        """Shapes and types of the values."""
        if self.of_steps:
            runs = jax.tree.leaves(eqx.filter(params, eqx.is_array))[0].shape[:1] if self._parts[0] else ()
            return jax.ShapeDtypeStruct(runs, jnp.result_type(float))
        with self.sentence():
            return eqx.filter_eval_shape(lambda p: _engine.measure(*self._parts, self.measured, p), params)

    def sentence(self) -> "_Sentence":
        """A context in which a function that JAX cannot trace gets a sentence with the record's name."""
        return _Sentence(self.name)


class _Sentence:
    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, jax.errors.JAXTypeError):
            what = str(error).strip().split("\n", maxsplit=1)[0]
            raise UsageError(
                f"records: {self.name!r} cannot be traced by JAX ({what}); use jax.numpy on the params, without "
                "float() or numpy"
            ) from error


@dataclasses.dataclass(frozen=True)
class Block:
    """Values of one record at some steps, time axis first."""

    name: str
    steps: np.ndarray
    values: PyTree


class Recorder:
    """The records of a run, and what has been recorded.

    Attributes:
        plans: by name.
        blocks: in the order in which they came.
        stops: steps at which a stretch has to end for the records' sake.
    """

    def __init__(self, model: Model, records: Mapping[str, Record] | None, steps: int, chunk: int, params: PyTree):
        self.plans = {name: Plan(model, name, record, steps) for name, record in dict(records or {}).items()}
        self.blocks: list[Block] = []
        self._inside = [plan for plan in self.plans.values() if plan.inside]
        self._due: dict[int, list[Plan]] = {}
        for plan in self.plans.values():
            if not (plan.fed or plan.inside):
                for step in plan.times.tolist():
                    self._due.setdefault(step, []).append(plan)
        self.marks = np.unique(np.concatenate([np.zeros(0, int), *(p.times for p in self._inside)])).astype(int)
        self.marks = self.marks[self.marks > 0]
        self._rows = 0
        if len(self.marks):
            leaves = [leaf for plan in self._inside for leaf in jax.tree.leaves(plan.structure(params))]
            row = max(sum(int(np.prod(s.shape)) * s.dtype.itemsize for s in leaves), 1)
            most = int(np.bincount((self.marks - 1) // chunk).max())
            # rounded up, so that other times rarely are another compilation
            self._rows = min(1 << (most - 1).bit_length(), max(_BUFFER_BYTES // row, 1))
        full = self.marks[self._rows - 1 :: self._rows] if self._rows else self.marks
        self.stops = np.array([*self._due, *full], int)

    @property
    def measures(self) -> tuple[Measured, ...]:
        """What is evaluated inside the loop."""
        return tuple(plan.measured for plan in self._inside)

    def begin(self, params: PyTree) -> None:
        """Step 0, of everything that is measured."""
        for plan in self.plans.values():
            if not plan.of_steps and plan.times.size and plan.times[0] == 0:
                self._add(plan, np.zeros(1, int), plan(params))

    def ahead(self, position: int, stop: int) -> Marks | None:
        """The marks of a stretch.

        Args:
            position: where it starts.
            stop: where it ends.

        Returns:
            None if there is no record inside the loop at all.
        """
        if not self._rows:
            return None
        steps = self.marks[(self.marks > position) & (self.marks <= stop)]
        due = np.zeros((self._rows, len(self._inside)), bool)
        for j, plan in enumerate(self._inside):
            due[: len(steps), j] = np.isin(steps, plan.times)
        padded = np.full(self._rows, stop, np.int32)
        padded[: len(steps)] = steps
        return Marks(padded, np.asarray(len(steps), np.int32), due)

    def take(
        self, position: int, stop: int, first: int, stretch: Stretch, losses: Any, upto: int, gone: np.ndarray
    ) -> None:
        """What a stretch brings, up to the last good step.

        Args:
            position: where it started.
            stop: where it ended.
            first: step of the first loss.
            stretch: its end and the measured values.
            losses: of all steps that were tried.
            upto: values at steps below it are good in at least one run; beyond `stop` if runs go on.
            gone: runs that did not move: no step of theirs computed a loss.
        """
        for plan in self.plans.values():
            if plan.fed:
                last = min(stop, upto)
                steps = plan.times[(plan.times >= max(position, 0 if plan.of_steps else 1)) & (plan.times < last)]
                if steps.size:
                    values = np.asarray(losses)[steps - first]
                    if plan.of_steps and gone.any():
                        values = np.where(gone, np.nan, values)
                    self.blocks.append(Block(plan.name, steps, values))
        for plan, values in zip(self._inside, stretch.values, strict=True):
            marks = self.marks[(self.marks > position) & (self.marks <= stop)]
            rows = np.flatnonzero((marks < upto) & np.isin(marks, plan.times))
            if rows.size:
                self.blocks.append(
                    Block(plan.name, marks[rows], jax.tree.map(lambda v, r=rows: np.asarray(v)[r], values))
                )
        if stop < upto:
            for plan in self._due.get(stop, ()):
                self._add(plan, np.array([stop]), plan(stretch.state.params))

    def end(self, params: PyTree, upto: int) -> None:
        """What is still wanted up to a step and has no step of its own: measured where the run ended."""
        for plan in self.plans.values():
            seen = [int(block.steps[-1]) for block in self.blocks if block.name == plan.name]
            rest = plan.times[(plan.times > max(seen, default=-1)) & (plan.times <= upto)]
            if rest.size and not plan.of_steps:
                self._add(plan, rest, plan(params))

    def _add(self, plan: Plan, steps: np.ndarray, value: PyTree) -> None:
        self.blocks.append(
            Block(plan.name, steps, jax.tree.map(lambda v: np.stack([np.asarray(v)] * len(steps)), value))
        )

    def histories(self, count: int) -> dict[str, History]:
        """The values by name, time axis first.

        Args:
            count: how many of the blocks count.

        Returns:
            The histories of those records that have any value; numbers in the type that was measured first.
        """
        found = {}
        for name in self.plans:
            blocks = [block for block in self.blocks[:count] if block.name == name]
            if blocks:
                steps = np.concatenate([block.steps for block in blocks])
                values = jax.tree.map(
                    lambda *v: np.concatenate(v, dtype=v[0].dtype, casting="unsafe"), *(b.values for b in blocks)
                )
                found[name] = History(steps.astype(np.int64), values)
        return found
