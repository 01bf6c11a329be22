"""Adaptive studies: trials go where the probability is neither 0 nor 1, until the transition is known well enough.

For each line of the grid along the adaptive axis, a few trials at the ends and then by bisection find the bracket; then
a logistic curve is fitted, and trials are added where they say most about its middle: where `p (1 - p)` is largest.
Each round is decided from the finished cells alone, so that an interrupted study goes on as if it had not been.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from flatmin._core.intervals import wilson
from flatmin.studies._segments import MISSING
from flatmin.studies.grid import SEED
from flatmin.studies.store import Content
from flatmin.studies.study import Study
from flatmin.studies.transition import Logistic, fit_logistic


@dataclasses.dataclass(frozen=True)
class Line:
    """The trials along the adaptive axis, at fixed values of the others.

    Attributes:
        labels: value by dotted name of the other axes, the seeds left out.
        cells: numbers of the cells, shape (positions, trials).
        positions: numbers of the axis' values, or the values themselves where they are numbers.
        hits: successes at each position.
        counts: decided trials at each.
        used: trials that were computed at each, failed and undecided ones included.
    """

    labels: dict[str, object]
    cells: np.ndarray
    positions: np.ndarray
    hits: np.ndarray
    counts: np.ndarray
    used: np.ndarray

    def fit(self) -> Logistic:
        """The transition, in the units of the axis."""
        return fit_logistic(self.positions, self.hits, self.counts)

    def intervals(self) -> np.ndarray:
        """Share and 95% Wilson interval at each position, shape (positions, 3); NaN without trials."""
        found = [wilson(int(h), int(n)) if n else (np.nan,) * 3 for h, n in zip(self.hits, self.counts, strict=True)]
        return np.array(found)


def lines(study: Study, content: Content, axis_key: str, quantity: str) -> Iterator[Line]:
    """The lines of a study along an axis.

    Args:
        study: the study.
        content: read with values.
        axis_key: dotted name of the axis.
        quantity: 0 or 1 in each cell.

    Yields:
        One line for each combination of the other axes, the seeds excepted.
    """
    grid = study.grid
    keys = [axis.key for axis in grid.axes]
    along, seeds = keys.index(axis_key), keys.index(SEED)
    others = [k for k in range(len(keys)) if k not in (along, seeds)]
    values = list(grid.axes[along].values)
    numeric = all(isinstance(v, int | float) for v in values)
    positions = np.array(values, float) if numeric else np.arange(len(values), dtype=float)
    offsets = (
        np.arange(len(values))[:, None] * grid.strides[along] + np.arange(grid.shape[seeds])[None] * grid.strides[seeds]
    )
    results = content.values[quantity]
    for chosen in itertools.product(*(range(grid.shape[k]) for k in others)):
        cells = offsets + sum(p * grid.strides[k] for p, k in zip(chosen, others, strict=True))
        known = results[cells]
        labels = {keys[k]: grid.axes[k].values[p] for p, k in zip(chosen, others, strict=True)}
        decided = np.isfinite(known)
        used = (content.states[cells] != MISSING).sum(1)
        yield Line(labels, cells, positions, np.where(decided, known, 0).sum(1), decided.sum(1), used)


def next_cells(study: Study, content: Content) -> np.ndarray:
    """The cells of the next round.

    Args:
        study: an adaptive study.
        content: what is finished, with values.

    Returns:
        Numbers of cells; empty when every transition is known well enough, or nothing is left to try.
    """
    adaptive = study.spec.adaptive
    assert adaptive is not None  # noqa: S101 - asked of adaptive studies only
    chosen: list[int] = []
    for line in lines(study, content, adaptive.axis, adaptive.quantity):
        for position, count in _wanted(line, adaptive.first, adaptive.half_width):
            missing = [int(c) for c in line.cells[position] if content.states[c] == MISSING]
            chosen += missing[:count]
    return np.array(sorted(chosen), np.int64)


def _wanted(line: Line, first: int, half_width: float) -> list[tuple[int, int]]:
    """Positions at which to try, and how often."""
    size, room = len(line.positions), line.cells.shape[1]
    first = min(first, room)
    tried = np.flatnonzero(line.used > 0)
    if not tried.size:
        return [(p, first) for p in dict.fromkeys((0, size - 1))]
    share = np.where(line.counts > 0, line.hits / np.maximum(line.counts, 1), np.nan)
    known = np.flatnonzero(np.isfinite(share))
    if known.size >= 2:
        # the two neighbours between which the share passes one half
        high = share[known] >= 0.5
        change = np.flatnonzero(high[1:] != high[:-1])
        gaps = [(int(known[c]), int(known[c + 1])) for c in change]
        halves = [(a + b) // 2 for a, b in gaps if b - a > 1 and line.used[(a + b) // 2] == 0]
        if halves:
            return [(p, first) for p in halves]
        if not gaps:
            return []  # no transition between the ends
    fit = line.fit()
    step = float(np.abs(np.diff(line.positions)).mean()) if size > 1 else 1.0
    if np.isfinite(fit.half_width) and fit.half_width <= half_width * step:
        return []
    open_ = line.used < room
    if not open_.any():
        return []
    if np.isfinite(fit.scale) and fit.scale != 0:
        p = fit.at(line.positions)
        gain = np.where(open_, p * (1 - p), -1.0)
    else:
        gain = np.where(open_, -np.abs(np.arange(size) - tried.mean()), -np.inf)
    best = np.argsort(-gain, kind="stable")[:4]
    best = [int(b) for b in best if open_[b] and (gain[b] > 0.01 or b == best[0])]
    return [(b, first) for b in best]
