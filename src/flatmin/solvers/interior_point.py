"""The interior-point method: few steps whatever the conditioning, for problems whose matrices fit in memory."""

import contextlib
import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin._core import Outcome, Solution, UsageError
from flatmin._core.threads import blas_threads
from flatmin.measurements import AbstractMeasurements, DenseMeasurements, materialise
from flatmin.solvers._base import AbstractMethod, AbstractProgram, refuse_start
from flatmin.solvers._interior import ROOMY, Cost, cost, interior_point
from flatmin.solvers._l1_interior import l1_contradiction, l1_points
from flatmin.solvers._plain import Plain, to_plain
from flatmin.solvers._polish import DELTA, FINE_DELTA, Stored, affordable, polish
from flatmin.solvers._prepare import prepare
from flatmin.solvers._reduced import face_solution
from flatmin.solvers._solution import RESIDUAL, accepted, certified, fits_zero, infeasible, zero
from flatmin.solvers._splitting import SEPARATED
from flatmin.solvers._whiten import Whitened
from flatmin.solvers.certificate import CertifiedPoint, certify
from flatmin.solvers.misfits import Exact, L1Ball, L1Loss, SquaredLoss

MAX_ENTRIES = 3e7
"""Most entries of the lifted measurements (240 MB, three times over)."""

SLOWER = 10.0
"""Operations of large matrix products in the time of one operation of a small decomposition."""

SHORTEST = 300
"""Fewest iterations of a splitting before the interior-point method takes over."""

ONE_THREAD = 1e6
"""Entries of the measurements below which a second thread of linear algebra costs more than it saves."""

AIM = 0.1
"""Of the tolerance asked for, what the steps aim at: the certificate is measured in the user's coordinates."""


