"""A figure as labelled arrays and back, so that pages are rebuilt from data alone.

Arrays become variables named by panel letter and position (`a0_y` over the coordinate `a0_x`); all else
is JSON in the variable `figure`. The round trip is exact, NaN and integer types included.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flatmin._core import Foreign, UsageError, checked_anywhere
from flatmin.experiments.figures import (
    AnyPanel,
    Axis,
    Figure,
    HeatmapPanel,
    ImagePanel,
    Panel,
    ReferenceLine,
    Series,
)
from flatmin.experiments.runs import Run

if TYPE_CHECKING:
    import xarray as xr

DATASET = Foreign("xarray.Dataset")
_MARK = "figure"
_FORMAT = 1
_PANELS = {"curves": Panel, "heatmap": HeatmapPanel, "image": ImagePanel}
_ARRAYS = {"x", "y", "low", "high", "x_values", "y_values", "values", "image"}


@checked_anywhere()
def figure_data(figures: Sequence[Figure]) -> dict[str, "xr.Dataset"]:
    """Figures as the datasets of a `RunContent`; they are stored as `data/figure-<n>-<key>.nc`.

    Args:
        figures: the figures, in the order of the page.

    Returns:
        Dataset by name.

    Raises:
        UsageError: if two figures share a key.
    """
    keys = [f.key for f in figures]
    if len(set(keys)) != len(keys):
        raise UsageError(f"figures: got the keys {', '.join(keys)}, expected different ones; rename the repeated")
    return {f"figure-{i:02d}-{f.key}": to_dataset(f) for i, f in enumerate(figures, start=1)}


@checked_anywhere()
def figures_of(run: Run) -> dict[str, Figure]:
    """The figures of a stored run.

    Args:
        run: the run.

    Returns:
        Figure by the name of its dataset, in the order of the page.
    """
    loaded = {name: run.dataset(name) for name in run.data_names}
    return {name: from_dataset(dataset) for name, dataset in loaded.items() if is_figure(dataset)}


@checked_anywhere()
def to_dataset(figure: Figure) -> "xr.Dataset":
    """The labelled arrays behind a figure.

    Args:
        figure: the figure.

    Returns:
        A dataset that `from_dataset` turns back into an equal figure.
    """
    import xarray as xr

    arrays: dict[str, Any] = {}
    coordinates: dict[str, Any] = {}
    panels = []
    for index, panel in enumerate(figure.panels):
        name = _letter(index)
        kind = next(kind for kind, cls in _PANELS.items() if isinstance(panel, cls))
        if isinstance(panel, Panel):
            for number, series in enumerate(panel.series):
                _put_series(arrays, coordinates, f"{name}{number}", panel, series)
        elif isinstance(panel, HeatmapPanel):
            rows, columns = f"{name}_rows", f"{name}_columns"
            coordinates[rows] = (rows, panel.y_values, _attributes(panel.y))
            coordinates[columns] = (columns, panel.x_values, _attributes(panel.x))
            arrays[f"{name}_values"] = (
                (rows, columns),
                panel.values,
                _attributes(panel.color, panel=panel.title),
            )
            for number, series in enumerate(panel.series):
                _put_series(arrays, coordinates, f"{name}{number}", panel, series)
        else:
            arrays[f"{name}_image"] = (
                (f"{name}_rows", f"{name}_columns"),
                panel.image,
                {"panel": panel.title},
            )
        panels.append({"kind": kind, **_without_arrays(panel)})
    plain = {"format": _FORMAT, **_without_arrays(figure), "panels": panels}
    arrays[_MARK] = ((), json.dumps(plain, ensure_ascii=False))
    attributes = {"title": figure.title, "caption": figure.full_caption}
    return xr.Dataset(arrays, coordinates, {k: v for k, v in attributes.items() if v})


@checked_anywhere(dataset=DATASET)
def is_figure(dataset: "xr.Dataset") -> bool:
    """Whether a dataset was made by `to_dataset`.

    Args:
        dataset: any dataset.

    Returns:
        True if `from_dataset` takes it.
    """
    return _MARK in dataset.variables and dataset[_MARK].ndim == 0


@checked_anywhere(dataset=DATASET)
def from_dataset(dataset: "xr.Dataset") -> Figure:
    """The figure that `to_dataset` stored.

    Args:
        dataset: what `to_dataset` returned, possibly read from a file.

    Returns:
        The figure.

    Raises:
        UsageError: if the dataset holds no figure.
    """
    if not is_figure(dataset):
        raise UsageError("dataset: got one without a figure, expected what to_dataset wrote")
    try:
        plain = json.loads(str(dataset[_MARK].item()))
        if plain.pop("format") != _FORMAT:
            raise UsageError(
                f"dataset: got a figure of another format, expected {_FORMAT}; use the flatmin that wrote it"
            )
        panels = tuple(_panel(dataset, _letter(i), entry) for i, entry in enumerate(plain.pop("panels")))
        return Figure(panels=panels, **plain)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"dataset: holds no whole figure ({error!r}), expected what to_dataset wrote") from error


def _put_series(
    arrays: dict[str, Any], coordinates: dict[str, Any], name: str, panel: Panel | HeatmapPanel, series: Series
) -> None:
    dimension = f"{name}_x"
    coordinates[dimension] = (dimension, series.x, _attributes(panel.x))
    for end in ("y", "low", "high"):
        values = getattr(series, end)
        if values is not None:
            labels = {"series": series.label, "panel": panel.title}
            arrays[f"{name}_{end}"] = (dimension, values, _attributes(panel.y, **labels))


def _panel(dataset: "xr.Dataset", name: str, plain: dict[str, Any]) -> AnyPanel:
    kind = plain.pop("kind")
    for axis in ("x", "y", "color"):
        if axis in plain:
            plain[axis] = Axis(**_tupled(plain[axis]))
    series = plain.pop("series", [])
    if kind == "heatmap":
        names = {"x_values": f"{name}_columns", "y_values": f"{name}_rows", "values": f"{name}_values"}
        plain.update({key: dataset[variable].values for key, variable in names.items()})
        return HeatmapPanel(**plain, series=_all_series(dataset, name, series))
    if kind == "image":
        return ImagePanel(**_tupled(plain), image=dataset[f"{name}_image"].values)
    lines = [ReferenceLine(**entry) for entry in plain.pop("lines")]
    return Panel(**plain, series=_all_series(dataset, name, series), lines=tuple(lines))


def _all_series(dataset: "xr.Dataset", name: str, plain: list[dict[str, Any]]) -> tuple[Series, ...]:
    return tuple(_series(dataset, f"{name}{i}", entry) for i, entry in enumerate(plain))


def _series(dataset: "xr.Dataset", name: str, plain: dict[str, Any]) -> Series:
    ends = {e: dataset[f"{name}_{e}"].values for e in ("x", "y", "low", "high") if f"{name}_{e}" in dataset.variables}
    plain.update(ends)
    return Series(**plain)


def _without_arrays(part: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values, arrays left out (axes stay: they are dataclasses)."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            plain[field.name] = _without_arrays(value)
        elif field.name in ("series", "lines"):
            plain[field.name] = [_without_arrays(v) for v in value]
        elif field.name != "panels" and not (
            field.name in _ARRAYS and (value is None or isinstance(value, np.ndarray))
        ):
            plain[field.name] = value
    return plain


def _tupled(plain: dict[str, Any]) -> dict[str, Any]:
    limits = plain.get("limits")
    return plain if limits is None else {**plain, "limits": tuple(limits)}


def _attributes(axis: Axis, **labels: str) -> dict[str, str]:
    return {k: v for k, v in {"long_name": axis.label, "units": axis.unit, **labels}.items() if v}


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else f"panel{index}_"
