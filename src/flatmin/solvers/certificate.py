"""The certificate: what a primal and a dual point prove, recomputed without trusting who made them."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin._core import Certificate, Certified, Outcome, as_real, check_finite, check_shape, checked, require_float64
from flatmin.solvers._base import AbstractProgram, check_program
from flatmin.solvers._gauges import Gauge
from flatmin.solvers._reweighted import gram_diagonal
from flatmin.solvers._splitting import Working, project
from flatmin.solvers._whiten import whiten
from flatmin.solvers.misfits import Exact, L1Ball, L2Ball
from flatmin.solvers.programs import MinNorm

FEASIBLE = 1e-12
"""Relative violation of the constraints that is rounding."""

LEAST_MULTIPLE, HALVINGS = 0.25, 100
"""Multiples of a point that are tried on the way into a ball, and steps of the searches."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class CertifiedPoint(Certified):
    """A primal and a dual point of `min N(X) + h(A(X) - b)`, moved to feasibility, and what they prove.

    Attributes:
        matrix: the primal point, moved into the domain of N and, if it was not there, of h.
        dual: the dual point after scaling, `N°(A*(y)) <= 1` and y in the domain of h*.
        certificate: `N(matrix) + h(A(matrix) - b)`, `b.y - h*(y)`, their relative gap, and as `residual` the violation
            of the constraint of h at `matrix`, divided by `max(||b||, tiny)`: `||A(X) - b||` for an exact fit, what a
            ball is exceeded by, 0 for a loss.
    """

    matrix: Float[Array, "d1 d2"]
    dual: Float[Array, " m"]
    certificate: Certificate
    outcome: Outcome = Outcome.completed
    method: str = "certify"


@checked()
def certify(program: AbstractProgram, matrix: Float[Array, "d1 d2"], dual: Float[Array, " m"]) -> CertifiedPoint:
    """Turn any two points into a proved interval for the optimum.

    The multipliers are divided by what makes them feasible, or replaced by zero if they prove less than zero does, so
    that they are feasible whatever was given. The matrix is moved into the domain of N (symmetric, or positive
    semidefinite, where the programme asks for it), and one that misses the constraints by more than 1e-12 relative is
    projected onto them first (Frobenius-nearest), since an infeasible point bounds nothing; a positive semidefinite one
    outside of a ball is replaced by its multiple on the rim, if there is one. Both bounds then hold up to the rounding
    of one singular value decomposition and the remaining residual.

    Args:
        program: the programme.
        matrix: candidate X, shape (d1, d2), float64.
        dual: candidate y, shape (m,), float64.

    Returns:
        The points and their certificate; its gap is never below `(primal - optimum) / primal` but for that rounding.
        With contradictory targets the residual stays large: look at it before the gap.

    Cost: two singular value decompositions, one forward, one adjoint; a projection costs the m x m Gram matrix.

    Raises:
        UsageError: for anything but a programme, a wrong shape, a number that is not finite, or single precision.
    """
    check_program(program)
    matrix, dual = as_real("matrix", matrix), as_real("dual", dual)
    check_shape("matrix", matrix, program.measurements.matrix_shape)
    check_shape("dual", dual, program.targets.shape)
    require_float64("certify", matrix, dual)
    check_finite("matrix", matrix)
    check_finite("dual", dual)
    matrix = _gauge(program).into_domain(matrix)
    if float(relative_residual(program, matrix)) > FEASIBLE:
        matrix = _into_both(program, matrix)
    dual, primal, bound, residual = _bounds(program, matrix, dual)
    return CertifiedPoint(matrix, dual, Certificate.between(float(primal), float(bound), float(residual)))


def _into_both(program: AbstractProgram, matrix: Array) -> Array:
    """A point near X in the domains of N and h, or, where none is found, one of N alone."""
    misfit = program.misfit
    if _gauge(program).one_sided and isinstance(misfit, L1Ball | L2Ball):
        multiple = _multiple(program, misfit, matrix)
        if multiple is not None:
            return multiple
    feasible = _projection(program)
    for _ in range(2):
        matrix = _gauge(program).into_domain(feasible(matrix))
    missed = float(relative_residual(program, matrix)) > FEASIBLE
    if missed and _gauge(program).one_sided and isinstance(misfit, L1Ball | L2Ball):
        multiple = _multiple(program, misfit, matrix)
        return matrix if multiple is None else multiple
    return matrix


