"""What is proved of a fit, and how flat it is."""

import dataclasses

import numpy as np

from flatmin._core import Certificate, Certified, Outcome, Shown


@dataclasses.dataclass(frozen=True, repr=False)
class Proof(Certified):
    """The certificate of a fitted convex programme, and how it came about.

    Attributes:
        certificate: objective at the fit, lower bound, relative gap, and the probability that the bound is wrong.
        outcome: how the solve ended.
        method: how the bound was obtained, in a sentence.
    """

    certificate: Certificate
    outcome: Outcome
    method: str


@dataclasses.dataclass(frozen=True, repr=False)
class Flatness(Shown):
    """Curvature of `f(L, R) = (1/m) ||A(L R^T) - b||^2` at the fitted factors, and at others of the same matrix.

    Attributes:
        trace: `tr H = (2/m)(sum_i n_i ||L_i||^2 + sum_j n_j ||R_j||^2)` at the fitted factors; rows seen n_i times.
        balanced_trace: the same at factors with `L^T L = R^T R`.
        least_trace: `4 ||D_out^{1/2} X D_in^{1/2}||_*`, the smallest over factors of the fitted matrix [G, Thm 5].
        nuclear_norm: `||X||_*`.
        effective_rank: `||X||_*^2 / ||X||_F^2`.
        imbalance: `||L^T L - R^T R||_F / ||X||_F` [D, Thm 3.3].
    """

    trace: float
    balanced_trace: float
    least_trace: float
    nuclear_norm: float
    effective_rank: float
    imbalance: float

    @property
    def ratio(self) -> float:
        """`trace / least_trace`, 1 at flat factors; NaN for X = 0."""
        return self.trace / self.least_trace if self.least_trace > 0 else float("nan")


def completion_flatness(left: np.ndarray, right: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> Flatness:
    """Flatness of factors of a completion; O((d1 + d2) k^2).

    Args:
        left: L, shape (d1, k).
        right: R, shape (d2, k).
        rows: share n_i / m of the entries in each row, shape (d1,).
        cols: the same for the columns, shape (d2,).

    Returns:
        The closed forms.
    """
    Q1, R1 = np.linalg.qr(left)
    Q2, R2 = np.linalg.qr(right)
    U, s, Vt = np.linalg.svd(R1 @ R2.T)
    plain_left, plain_right = Q1 @ U * np.sqrt(s), Q2 @ Vt.T * np.sqrt(s)
    scaled = np.linalg.qr(np.sqrt(rows)[:, None] * left)[1] @ np.linalg.qr(np.sqrt(cols)[:, None] * right)[1].T
    size = float(np.linalg.norm(s))
    return Flatness(
        trace=_trace(left, right, rows, cols),
        balanced_trace=_trace(plain_left, plain_right, rows, cols),
        least_trace=4 * float(np.linalg.svd(scaled, compute_uv=False).sum()),
        nuclear_norm=float(s.sum()),
        effective_rank=float(s.sum() ** 2 / size**2) if size > 0 else 0.0,
        imbalance=float(np.linalg.norm(left.T @ left - right.T @ right)) / size if size > 0 else 0.0,
    )


def _trace(left: np.ndarray, right: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> float:
    return 2 * float(rows @ np.sum(left * left, axis=1) + cols @ np.sum(right * right, axis=1))
