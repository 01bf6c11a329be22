"""Where a probability passes from 0 to 1: half points, and a logistic curve with its uncertainty."""

import dataclasses

import numpy as np
from scipy.special import expit

from flatmin._core.intervals import Z


def half_point(measurements: np.ndarray, share: np.ndarray) -> float:
    """Number of measurements at which the share of recovered instances passes one half.

    The shares are first made monotone by pooling neighbours (isotonic least squares); between two grid values the line
    through them decides.

    Args:
        measurements: increasing, shape (n,).
        share: share recovered at each, NaN where nothing was decided.

    Returns:
        The number; NaN if the grid does not contain the transition.
    """
    from scipy.optimize import isotonic_regression

    known = np.isfinite(share)
    if known.sum() < 2:
        return float("nan")
    x, y = measurements[known], isotonic_regression(share[known]).x
    if y[0] >= 0.5 or y[-1] < 0.5:
        return float("nan")
    after = int(np.argmax(y >= 0.5))
    weight = (0.5 - y[after - 1]) / (y[after] - y[after - 1])
    return float(x[after - 1] + weight * (x[after] - x[after - 1]))


@dataclasses.dataclass(frozen=True)
class Logistic:
    """`p(x) = 1 / (1 + exp(-(x - middle) / scale))`, fitted to trials.

    Attributes:
        middle: where p is one half.
        scale: width of the transition; p passes from 0.27 to 0.73 over two of it; negative if p falls.
        middle_error: standard error of `middle`, from the curvature of the penalised likelihood.
        trials: number of trials behind the fit.
    """

    middle: float
    scale: float
    middle_error: float
    trials: int

    def at(self, x: np.ndarray) -> np.ndarray:
        """`p(x)`."""
        return expit((np.asarray(x, float) - self.middle) / self.scale)

    @property
    def half_width(self) -> float:
        """Half-width of the 95% interval of `middle`."""
        return Z * self.middle_error


def fit_logistic(x: np.ndarray, hits: np.ndarray, counts: np.ndarray) -> Logistic:
    """The logistic curve of largest likelihood under Firth's penalty (Jeffreys' prior).

    The penalty keeps the fit finite where the trials separate (all 0 before some x and all 1 after it), and removes
    the first-order bias of the coefficients.

    Args:
        x: positions, shape (n,).
        hits: successes at each.
        counts: trials at each; positions without trials are left out.

    Returns:
        The fit; NaN throughout where nothing but one outcome was seen, or at one position only.
    """
    used = counts > 0
    x, hits, counts = x[used].astype(float), hits[used].astype(float), counts[used].astype(float)
    trials = int(counts.sum())
    if len(x) < 2 or hits.sum() in (0, counts.sum()):
        return Logistic(np.nan, np.nan, np.nan, trials)
    center, spread = x.mean(), max(np.ptp(x), 1e-300)
    design = np.stack([np.ones_like(x), (x - center) / spread], axis=1)
    beta = np.zeros(2)

    def information(beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = expit(design @ beta)
        weight = counts * p * (1 - p)
        return p, (design * weight[:, None]).T @ design

    def penalised(beta: np.ndarray) -> float:
        z = design @ beta
        sign, logarithm = np.linalg.slogdet(information(beta)[1])
        likelihood = float(np.sum(hits * z - counts * np.logaddexp(0, z)))
        return likelihood + 0.5 * logarithm if sign > 0 else -np.inf

    value = penalised(beta)
    for _ in range(200):
        p, fisher = information(beta)
        inverse = np.linalg.pinv(fisher)
        leverage = counts * p * (1 - p) * np.einsum("ij,jk,ik->i", design, inverse, design)
        score = design.T @ (hits - counts * p + leverage * (0.5 - p))
        step = inverse @ score
        step *= min(1.0, 5.0 / max(np.abs(step).max(), 1e-300))
        while penalised(beta + step) < value - 1e-12 and np.abs(step).max() > 1e-12:
            step /= 2
        beta = beta + step
        value = penalised(beta)
        if np.abs(step).max() < 1e-10:
            break
    offset, slope = beta
    if slope == 0:
        return Logistic(np.nan, np.nan, np.nan, trials)
    covariance = np.linalg.pinv(information(beta)[1])
    gradient = np.array([-1 / slope, offset / slope**2])
    error = np.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
    return Logistic(float(center - spread * offset / slope), float(spread / slope), float(spread * error), trials)
