"""Figures as data.

An experiment returns a `Figure`: panels with axes, series and reference lines, or grids, or images. What it
looks like is decided once, in `style`, and drawn by two renderers that know no experiment. Everything
a reader sees comes from the arrays in here, so the arrays stored beside a figure are the figure.
"""

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from flatmin._core import Integer, Optional, Real, RealArray, SequenceOf, UsageError, checked_anywhere
from flatmin.experiments.specs import check_slug

SeriesKind = Literal["line", "points", "band", "steps"]
Role = Literal["data", "theory", "context"]

LIMITS = Optional(SequenceOf(Real(), 2))
"""Both ends of an axis."""

VECTOR = RealArray("_n", finite=False, host=True, kept=True)
GRID = RealArray("_rows _columns", finite=False, host=True, kept=True)
"""What is drawn: NaN was not measured, integers stay integers."""


@checked_anywhere(limits=LIMITS, floor=Optional(Real()))
@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis: `label (unit)`, linear or logarithmic.

    Attributes:
        label: the quantity, plain Unicode (no TeX).
        unit: its unit; empty for pure numbers.
        log: logarithmic scale; values <= 0 are not drawn.
        limits: both ends, or None to fit the data.
        floor: values below it are drawn there (such as zeros on a logarithmic scale); None to draw all where they are.
    """

    label: str
    unit: str = ""
    log: bool = False
    limits: tuple[float, float] | None = None
    floor: float | None = None

    @property
    def text(self) -> str:
        """Label with unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@checked_anywhere(x=VECTOR, y=VECTOR, low=Optional(VECTOR), high=Optional(VECTOR))
@dataclasses.dataclass(frozen=True)
class Series:
    """One curve, set of points or band.

    Attributes:
        label: name in the legend; equal labels look equal in all panels of a figure.
        x: positions, shape (n,).
        y: values, shape (n,); NaN = not measured, a gap.
        low: lower ends, shape (n,); a band for lines and steps, error bars for points.
        high: upper ends, shape (n,).
        kind: `line`, `points`, `steps` (constant to the right) or `band` (only the area from low to high).
        role: `data` takes the next colour; `theory` is drawn in the text's colour; `context` in grey.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    kind: SeriesKind = "line"
    role: Role = "data"

    def __post_init__(self) -> None:
        """Keep arrays that nobody writes to, and check that they fit."""
        where = f"series {self.label!r}"
        _keep(self, "x", "y", "low", "high")
        if (self.low is None) != (self.high is None) or (self.kind == "band" and self.low is None):
            name = "low" if self.low is None else "high"
            raise UsageError(f"{name}: got None in {where}, expected low and high for bands and error bars; pass both")
        count = len(np.asarray(self.x))
        for name in ("x", "y", "low", "high"):
            value = getattr(self, name)
            if value is not None and (len(value) != count or not count):
                expected = f"{count} as x has" if count else "at least 1"
                raise UsageError(f"{name}: got {len(value)} numbers in {where}, expected {expected}")
        if self.low is not None and self.high is not None and np.any(np.asarray(self.low) > np.asarray(self.high)):
            raise UsageError(f"low: got low > high in {where}, expected low <= high; exchange them")


@checked_anywhere(value=Real())
@dataclasses.dataclass(frozen=True)
class ReferenceLine:
    """A straight line across a panel.

    Attributes:
        label: name in the legend.
        value: where it stands.
        axis: the axis that carries the value; `y` gives a horizontal line.
    """

    label: str
    value: float
    axis: Literal["x", "y"] = "y"


@checked_anywhere(dodge=Real())
@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves over one pair of axes.

    Attributes:
        title: heading.
        x: the horizontal axis.
        y: the vertical axis.
        series: what is drawn.
        lines: reference lines.
        dodge: so far are neighbouring sets of points drawn apart, in units of x; the data stay where they are.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    lines: tuple[ReferenceLine, ...] = ()
    dodge: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a panel in which nothing could be seen."""
        for axis, name in ((self.x, "x"), (self.y, "y")):
            for series in self.series if axis.log else ():
                values = np.asarray(getattr(series, name), dtype=float)
                floored = axis.floor is not None and axis.floor > 0
                if np.isfinite(values).any() and not floored and not (values > 0).any():
                    raise UsageError(
                        f"series {series.label!r}: no {name} is positive, but the axis {axis.label!r} "
                        f"of panel {self.title!r} is logarithmic; use log=False"
                    )


