"""`flatmin recover FILE`. Its options are the fields of the models in `experiments.recovery.spec`."""

import functools
import inspect
import pathlib
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from flatmin.cli._streams import say

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flatmin.experiments.recovery import RecoveryResult


def recover() -> None:
    """Recover a matrix from measurements or known entries, with a proof and a flatness diagnosis."""


class Recover(TyperCommand):
    """The command, whose options are made from the models when they are asked for: loading those takes a second."""

    @functools.cached_property
    def _made(self) -> Any:
        from flatmin.cli._setup import prepare_jax

        prepare_jax()
        from flatmin.experiments.recovery.spec import ReadSettings, Settings

        def made(**given: Any) -> None:
            _recover(**given)

        own = inspect.signature(_recover).parameters
        parameters = [own["file"], *_options(Settings), *_options(ReadSettings), own["mask"], own["out"]]
        made.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
        made.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app = typer.Typer(add_completion=False)
        app.command()(made)
        return typer.main.get_command(app)

    @property
    def params(self) -> Any:
        """The options."""
        return self._made.params

    @params.setter
    def params(self, value: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        del value  # those of the function that stands for the command: none

    @property
    def callback(self) -> Any:
        """What is called with them."""
        return self._made.callback

    @callback.setter
    def callback(self, value: Any) -> None:
        del value


def _options(model: "type[BaseModel]") -> list[inspect.Parameter]:
    """One option a field: its name, type, default and description."""
    made = []
    for name, field in model.model_fields.items():
        kind, metavar, flags = field.annotation, None, ()
        kinds = [arg for arg in (kind, *get_args(kind)) if get_origin(arg) in (Literal, tuple)]
        if kinds:  # names to choose from, or a pair, are given as text; the model and `_shape` read it
            kind = str if field.default is not None else str | None
            metavar = "|".join(get_args(kinds[0])) if get_origin(kinds[0]) is Literal else None
        if kind is bool:
            flags = (f"--{name}/--no-{name}" if field.default else f"--{name}",)
        option = typer.Option(*flags, help=field.description, metavar=metavar)
        made.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=Annotated[kind, option]
            )
        )
    return made


def _recover(
    *,
    file: Annotated[
        str,
        typer.Argument(
            help="A table (.csv, .tsv, .txt, also .gz; .parquet), a matrix (.npy, .mtx, .npz), measurements (.npz), a "
            "picture (.png, .jpg, .tif); or camera, page, digits, breast-cancer, seattle, carphone, movielens.",
            metavar="FILE",
        ),
    ],
    mask: Annotated[pathlib.Path | None, typer.Option(help="Images: file, light where a pixel is seen.")] = None,
    out: Annotated[pathlib.Path, typer.Option(help="Folder of runs.")] = pathlib.Path("runs"),
    **asked: Any,
) -> None:
    from flatmin.cli._experiment import obtained
    from flatmin.cli._setup import writable_folder
    from flatmin.cli._tables import print_run, print_values
    from flatmin.datasets import ReadOptions, read_data
    from flatmin.datasets.reading import check_source
    from flatmin.experiments.recovery import RecoveryResult, prepare, recovery_experiment
    from flatmin.experiments.recovery import recover as compute
    from flatmin.experiments.recovery.spec import ReadSettings, Settings, Source

    check_source(file, mask)
    settings = Settings(**{name: asked[name] for name in Settings.model_fields})
    reading = {name: asked[name] for name in ReadSettings.model_fields}
    if reading["shape"] is not None:
        reading["shape"] = _shape(reading["shape"])
    whole = settings.task == "robust-pca"
    options = ReadOptions(**reading, mask=mask, seed=settings.seed, whole=whole)
    data = read_data(file, options)
    d1, d2 = data.measurements.matrix_shape
    spec = settings.complete(Source.of(file, options), d1 * d2)
    prepared = prepare(data, spec)
    for warning in prepared.warnings:
        say(f"Warning: {warning}", error=True)
    writable_folder(out)
    results: list[RecoveryResult] = []

    def computed(spec: Any, context: Any) -> Any:
        result, content = compute(spec, prepared, context)
        results.append(result)
        return content

    experiment = recovery_experiment(data.name, settings.method, settings.task)
    run, is_new = obtained(experiment, spec, computed, out=out)
    result = results[0] if results else RecoveryResult.of_run(run.path)
    print_values(_summary(result))
    for note in result.notes:
        say(f"Note: {note}")
    print_run(run, is_new=is_new)
    say(f"Matrix: {run.path / 'matrix.npy'}")
    if whole:
        say(f"Errors: {run.path / 'errors.npy'}")
    if not result.success:
        say(f"flatmin: {_shortfall(result)}", error=True)
        raise typer.Exit(1)


