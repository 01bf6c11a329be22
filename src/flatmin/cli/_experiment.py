"""What the commands that run an experiment share: compute with progress, store, print, exit."""

import pathlib
from typing import Any

import typer

from flatmin.cli._streams import say


def run_experiment(
    experiment: Any,
    spec: Any,
    compute: Any,
    *,
    out: pathlib.Path,
    workers: int,
    shard: str = "1/1",
    scheduler: str | None = None,
) -> list[str]:
    """Compute or find a run, print its claims and where it is.

    Args:
        experiment: name, version and texts.
        spec: the settings.
        compute: called as `compute(spec, context)`.
        out: folder of runs.
        workers: pieces computed at the same time.
        shard: `i/n`, the i-th of n shares of the pieces.
        scheduler: a Dask scheduler's address, or `local`.

    Returns:
        Names of the claims that do not hold; what was not measured is counted aloud.
    """
    from flatmin.cli._setup import writable_folder
    from flatmin.cli._tables import print_claims, print_lines, print_run
    from flatmin.studies.cells import OtherSharesError
    from flatmin.studies.engine import share_of

    share = share_of(shard)
    writable_folder(out)
    try:
        run, is_new = obtained(experiment, spec, compute, out=out, workers=workers, shard=share, scheduler=scheduler)
    except OtherSharesError as others:
        words = (
            f"{others.finished} of {others.total} pieces are finished; the share that finishes the last tells the rest."
        )
        print_lines([words])
        return []
    print_claims(run.claims)
    print_run(run, is_new=is_new)
    open_ones = sum(claim.verdict == "not measured" for claim in run.claims)
    if open_ones:
        print_lines([f"{open_ones} of {len(run.claims)} could not be measured at this size: neither held nor failed."])
    return [claim.name for claim in run.claims if claim.verdict == "does not hold"]


def obtained(
    experiment: Any, spec: Any, compute: Any, *, out: pathlib.Path, workers: int = 1, **how: Any
) -> tuple[Any, bool]:
    """The run, found or computed beside a progress line; checkpoints are kept until it is stored.

    Args:
        experiment: name, version and texts.
        spec: the settings.
        compute: called as `compute(spec, context)`.
        out: folder of runs.
        workers: pieces computed at the same time.
        **how: the context's share and scheduler.

    Returns:
        The run, and whether it was computed now.
    """
    from flatmin.cli._background import Tracker, in_background
    from flatmin.experiments import obtain_run, run_id
    from flatmin.experiments.cells import Context, discard_cells
    from flatmin.report import render_run

    tracker = Tracker()
    folder = out / ".cells" / f"{experiment.name}-{run_id(experiment.name, experiment.version, spec)}"
    context = Context(folder=folder, progress=tracker, workers=workers, **how)
    found = in_background(
        lambda: obtain_run(experiment, spec, lambda settings: compute(settings, context), out=out, render=render_run),
        tracker,
    )
    discard_cells(folder)
    return found


def exit_if_failed(failed: list[str], what: str) -> None:
    """With `--strict`: exit code 1 and one sentence if a claim does not hold."""
    if failed:
        say(f"flatmin: {len(failed)} {what} do not hold: {', '.join(failed)}", error=True)
        raise typer.Exit(1)
