"""What kind of run it was: loss and sharpness along training against the line at 2/eta.

Gradient descent with step eta is linearly unstable where the sharpness S exceeds 2/eta. Runs then do one of four
things [Cohen et al. 2021; Marion, Chizat 2024, Sec 5]: they converge (where S <= 2/eta), stay at the edge of stability
(S near 2/eta, the loss rises and falls but goes down in the long run), oscillate (the loss goes up and down and
nowhere), or diverge. A run that is simply not finished is `descending`. The definitions below are on recorded values
only, so that they can be checked by hand; thresholds are arguments.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from flatmin._core import Estimate, Indices, Integer, Optional, Real, RealArray, Shown, UsageError, checked
from flatmin.dynamics._run import TrainResult

LOSS_LIMIT = 1e30
"""A recorded loss beyond it counts as diverged, whatever `blow_up` says."""

NON_NEGATIVE, SHARE = Real(0), Real(0, 1)

Kind = Literal["converged", "edge of stability", "oscillating", "diverged", "descending"]


@dataclasses.dataclass(frozen=True, repr=False)
class RunClass(Shown):
    """The class of a run.

    Attributes:
        kind: `converged`, `edge of stability`, `oscillating`, `diverged` or `descending` (none of the others).
        step: the step at which it was decided, see `classify_run`.
        edge_step: first recorded step within the band around 2/eta, in a run of any kind; -1 for none.
        started_beyond: whether the first known sharpness exceeds 2/eta.
        rises: fraction of recorded steps in the last half whose loss is above that of the record before.
        reason: one sentence with the numbers that decided.
    """

    kind: Kind
    step: int
    edge_step: int
    started_beyond: bool
    rises: float
    reason: str

    def headline(self) -> str:
        """The class, when it was decided, and why."""
        return f"{self.kind}, decided at step {self.step:,}: {self.reason}"


@checked(
    losses=RealArray("t", finite=False, host=True, nonempty=True),
    sharpness=RealArray("t", finite=False, host=True),
    steps=Optional(Indices("t", least=None, host=True)),
    least_loss=Optional(Real()),
    band=NON_NEGATIVE,
    share=SHARE,
    least_rises=SHARE,
    progress=Real(),
    divergence_step=Integer(-1),
)
def classify_run(
    losses: ArrayLike | Any,
    sharpness: ArrayLike | Any,
    learning_rate: float,
    *,
    steps: ArrayLike | Any = None,
    least_loss: float | None = None,
    tolerance: float = 1e-6,
    blow_up: float = 1e6,
    band: float = 0.2,
    share: float = 0.5,
    least_rises: float = 0.1,
    progress: float = 0.02,
    divergence_step: int = -1,
) -> RunClass:
    """Whether a run converged, stayed at the edge of stability, oscillated or diverged, and when that was decided.

    Let `f_0` be the first loss and the tail the records in the last half of the steps. In this order:

    - `diverged`: a loss is not finite, or above `blow_up * f_0` or 1e30; or `divergence_step` says so. Decided at the
      first such step.
    - `converged`: with `least_loss` f*, from some record on `f - f* <= tolerance (f_0 - f*)`; without it, from some
      record in the first three quarters of the steps on, all losses lie within `tolerance * f_0` of each other.
      Decided at the first such record.
    - `edge of stability`: the loss rises in at least `least_rises` of the tail's records; at least `share` of the
      tail's sharpness values have `|S eta / 2 - 1| <= band`; and the loss goes down in the long run: of the
      moving averages over a tenth of the tail, the median over the second half is below `(1 - progress)` times that
      over the first (losses counted from `least_loss`).
      Decided at the first record in the band from which on at least `share` of the records are in it.
    - `oscillating`: the loss rises as often, but does not go down in the long run, or the sharpness is not at 2/eta.
      Decided at the last record whose loss is below all losses before it by more than `progress`.
    - `descending`: none of these; decided at the last step.

    Args:
        losses: shape (t,).
        sharpness: shape (t,), NaN where not measured; a run without any sharpness is never at the edge.
        learning_rate: eta.
        steps: the step of each record, increasing; default 0, 1, ..., t-1. Rises are seen between records: record
            every step, or an odd number apart, or period-two oscillations look smooth.
        least_loss: the smallest loss there is, if known.
        tolerance: for `converged`.
        blow_up: for `diverged`.
        band: relative half-width around 2/eta.
        share: of sharpness values in the band.
        least_rises: of losses that rise.
        progress: relative fall of the median that counts as going down.
        divergence_step: `TrainResult.divergence_step`; -1 for none.

    Returns:
        The class.

    Raises:
        UsageError: for shapes that do not match, fewer than one record, or steps that do not increase.
    """
    losses, sharpness = np.asarray(losses, float), np.asarray(sharpness, float)
    steps = np.arange(losses.size) if steps is None else np.asarray(steps)
    if np.any(np.diff(steps) <= 0):
        raise UsageError("steps: expected increasing steps, one a record")
    ratio = sharpness * learning_rate / 2
    in_band = np.abs(ratio - 1) <= band
    edge = np.flatnonzero(in_band)
    known = ratio[np.isfinite(ratio)]
    tail = np.flatnonzero(steps >= steps[-1] / 2 + steps[0] / 2)
    rises = float(np.mean(np.diff(losses[tail]) > 0)) if len(tail) > 1 else 0.0

    def decided(kind: Kind, step: Any, reason: str) -> RunClass:
        edge_step = int(steps[edge[0]]) if edge.size else -1
        return RunClass(kind, int(step), edge_step, bool(known.size and known[0] > 1), rises, reason)

    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~(np.abs(losses) <= min(LOSS_LIMIT, blow_up * abs(losses[0]) or LOSS_LIMIT)))
    if bad.size or divergence_step >= 0:
        seen = int(steps[bad[0]]) if bad.size else divergence_step
        step = min(seen, divergence_step) if divergence_step >= 0 else seen
        return decided(
            "diverged", step, f"the loss left the range up to {blow_up:g} times its first value at step {step}"
        )

    settled = _settled(losses, steps, least_loss, tolerance)
    if settled is not None:
        against = "of its least value" if least_loss is not None else "of each later one"
        return decided(
            "converged", steps[settled], f"from step {steps[settled]} on the loss is within {tolerance:g} {against}"
        )

    floor = 0.0 if least_loss is None else least_loss
    smooth = _smooth(losses[tail] - floor)
    middle = len(smooth) // 2
    fall = 0.0
    if middle:
        early, late = float(np.median(smooth[:middle])), float(np.median(smooth[middle:]))
        fall = 1 - late / early if early != 0 else 0.0
    measured = tail[np.isfinite(ratio[tail])]
    held = float(np.mean(in_band[measured])) if measured.size else 0.0
    text = (
        f"in the last half the loss rises at {rises:.0%} of the records, its running mean falls by {fall:.1%} and "
        f"{held:.0%} of the sharpness values are within {band:.0%} of 2/eta"
    )
    if rises >= least_rises:
        if held >= share and fall > progress:
            return decided("edge of stability", steps[_settles_in_band(in_band, np.isfinite(ratio), share)], text)
        return decided("oscillating", steps[_last_progress(losses - floor, progress)], text)
    return decided("descending", steps[-1], text)


def _settled(losses: np.ndarray, steps: np.ndarray, least_loss: float | None, tolerance: float) -> int | None:
    """First record from which on the loss has converged."""
    if least_loss is not None:
        bad = np.flatnonzero(losses - least_loss > tolerance * abs(losses[0] - least_loss))
        first = int(bad[-1]) + 1 if bad.size else 0
        return first if first < len(losses) else None
    highest = np.maximum.accumulate(losses[::-1])[::-1]
    lowest = np.minimum.accumulate(losses[::-1])[::-1]
    first = int(np.argmax(highest - lowest <= tolerance * abs(losses[0])))
    late = steps[0] + 0.75 * (steps[-1] - steps[0])
    return first if len(losses) > 1 and steps[first] <= late else None


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving averages over a tenth of the values, a multiple of four: periods two and four leave no trace."""
    window = min(4 * math.ceil(len(values) / 40), len(values))
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def _settles_in_band(in_band: np.ndarray, measured: np.ndarray, share: float) -> int:
    """First record in the band from which on at least `share` of the measured records are in it."""
    count = np.cumsum((in_band & measured)[::-1])[::-1]
    total = np.cumsum(measured[::-1])[::-1]
    return int(np.flatnonzero(in_band & (count >= share * total))[0])


