"""Figures for the browser: the same data and styles as in print, with hover, zoom and switchable series."""

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from flatmin._core import checked_anywhere
from flatmin.experiments.figures import (
    AnyPanel,
    Axis,
    Figure,
    HeatmapPanel,
    ImagePanel,
    Panel,
    ReferenceLine,
    Series,
    grid_of,
    on_grid,
)
from flatmin.experiments.numbers import format_number
from flatmin.report import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
_PANEL_HEIGHT = 300


@checked_anywhere()
def to_plotly(figure: Figure) -> "go.Figure":
    """Draw a figure for a notebook: all panels in one plotly figure, legend below.

    Args:
        figure: the figure.

    Returns:
        A plotly figure; each series, reference line, grid and image is a trace with its label as `meta`.
    """
    import plotly.graph_objects as go

    styles = style.styles_of(figure)
    columns = figure.columns_or_default
    rows = -(-len(figure.panels) // columns)
    height = 60 + rows * (_PANEL_HEIGHT + 40)
    drawn = go.Figure(layout=_layout(height=height, margin={"l": 60, "r": 20, "t": 70, "b": 110}))
    drawn.update_layout(title={"text": html.escape(figure.title, quote=False), "font": {"size": 16}, "x": 0})
    drawn.update_layout(legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0})
    shown: set[str] = set()
    for index, panel in enumerate(figure.panels):
        row, column = divmod(index, columns)
        x_domain, y_domain = (
            _cell(column, columns, 0.1),
            _cell(rows - 1 - row, rows, 0.24 / max(rows, 1) + 0.06),
        )
        suffix = "" if index == 0 else str(index + 1)
        traces, x_axis, y_axis = panel_parts(panel, styles)
        for trace in traces:
            trace.update(xaxis=f"x{suffix}", yaxis=f"y{suffix}")
            if trace["type"] == "heatmap" and trace.get("showscale"):
                trace["colorbar"] |= {
                    "x": x_domain[1],
                    "y": sum(y_domain) / 2,
                    "len": y_domain[1] - y_domain[0],
                }
            elif trace.get("meta") and "legendgroup" in trace:
                wanted = trace.pop("in_legend")
                trace["showlegend"] = wanted and trace["meta"] not in shown
                shown |= {trace["meta"]} if wanted else set()
            drawn.add_trace(trace)
        if "scaleanchor" in y_axis:
            y_axis["scaleanchor"] = f"x{suffix}"
        drawn.update_layout({f"xaxis{suffix}": {**x_axis, "domain": x_domain, "anchor": f"y{suffix}"}})
        drawn.update_layout({f"yaxis{suffix}": {**y_axis, "domain": y_domain, "anchor": f"x{suffix}"}})
        heading = style.panel_heading(index, panel.title, len(figure.panels))
        drawn.add_annotation(
            text=html.escape(heading, quote=False),
            x=x_domain[0],
            y=y_domain[1],
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"size": 13},
        )
    return drawn


def panel_to_plotly(panel: AnyPanel, styles: dict[str, style.Style]) -> "go.Figure":
    """One panel without heading and legend, for pages that bring their own.

    Args:
        panel: the panel.
        styles: from `styles_of(figure)`, so that labels look the same in all panels.

    Returns:
        A plotly figure.
    """
    import plotly.graph_objects as go

    traces, x_axis, y_axis = panel_parts(panel, styles)
    for trace in traces:
        trace.pop("in_legend", None)
    height = _PANEL_HEIGHT
    if isinstance(panel, ImagePanel):
        rows, columns = grid_of(panel).shape
        height = int(np.clip(380 * rows / columns, 120, 420))
    margin = {"l": 8, "r": 12, "t": 28, "b": 8}
    return go.Figure(traces, _layout(height=height, margin=margin, showlegend=False, xaxis=x_axis, yaxis=y_axis))


