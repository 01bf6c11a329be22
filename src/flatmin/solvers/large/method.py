"""Alternating least squares with Anderson acceleration, the rank grown until the certificate holds."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flatmin._core import Outcome, Real, UsageError, check_positive, checked
from flatmin._core.threads import blas_threads
from flatmin.solvers._pursue import SPARE
from flatmin.solvers._rank import resolved_rank
from flatmin.solvers.large.certificate import (
    CertifiedFactors,
    certify_large,
    flat_factors,
    weighted,
    weighted_size,
)
from flatmin.solvers.large.problem import LargeCompletion
from flatmin.solvers.large.solution import FactoredSolution
from flatmin.solvers.large.spectral import SpectralBound
from flatmin.solvers.large.sweeps import predict_pairs, ridge_regressions, sides

FIRST_RANK = 10
FIRST_CHECK = 8
SHORTEST_PAUSE, LONGEST_PAUSE = 4, 20
"""Sweeps between checks."""

SLOWER = 2.0
"""Operations of a sparse product take this much longer than those of a sweep."""

MEMORY = 6
"""Earlier sweeps that Anderson acceleration combines."""

NEAR_ZERO, STAGE, STAGE_TOLERANCE = 0.3, 0.2, 1e-2
"""Small penalties are approached from a fraction of the largest, by a factor a stage, each solved so well."""

SLOW, FAINT, MOST_DROPS = 0.7, 1e-3, 5
"""Where the gap falls by less than this factor between checks, directions fainter than this are left out, so often."""

RADIUS_SLACK = 1e-9

HELD_SHARE = 1e-9
"""Share of the norm that counts as zero where the rank was held: each direction that is there was wanted."""
MOST_PENALTIES = 40


class Progress(NamedTuple):
    """Told after each sweep.

    Attributes:
        sweep: sweeps so far.
        rank: columns of the factors.
        objective: after this sweep, in the user's units.
        gap: certified at the last check, infinite before.
        penalty: the lambda at work.
        seconds: since the start.
    """

    sweep: int
    rank: int
    objective: float
    gap: float
    penalty: float
    seconds: float


Watch = Callable[[Progress], None]


@checked(tolerance=Real(0, above=True))
def complete(
    problem: LargeCompletion,
    *,
    tolerance: float = 1e-4,
    max_sweeps: int = 500,
    max_rank: int | None = None,
    max_seconds: float | None = None,
    start: FactoredSolution | None = None,
    seed: int = 0,
    progress: Watch | None = None,
    throw: bool = True,
) -> FactoredSolution:
    """Solve a large completion.

    With factors, `||D1 X D2||_* = min (||D1 L||^2 + ||D2 R||^2) / 2`, so that each sweep is a ridge regression a row
    and one a column, `O(m k^2)`. Anderson acceleration (safeguarded by the objective) shortens the tail. The
    certificate decides when to stop; where it finds directions outside the factors that lower the objective, they
    are added, so that the end point is optimal over all matrices, not only over those of the first rank. A radius is
    met by a search for the penalty whose residual has that norm, each solve started at the last.

    Args:
        problem: from `large_completion`.
        tolerance: largest accepted relative gap.
        max_sweeps: limit of the sweeps in total.
        max_rank: most columns of the factors; default: min(d1, d2). A limit below the rank of the solution
            leaves a gap, which is reported.
        max_seconds: stop at the first sweep after so many seconds, with the certificate of what was reached; the
            result then depends on the machine. Default: no limit.
        start: a solution of a problem with the same shape to start from, for example at a larger penalty.
        seed: of the first directions and of the random starts that the spectral bound relies on.
        progress: called after each sweep.
        throw: raise on any outcome but success.

    Returns:
        The solution with its certificate; the dual is feasible with the probability stated in `bound`.

    Cost: memory `28 m + 100 (d1 + d2) k` bytes about; a sweep of 10 million entries at k = 10 takes about a second.

    Raises:
        UsageError: for a tolerance, a limit, a time or a rank that is not positive, or a start of another shape.
        JobError: if `throw` and the tolerance was not reached.
    """
    check_positive("tolerance", tolerance)
    check_positive("max_sweeps", max_sweeps)
    for name, value in (("max_rank", max_rank), ("max_seconds", max_seconds)):
        if value is not None:
            check_positive(name, value)
    if start is not None and start.shape != problem.shape:
        raise UsageError(f"start: got a solution of shape {start.shape}, expected {problem.shape}")
    max_rank = min(max_rank or min(problem.shape), *problem.shape)
    run = _Run(problem, tolerance, int(max_sweeps), max_rank, max_seconds, seed, progress)
    # stacks of k x k products: a second thread waits more than it works
    with blas_threads(1):
        right = run.first_factor(start)
        if problem.radius is None:
            scaled = (problem.penalty or 0.0) / problem.scale
            if start is None:
                right = run.approach(right, scaled)
            certificate, outcome = run.solve(right, scaled, tolerance)
            penalty, excess = problem.penalty or 0.0, 0.0
        else:
            certificate, scaled, excess, outcome = _meet_radius(run, right, problem.radius / problem.scale)
            penalty = scaled * problem.scale
        solution = run.finish(certificate, penalty, excess, outcome)
    return solution.raise_if_failed() if throw else solution


@checked()
def largest_penalty(problem: LargeCompletion, *, seed: int = 0) -> float:
    """About the penalty from which on X = 0 is the answer: `||D1^{-1} A*(Y) D2^{-1}||_op`, from below.

    Args:
        problem: the data; its own penalty or radius plays no part.
        seed: of the power iteration's start.

    Returns:
        A number in the units of the penalty, by eight power iterations: no bound, a scale to choose penalties on.
    """
    return problem.scale * _largest(problem, np.random.default_rng([seed, 8]))


def _largest(problem: LargeCompletion, rng: np.random.Generator) -> float:
    matrix, transpose = weighted(problem, problem.values)
    probe = rng.standard_normal(problem.shape[1])
    for _ in range(8):
        probe = transpose @ (matrix @ probe)
        probe /= max(float(np.linalg.norm(probe)), 1e-300)
    return float(np.linalg.norm(matrix @ probe))


class _Run:
    """The state that the solves of one call share."""

    def __init__(
        self,
        problem: LargeCompletion,
        tolerance: float,
        max_sweeps: int,
        max_rank: int,
        max_seconds: float | None,
        seed: int,
        progress: Watch | None,
    ):
        self.max_seconds = math.inf if max_seconds is None else max_seconds
        self.problem, self.tolerance, self.max_sweeps, self.max_rank = problem, tolerance, max_sweeps, max_rank
        self.rng, self.progress, self.began = np.random.default_rng([seed, 7]), progress, time.perf_counter()
        self.by_row, self.by_col = sides(problem)
        self.sweeps, self.checks, self.gap, self.capped = 0, 0, math.inf, False
        self.total = float(problem.values @ problem.values)

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.perf_counter() - self.began > self.max_seconds

    @property
    def over(self) -> bool:
        """Whether any limit is reached."""
        return self.late or self.sweeps >= self.max_sweeps

    def first_factor(self, start: FactoredSolution | None) -> np.ndarray:
        """The right factor to start from: that of a solution, or leading directions of the weighted data."""
        problem = self.problem
        if start is not None and start.right.shape[1]:
            return start.right[:, : self.max_rank] / math.sqrt(problem.scale)
        k = min(FIRST_RANK, self.max_rank)
        matrix, transpose = weighted(problem, problem.values)
        V = np.linalg.qr(transpose @ (matrix @ self.rng.standard_normal((problem.shape[1], k))))[0]
        V = np.linalg.qr(transpose @ (matrix @ V))[0]
        image = matrix @ V
        U, s, Wt = np.linalg.svd(image, full_matrices=False)
        return flat_factors(problem, U, s * problem.num_entries / problem.shape[0] / problem.shape[1], V @ Wt.T)[1]

    def approach(self, right: np.ndarray, penalty: float) -> np.ndarray:
        """Come down to a small penalty in steps: larger ones find the rank in fewer sweeps."""
        stage = NEAR_ZERO * _largest(self.problem, self.rng)
        while stage > penalty / STAGE and not self.over:
            found, _ = self.solve(right, stage, STAGE_TOLERANCE)
            keep = found.singular_values > STAGE_TOLERANCE * found.singular_values[:1]
            right = found.right[:, keep] if keep.any() else right
            stage *= STAGE
        return right

    def solve(self, right: np.ndarray, penalty: float, tolerance: float) -> tuple[CertifiedFactors, Outcome]:
        """Minimise at one penalty (scaled units) until the gap is certified; grow and prune the rank on the way."""
        problem, check, best = self.problem, FIRST_CHECK, None
        penalised = dataclasses.replace(problem, penalty=penalty * problem.scale, radius=None)
        steps, since, last, drops = _Anderson(self, penalty, right), 0, math.inf, 0
        while True:
            steps.sweep()
            since += 1
            self._tell(steps.objective, penalty, steps.rank)
            over = self.over
            settled = steps.change <= 1e-13
            if since < check and not over and not settled:
                continue
            certificate = certify_large(penalised, steps.left, steps.right, penalty=penalty, rng=self.rng)
            self.checks, self.gap = self.checks + 1, certificate.gap
            pause = _pause(problem, certificate)
            if best is None or certificate.gap < best.gap:
                best = certificate
            if certificate.gap <= tolerance:
                return certificate, Outcome.converged
            if over:
                return best, Outcome.max_time if self.late else Outcome.max_iterations
            grown = _grown(self, certificate, penalty, tolerance)
            if grown is not None:
                steps.restart(grown)
                check, last = pause, math.inf
            elif settled and certificate.gap >= 0.5 * last:
                return best, Outcome.stalled
            elif certificate.gap >= SLOW * last and drops < MOST_DROPS and _has_faint(certificate):
                # a faint direction grows or fades only slowly: leave it out, and if it is wanted it comes back in size
                strong = certificate.singular_values > FAINT * certificate.singular_values[0]
                steps.restart(certificate.right[:, strong])
                check, last, drops = pause, math.inf, drops + 1
            else:
                check, last = max(pause, since // 2), certificate.gap
            since = 0

    def _tell(self, objective: float, penalty: float, rank: int) -> None:
        if self.progress is not None:
            scale = self.problem.scale
            seconds = time.perf_counter() - self.began
            self.progress(Progress(self.sweeps, rank, objective * scale**2, self.gap, penalty * scale, seconds))

    def finish(self, found: CertifiedFactors, penalty: float, excess: float, outcome: Outcome) -> FactoredSolution:
        """The solution in the user's units and order."""
        problem, notes = self.problem, list(self.problem.notes)
        held = self.capped and not outcome.success
        if held:
            notes.append(f"The rank was held at max_rank = {self.max_rank}, below that of the solution.")
        scale = problem.scale
        value_scale = scale if problem.radius is not None else scale**2
        rank, rank_tolerance = resolved_rank(
            found.singular_values,
            gap=HELD_SHARE if held else found.gap,
            reached=outcome.success,
            objective=found.primal_value,
            norm=float(found.singular_values.sum()) * (1.0 if problem.radius is not None else penalty / scale),
            data_size=weighted_size(problem),
        )
        freedom = rank * (sum(problem.shape) - rank)
        if freedom * SPARE > problem.num_entries:
            small = "radius" if problem.radius is not None else "penalty"
            notes.append(
                f"A matrix of rank {rank} has {freedom:,} degrees of freedom beside {problem.num_entries:,} entries: "
                f"the {small} is small for the noise, or the data are not of low rank; a larger {small} costs less and "
                "is likely to predict better.",
            )
        dual = np.empty_like(found.dual)
        dual[problem.order] = found.dual if problem.radius is not None else scale * found.dual
        root = math.sqrt(scale)
        return FactoredSolution(
            left=root * found.left,
            right=root * found.right,
            singular_values=scale * found.singular_values,
            dual=dual,
            primal_value=value_scale * found.primal_value,
            dual_value=value_scale * found.dual_value,
            gap=found.gap,
            penalty=penalty,
            residual=scale * found.residual,
            excess=excess,
            bound=_rescaled(found.bound, scale),
            sweeps=self.sweeps,
            outcome=outcome,
            notes=tuple(notes),
            stats={"checks": self.checks, "seconds": time.perf_counter() - self.began},
            rank=rank,
            rank_tolerance=scale * rank_tolerance,
        )


