"""Recovery of a matrix from a user's measurements: the matrix, a proof, its errors, rank and flatness."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from flatmin._core import JobError, Outcome, Solution, checked
from flatmin.experiments.cells import Context
from flatmin.experiments.certificates import Certificate
from flatmin.experiments.claims import Claim
from flatmin.experiments.figure_data import figure_data
from flatmin.experiments.numbers import format_number
from flatmin.experiments.recovery.diagnosis import errors, flatness, measured_sharpness
from flatmin.experiments.recovery.figures import figures
from flatmin.experiments.recovery.label_noise import Trained, train_label_noise
from flatmin.experiments.recovery.outputs import output_files
from flatmin.experiments.recovery.prepared import Prepared as Prepared
from flatmin.experiments.recovery.prepared import prepare as prepare
from flatmin.experiments.recovery.programme import objective_name, solution_of
from flatmin.experiments.recovery.spec import METHODS as METHODS
from flatmin.experiments.recovery.spec import Recovery as Recovery
from flatmin.experiments.recovery.spec import Source as Source
from flatmin.experiments.recovery.spec import recovery_experiment as recovery_experiment
from flatmin.experiments.recovery.spec import recovery_spec as recovery_spec
from flatmin.experiments.runs import RunContent
from flatmin.flatness import hessian_trace
from flatmin.measurements import EntryMeasurements
from flatmin.parameterizations import deep_matrix
from flatmin.problems import RecoveryProblem

_FLAT = 1.001
"""A trace of the Hessian below so many times the smallest is called the smallest."""

TRAINED_RANK = 1e-2
"""Singular values below this fraction of the largest do not count towards the rank of a trained matrix."""


@checked()
def recover(spec: Recovery, prepared: Prepared, context: Context) -> RunContent:
    """Recover, measure, draw.

    Args:
        spec: the settings.
        prepared: the data that the spec names, cut.
        context: where to keep checkpoints, whom to tell.

    Returns:
        What is stored as the run; `result.json` among its files holds all numbers.

    Raises:
        JobError: if the targets contradict each other or training diverges.
        KeyboardInterrupt: if training was stopped.
    """
    trained, solution = None, None
    if spec.method == "label-noise":
        trained = train_label_noise(prepared, spec, folder=context.folder, progress=_named(context, "label-noise SGD"))
        matrix, (rank, rank_tolerance) = trained.matrix, _trained_rank(trained.matrix)
    else:
        solution = _solve(spec, prepared, context)
        matrix = np.asarray(solution.matrix)
        rank, rank_tolerance = int(solution.stats["rank"]), float(solution.stats["rank_tolerance"])
    context.progress("flatness", 0, 1)
    result: dict[str, Any] = {
        "task": spec.task,
        "method": spec.method,
        "shape": list(prepared.shape),
        "measurements_fitted": len(prepared.targets),
        "notes": list(prepared.notes),
        "rank": rank,
        "rank_tolerance": rank_tolerance,
        "nuclear_norm": float(np.linalg.svd(matrix, compute_uv=False).sum()),
        "frobenius_norm": float(np.linalg.norm(matrix)),
        "offset": prepared.offset,
        "errors": errors(prepared.restored, matrix + prepared.offset),
        "flatness": flatness(prepared, matrix),
        "certificate": None,
        "training": None,
    }
    certificates: tuple[Certificate, ...] = ()
    if solution is not None:
        certificates = (Certificate.from_solution(objective_name(spec), solution),)
        result["certificate"] = {**certificates[0].model_dump(), "tolerance": spec.tolerance}
        result["outcome"] = solution.outcome.value
        result["success"] = solution.outcome.success
    if trained is not None:
        result |= _training_result(spec, prepared, trained)
    context.progress("flatness", 1, 1)
    return RunContent(
        datasets=figure_data(
            figures(prepared, matrix, rank_tolerance, trained, spec.method, _errors_found(spec, prepared, matrix))
        ),
        claims=tuple(_claims(spec, result)),
        answer=_answer(spec, result),
        certificates=certificates,
        files=output_files(
            prepared.data, matrix + prepared.offset, result, errors=_errors_found(spec, prepared, matrix)
        ),
    )


def _errors_found(spec: Recovery, prepared: Prepared, matrix: np.ndarray) -> np.ndarray | None:
    """The sparse part of robust PCA: what was seen less the low-rank part, 0 where nothing was seen."""
    op = prepared.measurements
    if spec.task != "robust-pca" or not isinstance(op, EntryMeasurements):
        return None
    found = np.zeros(matrix.shape)
    rows, cols = np.asarray(op.rows), np.asarray(op.cols)
    found[rows, cols] = prepared.targets - matrix[rows, cols]
    return found


def _named(context: Context, name: str) -> Callable[[int, int], None]:
    return lambda done, total: context.progress(name, done, total)


def _solve(spec: Recovery, prepared: Prepared, context: Context) -> Solution:
    name = objective_name(spec)
    context.progress(name, 0, 1)
    solution = solution_of(spec, prepared)
    context.progress(name, 1, 1)
    if solution.outcome in (Outcome.infeasible, Outcome.diverged):
        raise JobError(
            f"targets: {solution.outcome.value} (residual {solution.residual:.1e}); or use --method label-noise"
        )
    return solution


def _trained_rank(matrix: np.ndarray) -> tuple[int, float]:
    values = np.linalg.svd(matrix, compute_uv=False)
    limit = TRAINED_RANK * float(values[0])
    return int(np.sum(values > limit)), limit


def _training_result(spec: Recovery, prepared: Prepared, trained: Trained) -> dict[str, Any]:
    depth = spec.depth or 2
    factors = deep_matrix(prepared.shape, depth, width=min(prepared.shape))
    problem = RecoveryProblem(prepared.measurements, factors, jnp.asarray(prepared.targets))
    reached = trained.residual <= spec.tolerance
    done = Outcome.completed.value
    outcome = f"{done}; the targets are fitted" if reached else f"{done}, but the residual is above the tolerance"
    return {
        "outcome": outcome,
        "success": reached,
        "training": {
            "depth": depth,
            "steps": trained.steps,
            "learning_rates": list(trained.learning_rates),
            "correction": trained.correction,
            "loss": trained.loss,
            "residual": trained.residual,
            "tolerance": spec.tolerance,
            "trace": float(hessian_trace(problem, trained.params).value),
            **measured_sharpness(problem, trained.params),
        },
    }


def _claims(spec: Recovery, result: dict[str, Any]) -> list[Claim]:
    claims = []
    if result["certificate"]:
        gap = result["certificate"]["gap"]
        claims.append(
            Claim.at_most(
                spec.tolerance,
                name="certified",
                statement="No matrix that fits has a norm smaller than this one's by more than the tolerance.",
                source="duality",
                predicted=f"relative gap ≤ {format_number(spec.tolerance)}",
                measured=gap,
                note="" if result["success"] else f"{result['outcome']}; the norm is certified to {format_number(gap)}",
            )
        )
    else:
        claims.append(
            Claim.at_most(
                spec.tolerance,
                name="fits",
                statement="The trained matrix reproduces the targets.",
                source="training",
                predicted=f"relative residual ≤ {format_number(spec.tolerance)}",
                measured=result["training"]["residual"],
            )
        )
    for part, what in (("held_out", "the targets held back"), ("unseen", "the entries not shown")):
        if part in result["errors"]:
            error = result["errors"][part]
            claims.append(
                Claim.at_most(
                    error["baseline_rmse"],
                    name=part.replace("_", "-"),
                    statement=f"It predicts {what} better than their mean does.",
                    source="the data",
                    predicted=f"RMSE ≤ {format_number(error['baseline_rmse'])}",
                    measured=error["rmse"],
                    note=f"relative error {format_number(error['relative'])} over {error['count']:,}",
                )
            )
    return claims


def _answer(spec: Recovery, result: dict[str, Any]) -> str:
    """Rank, proof, errors and flatness in words: a diagnosis, not a verdict."""
    d1, d2 = result["shape"]
    parts = [f"The recovered {d1} × {d2} matrix has rank {result['rank']}."]
    certificate = result["certificate"]
    if certificate and result["success"]:
        gap = format_number(certificate["gap"], 2)
        parts.append(f"No matrix that fits has a norm that is smaller by more than {gap} of it: this is proven.")
    elif certificate:
        parts.append(f"Its norm is within {format_number(certificate['gap'], 2)} of the smallest; asked for was less.")
    for part, what in (("held_out", "the targets held back"), ("unseen", "the entries not shown")):
        if part in result["errors"]:
            error = result["errors"][part]
            parts.append(
                f"It predicts {what} with a root mean square error of {format_number(error['rmse'], 3)}; their mean "
                f"alone has {format_number(error['baseline_rmse'], 3)}."
            )
    ratio = result["flatness"]["ratio"]
    if math.isfinite(ratio):
        flat = ratio < _FLAT
        times = "the smallest" if flat else f"{format_number(ratio, 3)} times the smallest"
        more = "" if flat or spec.method == "flat" else "; --method flat looks for the flattest matrix that fits"
        parts.append(f"Two balanced factors of it have {times} trace of the Hessian over all its factors{more}.")
    return " ".join(parts)
