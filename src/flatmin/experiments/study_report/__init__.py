"""The report of a study: its figures as data, stored as a run in its folder, rebuilt from them alone."""

import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import create_model

from flatmin._core import checked_anywhere
from flatmin.experiments.figure_data import figure_data
from flatmin.experiments.runs import Run, RunContent, obtain_run
from flatmin.experiments.specs import Experiment, RunSpec, setting
from flatmin.experiments.study_report.comparison import comparison_figure
from flatmin.experiments.study_report.figures import study_figures as study_figures
from flatmin.studies import DONE, FAILED
from flatmin.studies.store import Store, content_hash
from flatmin.studies.study import Study
from flatmin.studies.view import study_dataset

VERSION = 1


class StudyReport(RunSpec):
    """What a report shows."""

    study: str = setting(origin="ours", description="name of the study")
    id: str = setting(origin="ours", description="id of the spec, and lanes of a compiled call")
    cells: int = setting(origin="ours", description="cells of the grid")
    done: int = setting(origin="ours", description="finished cells")
    failed: int = setting(origin="ours", description="failed cells")
    content: str = setting(origin="ours", description="SHA-256 of all results")
    against: str = setting(
        "", origin="ours", description="SHA-256 of the results of the study that it is compared with"
    )


@checked_anywhere()
def report_study(store: Store, render: Callable[[Run, pathlib.Path], None], *, against: Store | None = None) -> Run:
    """Make the report of a study, as far as it is.

    Args:
        store: the study.
        render: draws the page and the figures of a run.
        against: a study to compare it with.

    Returns:
        The run in `FOLDER/report/`; earlier reports of the study are removed.

    Raises:
        UsageError: if the two studies cannot be compared.
        JobError: if the disk refuses.
    """
    study, content = store.study, store.read()
    other = None if against is None else (against.study, against.read())
    rows = _rows(study)
    fields: dict[str, Any] = {k: (str, setting(origin="ours", description=what)) for k, (_, what) in rows.items()}
    spec = create_model("StudyReport", __base__=StudyReport, **fields)(
        **{name: value for name, (value, _) in rows.items()},
        study=study.spec.name,
        id=study.id,
        cells=study.grid.size,
        done=content.count(DONE),
        failed=content.count(FAILED),
        content=content_hash(study, content),
        against="" if other is None else content_hash(*other),
    )
    title = study.spec.title or study.spec.name
    experiment = Experiment("study", VERSION, title, study.spec.description)

    def compute(_: StudyReport) -> RunContent:
        figures = study_figures(study, content)
        if other is not None:
            names = (study.spec.name, other[0].spec.name)
            names = names if names[0] != names[1] else (names[0], f"{names[1]} (other)")
            figures.insert(0, comparison_figure(study_dataset(study, content), study_dataset(*other), names))
        return RunContent(figure_data(figures))

    out = store.folder / "report"
    run, _ = obtain_run(experiment, spec, compute, out=out, render=render)
    for old in out.glob("study-*"):
        if old.name != run.path.name and old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
    return run


def _rows(study: Study) -> dict[str, tuple[str, str]]:
    """Text and meaning of each table and axis of a study, by name."""
    plain = study.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    rows = {
        f"{name} table": (
            ", ".join(f"{k} = {json.dumps(v).replace(chr(34), '')}" for k, v in table.items()),
            f"[{name}] of the spec",
        )
        for name, table in plain.items()
        if isinstance(table, dict) and table and name not in ("axes", "seeds", "random")
    }
    rows["precision"] = (study.spec.precision, "of the training; measurements are float64")
    if study.spec.random is not None:
        draws = [f"{key}: {json.dumps(how)}" for key, how in plain["random"]["draw"].items()]
        rows["random"] = ("; ".join(draws), f"settings drawn for each of {study.spec.random.samples:,} samples")
    return rows | {
        f"axis {axis.key}": (_few(axis.values), f"{len(axis):,} value{'s' if len(axis) > 1 else ''}")
        for axis in study.grid.axes
    }


def _few(values: Sequence[object]) -> str:
    listed = list(values[:5])
    more = len(values) - 5
    return ", ".join(" × ".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in listed) + (
        f" and {more:,} more" if more > 0 else ""
    )
