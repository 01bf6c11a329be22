"""Adaptive studies: trials go where the probability is neither 0 nor 1, until the transition is known well enough.

For each line of the grid along the adaptive axis, two trials at the ends and then by bisection find the bracket. Then
a logistic curve is fitted, and trials are added where they say most about its middle: where `p (1 - p)` is largest.
A line decides from the trials that it has asked for, in the order of the seeds, and from nothing else: what another
spec or half a round before an interruption has left is found finished when it is asked for, and changes nothing.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from flatmin._core.intervals import wilson
from flatmin.studies._segments import MISSING
from flatmin.studies.grid import SEED
from flatmin.studies.sections import Adaptive
from flatmin.studies.store import Content
from flatmin.studies.study import Study
from flatmin.studies.transition import Logistic, fit_logistic

BRACKET = 2
"""Trials at each position of the bisection."""

PLACES = 2
"""Positions that get trials in a round once there is a fit."""


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


def rounds(study: Study, content: Content) -> Iterator[np.ndarray]:
    """The cells to compute, round by round; what a round asks for must be in the content when the next is asked for.

    Args:
        study: an adaptive study.
        content: what is finished, with values; it grows between the rounds.

    Yields:
        Numbers of missing cells; the last round is empty.
    """
    adaptive = study.spec.adaptive
    assert adaptive is not None  # noqa: S101 - asked of adaptive studies only
    shown = [np.zeros(len(line.positions), int) for line in lines(study, content, adaptive.axis, adaptive.quantity)]
    going = set(range(len(shown)))
    while going:
        asked: list[int] = []
        for number, line in enumerate(lines(study, content, adaptive.axis, adaptive.quantity)):
            # a line whose last round is complete goes on to its next one
            while number in going:
                cells = [c for p, n in enumerate(shown[number]) for c in line.cells[p, :n].tolist()]
                missing = [c for c in cells if content.states[c] == MISSING]
                if missing:
                    asked += missing
                    break
                wanted = _wanted(_revealed(content, line, shown[number], adaptive.quantity), adaptive)
                if not wanted:
                    going.discard(number)
                for position, count in wanted:
                    shown[number][position] = min(shown[number][position] + count, line.cells.shape[1])
        if asked:
            yield np.array(sorted(asked), np.int64)


def _revealed(content: Content, line: Line, shown: np.ndarray, quantity: str) -> Line:
    """The line with the trials that it has asked for only."""
    results = np.where(np.arange(line.cells.shape[1]) < shown[:, None], content.values[quantity][line.cells], np.nan)
    decided = np.isfinite(results)
    return dataclasses.replace(
        line, hits=np.where(decided, results, 0).sum(1), counts=decided.sum(1), used=shown.copy()
    )


def _wanted(line: Line, adaptive: Adaptive) -> list[tuple[int, int]]:
    """Positions at which to try, and how often."""
    size, room = len(line.positions), line.cells.shape[1]
    if not line.used.any():
        return [(p, BRACKET) for p in dict.fromkeys((0, size - 1))]
    known = np.flatnonzero(line.counts > 0)
    if known.size < 2:
        return []  # nothing was decided at the ends
    # the neighbours between which the share passes one half
    high = line.hits[known] / line.counts[known] >= 0.5
    gaps = [(int(known[c]), int(known[c + 1])) for c in np.flatnonzero(high[1:] != high[:-1])]
    if not gaps:
        return []  # no transition between the ends
    halves = [(a + b) // 2 for a, b in gaps if b - a > 1 and line.used[(a + b) // 2] == 0]
    if halves:
        return [(p, BRACKET) for p in halves]
    fit = line.fit()
    step = float(np.abs(np.diff(line.positions)).mean())
    open_ = line.used < room
    known_well = np.isfinite(fit.half_width) and fit.half_width <= adaptive.half_width * step
    if known_well or not open_.any():
        return []
    p = fit.at(line.positions)
    gain = np.where(open_, p * (1 - p), -1.0)
    best = np.argsort(-gain, kind="stable")[:PLACES].tolist()
    # beside the transition a trial says next to nothing
    return [(b, adaptive.first) for b in best if open_[b] and (b == best[0] or gain[b] > 0.2 * gain[best[0]])]
