"""`flatmin reproduce PAPER`."""

import pathlib
from typing import Annotated

import typer


def reproduce(
    paper: Annotated[
        str | None, typer.Argument(help="Which paper, such as gatmiry2023; --list shows all.", metavar="PAPER")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A reduced size: seconds.")] = False,
    full: Annotated[bool, typer.Option("--full", help="All depths and seeds: longer.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a claim does not hold.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Show all papers, and run none.")] = False,
    out: Annotated[pathlib.Path, typer.Option(help="Folder of runs.")] = pathlib.Path("runs"),
    seed: Annotated[int, typer.Option(help="First random seed.")] = 0,
    workers: Annotated[int, typer.Option(help="Pieces computed at the same time.")] = 2,
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n shares, for job arrays on one folder.")] = "1/1",
    scheduler: Annotated[str | None, typer.Option(help="A Dask scheduler's address, or local.")] = None,
) -> None:
    """Run a paper's experiments again and hold its claims against the numbers."""
    from flatmin.cli._setup import prepare_jax

    prepare_jax()
    from flatmin._core import UsageError, check_at_least, choose
    from flatmin.cli._experiment import exit_if_failed, run_experiment
    from flatmin.cli._tables import print_table
    from flatmin.experiments.papers import modules
    from flatmin.experiments.papers import paper as find_paper

    if show:
        print_table(("paper", "what it is about"), [(key, find_paper(key).experiment.title) for key in modules()])
        return
    if paper is None:
        raise UsageError(f"paper: got none, expected one of {', '.join(modules())}; --list says what they are about")

    if quick and full:
        raise UsageError("quick, full: got both, expected at most one of them")
    check_at_least("workers", workers, 1)
    check_at_least("seed", seed, 0)
    found = find_paper(choose("paper", paper, modules()))
    spec = found.sizes["quick" if quick else "full" if full else "demo"](seed)
    failed = run_experiment(
        found.experiment, spec, found.compute, out=out, workers=workers, shard=shard, scheduler=scheduler
    )
    if strict:
        exit_if_failed(failed, "claim(s)")
