"""From a certificate to a `Solution`: the outcome, the rank, and the failure that contradictory targets are."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin._core import Certificate, Outcome, Solution
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._host import SMALL, host_map
from flatmin.solvers._rank import resolved_rank
from flatmin.solvers.certificate import CertifiedPoint, relative_residual
from flatmin.solvers.misfits import Exact, L1Ball, L2Ball

RESIDUAL = 1e-10
"""Largest relative residual of an accepted solution."""


def certified(
    program: AbstractProgram,
    point: CertifiedPoint,
    tolerance: float,
    *,
    method: str,
    iterations: int,
    shortfall: Outcome,
    stats: dict[str, Any],
) -> Solution:
    """A solution whose outcome follows from its certificate.

    Args:
        program: the programme.
        point: the points and what they prove.
        tolerance: largest accepted gap.
        method: the method's name.
        iterations: iterations spent.
        shortfall: the outcome if the certificate falls short.
        stats: further diagnostics; the singular values are added, and rank and its tolerance under their old names.

    Returns:
        The solution.
    """
    values = np.linalg.svd(np.asarray(point.matrix), compute_uv=False)
    reached = accepted(point, tolerance)
    rank, rank_tolerance = resolved_rank(
        values,
        gap=point.gap,
        reached=reached,
        objective=point.primal_value,
        norm=point.primal_value if isinstance(program.misfit, Exact) else float(program.norm(point.matrix)),
        data_size=_data_size(program),
    )
    return Solution(
        matrix=point.matrix,
        dual=point.dual,
        primal_value=point.primal_value,
        dual_value=point.dual_value,
        gap=point.gap,
        residual=point.residual,
        iterations=iterations,
        outcome=Outcome.converged if reached else shortfall,
        method=method,
        stats={"singular_values": values, "rank": rank, "rank_tolerance": rank_tolerance, **stats},
        rank=rank,
        rank_tolerance=rank_tolerance,
        objective=_objective(program),
    )


def _objective(program: AbstractProgram) -> str:
    constrained = isinstance(program.misfit, Exact | L2Ball | L1Ball)
    return program.objective if constrained else f"{program.objective} and misfit"


def accepted(point: CertifiedPoint, tolerance: float) -> bool:
    """Whether a point is a solution: the one test that ends iterations and decides the outcome."""
    return point.gap <= tolerance and point.residual <= RESIDUAL


def _data_size(program: AbstractProgram) -> float:
    """The Frobenius norm of the first steepest-descent point of `||A(X) - b||^2`, at most that of any exact fit."""
    op = program.measurements
    on_host = host_map(op) if op.num_measurements * math.prod(op.matrix_shape) <= SMALL else None
    if on_host is not None:
        back = on_host.adjoint(np.asarray(program.targets))
        again = np.linalg.norm(on_host.forward(back))
    else:
        back = np.asarray(op.adjoint(program.targets))
        again = np.linalg.norm(np.asarray(op.forward(jnp.asarray(back))))
    size = np.linalg.norm(back)
    return float(size * (size / again) ** 2) if again > 0 else 0.0


def infeasible(
    program: AbstractProgram, nearest: Float[Array, "d1 d2"], proof: Array, method: str, iterations: int = 0
) -> Solution:
    """The answer to contradictory targets.

    Args:
        program: the programme.
        nearest: a least-squares solution of `A(X) = b`, or the last point.
        proof: y with `b.y - h*(y) = 1` and `N°(A*(y)) = 0` up to rounding.
        method: the method's name.
        iterations: iterations spent.

    Returns:
        A solution with both values infinite, no gap, the proof in `stats["proof"]` and the size of its rounding,
        `stats["proof_error"] = N°(A*(y))`: every feasible X has `N(X) >= 1 / proof_error`.
    """
    values = np.linalg.svd(np.asarray(nearest), compute_uv=False)
    rank, rank_tolerance = resolved_rank(
        values, gap=0.0, reached=False, objective=math.inf, norm=math.nan, data_size=_data_size(program)
    )
    return Solution(
        matrix=nearest,
        dual=proof,
        primal_value=math.inf,
        dual_value=math.inf,
        gap=math.nan,
        residual=float(relative_residual(program, nearest)),
        iterations=iterations,
        outcome=Outcome.infeasible,
        method=method,
        stats={
            "proof": proof,
            "proof_error": float(program.polar_norm(program.measurements.adjoint(proof))),
        },
        rank=rank,
        rank_tolerance=rank_tolerance,
        objective=_objective(program),
    )


def fits_zero(program: AbstractProgram) -> bool:
    """Whether X = 0 is feasible at no charge, so that it is the answer."""
    if isinstance(program.misfit, Exact):
        return not np.any(np.asarray(program.targets))
    residual = -program.targets
    return not float(program.misfit.violation(residual)) and not float(program.misfit.value(residual))


def zero(program: AbstractProgram, method: str) -> Solution:
    """The answer where `fits_zero`: X = 0, y = 0, both values 0."""
    matrix, dual = jnp.zeros(program.measurements.matrix_shape), jnp.zeros_like(program.targets)
    point = CertifiedPoint(matrix, dual, Certificate.between(0.0, 0.0))
    stats = {"polished": False, "seconds": {}}
    return certified(program, point, 0.0, method=method, iterations=0, shortfall=Outcome.stalled, stats=stats)
