"""Robust PCA: a low-rank matrix and gross errors in few entries."""

import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from flatmin._core import Solution, UsageError
from flatmin.estimators._entries import Entries, known_entries
from flatmin.estimators._float64 import float64
from flatmin.estimators._inputs import check_settings, index_pairs
from flatmin.estimators._results import Flatness, Proof, completion_flatness
from flatmin.solvers import RobustPCA, default_penalty, noise_norm, solve

ROW_STEPS = 400
"""Steps of the alternating directions that fit new rows."""


OUTLYING = 3.0
"""Standard deviations of the noise beyond which an entry counts as an error: one of 400 by chance."""

FIRST_LOOK = 300
"""Iterations without noise after which it is asked whether the split explains anything."""

STANDS_OUT = 2.0
"""Norms of the noise that the last singular value before it must have: below, noise and low rank are not two things."""

NORMAL = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""

LARGEST_SHARE = 0.25
"""Of the singular values, those among which the last one before the noise is looked for."""


def _explains_nothing(solution: Solution, known: np.ndarray) -> bool:
    """Whether a split into low rank and errors has as many free numbers as there are known entries."""
    errors = np.abs(solution.stats.get("outliers", np.zeros(1)))
    wrong = int(np.sum(errors > 1e-5 * errors.max(initial=0.0)))
    rank = solution.rank
    return rank * (sum(known.shape) - rank) + 2 * wrong > known.sum()


def _noise_left(filled: np.ndarray, matrix: np.ndarray, known: np.ndarray) -> float:
    """The deviation of most entries from what is before the widest gap of singular values; 0 if that is no more."""
    U, s, Vt = np.linalg.svd(matrix, full_matrices=False)
    among = max(1, int(LARGEST_SHARE * len(s)))
    floor = np.finfo(float).eps * s[0] * len(s)
    if len(s) < 2 or s[0] == 0:
        return 0.0
    rank = 1 + int(np.argmax(s[:among] / np.maximum(s[1 : among + 1], floor)))
    left = (filled - (U[:, :rank] * s[:rank]) @ Vt[:rank])[known]
    # the part that was fitted took its share of the noise
    freedom = min(rank * (sum(matrix.shape) - rank) / left.size, 0.5)
    sigma = float(NORMAL * np.median(np.abs(left)) / np.sqrt(1 - freedom))
    stands_out = s[rank - 1] >= STANDS_OUT * sigma * noise_norm(matrix.shape, float(known.mean()))
    return sigma if stands_out else 0.0


class FlatRobustPCA(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Split a matrix into a low-rank part and sparse errors.

    `min ||X||_* + penalty sum |Y - X|`, or `min ||X||_* s.t. sum |Y - X| <= radius`, over the known entries: with the
    radius of the true errors these are the flat solutions of [D, Sec 4]. With small noise in all entries, of standard
    deviation sigma, `min ||X||_* + penalty sum |S| + ||Y - X - S||^2 / (2 mu)`, mu the spectral norm of the noise
    (Zhou et al. 2010), where only what noise does not explain counts as an error.

    Parameters:
        penalty: > 0; None takes `1 / sqrt(max(samples, features))` [Candes et al. 2011], if there is no radius.
            With noise at least what leaves deviations below 3 sigma to the noise.
        radius: > 0, the sum of the absolute errors; give this or a penalty.
        noise: sigma >= 0; 0 for none. None splits without noise first, and where that leaves as many free numbers as
            known entries, so that it explains nothing, estimates sigma from it and, if its largest singular values
            stand out from such noise, splits again; `noise_` says so.
        tolerance: largest accepted relative gap.
        max_iter: limit of the solver's iterations.

    Attributes:
        low_rank_: X, shape (samples, features).
        outliers_: S, the errors at known entries, 0 elsewhere: Y - X without noise.
        noise_: sigma, given or estimated; 0 where the split is without noise.
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
        noise: float | None = None,
        tolerance: float = 1e-6,
        max_iter: int = 5000,
    ):
        self.penalty = penalty
        self.radius = radius
        self.noise = noise
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
        self.noise_ = float(self.noise or 0.0)
        looking = self.noise is None and self.radius is None
        solution, penalty = self._split(filled, known, min(FIRST_LOOK, self.max_iter) if looking else self.max_iter)
        if looking and _explains_nothing(solution, known):
            self.noise_ = _noise_left(filled, np.asarray(solution.matrix), known)
        if self.noise_ > 0 and looking:
            solution, penalty = self._split(filled, known, self.max_iter)
        elif looking and not solution.outcome.success and self.max_iter > FIRST_LOOK:
            solution, penalty = self._split(filled, known, self.max_iter - FIRST_LOOK, solution)
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
        self.fidelity_ = self.noise_ * noise_norm(entries.shape, float(known.mean()))
        limit = self.fidelity_ * (penalty or 0.0)
        self.outliers_ = np.where(known, filled - matrix - np.clip(filled - matrix, -limit, limit), 0.0)
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

    def _split(
        self, filled: np.ndarray, known: np.ndarray, most: int, start: Solution | None = None
    ) -> tuple[Solution, float | None]:
        """The solution with noise `noise_`, and the penalty that was used; None with a radius."""
        shape = (filled.shape[0], filled.shape[1])
        penalty = self.penalty
        if penalty is None and self.radius is None:
            penalty = max(default_penalty(shape), OUTLYING / noise_norm(shape, float(known.mean())) * (self.noise_ > 0))
        with float64():
            program = RobustPCA(
                filled,
                penalty=penalty,
                radius=self.radius,
                noise=self.noise_,
                mask=None if known.all() else known,
            )
            return solve(program, tolerance=self.tolerance, max_iterations=most, start=start, throw=False), penalty

    def transform(self, X: Any) -> np.ndarray:
        """The low-rank part of the rows of X, by the fitted right factor.

        Each row solves `min_l ||l||^2 / 2 + penalty sum_known |x - R l|` on its own (with noise, Huber's function in
        place of the absolute value), which at the rows seen in `fit` is the fitted matrix.

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
            errors = moved - np.clip(moved / (1 + rho * self.fidelity_), -limit, limit)
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
