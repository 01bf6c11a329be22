"""The figures of a study, as data: phase diagrams, bands over the seeds, small multiples, curves along the training."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from flatmin._core import checked_anywhere
from flatmin._core.intervals import wilson
from flatmin.experiments.figures import Axis, Figure, HeatmapPanel, Panel, Series
from flatmin.experiments.numbers import format_interval, format_number
from flatmin.experiments.study_report.fits import PowerLaw, power_law
from flatmin.experiments.study_report.layout import (
    MOST_SERIES,
    REPEATS,
    axis_of,
    is_logarithmic,
    layout_of,
    left_out,
    panels_of,
    positions,
    value_text,
)
from flatmin.studies.adaptive import transitions
from flatmin.studies.quantities import POINT, SOLVER
from flatmin.studies.store import Content
from flatmin.studies.study import Study, random_labels
from flatmin.studies.view import study_dataset

if TYPE_CHECKING:
    import xarray as xr

_LEFT_OUT = ("outcome", "steps", "state")


@checked_anywhere()
def study_figures(study: Study, content: Content) -> list[Figure]:
    """All figures of a study, finished or not.

    Args:
        study: the study.
        content: read with values.

    Returns:
        One figure a quantity, then the transitions of probabilities, then the curves along the training.
    """
    data = study_dataset(study, content)
    # what has one value only is a setting, not an axis
    data = data.isel({d: 0 for d, n in data.sizes.items() if n == 1 and d not in (*REPEATS, "step")})
    scalar = [name for name in study.outputs if name not in _LEFT_OUT and not _is_companion(name, study.outputs)]
    made = [_quantity_figure(data, name) for name in scalar]
    made += [f for name in scalar if (f := _transition_figure(study, content, data, name)) is not None]
    for name, label in random_labels(study.spec).items():
        del name
        if data[label].dtype.kind in "iuf":
            made += [_scatter_figure(data, quantity, label) for quantity in scalar]
    recorded = [f"{name}_along" for name in study.spec.measure.record]
    made += [_along_figure(data, name) for name in recorded]
    return [figure for figure in made if figure is not None]


def _is_companion(name: str, names: Iterable[str]) -> bool:
    """Whether an output goes with another one: its error, or its course along the training."""
    return name.endswith("_along") or (name.endswith("_error") and name.removesuffix("_error") in names)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _slug(*names: str) -> str:
    return "-".join(name.lower().replace("_", "-") for name in names).strip("-")


def _is_probability(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return known.size > 0 and bool(np.isin(known, (0.0, 1.0)).all()) and values.ndim > 0


def _is_log(name: str, values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    declared = {**POINT, **SOLVER}.get(name.removesuffix("_along"))
    if known.size == 0 or known.min() <= 0:
        return False
    return declared is not None and declared.log and bool(known.max() > 10 * known.min())


def _words(data: "xr.Dataset", name: str) -> str:
    return str(data[name].attrs.get("long_name", name.replace("_", " ")))


def _repeats(values: "xr.DataArray") -> list[str]:
    return [str(d) for d in values.dims if d in REPEATS]


def _summary(values: np.ndarray, *, probability: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle and ends over the last axis; NaN where nothing was measured."""
    shape = values.shape[:-1]
    found = np.full((*shape, 3), np.nan)
    for index in np.ndindex(*shape):
        known = values[index][np.isfinite(values[index])]
        if known.size:
            ends = np.quantile(known, [0.1, 0.9]) if known.size >= 5 else (known.min(), known.max())
            plain = (np.median(known), *ends)
            found[index] = wilson(int(known.sum()), known.size) if probability else plain
    return found[..., 0], found[..., 1], found[..., 2]


def _intervals(count: int, *, probability: bool) -> str:
    if probability:
        return "95% Wilson intervals of the probability"
    ends = "10% to 90% quantiles" if count >= 5 else "smallest to largest"
    return f"{ends} over {count} runs; the curve is the median"


def _stacked(data: "xr.Dataset", name: str, order: list[str]) -> np.ndarray:
    """The values with the repeats flattened into the last axis."""
    values = data[name]
    repeats = _repeats(values)
    arranged = values.transpose(*order, *repeats).values
    return np.asarray(arranged, float).reshape(*(data.sizes[d] for d in order), -1)


