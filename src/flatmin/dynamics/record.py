"""What to record along a run, and when."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from flatmin._core import AnyOf, Function, Integer, Optional, SequenceOf, Shown, UsageError, checked
from flatmin._core.display import number


def whole(argument: str, value: Any, least: int) -> int:
    """A whole number that is at least `least`.

    Args:
        argument: the argument's name, for the sentence.
        value: the number.
        least: the smallest accepted value.

    Returns:
        The value as an int.

    Raises:
        UsageError: for anything else, floats included.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise UsageError(f"{argument}: got {value!r}, expected a whole number >= {least}")
    return number


def step_loss(params: PyTree) -> Any:
    """Stands in a `Record` for the loss that each step computes where it starts, of its batch and its shifted labels.

    `Record(step_loss, every=1)` costs a store. The last step's end has none; a run that is done early (`Until`) has
    none from there on.

    Args:
        params: not used.

    Raises:
        UsageError: if it is called: the number belongs to a step, not to a point.
    """
    raise UsageError("step_loss: got a call, expected to stand in a Record; write Record(step_loss, every=1)")


@checked(fn=Function(), every=Optional(Integer(1)), at=Optional(AnyOf(Integer(0), SequenceOf(Integer(0)))))
@dataclasses.dataclass(frozen=True)
class Record:
    """A function of the params, and the steps at which to evaluate it.

    Step 0 and the last step are always included. A record of few steps runs between the compiled stretches, compiled
    on its own: however costly, it does not slow the steps in between. A record of many steps (64 or more, at most 32
    apart) is compiled into the loop. The loss of a full-batch rule, `Record(objective.loss, every=1)`, and `step_loss`
    cost a store, for the step computes them anyway.

    Attributes:
        fn: `fn(params) -> array`, or a dict (any pytree) of arrays; or `step_loss`. A bound method such as
            `problem.loss` is best: its arrays are then arguments of the compiled function and not constants copied into
            it.
        every: a period in steps; give this or `at`.
        at: the steps themselves, see `log_spaced`.

    Raises:
        UsageError: if not exactly one of `every` and `at` is given, or a step is not a whole number.
    """

    fn: Callable[[PyTree], PyTree] | Any
    every: int | Any = dataclasses.field(default=None, kw_only=True)
    at: tuple[int, ...] | Any = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        if (self.every is None) == (self.at is None):
            given = "neither" if self.every is None else "both"
            raise UsageError(f"Record: got {given} of every and at, expected one; say when to record")
        if self.at is not None:
            steps = (self.at,) if isinstance(self.at, int) else self.at
            object.__setattr__(self, "at", tuple(sorted(set(steps))))

    def times(self, steps: int) -> Int[np.ndarray, " t"]:
        """The steps of a run of `steps` steps at which to record, increasing, 0 and `steps` included.

        Args:
            steps: length of the run.

        Returns:
            int64 array.

        Raises:
            UsageError: if `at` asks for a step after the last.
        """
        if self.at is None:
            inner = np.arange(0, steps, self.every)
        else:
            if self.at and self.at[-1] > steps:
                raise UsageError(f"at: got step {self.at[-1]}, expected steps <= {steps}, the length of the run")
            inner = np.asarray(self.at, dtype=np.int64)
        return np.union1d(inner, [0, steps]).astype(np.int64)


@checked(steps=Integer(1), count=Integer(2))
def log_spaced(steps: int, count: int) -> list[int]:
    """About `count` steps, evenly spaced on a log scale from 1 to `steps`.

    Args:
        steps: the last one, >= 1.
        count: how many to aim for, >= 2; early ones that round to the same step are merged.

    Returns:
        Increasing steps, for `Record(..., at=)`.

    Raises:
        UsageError: for `steps` < 1 or `count` < 2.
    """
    return np.unique(np.rint(np.geomspace(1, steps, count)).astype(np.int64)).tolist()


@dataclasses.dataclass(frozen=True, repr=False)
class History(Shown):
    """The values of one record.

    Attributes:
        steps: shape (t,), the number of steps done at each value.
        values: an array of shape (t, ...), or a pytree of such; (runs, t, ...) in an ensemble, where NaN
            stands for "not measured" after a run's divergence.
    """

    steps: Int[np.ndarray, " t"]
    values: PyTree

    def headline(self) -> str:
        """How many values, up to which step, and the last."""
        return f"{len(self.steps)} values up to step {int(self.steps[-1]):,}, the last {self.last()}"

    def last(self) -> str:
        """The last value as text: a number, or the shape of what was recorded."""
        if isinstance(self.values, np.ndarray) and self.values.ndim == 1:
            return number(self.values[-1], 4)
        if isinstance(self.values, np.ndarray) and self.values.ndim == 2 and self.values.shape[1] == len(self.steps):
            return f"from {number(self.values[:, -1].min(), 4)} to {number(self.values[:, -1].max(), 4)}"
        shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(self.values))
        return f"recorded with shape {shapes}"
