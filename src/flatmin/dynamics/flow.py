"""Gradient flow `dW/dt = -grad f(W)` by adaptive solvers, to a stationary point, with its invariants watched.

The steps are diffrax's (solver and step-size control); the loop around them is here, because what it decides on
is the history of the path: the largest gradient so far (what stationarity is relative to), the drift of conserved
quantities, and whether the loss ever rose.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from flatmin import linalg
from flatmin._core import (
    AbstractObjective,
    Choice,
    Optional,
    Outcome,
    Real,
    SequenceOf,
    UsageError,
    checked,
)
from flatmin._core.trees import floating_type
from flatmin.dynamics._params import FOLLOWED
from flatmin.dynamics._stationarity import Ends, ends_of
from flatmin.dynamics.flow_result import FlowHistory, FlowResult

SOLVERS = {"tsit5": "Tsit5", "dopri5": "Dopri5", "dopri8": "Dopri8", "kvaerno5": "Kvaerno5"}  # names in diffrax
NEAR = 1e-3  # of the way travelled: a Newton step that must be shorter for a minimum to be reached, at any tolerance
ACCURACY = 10  # times the accuracy of a step is no distance
TINY = float(np.finfo(float).tiny)
VANISHED = 0.5  # of the largest gradient of the path: what is above has not vanished
LOWER = 0.1  # times the gradient at which a look at the curvature found no minimum near: where to look again

Sides = Callable[[PyTree], tuple[PyTree, PyTree]]


class _Path(NamedTuple):
    """What the compiled loop carries."""

    time: Float[Array, ""]
    step: Float[Array, ""]
    params: PyTree
    solver_state: PyTree
    controller_state: PyTree
    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    peak: Float[Array, ""]
    loss_rise: Float[Array, ""]
    drift: Float[Array, ""]
    scale: Float[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]


class _Flow(eqx.Module):
    """The vector field, the method and the watched law; a pytree: a new objective of equal shape is no new trace."""

    objective: AbstractObjective
    rest: PyTree
    invariant: Sides | None
    rtol: Any
    atol: Any
    solver: str = eqx.field(static=True)

    def method(self):
        """Terms, solver and controller of diffrax."""
        import diffrax  # as heavy as all the rest: only those who use a flow wait for it

        controller = diffrax.PIDController(rtol=self.rtol, atol=self.atol, pcoeff=0.4, icoeff=0.3)
        make = getattr(diffrax, SOLVERS[self.solver])
        solver = make()
        if isinstance(solver, diffrax.AbstractImplicitSolver):
            solver = make(root_finder=diffrax.VeryChord(rtol=self.rtol, atol=self.atol))
        return diffrax.ODETerm(lambda _, y, __: jax.tree.map(jnp.negative, self.slope(y)[1])), solver, controller

    def slope(self, floats: PyTree) -> tuple[Array, PyTree]:
        return jax.value_and_grad(self.loss)(floats)

    def loss(self, floats: PyTree) -> Array:
        return self.objective.loss(eqx.combine(floats, self.rest))

    def sides(self, floats: PyTree) -> tuple[PyTree, PyTree]:
        if self.invariant is None:
            return (), ()
        return self.invariant(eqx.combine(floats, self.rest))


def _norm(tree: PyTree) -> Array:
    return linalg.safe_norm(ravel_pytree(tree)[0])


def _largest(trees: PyTree, dtype: Any) -> Array:
    norms = [linalg.safe_norm(leaf).astype(dtype) for leaf in jax.tree.leaves(trees) if leaf.size]
    return jnp.max(jnp.stack(norms)) if norms else jnp.zeros((), dtype)


@eqx.filter_jit
def _begin(flow: _Flow, floats: PyTree) -> _Path:
    terms, solver, controller = flow.method()
    dtype = floating_type(floats)
    zero = jnp.zeros((), dtype)
    order = solver.error_order(terms)
    step, controller_state = controller.init(terms, zero, zero + jnp.inf, floats, None, None, solver.func, order)
    step = jnp.asarray(step, dtype)
    solver_state = solver.init(terms, zero, step, floats, None)
    loss, gradient = flow.slope(floats)
    size, sides = _norm(gradient), flow.sides(floats)
    count = jnp.zeros((), jnp.int32)
    return _Path(
        zero,
        step,
        floats,
        jax.tree.map(jnp.asarray, solver_state),
        jax.tree.map(jnp.asarray, controller_state),
        loss,
        size,
        size,
        jnp.zeros_like(loss),
        zero,
        _largest(sides, dtype),
        count,
        count,
    )


def _underflows(path: _Path) -> Array:
    return path.time + path.step <= path.time


@eqx.filter_jit
def _advance(flow: _Flow, start: PyTree, path: _Path, stop: Array, tolerance: Array, max_steps: Array) -> _Path:
    """Steps until `stop`, stationarity, the last step or the smallest step size; traced bounds, one compilation."""
    terms, solver, controller = flow.method()
    order, dtype = solver.error_order(terms), floating_type(path.params)
    first_loss, first_sides = flow.slope(start)[0], flow.sides(start)
    first_gap = jax.tree.map(jnp.subtract, *first_sides)
    carried, static = eqx.partition(path, eqx.is_array)

    def wanted(carried):
        path = eqx.combine(carried, static)
        moving = (path.gradient_norm > tolerance * path.peak) & ~_underflows(path)
        return (path.time < stop) & moving & (path.accepted + path.rejected < max_steps)

    def body(carried):
        path = eqx.combine(carried, static)
        # the last step lands on `stop`; one that would leave a sliver is stretched to it
        clipped = path.time + path.step * (1 + 1e-6) >= stop
        end = jnp.where(clipped, stop, path.time + path.step)
        y, error, _, solver_state, _ = solver.step(
            terms, path.time, end, path.params, None, path.solver_state, made_jump=False
        )
        loss, gradient = flow.slope(y)
        size = _norm(gradient)
        sound = jnp.isfinite(loss) & jnp.isfinite(size) & jnp.isfinite(_norm(error))
        y = jax.tree.map(lambda new, old: jnp.where(sound, new, old), y, path.params)
        error = jax.tree.map(lambda e: jnp.where(sound, e, jnp.inf), error)
        kept, begin, following, _, controller_state, _ = controller.adapt_step_size(
            path.time, end, path.params, y, None, error, order, path.controller_state
        )
        controller_state = jax.tree.map(jnp.asarray, controller_state)
        step = jnp.asarray(following - begin, dtype)
        step = jnp.where(kept & clipped, jnp.maximum(step, path.step), step)
        sides = flow.sides(y)
        change = jax.tree.map(lambda a, b, gap: a - b - gap, *sides, first_gap)
        new = _Path(
            end,
            step,
            y,
            jax.tree.map(jnp.asarray, solver_state),
            controller_state,
            loss,
            size,
            jnp.maximum(path.peak, size),
            jnp.maximum(path.loss_rise, (loss - path.loss) / jnp.where(first_loss == 0, 1, jnp.abs(first_loss))),
            jnp.maximum(path.drift, _largest(change, dtype)),
            jnp.maximum(path.scale, _largest(sides, dtype)),
            path.accepted + 1,
            path.rejected,
        )
        old = path._replace(step=step, controller_state=controller_state, rejected=path.rejected + 1)
        chosen = jax.tree.map(
            lambda a, b: jnp.where(kept, a, b), eqx.filter(new, eqx.is_array), eqx.filter(old, eqx.is_array)
        )
        return jax.tree.map(lambda c, p: c.astype(p.dtype), chosen, carried)

    return eqx.combine(jax.lax.while_loop(wanted, body, carried), static)


@eqx.filter_jit
def _measure(fn: Callable[[PyTree], PyTree], floats: PyTree, rest: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, fn(eqx.combine(floats, rest)))


@checked(
    **FOLLOWED,
    max_time=Real(0, infinite=True),
    tolerance=Optional(Real(0, 1)),
    save_at=SequenceOf(Real(0)),
    solver=Choice(*SOLVERS),
    rtol=Optional(Real(0, 1)),
)
def gradient_flow(
    objective: AbstractObjective | Callable[[PyTree], Array] | Any,
    params: PyTree,
    *,
    max_time: float = math.inf,
    tolerance: float | None = None,
    records: Mapping[str, Callable[[PyTree], PyTree]] | Any = None,
    save_at: Sequence[float] | Any = (),
    invariant: Sides | None = None,
    solver: str = "tsit5",
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 200_000,
    lower_bound: float | None = None,
    throw: bool = False,
) -> FlowResult:
    """Follow `dW/dt = -grad f(W)` until it is stationary.

    Stationary means `||grad f|| <= tolerance * (largest ||grad f|| on the path)` and a Newton step
    `||H^+ grad f|| <= min(tolerance^{1/2}, 1e-3) * (distance from the start)`, or within ten times the accuracy of a
    step; an exactly zero gradient always is. While only the first is true (far out where the loss is steep, or along
    the slow direction of a stiff problem), the flow goes on to a gradient ten times smaller and looks again. Directions
    whose curvature is zero to rounding count as flat, and the gradient there must be zero to rounding, which is
    measured. What the point is, the Hessian decides: with a lowest eigenvalue below `-max(1e-6, 100 tolerance)` of the
    highest, or a Hessian that is zero (zero initialisation of three layers or more), it is a `saddle`, else the flow
    has `converged`. A flow that passes a saddle closer than the tolerance stops there; a lower tolerance goes further.

    Args:
        objective: what to descend: a loss of the params, or an objective, whose full loss is used.
        params: initial point, any pytree; its floating point arrays move.
        max_time: where to stop at the latest; without one, `max_steps` ends a flow that does not settle.
        tolerance: of stationarity; default the square root of the precision (1.5e-8 in float64). 0 goes on to
            `max_time`. The curvature is looked at in float64 where that is enabled.
        records: name -> function of the params, evaluated at time 0, at `save_at` and at the end.
        save_at: increasing times; the solver steps onto each, so that records have its full accuracy.
        invariant: a function of the params that returns two pytrees of arrays whose difference the flow
            conserves: `flatmin.parameterizations.balance_sides` for the deep matrix. Watched at each accepted step.
        solver: "tsit5" (default), "dopri5", "dopri8" (explicit) or "kvaerno5" (implicit, for stiff problems of few
            parameters: it factorises p x p matrices).
        rtol: relative accuracy of a step; default 1e-10 in float64, 1e-5 in float32.
        atol: absolute accuracy of a step; default `rtol / 100`.
        max_steps: budget of solver steps, refused ones included.
        lower_bound: a number that the loss cannot go below, if one is known. A stationary point whose loss is within
            `tolerance` of it (relative to the initial loss) has converged also where the Hessian is zero or indefinite.
        throw: raise instead of returning a result whose outcome is not a success.

    Returns:
        The last point with its outcome and records. Cost: 6 to 7 gradients a step.

    Raises:
        UsageError: for arguments out of range, initial params or an initial loss that are not finite.
        JobError: if `throw` and the flow neither converged nor completed.
    """
    floats, rest = eqx.partition(params, eqx.is_inexact_array)
    eps = float(jnp.finfo(floating_type(floats)).eps)
    least = eps**0.5 if tolerance is None else tolerance
    rtol = (1e-10 if eps < 1e-10 else 1e-5) if rtol is None else rtol
    if rtol < eps:
        raise UsageError(f"rtol: got {rtol:g}, expected at least {eps:g}, the precision of the params")
    atol = rtol / 100 if atol is None else atol
    times = list(save_at)
    if times != sorted(set(times)) or any(t > max_time for t in times):
        raise UsageError(f"save_at: got {times}, expected increasing times between 0 and max_time = {max_time:g}")
    if least == 0 and max_time == math.inf:
        raise UsageError("max_time: got infinity with tolerance 0, expected a finite time to stop at")
    records = dict(records or {})

    flow = _Flow(
        cast("AbstractObjective", objective), rest, invariant, _scalar(rtol, floats), _scalar(atol, floats), str(solver)
    )
    if invariant is not None:
        sides = jax.eval_shape(invariant, params)
        if not (isinstance(sides, tuple | list) and len(sides) == 2):
            raise UsageError(
                "invariant: got a function of something else, expected one that returns two trees of arrays"
            )
    path = _begin(flow, floats)
    if not (np.isfinite(float(path.loss)) and np.isfinite(float(path.gradient_norm))):
        raise UsageError(
            f"params: the loss there is {float(path.loss)} with a gradient of norm {float(path.gradient_norm)}, "
            "expected finite numbers; start nearer to the solution or rescale the data"
        )
    first_loss = float(path.loss)
    log: list[tuple[float, dict[str, PyTree]]] = []

    def record() -> None:
        log.append((float(path.time), {name: _measure(fn, path.params, rest) for name, fn in records.items()}))

    def look() -> tuple[Ends, float]:
        accuracy = ACCURACY * (atol + rtol * float(_norm(path.params)))
        # a gradient that is still the largest of the path has not vanished, however short the Newton step (at a pole)
        vanished = float(path.gradient_norm) < VANISHED * float(path.peak)
        return ends_of(flow.loss, path.params), max(near * _distance(path.params, floats) * vanished, accuracy)

    record()
    level = least  # of the gradient, relative to its largest, at which to look at the curvature next
    ends, way, near = None, 0.0, min(least**0.5, NEAR)
    for stop in [t for t in times if t > 0] + [max_time]:
        while float(path.time) < stop:
            bounds = (_scalar(stop, floats), _scalar(level, floats), jnp.asarray(max_steps, jnp.int32))
            path, ends = _advance(flow, floats, path, *bounds), None
            if not float(path.gradient_norm) <= level * float(path.peak):
                break
            # small against the steepest point of the path: is a stationary point near?
            ends, way = look()
            level = LOWER * float(path.gradient_norm) / max(float(path.peak), float(path.gradient_norm), TINY)
            if ends.drowned or ends.step <= way or bool(_underflows(path)):
                break
        record()
        if float(path.time) < stop:
            break

    if ends is None and float(path.time) < max_time:
        ends, way = look()  # a start at a minimum has no larger gradient to compare with
    outcome = _outcome(path, ends, least, way, (max_time, max_steps))
    reached = lower_bound is not None and float(path.loss) - lower_bound <= least * abs(first_loss - lower_bound)
    if outcome is Outcome.saddle and reached:
        outcome = Outcome.converged
    peak, drift = float(path.peak), float(path.drift) if invariant is not None else math.nan
    at = np.asarray([t for t, _ in log])
    result = FlowResult(
        params=eqx.combine(path.params, rest),
        time=float(path.time),
        records={
            name: FlowHistory(
                at, jax.tree.map(lambda *v: np.stack([np.asarray(x) for x in v]), *[r[name] for _, r in log])
            )
            for name in records
        },
        outcome=outcome,
        loss=float(path.loss),
        gradient_norm=float(path.gradient_norm),
        stationarity=float(path.gradient_norm) / peak if peak > 0 else 0.0,
        accepted=int(path.accepted),
        rejected=int(path.rejected),
        drift=drift,
        relative_drift=drift / float(path.scale) if float(path.scale) > 0 else drift,
        loss_rise=float(path.loss_rise),
        lowest_curvature=None if ends is None else ends.lowest,
        highest_curvature=None if ends is None else ends.highest,
    )
    return result.raise_if_failed() if throw else result


def _outcome(path: _Path, ends: Ends | None, least: float, way: float, limits: tuple[float, int]) -> Outcome:
    """How a flow ended: by what the curvature says where it was looked at last, else by the limit that it met."""
    max_time, max_steps = limits
    if ends is not None and (ends.drowned or ends.step <= way):
        if ends.lowest is None:
            return Outcome.stationary
        if _is_saddle(ends, least):
            return Outcome.saddle
        return Outcome.converged if ends.step <= way else Outcome.stalled
    if float(path.time) >= max_time:
        return Outcome.completed if least == 0 else Outcome.max_time
    return Outcome.max_iterations if int(path.accepted) + int(path.rejected) >= max_steps else Outcome.stalled


def _is_saddle(ends: Ends, tolerance: float) -> bool:
    low, high = float(ends.lowest), float(ends.highest)  # pyright: ignore[reportArgumentType]
    # near a minimum the residual, of the order of the tolerance, bends the flat directions that much
    return max(abs(low), abs(high)) == 0 or low < -max(1e-6, 100 * tolerance) * abs(high)


def _distance(first: PyTree, second: PyTree) -> float:
    return float(_norm(jax.tree.map(jnp.subtract, first, second)))


def _scalar(value: float, floats: PyTree) -> Array:
    return jnp.asarray(value, floating_type(floats))
