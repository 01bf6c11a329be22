"""Pursuit: find a low-rank interpolant and its multipliers first, and iterate only if their certificate fails."""

import dataclasses
import time

import jax.numpy as jnp
import numpy as np

from flatmin._core import Outcome, Solution, UsageError, checked
from flatmin.solvers._base import AbstractMethod, AbstractProgram, select_method
from flatmin.solvers._host import host_map
from flatmin.solvers._host_solve import STEPS, HostInstance, is_small
from flatmin.solvers._plain import Plain, to_plain
from flatmin.solvers._pursue import pursue
from flatmin.solvers._reweighted import gram_diagonal
from flatmin.solvers._solution import accepted, certified, fits_zero, zero
from flatmin.solvers.certificate import certify
from flatmin.solvers.closed_form import ClosedForm
from flatmin.solvers.douglas_rachford import DouglasRachford
from flatmin.solvers.interior_point import MAX_ENTRIES, InteriorPoint, interior_cost, patience
from flatmin.solvers.misfits import Exact, L1Ball, L1Loss
from flatmin.solvers.programs import MinNorm

CHEAP, MAX_OPERATIONS = 3e10, 5e12
"""Operations of an interior-point solve that is not worth a thought (half a second), and of one that is too long."""


@checked()
class Pursuit(AbstractMethod):
    """Gauss-Newton on factors of growing rank, a least-norm dual certificate, and a fallback where that fails.

    The choice of `Auto` for the nuclear norm, the trace and their scaled forms. Up to 250,000 entries of the
    measurements nothing is compiled. Where a matrix of low rank fits exactly
    and is optimal, this takes a few steps of `m n + n^2 m + n^3 / 3` operations, `n = r (d1 + d2)`, in place of a
    factorisation of the m x m Gram matrix and a hundred singular value decompositions. Elsewhere `InteriorPoint`
    takes the small problems; larger ones go to the fallback first, and to `InteriorPoint` once the fallback has cost
    as much. `stats["pursued"]` says whether the first way succeeded.

    Attributes:
        fallback: what to run otherwise, and for other misfits.
    """

    fallback: DouglasRachford = dataclasses.field(default_factory=DouglasRachford)

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Pursue, certify, fall back.

        Raises:
            UsageError: for a programme without a proximal map, or m too large for its Gram matrix.
        """
        plain = to_plain(program)
        if fits_zero(program):
            return zero(program, "Pursuit")
        began = time.perf_counter()
        if isinstance(program.misfit, Exact) and start is None:
            if is_small(plain):
                found = _on_host(program, plain, tolerance, max_iterations)
            else:
                found = _pursued(program, plain, tolerance)
            if found is not None:
                return found
        spent = time.perf_counter() - began
        solution = self._fall_back(program, plain, tolerance, max_iterations, start)
        seconds = {"pursue": spent, **solution.stats.get("seconds", {})}
        stats = {**solution.stats, "pursued": False, "seconds": seconds}
        return dataclasses.replace(solution, stats=stats)

    def _fall_back(
        self, program: AbstractProgram, plain: Plain, tolerance: float, max_iterations: int, start: Solution | None
    ) -> Solution:
        needed = interior_cost(program, plain)
        if isinstance(program.misfit, L1Loss | L1Ball) and gram_diagonal(plain.measurements) is None:
            # no splitting: its proximal map of an l1 misfit is known for single entries only
            if needed.entries > MAX_ENTRIES:
                raise UsageError(
                    f"misfit: got {type(program.misfit).__name__} for {type(program.measurements).__name__} that would "
                    f"form an array of {needed.entries:.1e} entries, expected at most {MAX_ENTRIES:.0e} where "
                    "measurements are not single entries; use fewer (take), or SquaredLoss or L2Ball"
                )
            return InteriorPoint().run(program, tolerance, max_iterations)
        if needed.entries > MAX_ENTRIES or needed.operations > MAX_OPERATIONS:
            return self.fallback.run(program, tolerance, max_iterations, start)
        interior = InteriorPoint()
        if start is None and needed.operations <= CHEAP:
            start = interior.run(program, tolerance, max_iterations)
            if start.outcome.success or start.outcome is Outcome.infeasible:
                return start
            return self.fallback.run(program, tolerance, max_iterations, start)
        patient = min(max_iterations, patience(program.measurements, needed))
        first = self.fallback.run(program, tolerance, patient, start)
        if first.outcome is not Outcome.max_iterations or patient == max_iterations:
            return first
        second = interior.run(program, tolerance, max_iterations)
        if second.outcome.success:
            return second
        nearer = second if second.gap < first.gap else first
        last = self.fallback.run(program, tolerance, max_iterations - patient, nearer)
        return dataclasses.replace(last, iterations=last.iterations + patient)


def _on_host(program: AbstractProgram, plain: Plain, tolerance: float, most: int) -> Solution | None:
    """The certified solution of a small instance, by pursuit or along the central path, if either finds it."""
    instance = HostInstance.of(program, plain, tolerance)
    return instance and (instance.by_pursuit() or instance.by_central_path(most=min(most, STEPS)))


def _pursued(program: AbstractProgram, plain: Plain, tolerance: float) -> Solution | None:
    """The certified low-rank solution, if there is one."""
    began = time.perf_counter()
    gauge = plain.gauge
    op = host_map(plain.measurements)
    shape = program.measurements.matrix_shape
    found = op and pursue(op, np.asarray(program.targets), shape, symmetric=gauge.symmetric, one_sided=gauge.one_sided)
    if not found or found.dual is None:
        return None
    pursued = time.perf_counter()
    matrix = jnp.asarray(found.tangent.left @ found.tangent.right.T)
    certificate = certify(program, plain.leave(matrix), jnp.asarray(found.dual))
    if not accepted(certificate, tolerance):
        return None
    seconds = {"pursue": pursued - began, "certify": time.perf_counter() - pursued}
    return certified(
        program,
        certificate,
        tolerance,
        method="Pursuit",
        iterations=found.steps,
        shortfall=Outcome.stalled,
        stats={"pursued": True, "seconds": seconds},
    )


@select_method.register
def _(program: MinNorm) -> AbstractMethod:
    return ClosedForm() if program.norm_name == "frobenius" else Pursuit()
