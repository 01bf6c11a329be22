"""What figures look like, decided once for both renderers: colours, lines, markers, ranges, ticks."""

import colorsys
import dataclasses
import math
from typing import Any, Literal

import numpy as np

from flatmin.experiments.figures import (
    Axis,
    Figure,
    HeatmapPanel,
    ImagePanel,
    Panel,
    ReferenceLine,
    Series,
    grid_of,
)
from flatmin.experiments.numbers import format_number, power_of_ten

# Okabe and Ito's colours without yellow (too light on white), darkest first: on a light page and on a dark one
_PALETTE = {
    "#0072B2": "#4aa8e8",
    "#D55E00": "#f0803c",
    "#009E73": "#2fc39a",
    "#CC79A7": "#e39ac4",
    "#E69F00": "#f0b429",
    "#56B4E9": "#9bd4f7",
}
# for the seventh curve and on: purple, brown, olive, crimson
_FURTHER = {"#5B3A8C": "#b39ae6", "#7A4419": "#c99a6b", "#6B7A00": "#b9c94a", "#A50F35": "#f27a96"}
# ink, grey, grid lines, missing entries and the crosses on them, likewise
_PLAIN = {"#1b1b1c": "#e8e8ea", "#7f7f80": "#9a9a9e", "#dededf": "#3a3d44", "#cfe5f5": "#35506a", "#4c6a80": "#a9cbe6"}
PALETTE = tuple(_PALETTE)
"""Colours that are told apart by colour-blind readers too; `data_color` gives further ones."""
INK, GREY, GRID, MISSING, MISSING_CROSS = _PLAIN
DARK = _PLAIN | _PALETTE | _FURTHER
"""What each colour becomes on a dark page."""
_MOST_CROSSES = 600
_GOLDEN = (5**0.5 - 1) / 2
# (matplotlib dash, plotly dash)
_DASHES = (
    ("-", "solid"),
    ((0, (5, 2)), "8px,3px"),
    ((0, (6, 1.6, 1, 1.6)), "10px,3px,2px,3px"),
    ((0, (1, 1.2)), "2px,2px"),
    ((0, (6, 1.4, 1, 1.4, 1, 1.4)), "10px,3px,2px,3px,2px,3px"),
    ((0, (9, 2)), "14px,4px"),
)
_MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("X", "x"),
)
_REFERENCE_DASHES = (
    ((0, (4, 2)), "6px,3px"),
    ((0, (1, 1.5)), "2px,2px"),
    ((0, (7, 2, 1.5, 2)), "10px,3px,2px,3px"),
)


@dataclasses.dataclass(frozen=True)
class Style:
    """How one label is drawn, in the words of both renderers.

    Attributes:
        color: hexadecimal colour.
        dash: dash for matplotlib.
        css_dash: dash for plotly and SVG.
        marker: marker for matplotlib.
        symbol: marker for plotly.
        width: line width in points.
    """

    color: str
    dash: str | tuple[float, tuple[float, ...]]
    css_dash: str
    marker: str = "o"
    symbol: str = "circle"
    width: float = 1.3


@dataclasses.dataclass(frozen=True)
class LegendEntry:
    """One line of the legend.

    Attributes:
        label: its text.
        style: its style.
        mark: what is drawn beside the text.
        interval: whether a band or an error bar belongs to it.
    """

    label: str
    style: Style
    mark: Literal["line", "points", "band"]
    interval: bool


def data_color(index: int) -> str:
    """The colour of a figure's curve by its number: no two are equal.

    Args:
        index: the number, from 0.

    Returns:
        `#rrggbb`: first the palette, then four further ones, then hues a golden angle apart at one lightness.
    """
    chosen = (*_PALETTE, *_FURTHER)
    if index < len(chosen):
        return chosen[index]
    parts = colorsys.hls_to_rgb((index - len(chosen)) * _GOLDEN % 1, 0.42, 0.55)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def drawn(panel: Panel) -> Panel:
    """A panel as it is drawn: values below the floor of their axis at the floor, sets of points apart.

    Args:
        panel: the panel with its data.

    Returns:
        The panel with what is drawn in place of the data; the same one where nothing moves.
    """
    if not panel.dodge and panel.x.floor is None and panel.y.floor is None:
        return panel
    labels = list(dict.fromkeys(s.label for s in panel.series if s.kind == "points"))

    def moved(series: Series) -> Series:
        x = np.asarray(series.x, dtype=float)
        if series.kind == "points":
            x = x + panel.dodge * (labels.index(series.label) - (len(labels) - 1) / 2)
        ends = {
            e: v if v is None else _raised(v, panel.y.floor) for e, v in (("low", series.low), ("high", series.high))
        }
        return dataclasses.replace(series, x=_raised(x, panel.x.floor), y=_raised(series.y, panel.y.floor), **ends)

    return dataclasses.replace(panel, series=tuple(map(moved, panel.series)))