@checked_anywhere(x_values=VECTOR, y_values=VECTOR, values=GRID)
@dataclasses.dataclass(frozen=True)
class HeatmapPanel:
    """Values on a grid in grey, with a colour bar; cells that were not measured (NaN) are marked.

    Attributes:
        title: heading.
        x: the horizontal axis.
        y: the vertical axis.
        x_values: one position a column, in the order drawn.
        y_values: one position a row, from bottom to top.
        values: shape (len(y_values), len(x_values)).
        color: label and unit of the values; `limits` are what black and white stand for.
        series: curves over the grid, in the units of the axes, such as a fitted transition; what lies outside of the
            grid is not drawn.
    """

    title: str
    x: Axis
    y: Axis
    x_values: ArrayLike
    y_values: ArrayLike
    values: ArrayLike
    color: Axis
    series: tuple[Series, ...] = ()

    def __post_init__(self) -> None:
        """Keep arrays that nobody writes to, and check that they fit."""
        where = f"panel {self.title!r}"
        if any(s.low is not None for s in self.series):
            raise UsageError(f"series: got an interval over a grid in {where}, expected lines or points only")
        _keep(self, "x_values", "y_values", "values")
        expected = (len(np.asarray(self.y_values)), len(np.asarray(self.x_values)))
        if np.shape(self.values) != expected:
            raise UsageError(
                f"values: got shape {np.shape(self.values)} in {where}, expected {expected} = (y_values, x_values)"
            )


@checked_anywhere(image=GRID, limits=LIMITS)
@dataclasses.dataclass(frozen=True)
class ImagePanel:
    """A matrix as a grey image, row 0 on top; cells that were not measured (NaN) are marked.

    Attributes:
        title: heading.
        image: shape (rows, columns).
        limits: values of black and white; the image's own range when None.
    """

    title: str
    image: ArrayLike
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Keep an array that nobody writes to."""
        _keep(self, "image")


AnyPanel = Panel | HeatmapPanel | ImagePanel


@checked_anywhere(columns=Optional(Integer(1)))
@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a paper or a report.

    Attributes:
        key: short name, begins the names of its files.
        title: heading.
        caption: what is shown, in sentences.
        panels: the panels, left to right and top to bottom.
        columns: panels side by side at full width; None for 1, 2 or 3 by their number.
        intervals: what bands and error bars are, such as `minimum to maximum over 3 seeds`; required when
            there are any, and appended to the caption.
    """

    key: str
    title: str
    caption: str
    panels: tuple[AnyPanel, ...]
    columns: int | None = None
    intervals: str = ""

    def __post_init__(self) -> None:
        """Refuse no panels, and intervals that nobody explains."""
        check_slug("key", self.key)
        if not self.panels:
            raise UsageError(f"panels: got none for figure {self.key!r}, expected at least one")
        drawn = any(s.low is not None for p in self.panels if isinstance(p, Panel) for s in p.series)
        if drawn and not self.intervals:
            raise UsageError(
                f"intervals: figure {self.key!r} has bands or error bars but does not say what they are; "
                "pass for instance intervals='minimum to maximum over 3 seeds'"
            )

    @property
    def full_caption(self) -> str:
        """The caption with what the intervals are and what the mark for missing cells means."""
        parts = [self.caption.strip()]
        if self.intervals:
            parts.append(f"Bands and error bars: {self.intervals}.")
        if any(has_missing(p) for p in self.panels):
            parts.append("Cells tinted blue were not measured.")
        return " ".join(p for p in parts if p)

    @property
    def columns_or_default(self) -> int:
        """`columns`, or a number that suits the panels: images and grids stand three abreast."""
        if self.columns is not None:
            return min(self.columns, len(self.panels))
        narrow = all(isinstance(p, ImagePanel) for p in self.panels)
        if len(self.panels) <= 3 and (narrow or len(self.panels) != 3):
            return min(len(self.panels), 3 if narrow else 2)
        return 3 if narrow or len(self.panels) in (3, 6) else 2


def grid_of(panel: HeatmapPanel | ImagePanel) -> np.ndarray:
    """The values of a grid or an image as floats, shape (rows, columns).

    Args:
        panel: the panel.

    Returns:
        The array.
    """
    values = panel.values if isinstance(panel, HeatmapPanel) else panel.image
    return np.asarray(values, dtype=float)


def on_grid(panel: HeatmapPanel, series: Series) -> tuple[np.ndarray, np.ndarray]:
    """A series in cell numbers, 0 at the centre of the first column or row.

    Args:
        panel: the grid; its positions increase.
        series: one of its curves.

    Returns:
        Horizontal and vertical cell numbers; NaN outside of the grid.
    """
    ends = {"left": np.nan, "right": np.nan}
    numbers = []
    for values, positions in ((panel.x_values, series.x), (panel.y_values, series.y)):
        cells = np.asarray(values, float)
        numbers.append(np.interp(np.asarray(positions, float), cells, np.arange(len(cells)), **ends))
    return numbers[0], numbers[1]


def has_missing(panel: AnyPanel) -> bool:
    """Whether a grid or an image has cells that were not measured.

    Args:
        panel: any panel.

    Returns:
        False for panels of curves, where a gap speaks for itself.
    """
    return not isinstance(panel, Panel) and bool(np.isnan(grid_of(panel)).any())


def _keep(owner: object, *names: str) -> None:
    """Store copies of the arrays among a frozen dataclass's fields that nobody writes to."""
    for name in names:
        if (value := getattr(owner, name)) is not None:
            array = np.array(value)
            array.setflags(write=False)
            object.__setattr__(owner, name, array)
