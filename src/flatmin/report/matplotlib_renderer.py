"""Figures for print: 6.5 inches wide, 8 to 9 points, vector PDF with embedded fonts, PNG at 200 dpi.

Only `matplotlib.figure.Figure` objects are made: no pyplot, no global state, no display.
"""

import io
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from flatmin._core import Choice, UsageError, checked_anywhere
from flatmin.experiments.figures import (
    Figure,
    HeatmapPanel,
    ImagePanel,
    Panel,
    ReferenceLine,
    Series,
    grid_of,
    has_missing,
    on_grid,
)
from flatmin.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

WIDTH = 6.5
_HATCH = "xxxx"
_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 8,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.labelpad": 2.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": style.INK,
    "text.color": style.INK,
    "axes.labelcolor": style.INK,
    "xtick.color": style.INK,
    "ytick.color": style.INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": style.GRID,
    "grid.linewidth": 0.5,
    "lines.solid_capstyle": "round",
    "hatch.linewidth": 0.4,
    "legend.frameon": False,
    "text.parse_math": False,
    "text.usetex": False,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "savefig.dpi": 200,
    "figure.dpi": 100,
}


@checked_anywhere()
def to_matplotlib(figure: Figure) -> "MatplotlibFigure":
    """Draw a figure for print.

    Args:
        figure: the figure.

    Returns:
        A matplotlib figure, 6.5 inches wide; write it with `write_matplotlib` for embedded fonts.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    styles = style.styles_of(figure)
    columns = figure.columns_or_default
    rows = -(-len(figure.panels) // columns)
    with mpl.rc_context(_RC):
        drawn = MatplotlibFigure(figsize=(WIDTH, 1.0), layout=_layout_engine())
        FigureCanvasAgg(drawn)
        axes = drawn.subplots(rows, columns, squeeze=False).ravel()
        for empty in axes[len(figure.panels) :]:
            empty.remove()
        for index, (ax, panel) in enumerate(zip(axes, figure.panels, strict=False)):
            ax.set_title(style.panel_heading(index, panel.title, len(figure.panels)))
            if isinstance(panel, Panel):
                _draw_panel(ax, panel, styles)
            elif isinstance(panel, HeatmapPanel):
                _draw_heatmap(ax, panel, styles)
            else:
                _draw_image(ax, panel)
        legend_rows = _draw_legend(drawn, figure)
        drawn.set_size_inches(WIDTH, rows * _row_height(figure, columns) + 0.17 * legend_rows + 0.1)
        drawn.align_ylabels(axes[: len(figure.panels)])
    return drawn


@checked_anywhere(kind=Choice("pdf", "png"))
def matplotlib_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as a file's content.

    Args:
        figure: the figure.
        kind: `pdf` or `png`.

    Returns:
        The bytes; the same figure gives the same bytes (no date inside).
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(_RC):
        metadata = {"Title": figure.title, "CreationDate": None} if kind == "pdf" else {"Title": figure.title}
        to_matplotlib(figure).savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


@checked_anywhere()
def write_matplotlib(figure: Figure, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Write `<key>.pdf` and `<key>.png`.

    Args:
        figure: the figure.
        folder: an existing folder.

    Returns:
        Both paths.

    Raises:
        UsageError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"folder: got {folder}, expected a folder that exists; make it first")
    paths = (folder / f"{figure.key}.pdf", folder / f"{figure.key}.png")
    for path in paths:
        path.write_bytes(matplotlib_bytes(figure, path.suffix[1:]))
    return paths


def _layout_engine() -> Any:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.05)


def _row_height(figure: Figure, columns: int) -> float:
    width = WIDTH / columns
    heights = []
    for panel in figure.panels:
        if isinstance(panel, Panel):
            heights.append(min(0.66 * width, 2.9) + 0.25)
        elif isinstance(panel, HeatmapPanel):
            heights.append(min(0.8 * width, 3.2) + 0.2)
        else:
            rows, cols = grid_of(panel).shape
            heights.append(min(rows / cols * (width - 0.15), 4.0) + 0.42)
    return max(heights)


def _draw_panel(ax: "Axes", panel: Panel, styles: dict[str, style.Style]) -> None:
    floor = style.axis_range(panel, "y")[0]
    for name in ("x", "y"):
        _set_axis(ax, panel, name)
    ax.grid(visible=True, which="major")
    for series in style.drawn(panel).series:
        _draw_series(ax, series, styles[series.label], floor if panel.y.log else None)
    for line in panel.lines:
        _draw_reference(ax, line, styles[line.label])


def _set_axis(ax: "Axes", panel: Panel, name: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis = getattr(panel, name)
    low, high = style.axis_range(panel, name)
    getattr(ax, f"set_{name}label")(axis.text)
    drawn = getattr(ax, f"{name}axis")
    if axis.log:
        getattr(ax, f"set_{name}scale")("log")
        decades = np.log10(high / low)
        drawn.set_major_locator(FixedLocator(style.log_ticks(low, high)))
        drawn.set_minor_locator(LogLocator(base=10, subs=tuple(range(2, 10)) if decades < 7 else (1,), numticks=60))
        drawn.set_minor_formatter(NullFormatter())
    else:
        drawn.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    getattr(ax, f"set_{name}lim")(low, high)
    drawn.set_major_formatter(FuncFormatter(lambda value, _: style.tick_text(value, axis, (low, high))))


def _draw_series(ax: "Axes", series: Series, look: style.Style, floor: float | None) -> None:
    x, y = np.asarray(series.x), np.asarray(series.y)
    low, high = series.low, series.high
    if low is not None and floor is not None:  # a log axis has no room below its floor
        low = np.where(np.asarray(low) > 0, low, floor)
    if series.kind == "points":
        bars = None if low is None else np.abs(np.stack([y - np.asarray(low), np.asarray(high) - y]))
        ax.errorbar(
            x,
            y,
            yerr=bars,
            fmt=look.marker,
            color=look.color,
            ms=4.2,
            mfc="white",
            mew=1.1,
            elinewidth=0.9,
            capsize=2,
            label=series.label,
            zorder=3,
        )
        return
    if low is not None and high is not None:
        step = "post" if series.kind == "steps" else None
        ax.fill_between(x, low, high, color=look.color, alpha=0.2, lw=0, step=step, zorder=1.5)
    if series.kind != "band":
        drawstyle = "steps-post" if series.kind == "steps" else "default"
        ax.plot(
            x,
            y,
            color=look.color,
            ls=look.dash,
            lw=look.width,
            drawstyle=drawstyle,
            label=series.label,
            zorder=2.5,
        )


def _draw_reference(ax: "Axes", line: ReferenceLine, look: style.Style) -> None:
    draw = ax.axhline if line.axis == "y" else ax.axvline
    draw(line.value, color=look.color, ls=look.dash, lw=look.width, label=line.label, zorder=2)


def _draw_heatmap(ax: "Axes", panel: HeatmapPanel, styles: dict[str, style.Style]) -> None:
    from matplotlib import patheffects
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import FixedLocator, FuncFormatter

    low, high = style.color_range(panel)
    norm = (LogNorm if panel.color.log else Normalize)(low, high)
    image = ax.imshow(grid_of(panel), origin="lower", cmap="gray", norm=norm, aspect="auto", interpolation="nearest")
    _mark_missing(ax, panel)
    for series in panel.series:
        look, (x, y) = styles[series.label], on_grid(panel, series)
        points = series.kind == "points"
        # a white edge keeps it visible on black
        (drawn,) = ax.plot(x, y, color=look.color, ls="" if points else look.dash, marker=look.marker if points else "")
        drawn.set(lw=look.width + 0.3, ms=4, label=series.label)
        drawn.set_path_effects([patheffects.withStroke(linewidth=look.width + 2, foreground="white")])
    for name, values in (("x", np.asarray(panel.x_values)), ("y", np.asarray(panel.y_values))):
        axis = getattr(panel, name)
        chosen = style.grid_ticks(values)
        limits = (float(values.min()), float(values.max()))
        labels = [style.tick_text(float(values[i]), axis, limits) for i in chosen]
        getattr(ax, f"set_{name}ticks")(chosen, labels)
        getattr(ax, f"set_{name}label")(axis.text)
    ax.spines[:].set_visible(True)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=18)
    bar.set_label(panel.color.text)
    if panel.color.log:
        bar.ax.yaxis.set_major_locator(FixedLocator(style.log_ticks(low, high)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: style.tick_text(v, panel.color, (low, high))))
    bar.outline.set_linewidth(0.6)


def _draw_image(ax: "Axes", panel: ImagePanel) -> None:
    low, high = style.color_range(panel)
    ax.imshow(grid_of(panel), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    _mark_missing(ax, panel)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)


def _mark_missing(ax: "Axes", panel: HeatmapPanel | ImagePanel) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    cells = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in np.argwhere(np.isnan(grid_of(panel)))]
    if cells:
        hatch = _HATCH if style.crosses_missing(panel) else None
        ax.add_collection(
            PatchCollection(cells, facecolor=style.MISSING, edgecolor=style.GREY, hatch=hatch, linewidth=0)
        )


def _draw_legend(drawn: "MatplotlibFigure", figure: Figure) -> int:
    """Put one legend below all panels; returns its number of rows."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    labels = []
    for entry in style.legend_of(figure):
        look = entry.style
        line = Line2D([], [], color=look.color, ls=look.dash, lw=look.width)
        point = Line2D([], [], color=look.color, ls="", marker=look.marker, ms=4.2, mfc="white", mew=1.1)
        patch = Patch(color=look.color, alpha=0.2, lw=0)
        mark: Any = {"line": line, "points": point, "band": patch}[entry.mark]
        handles.append((patch, line) if entry.mark == "line" and entry.interval else mark)
        labels.append(entry.label)
    missing = [p for p in figure.panels if not isinstance(p, Panel) and has_missing(p)]
    if missing:
        hatch = _HATCH if any(map(style.crosses_missing, missing)) else None
        handles.append(Patch(facecolor=style.MISSING, edgecolor=style.GREY, hatch=hatch, lw=0))
        labels.append("not measured")
    if not handles:
        return 0
    columns = len(labels)
    while columns > 1 and _legend_width(labels, columns) > WIDTH - 0.2:
        columns -= 1
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)
    drawn.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        handlelength=2.6,
        columnspacing=1.6,
        borderaxespad=0.2,
    )
    return rows


def _legend_width(labels: list[str], columns: int) -> float:
    """Estimated width in inches; matplotlib fills the columns from top to bottom."""
    rows = -(-len(labels) // columns)
    widths = [max(map(len, labels[i : i + rows])) for i in range(0, len(labels), rows)]
    return sum(0.062 * width + 0.6 for width in widths)
