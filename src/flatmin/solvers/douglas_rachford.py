"""Douglas-Rachford splitting for the nuclear norm, with residual balancing and a Newton polish.

One iteration is one singular value thresholding and one projection onto `{X : A(X) = b}`:
`X = shrink(Z, t)`, `P = project(2X - Z)`, `Z <- Z + relaxation (P - X)`. Its fixed points hold the solution `X` and,
exactly, a subgradient `M = (Z - X)/t = A*(y)`. The step t weighs progress in X against progress in M; it is moved
after each block so that both change at the same relative rate, by ever smaller factors, so that it settles and
convergence is that of a fixed step (Eckstein & Bertsekas 1992).
"""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flatmin._core import Outcome, Solution, UsageError, check_positive
from flatmin.solvers._base import AbstractMethod, AbstractProgram, nuclear_norm, operator_norm, select_method
from flatmin.solvers._polish import affordable, polish
from flatmin.solvers._solution import certified, infeasible, zero
from flatmin.solvers._whiten import Whitened, whiten
from flatmin.solvers.certificate import certify
from flatmin.solvers.programs import MinNuclearNorm, MinScaledNuclearNorm

BLOCK = 10
"""Iterations between two looks at the gap and the step."""

STAGE = 200
"""Iterations between two attempts to polish; a quarter of those done so far, if that is more."""

POLISH_BELOW, POLISH_TARGET = 1e-1, 1e-4
"""A polish is tried once the gap is below the second, and after each stage if it is below the first."""

SETTLE = 20.0
"""Blocks after which the step's freedom to move has halved."""

SMALLEST_STEP = 1e-3
"""Smallest step, where the largest singular value of the minimum-Frobenius point is 1."""

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
    primal: Float[Array, ""]
    dual: Float[Array, ""]
    iterations: Int[Array, ""]

    @property
    def gap(self) -> Array:
        return (self.primal - self.dual) / self.primal

    def with_point(self, white: Whitened, matrix: Array, weights: Array) -> "_State":
        """Keep the better of the points known, and the better of the multipliers."""
        matrix = white.project(matrix)
        primal = nuclear_norm(matrix)
        weights = weights / jnp.maximum(1.0, operator_norm(white.adjoint(weights)))
        dual = white.targets @ weights
        better, tighter = primal < self.primal, dual > self.dual
        return dataclasses.replace(
            self,
            matrix=jnp.where(better, matrix, self.matrix),
            primal=jnp.where(better, primal, self.primal),
            weights=jnp.where(tighter, weights, self.weights),
            dual=jnp.where(tighter, dual, self.dual),
        )


