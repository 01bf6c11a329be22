"""Recovery of a matrix from a user's measurements: the matrix, a proof, its errors, rank and flatness."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from flatmin._core import JobError, Outcome, Solution, checked
from flatmin.experiments.cells import Context
from flatmin.experiments.certificates import Certificate
from flatmin.experiments.figure_data import figure_data
from flatmin.experiments.recovery.diagnosis import errors, flatness, measured_sharpness
from flatmin.experiments.recovery.figures import figures
from flatmin.experiments.recovery.label_noise import Trained, train_label_noise
from flatmin.experiments.recovery.outputs import output_files
from flatmin.experiments.recovery.prepared import Prepared as Prepared
from flatmin.experiments.recovery.prepared import prepare as prepare
from flatmin.experiments.recovery.programme import objective_name, solution_of
from flatmin.experiments.recovery.result import Proof, Training, answer, claims
from flatmin.experiments.recovery.result import RecoveryResult as RecoveryResult
from flatmin.experiments.recovery.spec import METHODS as METHODS
from flatmin.experiments.recovery.spec import Recovery as Recovery
from flatmin.experiments.recovery.spec import Source as Source
from flatmin.experiments.recovery.spec import recovery_experiment as recovery_experiment
from flatmin.experiments.recovery.spec import recovery_spec as recovery_spec
from flatmin.experiments.runs import RunContent
from flatmin.flatness import hessian_trace
from flatmin.parameterizations import deep_matrix
from flatmin.problems import RecoveryProblem

TRAINED_RANK = 1e-2
"""Singular values below this fraction of the largest do not count towards the rank of a trained matrix."""


@checked()
def recover(spec: Recovery, prepared: Prepared, context: Context) -> tuple[RecoveryResult, RunContent]:
    """Recover, measure, draw.

    Args:
        spec: the settings.
        prepared: the data that the spec names, cut.
        context: where to keep checkpoints, whom to tell.

    Returns:
        The numbers, and what is stored as the run: among its files `result.json` holds them.

    Raises:
        JobError: if the targets contradict each other or training diverges.
        KeyboardInterrupt: if training was stopped.
    """
    trained, certificates = None, ()
    if spec.method == "label-noise":
        trained = train_label_noise(prepared, spec, folder=context.folder, progress=_named(context, "label-noise SGD"))
        matrix, (rank, rank_tolerance) = trained.matrix, _trained_rank(trained.matrix)
        ending = _training(spec, prepared, trained)
    else:
        solution = _solve(spec, prepared, context)
        matrix = np.asarray(solution.matrix)
        rank, rank_tolerance = int(solution.rank), float(solution.rank_tolerance)
        certificates = (Certificate.from_solution(objective_name(spec), solution),)
        ending = {
            "certificate": Proof(**dict(certificates[0]), tolerance=spec.tolerance),
            "outcome": solution.outcome.value,
            "success": solution.outcome.success,
        }
    context.progress("flatness", 0, 1)
    result = RecoveryResult(
        task=spec.task,
        method=spec.method,
        shape=prepared.shape,
        measurements_fitted=len(prepared.targets),
        notes=(*prepared.notes, *_noise_notes(spec, prepared, rank)),
        rank=rank,
        rank_tolerance=rank_tolerance,
        nuclear_norm=float(np.linalg.svd(matrix, compute_uv=False).sum()),
        frobenius_norm=float(np.linalg.norm(matrix)),
        offset=prepared.offset,
        errors=errors(prepared.restored, matrix + prepared.offset),
        flatness=flatness(prepared, matrix),
        **ending,
    )
    context.progress("flatness", 1, 1)
    # the sparse part of robust PCA: what was seen less the low-rank part, 0 where nothing was seen
    gross = np.nan_to_num(prepared.observed - matrix) if spec.task == "robust-pca" else None
    content = RunContent(
        datasets=figure_data(figures(prepared, matrix, rank_tolerance, trained, spec.method, gross)),
        claims=claims(result),
        answer=answer(result),
        certificates=certificates,
        files=output_files(prepared.data, matrix + prepared.offset, result.model_dump(), errors=gross),
    )
    return result, content


def _noise_notes(spec: Recovery, prepared: Prepared, rank: int) -> tuple[str, ...]:
    """What to say of an exact fit that needs as many numbers as were measured: it interpolates noise."""
    d1, d2 = prepared.shape
    freedom, m = rank * (d1 + d2 - rank), len(prepared.targets)
    if spec.method not in ("flat", "nuclear") or spec.noisy or spec.task not in (None, "completion") or freedom < m:
        return ()
    note = (
        f"The fit interpolates the targets, and its rank {rank} leaves {freedom:,} numbers free where {m:,} were "
        "measured: what it follows is noise or rounding. Allow for it with --penalty or --radius; "
        "--holdout 0.1 measures what that gains."
    )
    return (note,)


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


def _training(spec: Recovery, prepared: Prepared, trained: Trained) -> dict[str, Any]:
    depth = spec.depth or 2
    factors = deep_matrix(prepared.shape, depth, width=min(prepared.shape))
    problem = RecoveryProblem(prepared.measurements, factors, jnp.asarray(prepared.targets))
    reached = trained.residual <= spec.tolerance
    done = Outcome.completed.value
    training = Training(
        depth=depth,
        steps=trained.steps,
        learning_rates=trained.learning_rates,
        correction=trained.correction,
        loss=trained.loss,
        residual=trained.residual,
        tolerance=spec.tolerance,
        trace=float(hessian_trace(problem, trained.params).value),
        **measured_sharpness(problem, trained.params),
    )
    outcome = f"{done}; the targets are fitted" if reached else f"{done}, but the residual is above the tolerance"
    return {"training": training, "outcome": outcome, "success": reached}