def _last_progress(heights: np.ndarray, progress: float) -> int:
    """The last record that is lower than all before it, by a fraction `progress` of the lowest so far."""
    last, lowest = 0, heights[0]
    for i, height in enumerate(heights):
        if height < lowest - progress * abs(lowest):
            last, lowest = i, height
    return last


@checked(steps=RealArray("t", host=True), sharpness=RealArray("t", finite=False, host=True), until=Real(0, above=True))
def progressive_sharpening_rate(
    steps: ArrayLike | Any, sharpness: ArrayLike | Any, learning_rate: float, *, until: float = 1.0
) -> Estimate:
    """`dS/dt` in the time `t = eta * step`, before the sharpness first reaches `until * 2/eta`.

    The slope of the least-squares line through the records up to there (the first one beyond is left out).

    Args:
        steps: shape (t,).
        sharpness: shape (t,); NaN where not measured.
        learning_rate: eta.
        until: where the edge is, as a fraction of 2/eta.

    Returns:
        The slope with the standard error of the fit. Positive: progressive sharpening. NaN with infinite error for a
        run with fewer than three records below the edge, such as one that starts beyond it.

    Raises:
        UsageError: for shapes that do not match or a learning rate that is not positive.
    """
    times, values = np.asarray(steps, float) * learning_rate, np.asarray(sharpness, float)
    known = np.isfinite(values)
    times, values = times[known], values[known]
    beyond = np.flatnonzero(values >= until * 2 / learning_rate)
    if beyond.size:
        times, values = times[: beyond[0]], values[: beyond[0]]
    if len(times) < 3:
        return Estimate(jnp.asarray(np.nan), jnp.asarray(np.inf), "standard error", "line fit")
    centred = times - times.mean()
    slope = float(centred @ values / (centred @ centred))
    residual = values - values.mean() - slope * centred
    error = float(np.sqrt(residual @ residual / (len(times) - 2) / (centred @ centred)))
    return Estimate(jnp.asarray(slope), jnp.asarray(error), "standard error", "line fit")