class InteriorPoint(AbstractMethod):
    """Solves the nuclear norm, the trace and their scaled and symmetric forms: exact fit, squared loss, l1 misfits.

    Ten to twenty primal-dual steps, to a gap near 1e-10; each forms and factorises an m x m matrix. What `Pursuit`
    falls back on where that is cheap, and where splitting takes too long: degenerate and badly conditioned instances.
    Memory `3 m n^2`, a step costs `4 m n^3 + 2 m^2 n^2`, n = d1 + d2 (d for symmetric matrices).
    """

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Follow the central path and certify.

        Raises:
            UsageError: for another programme or misfit, or measurements too large for it.
        """
        refuse_start("InteriorPoint", start)
        plain = to_plain(program)
        needed = interior_cost(program, plain)
        if not needed.entries <= MAX_ENTRIES:
            got = f"{type(program).__name__} with {type(program.misfit).__name__}"
            raise UsageError(
                f"method: got InteriorPoint for {got}, expected a nuclear norm or a trace with Exact, SquaredLoss, "
                "L1Loss or L1Ball"
                if math.isinf(needed.entries)
                else f"method: InteriorPoint would form an array of {needed.entries:.1e} entries, expected at most "
                f"{MAX_ENTRIES:.0e}; use Auto()"
            )
        if fits_zero(program):
            return zero(program, "InteriorPoint")
        if isinstance(program.misfit, L1Loss | L1Ball):
            return _with_l1(program, plain, program.misfit, tolerance, max_iterations)
        began = time.perf_counter()
        ready = prepare(program, plain)
        if ready.proof is not None:
            return infeasible(program, plain.leave(ready.scale * ready.nearest), ready.proof, "InteriorPoint")
        work = ready.work
        white, misfit = work.white, work.misfit
        prepared = time.perf_counter()
        points, steps = central_points(
            _tensor(white),
            np.asarray(white.targets),
            symmetric=plain.gauge.symmetric,
            one_sided=plain.gauge.one_sided,
            tolerance=tolerance,
            max_steps=max_iterations,
            ridge=np.asarray(misfit.penalty / white.squared_singular_values)
            if isinstance(misfit, SquaredLoss)
            else None,
        )
        iterated = time.perf_counter()

        def prove(matrix: np.ndarray, weights: np.ndarray) -> CertifiedPoint:
            multipliers = ready.multipliers(work.feasible_multipliers(jnp.asarray(weights)))
            return certify(program, plain.leave(ready.scale * work.feasible(jnp.asarray(matrix))), multipliers)

        # the central point as it is, then the most polished one first
        certificate, *others = (prove(*point) for point in [points[0], *points[:0:-1]])
        better = [c for c in others if c.residual <= RESIDUAL and c.gap <= max(certificate.gap, AIM * tolerance)]
        chosen = better[0] if better else certificate
        if not accepted(chosen, tolerance):
            candidates = [float(ready.scale) * matrix for matrix, _ in reversed(points)]
            reduced = face_solution(program, plain, candidates, tolerance, steps)
            if reduced is not None:
                return reduced
        return certified(
            program,
            chosen,
            tolerance,
            method="InteriorPoint",
            iterations=steps,
            shortfall=Outcome.max_iterations if steps >= max_iterations else Outcome.stalled,
            stats={
                "polished": bool(better),
                "seconds": {
                    "prepare": prepared - began,
                    "iterate": iterated - prepared,
                    "certify": time.perf_counter() - iterated,
                },
            },
        )


def _with_l1(
    program: AbstractProgram, plain: Plain, misfit: L1Loss | L1Ball, tolerance: float, max_iterations: int
) -> Solution:
    began = time.perf_counter()
    targets = np.asarray(program.targets)
    if isinstance(misfit, L1Ball) and np.sum(np.abs(targets)) <= float(misfit.radius):
        points, steps = [(np.zeros(program.measurements.matrix_shape), np.zeros_like(targets))], 0
    else:
        tensor = np.asarray(materialise(plain.measurements))
        with blas_threads(1) if tensor.size <= ONE_THREAD else contextlib.nullcontext():
            points, steps = l1_points(
                tensor,
                targets,
                misfit,
                symmetric=plain.gauge.symmetric,
                one_sided=plain.gauge.one_sided,
                tolerance=AIM * tolerance,
                max_steps=max_iterations,
            )
    certificates, good = [], False
    for X, y in reversed(points):
        certificates.append(certify(program, plain.leave(jnp.asarray(X)), jnp.asarray(y)))
        good = accepted(certificates[-1], tolerance)
        if good:
            break
    best = certificates[-1] if good else min(certificates, key=lambda c: (c.residual > RESIDUAL, c.gap))
    proof = None if good else _separating(program, jnp.asarray(points[0][1]))
    if not good and proof is None and isinstance(misfit, L1Ball):
        proof = l1_contradiction(np.asarray(materialise(program.measurements)), targets, float(misfit.radius))
    if proof is not None:
        return infeasible(program, best.matrix, jnp.asarray(proof), "InteriorPoint", steps)
    return certified(
        program,
        best,
        tolerance,
        method="InteriorPoint",
        iterations=steps,
        shortfall=Outcome.max_iterations if steps >= max_iterations else Outcome.stalled,
        stats={"polished": good and len(certificates) < len(points), "seconds": {"total": time.perf_counter() - began}},
    )


def _separating(program: AbstractProgram, dual: Float[Array, " m"]) -> Float[Array, " m"] | None:
    """Multipliers with `b.y - h*(y) = 1` and `N°(A*(y)) = 0` up to rounding, along those that grew without bound."""
    value = float(program.targets @ dual - program.misfit.conjugate(dual))
    polar = float(program.polar_norm(program.measurements.adjoint(dual)))
    return dual / value if value > 0 and polar <= SEPARATED * value else None


def central_points(
    tensor: np.ndarray,
    targets: np.ndarray,
    *,
    symmetric: bool,
    one_sided: bool,
    tolerance: float,
    max_steps: int,
    ridge: np.ndarray | None = None,
    roomy: float = ROOMY[0],
) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """The end of the central path, and the same with the rank that it tends to.

    Args:
        tensor: orthonormal measurements Q, shape (k, d1, d2).
        targets: c, shape (k,), of size about one.
        symmetric: whether X is symmetric.
        one_sided: whether X is positive semidefinite too.
        tolerance: the relative gap wanted.
        max_steps: the limit.
        ridge: see `interior_point`.
        roomy: see `interior_point`.

    Returns:
        Pairs of a point and multipliers of Q, and the number of steps. Those after the first, if there are any, come
        from Newton's method on factors (exact fit), the last from the longest, or are the first without what vanishes
        along the path (squared loss).
    """
    small = tensor.size <= ONE_THREAD
    with blas_threads(1) if small else contextlib.nullcontext():
        found = interior_point(
            tensor,
            targets,
            symmetric=symmetric,
            one_sided=one_sided,
            tolerance=AIM * tolerance,
            max_steps=max_steps,
            ridge=ridge,
            roomy=roomy,
        )
    points = [(found.matrix, found.weights)]
    if ridge is not None:
        U, s, Vt = np.linalg.svd(found.matrix, full_matrices=False)
        points.append(((U[:, : found.rank] * s[: found.rank]) @ Vt[: found.rank], found.weights))
    elif affordable(tensor.shape[1:], len(targets), found.rank):
        # thin cones have large multipliers
        for delta in (DELTA, FINE_DELTA) if one_sided else (DELTA,):
            other = polish(Stored(tensor), targets, *points[-1], found.rank, delta)
            if other is not None:
                points.append(other)
    return points, found.steps


def patience(op: AbstractMeasurements, needed: Cost) -> int:
    """Iterations of a splitting that cost as much as the interior-point method."""
    if needed.entries > MAX_ENTRIES:
        return sys.maxsize
    d1, d2 = op.matrix_shape
    iteration = 25.0 * min(d1, d2) ** 3 + 4.0 * op.num_measurements * d1 * d2
    return max(SHORTEST, int(needed.operations / (SLOWER * iteration)))


def interior_cost(program: AbstractProgram, plain: Plain) -> Cost:
    """What the interior-point method would take; infinite for a programme that it does not solve."""
    solved = plain.gauge.spectral and isinstance(program.misfit, Exact | SquaredLoss | L1Loss | L1Ball)
    if not solved:
        return Cost(math.inf, math.inf)
    return cost(
        program.measurements.num_measurements,
        program.measurements.matrix_shape,
        symmetric=plain.gauge.symmetric,
        one_sided=plain.gauge.one_sided,
    )


def _tensor(white: Whitened) -> np.ndarray:
    """Q as one array, shape (k, d1, d2)."""
    if white.mix is None and isinstance(white.op, DenseMeasurements):
        return np.asarray(white.op.tensor)
    units = jnp.eye(white.targets.size)
    return np.asarray(jax.lax.map(white.adjoint, units, batch_size=64))
