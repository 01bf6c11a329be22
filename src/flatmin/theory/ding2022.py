"""Ding, Drusvyatskiy, Fazel, Harchaoui 2022: flat minima of two factors recover low-rank matrices.

Normalisation: `f(L, R) = (1/m) ||A(L R^T) - b||^2`, L (d1, k), R (d2, k); `D_1 = ((1/(m d2)) sum A_i A_i^T)^{1/2}`,
`D_2 = ((1/(m d1)) sum A_i^T A_i)^{1/2}`; scaled trace `2 ||D_1 L||_F^2 + 2 ||D_2 R||_F^2`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin._core import UsageError, check_shape
from flatmin.measurements import AbstractMeasurements, col_gram, row_gram
from flatmin.theory._statements import statement


class Factors(NamedTuple):
    """Two factors of `M = L R^T`.

    Attributes:
        left: L, shape (d1, k).
        right: R, shape (d2, k).
    """

    left: Float[Array, "d1 k"]
    right: Float[Array, "d2 k"]


def _moments(measurements: AbstractMeasurements) -> tuple[np.ndarray, np.ndarray]:
    """`D_1^2` and `D_2^2`."""
    (d1, d2), m = measurements.matrix_shape, measurements.num_measurements
    return np.asarray(row_gram(measurements), float) / (m * d2), np.asarray(col_gram(measurements), float) / (m * d1)


def _root_and_inverse(moment: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(moment)
    if not values[0] > 1e-13 * values[-1]:
        raise UsageError(
            f"measurements: got a singular {name} (squared eigenvalues from {values[0]:.1e} to {values[-1]:.1e}), "
            "expected an invertible one: some row, column or combination is seen by no measurement"
        )
    roots = np.sqrt(values)
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


@statement("minimiser", "[D, Thm 3.2]", "D_1 and D_2 invertible")
def flat_factors(measurements: AbstractMeasurements, matrix: Float[Array, "d1 d2"]) -> Factors:
    """The factors of M with the smallest scaled trace: `L = D_1^{-1} U S^{1/2}`, `R = D_2^{-1} V S^{1/2}`.

    `D_1 M D_2 = U S V^T`; their scaled trace is `4 ||D_1 M D_2||_*`. O(d^3) operations.

    Args:
        measurements: A.
        matrix: M, shape (d1, d2).

    Returns:
        The factors, with min(d1, d2) columns.

    Raises:
        UsageError: for a matrix of another shape, or a singular D_1 or D_2.
    """
    check_shape("matrix", matrix, measurements.matrix_shape)
    (left, left_inverse), (right, right_inverse) = (
        _root_and_inverse(moment, name) for moment, name in zip(_moments(measurements), ("D_1", "D_2"), strict=True)
    )
    U, s, Vt = np.linalg.svd(left @ np.asarray(matrix) @ right, full_matrices=False)
    return Factors(jnp.asarray(left_inverse @ (U * np.sqrt(s))), jnp.asarray(right_inverse @ (Vt.T * np.sqrt(s))))


def balanced_factors(matrix: Float[Array, "d1 d2"]) -> Factors:
    """The factors of M with the smallest norms: `L = U S^{1/2}`, `R = V S^{1/2}`, `||L||_F^2 + ||R||_F^2 = 2 ||M||_*`.

    Args:
        matrix: M, shape (d1, d2).

    Returns:
        The factors, with min(d1, d2) columns.
    """
    U, s, Vt = np.linalg.svd(np.asarray(matrix), full_matrices=False)
    return Factors(jnp.asarray(U * np.sqrt(s)), jnp.asarray(Vt.T * np.sqrt(s)))


def norm_gap(left: Float[Array, "d1 k"], right: Float[Array, "d2 k"], least_nuclear: float) -> float:
    """`(||L||_F^2 + ||R||_F^2 - 2 N) / (2 N)` with N the smallest nuclear norm that fits [D, Fig 4].

    Args:
        left: L.
        right: R.
        least_nuclear: `N = min {||M||_* : A(M) = b}`, positive.

    Returns:
        The gap; 0 for norm-minimal factors, never negative for factors that fit.
    """
    return float((jnp.sum(left**2) + jnp.sum(right**2)) / (2 * least_nuclear) - 1)


def imbalance(left: Float[Array, "d1 k"], right: Float[Array, "d2 k"]) -> float:
    """`||L^T L - R^T R||_F / ||L R^T||_F` [D, Fig 4]; 0 for balanced factors.

    Args:
        left: L.
        right: R.

    Returns:
        The imbalance; NaN for `L R^T = 0`.
    """
    size = float(jnp.linalg.norm(left @ right.T))
    return float(jnp.linalg.norm(left.T @ left - right.T @ right)) / size if size > 0 else float("nan")


def scale_ranges(measurements: AbstractMeasurements) -> tuple[tuple[float, float], tuple[float, float]]:
    """Smallest and largest eigenvalue of D_1, and of D_2; their ratios are the condition numbers.

    Args:
        measurements: A.

    Returns:
        `((l1, u1), (l2, u2))`; an end is 0 where a combination of rows or columns is seen by no measurement.
    """
    ends = []
    for moment in _moments(measurements):
        values = np.linalg.eigvalsh(moment)
        ends.append((float(np.sqrt(max(values[0], 0.0))), float(np.sqrt(values[-1]))))
    return ends[0], ends[1]


@statement("upper", "[D, Thm 3.3], constants derived here", "flat factors of the solution of the flat programme")
def norm_gap_bound(measurements: AbstractMeasurements) -> float:
    """`norm gap <= (u1 u2 / 2) (1/l1^2 + 1/l2^2) - 1` for flat solutions, `[l_i, u_i]` the eigenvalues of D_i.

    `||L||^2 + ||R||^2 <= ||D_1 L||^2 / l1^2 + ||D_2 R||^2 / l2^2 = ||D_1 M D_2||_* (1/l1^2 + 1/l2^2)`, since flat
    factors have `L^T D_1^2 L = R^T D_2^2 R`; and `||D_1 M D_2||_* <= ||D_1 M_nuc D_2||_* <= u1 u2 ||M_nuc||_*`.

    Args:
        measurements: A.

    Returns:
        The bound; infinite if D_1 or D_2 is singular, 0 if both are the same multiple of the identity.
    """
    (l1, u1), (l2, u2) = scale_ranges(measurements)
    if min(l1, l2) == 0:
        return float("inf")
    return u1 * u2 * (1 / l1**2 + 1 / l2**2) / 2 - 1


@statement("upper", "[D, Thm 3.3], constants derived here", "flat factors of any matrix")
def imbalance_bound(measurements: AbstractMeasurements) -> float:
    """`imbalance <= u1 u2 max(1/l1^2 - 1/u2^2, 1/l2^2 - 1/u1^2)` for flat factors.

    With `S = L^T D_1^2 L = R^T D_2^2 R`, `L^T L` lies between `S/u1^2` and `S/l1^2` and `R^T R` between `S/u2^2` and
    `S/l2^2`, so `-c S <= L^T L - R^T R <= c S` with c the maximum; and `||S||_F <= u1 u2 ||L R^T||_F`.

    Args:
        measurements: A.

    Returns:
        The bound; infinite if D_1 or D_2 is singular.
    """
    (l1, u1), (l2, u2) = scale_ranges(measurements)
    if min(l1, l2) == 0:
        return float("inf")
    return u1 * u2 * max(1 / l1**2 - 1 / u2**2, 1 / l2**2 - 1 / u1**2)
