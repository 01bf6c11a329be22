"""What `complete` returns: factors, never the matrix, and the certificate."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from flatmin._core import Certificate, Outcome, Result, UsageError
from flatmin._core.display import number, shape
from flatmin.solvers.large.spectral import SpectralBound
from flatmin.solvers.large.sweeps import predict_pairs

MOST_CELLS = 50_000_000
"""Largest matrix that is formed from its factors."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FactoredSolution(Result):
    """A completed matrix `X = left right^T` and what is proved of it.

    Attributes:
        left: shape (d1, k), `D1^{-1} U S^{1/2}` with `D1 X D2 = U S V^T`: the flat factors of X.
        right: shape (d2, k), `D2^{-1} V S^{1/2}`.
        singular_values: S, of the weighted matrix `D1 X D2`, descending, shape (k,).
        dual: q, shape (m,), in the order of the entries given; feasible for the dual with the probability of the bound.
        primal_value: the objective at X.
        dual_value: the dual objective at q, a lower bound on the optimum.
        gap: `|primal_value - dual_value| / max(primal_value, tiny)`, the largest relative distance to the optimum.
        penalty: lambda; with a radius, the one found for it.
        residual: `||X - Y||` over the entries.
        excess: relative amount by which the residual exceeds the radius; 0 without one.
        bound: the spectral norm of the weighted dual before scaling; says how it was bounded and how surely.
        sweeps: sweeps of least squares over both factors.
        outcome: how it ended.
        notes: what a reader must know, in sentences.
        stats: further diagnostics.
        rank: number of singular values above `rank_tolerance`.
        rank_tolerance: what counts as zero: what the certificate resolves where it is reached; where the rank was held
            at `max_rank`, rounding, as the gap then says nothing of the directions that are there.
        method: `complete`.
    """

    left: Float[np.ndarray, "d1 k"]
    right: Float[np.ndarray, "d2 k"]
    singular_values: Float[np.ndarray, " k"]
    dual: Float[np.ndarray, " m"]
    primal_value: float
    dual_value: float
    gap: float
    penalty: float
    residual: float
    excess: float
    bound: SpectralBound
    sweeps: int
    outcome: Outcome
    notes: tuple[str, ...]
    stats: dict[str, Any]
    rank: int
    rank_tolerance: float
    method: str = "complete"

    @property
    def shape(self) -> tuple[int, int]:
        """(d1, d2)."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def certificate(self) -> Certificate:
        """What is proved of the optimum; the residual is the excess over the radius, 0 for a loss."""
        return Certificate(self.primal_value, self.dual_value, self.gap, self.excess, self.bound.failure_probability)

    def headline(self) -> str:
        """Shape, objective, gap and rank; the outcome first where it is no success."""
        ended = "" if self.outcome.success else f"{self.outcome.name}: "
        return (
            f"{ended}{shape(self.shape)} matrix in factors, objective {number(self.primal_value)}, certified gap "
            f"{number(self.gap, 1)}, rank {self.rank}"
        )

    def reached(self) -> str:
        """Gap and sweeps."""
        return f"reached gap {self.gap:.1e} after {self.sweeps} sweeps"

    def predict(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """`X[rows, cols]`, pair by pair; O(m k).

        Raises:
            UsageError: for indices of different length or outside the matrix.
        """
        rows, cols = np.asarray(rows), np.asarray(cols)
        if rows.shape != cols.shape or rows.ndim != 1:
            raise UsageError(
                f"rows, cols: got shapes {rows.shape} and {cols.shape}, expected two vectors of one length"
            )
        for name, given, size in (("rows", rows, self.shape[0]), ("cols", cols, self.shape[1])):
            if given.size and (given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= size):
                raise UsageError(
                    f"{name}: expected integers in [0, {size}), got {given.dtype} from {given.min()} to {given.max()}"
                )
        return predict_pairs(self.left, self.right, rows, cols)

    def matrix(self) -> np.ndarray:
        """X itself.

        Raises:
            UsageError: for more than 50 million cells; ask `predict` for the entries that are wanted.
        """
        d1, d2 = self.shape
        if d1 * d2 > MOST_CELLS:
            raise UsageError(f"matrix: got {d1} x {d2} cells, expected at most {MOST_CELLS:,}; use predict(rows, cols)")
        return self.left @ self.right.T
