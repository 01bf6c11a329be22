"""Scaling laws of a study: `y = c x^a` with the interval of a."""

import dataclasses

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """`y = factor x^exponent`, least squares of the logarithms over all repeats.

    Attributes:
        exponent: a.
        low: lower end of its 95% interval (Student's t).
        high: upper end.
        factor: c.
        r_squared: share of the variance of log y explained.
    """

    exponent: float
    low: float
    high: float
    factor: float
    r_squared: float

    def at(self, x: np.ndarray) -> np.ndarray:
        """`c x^a`."""
        return self.factor * np.asarray(x, float) ** self.exponent


def power_law(x: np.ndarray, y: np.ndarray) -> PowerLaw | None:
    """Fit a power law.

    Args:
        x: positions, shape (n,).
        y: values, shape (n,) or (n, repeats); NaN is left out.

    Returns:
        The fit; None unless there are three positions and more, and all numbers are positive.
    """
    y = y.reshape(len(x), -1)
    pairs = np.stack([np.broadcast_to(x[:, None], y.shape).ravel(), y.ravel()], axis=1)
    pairs = pairs[np.isfinite(pairs).all(1)]
    if len(pairs) < 4 or len(np.unique(pairs[:, 0])) < 3 or pairs.min() <= 0:
        return None
    fit = linregress(np.log(pairs[:, 0]), np.log(pairs[:, 1]))
    slope, intercept, r, stderr = (float(getattr(fit, n)) for n in ("slope", "intercept", "rvalue", "stderr"))
    half = float(student.ppf(0.975, len(pairs) - 2)) * stderr
    return PowerLaw(slope, slope - half, slope + half, float(np.exp(intercept)), r**2)
