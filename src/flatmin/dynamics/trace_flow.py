"""Trace flow `dW/dt = -P_T grad tr H(W)` on the set of zero loss: what label-noise SGD follows in the limit.

Label noise of size sigma makes, at zero loss, gradients of covariance `(2 sigma^2/B) H` in one step; with the step size
eta the fluctuations across the set settle at the covariance `(eta sigma^2/B) I`, and through the third derivatives of
the loss they push the mean by `-(eta^2 sigma^2/(2B)) grad tr H` a step. So t = steps eta^2 sigma^2 / (2B).

The flow is integrated by Runge-Kutta-Chebyshev steps (explicit, for moderately stiff gradient flows) whose size an
embedded error estimate controls; after each step the point is brought back to the set.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from flatmin._core import JobError, Outcome, UsageError, check_finite, check_positive, choose
from flatmin.dynamics._chebyshev import MOST_STAGES, coefficients, stable_radius, stages_for
from flatmin.dynamics.flow import FlowHistory
from flatmin.dynamics.record import whole
from flatmin.dynamics.zero_loss import (
    Residual,
    Retraction,
    cast,
    formed_kernel,
    kernel_inverse,
    project,
    retract,
    tree_add,
    tree_norm,
)

LOSS_TOLERANCE = 5e-17  # to which the retraction works
LOSS_LIMIT = 1e-16  # above which a step is refused
FORMED_LIMIT = 1500  # measurements up to which the kernel is formed, to make conjugate gradients short
FIRST_STEP = 0.3  # of the step whose displacement is sqrt(rtol) of the params
LIGHT_FROM = 2**20  # numbers in the residual map from which slopes are computed in single precision
DOUBLE_TOLERANCE = 1e-9  # of kernel solves in double precision
FORMING = 0.1  # what forming the kernel costs, in products with it a measurement: it is done in blocks

LIGHT_SHARE = 1e-3  # part of the gradient that is tangent below which `auto` goes over to double precision
RISE = 1e-2  # of the trace in a step beyond which it is refused, relative, in units of `rtol`
STALL, ROUNDING = 40, 1e-13  # a stall: so many steps with no more change of the trace, relative, than this

KernelSolve = Literal["auto", "cg", "preconditioned"]


@dataclasses.dataclass(frozen=True)
class TraceFlowResult:
    """Where a trace flow went and how it ended.

    Attributes:
        params: the last point, on the set of zero loss.
        time: its time, in the units `steps eta^2 sigma^2 / (2B)` of label-noise SGD.
        times: of the accepted steps, 0 included, shape (t,).
        trace: the trace at them.
        losses: the loss at them, after the retraction.
        seconds: wall time at them, compilation included.
        records: name -> `FlowHistory`, at time 0, at `save_at` and at the end.
        outcome: `converged` (projected gradient below the tolerance), `completed` (`max_time` reached, or what `until`
            waits for), `max_iterations`, `stalled` (the step size fell below rounding; the retraction no longer reaches
            zero loss, the set being singular there; or neither trace nor projected gradient fall any more).
        stationarity: `||P_T grad tr|| / ||grad tr||` at the end.
        start_loss: the loss of the given point; where it is not zero, the flow begins at its retraction.
        projected_start: whether the given point had to be brought to the set first.
        accepted: steps.
        rejected: steps that were tried and found too long.
        slopes: evaluations of the slope.
        kernel_products: products with `J J^T`, all solves together.
        kernels_formed: how often the kernel was formed for an approximate inverse.
        kernel_solve: `"cg"` or `"preconditioned"`, as it was done.
        precision: of the last slopes: `"float64"` or `"float32"`; points, losses and traces are in that of the params.
    """

    params: PyTree
    time: float
    times: Float[np.ndarray, " t"]
    trace: Float[np.ndarray, " t"]
    losses: Float[np.ndarray, " t"]
    seconds: Float[np.ndarray, " t"]
    records: dict[str, FlowHistory]
    outcome: Outcome
    stationarity: float
    start_loss: float
    projected_start: bool
    accepted: int
    rejected: int
    slopes: int
    kernel_products: int
    kernels_formed: int
    kernel_solve: str
    precision: str

    def raise_if_failed(self) -> "TraceFlowResult":
        """Return self, or raise.

        Returns:
            This result, when the flow converged or completed.

        Raises:
            JobError: with the outcome's sentence, the time and the stationarity reached.
        """
        if not self.outcome.success:
            raise JobError(
                f"trace_flow: {self.outcome.value} (at time {self.time:.3g} after {self.accepted} steps, projected "
                f"gradient {self.stationarity:.1e} of the whole)"
            )
        return self


class _Field(eqx.Module):
    """The vector field; a pytree, so that a new problem of equal shape is no new trace."""

    trace: Callable[[PyTree], Any]
    residual: Residual

    def slope(
        self, params: PyTree, inverse: Array | None, guess: Array, tolerance: float, size: Array | None = None
    ) -> tuple:
        """`(-P_T grad tr, multipliers, ||J grad tr||, products, ||P_T grad tr|| / ||grad tr||)`."""
        gradient = jax.grad(lambda p: jnp.asarray(self.trace(p)))(params)
        split = project(self.residual, params, gradient, inverse=inverse, start=guess, size=size, tolerance=tolerance)
        whole = tree_norm(gradient)
        share = tree_norm(split.tangent) / jnp.where(whole > 0, whole, 1)
        return jax.tree.map(jnp.negative, split.tangent), split.multipliers, split.size, split.iterations, share


@eqx.filter_jit
def _slope(field: _Field, params: PyTree, inverse: Array | None, guess: Array, tolerance: float) -> tuple:
    return field.slope(params, inverse, guess, tolerance)


@eqx.filter_jit
def _stages(
    field: _Field,
    start: PyTree,
    first: PyTree,
    guess: Array,
    size: Array,
    inverse: Array | None,
    step: Array,
    table: Float[Array, "most 5"],
    stages: Array,
    tolerance: float,
) -> tuple[PyTree, Array, Array]:
    """One step: its end (as a displacement of the start), the largest observed stiffness, products."""
    zero = jax.tree.map(jnp.zeros_like, start)
    one = tree_add(zero, step * table[0, 2], first)  # all stages are kept as displacements: no cancellation

    def body(j, state):
        before, last, guess, radius, products = state
        slope, guess, _, count, _ = field.slope(tree_add(start, 1.0, last), inverse, guess, tolerance, size)
        change, moved = tree_norm(tree_add(slope, -1.0, first)), tree_norm(last)
        radius = jnp.maximum(radius, change / jnp.where(moved > 0, moved, 1))
        mu, nu, mu_tilde, gamma = (table[j, k] for k in range(4))
        new = jax.tree.map(
            lambda a, b, f, f0: mu * a + nu * b + step * (mu_tilde * f + gamma * f0), last, before, slope, first
        )
        return last, new, guess, radius, products + count

    init = (zero, one, guess, jnp.zeros((), step.dtype), jnp.zeros((), jnp.int32))
    _, end, _, radius, products = jax.lax.fori_loop(1, stages, body, init)
    return end, radius, products


@eqx.filter_jit
def _retract(residual: Residual, params: PyTree, light: Residual | None, inverse: Array | None) -> Retraction:
    return retract(residual, params, light=light, inverse=inverse, tolerance=LOSS_TOLERANCE)


@eqx.filter_jit
def _inverse(residual: Residual, params: PyTree) -> Array:
    return kernel_inverse(formed_kernel(residual, params))


@eqx.filter_jit
def _value(fn: Callable[[PyTree], PyTree], params: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, fn(params))


@eqx.filter_jit
def _error(step: Array, moved: PyTree, first: PyTree, last: PyTree) -> Array:
    """Norm of `(12 (y_n - y_{n+1}) + 6 h (F_n + F_{n+1})) / 15`."""
    return tree_norm(jax.tree.map(lambda d, f, g: (-12 * d + 6 * step * (f + g)) / 15, moved, first, last))


def trace_flow(
    trace: Callable[[PyTree], Any],
    residual: Residual,
    params: PyTree,
    *,
    max_time: float = math.inf,
    tolerance: float = 1e-4,
    records: Mapping[str, Callable[[PyTree], PyTree]] | None = None,
    save_at: Sequence[float] = (),
    rtol: float = 1e-3,
    max_steps: int = 2000,
    kernel_solve: KernelSolve = "auto",
    precision: Literal["auto", "float64", "float32"] = "auto",
    until: Callable[[float], bool] | None = None,
    throw: bool = False,
) -> TraceFlowResult:
    """Follow `dW/dt = -P_T grad tr H(W)` on the set `{r(W) = 0}`.

    Time is in the units of label-noise SGD, `t = steps eta^2 sigma^2 / (2B)`, if `trace` is the trace of the Hessian of
    the mean of squared residuals.

    Args:
        trace: the function to lower, `tr H(params)`; differentiated once.
        residual: r(params) -> (m,); the loss is the mean of its squares.
        params: the start, float64; brought to the set first if it is not on it (`projected_start` says so).
        max_time: where to stop at the latest.
        tolerance: of `||P_T grad tr|| / ||grad tr||`, at which it is stationary.
        records: name -> function of the params, evaluated at time 0, at `save_at` and at the end.
        save_at: increasing times; the steps end on each.
        rtol: error of a step, relative to the norm of the params.
        max_steps: budget of steps, refused ones included.
        kernel_solve: `"cg"` never forms `J J^T`; `"preconditioned"` forms it now and then (m^2 numbers), for an
            approximate inverse that makes conjugate gradients short; `"auto"` does so up to m = 1500.
        precision: of the slopes; `"auto"` takes single precision from a million numbers in the residual map on, until
            a thousandth of the gradient is tangent: of less, single precision leaves few digits.
        until: stop as soon as `until(trace)` is true, as `completed`.
        throw: raise on any outcome but success.

    Returns:
        The path and its end. An evaluation of the slope costs one gradient of `trace` and some products with J and J^T.

    Raises:
        UsageError: for bad settings, params that are not float64 or not finite, or no point of zero loss near them.
        JobError: if `throw` and the outcome is not a success.
    """
    check_positive("rtol", rtol)
    check_positive("tolerance", tolerance)
    if not max_time > 0:
        raise UsageError(f"max_time: got {max_time}, expected a positive number")
    whole("max_steps", max_steps, 1)
    choose("kernel_solve", kernel_solve, ("auto", "cg", "preconditioned"))
    choose("precision", precision, ("auto", "float64", "float32"))
    stops = [float(t) for t in save_at]
    if any(b <= a for a, b in zip([0.0, *stops], stops, strict=False)) or (stops and stops[-1] > max_time):
        raise UsageError(f"save_at: got {stops[:4]}, expected increasing positive times up to max_time = {max_time}")
    for leaf in jax.tree.leaves(params):
        check_finite("params", leaf)
        if leaf.dtype != jnp.float64:
            raise UsageError(
                f"params: got {leaf.dtype}, expected float64; call jax.config.update('jax_enable_x64', True) first"
            )
    started = time.perf_counter()
    walker = _Walker(trace, residual, kernel_solve, precision)
    point, start_loss = walker.begin(params)
    measured = {name: [(0.0, jax.device_get(_value(fn, point)))] for name, fn in (records or {}).items()}
    path = [(0.0, float(_value(trace, point)), walker.loss, time.perf_counter() - started)]
    now, step, rejected, accepted = 0.0, 0.0, 0, 0
    here, progress = walker.slope(point, None), _Progress()
    step = FIRST_STEP * math.sqrt(rtol) * float(tree_norm(point)) / max(float(tree_norm(here.slope)), 1e-300)
    targets = [*stops, max_time]
    while True:
        if here.share <= tolerance:
            outcome = Outcome.converged
            break
        if now >= max_time or (until is not None and until(path[-1][1])):
            outcome = Outcome.completed
            break
        if progress.stalled:
            outcome = Outcome.stalled
            break
        if accepted + rejected >= max_steps:
            outcome = Outcome.max_iterations
            break
        if walker.changes_precision(here.share):
            walker.to_double(point)
            here = walker.slope(point, None)
            continue
        stop = next(t for t in targets if t > now)
        wished = min(step, stable_radius(MOST_STAGES) / max(walker.radius, 1e-300))
        clipped = now + wished * (1 + 1e-6) >= stop
        taken = stop - now if clipped else wished
        if taken <= 1e-13 * now:
            outcome = Outcome.stalled
            break
        before = walker.products
        new, error = walker.attempt(point, here, taken)
        error /= rtol * float(tree_norm(point))
        factor = min(4.0, max(0.2, 0.8 * error ** (-1 / 3))) if error > 0 else 4.0
        lower = math.nan if new is None else float(_value(trace, new.params))
        # the flow only falls; where the set is singular, a step may not
        if not lower <= path[-1][1] + RISE * rtol * abs(path[-1][1]):
            factor, error = 0.25, math.inf
        if new is None or not error <= 1:
            rejected, step = rejected + 1, taken * (factor if math.isfinite(error) else 0.25)
            walker.radius *= 1.3
            continue
        accepted, now = accepted + 1, stop if clipped else now + taken
        point, here, walker.loss = new.params, new.there, new.loss
        step = max(step, taken * factor) if clipped else taken * factor
        path.append((now, lower, walker.loss, time.perf_counter() - started))
        progress.add(path[-1][1], here.share)
        if clipped and now in stops:
            for name, fn in (records or {}).items():
                measured[name].append((now, jax.device_get(_value(fn, point))))
        walker.refresh(point, walker.products - before)
    for name, fn in (records or {}).items():
        if measured[name][-1][0] < now:
            measured[name].append((now, jax.device_get(_value(fn, point))))
    columns = [np.asarray(column) for column in zip(*path, strict=True)]
    result = TraceFlowResult(
        point,
        now,
        *columns,
        records={name: _history(samples) for name, samples in measured.items()},
        outcome=outcome,
        stationarity=here.share,
        start_loss=start_loss,
        projected_start=start_loss > LOSS_LIMIT,
        accepted=accepted,
        rejected=rejected,
        slopes=walker.slopes,
        kernel_products=walker.products,
        kernels_formed=walker.formed,
        kernel_solve="preconditioned" if walker.formed else "cg",
        precision=str(walker.dtype),
    )
    return result.raise_if_failed() if throw else result


def _history(samples: list[tuple[float, PyTree]]) -> FlowHistory:
    times, values = zip(*samples, strict=True)
    return FlowHistory(np.asarray(times), jax.tree.map(lambda *v: np.stack([np.asarray(x) for x in v]), *values))


class _Progress:
    """Whether anything still falls."""

    def __init__(self):
        self._since, self._trace, self._share = 0, math.inf, math.inf

    def add(self, trace: float, share: float) -> None:
        """After an accepted step."""
        falls = trace < self._trace - ROUNDING * abs(trace) or share < 0.9 * self._share
        self._since = 0 if falls else self._since + 1
        self._trace, self._share = min(self._trace, trace), min(self._share, share)

    @property
    def stalled(self) -> bool:
        """No record for many steps."""
        return self._since >= STALL


class _Walker:
    """The compiled pieces with the state that only speed depends on: approximate inverse, stiffness, counts."""

    def __init__(self, trace: Callable, residual: Residual, kernel_solve: str, precision: str):
        numbers = sum(x.size for x in jax.tree.leaves((trace, residual)) if eqx.is_array(x))
        light = precision == "float32" or (precision == "auto" and numbers >= LIGHT_FROM)
        self.dtype, self._auto = jnp.dtype(jnp.float32 if light else jnp.float64), precision == "auto"
        self.trace, self.residual = trace, residual
        self.field = cast(_Field(trace, residual), self.dtype)
        self.kernel_solve, self.inverse = kernel_solve, None
        self.radius, self.loss = 0.0, math.nan
        self.slopes = self.products = self.formed = 0
        self._fresh, self._excess = math.inf, 0.0
        self.solve_tolerance = 1e-5 if light else DOUBLE_TOLERANCE

    @property
    def _light(self) -> Residual | None:
        return self.field.residual if self.dtype == jnp.float32 else None

    def changes_precision(self, share: float) -> bool:
        """Whether the slopes should be in double precision from here on."""
        return self._auto and self.dtype == jnp.float32 and share < LIGHT_SHARE

    def to_double(self, params: PyTree) -> None:
        """Go over to it."""
        self.dtype, self.field = jnp.dtype(jnp.float64), _Field(self.trace, self.residual)
        self.solve_tolerance = DOUBLE_TOLERANCE
        self.form(params)

    def begin(self, params: PyTree) -> tuple[PyTree, float]:
        """The start, on the set."""
        residuals = _value(self.residual, params)
        size = self._size = residuals.shape[0]
        if self.kernel_solve == "auto":
            self.kernel_solve = "preconditioned" if size <= FORMED_LIMIT else "cg"
        loss = float(jnp.mean(residuals**2))
        if not math.isfinite(loss):
            raise UsageError("params: the residuals there are not finite; start from smaller params")
        self.form(params)
        back = _retract(self.residual, params, self._light, self.inverse)
        if not float(back.loss) <= LOSS_LIMIT:
            # far from the set Gauss-Newton may need the kernel of where it is now
            self.form(back.params)
            exact = _inverse(self.residual, back.params) if size <= FORMED_LIMIT else None
            back = _retract(self.residual, back.params, None, exact)
        if not float(back.loss) <= LOSS_LIMIT:
            raise UsageError(
                f"params: no point of zero loss was found near them (loss {float(back.loss):.1e} after projecting); "
                "start from an interpolating point, or make the targets attainable"
            )
        self.loss = float(back.loss)
        if loss > 1e-2:
            self.form(back.params)
        return back.params, loss

    def form(self, params: PyTree) -> None:
        """A new approximate inverse, where they are used."""
        if self.kernel_solve == "preconditioned":
            self.inverse = _inverse(self.field.residual, cast(params, self.dtype))
            self.formed += 1
            self._fresh, self._excess = math.inf, 0.0

    def refresh(self, params: PyTree, products: int) -> None:
        """A new approximate inverse once the products that a fresh one would have saved outweigh its making."""
        self._fresh = min(self._fresh, products)
        self._excess += products - self._fresh
        if self._excess > FORMING * self._size:
            self.form(params)

    def slope(self, params: PyTree, guess: Array | None) -> "_Slope":
        """Slope, multipliers and stationarity."""
        light = cast(params, self.dtype)
        if guess is None:
            guess = jnp.zeros(jax.eval_shape(self.residual, params).shape, self.dtype)
        value, multipliers, size, count, share = _slope(self.field, light, self.inverse, guess, self.solve_tolerance)
        self.slopes += 1
        self.products += int(count)
        return _Slope(value, multipliers, size, float(share))

    def attempt(self, params: PyTree, here: "_Slope", length: float) -> tuple["_Attempt | None", float]:
        """One Runge-Kutta-Chebyshev step and the way back to the set; None if that is not reached. With its error."""
        stages = stages_for(1.2 * length * self.radius)
        table = np.zeros((MOST_STAGES, 5))
        table[:stages] = coefficients(stages)
        end, radius, count = _stages(
            self.field,
            cast(params, self.dtype),
            here.slope,
            here.multipliers,
            here.size,
            self.inverse,
            jnp.asarray(length, self.dtype),
            jnp.asarray(table, self.dtype),
            jnp.asarray(stages),
            self.solve_tolerance,
        )
        self.slopes += stages - 1
        self.products += int(count)
        if math.isfinite(float(radius)):
            self.radius = max(0.9 * self.radius, float(radius))
        back = _retract(self.residual, tree_add(params, 1.0, end), self._light, self.inverse)
        self.products += int(back.iterations)
        loss = float(back.loss)
        if not loss <= LOSS_LIMIT:
            return None, math.inf
        there = self.slope(back.params, here.multipliers)
        moved = cast(jax.tree.map(jnp.subtract, back.params, params), self.dtype)
        error = float(_error(jnp.asarray(length, self.dtype), moved, here.slope, there.slope))
        return _Attempt(back.params, there, loss), error


class _Slope(NamedTuple):
    """The slope at a point.

    Attributes:
        slope: `-P_T grad tr`, in the precision of the slopes.
        multipliers: `(J J^T)^+ J grad tr`.
        size: `||J grad tr||`.
        share: `||P_T grad tr|| / ||grad tr||`.
    """

    slope: PyTree
    multipliers: Array
    size: Array
    share: float


class _Attempt(NamedTuple):
    """The end of a step, on the set."""

    params: PyTree
    there: _Slope
    loss: float
