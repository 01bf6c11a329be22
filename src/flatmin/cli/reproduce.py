"""`flatmin reproduce PAPER`."""

import pathlib
from typing import Annotated

import typer


def reproduce(
    paper: Annotated[str, typer.Argument(help="Which paper, such as gatmiry2023.", metavar="PAPER")],
    quick: Annotated[bool, typer.Option("--quick", help="A reduced size: seconds.")] = False,
    full: Annotated[bool, typer.Option("--full", help="All depths and seeds: longer.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a claim does not hold.")] = False,
    out: Annotated[pathlib.Path, typer.Option(help="Folder of runs.")] = pathlib.Path("runs"),
    seed: Annotated[int, typer.Option(help="First random seed.")] = 0,
    workers: Annotated[int, typer.Option(help="Pieces computed at the same time.")] = 2,
) -> None:
    """Run a paper's experiments again and hold its claims against the numbers."""
    from flatmin.cli._setup import prepare_jax, writable_folder

    prepare_jax()
    from flatmin._core import UsageError, check_at_least
    from flatmin.cli._background import Tracker, in_background
    from flatmin.cli._tables import print_claims, print_run
    from flatmin.experiments import obtain_run, run_id
    from flatmin.experiments.cells import Context, discard_cells
    from flatmin.experiments.papers import paper as find_paper
    from flatmin.report import render_run

    if quick and full:
        raise UsageError("quick, full: got both, expected at most one of them")
    check_at_least("workers", workers, 1)
    check_at_least("seed", seed, 0)
    found = find_paper(paper)
    spec = found.sizes["quick" if quick else "full" if full else "demo"](seed)
    writable_folder(out)
    experiment, tracker = found.experiment, Tracker()
    folder = out / ".cells" / f"{experiment.name}-{run_id(experiment.name, experiment.version, spec)}"
    context = Context(folder=folder, workers=workers, progress=tracker)
    run, is_new = in_background(
        lambda: obtain_run(
            experiment, spec, lambda settings: found.compute(settings, context), out=out, render=render_run
        ),
        tracker,
    )
    discard_cells(folder)
    print_claims(run.claims)
    print_run(run, is_new=is_new)
    failed = [claim.name for claim in run.claims if not claim.holds]
    if strict and failed:
        typer.echo(f"flatmin: {len(failed)} claim(s) do not hold: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