def _quantity_figure(data: "xr.Dataset", name: str) -> Figure | None:
    values = data[name]
    if not np.isfinite(values.values).any():
        return None
    dimensions = [str(d) for d in values.dims if d not in REPEATS]
    layout = layout_of(data, dimensions)
    probability = _is_probability(values.values)
    log = not probability and _is_log(name, values.values)
    label = "probability" if probability else name.replace("_", " ")
    color = Axis(label, log=log, limits=(-0.03, 1.03) if probability else None)
    repeats = int(np.prod([data.sizes[d] for d in _repeats(values)], dtype=int))
    panels: list[Any] = []
    notes: list[str] = []
    for title, where in panels_of(data, layout.multiples):
        chosen = data.isel(where)
        heading = title or _words(data, name)
        if layout.x is None:
            runs = _stacked(chosen, name, []).ravel()
            panels.append(
                Panel(heading, Axis("run"), color, (Series(label, np.arange(runs.size), runs, kind="points"),))
            )
        elif layout.grid and layout.second is not None:
            panels.append(_grid(chosen, name, (layout.x, layout.second), heading, log=log, probability=probability))
        else:
            panel, fits = _curves(chosen, name, (layout.x, layout.second), heading, color, probability=probability)
            panels.append(panel)
            notes += [f"{heading}, {words}" if title else words for words in fits]
    missing = left_out(data, layout.multiples)
    caption = f"{_upper(_words(data, name))}."
    if missing:
        caption += f" {missing} further panels are in the exported data only."
    if notes:
        caption += " Fitted powers, with 95% intervals: " + "; ".join(notes[:MOST_SERIES]) + "."
    if layout.grid:
        caption += (
            " Each cell is the "
            + ("share" if probability else "median")
            + f" of {repeats} run{'s' if repeats > 1 else ''}."
        )
    curves = layout.x is not None and not layout.grid
    return Figure(
        key=_slug(name),
        title=f"Probability of {name.replace('_', ' ')}" if probability else _upper(_words(data, name)),
        caption=caption,
        panels=tuple(panels),
        intervals=_intervals(repeats, probability=probability) if curves else "",
    )


def _grid(
    data: "xr.Dataset", name: str, axes: tuple[str, str], heading: str, *, log: bool, probability: bool
) -> HeatmapPanel:
    across, up = axes
    middle = _summary(_stacked(data, name, [up, across]), probability=probability)[0]
    label = name.replace("_", " ")
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            middle, label = np.log10(middle), f"log₁₀ {label}"
    limits = (0.0, 1.0) if probability else _limits(middle)
    x, y = positions(data, across), positions(data, up)
    columns, rows = np.argsort(x), np.argsort(y)
    return HeatmapPanel(
        heading,
        axis_of(data, across, log=False),
        axis_of(data, up, log=False),
        x[columns],
        y[rows],
        middle[rows][:, columns],
        Axis("probability" if probability else label, limits=limits),
    )


