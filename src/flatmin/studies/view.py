"""A study as labelled arrays and as a table; missing cells are NaN, so that it can be looked at while it runs."""

import contextlib
import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from flatmin._core import JobError, UsageError
from flatmin._core.text import spreadsheet_cell
from flatmin.storage.folders import replace_file
from flatmin.storage.netcdf import write_netcdf
from flatmin.studies.grid import draw
from flatmin.studies.store import Content
from flatmin.studies.study import Study, random_labels

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SUFFIXES = (".nc", ".csv", ".parquet")
STATES = "0 missing, 1 done, 2 failed"


def study_dataset(study: Study, content: Content) -> "xr.Dataset":
    """All results over the axes of the study.

    Args:
        study: the study.
        content: read with values.

    Returns:
        One variable an output, over the axes (and `step` for records); `state` of each cell; the values of random
        settings over `sample`. NaN where a cell is missing or failed.
    """
    import xarray as xr

    dimensions = [axis.label for axis in study.grid.axes]
    shape = study.grid.shape
    variables: dict[str, Any] = {}
    for name, output in study.outputs.items():
        over = [*dimensions, "step"] if output.shape else dimensions
        attributes = {"long_name": output.quantity.description, "units": output.quantity.unit}
        if name == "outcome":
            attributes["meaning"] = outcome_meaning()
        stored = content.values[name].reshape(*shape, *output.shape)
        variables[name] = (over, stored, {k: v for k, v in attributes.items() if v})
    variables["state"] = (dimensions, content.states.reshape(shape), {"meaning": STATES})
    coordinates: dict[str, Any] = {}
    for axis in study.grid.axes:
        coordinates[axis.label] = (axis.label, labels(axis.values), {"setting": axis.key})
    if study.times.size:
        coordinates["step"] = ("step", study.times, {"long_name": "steps done"})
    random = study.spec.random
    if random is not None:
        for key, label in random_labels(study.spec).items():
            plain = random.draw[key].model_dump()
            drawn = [draw(plain, key, random.seed, sample) for sample in range(random.samples)]
            coordinates[label] = ("sample", labels(drawn), {"setting": key})
    spec = study.spec
    attributes = {
        "study": spec.name,
        "title": spec.title,
        "id": study.id,
        "spec": json.dumps(spec.model_dump(mode="json", by_alias=True, exclude_unset=True)),
    }
    return xr.Dataset(variables, coordinates, {k: v for k, v in attributes.items() if v})


def outcome_meaning() -> str:
    """What the numbers of `outcome` stand for."""
    from flatmin.studies._training import OUTCOMES

    return ", ".join(f"{i} {outcome.name}" for i, outcome in enumerate(OUTCOMES))


def labels(values: Any) -> np.ndarray:
    """Values of an axis as an array that a file can hold: numbers, else texts."""
    values = list(values)
    if all(isinstance(v, bool) for v in values):
        return np.array(values)
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return np.array(values, np.int64)
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.array(values, float)
    return np.array([" × ".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values])


def study_table(study: Study, content: Content) -> "pd.DataFrame":
    """One row a finished or failed cell: its settings, its results, and the reason of a failure.

    Args:
        study: the study.
        content: read with values.

    Returns:
        The table; records along the training are not in it.
    """
    import pandas as pd

    cells = np.flatnonzero(content.states)
    columns: dict[str, Any] = {"cell": cells}
    for axis, stride, size in zip(study.grid.axes, study.grid.strides, study.grid.shape, strict=True):
        columns[axis.label] = labels(axis.values)[cells // stride % size]
    random = study.spec.random
    if random is not None:
        for key, label in random_labels(study.spec).items():
            plain = random.draw[key].model_dump()
            drawn = labels(draw(plain, key, random.seed, s) for s in range(random.samples))
            columns[label] = drawn[columns["sample"]]
    columns["state"] = np.array(["missing", "done", "failed"])[content.states[cells]]
    for name, output in study.outputs.items():
        if not output.shape:
            columns[name] = content.values[name][cells]
    if content.reasons:
        columns["reason"] = [content.reasons.get(int(cell), "") for cell in cells]
    return pd.DataFrame(columns)


def export_study(study: Study, content: Content, path: str | pathlib.Path) -> pathlib.Path:
    """Write a study as one file.

    Args:
        study: the study.
        content: read with values.
        path: `.nc` (labelled arrays), `.csv` or `.parquet` (a row a cell).

    Returns:
        The file.

    Raises:
        UsageError: for another suffix.
        JobError: if the disk refuses; a file that was there stays.
    """
    target = pathlib.Path(path)
    if target.suffix not in SUFFIXES:
        raise UsageError(f"to: got {target.name!r}, expected a name that ends in {', '.join(SUFFIXES)}")
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".nc":
            write_netcdf(study_dataset(study, content), part)
        elif target.suffix == ".csv":
            _spreadsheet(study_table(study, content)).to_csv(part, index=False)
        else:
            study_table(study, content).to_parquet(part, index=False)
        replace_file(target, part.read_bytes())
    except OSError as error:
        raise JobError(f"to: cannot write {target} ({error.strerror or error}); choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return target


def _spreadsheet(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with texts and names marked that a spreadsheet would compute."""
    marked = table.rename(columns=lambda name: spreadsheet_cell(str(name)))
    for name in marked.columns:
        if marked[name].dtype.kind not in "biuf":
            marked[name] = [spreadsheet_cell(v) if isinstance(v, str) else v for v in marked[name]]
    return marked
