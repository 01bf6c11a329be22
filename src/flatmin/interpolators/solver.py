"""The flattest interpolating parameters of a recovery problem, computed directly."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from flatmin._core import (
    AnyOf,
    Choice,
    Outcome,
    Real,
    RealArray,
    SequenceOf,
    UsageError,
    check_at_least,
    check_positive,
    checked,
    choose,
    require_float64,
)
from flatmin._core.forks import refuse_fork
from flatmin.dynamics import TraceFlowResult
from flatmin.interpolators._model import Model, fits, product
from flatmin.interpolators._newton import NewtonResult, escape, minimise_at_width
from flatmin.interpolators.bounds import LowerBound, attainable, lower_bound, rip_estimate
from flatmin.interpolators.flow import follow_trace, with_kept_moments
from flatmin.interpolators.regulariser import induced_regulariser
from flatmin.interpolators.solution import FlattestSolution, Layers, Start
from flatmin.measurements import AbstractMeasurements
from flatmin.parameterizations import DeepMatrix, Gaussian
from flatmin.problems import RecoveryProblem
from flatmin.solvers import MinNuclearNorm, MinScaledNuclearNorm, solve

STARTS = ("nuclear", "scaled-nuclear", "random")
NEWTON_LIMIT = 12_000  # parameters at the inner width up to which Newton's method is tried
JACOBIAN_LIMIT = 50_000_000  # numbers of the Jacobian up to which it is
RANK_SHARE = 3e-4  # singular values below this share of the largest are taken for zero at the end of the flow
NOISE = 1e-2  # how far starts are moved off the low-rank factors, relative to their size
UNATTAINABLE = 1e-9
PROVEN = 1e-6  # relative distance of the trace from its proven lower end at which it is the smallest
ESCAPE = 1e-7  # a further rank-one term is tried where it pays by more than this share


@checked(
    starts=SequenceOf(AnyOf(Choice(*STARTS), SequenceOf(RealArray("_ _"))), least=1), tolerance=Real(0, above=True)
)
def flattest(
    problem: RecoveryProblem,
    *,
    key: Key[Array, ""],
    starts: Sequence[str | Layers] = ("nuclear", "scaled-nuclear", "random", "random"),
    tolerance: float = 1e-10,
    fit: Literal["exact", "least-squares"] = "exact",
    rip: bool = False,
    progress: Callable[[int, int], object] | None = None,
    throw: bool = False,
) -> FlattestSolution:
    """Minimise `tr H(W)` over all W with `A(W_L ... W_1) = b`.

    From each start the trace flow goes down to a neighbourhood, where the rank of the matrix shows; Riemannian Newton
    steps among factors of that inner width then go to a stationary point. The problem is not convex beyond depth 2: the
    best of the starts is returned, with the spread.

    Args:
        problem: a recovery problem of a deep matrix of depth 2 or more, in float64.
        key: random key of the random starts and of what moves the others off low rank.
        starts: `"nuclear"` and `"scaled-nuclear"` (the flattest factors of the minimiser of that norm), `"random"`, or
            params; those that do not interpolate are brought to zero loss first, and their entry says so.
        tolerance: of the stationarity.
        fit: `"exact"`, or `"least-squares"`: put the nearest attainable targets in the place of the given ones.
        rip: also estimate what the restricted isometry property would say (a search, and a convex solve).
        progress: called as `progress(done, starts)` before the first start and after each.
        throw: raise on any outcome that is not a success.

    Returns:
        The best parameters found, and the conditions that they satisfy.

    Raises:
        UsageError: for another parameterization, depth 1, float32, targets that no matrix fits (which
            `fit="least-squares"` replaces), or unknown starts.
        JobError: if `throw` and the outcome is not a success.
    """
    refuse_fork()
    network = problem.parameterization
    if not isinstance(network, DeepMatrix) or network.depth < 2:
        what = f"depth {network.depth}" if isinstance(network, DeepMatrix) else type(network).__name__
        raise UsageError(
            f"problem: got {what}, expected a deep matrix of depth 2 or more; for Quadratic and Hadamard solve "
            "flatmin.solvers.flat_program"
        )
    if network.max_rank < min(network.matrix_shape):
        raise UsageError(
            f"problem: got widths {network.widths}, expected hidden widths of at least {min(network.matrix_shape)}; "
            "the flattest interpolator is sought among all matrices: widen the hidden layers"
        )
    require_float64("flattest", problem.targets)
    check_positive("tolerance", tolerance)
    choose("fit", fit, ("exact", "least-squares"))
    check_at_least("starts", len(starts), 1)
    for start in starts:
        if isinstance(start, str):
            choose("starts", start, STARTS)
    op, targets, misfit, dependent = _attainable(problem, fit)
    problem = RecoveryProblem(op, network, targets)
    model = Model(op, np.asarray(targets)) if fits(op) else None
    keys = jax.random.split(key, len(starts) + 2)
    ends, counts = [], 0
    for done, (start, start_key) in enumerate(zip(starts, keys, strict=False)):
        if progress is not None:
            progress(done, len(starts))
        name = start if isinstance(start, str) else "given"
        if name == "random":
            name, counts = f"random {counts}", counts + 1
        ends.append(_descend(problem, model, start, name, start_key, tolerance, dependent))
    if progress is not None:
        progress(len(starts), len(starts))
    if not any(end is not None for end in ends):
        raise UsageError(
            "starts: none could be made, D_out or D_in has no inverse in this precision (a row or a column is seen too "
            "weakly beside the others, or not at all); use 'nuclear' or 'random'"
        )
    return _conclude(problem, [e for e in ends if e], keys[-2:], misfit, dependent, rip=rip, throw=throw)


def _attainable(problem: RecoveryProblem, fit: str) -> tuple[AbstractMeasurements, Array, float, int]:
    op = with_kept_moments(problem.measurements)
    fitted, distance, dependent = attainable(op, problem.targets)
    if distance <= UNATTAINABLE:
        return op, problem.targets, distance, dependent
    if fit == "exact":
        d1, d2 = op.matrix_shape
        raise UsageError(
            f"targets: no {d1} x {d2} matrix fits these {op.num_measurements} measurements (relative distance "
            f"{distance:.2g}); pass fit='least-squares' to take the nearest attainable targets"
        )
    return op, jnp.asarray(fitted), distance, dependent


@dataclasses.dataclass(frozen=True)
class _End:
    """A start and where it led."""

    start: Start
    params: Layers
    newton: NewtonResult | None
    ratio: float


def _descend(
    problem: RecoveryProblem,
    model: Model | None,
    start: str | Layers,
    name: str,
    key: Key[Array, ""],
    tolerance: float,
    dependent: int,
) -> _End | None:
    params = _first_params(problem, start, key)
    if params is None:
        return None
    flow = follow_trace(problem, params, rtol=0.05, tolerance=1e-3, max_steps=600, until=_Level())
    best, ratio = (None, np.nan) if model is None else _finish(problem, model, flow, tolerance, key)
    given = not isinstance(start, str)
    if best is None:
        flow = follow_trace(problem, flow.params, rtol=1e-2, tolerance=1e-6, max_steps=400)
        M = np.linalg.svd(np.asarray(problem.matrix(flow.params)), compute_uv=False)
        stationarity, trace, outcome = flow.stationarity, float(flow.trace[-1]), flow.outcome
        rank = int(np.sum(1e-10 * M[0] < M))
        outcome = Outcome.converged if stationarity <= tolerance else Outcome.stalled if outcome.success else outcome
    else:
        stationarity, trace, rank, outcome = best.stationarity, best.trace, best.factors[0].shape[0], best.outcome
        unique = best.kernel_rank == len(problem.targets) - dependent
        if outcome is Outcome.converged and unique and ratio > 1 + 1e3 * ESCAPE:
            outcome = Outcome.saddle
    return _End(
        Start(name, float(flow.trace[0]), trace, rank, stationarity, outcome, given and flow.projected_start),
        flow.params,
        best,
        ratio,
    )


def _finish(
    problem: RecoveryProblem, model: Model, flow: TraceFlowResult, tolerance: float, key: Key[Array, ""]
) -> tuple[NewtonResult | None, float]:
    """Newton's method at the rank that the flow shows, then at higher ones as long as that is flatter."""
    depth, most = _network(problem).depth, min(problem.measurements.matrix_shape)
    best: NewtonResult | None = None
    for rank in _ranks(problem, flow.params):
        if not _tractable(model, _network(problem), rank):
            break
        matrix = _truncated(problem.matrix(flow.params), rank)
        first = induced_regulariser(problem.measurements, matrix, depth)
        factors = first.factors if first.rank == rank and first.attained else _balanced(matrix, rank, depth)
        found = minimise_at_width(model, factors, tolerance=tolerance)
        if found.outcome is Outcome.infeasible:
            continue
        if best is None or found.trace < best.trace * (1 - 1e-9):
            best = found
        if found.trace <= flow.trace[-1] * (1 + 1e-3):
            break
    ratio, rng = np.nan, np.random.default_rng(np.asarray(jax.random.key_data(key)))
    while best is not None:
        rank = best.factors[0].shape[0]
        if rank == most:
            return best, np.nan
        ratio, grown = escape(model, best, rng)
        if not ratio > 1 + ESCAPE or not _tractable(model, _network(problem), rank + 1):
            break
        flatter = None
        for factors in grown:
            found = minimise_at_width(model, factors, tolerance=tolerance)
            if found.outcome is not Outcome.infeasible and found.trace < best.trace * (1 - 1e-9):
                flatter = found
                break
        if flatter is None:
            break
        best = flatter
    return best, ratio


