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
    from flatmin.cli._setup import prepare_jax

    prepare_jax()
    from flatmin._core import check_at_least
    from flatmin.cli._experiment import exit_if_failed, run_experiment
    from flatmin.experiments import ledger

    check_at_least("workers", workers, 1)
    check_at_least("seed", seed, 0)
    if instance:
        _show(instance, seed=seed, quick=quick)
        return
    spec = ledger.SIZES["quick" if quick else "demo"](seed)
    failed = run_experiment(ledger.EXPERIMENT, spec, ledger.compute, out=out, workers=workers)
    if strict:
        exit_if_failed(failed, "statement(s)")


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
