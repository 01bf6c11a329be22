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
    from flatmin.cli._setup import prepare_jax

    prepare_jax()
    from flatmin._core import UsageError, check_at_least
    from flatmin.cli._experiment import run_experiment
    from flatmin.experiments.regulariser import EXPERIMENT, SIZES, explore

    if quick and full:
        raise UsageError("quick, full: got both, expected at most one of them")
    check_at_least("workers", workers, 1)
    check_at_least("seed", seed, 0)
    spec = SIZES["quick" if quick else "full" if full else "demo"](seed)
    run_experiment(EXPERIMENT, spec, explore, out=out, workers=workers)
