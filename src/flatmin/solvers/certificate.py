"""The certificate: what a primal and a dual point prove, recomputed without trusting who made them."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import check_finite, check_shape, require_float64
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._whiten import whiten

FEASIBLE = 1e-12


class Certificate(NamedTuple):
    """What is proved about `min N(X) s.t. A(X) = b`.

    Attributes:
        matrix: the primal point, moved onto `A(X) = b` if it was not there.
        dual: the dual point after scaling, `N°(A*(y)) <= 1`.
        primal_value: `N(matrix)`, an upper bound on the optimum.
        dual_value: `b.y`, a lower bound on the optimum.
        gap: `|primal_value - dual_value| / max(|primal_value|, tiny)`, tiny the smallest normal number.
        residual: `||A(X) - b|| / max(||b||, tiny)` of `matrix`.
    """

    matrix: Float[Array, "d1 d2"]
    dual: Float[Array, " m"]
    primal_value: float
    dual_value: float
    gap: float
    residual: float


def certify(program: AbstractProgram, matrix: Float[Array, "d1 d2"], dual: Float[Array, " m"]) -> Certificate:
    """Turn any two points into a proved interval for the optimum.

    The multipliers are divided by `max(1, N°(A*(y)))`, or replaced by zero if they prove less than zero does, so
    that they are feasible whatever was given. A matrix that misses the constraints by more than 1e-12 relative is
    projected onto them first (Frobenius-nearest), since an infeasible point bounds nothing. Both bounds then hold
    up to the rounding of one singular value decomposition and the remaining residual.

    Args:
        program: the programme.
        matrix: candidate X, shape (d1, d2), float64.
        dual: candidate y, shape (m,), float64.

    Returns:
        The certificate; its gap is never below `(primal_value - optimum) / primal_value` but for that rounding.
        With contradictory targets the residual stays large: look at it before the gap.

    Cost: two singular value decompositions, one forward, one adjoint; a projection costs the m x m Gram matrix.

    Raises:
        UsageError: for a wrong shape, a number that is not finite, or single precision.
    """
    matrix, dual = jnp.asarray(matrix), jnp.asarray(dual)
    check_shape("matrix", matrix, program.measurements.matrix_shape)
    check_shape("dual", dual, program.targets.shape)
    require_float64("certify", matrix, dual)
    check_finite("matrix", matrix)
    check_finite("dual", dual)
    if float(relative_residual(program, matrix)) > FEASIBLE:
        white, _ = whiten(program.measurements, program.targets)
        for _ in range(2):
            matrix = white.project(matrix)
    return Certificate(matrix, *_measure(program, matrix, dual))


def _measure(program: AbstractProgram, matrix: Array, dual: Array) -> tuple[Array, float, float, float, float]:
    dual, primal_value, dual_value, residual = _bounds(program, matrix, dual)
    scale = max(abs(float(primal_value)), float(jnp.finfo(jnp.float64).tiny))
    gap = abs(float(primal_value) - float(dual_value)) / scale
    return dual, float(primal_value), float(dual_value), gap, float(residual)


@eqx.filter_jit
def _bounds(program: AbstractProgram, matrix: Array, dual: Array) -> tuple[Array, Array, Array, Array]:
    dual = dual / jnp.maximum(1.0, program.polar_norm(program.measurements.adjoint(dual)))
    value = program.targets @ dual
    dual = jnp.where(value > 0, dual, 0.0)
    return dual, program.norm(matrix), jnp.maximum(value, 0.0), relative_residual(program, matrix)


@eqx.filter_jit
def relative_residual(program: AbstractProgram, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
    """`||A(X) - b|| / max(||b||, tiny)`."""
    miss = jnp.linalg.norm(program.measurements.forward(matrix) - program.targets)
    return miss / jnp.maximum(jnp.linalg.norm(program.targets), jnp.finfo(jnp.float64).tiny)
