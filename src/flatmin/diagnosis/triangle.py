"""The triangle flat / norm-minimal / balanced of a two-factor problem [D, Sec 3]."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import Optional, Outcome, RealArray, Result, SequenceOf, Solution, UsageError, check_shape, checked
from flatmin._core.display import number
from flatmin.diagnosis._shared import effective_rank, prepared, relative_distance
from flatmin.measurements import AbstractMeasurements
from flatmin.solvers import MinNuclearNorm, solve
from flatmin.theory.ding2022 import (
    flat_factors,
    imbalance_bound,
    norm_gap_bound,
    smallest_scaled_trace,
    weight_matrices,
)


class Diagnosis(Result, eqx.Module):
    """How flat, how small in norm and how balanced the factors of a matrix are.

    Attributes:
        scaled_trace: `2 ||D_1 L||^2 + 2 ||D_2 R||^2` of the factors; `tr H / d` for `d_1 = d_2 = d` at zero residual.
        smallest_scaled_trace: `4 ||D_1 M D_2||_*`, what the flattest factors of the same matrix have.
        norm_gap: `(||L||^2 + ||R||^2 - 2 ||M_nuc||_*) / (2 ||M_nuc||_*)`, 0 for balanced factors of a nuclear solution.
        imbalance: `||L^T L - R^T R||_F / ||M||_F`.
        conditions: condition numbers of D_1 and D_2.
        norm_gap_bound: what `norm_gap` cannot exceed at the flat factors of a flat solution [D, Thm 3.3].
        imbalance_bound: what `imbalance` cannot exceed at flat factors [D, Thm 3.3].
        effective_rank: `exp(entropy)` of `s / sum s`, s the singular values of M; r for r equal ones.
        distance: `||M - M_nuc||_F / ||M_nuc||_F` to the nuclear-norm solution.
        residual: `||A(M) - b|| / ||b||`.
        nuclear: the nuclear-norm solution, with its certificate.
        outcome: `completed`.
        method: `diagnose`.
    """

    scaled_trace: float
    smallest_scaled_trace: float
    norm_gap: float
    imbalance: float
    conditions: tuple[float, float]
    norm_gap_bound: float
    imbalance_bound: float
    effective_rank: float
    distance: float
    residual: float
    nuclear: Solution
    outcome: Outcome = eqx.field(static=True, default=Outcome.completed)
    method: str = eqx.field(static=True, default="diagnose")

    def headline(self) -> str:
        """How far from the flattest, from the smallest and from balance."""
        return (
            f"trace {number(self.excess_trace, 4)} above the flattest of its matrix (relative), norm gap "
            f"{number(self.norm_gap, 4)}, imbalance {number(self.imbalance, 4)}, distance to the nuclear-norm solution "
            f"{number(self.distance, 4)}"
        )

    @property
    def excess_trace(self) -> float:
        """`scaled_trace / smallest_scaled_trace - 1`: 0 where the factors are the flattest of their matrix."""
        return self.scaled_trace / self.smallest_scaled_trace - 1


@checked(factors=Optional(SequenceOf(RealArray("_ _"), 2)))
def diagnose(
    measurements: AbstractMeasurements,
    targets: Float[Array, " m"],
    matrix: Float[Array, "d1 d2"],
    *,
    factors: tuple[Float[Array, "d1 k"], Float[Array, "d2 k"]] | None = None,
    nuclear: Solution | None = None,
) -> Diagnosis:
    """Lay a solution beside the nuclear-norm solution.

    Args:
        measurements: A, in float64.
        targets: b, shape (m,).
        matrix: M, any interpolating or fitted matrix, not zero.
        factors: `(L, R)` with `L R^T = M`; default the flattest ones [D, Thm 3.2].
        nuclear: a solved `MinNuclearNorm` of the same problem; default it is solved here.

    Returns:
        The diagnosis.

    Raises:
        UsageError: for shapes that do not fit, numbers that are not finite, single precision, a zero matrix, factors
            that do not multiply to it, or a singular D_1 or D_2.
        JobError: if the nuclear-norm programme could not be solved.
    """
    targets, matrix, size = prepared(measurements, targets, matrix)
    if factors is None:
        factors = flat_factors(measurements, matrix, min(measurements.matrix_shape), rank_tolerance=1e-13)
    L, R = factors
    check_shape("factors[0]", L, (matrix.shape[0], "k"))
    check_shape("factors[1]", R, (matrix.shape[1], L.shape[1]))
    if not bool(jnp.linalg.norm(L @ R.T - matrix) <= 1e-8 * size):
        raise UsageError("factors: got L R^T that is not the matrix, expected factors of it; pass the matrix L @ R.T")
    nuclear = solve(MinNuclearNorm(measurements, targets)) if nuclear is None else nuclear.raise_if_failed()
    left, right = weight_matrices(measurements)
    smallest = jnp.sum(jnp.linalg.svd(nuclear.matrix, compute_uv=False))
    squares = jnp.sum(L**2) + jnp.sum(R**2)
    return Diagnosis(
        scaled_trace=float(2 * jnp.sum((left @ L) ** 2) + 2 * jnp.sum((right @ R) ** 2)),
        smallest_scaled_trace=float(smallest_scaled_trace(measurements, matrix)),
        norm_gap=float((squares - 2 * smallest) / (2 * smallest)),
        imbalance=float(jnp.linalg.norm(L.T @ L - R.T @ R) / size),
        conditions=(float(jnp.linalg.cond(left)), float(jnp.linalg.cond(right))),
        norm_gap_bound=float(norm_gap_bound(left, right)),
        imbalance_bound=float(imbalance_bound(left, right)),
        effective_rank=float(effective_rank(matrix)),
        distance=float(relative_distance(matrix, nuclear.matrix)),
        residual=float(relative_distance(measurements.forward(matrix), targets)),
        nuclear=nuclear,
    )
