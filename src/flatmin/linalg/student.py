"""Quantiles of Student's distribution."""

import functools

NORMAL_QUANTILE = 1.959963984540054
"""Of the normal distribution, for two-sided 95%."""


@functools.cache
def student_quantile(freedom: int) -> float:
    """The two-sided 95% quantile of Student's t with `freedom` degrees: 12.7 for 1, 1.96 in the limit."""
    from scipy.stats import t  # half a second to import

    return float(t.ppf(0.975, freedom))
