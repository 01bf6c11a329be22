"""The numbers of a figure as text: what a reader would otherwise have to measure off the axes."""

import dataclasses

import numpy as np

from flatmin._core import checked_anywhere
from flatmin.experiments.figures import AnyPanel, Figure, HeatmapPanel, ImagePanel, Panel, Series, grid_of
from flatmin.experiments.numbers import format_interval, format_number

_MOST_POINTS = 40
_MOST_CELLS = 900


@dataclasses.dataclass(frozen=True)
class ValueTable:
    """A table of texts; the first column names the rows.

    Attributes:
        title: what it shows.
        header: one text a column.
        rows: texts, as many in each row as in the header.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@checked_anywhere()
def value_tables(figure: Figure) -> tuple[ValueTable, ...]:
    """One table a panel: end values of curves, all values of points and of small grids.

    Args:
        figure: the figure.

    Returns:
        The tables, in the order of the panels.
    """
    return tuple(table for panel in figure.panels for table in _tables_of(panel))


def _tables_of(panel: AnyPanel) -> list[ValueTable]:
    if isinstance(panel, ImagePanel):
        return [_grid_summary(panel)]
    if isinstance(panel, HeatmapPanel):
        return [_grid_table(panel) if grid_of(panel).size <= _MOST_CELLS else _grid_summary(panel)]
    curves = [s for s in panel.series if s.kind != "points" or len(np.asarray(s.x)) > _MOST_POINTS]
    points = [s for s in panel.series if s not in curves]
    tables = [_end_values(panel, curves)] if curves or panel.lines else []
    return tables + [_point_values(panel, s) for s in points]


def _end_values(panel: Panel, curves: list[Series]) -> ValueTable:
    header = (
        "series",
        f"last {panel.x.text}",
        f"last {panel.y.text}",
        "interval there",
        "smallest",
        "largest",
    )
    rows = []
    for series in curves:
        x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
        measured = np.flatnonzero(np.isfinite(y))
        if len(measured) == 0:
            rows.append((series.label, "", "not measured", "", "", ""))
            continue
        last = measured[-1]
        numbers = (float(x[last]), float(y[last]))
        extremes = (y[measured].min(), y[measured].max())
        rows.append(
            (
                series.label,
                *map(format_number, numbers),
                _interval(series, int(last)),
                *map(format_number, extremes),
            )
        )
    rows += [(f"{line.label} (line)", "", format_number(line.value), "", "", "") for line in panel.lines]
    return ValueTable(panel.title, header, tuple(rows))


def _point_values(panel: Panel, series: Series) -> ValueTable:
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    rows = tuple((format_number(x[i]), format_number(y[i]), _interval(series, i)) for i in range(len(x)))
    return ValueTable(f"{panel.title}: {series.label}", (panel.x.text, panel.y.text, "interval"), rows)


def _grid_table(panel: HeatmapPanel) -> ValueTable:
    x_values, y_values = np.asarray(panel.x_values), np.asarray(panel.y_values)
    header = (f"{panel.y.text} ↓, {panel.x.text} →", *map(format_number, x_values))
    rows = [(format_number(v), *map(format_number, row)) for v, row in zip(y_values, grid_of(panel), strict=True)]
    return ValueTable(f"{panel.title}: {panel.color.text}", header, tuple(reversed(rows)))


def _grid_summary(panel: HeatmapPanel | ImagePanel) -> ValueTable:
    values = grid_of(panel)
    known = values[np.isfinite(values)]
    numbers = (known.min(), known.mean(), known.max()) if known.size else (np.nan,) * 3
    size = f"{values.shape[0]} × {values.shape[1]}"
    header = ("size (rows × columns)", "smallest", "mean", "largest", "not measured")
    return ValueTable(panel.title, header, ((size, *map(format_number, numbers), str(int(np.isnan(values).sum()))),))


def _interval(series: Series, index: int) -> str:
    if series.low is None or series.high is None:
        return ""
    return format_interval((float(np.asarray(series.low)[index]), float(np.asarray(series.high)[index])))
