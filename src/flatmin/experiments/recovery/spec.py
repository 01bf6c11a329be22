"""Settings of a recovery, each in one line. The data are named by their SHA-256, never by their path."""

from typing import Any, Literal, get_args

from pydantic import model_validator

from flatmin._core import Choice, Integer, Optional, checked_anywhere
from flatmin._core.models import Mistake
from flatmin.datasets import ReadOptions, fingerprint
from flatmin.datasets.reading import kind_of
from flatmin.experiments.specs import Experiment, RunSpec, setting

Method = Literal["flat", "nuclear", "frobenius", "label-noise"]
METHODS: tuple[str, ...] = get_args(Method)
Task = Literal["completion", "sensing", "covariance", "robust-pca"]
TASKS: tuple[str, ...] = get_args(Task)
CONVEX = ("flat", "nuclear")
TRAINED = ("label-noise",)

LARGE, LOOSE, TIGHT, NOISY, RESIDUAL = 40_000, 1e-3, 1e-8, 1e-6, 1e-3
"""Above `LARGE` entries the default tolerance is `LOOSE`, below `TIGHT`, or `NOISY` where the fit is not exact; for
label noise it is `RESIDUAL`."""


def _option(default: Any, text: str, **constraints: Any) -> Any:
    return setting(default, origin="ours", description=text, **constraints)


class ReadSettings(RunSpec):
    """How the data are read."""

    missing: float | None = _option(None, "Images, packaged data: fraction to hide.", gt=0, lt=1)
    row: str | None = _option(None, "Tables: column that names the row.")
    column: str | None = _option(None, "Tables: column that names the column.")
    value: str | None = _option(None, "Tables: column with the value.")
    duplicates: Literal["error", "mean", "last"] = _option("error", "Tables: entries given twice.")
    shape: tuple[int, int] | None = _option(None, "Tables: ROWS,COLUMNS if labels are indices.")
    wide: bool = _option(False, "Tables: each line is a row of the matrix.")
    header: bool = _option(True, "Tables: the first line has names.")


class Source(ReadSettings):
    """The data, and how they were read."""

    sha256: str = _option(..., "SHA-256 of the file")
    kind: str = _option(..., "how the file is read")
    mask_sha256: str | None = _option(None, "SHA-256 of the mask file")

    @classmethod
    def of(cls, file: str, options: ReadOptions) -> "Source":
        """What identifies a file, as it is read with these options."""
        mask = None if options.mask is None else fingerprint(str(options.mask), "mask")
        reading = {name: getattr(options, name) for name in ReadSettings.model_fields}
        return cls(sha256=fingerprint(file), kind=kind_of(file), mask_sha256=mask, **reading)


class Settings(RunSpec):
    """What can be asked of a recovery: the one list of options. `_HOMES` says which belong to some methods or tasks."""

    task: Task | None = _option(None, "What is recovered; default: as the data say.")
    method: Method = _option("nuclear", "How it is chosen.")
    penalty: float | None = _option(None, "Weight of the norm; robust-pca: of the errors.", gt=0)
    radius: float | None = _option(None, "Norm of the noise; robust-pca: sum of the errors.", gt=0)
    reduce: bool = _option(False, "flat: leave unseen rows and columns out.")
    centre: bool = _option(False, "Completion: take the mean out first.")
    holdout: float | None = _option(None, "Fraction of the targets held back to test.", gt=0, lt=1)
    tolerance: float | None = _option(None, "Largest accepted relative gap (residual).", gt=0, lt=1)
    max_iterations: int | None = _option(None, "flat, nuclear: limit of iterations.", ge=1)
    max_time: float | None = _option(None, "Large completions: limit in seconds.", gt=0)
    depth: int | None = _option(None, "label-noise: number of factors.", ge=2)
    noise: float | None = _option(None, "label-noise: noise in units of the RMS target.", ge=0)
    steps: int | None = _option(None, "label-noise: number of steps.", ge=20)
    learning_rate: float | None = _option(None, "label-noise: step size; default automatic.", gt=0)
    seed: int = _option(0, "Random seed.", ge=0)

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        """Refuse options of another method or task, and those that go together only with others."""
        if self.task in ("covariance", "robust-pca") and self.method not in CONVEX:
            raise Mistake(("method",), f"--task {self.task} knows flat and nuclear, got {self.method}; choose one")
        for name, (methods, tasks, advice) in _HOMES.items():
            if getattr(self, name) == Settings.model_fields[name].default:
                continue
            if self.method not in methods:
                where = f"applies to --method {' and '.join(methods)}, got {self.method}"
                raise Mistake((name,), f"{where}; {advice.get(self.method, 'leave it out')}")
            if self.task not in (None, *tasks):
                where = f"applies to --task {' and '.join(tasks)}, got {self.task}"
                raise Mistake((name,), f"{where}; leave it out")
            if name in _OF_NOISE and not self.noisy:
                raise Mistake((name,), f"applies to {_OF_NOISE[name]} with --penalty or --radius; leave it out")
        if self.penalty is not None and self.radius is not None:
            raise Mistake(("penalty, radius",), "got both, expected at most one; leave one out")
        return self

    @property
    def noisy(self) -> bool:
        """Whether a penalty or a radius says that targets are fitted up to noise."""
        return self.penalty is not None or self.radius is not None

    def defaults(self, size: int) -> dict[str, Any]:
        """What is left to choose, by method and by the size of the matrix: the one place of such defaults.

        Args:
            size: d1 d2, number of entries of the matrix.

        Returns:
            Value by option.
        """
        if self.method == "label-noise":
            return {"tolerance": RESIDUAL, "depth": 3, "noise": 1.0, "steps": 40_000}
        tolerance = LOOSE if size > LARGE else TIGHT
        if self.method == "frobenius":
            return {"tolerance": tolerance}
        noisy = self.noisy or self.task == "robust-pca"
        return {"tolerance": max(tolerance, NOISY) if noisy else tolerance, "max_iterations": 5000}

    def complete(self, source: Source, size: int) -> "Recovery":
        """These settings of these data, with `defaults` where nothing was asked for.

        Args:
            source: the data.
            size: d1 d2, number of entries of the matrix.

        Returns:
            The spec.
        """
        asked = {name: value for name, value in dict(self).items() if value is not None}
        return Recovery(source=source, **(self.defaults(size) | asked))


