"""Matrix completion: the flat solution and the minimum-nuclear-norm one, penalised, at any size."""

import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from flatmin._core import UsageError
from flatmin.estimators._entries import Entries, known_entries, scale_note
from flatmin.estimators._inputs import check_settings, index_pairs
from flatmin.estimators._results import Flatness, Proof, completion_flatness
from flatmin.measurements import unlinked
from flatmin.solvers.large import (
    FactoredSolution,
    LargeCompletion,
    complete,
    large_completion,
    largest_penalty,
    project_rows,
)
from flatmin.solvers.large.sweeps import predict_pairs

FIRST, RATIO, LAST = 0.5, 0.6, 1e-4
"""Penalties tried, as fractions of the largest: from the first by the ratio, while they help."""

PATIENCE = 2
"""Penalties tried after the best before the search ends."""

LOOSE = 1e-3
"""Gap asked of the fits that only compare penalties."""

MOST_CELLS = 200_000_000
"""Largest dense result of `transform`."""


class _Completion(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """What both completions share; they differ in the weights of the norm."""

    _weighting = "flat"

    def __init__(
        self,
        penalty: float | None = None,
        *,
        rank: int | str | None = None,
        centre: bool = True,
        validation_fraction: float = 0.1,
        unseen: str = "reduce",
        tolerance: float = 1e-4,
        max_iter: int = 500,
        random_state: Any = None,
    ):
        self.penalty = penalty
        self.rank = rank
        self.centre = centre
        self.validation_fraction = validation_fraction
        self.unseen = unseen
        self.tolerance = tolerance
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to the known entries of X.

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
        entries, _ = known_entries(self, X, reset=True)
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(2**31 - 1))
        self.offset_ = float(entries.values.mean()) if self.centre else 0.0
        centred = entries._replace(values=entries.values - self.offset_)
        self.validation_path_: list[tuple[float, int | None, float]] = []
        penalty, cap = self._chosen(centred, seed)
        problem = self._problem(centred, penalty)
        loose = unlinked(entries.rows, entries.cols, entries.shape)
        for note in (*problem.notes, loose, scale_note(entries), self._edge_note()):
            if note is not None:
                warnings.warn(note, UserWarning, stacklevel=2)
        solution = complete(
            problem, tolerance=self.tolerance, max_sweeps=self.max_iter, max_rank=cap, seed=seed, throw=False
        )
        if not solution.outcome.success:
            note = (
                "the rank was held below that of the solution"
                if cap is not None and solution.left.shape[1] >= cap
                else "raise max_iter or tolerance"
            )
            warnings.warn(
                f"the fit is certified to a relative gap of {solution.gap:.1e}, asked for was {self.tolerance:.1e}; "
                f"{note}",
                ConvergenceWarning,
                stacklevel=2,
            )
        self._keep(problem, solution)
        return self

    def _keep(self, problem: LargeCompletion, solution: FactoredSolution) -> None:
        m = problem.num_entries
        self.penalty_ = solution.penalty
        self.left_, self.right_ = solution.left, solution.right
        self.singular_values_ = solution.singular_values
        self.rank_ = solution.rank
        self.n_iter_ = max(1, solution.sweeps)
        self.n_entries_ = m
        self.certificate_ = Proof(solution.certificate, solution.outcome, solution.bound.method)
        self.flatness_: Flatness = completion_flatness(
            solution.left, solution.right, problem.row_counts / m, problem.col_counts / m
        )

    def _problem(self, entries: Entries, penalty: float) -> LargeCompletion:
        return large_completion(
            entries.rows,
            entries.cols,
            entries.values,
            entries.shape,
            penalty=penalty,
            weighting=self._weighting,
            reduce=self.unseen == "reduce",
        )

    def _chosen(self, entries: Entries, seed: int) -> tuple[float, int | None]:
        """The penalty and the cap of the rank: given, or those with the least error on held-out entries."""
        cap = None if isinstance(self.rank, str) else self.rank
        if self.penalty is not None and not isinstance(self.rank, str):
            return float(self.penalty), cap
        m = len(entries.values)
        held_number = round(self.validation_fraction * m)
        if not 0 < held_number < m or not entries.values.any():
            if self.penalty is not None:
                return float(self.penalty), cap
            # nothing to compare on: a penalty that takes a tenth of what is seen, 1 for data without variation
            return 0.1 * largest_penalty(self._problem(entries, 1.0), seed=seed) or 1.0, cap
        order = np.random.default_rng([seed, 1]).permutation(m)
        held, kept = order[:held_number], np.sort(order[held_number:])
        part = entries._replace(rows=entries.rows[kept], cols=entries.cols[kept], values=entries.values[kept])
        problem = large_completion(
            part.rows, part.cols, part.values, part.shape, penalty=1.0, weighting=self._weighting, reduce=True
        )
        rows, cols, values = entries.rows[held], entries.cols[held], entries.values[held]

        def error(solution: FactoredSolution) -> float:
            return float(np.sqrt(np.mean((solution.predict(rows, cols) - values) ** 2)))

        penalty = self._search(problem, cap, seed, error) if self.penalty is None else float(self.penalty)
        if isinstance(self.rank, str):
            cap = self._best_rank(problem.with_penalty(penalty), seed, error)
        return penalty, cap

    def _search(self, problem: LargeCompletion, cap: int | None, seed: int, error: Any) -> float:
        top = largest_penalty(problem, seed=seed)
        if top <= 0:
            return 1.0
        penalty, solution, best, since = FIRST * top, None, (float("inf"), FIRST * top), 0
        while penalty >= LAST * top and since <= PATIENCE:
            solution = complete(
                problem.with_penalty(penalty),
                tolerance=LOOSE,
                max_sweeps=self.max_iter,
                max_rank=cap,
                start=solution if solution is not None and solution.left.shape[1] else None,
                seed=seed,
                throw=False,
            )
            reached = error(solution)
            self.validation_path_.append((penalty, cap, reached))
            since = 0 if reached < best[0] else since + 1
            best = min(best, (reached, penalty))
            penalty *= RATIO
        return best[1]

    def _edge_note(self) -> str | None:
        """What to say where the search for a penalty ended while the error on held-out entries still fell."""
        tried = [penalty for penalty, *_ in self.validation_path_]
        if self.penalty is not None or len(tried) < 2 or min(self.validation_path_, key=lambda t: t[2])[0] > min(tried):
            return None
        return (
            f"the smallest penalty tried, {min(tried):.2g}, predicts the held-out entries best: the search ended at "
            "its edge, and the data may be exact; give a smaller penalty"
        )

    def _best_rank(self, problem: LargeCompletion, seed: int, error: Any) -> int | None:
        whole = complete(problem, tolerance=LOOSE, max_sweeps=self.max_iter, seed=seed, throw=False)
        errors: dict[int | None, float] = {None: error(whole)}
        cap = 1
        while cap < whole.left.shape[1]:
            held = complete(problem, tolerance=LOOSE, max_sweeps=60, max_rank=cap, seed=seed, throw=False)
            errors[cap] = error(held)
            cap *= 2
        self.validation_path_ += [(problem.penalty or 0.0, cap, reached) for cap, reached in errors.items()]
        return min(errors, key=lambda cap: errors[cap])

    def _rows(self, entries: Entries) -> np.ndarray:
        """Left factors of the rows of any X, from their known entries."""
        counts = np.bincount(entries.rows, minlength=entries.shape[0])
        weights = counts / self.n_entries_ if self._weighting == "flat" else np.ones(len(counts))
        return project_rows(
            entries.rows, entries.cols, entries.values - self.offset_, self.right_, self.penalty_ * weights
        )

    def transform(self, X: Any) -> np.ndarray:
        """Fill the unknown entries of X; known ones stay as they are.

        Each row is fitted on its own known entries with the fitted right factor; for the rows seen in `fit` that is the
        fitted matrix.

        Args:
            X: samples by features; NaN, masked, or not stored where unknown.

        Returns:
            A dense array without NaN.

        Raises:
            ValueError: for input that scikit-learn refuses, or a result of more than 200 million cells.
        """
        check_is_fitted(self)
        entries, dense = known_entries(self, X, reset=False)
        filled = self._reconstructed(entries)
        if dense is None:
            filled[entries.rows, entries.cols] = entries.values
            return filled
        return np.where(np.isnan(dense), filled, dense).astype(dense.dtype, copy=False)

    def predict(self, X: Any, cols: Any = None) -> np.ndarray:
        """`predict(rows, cols)`: entries of the fitted matrix. `predict(X)`: the low-rank fit to the rows of X.

        Args:
            X: indices of rows of the fitted matrix, shape (number,); without `cols`, samples by features as in `fit`.
            cols: indices of columns, shape (number,).

        Returns:
            Shape (number,), one prediction a pair; without `cols`, the low-rank matrix, known entries not kept.

        Raises:
            ValueError: for indices outside the fitted matrix or of different length.
        """
        check_is_fitted(self)
        if cols is None:
            return self._reconstructed(known_entries(self, X, reset=False)[0])
        rows, columns = index_pairs(X, cols, (len(self.left_), len(self.right_)))
        return self.offset_ + predict_pairs(self.left_, self.right_, rows, columns)

    def score(self, X: Any, y: Any = None) -> float:
        """R^2 of predicting half of each row's known entries from the other half; X may be new or held-out rows.

        Args:
            X: samples by features; of each row the 1st, 3rd, ... known entries are shown, the others predicted.
            y: ignored.

        Returns:
            `1 - sum (prediction - value)^2 / sum (value - mean)^2` over the predicted entries; 1 is best.

        Raises:
            ValueError: if no row has two known entries.
        """
        del y
        check_is_fitted(self)
        entries, _ = known_entries(self, X, reset=False)
        first = np.concatenate([[0], np.cumsum(np.bincount(entries.rows, minlength=entries.shape[0]))])
        hidden = (np.arange(len(entries.rows)) - first[entries.rows]) % 2 == 1
        if not hidden.any():
            raise UsageError("X: no row has two known entries, one to show and one to predict; score needs some")
        shown = Entries(*(part[~hidden] for part in entries[:3]), shape=entries.shape)
        rows, cols, values = (part[hidden] for part in entries[:3])
        predicted = self.offset_ + predict_pairs(self._rows(shown), self.right_, rows, cols)
        spread = float(np.sum((values - values.mean()) ** 2))
        miss = float(np.sum((predicted - values) ** 2))
        return 1 - miss / spread if spread > 0 else float(miss == 0)

    def _reconstructed(self, entries: Entries) -> np.ndarray:
        d1, d2 = entries.shape
        if d1 * d2 > MOST_CELLS:
            raise UsageError(
                f"X: the result would be a dense {d1} x {d2} array, expected at most {MOST_CELLS:,} cells; "
                "use predict(rows, cols)"
            )
        # one small product a row, so that a row's result does not depend on the others
        return np.matmul(self._rows(entries)[:, None, :], self.right_.T[None])[:, 0] + self.offset_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags


