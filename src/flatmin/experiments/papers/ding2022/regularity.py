"""Norm gap and imbalance of flat factors, on the host: `diagnosis.diagnose` without compilation, for many instances."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from flatmin.solvers import MinScaledNuclearNorm


class Regularity(NamedTuple):
    """How far the flat factors of a matrix are from balanced factors of a nuclear-norm solution [D, Thm 3.3].

    Attributes:
        left: L of the flat factors, shape (d1, k).
        right: R, shape (d2, k).
        norm_gap: `(||L||^2 + ||R||^2 - 2 N) / (2 N)`.
        imbalance: `||L^T L - R^T R||_F / ||L R^T||_F`.
        norm_gap_bound: `(u1 u2 / 2)(1/l1^2 + 1/l2^2) - 1`, `[l_i, u_i]` the range of the eigenvalues of D_i.
    """

    left: np.ndarray
    right: np.ndarray
    norm_gap: float
    imbalance: float
    norm_gap_bound: float


def regularity(program: MinScaledNuclearNorm, matrix: ArrayLike, least_nuclear: float) -> Regularity:
    """Factor a flat solution and measure the factors.

    Args:
        program: the flat programme, which knows `D_1` and `D_2` up to scale.
        matrix: its solution.
        least_nuclear: N, the smallest nuclear norm that fits.

    Returns:
        The factors and their measures.
    """
    matrix = np.asarray(matrix)
    D1, D2 = _scalings(program)
    U, s, Vt = np.linalg.svd(D1 @ matrix @ D2, full_matrices=False)
    L, R = np.linalg.solve(D1, U * np.sqrt(s)), np.linalg.solve(D2, Vt.T * np.sqrt(s))
    (l1, u1), (l2, u2) = (np.linalg.eigvalsh(D)[[0, -1]] for D in (D1, D2))
    return Regularity(
        L,
        R,
        float((np.sum(L**2) + np.sum(R**2)) / (2 * least_nuclear) - 1),
        float(np.linalg.norm(L.T @ L - R.T @ R) / np.linalg.norm(matrix)),
        float(u1 * u2 * (1 / l1**2 + 1 / l2**2) / 2 - 1),
    )


def _scalings(program: MinScaledNuclearNorm) -> tuple[np.ndarray, np.ndarray]:
    d1, d2 = program.measurements.matrix_shape
    scales = [np.asarray(root) / size**0.5 for root, size in zip(program.roots, (d2, d1), strict=True)]
    D1, D2 = (np.diag(scale) if scale.ndim == 1 else scale for scale in scales)
    return D1, D2


def scaled_trace_of(program: MinScaledNuclearNorm, left: ArrayLike, right: ArrayLike) -> float:
    """`2 ||D_1 L||_F^2 + 2 ||D_2 R||_F^2`.

    Args:
        program: the flat programme, which knows `D_1` and `D_2` up to scale.
        left: L.
        right: R.

    Returns:
        The scaled trace.
    """
    D1, D2 = _scalings(program)
    return float(2 * np.sum((D1 @ np.asarray(left)) ** 2) + 2 * np.sum((D2 @ np.asarray(right)) ** 2))


def balanced_factors(matrix: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """`L = U S^{1/2}`, `R = V S^{1/2}`: the factors of a matrix with the smallest norms.

    Args:
        matrix: shape (d1, d2).

    Returns:
        L, R.
    """
    U, s, Vt = np.linalg.svd(np.asarray(matrix), full_matrices=False)
    return U * np.sqrt(s), Vt.T * np.sqrt(s)
