"""The values along an axis, by arithmetic: a million of them take no memory."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

from pydantic import Field, model_validator

from flatmin.studies._settings import Count, Section

MOST_VALUES = 1_000_000
"""Values of one axis: each is checked, and a grid over so many is not drawn by anybody."""

Scalar = int | float | str | bool


class Range(Section):
    """Evenly spaced values: `from`, `to` and either a `count` (with a `spacing`) or a `step`.

    Attributes:
        start: the first value (`from` in files).
        stop: the last value (`to` in files); with a step, no value is beyond it.
        count: how many.
        step: distance of neighbours.
        spacing: `linear` or `log`.
    """

    start: float = Field(alias="from")
    stop: float = Field(alias="to")
    count: Count | None = None
    step: float | None = None
    spacing: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _consistent(self) -> "Range":
        if (self.count is None) == (self.step is None):
            raise ValueError("expected either count or step beside from and to")
        if not all(math.isfinite(end) for end in (self.start, self.stop, self.step or 0.0)):
            raise ValueError("expected finite numbers")
        if self.step is not None and (self.step == 0 or (self.stop - self.start) / self.step < 0):
            raise ValueError(f"a step of {self.step:g} does not lead from {self.start:g} to {self.stop:g}")
        number = self.count if self.step is None else (self.stop - self.start) / self.step
        if number is not None and not number < MOST_VALUES + 1:
            raise ValueError(f"{number:,.0f} values are more than an axis has ({MOST_VALUES:,}); take fewer")
        if self.step is not None and self.spacing == "log":
            raise ValueError("a logarithmic spacing needs count, not step")
        if self.spacing == "log" and min(self.start, self.stop) <= 0:
            raise ValueError("a logarithmic spacing needs positive ends")
        if self.count == 1 and self.start != self.stop:
            raise ValueError("one value cannot have two ends; write count = 2 or more, or a list")
        return self

    def __len__(self) -> int:
        """Number of values."""
        if self.step is None:
            return self.count or 0
        return math.floor((self.stop - self.start) / self.step * (1 + 1e-12) + 1e-9) + 1

    def value(self, i: int) -> float:
        """The i-th value, to 12 significant digits, so that labels are short and stable."""
        if i == 0:
            return self.start
        if self.step is not None:
            return _rounded(self.start + i * self.step)
        if i == len(self) - 1:
            return self.stop
        share = i / (len(self) - 1)
        if self.spacing == "log":
            return _rounded(math.exp(math.log(self.start) + share * (math.log(self.stop) - math.log(self.start))))
        return _rounded(self.start + share * (self.stop - self.start))


def _rounded(value: float) -> float:
    return float(f"{value:.12g}")


@dataclasses.dataclass(frozen=True)
class Values(Sequence[Any]):
    """The values of an axis.

    Attributes:
        source: a `Range`, or the values themselves.
        integer: whether the values are whole numbers.
    """

    source: Range | range | tuple[Any, ...]
    integer: bool = False

    def __len__(self) -> int:
        """Number of values."""
        return len(self.source)

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, i: int | slice) -> Any:
        """The i-th value."""
        if isinstance(i, slice):
            return tuple(self[k] for k in range(*i.indices(len(self))))
        if not isinstance(self.source, Range):
            return self.source[i]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        value = self.source.value(i % len(self))
        return round(value) if self.integer else value

    def __iter__(self) -> Iterator[Any]:
        """All values, one at a time."""
        return (self[i] for i in range(len(self)))

    def repeats(self) -> Any:
        """A value that occurs twice, None if all differ."""
        if isinstance(self.source, range):
            return None
        if isinstance(self.source, Range):
            if not self.integer and self.source.start != self.source.stop:
                return None
            return next((a for a, b in itertools.pairwise(self) if a == b), None)
        seen = set()
        for value in self.source:
            if value in seen:
                return value
            seen.add(value)
        return None