class FlatCompletion(_Completion):
    """The flat completion of a partly known matrix.

    `min_X penalty ||D_out^{1/2} X D_in^{1/2}||_* + 1/2 sum_known (X - Y)^2`, with `D_out = diag(n_i / m)` for rows
    known n_i times of m, `D_in` alike: among matrices that fit as well, the one whose factors have the smallest trace
    of the Hessian of `(1/m) ||A(L R^T) - b||^2` [G, Thm 5; D, Thm 3.2], also known as the weighted trace norm
    [Salakhutdinov & Srebro 2010], which suits entries that are not known uniformly.

    Parameters:
        penalty: > 0; None chooses it by held-out entries.
        rank: most columns of the factors; None for no limit; "validation" chooses among 1, 2, 4, ... by held-out
            entries.
        centre: whether to subtract the mean of the known entries first.
        validation_fraction: share of the known entries held out to choose.
        unseen: "reduce" fills rows and columns without a known entry with the mean, and warns; "error" refuses them.
        tolerance: largest accepted relative gap.
        max_iter: limit of the sweeps of least squares.
        random_state: of the held-out entries and the solver's starts.

    Attributes:
        left_: L, shape (samples, k); `X = offset_ + L R^T`, flat factors.
        right_: R, shape (features, k).
        singular_values_: of the weighted matrix, shape (k,).
        rank_: number of those above what the certificate resolves.
        penalty_: the penalty used.
        offset_: what was subtracted.
        certificate_: a `Proof`.
        flatness_: a `Flatness`.
        validation_path_: penalty, cap of the rank and held-out error of each trial.
        n_iter_: sweeps of the final fit.
        n_entries_: m.

    Cost: memory O(m + (samples + features) k); see `solvers.large.complete`.
    """

    _weighting = "flat"


class NuclearCompletion(_Completion):
    """Completion by the plain nuclear norm: `min_X penalty ||X||_* + 1/2 sum_known (X - Y)^2`.

    The same parameters and attributes as `FlatCompletion`; the penalty is in other units. The factors are balanced, and
    `flatness_` says how far that is from flat.
    """

    _weighting = "plain"
