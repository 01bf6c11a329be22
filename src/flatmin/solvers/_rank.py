"""The rank of an answer that is known to a gap."""

import numpy as np

ROUNDING = 1e-12
"""Singular values below this fraction of the norm, or of the size of the data, are never counted."""

LARGEST_SHARE = 1e-4
"""Of the norm, that a gap may hide from the rank where it was not reached."""


def resolved_rank(
    values: np.ndarray, *, gap: float, reached: bool, objective: float, norm: float, data_size: float
) -> tuple[int, float]:
    """How many singular values stand out of what is not known, and the size from which on they do.

    The norm is not known to more than `gap objective`. Where that is less than the norm, singular values below the
    same share of their sum count as zero; else all of them do. A gap that was not reached says little of them, and
    counts for at most 1e-4. Nothing below rounding beside the data counts.

    Args:
        values: singular values of X, descending.
        gap: relative, certified.
        reached: whether it is within the tolerance asked for.
        objective: what the gap is relative to.
        norm: N(X), its part from X.
        data_size: the size of a matrix that has the size of the data.

    Returns:
        The rank and the tolerance.
    """
    total = float(values.sum())
    share = max(gap if reached else min(gap, LARGEST_SHARE), ROUNDING) if gap == gap else LARGEST_SHARE
    if reached and 0 < norm <= share * objective:
        share *= objective / norm
    tolerance = max(share * total, ROUNDING * data_size)
    return int(np.sum(values > tolerance)), float(tolerance)