def panel_parts(
    panel: AnyPanel, styles: dict[str, style.Style]
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Traces and axes of one panel.

    Args:
        panel: the panel.
        styles: style by label.

    Returns:
        Traces, horizontal axis and vertical axis in plotly's words.
    """
    if isinstance(panel, Panel):
        ranges = {"x": style.axis_range(panel, "x"), "y": style.axis_range(panel, "y")}
        pairs = zip(panel.series, style.drawn(panel).series, strict=True)
        traces = [t for s, seen in pairs for t in _series_traces(s, seen, styles[s.label], panel, ranges["y"][0])]
        traces += [_reference_trace(line, styles[line.label], ranges) for line in panel.lines]
        return traces, _axis(panel.x, ranges["x"]), _axis(panel.y, ranges["y"])
    if isinstance(panel, HeatmapPanel):
        x_values, y_values = np.asarray(panel.x_values), np.asarray(panel.y_values)
        where = np.stack(np.meshgrid(x_values, y_values), axis=-1).astype(float)
        names = (panel.x.text, panel.y.text, panel.color.text)
        traces = _grid_traces(panel, where, names)
        traces += [_overlay_trace(panel, s, styles[s.label]) for s in panel.series]
        return traces, _grid_axis(panel.x, x_values), _grid_axis(panel.y, y_values)
    rows, columns = grid_of(panel).shape
    where = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).astype(float)
    bare = {"visible": False, "constrain": "domain"}
    y_axis = {**bare, "autorange": "reversed", "scaleanchor": "x"}
    return _grid_traces(panel, where, ("column", "row", "value")), dict(bare), y_axis


def _layout(**fields: Any) -> dict[str, Any]:
    font = {"family": FONT, "size": 12, "color": style.INK}
    clear = {"paper_bgcolor": "rgba(0, 0, 0, 0)", "plot_bgcolor": "rgba(0, 0, 0, 0)"}
    bar = {
        "bgcolor": "rgba(0, 0, 0, 0)",
        "color": style.GREY,
        "activecolor": style.INK,
        "remove": ["sendChartToCloud"],
    }
    return {
        "template": "none",
        "modebar": bar,
        "font": font,
        "hovermode": "closest",
        "dragmode": "zoom",
        **clear,
        **fields,
    }


def _axis(axis: Axis, limits: tuple[float, float]) -> dict[str, Any]:
    low, high = limits
    look: dict[str, Any] = {
        "title": {"text": html.escape(axis.text, quote=False), "standoff": 6, "font": {"size": 12}},
        "type": "log" if axis.log else "linear",
        "range": [float(np.log10(low)), float(np.log10(high))] if axis.log else [low, high],
        "gridcolor": style.GRID,
        "linecolor": style.INK,
        "tickcolor": style.INK,
        "ticks": "outside",
        "ticklen": 4,
        "showline": True,
        "zeroline": False,
        "automargin": True,
        "exponentformat": "power",
        "nticks": 6,
    }
    if axis.log:
        chosen = style.log_ticks(low, high)
        look |= {"tickvals": chosen, "ticktext": [style.tick_text(value, axis, limits) for value in chosen]}
        look["minor"] = {"ticks": "outside", "ticklen": 2, "dtick": "D1", "tickcolor": style.GREY}
    elif max(abs(low), abs(high)) >= 1e4:
        look["tickformat"] = "~s"
    return look


def _grid_axis(axis: Axis, values: np.ndarray) -> dict[str, Any]:
    chosen = style.grid_ticks(values)
    limits = (float(values.min()), float(values.max()))
    return {
        "title": {"text": html.escape(axis.text, quote=False), "standoff": 6, "font": {"size": 12}},
        "range": [-0.5, len(values) - 0.5],
        "tickvals": chosen,
        "ticktext": [style.tick_text(float(values[i]), axis, limits) for i in chosen],
        "ticks": "outside",
        "tickcolor": style.INK,
        "ticklen": 4,
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
        "linecolor": style.INK,
        "showline": True,
        "mirror": True,
    }


def _series_traces(
    given: Series, series: Series, look: style.Style, panel: Panel, floor: float
) -> list[dict[str, Any]]:
    """The traces of a series as it is drawn; what a reader points at shows the data as they were given."""
    label = html.escape(series.label, quote=False)
    x, y = (np.asarray(v, dtype=float) for v in (series.x, series.y))
    shared = {
        "type": "scatter",
        "name": label,
        "meta": series.label,
        "legendgroup": series.label,
        "in_legend": True,
    }
    main: dict[str, Any] = {**shared, "x": x, "y": y, "mode": "lines"}
    names = (html.escape(panel.x.text), html.escape(panel.y.text))
    hover = f"{label}<br>{names[0]}: %{{x:.6~g}}<br>{names[1]}: %{{y:.4~g}}"
    if given is not series:
        there = zip(np.asarray(given.x, dtype=float), np.asarray(given.y, dtype=float), strict=True)
        main["text"] = [f"{names[0]}: {u:.6g}<br>{names[1]}: {v:.4g}" for u, v in there]
        hover = f"{label}<br>%{{text}}"
    traces = [main]
    if series.low is not None and series.high is not None:
        low, high = (np.asarray(v, dtype=float) for v in (series.low, series.high))
        main["customdata"] = np.stack([low, high], axis=-1)
        hover += " [%{customdata[0]:.4~g}, %{customdata[1]:.4~g}]"
        if series.kind == "points":
            main["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": high - y,
                "arrayminus": y - low,
                "thickness": 1.2,
                "width": 3,
            }
        else:
            bottom = np.where(low > 0, low, floor) if panel.y.log else low
            polygon_x, polygon_y = _polygons(x, bottom, high, stepped=series.kind == "steps")
            band = {
                **shared,
                "x": polygon_x,
                "y": polygon_y,
                "fill": "toself",
                "fillcolor": style.tint(look.color, 0.2),
                "mode": "lines",
                "line": {"width": 0, "color": look.color},
                "hoverinfo": "skip",
                "in_legend": series.kind == "band",
            }
            traces = [band] if series.kind == "band" else [band, main]
    main["hovertemplate"] = hover + "<extra></extra>"
    if series.kind == "points":
        main["mode"] = "markers"
        symbol = look.symbol if look.symbol.endswith("-open") else f"{look.symbol}-open"
        main["marker"] = {
            "symbol": symbol,
            "size": 8,
            "color": look.color,
            "line": {"width": 1.6, "color": look.color},
        }
    else:
        shape = "hv" if series.kind == "steps" else "linear"
        main["line"] = {"color": look.color, "dash": look.css_dash, "width": 1.5 * look.width, "shape": shape}
    return traces


def _polygons(x: np.ndarray, low: np.ndarray, high: np.ndarray, *, stepped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Outlines of a band, one polygon for each stretch without gaps, parted by NaN."""
    good = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    xs: list[np.ndarray] = []
    ys: list[np.ndarray] = []
    stretches = np.split(np.arange(len(x)), np.flatnonzero(np.diff(good.astype(int))) + 1)
    for stretch in stretches:
        if not good[stretch[0]]:
            continue
        along, bottom, top = x[stretch], low[stretch], high[stretch]
        if stepped:
            along = np.repeat(along, 2)[1:]
            bottom, top = np.repeat(bottom, 2)[:-1], np.repeat(top, 2)[:-1]
        xs += [along, along[::-1], along[:1], np.array([np.nan])]
        ys += [top, bottom[::-1], top[:1], np.array([np.nan])]
    return np.concatenate(xs or [np.array([np.nan])]), np.concatenate(ys or [np.array([np.nan])])


def _overlay_trace(panel: HeatmapPanel, series: Series, look: style.Style) -> dict[str, Any]:
    """A curve over a grid, whose axes count cells."""
    label = html.escape(series.label, quote=False)
    x, y = on_grid(panel, series)
    names = (html.escape(panel.x.text), html.escape(panel.y.text))
    return {
        "type": "scatter",
        "name": label,
        "meta": series.label,
        "legendgroup": series.label,
        "in_legend": True,
        "x": x,
        "y": y,
        "customdata": np.stack([np.asarray(series.x, float), np.asarray(series.y, float)], axis=-1),
        "mode": "markers" if series.kind == "points" else "lines",
        "marker": {"symbol": look.symbol, "size": 7, "color": look.color},
        "line": {"color": look.color, "dash": look.css_dash, "width": 2 * look.width},
        "hovertemplate": f"{label}<br>{names[0]}: %{{customdata[0]:.4~g}}<br>{names[1]}: %{{customdata[1]:.4~g}}"
        "<extra></extra>",
    }


def _reference_trace(line: ReferenceLine, look: style.Style, ranges: dict[str, tuple[float, float]]) -> dict[str, Any]:
    value = np.full(2, float(line.value))
    across = np.array(ranges["x" if line.axis == "y" else "y"])
    label = html.escape(line.label, quote=False)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label,
        "meta": line.label,
        "legendgroup": line.label,
        "in_legend": True,
        "x": across if line.axis == "y" else value,
        "y": value if line.axis == "y" else across,
        "line": {"color": look.color, "dash": look.css_dash, "width": 1.5 * look.width},
        "hovertemplate": f"{label}: {format_number(line.value)}<extra></extra>",
    }


