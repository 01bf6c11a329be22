"""`flatmin report RUN`."""

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flatmin.experiments import Run


def report(
    run: Annotated[str, typer.Argument(help="A run's folder, its name, or the beginning of its id.", metavar="RUN")],
    out: Annotated[pathlib.Path, typer.Option(help="Folder of runs.")] = pathlib.Path("runs"),
) -> None:
    """Rebuild the page and the figures of a run from its data."""
    from flatmin.cli._tables import print_claims, print_lines
    from flatmin.experiments import rewrite_derived
    from flatmin.report import render_run

    found = find_run(run, out)
    rewrite_derived(found, render_run)
    print_claims(found.claims)
    print_lines([f"Report: {found.path / 'report.html'}"])


def find_run(name: str, out: pathlib.Path) -> "Run":
    """The run that a user means.

    Args:
        name: a folder, a folder's name in `out`, or the beginning of an id that fits one run only.
        out: the folder of runs.

    Returns:
        The run.

    Raises:
        UsageError: for no run or several; the nearest name is suggested.
    """
    from flatmin._core import UsageError, nearest
    from flatmin.experiments import find_runs, load_run

    for folder in (pathlib.Path(name), out / name):
        if name and (folder / "spec.json").is_file():
            return load_run(folder)
    known = find_runs(out)
    fitting = [r for r in known if name and (r.id.startswith(name) or r.path.name.startswith(name))]
    if len(fitting) == 1:
        return load_run(fitting[0].path)
    if fitting:
        several = ", ".join(r.path.name for r in fitting)
        raise UsageError(f"run: {name!r} fits {len(fitting)} runs ({several}); give more of the id")
    if not known:
        raise UsageError(f"run: {name!r} is not known, {out} holds no finished run; name their folder with --out")
    raise UsageError(f"run: {name!r} is not known; {nearest(name, [r.path.name for r in known])}")
