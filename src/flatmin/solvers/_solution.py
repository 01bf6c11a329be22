"""From a certificate to a `Solution`: the outcome, the rank, and the failure that contradictory targets are."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin._core import Outcome, Solution
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers.certificate import Certificate, relative_residual

RESIDUAL = 1e-10
"""Largest relative residual of an accepted solution."""

RANK_FLOOR = 1e-12
"""Singular values below this fraction of the primal value are never counted."""


def certified(
    certificate: Certificate,
    tolerance: float,
    *,
    method: str,
    iterations: int,
    shortfall: Outcome,
    stats: dict[str, Any],
) -> Solution:
    """A solution whose outcome follows from its certificate.

    Args:
        certificate: what was proved.
        tolerance: largest accepted gap.
        method: the method's name.
        iterations: iterations spent.
        shortfall: the outcome if the certificate falls short.
        stats: further diagnostics; the singular values, the rank and its tolerance are added. Singular values
            below `max(gap, 1e-12) * N(X)` count as zero: the objective is not known to more than that.

    Returns:
        The solution.
    """
    values = np.linalg.svd(np.asarray(certificate.matrix), compute_uv=False)
    rank_tolerance = max(certificate.gap, RANK_FLOOR) * values.sum()
    reached = certificate.gap <= tolerance and certificate.residual <= RESIDUAL
    return Solution(
        matrix=certificate.matrix,
        dual=certificate.dual,
        primal_value=certificate.primal_value,
        dual_value=certificate.dual_value,
        gap=certificate.gap,
        residual=certificate.residual,
        iterations=iterations,
        outcome=Outcome.converged if reached else shortfall,
        method=method,
        stats={
            "singular_values": values,
            "rank": int(np.sum(values > rank_tolerance)),
            "rank_tolerance": float(rank_tolerance),
            **stats,
        },
    )


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
    )


def zero(program: AbstractProgram, method: str) -> Solution:
    """The answer to `b = 0`: X = 0, y = 0, both values 0."""
    matrix, dual = jnp.zeros(program.measurements.matrix_shape), jnp.zeros_like(program.targets)
    certificate = Certificate(matrix, dual, 0.0, 0.0, 0.0, 0.0)
    stats = {"polished": False, "seconds": {}}
    return certified(certificate, 0.0, method=method, iterations=0, shortfall=Outcome.stalled, stats=stats)
