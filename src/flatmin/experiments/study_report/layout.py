"""Which axis of a study goes where: along x, along y or into the legend, and from panel to panel."""

import dataclasses
import itertools
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from flatmin.experiments.figures import Axis
from flatmin.experiments.numbers import format_number

if TYPE_CHECKING:
    import xarray as xr

REPEATS = ("seed", "sample")
"""Dimensions over which values are summarised."""

MOST_SERIES = 6
"""More curves than colours cannot be told apart: a grid then shows them better."""

MOST_PANELS = 12


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the dimensions of a study go.

    Attributes:
        x: along the horizontal axis; None if nothing is swept.
        second: the vertical axis of a grid, or one curve a value; None if at most one dimension is swept.
        grid: whether `second` is the vertical axis of a grid.
        multiples: one panel for each combination of their values.
    """

    x: str | None
    second: str | None
    grid: bool
    multiples: tuple[str, ...]


def is_numeric(data: "xr.Dataset", name: str) -> bool:
    """Whether a dimension has a scale."""
    return data[name].dtype.kind in "iuf"


def layout_of(data: "xr.Dataset", dimensions: list[str]) -> Layout:
    """The layout of a variable over these dimensions.

    Args:
        data: the study.
        dimensions: without the repeats.

    Returns:
        The longest scale goes along x; the next longest makes a grid if it has too many values for curves; what has
        fewest values goes from panel to panel.
    """
    swept = [name for name in dimensions if data.sizes[name] > 1]
    ordered = sorted(swept, key=lambda n: (is_numeric(data, n), data.sizes[n]), reverse=True)
    if not ordered:
        return Layout(None, None, False, ())
    x, rest = ordered[0], ordered[1:]
    if not rest:
        return Layout(x, None, False, ())
    grid = is_numeric(data, rest[0]) and is_numeric(data, x) and data.sizes[rest[0]] > MOST_SERIES
    return Layout(x, rest[0], grid, tuple(rest[1:]))


def axis_of(data: "xr.Dataset", name: str, *, log: bool | None = None) -> Axis:
    """The axis of a dimension; texts stand as their numbers.

    Args:
        data: the study.
        name: the dimension.
        log: logarithmic; default: if its values are spaced so.

    Returns:
        The axis.
    """
    label = name.replace("_", " ")
    if not is_numeric(data, name):
        named = ", ".join(f"{i} {v}" for i, v in enumerate(data[name].values[:6].tolist()))
        return Axis(f"{label} ({named})")
    return Axis(label, log=is_logarithmic(data[name].values) if log is None else log)


def positions(data: "xr.Dataset", name: str) -> np.ndarray:
    """The values of a dimension as numbers."""
    values = data[name].values
    return values.astype(float) if is_numeric(data, name) else np.arange(len(values), dtype=float)


def is_logarithmic(values: np.ndarray) -> bool:
    """Whether positive values are spaced evenly on a logarithmic scale rather than on a linear one."""
    if len(values) < 3 or values.min() <= 0 or values.max() / values.min() < 10:
        return False
    return bool(np.std(np.diff(np.log(values))) * values.mean() < np.std(np.diff(values.astype(float))))


def panels_of(data: "xr.Dataset", names: tuple[str, ...]) -> Iterator[tuple[str, dict[Hashable, Any]]]:
    """Title and selection of each panel, at most `MOST_PANELS`.

    Args:
        data: the study.
        names: the dimensions that go from panel to panel.

    Yields:
        Title and index by dimension.
    """
    everything = itertools.product(*(range(data.sizes[name]) for name in names))
    for chosen in itertools.islice(everything, MOST_PANELS):
        where: dict[Hashable, Any] = dict(zip(names, chosen, strict=True))
        yield ", ".join(value_text(data, str(name), int(i)) for name, i in where.items()), where


def left_out(data: "xr.Dataset", names: tuple[str, ...]) -> int:
    """How many panels there is no room for."""
    return max(0, int(np.prod([data.sizes[name] for name in names], dtype=int)) - MOST_PANELS)


def value_text(data: "xr.Dataset", name: str, i: int) -> str:
    """`name = value`."""
    value = data[name].values[i]
    shown = format_number(float(value)) if is_numeric(data, name) else str(value)
    return f"{name.replace('_', ' ')} = {shown}"