def _raised(values: Any, floor: float | None) -> np.ndarray:
    return np.asarray(values) if floor is None else np.maximum(np.asarray(values, dtype=float), floor)


def styles_of(figure: Figure) -> dict[str, Style]:
    """One style a label, the same in every panel.

    Args:
        figure: the figure.

    Returns:
        Style by label, in order of first appearance: series first, then reference lines.
    """
    styles: dict[str, Style] = {}
    count = 0
    for series in _series_of(figure):
        if series.label in styles:
            continue
        if series.role == "theory":
            styles[series.label] = Style(INK, "-", "solid", "x", "x-thin-open", 1.0)
        elif series.role == "context":
            styles[series.label] = Style(GREY, "-", "solid", width=0.9)
        else:
            dash, css_dash = _DASHES[(count + count // len(PALETTE)) % len(_DASHES)]
            marker, symbol = _MARKERS[(count + count // len(PALETTE)) % len(_MARKERS)]
            styles[series.label] = Style(data_color(count), dash, css_dash, marker, symbol)
            count += 1
    references = 0
    for line in _lines_of(figure):
        if line.label not in styles:
            dash, css_dash = _REFERENCE_DASHES[references % len(_REFERENCE_DASHES)]
            styles[line.label] = Style(INK, dash, css_dash, width=0.9)
            references += 1
    return styles


def legend_of(figure: Figure) -> tuple[LegendEntry, ...]:
    """The legend of the whole figure, each label once.

    Args:
        figure: the figure.

    Returns:
        Entries in the order of `styles_of`.
    """
    styles = styles_of(figure)
    first: dict[str, LegendEntry] = {}
    for series in _series_of(figure):
        mark: Literal["line", "points", "band"] = "line" if series.kind == "steps" else series.kind
        first.setdefault(series.label, LegendEntry(series.label, styles[series.label], mark, series.low is not None))
    for line in _lines_of(figure):
        first.setdefault(line.label, LegendEntry(line.label, styles[line.label], "line", interval=False))
    return tuple(first[label] for label in styles)


def axis_range(panel: Panel, name: Literal["x", "y"]) -> tuple[float, float]:
    """Both ends of an axis: all that is drawn, with some air; in data units also for log axes.

    Args:
        panel: the panel.
        name: which axis.

    Returns:
        The ends, low < high, positive for a log axis.
    """
    axis: Axis = getattr(panel, name)
    if axis.limits is not None:
        return axis.limits
    panel = drawn(panel)
    arrays = [np.asarray(getattr(s, name), dtype=float) for s in panel.series]
    if name == "y":
        arrays += [np.asarray(v, dtype=float) for s in panel.series for v in (s.low, s.high) if v is not None]
    arrays += [np.array([line.value]) for line in panel.lines if line.axis == name]
    values = np.concatenate(arrays) if arrays else np.array([0.0, 1.0])
    values = values[np.isfinite(values) & ((values > 0) | (not axis.log))]
    if values.size == 0:
        return (0.1, 1.0) if axis.log else (0.0, 1.0)
    forward, back = (math.log10, lambda v: 10.0**v) if axis.log else (float, float)
    low, high = forward(values.min()), forward(values.max())
    span = high - low
    if span == 0:
        span = 1.0 if axis.log else (abs(high) or 1.0)
    air = 0.06 * span if name == "y" else 0.03 * span
    return back(low - air), back(high + air)


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Where a logarithmic axis has labels: at least two, so that a reader can tell the scale.

    Args:
        low: lower end, positive.
        high: upper end, larger.
        most: the largest number of labels on an axis of more than a decade.

    Returns:
        The finest of: all digits, 1-2-5, powers of ten, every so many-th power, with at most `most`; on an axis without
        two of them, evenly spaced round numbers.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    slack = 1 + 1e-9

    def marks(digits: tuple[int, ...], stride: int = 1) -> list[float]:
        start = first if stride == 1 else -(-first // stride) * stride
        values = [float(f"{digit}e{power}") for power in range(start, last + 1, stride) for digit in digits]
        return [value for value in values if low / slack <= value <= high * slack]

    choices = [
        marks(tuple(range(1, 10))),
        marks((1, 2, 5)),
        *(marks((1,), stride) for stride in range(1, last - first + 1)),
    ]
    for chosen in choices:
        if 2 <= len(chosen) <= most:
            return chosen
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(size * power for size in (1, 2, 5) if size * power <= (high - low) / 2)
    return [
        float(f"{step * i:.12g}") for i in range(math.ceil(low / step / slack), math.floor(high / step * slack) + 1)
    ]


def color_range(panel: HeatmapPanel | ImagePanel) -> tuple[float, float]:
    """The values of black and white.

    Args:
        panel: a grid or an image.

    Returns:
        The given limits, else the range of the finite values.
    """
    limits = panel.color.limits if isinstance(panel, HeatmapPanel) else panel.limits
    if limits is not None:
        return limits
    values = grid_of(panel)
    values = values[np.isfinite(values)]
    if isinstance(panel, HeatmapPanel) and panel.color.log:
        values = values[values > 0]
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low, low + (abs(low) or 1.0))


def crosses_missing(panel: HeatmapPanel | ImagePanel) -> bool:
    """Whether the cells are large enough for a cross on the tint of those that were not measured.

    Args:
        panel: a grid or an image.

    Returns:
        True for grids of a few hundred cells.
    """
    return grid_of(panel).size <= _MOST_CROSSES


def grid_ticks(values: np.ndarray, most: int = 7) -> list[int]:
    """Which columns (or rows) of a grid get a tick label: all, or evenly spaced ones at the roundest numbers.

    Args:
        values: the positions.
        most: the largest number of labels.

    Returns:
        Indices into `values`.
    """
    least = max(1, math.ceil(len(values) / most))
    if least == 1:
        return list(range(len(values)))
    choices = [list(range(start, len(values), step)) for step in range(least, 2 * least) for start in range(step)]
    return min(choices, key=lambda chosen: np.mean([_digits(float(values[i])) for i in chosen]))


def tick_text(value: float, axis: Axis, limits: tuple[float, float]) -> str:
    """A tick's label in plain Unicode, in one notation for the whole axis.

    Args:
        value: the tick.
        axis: its axis.
        limits: both ends of the axis; they decide between plain numbers, thousands and powers of ten.

    Returns:
        The text.
    """
    if value == 0:
        return "0"
    low, high = limits
    if axis.log:
        if low >= 9e-4 and high < 2e4:
            return f"{value:.6g}"
        power = math.floor(math.log10(value) + 1e-9)
        factor = value / 10.0**power
        return power_of_ten(power) if math.isclose(factor, 1, rel_tol=1e-6) else f"{factor:.3g}×{power_of_ten(power)}"
    largest = max(abs(low), abs(high))
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= (10 * size if size == 1e3 else 2 * size):
            return f"{value / size:g}{letter}".replace("-", "−")
    if largest < 1e-3:
        return format_number(value, 3)
    return f"{value:.6g}".replace("-", "−")


def tint(color: str, opacity: float) -> str:
    """A colour as CSS with opacity.

    Args:
        color: `#rrggbb`.
        opacity: 0 to 1.

    Returns:
        Text such as `rgba(0, 114, 178, 0.2)`.
    """
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:g})"


def panel_heading(index: int, title: str, count: int) -> str:
    """`(a) title`; no letter for a single panel.

    Args:
        index: position of the panel.
        title: its title.
        count: number of panels.

    Returns:
        The heading.
    """
    return title if count == 1 else f"({chr(ord('a') + index % 26)}) {title}"


def _digits(value: float) -> int:
    """Significant digits needed to write a number, at most six."""
    return len(f"{value:.5e}".split("e")[0].replace(".", "").replace("-", "").rstrip("0"))


def _series_of(figure: Figure) -> list[Series]:
    return [s for p in figure.panels if not isinstance(p, ImagePanel) for s in p.series]


def _lines_of(figure: Figure) -> list[ReferenceLine]:
    return [line for p in figure.panels if isinstance(p, Panel) for line in p.lines]
