"""Candidates for the form of F, fitted in relative error on one half of the matrices and judged on the other."""

import dataclasses

import numpy as np
import xarray as xr
from jaxtyping import Float

from flatmin.experiments.regulariser.samples import POWERS

CANDIDATES = {
    "nuclear": "a ‖M‖∗^q",
    "Schatten": "a ‖M‖_Sp^q",
    "weighted Schatten": "a ‖D_out^½ M D_in^½‖_Sp^q",
    "weighted nuclear": "2L (tr D_out)^((2−L)/L) ‖D_out^½ M D_in^½‖∗^q",
    "mean of single": "(1/n) Σ F_i(M)",
    "geometric mean of single": "a Π F_i(M)^(1/n)",
}
FREE = {"nuclear": "a", "Schatten": "a, p", "weighted Schatten": "a, p", "geometric mean of single": "a"}


@dataclasses.dataclass(frozen=True)
class Fit:
    """A candidate beside F, for one ensemble and depth.

    Attributes:
        candidate: its name.
        error: root mean square of `log(F / candidate)` on the matrices that were not fitted; for small errors the
            relative error. Infinite where the candidate vanishes.
        worst: the largest `|log(F / candidate)|` on those.
        worst_matrix: at which matrix.
        ratio: `F / candidate` at all matrices.
        scale: a; 1 where nothing is fitted.
        power: p, with the ends of its 95% interval; NaN where there is none.
    """

    candidate: str
    error: float
    worst: float
    worst_matrix: int
    ratio: Float[np.ndarray, " n"]
    scale: float
    power: tuple[float, float, float]


def fit_all(data: xr.Dataset, depth: int, bootstraps: int, seed: int) -> dict[str, Fit]:
    """All candidates at one depth.

    Args:
        data: of `values_of`.
        depth: L.
        bootstraps: resamples of the matrices behind the interval of p.
        seed: of the resampling.

    Returns:
        Fit by candidate.
    """
    at = data.sel(depth=depth)
    F, q = at.value.values, 2 - 2 / depth
    one = int(np.argmin(np.abs(POWERS - 1)))
    train = np.arange(len(F)) % 2 == 0
    schatten, weighted = q * np.log(at.schatten.values), q * np.log(at.weighted_schatten.values)
    moment = float(at.moment)
    with np.errstate(divide="ignore"):
        fixed = {
            "weighted nuclear": np.log(2 * depth) + (2 - depth) / depth * np.log(moment) + weighted[:, one],
            "mean of single": np.log(at.mean_single.values),
        }
        geometric = np.log(at.geometric_single.values)
    target = np.log(F)
    fits = {}
    for name in CANDIDATES:
        power = (np.nan, np.nan, np.nan)
        if name in fixed:
            shape, scale = fixed[name], 0.0
        elif name in ("Schatten", "weighted Schatten"):
            table = schatten if name == "Schatten" else weighted
            best, scale = _fit_power(table[train], target[train])
            rng = np.random.default_rng([seed, depth])
            again = [_resampled(table[train], target[train], rng) for _ in range(bootstraps)]
            low, high = np.quantile(again, [0.025, 0.975])
            found = _power_at(best)
            power = (found, min(low, found), max(high, found))
            shape = _column(table, best)
        else:
            shape = schatten[:, one] if name == "nuclear" else geometric
            scale = float(np.mean((target - shape)[train]))
        logs = target - shape - (scale if np.isfinite(scale) else 0.0)
        apart = np.abs(np.where(train, 0, logs))
        worst = int(np.argmax(apart))
        fits[name] = Fit(
            name,
            float(np.sqrt(np.mean(logs[~train] ** 2))),
            float(apart[worst]),
            worst,
            np.exp(logs),
            float(np.exp(scale)),
            (float(power[0]), float(power[1]), float(power[2])),
        )
    return fits


def _fit_power(table: Float[np.ndarray, "n powers"], target: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The exponent with the smallest variance of what is left, as a position in `POWERS`, and the mean of that."""
    left = target[:, None] - table
    spread = left.var(axis=0)
    best = int(np.argmin(spread))
    at = float(best)
    if 0 < best < len(POWERS) - 1:  # the lowest point of the parabola through the neighbours, where it is lower
        bend = spread[best - 1] - 2 * spread[best] + spread[best + 1]
        between = best + (spread[best - 1] - spread[best + 1]) / (2 * bend) if bend > 0 else at
        at = between if (target - _column(table, between)).var() < spread[best] else at
    return at, float((target - _column(table, at)).mean())


def _column(table: Float[np.ndarray, "n powers"], position: float) -> Float[np.ndarray, " n"]:
    """Between two columns, linearly."""
    low = min(int(position), table.shape[1] - 2)
    return table[:, low] + (position - low) * (table[:, low + 1] - table[:, low])


def _power_at(position: float) -> float:
    return float(np.exp(np.interp(position, np.arange(len(POWERS)), np.log(POWERS))))


def _resampled(table: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> float:
    chosen = rng.integers(len(target), size=len(target))
    return _power_at(_fit_power(table[chosen], target[chosen])[0])
