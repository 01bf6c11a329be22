"""`flatmin verify-theory`."""

import pathlib
from typing import Annotated

import typer


def verify_theory(
    quick: Annotated[bool, typer.Option("--quick", help="A twentieth of the instances: under a minute.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a statement does not hold.")] = False,
    out: Annotated[pathlib.Path, typer.Option(help="Folder of runs.")] = pathlib.Path("runs"),
    seed: Annotated[int, typer.Option(help="Random seed of all instances.")] = 0,
    workers: Annotated[int, typer.Option(help="Statements tested at the same time.")] = 2,
    instance: Annotated[
        str, typer.Option(help="Make one instance again and show it: ENTRY:FAMILY:INDEX.", metavar="ADDRESS")
    ] = "",
) -> None:
    """Put every theorem, lemma and example of the papers to the test on thousands of instances."""
    from flatmin.cli._setup import prepare_jax, writable_folder

    prepare_jax()
    from flatmin._core import check_at_least
    from flatmin.cli._background import Tracker, in_background
    from flatmin.cli._tables import print_claims, print_run
    from flatmin.experiments import ledger, obtain_run, run_id
    from flatmin.experiments.cells import Context, discard_cells
    from flatmin.report import render_run

    check_at_least("workers", workers, 1)
    check_at_least("seed", seed, 0)
    if instance:
        _show(instance, seed=seed, quick=quick)
        return
    spec = ledger.SIZES["quick" if quick else "demo"](seed)
    writable_folder(out)
    experiment, tracker = ledger.EXPERIMENT, Tracker()
    folder = out / ".cells" / f"{experiment.name}-{run_id(experiment.name, experiment.version, spec)}"
    context = Context(folder=folder, workers=workers, progress=tracker)
    run, is_new = in_background(
        lambda: obtain_run(
            experiment, spec, lambda settings: ledger.compute(settings, context), out=out, render=render_run
        ),
        tracker,
    )
    discard_cells(folder)
    print_claims(run.claims)
    print_run(run, is_new=is_new)
    failed = [claim.name for claim in run.claims if not claim.holds]
    if strict and failed:
        typer.echo(f"flatmin: {len(failed)} statement(s) do not hold: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def _show(instance: str, *, seed: int, quick: bool) -> None:
    """Print one instance of the ledger with its arrays."""
    import numpy as np

    from flatmin.cli._tables import print_lines, print_values
    from flatmin.experiments.ledger import rebuild

    found = rebuild(instance, seed=seed, quick=quick)
    rows = [
        ("statement", found.entry.statement),
        ("source", found.entry.source),
        ("assumptions", found.entry.assumptions),
        ("family", found.family),
        ("predicted", f"{found.predicted:.17g}"),
        ("measured", f"{found.measured:.17g}"),
        ("tolerance (rounding)", f"{found.tolerance:.3g}"),
        ("assumptions hold", "yes" if found.applies else "not known to"),
    ]
    print_values(rows)
    for name, array in found.data.items():
        print_lines([f"{name}, shape {array.shape}:", np.array2string(array, precision=6, threshold=200)])
