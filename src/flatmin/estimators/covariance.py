"""Covariance from quadratic measurements: `y = x^T M x`."""

import warnings
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from flatmin._core import RealArray, Solution, UsageError
from flatmin.estimators._float64 import float64
from flatmin.estimators._inputs import check_settings, validated
from flatmin.estimators._results import Flatness, Proof
from flatmin.measurements import symmetric_rank_one
from flatmin.solvers import MinTrace, SquaredLoss, solve

FRACTIONS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Penalties tried, as fractions of the one from which on M = 0 is the answer."""


class FlatCovariance(RegressorMixin, BaseEstimator):
    """The flat covariance behind quadratic measurements `y_i = x_i^T M x_i + noise`, M positive semidefinite.

    `min_{M >= 0} penalty tr(D M D) + 1/2 sum_i (x_i^T M x_i - y_i)^2`, `D^2 = (1/m) sum ||x_i||^2 x_i x_i^T`: among
    covariances that fit as well, the one whose factors `M = U U^T` have the smallest trace of the Hessian of
    `(1/m) sum (||U^T x_i||^2 - y_i)^2` [D, Sec 4].

    Parameters:
        penalty: > 0; None chooses it by held-out measurements.
        scaled: False puts `tr M` (the nuclear norm) in place of `tr(D M D)`, and allows a singular D.
        validation_fraction: share of the measurements held out to choose.
        tolerance: largest accepted relative gap.
        max_iter: limit of the solver's iterations.
        random_state: of the held-out measurements.

    Attributes:
        covariance_: M, shape (features, features).
        factor_: U with `M = U U^T`, shape (features, k).
        rank_: k, eigenvalues above what the certificate resolves.
        penalty_: the penalty used.
        certificate_: a `Proof`.
        flatness_: a `Flatness`, of `tr H = 8 tr(U^T D^2 U)`; every factor of M has the same.
        n_iter_: iterations of the solver.
    """

    def __init__(
        self,
        penalty: float | None = None,
        *,
        scaled: bool = True,
        validation_fraction: float = 0.2,
        tolerance: float = 1e-6,
        max_iter: int = 5000,
        random_state: Any = None,
    ):
        self.penalty = penalty
        self.scaled = scaled
        self.validation_fraction = validation_fraction
        self.tolerance = tolerance
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to quadratic measurements.

        Args:
            X: the vectors x_i, shape (m, features).
            y: what was measured, shape (m,).

        Returns:
            Self.

        Raises:
            ValueError: for settings out of range, input that scikit-learn refuses, or fewer directions than features
                with `scaled=True`.
        """
        check_settings(self)
        X, y = validated(self, X, y, dtype=np.float64, y_numeric=True)
        y = np.asarray(y, np.float64)
        rng = check_random_state(self.random_state)
        largest = _largest(X, y, scaled=self.scaled)
        self.validation_path_: list[tuple[float, float]] = []
        penalty = self.penalty if self.penalty is not None else self._chosen(X, y, largest, rng)
        solution = self._solved(X, y, penalty, self.tolerance)
        if not solution.outcome.success:
            warnings.warn(
                f"{solution.outcome.value}; the fit is certified to a relative gap of {solution.gap:.1e}, asked for "
                f"was {self.tolerance:.1e}",
                ConvergenceWarning,
                stacklevel=2,
            )
        self._keep(X, penalty, solution)
        return self

    def _keep(self, X: np.ndarray, penalty: float, solution: Solution) -> None:
        matrix = np.asarray(solution.matrix, np.float64)
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        kept = values > solution.rank_tolerance
        self.covariance_ = 0.5 * (matrix + matrix.T)
        self.factor_ = vectors[:, kept] * np.sqrt(values[kept])
        self.rank_ = int(kept.sum())
        self.penalty_ = float(penalty)
        self.n_iter_ = max(1, int(solution.iterations))
        self.certificate_ = Proof(
            solution.certificate,
            solution.outcome,
            "dual point of the solver, scaled to feasibility by a whole eigenvalue decomposition",
        )
        moment = (X * np.sum(X**2, axis=1, keepdims=True)).T @ X / len(X)
        trace = 8 * float(np.sum(self.factor_ * (moment @ self.factor_)))
        positive = values[kept]
        self.flatness_ = Flatness(
            trace=trace,
            balanced_trace=trace,
            least_trace=trace,
            nuclear_norm=float(positive.sum()),
            effective_rank=float(positive.sum() ** 2 / np.sum(positive**2)) if positive.size else 0.0,
            imbalance=0.0,
        )

    def _solved(self, X: np.ndarray, y: np.ndarray, penalty: float, tolerance: float) -> Solution:
        with float64():
            program = MinTrace(
                symmetric_rank_one(jnp.asarray(X)), jnp.asarray(y), SquaredLoss(penalty), scaled=self.scaled
            )
            return solve(program, tolerance=tolerance, max_iterations=self.max_iter, throw=False)

    def _chosen(self, X: np.ndarray, y: np.ndarray, largest: float, rng: np.random.RandomState) -> float:
        m = len(y)
        held = round(self.validation_fraction * m)
        if largest <= 0:
            return 1.0
        if held < 1 or m - held < X.shape[1] + 1:
            return FRACTIONS[-1] * largest
        order = rng.permutation(m)
        out, kept = order[:held], order[held:]
        for fraction in FRACTIONS:
            matrix = np.asarray(self._solved(X[kept], y[kept], fraction * largest, 1e-3).matrix)
            error = float(np.sqrt(np.mean((_quadratic(X[out], matrix) - y[out]) ** 2)))
            self.validation_path_.append((fraction * largest, error))
        return min(self.validation_path_, key=lambda trial: trial[1])[0]

    def predict(self, X: Any) -> np.ndarray:
        """`x^T M x` for each row of X.

        Args:
            X: shape (number, features).

        Returns:
            Shape (number,).

        Raises:
            ValueError: for input that scikit-learn refuses.
        """
        check_is_fitted(self)
        return _quadratic(np.asarray(validated(self, X, dtype=np.float64, reset=False)), self.covariance_)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2 of the predicted measurements.

        Args:
            X: shape (number, features).
            y: what was measured, shape (number,).
            sample_weight: weight of each, shape (number,).

        Returns:
            `1 - sum (prediction - y)^2 / sum (y - mean)^2`; 1 is best.

        Raises:
            ValueError: for input that scikit-learn refuses.
        """
        check_is_fitted(self)
        X, y = validated(self, X, y, dtype=np.float64, y_numeric=True, reset=False)
        if sample_weight is not None:
            sample_weight = RealArray("n", low=0, host=True).accept(
                "sample_weight", sample_weight, {"n": (len(y), "y")}
            )
        return float(super().score(X, y, sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # a positive semidefinite quadratic form is no universal regressor: linear targets are out of its reach
        tags.regressor_tags.poor_score = True
        return tags


def _quadratic(X: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", np.matmul(X[:, None, :], matrix[None])[:, 0], X)


def _largest(X: np.ndarray, y: np.ndarray, *, scaled: bool) -> float:
    """The penalty from which on M = 0 is the answer: the largest eigenvalue of `D^{-1} A*(y) D^{-1}`."""
    gradient = X.T @ (y[:, None] * X)
    if scaled:
        values, vectors = np.linalg.eigh((X * np.sum(X**2, axis=1, keepdims=True)).T @ X / len(X))
        if values[0] <= 1e-13 * max(values[-1], 0.0):
            raise UsageError(
                f"X: got n_samples={len(X)} measurements that do not span the {X.shape[1]} features, which leaves D "
                "singular; add measurements, drop features that never vary, or use scaled=False"
            )
        root = vectors / np.sqrt(values)
        gradient = root.T @ gradient @ root
    return max(float(np.linalg.eigvalsh(gradient)[-1]), 0.0)
