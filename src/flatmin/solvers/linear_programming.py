"""Weighted l1 norms as linear programmes, solved by the dual simplex method of HiGHS and certified here."""

import time

import jax.numpy as jnp
import numpy as np

from flatmin._core import Outcome, Solution, UsageError
from flatmin.solvers._base import AbstractMethod, AbstractProgram, select_method
from flatmin.solvers._host import DenseMap, host_map
from flatmin.solvers._solution import RESIDUAL, certified, zero
from flatmin.solvers.certificate import certify
from flatmin.solvers.douglas_rachford import DouglasRachford
from flatmin.solvers.entrywise import MinWeightedLp
from flatmin.solvers.lp_newton import DualNewton
from flatmin.solvers.misfits import Exact, L2Ball, SquaredLoss

MAX_ENTRIES = 4_000_000
"""Largest m d1 d2 for which the constraint matrix is handed to HiGHS."""


class Simplex(AbstractMethod):
    """Solves `MinWeightedLp` at k = 2, exact fit: `min sum D (p + n) s.t. A(p - n) = b`, `p, n >= 0`, `x = p - n`.

    A vertex is exact up to rounding; its gap and residual are recomputed from the point and the multipliers. Where they
    fall short of the tolerance, `DouglasRachford` takes over from there.
    """

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Hand over, certify, fall back.

        Raises:
            UsageError: for another programme, misfit or power.
        """
        from scipy.optimize import linprog

        if not isinstance(program, MinWeightedLp) or program.power != 1 or not isinstance(program.misfit, Exact):
            raise UsageError(
                f"method: got Simplex for {type(program).__name__}, expected MinWeightedLp of depth 2 with an exact "
                "fit; use Auto()"
            )
        targets = np.asarray(program.targets)
        if not targets.any():
            return zero(program, "Simplex")
        began = time.perf_counter()
        op = host_map(program.measurements)
        if isinstance(op, DenseMap):
            rows = op.tensor.reshape(targets.size, -1)
            weights, scale = np.asarray(program.weights).reshape(-1), np.abs(targets).max()
            found = linprog(
                np.concatenate([weights, weights]),
                A_eq=np.concatenate([rows, -rows], axis=1),
                b_eq=targets / scale,
                method="highs-ds",
                options={"maxiter": max_iterations},
            )
            if found.x is not None and found.status == 0:
                positive, negative = np.split(scale * found.x, 2)
                matrix = (positive - negative).reshape(program.measurements.matrix_shape)
                certificate = certify(program, jnp.asarray(matrix), jnp.asarray(found.eqlin.marginals))
                if certificate.gap <= tolerance and certificate.residual <= RESIDUAL:
                    return certified(
                        certificate,
                        tolerance,
                        method="Simplex",
                        iterations=int(found.nit),
                        shortfall=Outcome.stalled,
                        stats={"seconds": {"total": time.perf_counter() - began}},
                    )
        return DouglasRachford().run(program, tolerance, max_iterations, start)


@select_method.register
def _(program: MinWeightedLp) -> AbstractMethod:
    exact = isinstance(program.misfit, Exact)
    if program.power == 1:
        small = program.measurements.num_measurements * program.weights.size <= MAX_ENTRIES
        return Simplex() if exact and small else DouglasRachford()
    if not isinstance(program.misfit, Exact | SquaredLoss | L2Ball):
        raise UsageError(
            f"misfit: got {type(program.misfit).__name__} for more than two factors, expected Exact(), SquaredLoss or "
            "L2Ball; an l1 misfit is available at depth 2"
        )
    return DualNewton()
