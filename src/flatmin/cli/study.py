"""`flatmin study new|check|run|status|report|export`."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flatmin.cli._help import verb
from flatmin.cli._streams import say

if TYPE_CHECKING:
    from flatmin.studies import Study, StudySpec
    from flatmin.studies.store import Content, Store

study = typer.Typer(
    name="study",
    help="Studies: grids of cells in one file, resumed bit for bit, on one machine or many.",
    rich_markup_mode=None,
)
_OUT = pathlib.Path("studies")
File = Annotated[pathlib.Path, typer.Argument(help="A study: a .toml or .yaml file.", metavar="FILE")]
Where = Annotated[str, typer.Argument(help="A study's file, its folder, or its name in --out.", metavar="STUDY")]
Out = Annotated[pathlib.Path, typer.Option(help="Folder of studies.")]


@verb(study, "flatmin study new mine")
def new(
    name: Annotated[
        str, typer.Argument(help="Its name: lower-case words joined by hyphens.", metavar="NAME")
    ] = "study",
) -> None:
    """Write a commented template, NAME.toml."""
    from flatmin._core import UsageError
    from flatmin.cli._tables import print_lines
    from flatmin.storage.folders import replace_file
    from flatmin.studies.reading import study_spec
    from flatmin.studies.template import TEMPLATE

    name = name.removesuffix(".toml")
    path = pathlib.Path(f"{name}.toml")
    if path.exists():
        raise UsageError(f"name: {path} exists; choose another name")
    text = TEMPLATE.format(name=name)
    import tomllib

    study_spec(tomllib.loads(text))
    replace_file(path, text.encode())
    print_lines([f"Wrote {path}. Change it, then: flatmin study check {path}"])


@verb(study, "flatmin study check mine.toml")
def check(
    file: File,
    out: Out = _OUT,
    workers: Annotated[int, typer.Option(help="Processes, for the estimate.")] = 1,
    probe: Annotated[bool, typer.Option(help="Time a few cells.")] = True,
) -> None:
    """Explain a study: its cells, the time and memory it takes, and what would be computed."""
    spec = _load(file)
    from flatmin._core import check_at_least
    from flatmin.cli._tables import print_lines, print_table
    from flatmin.studies import DONE, FAILED
    from flatmin.studies.opening import check_cells, check_room, count_valid, find_store
    from flatmin.studies.probe import probe as time_blocks
    from flatmin.studies.store import Store
    from flatmin.studies.study import plan

    check_at_least("workers", workers, 1)
    folder = out / spec.name
    before = find_store(folder) if (folder / "study.json").is_file() else None
    chosen = plan(spec, before.study.width if before else None)
    check_room(folder, chosen)
    impossible = check_cells(chosen)
    size = chosen.grid.size * chosen.bytes_per_cell
    print_table(("axis", "setting", "values"), [(a.label, a.key, _values(a)) for a in chosen.grid.axes])
    print_lines(
        [
            f"{chosen.grid.size:,} cells {_calls(chosen)}; {size / 1e6:,.1f} MB on disk.",
            f"Measured: {', '.join(chosen.outputs)}.",
            *impossible,
        ]
    )
    todo: Sequence[int] = range(len(chosen.blocks))
    if before is not None:
        store = Store(folder, chosen)
        content = store.read(values=False)
        finished, kept = count_valid(before, store)
        todo = _open(chosen, content)
        words = [f"{folder}: {kept:,} cells are finished and valid, {content.count(FAILED):,} failed."]
        if kept < finished:
            words.append(
                f"The spec was edited: {finished - kept:,} of {finished:,} finished cells are not in it any more."
            )
        if content.damaged:
            words.append(f"{_count(len(content.damaged), 'segment')} damaged; their cells will be computed again.")
        words.append(f"To compute: {chosen.grid.size - content.count(DONE) - content.count(FAILED):,} cells.")
        print_lines(words)
    if probe and todo:
        found = time_blocks(chosen, len(todo), chosen.compilations(todo))
        if found.gave_up:
            print_lines(["One compiled call takes more than a minute: no estimate."])
        else:
            about = "At most" if spec.stopping.early else "About"
            estimate = (
                f"{about} {_duration(found.seconds(workers))} with {_count(workers, 'process', 'es')} "
                f"({1e3 * found.block_seconds:,.3g} ms a call, {found.first_seconds:,.3g} s the first of a kind); "
                f"{found.memory * workers / 1e6:,.0f} MB of memory."
            )
            print_lines([estimate])
        print_lines(f"Will fail: {reason}" for reason in found.failures)


@verb(study, "flatmin study run mine.toml --workers 2")
def run(
    file: File,
    out: Out = _OUT,
    workers: Annotated[int, typer.Option(help="Processes on this machine.")] = 1,
    batch_size: Annotated[
        int | None, typer.Option(help="Compiled calls stored together; default: half a second.")
    ] = None,
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n shares, for job arrays.")] = "1/1",
    scheduler: Annotated[str | None, typer.Option(help="A Dask scheduler's address, or local.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute failed cells again.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on after an edit or with another version.")
    ] = False,
    slurm: Annotated[int | None, typer.Option(help="Write a SLURM script for so many jobs, and run nothing.")] = None,
) -> None:
    """Compute what is missing of a study. Ctrl-C loses nothing that is finished."""
    spec = _load(file)
    from flatmin._core import check_at_least
    from flatmin.cli._background import Tracker, in_background
    from flatmin.cli._tables import print_lines
    from flatmin.studies.engine import Progress, run_study, share_of

    check_at_least("workers", workers, 1)
    share = share_of(shard)
    if slurm is not None:
        from flatmin.studies.slurm import write_slurm

        check_at_least("slurm", slurm, 1)
        print_lines([f"Wrote {(path := write_slurm(file, spec, out, slurm, workers))}. Submit it: sbatch {path}"])
        return
    tracker = Tracker()

    def progress(state: Progress) -> None:
        tracker.note = _note(state)
        tracker("cells", min(state.done + state.failed, state.total - 1), state.total)

    summary = in_background(
        lambda: run_study(
            spec,
            out / spec.name,
            workers=workers,
            batch_size=batch_size,
            shard=share,
            scheduler=scheduler,
            retry_failed=retry_failed,
            accept_changes=accept_changes,
            progress=progress,
        ),
        tracker,
    )
    cells = f"{summary.computed:,} cells computed, {summary.found:,} found"
    words = [f"{cells}, in {_duration(summary.seconds)}: {summary.folder}"]
    if summary.damaged:
        words.append(f"{_count(summary.damaged, 'segment')} damaged and set aside; their cells were computed again.")
    if summary.missing:
        why = "in other shares" if share[1] > 1 else "not needed" if spec.adaptive else "left to other processes"
        words.append(f"{summary.missing:,} cells were not computed here: {why}.")
    print_lines(words)
    if summary.failed:
        say(
            f"flatmin: {_count(summary.failed, 'cell')} failed; see `flatmin study status {file}`, and try again with "
            "--retry-failed",
            error=True,
        )
        raise typer.Exit(1)


@verb(study, "flatmin study status mine.toml")
def status(where: Where, out: Out = _OUT) -> None:
    """How far a study is, what failed and why, and who is computing."""
    store = _store(where, out)
    from flatmin.cli._tables import print_lines, print_table
    from flatmin.studies.status import status_of

    found = status_of(store, store.read(values=False))
    words = (
        f"{store.folder}: {found.done:,} of {found.total:,} cells finished ({found.done / found.total:.0%}), "
        f"{found.failed:,} failed, {found.missing:,} missing; {_duration(found.seconds)} of computing."
    )
    print_lines([words])
    if found.others:
        print_lines([f"Computing now: process {', '.join(found.others)}."])
    if found.damaged:
        print_lines([f"Damaged, to be computed again: {', '.join(found.damaged)}."])
    if found.reasons:
        print_table(("cells", "why they failed"), [(f"{n:,}", reason) for reason, n in found.reasons])


@verb(study, "flatmin study report mine.toml")
def report(
    where: Where,
    out: Out = _OUT,
    against: Annotated[str | None, typer.Option(help="Another study, to compare it with.")] = None,
) -> None:
    """Draw what is there of a study: one page that opens offline, and its figures as PDF and PNG."""
    from flatmin.cli._setup import prepare_jax

    prepare_jax()
    store = _store(where, out)
    from flatmin.cli._tables import print_lines
    from flatmin.experiments.study_report import report_study
    from flatmin.report import render_run

    other = None if against is None else _store(against, out)
    run = report_study(store, render_run, against=other)
    print_lines([f"{run.spec['done']:,} of {run.spec['cells']:,} cells.", f"Report: {run.path / 'report.html'}"])


@verb(study, "flatmin study export mine.toml --to cells.csv")
def export(
    where: Where,
    to: Annotated[pathlib.Path, typer.Option(help="A .nc, .csv or .parquet file.")],
    out: Out = _OUT,
) -> None:
    """Write a study, finished or not, as one file."""
    store = _store(where, out)
    from flatmin.cli._tables import print_lines
    from flatmin.studies import DONE
    from flatmin.studies.view import export_study

    content = store.read()
    path = export_study(store.study, content, to)
    print_lines([f"Wrote {path}: {content.count(DONE):,} of {store.study.grid.size:,} cells."])


def _load(file: pathlib.Path) -> "StudySpec":
    from flatmin.cli._setup import prepare_jax
    from flatmin.studies.reading import load_spec

    spec = load_spec(file)
    if spec.function is None:
        prepare_jax()
    else:
        _find_functions()
    return spec


def _find_functions() -> None:
    """A user's function may lie beside where the command is given: after all modules that are installed."""
    import sys

    here = str(pathlib.Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    say(f"flatmin: [function] may import modules of {here}, the working directory, after all others", error=True)


def _store(where: str, out: pathlib.Path) -> "Store":
    """The study that a user means: a file, a folder, or a name."""
    from flatmin._core import UsageError, nearest
    from flatmin.studies.opening import find_store
    from flatmin.studies.reading import load_spec

    path = pathlib.Path(where)
    if path.suffix in (".toml", ".yaml", ".yml"):
        return find_store(out / load_spec(path).name)
    for folder in (path, out / where):
        if (folder / "study.json").is_file():
            return find_store(folder)
    if path.is_dir():
        return find_store(path)
    known = sorted(p.parent.name for p in out.glob("*/study.json"))
    if not known:
        raise UsageError(f"study: {where!r} is not known, {out} holds no study; name their folder with --out")
    raise UsageError(f"study: {where!r} is not known; {nearest(where, known)}")


def _open(chosen: "Study", content: "Content") -> list[int]:
    """The blocks with missing cells."""
    import numpy as np

    return sorted({chosen.blocks.block_of(int(cell)) for cell in np.flatnonzero(content.states == 0)})


def _calls(chosen: "Study") -> str:
    blocks = chosen.blocks
    if blocks.lanes == 1:
        return "one at a time"
    return f"in {_count(len(blocks), 'compiled call')} of {chosen.width} lanes, {_count(blocks.groups, 'compilation')}"


def _note(state: Any) -> str:
    """What comes out so far."""
    import numpy as np

    from flatmin.experiments.numbers import format_number

    words = [f"{state.done:,} of {state.total:,} cells"]
    if state.failed:
        words.append(f"{state.failed:,} failed")
    for name, values in state.content.values.items():
        if values.ndim == 1 and name not in ("outcome", "steps"):
            known = values[np.isfinite(values)]
            if known.size:
                words.append(f"median {name} {format_number(float(np.median(known)), 3)}")
            break
    return ", ".join(words)


def _values(axis: Any) -> str:
    from flatmin.studies.view import labels

    count = len(axis)
    shown = [str(v) for v in labels(axis.values[:4])]
    text = ", ".join(shown) + (f", ..., {labels(axis.values[count - 1 :])[0]}" if count > 4 else "")
    return f"{text} ({count:,})"


def _count(number: int, word: str, ending: str = "s") -> str:
    return f"{number:,} {word}{'' if number == 1 else ending}"


def _duration(seconds: float) -> str:
    from flatmin.experiments.numbers import format_number

    if seconds < 100:
        return f"{format_number(seconds, 2)} s"
    minutes, _ = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
