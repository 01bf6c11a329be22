"""Numbers about a recovered matrix: errors, rank, flatness."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flatmin._core import JobError
from flatmin.experiments.recovery.prepared import Prepared
from flatmin.experiments.recovery.result import Error, Flatness
from flatmin.flatness import hessian_trace, scaled_trace, sharpness
from flatmin.measurements import AbstractMeasurements, observed_entries
from flatmin.parameterizations import Balanced, deep_matrix
from flatmin.problems import RecoveryProblem
from flatmin.theory.gatmiry2023 import depth_two_regulariser

LARGEST = 3000
"""Longest side of a matrix whose flatness is measured: the Gram matrices of the factors are d x d."""


def errors(prepared: Prepared, matrix: np.ndarray) -> dict[str, Error]:
    """How well the matrix predicts what was not fitted.

    Args:
        prepared: the cut data.
        matrix: the recovered matrix.

    Returns:
        For `held_out` (targets held back), `unseen` (entries of a known truth that were not shown) and `matrix` (the
        whole truth), as far as they exist: count, root mean square error, the same relative to the root mean square
        of the values, and that of predicting the mean of the fitted targets everywhere.
    """
    found = {}
    mean = float(prepared.targets.mean())
    if prepared.held is not None and prepared.held_targets is not None:
        found["held_out"] = _error(predict(prepared.held, matrix), prepared.held_targets, mean)
    truth = prepared.data.truth
    if truth is not None:
        if prepared.data.is_completion:
            unseen = ~prepared.seen
            if unseen.any():
                found["unseen"] = _error(matrix[unseen], truth[unseen], mean)
        found["matrix"] = _error(matrix, truth, mean if prepared.data.is_completion else 0.0)
    return found


def predict(op: AbstractMeasurements, matrix: np.ndarray) -> np.ndarray:
    """`A(X)` as a numpy array."""
    return np.asarray(op.forward(jnp.asarray(matrix)))


def _error(predicted: np.ndarray, actual: np.ndarray, baseline: float) -> Error:
    size = _rms(actual)
    rmse, trivial = _rms(predicted - actual), _rms(baseline - actual)
    return Error(
        count=int(actual.size),
        rmse=rmse,
        relative=rmse / size if size > 0 else math.nan,
        baseline_rmse=trivial,
        baseline_relative=trivial / size if size > 0 else math.nan,
    )


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def flatness(prepared: Prepared, matrix: np.ndarray) -> Flatness:
    """Flatness of `f(L, R) = (1/m) ||A(L R^T) - b||^2` at the balanced factors of the matrix.

    Args:
        prepared: the cut data.
        matrix: the recovered matrix.

    Returns:
        `trace`, `scaled_trace` [D, Def. 2.1], `sharpness` with its error, `predicted_minimum` of the trace over all
        factors of this matrix [G, Thm 5], `ratio` of the trace to it; NaN where it was too large to measure.
    """
    op, shape = prepared.measurements, prepared.shape
    if max(shape) > LARGEST or not matrix.any():
        return Flatness()
    factors = deep_matrix(shape, 2, width=min(shape))
    problem = RecoveryProblem(op, factors, jnp.asarray(prepared.targets))
    params = factors.init_params(jax.random.key(0), Balanced(jnp.asarray(matrix)))
    trace = float(hessian_trace(problem, params).value)
    minimum = predicted_minimum(op, matrix)
    return Flatness(
        trace=trace,
        scaled_trace=float(scaled_trace(problem, params).value),
        predicted_minimum=minimum,
        ratio=trace / minimum if minimum > 0 else math.nan,
        **measured_sharpness(problem, params),
    )


def measured_sharpness(problem: RecoveryProblem, params: Any) -> dict[str, Any]:
    """Sharpness and its residual bound; NaN with the reason if Lanczos does not converge."""
    try:
        top = sharpness(problem, params)
    except JobError as error:
        return {"sharpness": math.nan, "sharpness_note": str(error)}
    return {"sharpness": float(top.value), "sharpness_error": float(top.error), "sharpness_method": top.method}


def predicted_minimum(op: AbstractMeasurements, matrix: np.ndarray) -> float:
    """`4 ||D_out^{1/2} M D_in^{1/2}||_*` [G, Thm 5]; for entries the roots are diagonal and nothing is factorised."""
    seen = observed_entries(op)
    if seen is None:
        return float(depth_two_regulariser(op, jnp.asarray(matrix)))
    m = op.num_measurements
    rows = np.bincount(seen[0], minlength=op.matrix_shape[0]) / m
    columns = np.bincount(seen[1], minlength=op.matrix_shape[1]) / m
    weighted = np.sqrt(rows)[:, None] * matrix * np.sqrt(columns)
    return 4 * float(np.linalg.svd(weighted, compute_uv=False).sum())
