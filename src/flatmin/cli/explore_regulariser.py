"""`flatmin explore-regulariser`."""

import pathlib
from typing import Annotated

import typer


def explore_regulariser(
    quick: Annotated[bool, typer.Option("--quick", help="A reduced size: seconds.")] = False,
    full: Annotated[bool, typer.Option("--full", help="All depths, more matrices: longer.")] = False,
    out: Annotated[pathlib.Path, typer.Option(help="Folder of runs.")] = pathlib.Path("runs"),
    seed: Annotated[int, typer.Option(help="First random seed.")] = 0,
    workers: Annotated[int, typer.Option(help="Pieces computed at the same time.")] = 2,
) -> None:
    """Compute the induced regulariser where no formula is known, and hold candidate forms against it."""
    from flatmin.cli._setup import prepare_jax, writable_folder

    prepare_jax()
    from flatmin._core import UsageError, check_at_least
    from flatmin.cli._background import Tracker, in_background
    from flatmin.cli._tables import print_claims, print_run
    from flatmin.experiments import obtain_run, run_id
    from flatmin.experiments.cells import Context, discard_cells
    from flatmin.experiments.regulariser import EXPERIMENT, SIZES, explore
    from flatmin.report import render_run

    if quick and full:
        raise UsageError("quick, full: got both, expected at most one of them")
    check_at_least("workers", workers, 1)
    check_at_least("seed", seed, 0)
    spec = SIZES["quick" if quick else "full" if full else "demo"](seed)
    writable_folder(out)
    tracker = Tracker()
    folder = out / ".cells" / f"{EXPERIMENT.name}-{run_id(EXPERIMENT.name, EXPERIMENT.version, spec)}"
    context = Context(folder=folder, workers=workers, progress=tracker)
    run, is_new = in_background(
        lambda: obtain_run(EXPERIMENT, spec, lambda settings: explore(settings, context), out=out, render=render_run),
        tracker,
    )
    discard_cells(folder)
    print_claims(run.claims)
    print_run(run, is_new=is_new)