_MOST = ("completion", "sensing", "covariance")
_HOMES: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]] = {
    "penalty": (CONVEX, TASKS, {}),
    "radius": (CONVEX, TASKS, {}),
    "reduce": (("flat",), ("completion",), {}),
    "centre": (METHODS, ("completion",), {}),
    "holdout": (METHODS, _MOST, {}),
    "max_iterations": (
        CONVEX,
        TASKS,
        {"label-noise": "label-noise takes --steps", "frobenius": "it is a closed form, leave it out"},
    ),
    "max_time": (CONVEX, ("completion",), {}),
    "depth": (TRAINED, TASKS, {}),
    "noise": (TRAINED, TASKS, {}),
    "steps": (TRAINED, TASKS, {}),
    "learning_rate": (TRAINED, TASKS, {}),
}
"""Methods and tasks of an option that does not belong to all, and what to do under another method."""

_OF_NOISE = {"reduce": "--method flat", "max_time": "--method flat and nuclear"}


class Recovery(Settings):
    """Everything that a recovery depends on."""

    source: Source = _option(..., "the data")
    tolerance: float = _option(  # pyright: ignore[reportIncompatibleVariableOverride]  # frozen: never set
        ..., "Largest accepted relative gap (residual).", gt=0, lt=1
    )


@checked_anywhere(size=Integer(1, None))
def recovery_spec(source: Source, *, size: int, **options: Any) -> Recovery:
    """A complete spec from what was asked for: defaults by method and size, refusals where they do not go together.

    Args:
        source: the data.
        size: d1 d2, number of entries of the matrix.
        **options: fields of `Settings`.

    Returns:
        The spec.

    Raises:
        UsageError: for values out of range, or options of another method.
    """
    return Settings(**options).complete(source, size)


_TEXTS = {
    "flat": (
        "the flat norm",
        (
            "Among all matrices that fit the measurements, the one whose two factors can have the smallest trace of "
            "the Hessian: the smallest nuclear norm weighted by the roots of the measurements' moments; a dual point "
            "certifies it."
        ),
    ),
    "nuclear": (
        "the smallest nuclear norm",
        (
            "Among all matrices that reproduce the measurements, the one with the smallest nuclear norm; a dual point "
            "certifies how close to the smallest it is."
        ),
    ),
    "frobenius": (
        "the smallest Frobenius norm",
        (
            "Among all matrices that reproduce the measurements, the one with the smallest Frobenius norm, in closed "
            "form: the baseline that knows nothing of low rank."
        ),
    ),
    "label-noise": (
        "label-noise SGD",
        (
            "Factors trained by SGD with label noise walk along the interpolating solutions towards flat "
            "ones; the step size follows the measured curvature, and the noise is switched off at the end."
        ),
    ),
}


_TASK_TEXTS = {
    "robust-pca": (
        "robust PCA",
        (
            "A matrix split into a part of small nuclear norm and a part of few, possibly gross errors; a dual point "
            "certifies how close the split is to the best. Seen whole, all entries weigh the same, so that flat and "
            "nuclear are one programme."
        ),
    ),
    "covariance": (
        "a positive semidefinite matrix",
        (
            "Among all positive semidefinite matrices that fit the quadratic measurements, the one of the smallest "
            "trace; for the flat method the trace is weighted by the measurements' moment, which makes its factors the "
            "flattest."
        ),
    ),
}


@checked_anywhere(method=Choice(*METHODS), task=Optional(Choice(*TASKS)))
def recovery_experiment(name: str, method: str, task: str | None = None) -> Experiment:
    """Name, version and texts of a recovery; only name and version are part of the id.

    Args:
        name: how to call the data.
        method: one of `METHODS`.
        task: one of `TASKS`, or None.

    Returns:
        The experiment.
    """
    how, summary = _TASK_TEXTS.get(task or "") or _TEXTS[method]
    return Experiment(name="recover", version=3, title=f"Recovery of {name} by {how}", summary=summary)
