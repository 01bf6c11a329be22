"""Robust PCA: a low-rank matrix and gross errors in few entries."""

import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from flatmin._core import UsageError
from flatmin.estimators._entries import Entries, known_entries
from flatmin.estimators._float64 import float64
from flatmin.estimators._inputs import check_settings, index_pairs
from flatmin.estimators._results import Flatness, Proof, completion_flatness
from flatmin.solvers import RobustPCA, default_penalty, solve

ROW_STEPS = 400
"""Steps of the alternating directions that fit new rows."""


class FlatRobustPCA(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Split a matrix into a low-rank part and sparse errors.

    `min ||X||_* + penalty sum |Y - X|`, or `min ||X||_* s.t. sum |Y - X| <= radius`, over the known entries: with the
    radius of the true errors these are the flat solutions of [D, Sec 4].

    Parameters:
        penalty: > 0; None takes `1 / sqrt(max(samples, features))` [Candes et al. 2011], if there is no radius.
        radius: > 0, the sum of the absolute errors; give this or a penalty.
        tolerance: largest accepted relative gap.
        max_iter: limit of the solver's iterations.

    Attributes:
        low_rank_: X, shape (samples, features).
        outliers_: Y - X at known entries, 0 elsewhere.
        left_: L with `X = L R^T`, balanced, shape (samples, k).
        right_: R, shape (features, k).
        rank_: k, singular values above what the certificate resolves.
        penalty_: the weight of the errors; with a radius, the dual's largest entry.
        certificate_: a `Proof`.
        flatness_: a `Flatness`, of the factors seen through the known entries.
        n_iter_: iterations of the solver.

    Cost: a dense singular value decomposition an iteration.
    """

    def __init__(
        self,
        penalty: float | None = None,
        *,
        radius: float | None = None,
        tolerance: float = 1e-6,
        max_iter: int = 5000,
    ):
        self.penalty = penalty
        self.radius = radius
        self.tolerance = tolerance
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any = None) -> Self:
        """Split X.

        Args:
            X: samples by features; NaN, masked, or not stored where unknown.
            y: ignored.

        Returns:
            Self.

        Raises:
            ValueError: for settings out of range, or input that scikit-learn refuses.
        """
        del y
        check_settings(self)
        if self.penalty is not None and self.radius is not None:
            raise UsageError("penalty, radius: got both, expected one; leave the other None")
        entries, _ = known_entries(self, X, reset=True)
        known = np.zeros(entries.shape, dtype=bool)
        known[entries.rows, entries.cols] = True
        filled = np.zeros(entries.shape)
        filled[entries.rows, entries.cols] = entries.values
        penalty = self.penalty
        if penalty is None and self.radius is None:
            penalty = default_penalty(entries.shape)
        with float64():
            program = RobustPCA(filled, penalty=penalty, radius=self.radius, mask=None if known.all() else known)
            solution = solve(program, tolerance=self.tolerance, max_iterations=self.max_iter, throw=False)
            matrix, dual = np.asarray(solution.matrix, np.float64), np.asarray(solution.dual, np.float64)
        if not solution.outcome.success:
            warnings.warn(
                f"{solution.outcome.value}; the fit is certified to a relative gap of {solution.gap:.1e}, asked for "
                f"was {self.tolerance:.1e}",
                ConvergenceWarning,
                stacklevel=2,
            )
        U, s, Vt = np.linalg.svd(matrix, full_matrices=False)
        kept = s > solution.rank_tolerance
        self.left_, self.right_ = U[:, kept] * np.sqrt(s[kept]), Vt[kept].T * np.sqrt(s[kept])
        self.rank_ = int(kept.sum())
        self.low_rank_ = matrix
        self.outliers_ = np.where(known, filled - matrix, 0.0)
        self.penalty_ = float(penalty) if penalty is not None else float(np.abs(dual).max())
        self.scale_ = float(np.sqrt(np.mean(entries.values**2)))
        self.n_iter_ = max(1, int(solution.iterations))
        self.certificate_ = Proof(
            solution.certificate,
            solution.outcome,
            "dual point of the solver, scaled to feasibility by a whole singular value decomposition",
        )
        shares = known / known.sum()
        self.flatness_: Flatness = completion_flatness(self.left_, self.right_, shares.sum(1), shares.sum(0))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The low-rank part of the rows of X, by the fitted right factor.

        Each row solves `min_l ||l||^2 / 2 + penalty sum_known |x - R l|` on its own, which at the rows seen in `fit` is
        the fitted matrix.

        Args:
            X: samples by features; NaN, masked, or not stored where unknown.

        Returns:
            Shape of X, without NaN.

        Raises:
            ValueError: for input that scikit-learn refuses.
        """
        check_is_fitted(self)
        entries, _ = known_entries(self, X, reset=False)
        return np.matmul(self._rows(entries)[:, None, :], self.right_.T[None])[:, 0]

    def _rows(self, entries: Entries) -> np.ndarray:
        known = np.zeros(entries.shape)
        known[entries.rows, entries.cols] = 1.0
        values = np.zeros(entries.shape)
        values[entries.rows, entries.cols] = entries.values
        R, k = self.right_, self.right_.shape[1]
        rho = self.penalty_ / max(0.3 * self.scale_, 1e-300)
        inverse = np.linalg.inv(np.eye(k) + rho * R.T @ R) * rho
        errors = scaled = np.zeros(entries.shape)
        left = np.zeros((entries.shape[0], k))
        for _ in range(ROW_STEPS):
            # one small product a row, so that a row's result does not depend on the others
            left = np.matmul((values - errors - scaled)[:, None, :], (R @ inverse)[None])[:, 0]
            miss = values - np.matmul(left[:, None, :], R.T[None])[:, 0]
            moved = miss - scaled
            limit = known * (self.penalty_ / rho)
            errors = np.sign(moved) * np.maximum(np.abs(moved) - limit, 0.0)
            scaled = scaled + errors - miss
        return left

    def predict(self, X: Any, cols: Any = None) -> np.ndarray:
        """`predict(rows, cols)`: entries of the low-rank part. `predict(X)`: the same as `transform(X)`.

        Args:
            X: indices of rows of the fitted matrix, shape (number,); without `cols`, samples by features.
            cols: indices of columns, shape (number,).

        Returns:
            Shape (number,), or the shape of X.

        Raises:
            ValueError: for indices outside the fitted matrix or of different length.
        """
        check_is_fitted(self)
        if cols is None:
            return self.transform(X)
        rows, columns = index_pairs(X, cols, self.low_rank_.shape)
        return self.low_rank_[rows, columns]

    def score(self, X: Any, y: Any = None) -> float:
        """Share of the absolute deviation from the median that the low-rank part explains, at the known entries.

        Args:
            X: samples by features.
            y: ignored.

        Returns:
            `1 - sum |x - fit| / sum |x - median|`; 1 is best.

        Raises:
            ValueError: if nothing is known.
        """
        del y
        entries, _ = known_entries(self, X, reset=False)
        if not entries.values.size:
            raise UsageError("X: no entry is known, score needs some")
        fitted = self.transform(X)[entries.rows, entries.cols]
        spread = float(np.sum(np.abs(entries.values - np.median(entries.values))))
        miss = float(np.sum(np.abs(entries.values - fitted)))
        return 1 - miss / spread if spread > 0 else float(miss == 0)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags
