"""Douglas-Rachford splitting of a gauge and a misfit, with residual balancing and a Newton polish.

One iteration is one proximal map of the gauge (for the nuclear norm singular value thresholding) and one of the misfit
(for an exact fit the projection onto `{X : A(X) = b}`): `X = prox_N(Z, t)`, `P = prox_h(2X - Z, t)`,
`Z <- Z + relaxation (P - X)`. Its fixed points hold the solution `X` and, exactly, a subgradient
`M = (Z - X)/t = A*(y)`. The step t weighs progress in X against progress in M; it is moved
after each block so that both change at the same relative rate, by ever smaller factors, so that it settles and
convergence is that of a fixed step (Eckstein & Bertsekas 1992).
"""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flatmin._core import Outcome, Real, Solution, UsageError, check_positive, checked
from flatmin.solvers._base import AbstractMethod, AbstractProgram
from flatmin.solvers._plain import Plain, to_plain
from flatmin.solvers._polish import Compiled, affordable, polish
from flatmin.solvers._prepare import Prepared, prepare
from flatmin.solvers._solution import accepted, certified, fits_zero, infeasible, zero
from flatmin.solvers._splitting import BLOCK, FIRST_STEP, RELAXATION, SEPARATED, SETTLE, SMALLEST_STEP, Working
from flatmin.solvers.certificate import certify
from flatmin.solvers.misfits import Exact

STAGE = 200
"""Iterations between two attempts to polish; a quarter of those done so far, if that is more."""

POLISH_BELOW, POLISH_TARGET = 1e-1, 1e-4
"""A polish is tried once the gap is below the second, and after each stage if it is below the first."""

AIM, AIM_FACTOR, LEAST_AIM = 0.5, 0.1, 1e-15
"""Of the tolerance asked for, what the iteration aims at, as the certificate is measured in the user's coordinates; by
what it falls while the certificate is not accepted, and where that ends."""

STALLED = 1e-15
"""Relative change of an iteration below which nothing moves any more."""


class _State(eqx.Module):
    Z: Float[Array, "d1 d2"]
    step: Float[Array, ""]
    next_step: Float[Array, ""]
    change: Float[Array, ""]
    rank: Int[Array, ""]
    matrix: Float[Array, "d1 d2"]
    weights: Float[Array, " k"]
    residual: Float[Array, " k"]
    primal: Float[Array, ""]
    dual: Float[Array, ""]
    iterations: Int[Array, ""]

    @property
    def gap(self) -> Array:
        # a dual value above the primal one is no proof of anything but of a domain that is empty or violated
        return jnp.abs(self.primal - self.dual) / jnp.maximum(self.primal, jnp.finfo(self.primal.dtype).tiny)

    def with_point(self, work: Working, matrix: Array, weights: Array) -> "_State":
        """Keep the better of the points known, and the better of the multipliers."""
        matrix = work.feasible(matrix)
        primal = work.gauge.value(matrix) + work.loss(matrix)
        weights = work.feasible_multipliers(weights)
        dual = work.bound(weights)
        better, tighter = primal < self.primal, dual > self.dual
        return dataclasses.replace(
            self,
            matrix=jnp.where(better, matrix, self.matrix),
            primal=jnp.where(better, primal, self.primal),
            weights=jnp.where(tighter, weights, self.weights),
            dual=jnp.where(tighter, dual, self.dual),
        )


