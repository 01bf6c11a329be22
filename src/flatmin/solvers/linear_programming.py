"""Weighted l1 norms as linear programmes, solved by the dual simplex method of HiGHS and certified here."""

import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flatmin._core import Outcome, Solution, UsageError
from flatmin.solvers._base import AbstractMethod, AbstractProgram, select_method
from flatmin.solvers._host import host_map
from flatmin.solvers._host_splitting import as_tensor
from flatmin.solvers._solution import accepted, certified, fits_zero, zero
from flatmin.solvers.certificate import certify
from flatmin.solvers.douglas_rachford import DouglasRachford
from flatmin.solvers.entrywise import MinWeightedLp
from flatmin.solvers.lp_newton import DualNewton
from flatmin.solvers.misfits import Exact, L1Ball, L1Loss, L2Ball, SquaredLoss

MAX_ENTRIES = 4_000_000
"""Largest m d1 d2 for which the constraint matrix is handed to HiGHS."""


class Simplex(AbstractMethod):
    """Solves `MinWeightedLp` at k = 2: `min sum D (p + n) s.t. A(p - n) = b`, `p, n >= 0`, `x = p - n`.

    With an l1 misfit the errors `s - t`, `s, t >= 0`, stand beside `A(p - n)`, at a price or with a bounded sum. A
    vertex is exact up to rounding; its gap and residual are recomputed from the point and the multipliers. Where those
    of an exact fit fall short of the tolerance, `DouglasRachford` takes over from there.
    """

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Hand over, certify, fall back.

        Raises:
            UsageError: for another programme, misfit or power, or an l1 misfit of measurements too large for it.
        """
        if (
            not isinstance(program, MinWeightedLp)
            or program.power != 1
            or not isinstance(program.misfit, Exact | L1Loss | L1Ball)
        ):
            raise UsageError(
                f"method: got Simplex for {type(program).__name__}, expected MinWeightedLp of depth 2 with an exact "
                "fit or an l1 misfit; use Auto()"
            )
        targets = np.asarray(program.targets)
        if fits_zero(program):
            return zero(program, "Simplex")
        began = time.perf_counter()
        op = host_map(program.measurements)
        found = None
        if op is not None and targets.size * program.weights.size <= MAX_ENTRIES:
            rows = as_tensor(op, targets.size).reshape(targets.size, -1)
            found = _vertex(program, rows, targets, max_iterations)
        if found is not None:
            matrix = found.x.reshape(program.measurements.matrix_shape)
            certificate = certify(program, jnp.asarray(matrix), jnp.asarray(found.y))
            if accepted(certificate, tolerance) or not isinstance(program.misfit, Exact):
                return certified(
                    program,
                    certificate,
                    tolerance,
                    method="Simplex",
                    iterations=found.iterations,
                    shortfall=Outcome.stalled,
                    stats={"seconds": {"total": time.perf_counter() - began}},
                )
        return DouglasRachford().run(program, tolerance, max_iterations, start)


class _Vertex(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    iterations: int


def _vertex(program: MinWeightedLp, rows: np.ndarray, targets: np.ndarray, max_iterations: int) -> _Vertex | None:
    """What HiGHS finds, if it says that this is optimal."""
    from scipy.optimize import linprog

    misfit, count = program.misfit, targets.size
    prices, scale = np.asarray(program.weights).reshape(-1), np.abs(targets).max()
    prices, columns, limits = np.concatenate([prices, prices]), [rows, -rows], {}
    if not isinstance(misfit, Exact):
        columns += [np.eye(count), -np.eye(count)]
        price = float(misfit.weight) if isinstance(misfit, L1Loss) else 0.0
        prices = np.concatenate([prices, np.full(2 * count, price)])
    if isinstance(misfit, L1Ball):
        summed = np.concatenate([np.zeros(2 * rows.shape[1]), np.ones(2 * count)])
        limits = {"A_ub": summed[None], "b_ub": np.array([float(misfit.radius) / scale])}
    found = linprog(
        prices,
        A_eq=np.concatenate(columns, axis=1),
        b_eq=targets / scale,
        method="highs-ds",
        options={"maxiter": max_iterations},
        **limits,
    )
    if found.x is None or found.status != 0:
        return None
    positive, negative = np.split(scale * found.x[: 2 * rows.shape[1]], 2)
    return _Vertex(positive - negative, found.eqlin.marginals, int(found.nit))


@select_method.register
def _(program: MinWeightedLp) -> AbstractMethod:
    if program.power == 1:
        small = program.measurements.num_measurements * program.weights.size <= MAX_ENTRIES
        return Simplex() if small and isinstance(program.misfit, Exact | L1Loss | L1Ball) else DouglasRachford()
    if not isinstance(program.misfit, Exact | SquaredLoss | L2Ball):
        raise UsageError(
            f"misfit: got {type(program.misfit).__name__} for more than two factors, expected Exact(), SquaredLoss or "
            "L2Ball; an l1 misfit is available at depth 2"
        )
    return DualNewton()
