"""What a few trials say of transitions: a posterior over the middle and the width of each, on a grid of numbers.

Along a line, `p(x) = 1 / (1 + exp(-(x - middle) / scale))`. The middle is uniform over the axis, and `log scale` too
(from a quarter of a cell to a quarter of the axis), but lines of one study are alike: the scale of each is that of the
others up to a factor of about `exp(LIKENESS)`, and what it is, is learned from all. The interval of a middle is its
posterior's: it stays true when trials are stopped because it is narrow, which the interval of a fit does not.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, log_expit

from flatmin.studies.transition import Logistic

MIDDLES, SCALES = 64, 10
"""Points of the grid; that of the middles is laid where the likelihood is not negligible."""

LIKENESS = 0.5
"""Standard deviation of `log scale` among the lines of a study."""

NEGLIGIBLE = 1e-5
"""Share of the likelihood at either end that is left out."""

CANDIDATES = 64
"""Most positions that are weighed against each other."""


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Of the trials of one line.

    Attributes:
        middles: shape (m,).
        scales: shape (s,), in the units of the axis; the sign is apart.
        weights: likelihood, up to a factor, shape (m, s).
        sign: 1 where the probability rises, -1 where it falls.
    """

    middles: np.ndarray
    scales: np.ndarray
    weights: np.ndarray
    sign: int

    def times(self, prior: np.ndarray) -> "Likelihood":
        """The posterior, normalised, for a prior over the scales of shape (s,)."""
        weights = self.weights * prior
        return dataclasses.replace(self, weights=weights / weights.sum())

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the middle, of a posterior."""
        over = self.weights.sum(1)
        mean = float(over @ self.middles)
        return mean, float(np.sqrt(over @ (self.middles - mean) ** 2))

    def spread_after(self, positions: np.ndarray) -> np.ndarray:
        """Expected variance of the middle after one more trial, of a posterior.

        Args:
            positions: where that trial may be, shape (n,).

        Returns:
            Shape (n,).
        """
        p = expit(self.sign * (positions[:, None, None] - self.middles[:, None]) / self.scales)
        mean, _ = self.moments()
        shifted = self.middles - mean
        hit, first = (np.einsum("nms,ms->n", p, weights) for weights in (self.weights, self.weights * shifted[:, None]))
        total = float(self.weights.sum(1) @ shifted**2)
        # E[var] = sum over outcomes of P E[x^2 | outcome] - P E[x | outcome]^2; the first moments add up to zero
        with np.errstate(divide="ignore", invalid="ignore"):
            lost = np.nan_to_num(first**2 / hit) + np.nan_to_num(first**2 / (1 - hit))
        return total - lost


def likelihood(positions: np.ndarray, hits: np.ndarray, counts: np.ndarray) -> Likelihood | None:
    """The likelihood of the trials of a line.

    Args:
        positions: of the axis, shape (n,), different numbers.
        hits: successes at each.
        counts: decided trials at each.

    Returns:
        It; None where the trials do not say which way the transition goes.
    """
    known = counts > 0
    x, hit, miss = positions[known], hits[known].astype(float), (counts - hits)[known].astype(float)
    if known.sum() < 2 or not hit.sum() or not miss.sum():
        return None
    low, high = float(positions.min()), float(positions.max())
    step = (high - low) / (len(positions) - 1)
    scales = step * np.geomspace(0.25, max((len(positions) - 1) / 4, 0.5), SCALES)
    coarse = np.linspace(low, high, MIDDLES)
    logs = {sign: _log(x, hit, miss, coarse, scales, sign) for sign in (1, -1)}
    top = max(float(log.max()) for log in logs.values())
    sums = {sign: float(np.exp(log - top).sum()) for sign, log in logs.items()}
    if np.isclose(sums[1], sums[-1], rtol=1e-6):
        return None
    sign = max(sums, key=lambda s: sums[s])
    share = np.cumsum(np.exp(logs[sign] - logs[sign].max()).sum(1))
    share /= share[-1]
    gap = coarse[1] - coarse[0]
    start = max(low, float(coarse[np.searchsorted(share, NEGLIGIBLE)]) - gap)
    end = min(high, float(coarse[min(np.searchsorted(share, 1 - NEGLIGIBLE), MIDDLES - 1)]) + gap)
    middles = np.linspace(start, end, MIDDLES)
    log = _log(x, hit, miss, middles, scales, sign)
    return Likelihood(middles, scales, np.exp(log - log.max()), sign)


def _log(
    x: np.ndarray, hit: np.ndarray, miss: np.ndarray, middles: np.ndarray, scales: np.ndarray, sign: int
) -> np.ndarray:
    z = sign * (x[:, None, None] - middles[:, None]) / scales
    # log(1 - p) = log p - z
    return np.tensordot(hit + miss, log_expit(z), 1) - np.tensordot(miss, z, 1)


def posteriors(found: Sequence[Likelihood | None]) -> list[Likelihood | None]:
    """The posterior of each line, with the scales that the others make likely.

    Args:
        found: likelihood of each line of a study, all on axes of the same length.

    Returns:
        Posterior of each; None where there is no likelihood.
    """
    scales = next((f.scales for f in found if f is not None), np.ones(1))
    apart = np.log(scales)[:, None] - np.log(scales)
    kernel = np.exp(-0.5 * (apart / LIKENESS) ** 2)
    kernel /= kernel.sum(0)  # of a line's scale, by the typical one
    # how likely each typical scale makes the trials of a line
    logs = [None if f is None else np.log(_scale_weights(f) @ kernel) for f in found]
    whole = np.sum([log for log in logs if log is not None] or [np.zeros(len(scales))], axis=0)
    made: list[Likelihood | None] = []
    for each, log in zip(found, logs, strict=True):
        if each is None or log is None:
            made.append(None)
            continue
        others = whole - log
        made.append(each.times(kernel @ np.exp(others - others.max())))
    return made


def _scale_weights(found: Likelihood) -> np.ndarray:
    weights = found.weights.sum(0)
    return weights / weights.sum()


def transition_of(posterior: Likelihood | None, trials: int) -> Logistic:
    """The posterior as a curve: means of the middle and of `log scale`, and the standard deviation of the middle.

    Args:
        posterior: of a line; None where its trials say nothing.
        trials: how many.

    Returns:
        The curve; NaN throughout where there is no posterior.
    """
    if posterior is None:
        return Logistic(np.nan, np.nan, np.nan, trials)
    mean, error = posterior.moments()
    scale = float(np.exp(posterior.weights.sum(0) @ np.log(posterior.scales)))
    return Logistic(mean, posterior.sign * scale, error, trials)


def best_positions(posterior: Likelihood, positions: np.ndarray, is_open: np.ndarray, count: int) -> list[int]:
    """Where trials say most about the middle.

    Args:
        posterior: of the line.
        positions: of the axis, shape (n,).
        is_open: where another trial is possible.
        count: how many positions.

    Returns:
        Different positions, the best first; empty if none is open.
    """
    width = 3 * float(posterior.weights.sum(0) @ posterior.scales)
    near = (positions >= posterior.middles[0] - width) & (positions <= posterior.middles[-1] + width)
    open_ = np.flatnonzero(is_open & near)
    if open_.size > CANDIDATES:
        open_ = open_[np.linspace(0, open_.size - 1, CANDIDATES).astype(int)]
    if not open_.size:
        return []
    spread = posterior.spread_after(positions[open_])
    return open_[np.argsort(spread, kind="stable")[:count]].tolist()
