"""Settings of a recovery. The data are named by their SHA-256, never by their path."""

from typing import Literal, get_args

from flatmin._core import Choice, Integer, Optional, Real, UsageError, checked_anywhere
from flatmin.experiments.specs import Experiment, RunSpec, setting

Method = Literal["flat", "nuclear", "frobenius", "label-noise"]
METHODS: tuple[str, ...] = get_args(Method)
Task = Literal["completion", "sensing", "covariance", "robust-pca"]
TASKS: tuple[str, ...] = get_args(Task)
CONVEX = ("flat", "nuclear")

LARGE, LOOSE, TIGHT, NOISY, RESIDUAL = 40_000, 1e-3, 1e-8, 1e-6, 1e-3
"""Above `LARGE` entries the default tolerance is `LOOSE`, below `TIGHT`, or `NOISY` where the fit is not exact; for
label noise it is `RESIDUAL`."""


class Source(RunSpec):
    """The data, and how they were read."""

    sha256: str = setting(origin="ours", description="SHA-256 of the file")
    kind: str = setting(origin="ours", description="how the file is read")
    row: str | None = setting(None, origin="ours", description="column of the table that names the row")
    column: str | None = setting(None, origin="ours", description="column of the table that names the column")
    value: str | None = setting(None, origin="ours", description="column of the table with the value")
    duplicates: str = setting("error", origin="ours", description="what is done with entries given twice")
    shape: tuple[int, int] | None = setting(None, origin="ours", description="shape, if rows and columns are indices")
    wide: bool = setting(False, origin="ours", description="whether each line of the table is a row of the matrix")
    header: bool = setting(True, origin="ours", description="whether the first line of the table names its columns")
    mask_sha256: str | None = setting(None, origin="ours", description="SHA-256 of the mask file")
    missing: float | None = setting(
        None, origin="ours", description="fraction of the entries hidden by the seed", gt=0, lt=1
    )


class Recovery(RunSpec):
    """Everything that a recovery depends on."""

    source: Source = setting(origin="ours", description="the data")
    method: Method = setting(origin="ours", description="how the matrix is chosen among those that fit")
    task: Task | None = setting(None, origin="ours", description="what is recovered; none: as the data say")
    penalty: float | None = setting(
        None, origin="ours", description="weight of the norm, or of the errors in robust PCA", gt=0
    )
    radius: float | None = setting(
        None, origin="ours", description="size of the noise, or sum of the absolute errors in robust PCA", gt=0
    )
    reduce: bool = setting(False, origin="ours", description="whether unseen rows and columns are left out (flat)")
    centre: bool = setting(False, origin="ours", description="whether the mean of the fitted entries is taken out")
    tolerance: float = setting(
        origin="ours",
        description="largest accepted relative duality gap; for label noise, relative residual",
        gt=0,
    )
    holdout: float | None = setting(
        None, origin="ours", description="fraction of the targets held back to measure the error", gt=0, lt=1
    )
    max_iterations: int | None = setting(None, origin="ours", description="limit of the convex solver", ge=1)
    max_time: float | None = setting(
        None, origin="ours", description="limit of the convex solver in seconds, where factors are fitted", gt=0
    )
    depth: int | None = setting(None, origin="ours", description="number of factors (label noise)", ge=2)
    noise: float | None = setting(
        None, origin="ours", description="label noise, in units of the root mean square target", ge=0
    )
    steps: int | None = setting(None, origin="ours", description="steps of label-noise SGD", ge=20)
    learning_rate: float | None = setting(
        None,
        origin="ours",
        description="step size of label-noise SGD on the scaled problem; none: chosen by curvature",
        gt=0,
    )
    seed: int = setting(0, origin="ours", description="random seed", ge=0)


_TRAINING = {"depth": 3, "noise": 1.0, "steps": 40_000}


POSITIVE = Optional(Real(0, above=True))
INSIDE = Optional(Real(0, 1, above=True, below=True))
METHOD, TASK = Choice(*METHODS), Optional(Choice(*TASKS))