@checked(relaxation=Real(0, 2, above=True, below=True), first_step=Real(0, above=True))
class DouglasRachford(AbstractMethod):
    """Solves every programme whose gauge has a proximal map, with any misfit; the choice of `Auto` for them.

    Memory is a few d1 x d2 matrices beside the measurements, and the m x m Gram matrix unless that is diagonal
    (completion). One iteration is one d1 x d2 singular value decomposition, one forward and one adjoint.

    Attributes:
        relaxation: in (0, 2).
        first_step: the first threshold, as a fraction of the largest singular value of the minimum-Frobenius point.
        newton: whether to finish by Newton's method on factors of the rank found, where that is affordable.
    """

    relaxation: float = RELAXATION
    first_step: float = FIRST_STEP
    newton: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        check_positive("first_step", self.first_step)
        if not 0 < self.relaxation < 2:
            raise UsageError(f"relaxation: got {self.relaxation}, expected a value between 0 and 2, ends excluded")

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Iterate, polish, certify.

        Raises:
            UsageError: for a programme without a proximal map, or m too large for its Gram matrix.
        """
        name = "DouglasRachford"
        plain = to_plain(program)
        if fits_zero(program):
            return zero(program, name)
        clock = [time.perf_counter()]
        ready = prepare(program, plain)
        if ready.proof is not None:
            return infeasible(program, plain.leave(ready.scale * ready.nearest), ready.proof, name)
        clock.append(time.perf_counter())
        state = self._first(ready, plain, start)
        aim, polish_seconds, certify_seconds = AIM * tolerance, 0.0, 0.0
        while True:
            state, outcome, polished, seconds = self._iterate(ready, state, aim, max_iterations)
            polish_seconds += seconds
            if outcome is Outcome.infeasible:
                proof = ready.multipliers(state.weights)
                nearest = plain.leave(ready.scale * state.matrix)
                return infeasible(program, nearest, proof / (program.targets @ proof), name, int(state.iterations))
            began = time.perf_counter()
            point = certify(program, plain.leave(ready.scale * state.matrix), ready.multipliers(state.weights))
            certify_seconds += time.perf_counter() - began
            # the certificate may fall short of what the iteration saw: it moves the point into the domain, exactly
            if accepted(point, tolerance) or outcome is not Outcome.converged or aim < LEAST_AIM:
                break
            aim *= AIM_FACTOR
        clock.append(time.perf_counter())
        return certified(
            program,
            point,
            tolerance,
            method=name,
            iterations=int(state.iterations),
            shortfall=Outcome.stalled if outcome is Outcome.converged else outcome,
            stats={
                "polished": polished,
                "step": float(state.step * ready.scale),
                "seconds": {
                    "prepare": clock[1] - clock[0],
                    "iterate": clock[2] - clock[1] - polish_seconds - certify_seconds,
                    "polish": polish_seconds,
                    "certify": certify_seconds,
                },
            },
        )

    def _first(self, ready: Prepared, plain: Plain, start: Solution | None) -> _State:
        state = _start(ready.work, self.first_step)
        if start is None:
            return state
        matrix, subgradient = plain.enter(start.matrix) / ready.scale, plain.measurements.adjoint(start.dual)
        return _warm(ready.work, state, matrix, subgradient)

    def _iterate(
        self, ready: Prepared, state: _State, tolerance: float, max_iterations: int
    ) -> tuple[_State, Outcome, bool, float]:
        """Until the gap seen here is at most the tolerance (`converged`, not proved yet), or nothing helps."""
        work, seconds = ready.work, 0.0
        can_be_infeasible = work.gauge.one_sided
        newton = self.newton and isinstance(work.misfit, Exact)
        target = max(tolerance, POLISH_TARGET) if newton else tolerance
        stages = newton or can_be_infeasible
        while True:
            done, before = int(state.iterations), state.residual
            stop = min(done + max(STAGE, done // 4), max_iterations) if stages else max_iterations
            state = _advance(work, state, self.relaxation, target, stop)
            gap, rank = float(state.gap), int(state.rank)
            if newton and gap <= POLISH_BELOW and affordable(state.Z.shape, work.white.targets.size, rank):
                began = time.perf_counter()
                targets, matrix, weights = map(np.asarray, (work.white.targets, state.matrix, state.weights))
                found = polish(Compiled(work.white), targets, matrix, weights, rank)
                if found is not None:
                    better = _take_point(work, state, *map(jnp.asarray, found))
                    if float(better.gap) <= tolerance:
                        return better, Outcome.converged, True, seconds + time.perf_counter() - began
                seconds += time.perf_counter() - began
            if gap <= tolerance:
                return state, Outcome.converged, False, seconds
            if can_be_infeasible:
                direction = before - state.residual
                if _separates(work, direction):
                    return dataclasses.replace(state, weights=direction), Outcome.infeasible, False, seconds
            if int(state.iterations) >= max_iterations:
                return state, Outcome.max_iterations, False, seconds
            if float(state.change) < STALLED:
                return state, Outcome.stalled, False, seconds
            target = max(tolerance, min(target, 1e-2 * gap)) if gap <= target else target


@eqx.filter_jit
def _start(work: Working, first_step: float) -> _State:
    white = work.white
    nearest = white.adjoint(white.targets)
    step = jnp.asarray(first_step) * work.gauge.size(nearest)
    empty = _State(
        Z=nearest,
        step=step,
        next_step=step,
        change=jnp.asarray(jnp.inf),
        rank=jnp.asarray(0),
        matrix=nearest,
        weights=jnp.zeros_like(white.targets),
        residual=jnp.zeros_like(white.targets),
        primal=jnp.asarray(jnp.inf),
        dual=jnp.asarray(0.0),
        iterations=jnp.asarray(0),
    )
    state = empty.with_point(work, nearest, white.targets)
    # enough where the nearest point is the only one, however different its singular values
    return state.with_point(work, nearest, white.forward(work.gauge.subgradient(nearest)))


@eqx.filter_jit
def _warm(work: Working, state: _State, matrix: Float[Array, "d1 d2"], subgradient: Float[Array, "d1 d2"]) -> _State:
    step = jnp.maximum(FIRST_STEP * work.gauge.size(matrix), SMALLEST_STEP)
    state = dataclasses.replace(state, Z=matrix + step * subgradient, step=step, next_step=step)
    return state.with_point(work, matrix, work.white.forward(subgradient))


_take_point = eqx.filter_jit(lambda work, state, matrix, weights: state.with_point(work, matrix, weights))


@eqx.filter_jit
def _polar_and_value(work: Working, weights: Float[Array, " k"]) -> tuple[Array, Array]:
    return work.gauge.polar(work.white.adjoint(weights)), work.white.targets @ weights


def _separates(work: Working, direction: Float[Array, " k"]) -> bool:
    """Whether `c.u > 0` and `N°(Q*(u)) = 0` up to rounding: no X in the domain of N fits."""
    polar, value = map(float, _polar_and_value(work, direction))
    return value > 0 and polar <= SEPARATED * value


@eqx.filter_jit
def _advance(work: Working, state: _State, relaxation: float, target: float, stop: int) -> _State:
    """Blocks of iterations until the gap is at most `target`, `stop` is reached or nothing moves."""

    def unfinished(state: _State) -> Array:
        return (state.gap > target) & (state.iterations < stop) & (state.change >= STALLED)

    return jax.lax.while_loop(unfinished, lambda state: _block(work, state, jnp.asarray(relaxation)), state)


def _block(work: Working, state: _State, relaxation: Array) -> _State:
    white = work.white

    def iterate(_, carry):
        Z, step, next_step, X, P, *_ = carry
        before = P
        X, rank = work.gauge.prox(Z, step)
        subgradient = (Z - X) / step
        Z = X + next_step * subgradient  # the same pair (X, subgradient) at another step
        observed = white.forward(2 * X - Z)
        residual = observed - work.prox(observed, next_step)
        P = 2 * X - Z - white.adjoint(residual)
        return Z + relaxation * (P - X), next_step, next_step, X, P, subgradient, residual, rank, before

    zeros = jnp.zeros_like(state.Z)
    carry = (
        state.Z,
        state.step,
        state.next_step,
        zeros,
        zeros,
        zeros,
        jnp.zeros_like(white.targets),
        state.rank,
        zeros,
    )
    Z, step, _, X, P, subgradient, residual, rank, before = jax.lax.fori_loop(0, BLOCK, iterate, carry)
    change = jnp.linalg.norm(P - X) / jnp.linalg.norm(Z)
    in_primal, in_dual = _imbalance(work, X, P, before, subgradient, step)
    freedom = 1 / (1 + state.iterations / (BLOCK * SETTLE)) ** 2
    ratio = jnp.clip(jnp.sqrt(in_dual / in_primal), 0.5, 2.0) ** freedom
    state = dataclasses.replace(
        state,
        Z=Z,
        step=step,
        next_step=jnp.where(jnp.isfinite(ratio), jnp.maximum(step * ratio, SMALLEST_STEP), step),
        change=change,
        rank=rank,
        residual=residual,
        iterations=state.iterations + BLOCK,
    )
    return state.with_point(work, X, -residual / step)


def _imbalance(work: Working, X: Array, P: Array, before: Array, subgradient: Array, step: Array) -> tuple[Array, ...]:
    """How far the primal and the dual conditions are from holding, both relative."""
    white = work.white
    in_primal = jnp.linalg.norm(P - X) / jnp.linalg.norm(X)
    if isinstance(work.misfit, Exact):
        # how far X is from the affine set, how far the subgradient from the range of A*
        outside = jnp.linalg.norm(subgradient - white.adjoint(white.forward(subgradient)))
    else:
        outside = jnp.linalg.norm(P - before) / step
    return in_primal, outside / jnp.linalg.norm(subgradient)
