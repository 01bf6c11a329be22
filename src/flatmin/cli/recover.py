"""`flatmin recover FILE`."""

import pathlib
from typing import Annotated, Any

import typer

from flatmin.cli._streams import say

_TASKS = "completion|sensing|covariance|robust-pca"
_METHODS = "flat|nuclear|frobenius|label-noise"


def recover(
    file: Annotated[
        str,
        typer.Argument(
            help="A table (.csv, .tsv, .txt, also .gz; .parquet), a matrix (.npy, .mtx, .npz), measurements (.npz), a "
            "picture (.png, .jpg, .tif); or camera, page, digits, breast-cancer, seattle, carphone, movielens.",
            metavar="FILE",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(help="What is recovered; default: as the data say.", metavar=_TASKS),
    ] = None,
    method: Annotated[str, typer.Option(help="How it is chosen.", metavar=_METHODS)] = "nuclear",
    penalty: Annotated[float | None, typer.Option(help="Weight of the norm; robust-pca: of the errors.")] = None,
    radius: Annotated[float | None, typer.Option(help="Norm of the noise; robust-pca: sum of the errors.")] = None,
    reduce: Annotated[bool, typer.Option("--reduce", help="flat: leave unseen rows and columns out.")] = False,
    centre: Annotated[bool, typer.Option("--centre", help="Completion: take the mean out first.")] = False,
    missing: Annotated[float | None, typer.Option(help="Images, packaged data: fraction to hide.")] = None,
    mask: Annotated[pathlib.Path | None, typer.Option(help="Images: file, light where a pixel is seen.")] = None,
    holdout: Annotated[float | None, typer.Option(help="Fraction of the targets held back to test.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Largest accepted relative gap (residual).")] = None,
    max_iterations: Annotated[int | None, typer.Option(help="flat, nuclear: limit of iterations.")] = None,
    max_time: Annotated[float | None, typer.Option(help="Large completions: limit in seconds.")] = None,
    depth: Annotated[int | None, typer.Option(help="label-noise: number of factors.")] = None,
    noise: Annotated[float | None, typer.Option(help="label-noise: noise in units of the RMS target.")] = None,
    steps: Annotated[int | None, typer.Option(help="label-noise: number of steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="label-noise: step size; default automatic.")] = None,
    row: Annotated[str | None, typer.Option(help="Tables: column that names the row.")] = None,
    column: Annotated[str | None, typer.Option(help="Tables: column that names the column.")] = None,
    value: Annotated[str | None, typer.Option(help="Tables: column with the value.")] = None,
    duplicates: Annotated[str, typer.Option(help="Tables: entries given twice.", metavar="error|mean|last")] = "error",
    shape: Annotated[str | None, typer.Option(help="Tables: ROWS,COLUMNS if labels are indices.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Tables: each line is a row of the matrix.")] = False,
    header: Annotated[bool, typer.Option("--header/--no-header", help="Tables: the first line has names.")] = True,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    out: Annotated[pathlib.Path, typer.Option(help="Folder of runs.")] = pathlib.Path("runs"),
) -> None:
    """Recover a matrix from measurements or known entries, with a proof and a flatness diagnosis."""
    from flatmin.cli._setup import prepare_jax, writable_folder

    prepare_jax()
    from flatmin.datasets.reading import check_source, kind_of

    check_source(file, mask)  # before the solvers are loaded
    from flatmin.cli._background import Tracker, in_background
    from flatmin.cli._tables import print_run, print_values
    from flatmin.datasets import ReadOptions, fingerprint, read_data
    from flatmin.experiments import obtain_run, run_id
    from flatmin.experiments.cells import Context, discard_cells
    from flatmin.experiments.recovery import Source, prepare, recovery_experiment, recovery_spec
    from flatmin.experiments.recovery import recover as compute
    from flatmin.report import render_run

    whole = task == "robust-pca"
    options = ReadOptions(row, column, value, duplicates, _shape(shape), mask, missing, seed, whole, wide, header)
    settings = {"method": method, "task": task, "penalty": penalty, "radius": radius, "reduce": reduce}
    settings |= {"centre": centre}
    settings |= {"tolerance": tolerance, "holdout": holdout, "max_iterations": max_iterations}
    settings |= {"max_time": max_time}
    settings |= {"depth": depth, "noise": noise, "steps": steps, "learning_rate": learning_rate, "seed": seed}
    recovery_spec(Source(sha256="", kind=""), size=1, **settings)  # refuse before reading
    data = read_data(file, options)
    source = Source(
        sha256=fingerprint(file),
        kind=kind_of(file),
        row=row,
        column=column,
        value=value,
        duplicates=duplicates,
        shape=options.shape,
        wide=wide,
        header=header,
        mask_sha256=None if mask is None else fingerprint(str(mask), "mask"),
        missing=missing,
    )
    d1, d2 = data.measurements.matrix_shape
    spec = recovery_spec(source, size=d1 * d2, **settings)
    prepared = prepare(data, spec)
    for warning in prepared.warnings:
        say(f"Warning: {warning}", error=True)
    writable_folder(out)
    experiment, tracker = recovery_experiment(data.name, method, task), Tracker()
    folder = out / ".cells" / f"{experiment.name}-{run_id(experiment.name, experiment.version, spec)}"
    context = Context(folder=folder, workers=1, progress=tracker)
    run, is_new = in_background(
        lambda: obtain_run(experiment, spec, lambda s: compute(s, prepared, context), out=out, render=render_run),
        tracker,
    )
    discard_cells(folder)
    result = _result(run.path)
    print_values(_summary(result))
    for note in result["notes"]:
        say(f"Note: {note}")
    print_run(run, is_new=is_new)
    say(f"Matrix: {run.path / 'matrix.npy'}")
    if whole:
        say(f"Errors: {run.path / 'errors.npy'}")
    if not result["success"]:
        say(f"flatmin: {_shortfall(result)}", error=True)
        raise typer.Exit(1)


def _shape(text: str | None) -> tuple[int, int] | None:
    from flatmin._core import UsageError

    if text is None:
        return None
    parts = text.lower().replace("x", ",").split(",")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or min(numbers) < 1:
        raise UsageError(f"shape: got {text!r}, expected two whole numbers >= 1, such as --shape 200,50")
    return numbers[0], numbers[1]


def _result(folder: pathlib.Path) -> dict[str, Any]:
    import json

    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _number(value: float | None, digits: int = 4) -> str:
    from flatmin.experiments import format_number

    return format_number(float("nan") if value is None else value, digits)


def _summary(result: dict[str, Any]) -> list[tuple[str, str]]:
    d1, d2 = result["shape"]
    rows = [("matrix", f"{d1} × {d2}, {result['measurements_fitted']:,} measurements fitted")]
    certificate, training, flat = result["certificate"], result["training"], result["flatness"]
    rows.append(("outcome", result["outcome"]))
    if certificate:
        interval = f"[{_number(certificate['dual_value'], 8)}, {_number(certificate['primal_value'], 8)}]"
        rows.append((certificate["name"], f"in {interval}, gap {_number(certificate['gap'], 2)}"))
        rows.append(
            ("fit", f"residual {_number(certificate['residual'], 2)}, {certificate['iterations']:,} iterations")
        )
    if training:
        fit = f"loss {_number(training['loss'], 3)}, residual {_number(training['residual'], 3)}"
        rows.append((f"training, depth {training['depth']}", f"{fit}, {training['steps']:,} steps"))
        if training["correction"] > 0:
            moved = _number(training["correction"], 2)
            rows.append(("correction", f"Gauss-Newton steps from the end of SGD to the targets, {moved} of its norm"))
        trained = f"tr H {_number(training['trace'])}, sharpness {_number(training['sharpness'])}"
        rows.append(("flatness as trained", trained))
    names = {"held_out": "held-out error", "unseen": "error, entries not shown", "matrix": "error, whole matrix"}
    for part, name in names.items():
        if part in result["errors"]:
            error = result["errors"][part]
            text = f"RMSE {_number(error['rmse'])}, relative {_number(error['relative'])}"
            rows.append((name, f"{text}; predicting the mean {_number(error['baseline_rmse'])}"))
    rows.append(("rank", f"{result['rank']} (singular values above {_number(result['rank_tolerance'], 2)})"))
    rows.append(("nuclear norm", _number(result["nuclear_norm"], 8)))
    trace = f"tr H {_number(flat['trace'])}, least possible {_number(flat['predicted_minimum'])}"
    rows.append(("flatness, two balanced factors", f"{trace}, ratio {_number(flat['ratio'], 6)}"))
    rows.append(("", f"scaled trace {_number(flat['scaled_trace'])}, sharpness {_number(flat['sharpness'])}"))
    return rows


def _shortfall(result: dict[str, Any]) -> str:
    certificate = result["certificate"]
    if certificate:
        return (
            f"{result['outcome']}; the gap reached is {_number(certificate['gap'], 2)}, asked for was "
            f"{_number(certificate['tolerance'], 2)}. The result is stored with its certificate"
        )
    training = result["training"]
    return (
        f"the residual reached is {_number(training['residual'], 3)}, asked for was {_number(training['tolerance'], 3)}"
        "; raise --steps or --tolerance. It is stored"
    )
