"""Did a convex programme recover the truth? Decided by proof where that is possible, and cheaply."""

import dataclasses
import functools
import math
from collections.abc import Callable

from flatmin._core import Solution
from flatmin.problems import PlantedProblem
from flatmin.solvers import AbstractProgram, solve, solve_batch, value_on_host

COARSE, FINE = 1e-4, 1e-9
"""Relative gaps: the first asked for, and the one for what the first leaves open."""

BEATEN = 1e-6
"""A feasible point whose value is smaller than the truth's by this share proves that the truth is not optimal."""

FEASIBLE = 1e-10
"""Largest relative residual of a feasible point."""

ITERATIONS = 4000
"""Limit for each solve."""

Attempt = Callable[[float, float], Solution]
"""From a tolerance and a value that may be undercut (NaN for none) to a solution."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a programme did to an instance.

    Attributes:
        solution: the coarse solution if that decides, else the fine one.
        error: relative error `||X - M*||_F / ||M*||_F`.
        recovered: 1 if the error is below the threshold; 0 if not, and the truth is proved not to be optimal or the
            gap is at most `FINE`; NaN if the solver ran out of iterations before either.
    """

    solution: Solution
    error: float
    recovered: float


def decide(
    program: AbstractProgram,
    planted: PlantedProblem,
    threshold: float,
    *,
    host: bool = True,
    iterations: int = ITERATIONS,
) -> Verdict:
    """Solve coarsely; go on only if that leaves open whether the truth is the solution.

    Args:
        program: the programme.
        planted: the instance.
        threshold: largest relative error of an exact recovery.
        host: by `solve_batch`, which compiles nothing; else by `solve`.
        iterations: limit for each solve.

    Returns:
        The verdict.
    """
    known = value_on_host(program, planted.truth) if host else _value(program, planted)
    attempt = functools.partial(_on_host if host else _compiled, program, iterations)

    def judge(solution: Solution) -> Verdict:
        error = float(planted.relative_error(solution.matrix))
        beaten = solution.residual <= FEASIBLE and solution.primal_value < (1 - BEATEN) * known
        if error < threshold:
            return Verdict(solution, error, 1.0)
        return Verdict(solution, error, 0.0 if beaten or solution.gap <= FINE else math.nan)

    first = judge(attempt(COARSE, -math.inf))
    return judge(attempt(FINE, known)) if math.isnan(first.recovered) else first


def _value(program: AbstractProgram, planted: PlantedProblem) -> float:
    misses = program.measurements.forward(planted.truth) - program.targets
    return float(program.norm(planted.truth) + program.misfit.value(misses))


def _on_host(program: AbstractProgram, iterations: int, tolerance: float, below: float) -> Solution:
    return solve_batch([program], tolerance=tolerance, max_iterations=iterations, below=[below])[0]


def _compiled(program: AbstractProgram, iterations: int, tolerance: float, _below: float) -> Solution:
    return solve(program, tolerance=tolerance, max_iterations=iterations, throw=False)
