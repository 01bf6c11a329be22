"""`flatmin runs`."""

import pathlib
from typing import Annotated

import typer


def runs(out: Annotated[pathlib.Path, typer.Option(help="Folder of runs.")] = pathlib.Path("runs")) -> None:
    """List the runs in a folder, and what is wrong with those that cannot be read."""
    from flatmin._core import UsageError
    from flatmin.cli._tables import print_lines, print_table
    from flatmin.experiments import find_problems, find_runs, format_number

    if not out.is_dir():
        what = "is not a folder" if out.exists() else "does not exist"
        raise UsageError(f"out: {out} {what}; name the folder given to --out of the runs")
    found = find_runs(out)
    rows = []
    for run in found:
        held = f"{sum(c.holds for c in run.claims)}/{len(run.claims)}" if run.claims else ""
        date = str(run.provenance.get("date", "")).replace("T", " ")[:16]
        seconds = format_number(float(run.provenance.get("seconds", float("nan"))), 3)
        rows.append((run.experiment.name, run.id, date, run.experiment.title, held, seconds))
    if rows:
        print_table(("run", "id", "date (UTC)", "what", "claims", "seconds"), rows)
    else:
        print_lines([f"No finished runs in {out}."])
    print_lines(find_problems(out))
