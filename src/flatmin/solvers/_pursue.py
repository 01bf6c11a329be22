"""A low-rank matrix that fits, and multipliers that may prove it a minimiser."""

from typing import NamedTuple

import numpy as np

from flatmin.solvers._factors import Tangent, interpolate, multipliers
from flatmin.solvers._host import HostMap

SPARE = 1.2
"""Ranks whose degrees of freedom exceed the measurements divided by this are not tried."""


def largest_rank(shape: tuple[int, int], count: int, *, symmetric: bool) -> int:
    """The largest rank r whose matrices have at most `count / SPARE` degrees of freedom."""
    d1, d2 = shape
    rank = 0
    while rank < min(shape):
        r = rank + 1
        freedom = r * d1 - r * (r - 1) / 2 if symmetric else r * (d1 + d2 - r)
        if freedom * SPARE > count:
            break
        rank = r
    return rank


class Pursued(NamedTuple):
    """A low-rank X with `A(X) = b`, the multipliers y that may prove it a minimiser, and the Gauss-Newton steps."""

    tangent: Tangent
    dual: np.ndarray | None
    steps: int


def pursue(
    op: HostMap, targets: np.ndarray, shape: tuple[int, int], *, symmetric: bool, one_sided: bool
) -> Pursued | None:
    """A low-rank X with `A(X) = b` and, if they can be had, multipliers y that make it a minimiser.

    Args:
        op: the measurements, in the coordinates where the gauge is plain.
        targets: b.
        shape: (d1, d2).
        symmetric: whether X is symmetric.
        one_sided: whether X is positive semidefinite too.

    Returns:
        X as factors, y, and the number of Gauss-Newton steps; None without X. Nothing is proved yet.
    """
    rank = largest_rank(shape, targets.size, symmetric=symmetric)
    found = interpolate(op, targets, shape, rank, symmetric=symmetric, one_sided=one_sided)
    if found is None:
        return None
    tangent, steps = found
    return Pursued(tangent, multipliers(tangent, one_sided=one_sided), steps)