def _rescaled(bound: SpectralBound, scale: float) -> SpectralBound:
    return dataclasses.replace(bound, upper=scale * bound.upper, lower=scale * bound.lower, values=scale * bound.values)


def _pause(problem: LargeCompletion, found: CertifiedFactors) -> int:
    """Sweeps until the next check: about as many as cost what a check does, counted in operations."""
    m, short, k, steps = problem.num_entries, min(problem.shape), found.left.shape[1], found.bound.steps
    check = SLOWER * steps * (4 * m + 4 * steps * short)
    sweep = 4 * m * (k + 1) ** 2 + sum(problem.shape) * (k + 1) ** 3
    return min(max(SHORTEST_PAUSE, round(check / sweep)), LONGEST_PAUSE)


def _has_faint(found: CertifiedFactors) -> bool:
    s = found.singular_values
    return bool(s.size > 1 and s[-1] <= FAINT * s[0])


class _Anderson:
    """Sweeps as a fixed-point map of the right factor, with acceleration that may not raise the objective."""

    def __init__(self, run: _Run, penalty: float, right: np.ndarray):
        problem = run.problem
        self.run, self.ridges = run, (penalty * problem.row_weights**2, penalty * problem.col_weights**2)
        self.restart(right)

    def restart(self, right: np.ndarray) -> None:
        """Begin anew at another factor."""
        self.point, self.plain, self.change = right, right, math.inf
        self.objective, self.past = math.inf, []
        self.left, self.right = self._solve_rows(right)[0], right

    @property
    def rank(self) -> int:
        return self.point.shape[1]

    def _solve_rows(self, right: np.ndarray) -> tuple[np.ndarray, float]:
        left, left_over = ridge_regressions(self.run.by_row, right, self.ridges[0])
        weights = (np.einsum("jk,jk->j", factor, factor) for factor in (left, right))
        return left, 0.5 * (left_over + sum(float(r @ w) for r, w in zip(self.ridges, weights, strict=True)))

    def sweep(self) -> None:
        """One sweep; `left` and `right` are then the best pair known."""
        left, objective = self._solve_rows(self.point)
        if objective > self.objective + 1e-12 * abs(self.objective) and self.past:
            # the accelerated point was no gain: go on from the plain one, which never is a loss
            self.past = []
            self.point = self.plain
            left, objective = self._solve_rows(self.point)
        plain, _ = ridge_regressions(self.run.by_col, left, self.ridges[1])
        step = plain - self.point
        self.change = float(np.linalg.norm(step) / max(np.linalg.norm(plain), 1e-300))
        self.left, self.right, self.plain, self.objective = left, plain, plain, objective
        self.point = self._accelerated(plain, step)
        self.run.sweeps += 1

    def _accelerated(self, plain: np.ndarray, step: np.ndarray) -> np.ndarray:
        self.past = [*self.past, (plain, step)][-(MEMORY + 1) :]
        if len(self.past) < 2:
            return plain
        steps = np.stack([old_step for _, old_step in self.past]).reshape(len(self.past), -1)
        gram = steps @ steps.T
        # weights of sum 1 that make the combined step smallest
        gram[np.diag_indices_from(gram)] += 1e-15 * np.trace(gram)
        weights = np.linalg.solve(gram, np.ones(len(gram)))
        weights /= weights.sum()
        if not np.all(np.isfinite(weights)) or np.abs(weights).sum() > 1e8:
            self.past = self.past[-1:]
            return plain
        return np.tensordot(weights, np.stack([old for old, _ in self.past]), axes=1)


