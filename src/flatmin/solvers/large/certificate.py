"""What a pair of factors proves, recomputed from them and the data alone."""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import sparse

from flatmin._core import Certificate, Certified, Optional, Outcome, Real, UsageError, checked
from flatmin.solvers.large.problem import LargeCompletion
from flatmin.solvers.large.spectral import SpectralBound, spectral_bound
from flatmin.solvers.large.sweeps import predict_entries

KEPT = 1e-14
"""Singular values of the factors' product below this fraction of the largest span no direction worth splitting off."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class CertifiedFactors(Certified):
    """Factors, multipliers, and what they prove, in the scaled units of the problem's `values`.

    Attributes:
        certificate: the objective at the factors, the lower bound, the relative gap, and as `residual` `||X - Y||` over
            the entries; wrong with the probability of the spectral bound.
        dual: q, feasible, in the order by rows.
        left: the flat factors of the same X, shape (d1, k).
        right: shape (d2, k).
        singular_values: of `D1 X D2`, descending.
        bound: of the spectral norm of the weighted residual.
    """

    certificate: Certificate
    dual: np.ndarray
    left: np.ndarray
    right: np.ndarray
    singular_values: np.ndarray
    bound: SpectralBound
    outcome: Outcome = Outcome.completed
    method: str = "certify_large"


@checked(penalty=Optional(Real(0, above=True)))
def certify_large(
    problem: LargeCompletion,
    left: Float[np.ndarray, "d1 k"],
    right: Float[np.ndarray, "d2 k"],
    *,
    penalty: float | None = None,
    rng: np.random.Generator,
) -> CertifiedFactors:
    """Turn any factors into a proved interval for the optimum, in scaled units (`values = Y / scale`).

    The residual `q = Y - X` over the entries, scaled so that a certified upper bound of
    `||D1^{-1} A*(q) D2^{-1}||_op` is at most lambda (at most 1 for a radius), is a feasible point of the dual:
    `max <q, Y> - ||q||^2 / 2`, or `max <q, Y> - radius ||q||`. No other fact about the factors is used.

    Args:
        problem: the data and lambda or the radius.
        left: shape (d1, k), of X in scaled units.
        right: shape (d2, k).
        penalty: lambda in scaled units; default: the problem's. With a radius it only sets the scale on which the
            spectral bound is refined.
        rng: draws the start of Lanczos.

    Returns:
        The certificate. With a radius its gap counts only where `residual <= radius`.

    Cost: O(m k) for the residual and products, two sparse products a Lanczos step, O((d1 + d2) k^2).
    """
    for name, factor, weights in (("left", left, problem.row_weights), ("right", right, problem.col_weights)):
        if factor.shape[0] != len(weights):
            raise UsageError(f"{name}: got {factor.shape[0]} rows, expected {len(weights)}, those of the problem")
    if penalty is None:
        penalty = (problem.penalty or 0.0) / problem.scale
    a, b = problem.row_weights, problem.col_weights
    U, s, V = factored_svd(a[:, None] * left, b[:, None] * right)
    q = problem.values - predict_entries(problem, left, right)
    residual = float(np.linalg.norm(q))
    matrix, transpose = weighted(problem, q)
    main = s > KEPT * (s[0] if s.size else 1.0)
    level = penalty
    bound = spectral_bound(matrix, transpose, U[:, main], V[:, main], level=level, rng=rng)
    upper = bound.upper * (1 + 1e-14)
    inner, square = float(q @ problem.values), residual**2
    if problem.radius is None:
        most = penalty / upper if upper > 0 else np.inf
        factor = min(most, max(inner / square, 0.0)) if square > 0 else 0.0
        dual_value = factor * inner - 0.5 * factor**2 * square
        primal_value = penalty * float(s.sum()) + 0.5 * square
    else:
        factor = 1 / upper if upper > 0 else 0.0
        dual_value = factor * (inner - problem.radius / problem.scale * residual)
        primal_value = float(s.sum())
    if dual_value <= 0:  # q = 0 proves as much
        factor, dual_value = 0.0, 0.0
    return CertifiedFactors(
        Certificate.between(primal_value, dual_value, residual, bound.failure_probability),
        factor * q,
        *flat_factors(problem, U, s, V),
        s,
        bound,
    )


def flat_factors(
    problem: LargeCompletion, U: np.ndarray, s: np.ndarray, V: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`D1^{-1} U S^{1/2}` and `D2^{-1} V S^{1/2}`, zero in lines of weight 0 [D, Thm 3.2]."""
    root = np.sqrt(s)
    return (
        _inverse(problem.row_weights)[:, None] * U * root,
        _inverse(problem.col_weights)[:, None] * V * root,
    )


def weighted(problem: LargeCompletion, q: np.ndarray) -> tuple[sparse.csr_array, sparse.csr_array]:
    """`D1^{-1} A*(q) D2^{-1}` and its transpose, both by rows.

    Args:
        problem: the entries and weights.
        q: shape (m,), in the order by rows.

    Returns:
        Sparse arrays that share the problem's indices.
    """
    d1, d2 = problem.shape
    by_row, by_col = _inverse(problem.row_weights), _inverse(problem.col_weights)
    data = q * np.repeat(by_row, problem.row_counts) * by_col[problem.cols]
    return (
        sparse.csr_array((data, problem.cols, problem.row_start), shape=(d1, d2)),
        sparse.csr_array((data[problem.by_column], problem.rows, problem.col_start), shape=(d2, d1)),
    )


def weighted_size(problem: LargeCompletion) -> float:
    """`||D1 A*(Y) D2||_F`: the size of the data in the units of the singular values of `D1 X D2`."""
    by_row = np.repeat(problem.row_weights, problem.row_counts)
    return float(np.linalg.norm(problem.values * by_row * problem.col_weights[problem.cols]))


def factored_svd(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular value decomposition `U diag(s) V^T = L R^T` by two QR and one k x k.

    Args:
        left: shape (d1, k).
        right: shape (d2, k).

    Returns:
        U, s and V with `min(k, d1, d2)` columns.
    """
    Q1, R1 = np.linalg.qr(left)
    Q2, R2 = np.linalg.qr(right)
    U, s, Vt = np.linalg.svd(R1 @ R2.T, full_matrices=False)
    return Q1 @ U, s, Q2 @ Vt.T


def _inverse(weights: np.ndarray) -> np.ndarray:
    return np.divide(1.0, weights, out=np.zeros_like(weights), where=weights > 0)