class DouglasRachford(AbstractMethod):
    """Solves `MinNuclearNorm` and `MinScaledNuclearNorm`; the choice of `Auto` for both.

    Memory is a few d1 x d2 matrices beside the measurements, and the m x m Gram matrix unless that is diagonal
    (completion). One iteration is one d1 x d2 singular value decomposition, one forward and one adjoint.

    Attributes:
        relaxation: in (0, 2).
        first_step: the first threshold, as a fraction of the largest singular value of the minimum-Frobenius point.
        newton: whether to finish by Newton's method on factors of the rank found, where that is affordable.
    """

    relaxation: float = 1.6
    first_step: float = 0.3
    newton: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        check_positive("first_step", self.first_step)
        if not 0 < self.relaxation < 2:
            raise UsageError(f"relaxation: got {self.relaxation}, expected a value between 0 and 2, ends excluded")

    def run(self, program: AbstractProgram, tolerance: float, max_iterations: int) -> Solution:
        """Iterate, polish, certify.

        Raises:
            UsageError: for another programme, or m too large for its Gram matrix.
        """
        name = "DouglasRachford"
        if isinstance(program, MinScaledNuclearNorm):
            plain, restore = program.to_plain(), program.from_plain
        elif isinstance(program, MinNuclearNorm):
            plain, restore = program, lambda matrix: matrix
        else:
            raise UsageError(
                f"method: got DouglasRachford for {type(program).__name__}, expected MinNuclearNorm or "
                "MinScaledNuclearNorm; use Auto()"
            )
        if not bool(jnp.any(program.targets)):
            return zero(program, name)
        clock = [time.perf_counter()]
        white, proof = whiten(plain.measurements, plain.targets)
        if proof is not None:
            return infeasible(program, restore(white.adjoint(white.targets)), proof, name)
        scale = operator_norm(white.adjoint(white.targets))
        white = dataclasses.replace(white, targets=white.targets / scale)
        clock.append(time.perf_counter())
        state, outcome, polished, polish_seconds = self._iterate(white, tolerance, max_iterations)
        clock.append(time.perf_counter())
        certificate = certify(program, restore(scale * state.matrix), white.multipliers(state.weights))
        clock.append(time.perf_counter())
        return certified(
            certificate,
            tolerance,
            method=name,
            iterations=int(state.iterations),
            shortfall=outcome,
            stats={
                "polished": polished,
                "step": float(state.step * scale),
                "seconds": {
                    "prepare": clock[1] - clock[0],
                    "iterate": clock[2] - clock[1] - polish_seconds,
                    "polish": polish_seconds,
                    "certify": clock[3] - clock[2],
                },
            },
        )

    def _iterate(self, white: Whitened, tolerance: float, max_iterations: int) -> tuple[_State, Outcome, bool, float]:
        state = _start(white, self.first_step)
        # stop a little below the tolerance: the certificate is measured in the user's coordinates
        tolerance, seconds = 0.5 * tolerance, 0.0
        target = max(tolerance, POLISH_TARGET) if self.newton else tolerance
        while True:
            done = int(state.iterations)
            stop = min(done + max(STAGE, done // 4), max_iterations) if self.newton else max_iterations
            state = _advance(white, state, self.relaxation, target, stop)
            gap, rank = float(state.gap), int(state.rank)
            if self.newton and gap <= POLISH_BELOW and affordable(white, rank):
                start = time.perf_counter()
                found = polish(white, state.matrix, state.weights, rank)
                if found is not None:
                    better = _take_point(white, state, *map(jnp.asarray, found))
                    if float(better.gap) <= tolerance:
                        return better, Outcome.stalled, True, seconds + time.perf_counter() - start
                seconds += time.perf_counter() - start
            if gap <= tolerance:
                return state, Outcome.stalled, False, seconds
            if int(state.iterations) >= max_iterations:
                return state, Outcome.max_iterations, False, seconds
            if float(state.change) < STALLED:
                return state, Outcome.stalled, False, seconds
            target = max(tolerance, min(target, 1e-2 * gap)) if gap <= target else target


@eqx.filter_jit
def _start(white: Whitened, first_step: float) -> _State:
    nearest = white.adjoint(white.targets)
    step = jnp.asarray(first_step) * operator_norm(nearest)
    empty = _State(
        Z=nearest,
        step=step,
        next_step=step,
        change=jnp.asarray(jnp.inf),
        rank=jnp.asarray(0),
        matrix=nearest,
        weights=jnp.zeros_like(white.targets),
        primal=jnp.asarray(jnp.inf),
        dual=jnp.asarray(0.0),
        iterations=jnp.asarray(0),
    )
    return empty.with_point(white, nearest, white.targets)


_take_point = eqx.filter_jit(lambda white, state, matrix, weights: state.with_point(white, matrix, weights))


@eqx.filter_jit
def _advance(white: Whitened, state: _State, relaxation: float, target: float, stop: int) -> _State:
    """Blocks of iterations until the gap is at most `target`, `stop` is reached or nothing moves."""

    def unfinished(state: _State) -> Array:
        return (state.gap > target) & (state.iterations < stop) & (state.change >= STALLED)

    return jax.lax.while_loop(unfinished, lambda state: _block(white, state, jnp.asarray(relaxation)), state)


def shrink(matrix: Float[Array, "d1 d2"], threshold: Float[Array, ""]) -> tuple[Float[Array, "d1 d2"], Int[Array, ""]]:
    """Singular value thresholding, `U max(S - t, 0) V^T`, and the number of singular values above t.

    By the eigenvectors of the smaller Gram matrix, three times as fast as a singular value decomposition. The
    singular values lost to squaring are those far below t, which vanish: the error is about
    `eps (s_1 / t)^2 s_1 / 2`, and the certificate never goes this way.
    """
    if matrix.shape[0] < matrix.shape[1]:
        result, rank = shrink(matrix.T, threshold)
        return result.T, rank
    squares, V = jnp.linalg.eigh(matrix.T @ matrix)
    values = jnp.sqrt(jnp.maximum(squares, threshold**2))
    return ((matrix @ V) * (1 - threshold / values)[None, :]) @ V.T, jnp.sum(squares > threshold**2)


def _block(white: Whitened, state: _State, relaxation: Array) -> _State:
    def iterate(_, carry):
        Z, step, next_step, *_ = carry
        X, rank = shrink(Z, step)
        subgradient = (Z - X) / step
        Z = X + next_step * subgradient  # the same pair (X, subgradient) at another step
        miss = white.forward(2 * X - Z) - white.targets
        P = 2 * X - Z - white.adjoint(miss)
        return Z + relaxation * (P - X), next_step, next_step, X, P, subgradient, miss, rank

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
    )
    Z, step, _, X, P, subgradient, miss, rank = jax.lax.fori_loop(0, BLOCK, iterate, carry)
    change = jnp.linalg.norm(P - X) / jnp.linalg.norm(Z)
    # how far X is from the affine set, how far the subgradient from the range of A*, both relative
    in_primal = jnp.linalg.norm(P - X) / jnp.linalg.norm(X)
    in_dual = jnp.linalg.norm(subgradient - white.adjoint(white.forward(subgradient))) / jnp.linalg.norm(subgradient)
    freedom = 1 / (1 + state.iterations / (BLOCK * SETTLE)) ** 2
    ratio = jnp.clip(jnp.sqrt(in_dual / in_primal), 0.5, 2.0) ** freedom
    state = dataclasses.replace(
        state,
        Z=Z,
        step=step,
        next_step=jnp.where(jnp.isfinite(ratio), jnp.maximum(step * ratio, SMALLEST_STEP), step),
        change=change,
        rank=rank,
        iterations=state.iterations + BLOCK,
    )
    return state.with_point(white, X, -miss / step)


@select_method.register
def _(program: MinNuclearNorm) -> AbstractMethod:
    del program
    return DouglasRachford()


@select_method.register
def _(program: MinScaledNuclearNorm) -> AbstractMethod:
    del program
    return DouglasRachford()