class _Level:
    """True once the trace has fallen by less than one part in 10^4 over eight steps."""

    def __init__(self):
        self.values: list[float] = []

    def __call__(self, trace: float) -> bool:
        self.values.append(trace)
        return len(self.values) > 8 and self.values[-9] - trace < 1e-4 * trace


def _first_params(problem: RecoveryProblem, start: str | Layers, key: Key[Array, ""]) -> Layers | None:
    network, op = _network(problem), problem.measurements
    if not isinstance(start, str):
        return tuple(start)
    spread = float(np.sqrt(np.mean(network.widths)))
    if start == "random":
        return network.init_params(key, Gaussian(1 / spread))
    try:
        kind = MinNuclearNorm if start == "nuclear" else MinScaledNuclearNorm
        matrix = solve(kind(op, problem.targets), throw=False, tolerance=1e-6).matrix
    except UsageError:
        return None
    found = induced_regulariser(op, matrix, network.depth, rank_tolerance=1e-8 * float(jnp.linalg.norm(matrix)))
    frame_key, noise_key = jax.random.split(key)
    lifted = found.at_widths(network, frame_key)
    sizes = [float(jnp.linalg.norm(W)) / W.size**0.5 for W in lifted]
    noise = [
        jax.random.normal(k, W.shape) for k, W in zip(jax.random.split(noise_key, len(lifted)), lifted, strict=True)
    ]
    return tuple(W + NOISE * size * E for W, size, E in zip(lifted, sizes, noise, strict=True))


