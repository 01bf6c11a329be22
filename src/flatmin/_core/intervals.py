"""Means and shares with their 95% intervals."""

import numpy as np
from scipy.stats import binomtest, norm

Z = float(norm.ppf(0.975))


def geometric(values: np.ndarray) -> tuple[float, float, float]:
    """Geometric mean of the positive values and the ends of its 95% interval; NaN for none.

    Args:
        values: the values; NaN and values <= 0 are left out.

    Returns:
        Mean, low, high.
    """
    logs = np.log(values[values > 0])
    if not logs.size:
        return np.nan, np.nan, np.nan
    middle = logs.mean()
    half = Z * logs.std(ddof=1) / np.sqrt(logs.size) if logs.size > 1 else 0.0
    return float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half))


def wilson(hits: int, count: int) -> tuple[float, float, float]:
    """A share and the ends of its 95% Wilson interval.

    Args:
        hits: how many.
        count: of how many, at least one.

    Returns:
        Share, low, high.
    """
    low, high = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    share = hits / count
    return share, min(share, float(low)), max(share, float(high))