@checked_anywhere(
    size=Integer(1, None),
    method=METHOD,
    task=TASK,
    penalty=POSITIVE,
    radius=POSITIVE,
    tolerance=INSIDE,
    holdout=INSIDE,
    max_time=POSITIVE,
    depth=Optional(Integer(2)),
    steps=Optional(Integer(20)),
)
def recovery_spec(
    source: Source,
    *,
    size: int,
    method: str = "nuclear",
    task: str | None = None,
    penalty: float | None = None,
    radius: float | None = None,
    reduce: bool = False,
    centre: bool = False,
    tolerance: float | None = None,
    holdout: float | None = None,
    max_iterations: int | None = None,
    max_time: float | None = None,
    depth: int | None = None,
    noise: float | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
) -> Recovery:
    """A complete spec from what was asked for: defaults by method and size, refusals where they do not go together.

    Args:
        source: the data.
        size: d1 d2, number of entries of the matrix.
        method: one of `METHODS`.
        task: one of `TASKS`, None for what the data say.
        penalty: for `flat` and `nuclear`: lambda of `N(X) + ||A(X) - b||^2 / (2 lambda)`, or of lambda times that
            where factors are fitted; in robust PCA the weight of the errors, by default `1 / sqrt(max(d1, d2))`.
        radius: for `flat` and `nuclear`: `min N(X) s.t. ||A(X) - b|| <= radius`; in robust PCA of the sum of the
            absolute errors.
        reduce: for `flat` completions with a penalty or a radius: whether rows and columns without an entry are left
            out and filled with zeros, rather than refused.
        centre: for completion: whether the mean of the fitted entries is taken out before, and put back after.
        tolerance: default 1e-8 up to 40,000 entries, else 1e-3; label noise 1e-3.
        holdout: fraction of the targets to hold back.
        max_iterations: for `flat` and `nuclear`; default 5000.
        max_time: for `flat` and `nuclear` where factors are fitted: seconds; default no limit.
        depth: for `label-noise`; default 3.
        noise: for `label-noise`; default 1.
        steps: for `label-noise`; default 40,000.
        learning_rate: for `label-noise`; default: chosen by curvature.
        seed: of hold-out, start and noise.

    Returns:
        The spec.

    Raises:
        UsageError: for values out of range, or options of another method.
    """
    _check_task(task, method, penalty, radius, holdout)
    if reduce and (method != "flat" or task not in (None, "completion") or (penalty is None and radius is None)):
        raise UsageError("reduce: applies to completion with --method flat and --penalty or --radius; leave it out")
    if centre and task not in (None, "completion"):
        raise UsageError(f"centre: applies to entries of a matrix, got --task {task}; leave it out")
    if max_time is not None and (method not in CONVEX or (penalty is None and radius is None)):
        raise UsageError("max_time: applies to --method flat and nuclear with --penalty or --radius; leave it out")
    training = {"depth": depth, "noise": noise, "steps": steps, "learning_rate": learning_rate}
    if method == "label-noise":
        if max_iterations is not None:
            raise UsageError("max_iterations: applies to --method flat and nuclear; label-noise takes --steps")
        training = {**training, **{k: v for k, v in _TRAINING.items() if training[k] is None}}
    else:
        given = [name for name, value in training.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]}: applies to --method label-noise, got {method}; leave it out")
        if method == "frobenius" and max_iterations is not None:
            raise UsageError(
                "max_iterations: applies to --method flat and nuclear; frobenius is a closed form, leave it out"
            )
        max_iterations = (max_iterations or 5000) if method in CONVEX else None
    default = RESIDUAL if method == "label-noise" else LOOSE if size > LARGE else TIGHT
    if method in CONVEX and (task == "robust-pca" or penalty is not None or radius is not None):
        default = max(default, NOISY)
    return Recovery(
        source=source,
        method=method,  # pyright: ignore[reportArgumentType]
        task=task,  # pyright: ignore[reportArgumentType]
        penalty=penalty,
        radius=radius,
        reduce=reduce,
        centre=centre,
        tolerance=default if tolerance is None else tolerance,
        holdout=holdout,
        max_iterations=max_iterations,
        max_time=max_time,
        seed=seed,
        **training,  # pyright: ignore[reportArgumentType]
    )


def _check_task(
    task: str | None, method: str, penalty: float | None, radius: float | None, holdout: float | None
) -> None:
    if task in ("covariance", "robust-pca") and method not in CONVEX:
        raise UsageError(f"method: --task {task} knows flat and nuclear, got {method}; choose one of them")
    if task == "robust-pca" and holdout is not None:
        raise UsageError("holdout: applies to tasks without gross errors, got --task robust-pca; leave it out")
    for name, value in (("penalty", penalty), ("radius", radius)):
        if value is None:
            continue
        if method not in CONVEX:
            raise UsageError(f"{name}: applies to --method flat and nuclear, got {method}; leave it out")
    if penalty is not None and radius is not None:
        raise UsageError("penalty, radius: got both, expected at most one; leave one out")


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


@checked_anywhere(method=METHOD, task=TASK)
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
