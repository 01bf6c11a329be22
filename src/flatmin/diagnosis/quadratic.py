"""The triangle flat / norm-minimal / orthogonal of a quadratic network, `M = U_1 U_1^T - U_2 U_2^T` [D, Sec 4]."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import Optional, Outcome, RealArray, Result, SequenceOf, Solution, UsageError, check_shape, checked
from flatmin._core.display import number
from flatmin.diagnosis._shared import effective_rank, prepared, relative_distance
from flatmin.measurements import AbstractMeasurements, symmetrised
from flatmin.solvers import MinSymmetricNuclearNorm, MinTrace, solve
from flatmin.theory.ding2022 import (
    flat_units,
    overlap_bound,
    quadratic_norm_gap_bound,
    quadratic_weight,
    smallest_quadratic_trace,
)


class QuadraticDiagnosis(Result, eqx.Module):
    """How flat and how small in norm the units of a symmetric matrix are, and how far from orthogonal.

    Attributes:
        trace: `8 (||D U_1||^2 + ||D U_2||^2)` of the units: the trace of the Hessian at zero residual.
        smallest_trace: `8 ||D M D||_*`, what the flattest units of the same matrix have.
        norm_gap: `(||U_1||^2 + ||U_2||^2 - ||M_nuc||_*) / ||M_nuc||_*`, 0 for orthogonal units of a nuclear solution.
        overlap: `||U_1^T U_2||_F / ||M||_F`, what balance is to two factors: 0 where the units of one sign are
            orthogonal to those of the other, as the units of smallest norm are.
        condition: condition number of D.
        norm_gap_bound: what `norm_gap` cannot exceed at the flat units of a flat solution.
        overlap_bound: what `overlap` cannot exceed at flat units.
        effective_rank: `exp(entropy)` of `s / sum s`, s the singular values of M; r for r equal ones.
        distance: `||M - M_nuc||_F / ||M_nuc||_F` to the solution of smallest norm.
        residual: `||A(M) - b|| / ||b||`.
        nuclear: that solution, with its certificate.
        outcome: `completed`.
        method: `diagnose_quadratic`.
    """

    trace: float
    smallest_trace: float
    norm_gap: float
    overlap: float
    condition: float
    norm_gap_bound: float
    overlap_bound: float
    effective_rank: float
    distance: float
    residual: float
    nuclear: Solution
    outcome: Outcome = eqx.field(static=True, default=Outcome.completed)
    method: str = eqx.field(static=True, default="diagnose_quadratic")

    def headline(self) -> str:
        """How far from the flattest, from the smallest and from orthogonal units."""
        return (
            f"trace {number(self.excess_trace, 4)} above the flattest of its matrix (relative), norm gap "
            f"{number(self.norm_gap, 4)}, overlap {number(self.overlap, 4)}, distance to the solution of smallest norm "
            f"{number(self.distance, 4)}"
        )

    @property
    def excess_trace(self) -> float:
        """`trace / smallest_trace - 1`: 0 where the units are the flattest of their matrix."""
        return self.trace / self.smallest_trace - 1


@checked(matrix=RealArray("d d", symmetric=True), units=Optional(SequenceOf(RealArray("_ _"), 2)))
def diagnose_quadratic(
    measurements: AbstractMeasurements,
    targets: Float[Array, " m"],
    matrix: Float[Array, "d d"],
    *,
    units: tuple[Float[Array, "d k1"], Float[Array, "d k2"]] | None = None,
    semidefinite: bool = False,
    nuclear: Solution | None = None,
) -> QuadraticDiagnosis:
    """Lay a solution of a quadratic network, of covariance estimation or of phase retrieval beside the smallest one.

    Args:
        measurements: A, in float64; only its symmetric part counts.
        targets: b, shape (m,).
        matrix: M, symmetric, any interpolating or fitted matrix, not zero.
        units: `(U_1, U_2)` with `U_1 U_1^T - U_2 U_2^T = M`; default the flattest ones.
        semidefinite: compare with the smallest positive semidefinite M (`MinTrace`: covariances, phase retrieval).
        nuclear: a solved `MinSymmetricNuclearNorm` (`MinTrace`) of the same problem; default it is solved here.

    Returns:
        The diagnosis.

    Raises:
        UsageError: for shapes that do not fit, numbers that are not finite, single precision, a zero matrix or one that
            is not symmetric, units that do not make it, or a singular D.
        JobError: if the programme of smallest norm could not be solved.
    """
    targets, matrix, size = prepared(measurements, targets, matrix)
    op = symmetrised(measurements)
    if not bool(jnp.linalg.norm(matrix - matrix.T) <= 1e-10 * size):
        raise UsageError("matrix: got a matrix that is not symmetric; pass (M + M.T) / 2")
    if units is None:
        units = flat_units(op, matrix)
    plus, minus = units
    check_shape("units[0]", plus, (matrix.shape[0], "k1"))
    check_shape("units[1]", minus, (matrix.shape[0], "k2"))
    if not bool(jnp.linalg.norm(plus @ plus.T - minus @ minus.T - matrix) <= 1e-8 * size):
        raise UsageError("units: got U_1 U_1^T - U_2 U_2^T that is not the matrix, expected units of it")
    if nuclear is None:
        nuclear = solve((MinTrace if semidefinite else MinSymmetricNuclearNorm)(op, targets))
    nuclear = nuclear.raise_if_failed()
    weight = quadratic_weight(op)
    smallest = jnp.sum(jnp.abs(jnp.linalg.eigvalsh(nuclear.matrix)))
    squares = jnp.sum(plus**2) + jnp.sum(minus**2)
    return QuadraticDiagnosis(
        trace=float(8 * (jnp.sum((weight @ plus) ** 2) + jnp.sum((weight @ minus) ** 2))),
        smallest_trace=float(smallest_quadratic_trace(op, matrix)),
        norm_gap=float(squares / smallest - 1),
        overlap=float(jnp.linalg.norm(plus.T @ minus) / size),
        condition=float(jnp.linalg.cond(weight)),
        norm_gap_bound=float(quadratic_norm_gap_bound(weight)),
        overlap_bound=float(overlap_bound(weight)),
        effective_rank=float(effective_rank(matrix)),
        distance=float(relative_distance(matrix, nuclear.matrix)),
        residual=float(relative_distance(op.forward(matrix), targets)),
        nuclear=nuclear,
    )