@dataclasses.dataclass(frozen=True, repr=False)
class StabilityReport(Shown):
    """Sharpness along one run, with the line it is compared to.

    Attributes:
        steps: shape (t,), the steps at which both loss and sharpness were recorded.
        losses: shape (t,).
        sharpness: shape (t,).
        threshold: 2/eta.
        verdict: the class of the run.
        sharpening: the progressive sharpening rate before the edge.
    """

    steps: Int[np.ndarray, " t"]
    losses: Float[np.ndarray, " t"]
    sharpness: Float[np.ndarray, " t"]
    threshold: float
    verdict: RunClass
    sharpening: Estimate


@checked()
def stability_report(
    result: TrainResult,
    learning_rate: float,
    *,
    loss: str = "loss",
    sharpness: str = "sharpness",
    highest: Callable[[Any], Any] = lambda values: values,
    **options: Any,
) -> StabilityReport:
    """The edge-of-stability view of a run of `train` that recorded loss and sharpness.

    Losses may be recorded more often than the sharpness: the class is decided on all losses.

    Args:
        result: of one run, with the two records.
        learning_rate: eta, constant over the run.
        loss: name of the record of the loss.
        sharpness: name of the record of the sharpness.
        highest: takes the sharpness out of that record's values, such as `lambda v: v[:, 1]` for
            `flatmin.flatness.hessian_ends`.
        options: of `classify_run`.

    Returns:
        The report.

    Raises:
        UsageError: if a record is missing or the result is one of an ensemble.
    """
    for name in (loss, sharpness):
        if name not in result.records:
            raise UsageError(f"result: has the records {sorted(result.records)}, expected one named {name!r}")
    if isinstance(result.outcome, tuple):
        raise UsageError("result: got an ensemble, expected one run; take the rows of its records to classify_run")
    falls, ends = result.records[loss], result.records[sharpness]
    values = np.asarray(highest(ends.values), float)
    if values.shape != ends.steps.shape:
        raise UsageError(f"highest: got shape {values.shape}, expected one value a record, {ends.steps.shape}")
    aligned = np.full(falls.steps.shape, np.nan)
    shared, rows, places = np.intersect1d(ends.steps, falls.steps, return_indices=True)
    aligned[places] = values[rows]
    verdict = classify_run(
        falls.values,
        aligned,
        learning_rate,
        steps=falls.steps,
        divergence_step=int(result.divergence_step),
        **options,
    )
    return StabilityReport(
        steps=shared,
        losses=np.asarray(falls.values, float)[places],
        sharpness=values[rows],
        threshold=2 / learning_rate,
        verdict=verdict,
        sharpening=progressive_sharpening_rate(ends.steps, values, learning_rate),
    )
