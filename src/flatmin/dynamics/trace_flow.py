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
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from flatmin._core import Outcome, Real, Result, SequenceOf, UsageError, checked
from flatmin._core.display import number
from flatmin.dynamics._chebyshev import MOST_STAGES, stable_radius
from flatmin.dynamics._params import RECORDS, Start
from flatmin.dynamics._trace_walker import LOSS_LIMIT, Walker, value_of
from flatmin.dynamics.flow_result import FlowHistory
from flatmin.dynamics.zero_loss import Residual, tree_norm

FIRST_STEP = 0.3  # of the step whose displacement is sqrt(rtol) of the params

RISE = 1e-2  # of the trace in a step beyond which it is refused, relative, in units of `rtol`
STALL, ROUNDING = 40, 1e-13  # a stall: so many steps with no more change of the trace, relative, than this

POSITIVE = Real(0, above=True)

KernelSolve = Literal["auto", "cg", "preconditioned"]


@dataclasses.dataclass(frozen=True, repr=False)
class TraceFlowResult(Result):
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
        method: `trace_flow`.
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
    method: str = "trace_flow"

    def headline(self) -> str:
        """How it ended, where, and the trace there."""
        fell = f"trace {number(self.trace[0], 6)} to {number(self.trace[-1], 6)}"
        return f"{self.outcome.name}: {fell}, {self.reached()}"

    def reached(self) -> str:
        """Time, steps and projected gradient."""
        return (
            f"at time {self.time:.3g} after {self.accepted} steps, projected gradient {self.stationarity:.1e} of the "
            "whole"
        )


@checked(params=Start(), tolerance=POSITIVE, records=RECORDS, save_at=SequenceOf(POSITIVE), rtol=POSITIVE)
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
    stops = list(save_at)
    if any(b <= a for a, b in zip([0.0, *stops], stops, strict=False)) or (stops and stops[-1] > max_time):
        raise UsageError(f"save_at: got {stops[:4]}, expected increasing positive times up to max_time = {max_time}")
    for leaf in jax.tree.leaves(params):
        if leaf.dtype != jnp.float64:
            raise UsageError(
                f"params: got {leaf.dtype}, expected float64; call jax.config.update('jax_enable_x64', True) first"
            )
    _check_functions(trace, residual, params)
    started = time.perf_counter()
    walker = Walker(trace, residual, kernel_solve, precision)
    point, start_loss = walker.begin(params)
    measured = {name: [(0.0, jax.device_get(value_of(fn, point)))] for name, fn in (records or {}).items()}
    path = [(0.0, float(value_of(trace, point)), walker.loss, time.perf_counter() - started)]
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
        lower = math.nan if new is None else float(value_of(trace, new.params))
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
                measured[name].append((now, jax.device_get(value_of(fn, point))))
        walker.refresh(point, walker.products - before)
    for name, fn in (records or {}).items():
        if measured[name][-1][0] < now:
            measured[name].append((now, jax.device_get(value_of(fn, point))))
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


def _check_functions(trace: Callable[[PyTree], Any], residual: Residual, params: PyTree) -> None:
    """The trace is a number and the residuals one vector."""
    for name, fn, rank, wanted in (
        ("trace", trace, 0, "a number"),
        ("residual", residual, 1, "a vector (m,)"),
    ):
        out = jax.eval_shape(lambda p, fn=fn: jax.tree.map(jnp.asarray, fn(p)), params)
        if not isinstance(out, jax.ShapeDtypeStruct) or len(out.shape) != rank or out.dtype.kind != "f":
            got = f"{out.dtype} of shape {out.shape}" if isinstance(out, jax.ShapeDtypeStruct) else type(out).__name__
            raise UsageError(f"{name}: the function returned {got}, expected {wanted}")