def _grid_traces(
    panel: HeatmapPanel | ImagePanel, where: np.ndarray, names: tuple[str, str, str]
) -> list[dict[str, Any]]:
    values = grid_of(panel)
    low, high = style.color_range(panel)
    x_name, y_name, color_name = (html.escape(n, quote=False) for n in names)
    place = f"{x_name}: %{{customdata[0]:~g}}<br>{y_name}: %{{customdata[1]:~g}}"
    shared = {"type": "heatmap", "meta": panel.title, "customdata": where}
    bar = isinstance(panel, HeatmapPanel)
    main: dict[str, Any] = {
        **shared,
        "z": values,
        "zmin": low,
        "zmax": high,
        "colorscale": [[0, "#000000"], [1, "#ffffff"]],
    }
    main |= {"showscale": bar, "hovertemplate": f"{place}<br>{color_name}: %{{z:.4~g}}<extra></extra>"}
    if bar:
        title = {"text": color_name, "side": "right", "font": {"size": 12}}
        main["colorbar"] = {
            "title": title,
            "thickness": 12,
            "outlinewidth": 0.6,
            "outlinecolor": style.INK,
            "exponentformat": "power",
        }
        if panel.color.log:
            main["z"] = np.log10(np.where(values > 0, values, np.nan))
            main |= {"zmin": np.log10(low), "zmax": np.log10(high), "text": values}
            main["hovertemplate"] = f"{place}<br>{color_name}: %{{text:.4~g}}<extra></extra>"
            chosen = style.log_ticks(low, high)
            main["colorbar"] |= {
                "tickvals": [float(np.log10(value)) for value in chosen],
                "ticktext": [style.tick_text(value, panel.color, (low, high)) for value in chosen],
            }
    missing = np.isnan(values)
    if not missing.any():
        return [main]
    mask = {
        **shared,
        "z": np.where(missing, 1.0, np.nan),
        "showscale": False,
        "colorscale": [[0, style.MISSING], [1, style.MISSING]],
        "hovertemplate": f"{place}<br>not measured<extra></extra>",
    }
    if not style.crosses_missing(panel):
        return [main, mask]
    rows, columns = np.nonzero(missing)
    crosses = {
        "type": "scatter",
        "mode": "markers",
        "x": columns.astype(float),
        "y": rows.astype(float),
        "hoverinfo": "skip",
        "marker": {"symbol": "x-thin", "size": 5, "line": {"width": 1, "color": style.MISSING_CROSS}},
        "showlegend": False,
    }
    return [main, mask, crosses]


def _cell(index: int, count: int, gap: float) -> tuple[float, float]:
    gap = gap if count > 1 else 0.0
    width = (1 - gap * (count - 1)) / count
    return index * (width + gap), min(index * (width + gap) + width, 1.0)