def _ranks(problem: RecoveryProblem, params: Layers) -> list[int]:
    """The rank that shows, then higher ones: where its factors cannot interpolate, it was guessed too low."""
    s = np.linalg.svd(np.asarray(problem.matrix(params)), compute_uv=False)
    first = max(1, int(np.sum(s > RANK_SHARE * s[0])))
    more = [r for r in (first + 1, first + 2, 2 * first) if r < len(s)]
    return list(dict.fromkeys([first, *more, len(s)]))


def _network(problem: RecoveryProblem) -> DeepMatrix:
    return cast("DeepMatrix", problem.parameterization)  # checked at the entrance


def _truncated(matrix: Array, rank: int) -> Array:
    U, s, Vt = jnp.linalg.svd(matrix, full_matrices=False)
    return (U[:, :rank] * s[None, :rank]) @ Vt[:rank]


def _balanced(matrix: Array, rank: int, depth: int) -> tuple[np.ndarray, ...]:
    U, s, Vt = np.linalg.svd(np.asarray(matrix), full_matrices=False)
    root = s[:rank] ** (1 / depth)
    return (root[:, None] * Vt[:rank], *[np.diag(root)] * (depth - 2), U[:, :rank] * root)


def _tractable(model: Model, network: DeepMatrix, rank: int) -> bool:
    size = rank * (network.widths[0] + network.widths[-1]) + (network.depth - 2) * rank**2
    return size <= NEWTON_LIMIT and size * len(model.targets) <= JACOBIAN_LIMIT