def _shape(text: str) -> tuple[int, int]:
    from flatmin._core import UsageError

    parts = text.lower().replace("x", ",").split(",")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or min(numbers) < 1:
        raise UsageError(f"shape: got {text!r}, expected two whole numbers >= 1, such as --shape 200,50")
    return numbers[0], numbers[1]


def _number(value: float, digits: int = 4) -> str:
    from flatmin.experiments import format_number

    return format_number(value, digits)


def _summary(result: "RecoveryResult") -> list[tuple[str, str]]:
    d1, d2 = result.shape
    rows = [("matrix", f"{d1} × {d2}, {result.measurements_fitted:,} measurements fitted")]
    certificate, training, flat = result.certificate, result.training, result.flatness
    rows.append(("outcome", result.outcome))
    if certificate:
        interval = f"[{_number(certificate.dual_value, 8)}, {_number(certificate.primal_value, 8)}]"
        rows.append((certificate.name, f"in {interval}, gap {_number(certificate.gap, 2)}"))
        rows.append(("fit", f"residual {_number(certificate.residual, 2)}, {certificate.iterations:,} iterations"))
    if training:
        fit = f"loss {_number(training.loss, 3)}, residual {_number(training.residual, 3)}"
        rows.append((f"training, depth {training.depth}", f"{fit}, {training.steps:,} steps"))
        if training.correction > 0:
            moved = _number(training.correction, 2)
            rows.append(("correction", f"Gauss-Newton steps from the end of SGD to the targets, {moved} of its norm"))
        trained = f"tr H {_number(training.trace)}, sharpness {_number(training.sharpness)}"
        rows.append(("flatness as trained", trained))
    names = {"held_out": "held-out error", "unseen": "error, entries not shown", "matrix": "error, whole matrix"}
    for part, name in names.items():
        error = result.errors.get(part)
        if error is not None:
            text = f"RMSE {_number(error.rmse)}, relative {_number(error.relative)}"
            rows.append((name, f"{text}; predicting the mean {_number(error.baseline_rmse)}"))
    rows.append(("rank", f"{result.rank} (singular values above {_number(result.rank_tolerance, 2)})"))
    rows.append(("nuclear norm", _number(result.nuclear_norm, 8)))
    trace = f"tr H {_number(flat.trace)}, least possible {_number(flat.predicted_minimum)}"
    rows.append(("flatness, two balanced factors", f"{trace}, ratio {_number(flat.ratio, 6)}"))
    rows.append(("", f"scaled trace {_number(flat.scaled_trace)}, sharpness {_number(flat.sharpness)}"))
    return rows


def _shortfall(result: "RecoveryResult") -> str:
    certificate, training = result.certificate, result.training
    if training is not None:
        reached, asked = _number(training.residual, 3), _number(training.tolerance, 3)
        return f"the residual reached is {reached}, asked for was {asked}; raise --steps or --tolerance. It is stored"
    text = result.outcome
    if certificate is not None:
        reached, asked = _number(certificate.gap, 2), _number(certificate.tolerance, 2)
        text += f"; the gap reached is {reached}, asked for was {asked}"
    return f"{text}. The result is stored with its certificate"
