"""The closed form of the minimum-Frobenius interpolator."""

import time

import jax.numpy as jnp

from flatmin._core import Outcome, Solution, UsageError
from flatmin.solvers._base import AbstractMethod, AbstractProgram, refuse_start
from flatmin.solvers._solution import certified, fits_zero, infeasible, zero
from flatmin.solvers._whiten import whiten
from flatmin.solvers.certificate import certify
from flatmin.solvers.misfits import Exact
from flatmin.solvers.programs import MinNorm


class ClosedForm(AbstractMethod):
    """`X = A*((A A*)^+ b)` for `MinFrobenius`; one factorisation, no iterations."""

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Solve `min ||X||_F s.t. A(X) = b`; the dual point is `(A A*)^+ b / ||X||_F`.

        Raises:
            UsageError: for another programme, or m too large for its Gram matrix.
        """
        del max_iterations
        refuse_start("ClosedForm", start)
        frobenius = isinstance(program, MinNorm) and program.norm_name == "frobenius"
        if frobenius and not isinstance(program.misfit, Exact):
            raise UsageError(
                f"misfit: got {type(program.misfit).__name__} for MinFrobenius, expected Exact(); its closed form is "
                "for an exact fit"
            )
        if not frobenius:
            raise UsageError(f"method: got ClosedForm for {type(program).__name__}, expected MinFrobenius; use Auto()")
        if fits_zero(program):
            return zero(program, "ClosedForm")
        began = time.perf_counter()
        white, proof = whiten(program.measurements, program.targets)
        weights = white.targets
        matrix = white.adjoint(weights)
        if proof is not None:
            return infeasible(program, matrix, proof, "ClosedForm")
        dual = white.multipliers(weights) / jnp.linalg.norm(matrix)
        certificate = certify(program, matrix, dual)
        return certified(
            program,
            certificate,
            tolerance,
            method="ClosedForm",
            iterations=0,
            shortfall=Outcome.stalled,
            stats={"seconds": {"total": time.perf_counter() - began}},
        )