def _conclude(
    problem: RecoveryProblem, ends: list[_End], keys: Array, misfit: float, dependent: int, *, rip: bool, throw: bool
) -> FlattestSolution:
    network, op = _network(problem), problem.measurements
    # of those that converged the lowest; among equals the one that is best converged
    best = min(ends, key=lambda e: (not e.start.outcome.success, round(e.start.trace, 12), e.start.stationarity))
    newton = best.newton
    factors = best.params if newton is None else tuple(jnp.asarray(W) for W in newton.factors)
    matrix = jnp.asarray(product(tuple(np.asarray(W) for W in factors)))
    on_fibre = induced_regulariser(op, matrix, network.depth, rank_tolerance=1e-10 * float(jnp.linalg.norm(matrix)))
    bound: LowerBound = lower_bound(op, problem.targets, network.depth)
    settled = [e.start.trace for e in ends if e.start.outcome.success]
    common: dict[str, Any] = {
        "factors": factors,
        "matrix": matrix,
        "rank": best.start.rank,
        "fibre_gap": max(0.0, (best.start.trace - on_fibre.lower) / best.start.trace) if best.start.trace else 0.0,
        "lower": min(bound.value, best.start.trace) if bound.kind != "none" else 0.0,
        "lower_kind": bound.kind,
        "rip": rip_estimate(op, problem.targets, network.depth, keys[0]) if rip else None,
        "spread": (max(settled) - min(settled)) / min(settled) if len(settled) > 1 and min(settled) > 0 else np.nan,
        "starts": tuple(e.start for e in ends),
        "dependent_measurements": dependent,
        "misfit": misfit,
        "outcome": _proven(best.start, bound),
        "stationarity": best.start.stationarity,
        "trace": best.start.trace,
        "escape_ratio": best.ratio,
    }
    if newton is None:
        solution = FlattestSolution(
            best.params,
            loss=float(problem.loss(best.params)),
            curvature=np.nan,
            curvature_error=np.nan,
            zero_modes=0,
            kernel_rank=-1,
            method="trace flow",
            **common,
        )
    else:
        lifted = _lift(factors, network, keys[1])
        solution = FlattestSolution(
            lifted,
            loss=newton.loss,
            curvature=newton.curvature,
            curvature_error=newton.curvature_error,
            zero_modes=newton.zero_modes - newton.gauge_modes,
            kernel_rank=newton.kernel_rank,
            method=f"trace flow, then {newton.iterations} Riemannian Newton steps at inner width {best.start.rank}",
            **common,
        )
    return solution.raise_if_failed() if throw else solution


def _proven(start: Start, bound: LowerBound) -> Outcome:
    """What is known of the best start: the smallest of all, or a local minimum."""
    meets = bound.kind != "none" and start.trace - bound.value <= PROVEN * abs(start.trace)
    return Outcome.local_minimum if start.outcome is Outcome.converged and not meets else start.outcome


def _lift(factors: Layers, network: DeepMatrix, key: Key[Array, ""]) -> Layers:
    rank = factors[0].shape[0]
    keys = jax.random.split(key, network.depth)
    layers = list(factors)
    for j, width in enumerate(network.widths[1:-1]):
        frame = jax.random.orthogonal(keys[j], width)[:, :rank]
        layers[j], layers[j + 1] = frame @ layers[j], layers[j + 1] @ frame.T
    return tuple(layers)