def _grown(run: _Run, found: CertifiedFactors, penalty: float, tolerance: float) -> np.ndarray | None:
    """The right factor with directions added that lower the objective, and those without weight dropped."""
    keep = found.singular_values * penalty > 1e-3 * tolerance * found.primal_value / max(found.right.shape[1], 1)
    room = run.max_rank - int(keep.sum())
    values = found.bound.values
    run.capped = run.capped or len(values) > room
    if not len(values) or room < 1:
        return None
    number = min(room, len(values), max(FIRST_RANK, int(keep.sum())))
    # the step along u v^T that is best on its own: (sigma - lambda) / ||A(u v^T)||^2
    u, s, v = found.bound.left[:, :number], values[:number], found.bound.right[:, :number]
    left, right = flat_factors(run.problem, u, np.ones(number), v)
    problem = run.problem
    sizes = np.array(
        [
            np.sum(predict_pairs(left[:, [i]], right[:, [i]], problem.row_of_entry, problem.cols) ** 2)
            for i in range(number)
        ]
    )
    amounts = np.sqrt((s - penalty) / np.maximum(sizes, 1e-300))
    return np.hstack([found.right[:, keep], right * amounts])


def _meet_radius(run: _Run, right: np.ndarray, radius: float) -> tuple[CertifiedFactors, float, float, Outcome]:
    """Search the penalty whose residual is just below the radius: the residual grows with the penalty."""
    problem = run.problem
    if math.sqrt(run.total) <= radius:
        empty = np.zeros((problem.shape[0], 0)), np.zeros((problem.shape[1], 0))
        certificate = certify_large(problem, *empty, penalty=1.0, rng=run.rng)
        return certificate, 0.0, 0.0, Outcome.converged
    penalty = NEAR_ZERO * _largest(problem, run.rng)
    inside, outside, best, excess = None, None, None, math.inf
    slack = min(0.1 * run.tolerance, 1e-3)
    solves = 0
    while True:
        solves += 1
        ends = [end for end in (inside, outside) if end is not None]
        loose = 0.03 if inside is None else max(0.05 * run.tolerance, 1e-12)
        certificate, outcome = run.solve(right, penalty, loose)
        right, reached = certificate.right, certificate.residual
        if reached <= radius * (1 + RADIUS_SLACK) or (inside is None and reached <= radius):
            inside = (penalty, reached)
            proved = certify_large(problem, certificate.left, certificate.right, penalty=penalty, rng=run.rng)
            if best is None or proved.gap < best[0].gap:
                best = (proved, penalty)
                excess = max(0.0, reached / radius - 1)
            if proved.gap <= run.tolerance:
                return proved, penalty, excess, Outcome.converged
        else:
            outside = (penalty, reached)
        if run.sweeps >= run.max_sweeps or (outcome is Outcome.stalled and ends and inside and outside):
            break
        penalty = _next_penalty(inside, outside, radius * (1 - 0.3 * slack), penalty)
    if best is None:
        proved = certify_large(problem, certificate.left, certificate.right, penalty=penalty, rng=run.rng)
        return proved, penalty, certificate.residual / radius - 1, Outcome.max_iterations
    return *best, excess, Outcome.max_iterations if run.sweeps >= run.max_sweeps else Outcome.stalled


def _next_penalty(
    inside: tuple[float, float] | None, outside: tuple[float, float] | None, aim: float, penalty: float
) -> float:
    if inside is None:
        return 0.25 * penalty
    if outside is None:
        return 2.0 * penalty
    (low, low_reached), (high, high_reached) = inside, outside
    slope = math.log(high / low) / math.log(max(high_reached, 1e-300) / max(low_reached, 1e-300))
    guess = low * (aim / low_reached) ** slope if math.isfinite(slope) else math.sqrt(low * high)
    ratio = high / low
    return min(max(guess, low * ratio**0.02), high / ratio**0.02)