def _multiple(program: AbstractProgram, misfit: L1Ball | L2Ball, matrix: Array) -> Array | None:
    """The multiple `c X` nearest to X inside the ball of the misfit, which stays in every cone; None without one."""
    seen, targets = np.asarray(program.measurements.forward(matrix)), np.asarray(program.targets)
    order, radius = (2 if isinstance(misfit, L2Ball) else 1), float(misfit.radius)

    def outside(factor: float) -> float:
        return max(float(np.linalg.norm(factor * seen - targets, order)) - radius, 0.0)

    low, high, inside, rim = LEAST_MULTIPLE, 1 / LEAST_MULTIPLE, None, 1.0
    for _ in range(HALVINGS):  # a convex function of the factor: two thirds of the interval hold its minimum
        first, second = low + (high - low) / 3, high - (high - low) / 3
        inside = next((factor for factor in (first, second) if outside(factor) == 0), None)
        if inside is not None:
            break
        low, high = (low, second) if outside(first) <= outside(second) else (first, high)
    if inside is None:
        return None
    for _ in range(HALVINGS):
        middle = (inside + rim) / 2
        inside, rim = (inside, middle) if outside(middle) > 0 else (middle, rim)
    return inside * matrix


def _gauge(program: AbstractProgram) -> Gauge:
    """The gauge whose domain is that of N."""
    return program.gauge if isinstance(program, MinNorm) else Gauge()


def _projection(program: AbstractProgram) -> Callable[[Array], Array]:
    """To the nearest point inside the domain of the misfit, or, for an l1 ball of other than entries, to a near one."""
    if not isinstance(program.misfit, L1Ball) or gram_diagonal(program.measurements) is not None:
        return _working(program).feasible
    white, _ = whiten(program.measurements, program.targets)

    def feasible(matrix: Array) -> Array:
        residual = program.measurements.forward(matrix) - program.targets
        ones = jnp.ones_like(residual)
        move = project(program.misfit, residual, 0 * residual, ones) - residual
        return matrix + white.adjoint(move @ white.back if white.back.ndim == 2 else white.back * move)

    return feasible


def _working(program: AbstractProgram) -> Working:
    exact = isinstance(program.misfit, Exact)
    white, _ = whiten(program.measurements, program.targets, principal=not exact)
    misfit = program.misfit
    if isinstance(misfit, L2Ball):
        unreached = white.unreached(program.targets)
        misfit = L2Ball(jnp.sqrt(jnp.maximum(misfit.radius**2 - jnp.sum(unreached**2), 1e-300)))
    return Working(white, misfit, Gauge())


@eqx.filter_jit
def _bounds(program: AbstractProgram, matrix: Array, dual: Array) -> tuple[Array, Array, Array, Array]:
    op, misfit = program.measurements, program.misfit
    dual = dual / jnp.maximum(1.0, jnp.maximum(program.polar_norm(op.adjoint(dual)), misfit.limit(dual)))
    value = program.targets @ dual - misfit.conjugate(dual)
    dual = jnp.where(value > 0, dual, 0.0)
    primal = program.norm(matrix) + misfit.value(op.forward(matrix) - program.targets)
    return dual, primal, jnp.maximum(value, 0.0), relative_residual(program, matrix)


@eqx.filter_jit
def relative_residual(program: AbstractProgram, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
    """The violation of the misfit's constraint, divided by `max(||b||, tiny)`; `||A(X) - b||` for an exact fit."""
    miss = program.misfit.violation(program.measurements.forward(matrix) - program.targets)
    return miss / jnp.maximum(jnp.linalg.norm(program.targets), jnp.finfo(jnp.float64).tiny)