def _limits(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _curves(
    data: "xr.Dataset", name: str, axes: tuple[str, str | None], heading: str, axis: Axis, *, probability: bool
) -> tuple[Panel, list[str]]:
    across, second = axes
    order = [across] if second is None else [second, across]
    values = _stacked(data, name, order)
    if second is None:
        values = values[None]
    middle, low, high = _summary(values, probability=probability)
    x = positions(data, across)
    sort = np.argsort(x)
    series, notes = [], []
    for k in range(min(len(values), 4 * MOST_SERIES)):
        words = name.replace("_", " ") if second is None else value_text(data, second, k)
        ends = {"low": low[k, sort], "high": high[k, sort]} if values.shape[-1] > 1 else {}
        series.append(Series(words, x[sort], middle[k, sort], **ends))
        fit = None if probability or x.min() <= 0 or x.max() < 4 * x.min() else power_law(x, values[k])
        if fit is not None and fit.r_squared > 0.9:
            notes.append(f"{words}: {_exponent(fit)}")
            series.append(Series("fitted power", x[sort], fit.at(x[sort]), role="theory"))
    return Panel(heading, axis_of(data, across), axis, tuple(series)), notes


def _exponent(fit: PowerLaw) -> str:
    return f"{format_number(fit.exponent, 3)} {format_interval((fit.low, fit.high), 3)}"


def _transition_figure(study: Study, content: Content, data: "xr.Dataset", name: str) -> Figure | None:
    """Where a probability passes one half, by the fitted logistic curve of each line."""
    adaptive = study.spec.adaptive
    values = data[name]
    if not _is_probability(values.values):
        return None
    numeric = [axis for axis in study.grid.axes if axis.label not in REPEATS and data[axis.label].dtype.kind in "iuf"]
    if adaptive is not None and adaptive.quantity == name:
        along = next(axis for axis in study.grid.axes if axis.key == adaptive.axis)
    elif numeric:
        along = max(numeric, key=len)
    else:
        return None
    if len(along) < 3:
        return None
    found = transitions(study, content, along.key, name)
    fitted = [(line, fit) for line, fit in found if np.isfinite(fit.middle_error)]
    others = [axis for axis in numeric if axis.key != along.key and len(axis) > 1]
    if not fitted:
        return None
    if not others or len(fitted) < 2:
        words = [f"{format_number(f.middle)} ± {format_number(f.half_width, 2)}" for _, f in fitted[:8]]
        series = []
        for line, fit in fitted[:MOST_SERIES]:
            share = line.intervals()
            label = ", ".join(f"{k.rpartition('.')[2]} = {v}" for k, v in line.labels.items()) or "trials"
            used = np.isfinite(share[:, 0])
            x = np.linspace(line.positions.min(), line.positions.max(), 120)
            series.append(
                Series(label, line.positions[used], share[used, 0], share[used, 1], share[used, 2], kind="points")
            )
            series.append(Series("fitted logistic curve", x, fit.at(x), role="theory"))
        panel = Panel(
            "Transition", axis_of(data, along.label), Axis("probability", limits=(-0.03, 1.03)), tuple(series)
        )
        caption = f"Half of the trials succeed at {'; '.join(words)} (95%)."
        return Figure(_slug(name, "transition"), f"Transition of {name}", caption, (panel,), None, _WILSON)
    second = max(others, key=len)
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for line, fit in fitted:
        rest = {k: v for k, v in line.labels.items() if k != second.key}
        label = ", ".join(f"{k.rpartition('.')[2]} = {v}" for k, v in rest.items()) or f"half of {name}"
        at = float(line.labels[second.key])  # pyright: ignore[reportArgumentType]
        groups.setdefault(label, []).append((at, fit.middle, fit.half_width))
    series = []
    for label, points in list(groups.items())[: 2 * MOST_SERIES]:
        at, middle, half = np.array(sorted(points)).T
        series.append(Series(label, at, middle, middle - half, middle + half, kind="points"))
    trials = sum(fit.trials for _, fit in fitted)
    panel = Panel("Transition", axis_of(data, second.label), Axis(along.label.replace("_", " ")), tuple(series))
    caption = (
        f"Where {name} passes one half along {along.label.replace('_', ' ')}: logistic curves fitted to "
        f"{trials:,} trials, {study.grid.size:,} in the full grid."
    )
    return Figure(_slug(name, "transition"), f"Transition of {name}", caption, (panel,), None, _FIT)


_WILSON = "95% Wilson intervals of the probability"
_FIT = "95% intervals of the fitted middle"


def _scatter_figure(data: "xr.Dataset", name: str, label: str) -> Figure | None:
    """A quantity against a random setting, one point a run."""
    others = [str(d) for d in data[name].dims if d not in REPEATS]
    layout = layout_of(data, others)
    second = layout.x
    x = data[label].values.astype(float)
    series = []
    for k in range(min(data.sizes[second], MOST_SERIES) if second else 1):
        chosen = data if second is None else data.isel({second: k})
        values = chosen[name].transpose("sample", ...).values.reshape(len(x), -1)
        middle = _summary(values, probability=False)[0]
        words = name.replace("_", " ") if second is None else value_text(data, second, k)
        series.append(Series(words, x, middle, kind="points"))
    if not any(np.isfinite(np.asarray(s.y)).any() for s in series):
        return None
    axis = Axis(label.replace("_", " "), log=is_logarithmic(np.sort(x)))
    log = _is_log(name, data[name].values)
    panel = Panel(_words(data, name), axis, Axis(name.replace("_", " "), log=log), tuple(series))
    caption = "One point a sample: the median over the seeds and all other axes."
    return Figure(_slug(name, "against", label), _upper(f"{name} against {label}".replace("_", " ")), caption, (panel,))


def _along_figure(data: "xr.Dataset", name: str) -> Figure | None:
    values = data[name]
    if not np.isfinite(values.values).any():
        return None
    dimensions = [str(d) for d in values.dims if d not in (*REPEATS, "step")]
    swept = sorted((d for d in dimensions if data.sizes[d] > 1), key=lambda d: data.sizes[d], reverse=True)
    second = next((d for d in swept if data.sizes[d] <= MOST_SERIES), None)
    multiples = tuple(d for d in swept if d != second)
    what = name.removesuffix("_along")
    axis = Axis(what.replace("_", " "), log=_is_log(name, values.values))
    repeats = int(np.prod([data.sizes[d] for d in _repeats(values)], dtype=int))
    panels = []
    for title, where in panels_of(data, multiples):
        chosen = data.isel(where)
        heading = title or "Along the training"
        panels.append(_curves(chosen, name, ("step", second), heading, axis, probability=False)[0])
    missing = left_out(data, multiples)
    caption = f"{_upper(_words(data, name))}, along the training."
    caption += f" {missing} further panels are in the exported data only." if missing else ""
    return Figure(
        key=_slug(name),
        title=f"{_upper(what.replace('_', ' '))} along the training",
        caption=caption,
        panels=tuple(panels),
        intervals=_intervals(repeats, probability=False) if repeats > 1 else "",
    )
