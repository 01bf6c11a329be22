"""`Factored`: the programme over a few entries of a large matrix, by factors, behind the verb `solve`."""

import jax.numpy as jnp
import numpy as np

from flatmin._core import Integer, Optional, Outcome, Solution, UsageError, checked
from flatmin.measurements import EntryMeasurements
from flatmin.solvers._base import AbstractMethod, AbstractProgram
from flatmin.solvers._solution import certified, fits_zero, zero
from flatmin.solvers.certificate import certify
from flatmin.solvers.large.method import complete
from flatmin.solvers.large.problem import LargeCompletion, large_completion
from flatmin.solvers.large.solution import MOST_CELLS, FactoredSolution
from flatmin.solvers.misfits import L2Ball, SquaredLoss
from flatmin.solvers.programs import MinNuclearNorm, MinScaledNuclearNorm

AIM = 0.5
"""Of the tolerance asked for, what the sweeps aim at: the certificate is computed again, for the matrix."""


@checked(max_rank=Optional(Integer(1)), seed=Integer(0))
class Factored(AbstractMethod):
    """Alternating least squares on factors of growing rank, for a (flat) nuclear norm of entries with noise.

    For `MinNuclearNorm` and `MinScaledNuclearNorm` of `entries(...)` with `SquaredLoss` or `L2Ball`: `O(m k^2)` a sweep
    in place of a d1 x d2 singular value decomposition an iteration. The result is judged as that of any method, by
    `certify`, which forms the matrix: up to 50 million cells. Beyond, `large.complete` keeps the factors alone.
    `stats["factored"]` holds those, as a `FactoredSolution`; a solution that has them may be a start.

    Attributes:
        max_rank: most columns of the factors; None for as many as the certificate asks for.
        seed: of the first directions.
    """

    max_rank: int | None = None
    seed: int = 0

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Sweep, certify.

        Raises:
            UsageError: for another programme, misfit or measurements, more than 50 million cells, or a start that does
                not come from this method.
        """
        problem = _problem(program)
        first = None if start is None else start.stats.get("factored")
        if start is not None and not isinstance(first, FactoredSolution):
            raise UsageError(
                f"start: got a solution by {start.method}, expected one by Factored, which has factors; leave it out"
            )
        if fits_zero(program):
            return zero(program, "Factored")
        found = complete(
            problem,
            tolerance=AIM * tolerance,
            max_sweeps=max_iterations,
            max_rank=self.max_rank,
            start=first,
            seed=self.seed,
            throw=False,
        )
        # lambda N + ||r||^2 / 2 against N + ||r||^2 / (2 lambda)
        dual = found.dual / (1.0 if problem.penalty is None else problem.penalty)
        return certified(
            program,
            certify(program, jnp.asarray(found.matrix()), jnp.asarray(dual)),
            tolerance,
            method="Factored",
            iterations=found.sweeps,
            shortfall=Outcome.stalled if found.outcome.success else found.outcome,
            stats={"factored": found, "notes": found.notes, "seconds": {"total": found.stats["seconds"]}},
        )


def _problem(program: AbstractProgram) -> LargeCompletion:
    op, misfit = program.measurements, program.misfit
    if not (
        isinstance(program, MinNuclearNorm | MinScaledNuclearNorm)
        and isinstance(op, EntryMeasurements)
        and isinstance(misfit, SquaredLoss | L2Ball)
    ):
        raise UsageError(
            f"method: got Factored for {type(program).__name__} of {type(op).__name__} with {type(misfit).__name__}, "
            "expected MinNuclearNorm or MinScaledNuclearNorm of entries with SquaredLoss or L2Ball; use Auto()"
        )
    d1, d2 = op.matrix_shape
    if d1 * d2 > MOST_CELLS:
        raise UsageError(
            f"measurements: got {d1} x {d2} cells, expected at most {MOST_CELLS:,} for a solution with its matrix; use "
            "large.complete, whose solution is in factors"
        )
    return large_completion(
        np.asarray(op.rows),
        np.asarray(op.cols),
        np.asarray(program.targets),
        (d1, d2),
        penalty=float(misfit.penalty) if isinstance(misfit, SquaredLoss) else None,
        radius=float(misfit.radius) if isinstance(misfit, L2Ball) else None,
        weighting="flat" if isinstance(program, MinScaledNuclearNorm) else "plain",
    )
