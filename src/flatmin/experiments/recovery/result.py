"""The numbers of a recovery: returned, printed, stored as `result.json`, and what they say in claims and in words."""

import math
import pathlib
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict

from flatmin._core.models import Model
from flatmin.experiments.certificates import Certificate
from flatmin.experiments.claims import Claim
from flatmin.experiments.numbers import format_number

_FLAT = 1.001
"""A trace of the Hessian below so many times the smallest is called the smallest."""

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number, NaN where it was not measured; JSON has null for that."""


class _Part(Model):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Proof(Certificate):
    """The certificate, and the gap that was asked for."""

    tolerance: float


class Error(_Part):
    """How well a part of the values is predicted, beside the mean of the fitted targets."""

    count: int
    rmse: Number
    relative: Number
    baseline_rmse: Number
    baseline_relative: Number


class Sharpness(_Part):
    """The largest eigenvalue of the Hessian with its residual bound, or why there is none."""

    sharpness: Number = math.nan
    sharpness_error: float | None = None
    sharpness_method: str | None = None
    sharpness_note: str | None = None


class Flatness(Sharpness):
    """Flatness of two balanced factors; NaN where the matrix was too large to measure it."""

    trace: Number = math.nan
    scaled_trace: Number = math.nan
    predicted_minimum: Number = math.nan
    ratio: Number = math.nan


class Training(Sharpness):
    """The end of label-noise SGD."""

    depth: int
    steps: int
    learning_rates: tuple[float, ...]
    correction: Number
    loss: Number
    residual: Number
    tolerance: float
    trace: Number


class RecoveryResult(_Part):
    """What a recovery found.

    Attributes:
        task: what was recovered; None: as the data say.
        method: how the matrix was chosen.
        shape: (d1, d2).
        measurements_fitted: number of targets that were fitted.
        notes: what a reader must know, in sentences.
        outcome: how it ended, in words.
        success: whether it is what was asked for.
        rank: number of singular values above `rank_tolerance`.
        rank_tolerance: see `rank`.
        nuclear_norm: of the part without the offset.
        frobenius_norm: the same.
        offset: what was taken out of the targets, and put back.
        errors: of `held_out`, `unseen` and `matrix`, as far as they are known.
        flatness: of two balanced factors.
        certificate: of the convex programme, None for label noise.
        training: of label noise, else None.
    """

    task: str | None
    method: str
    shape: tuple[int, int]
    measurements_fitted: int
    notes: tuple[str, ...]
    outcome: str
    success: bool
    rank: int
    rank_tolerance: Number
    nuclear_norm: Number
    frobenius_norm: Number
    offset: float
    errors: dict[str, Error]
    flatness: Flatness
    certificate: Proof | None = None
    training: Training | None = None

    @classmethod
    def of_run(cls, folder: pathlib.Path) -> "RecoveryResult":
        """The result that a stored run holds.

        Args:
            folder: the run's.

        Returns:
            The result.
        """
        return cls.model_validate_json((folder / "result.json").read_bytes())


def claims(result: RecoveryResult) -> tuple[Claim, ...]:
    """The gap or the fit beside the tolerance, and the errors beside those of the mean."""
    found = []
    certificate, training = result.certificate, result.training
    if certificate is not None:
        gap = certificate.gap
        found.append(
            Claim.at_most(
                certificate.tolerance,
                name="certified",
                statement="No matrix that fits has a norm smaller than this one's by more than the tolerance.",
                source="duality",
                predicted=f"relative gap ≤ {format_number(certificate.tolerance)}",
                measured=gap,
                note="" if result.success else f"{result.outcome}; the norm is certified to {format_number(gap)}",
            )
        )
    if training is not None:
        found.append(
            Claim.at_most(
                training.tolerance,
                name="fits",
                statement="The trained matrix reproduces the targets.",
                source="training",
                predicted=f"relative residual ≤ {format_number(training.tolerance)}",
                measured=training.residual,
            )
        )
    for part, what in (("held_out", "the targets held back"), ("unseen", "the entries not shown")):
        error = result.errors.get(part)
        if error is not None:
            found.append(
                Claim.at_most(
                    error.baseline_rmse,
                    name=part.replace("_", "-"),
                    statement=f"It predicts {what} better than their mean does.",
                    source="the data",
                    predicted=f"RMSE ≤ {format_number(error.baseline_rmse)}",
                    measured=error.rmse,
                    note=f"relative error {format_number(error.relative)} over {error.count:,}",
                )
            )
    return tuple(found)


def answer(result: RecoveryResult) -> str:
    """Rank, proof, errors and flatness in words: a diagnosis, not a verdict."""
    d1, d2 = result.shape
    parts = [f"The recovered {d1} × {d2} matrix has rank {result.rank}."]
    certificate = result.certificate
    if certificate and result.success:
        gap = format_number(certificate.gap, 2)
        parts.append(f"No matrix that fits has a norm that is smaller by more than {gap} of it: this is proven.")
    elif certificate:
        parts.append(f"Its norm is within {format_number(certificate.gap, 2)} of the smallest; asked for was less.")
    for part, what in (("held_out", "the targets held back"), ("unseen", "the entries not shown")):
        error = result.errors.get(part)
        if error is not None:
            parts.append(
                f"It predicts {what} with a root mean square error of {format_number(error.rmse, 3)}; their mean "
                f"alone has {format_number(error.baseline_rmse, 3)}."
            )
    ratio = result.flatness.ratio
    if math.isfinite(ratio):
        flat = ratio < _FLAT
        times = "the smallest" if flat else f"{format_number(ratio, 3)} times the smallest"
        more = "" if flat or result.method == "flat" else "; --method flat looks for the flattest matrix that fits"
        parts.append(f"Two balanced factors of it have {times} trace of the Hessian over all its factors{more}.")
    return " ".join(parts)
