"""Adaptive studies: trials go where the probability is neither 0 nor 1, until the transition is known well enough.

Each line of the grid along the adaptive axis begins with trials at its ends. Then, round by round, each goes on where
one more trial is expected to say most about the middle of its transition, and is left when the interval of that is
narrow enough. What is decided depends on the trials that all lines have asked for so far, in the order of the seeds,
and on nothing else: what another spec or half a round before an interruption has left is found finished when it is
asked for, and changes nothing.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from flatmin._core.intervals import Z, wilson
from flatmin.studies._segments import MISSING
from flatmin.studies.grid import SEED
from flatmin.studies.posterior import Likelihood, best_positions, likelihood, posteriors, transition_of
from flatmin.studies.sections import Adaptive
from flatmin.studies.store import Content
from flatmin.studies.study import Study
from flatmin.studies.transition import Logistic, fit_logistic

ENDS = 2
"""Trials at each end of a line, to begin with."""


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

    def likelihood(self) -> Likelihood | None:
        """What the trials say of the transition, None if not even which way it goes."""
        return likelihood(self.positions, self.hits, self.counts)

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


def transitions(study: Study, content: Content, axis_key: str, quantity: str) -> list[tuple[Line, Logistic]]:
    """The transition of each line, in the units of the axis.

    Trials that an adaptive study has chosen are judged by the posterior that chose them, those of a full grid by a
    fitted curve, which needs no prior.

    Args:
        study: the study.
        content: read with values.
        axis_key: dotted name of the axis.
        quantity: 0 or 1 in each cell.

    Returns:
        Each line and its transition; NaN where the trials do not tell.
    """
    found = list(lines(study, content, axis_key, quantity))
    adaptive = study.spec.adaptive
    if adaptive is None or (adaptive.axis, adaptive.quantity) != (axis_key, quantity):
        return [(line, fit_logistic(line.positions, line.hits, line.counts)) for line in found]
    judged = posteriors([line.likelihood() for line in found])
    return [
        (line, transition_of(posterior, int(line.counts.sum()))) for line, posterior in zip(found, judged, strict=True)
    ]


def rounds(study: Study, content: Content, adaptive: Adaptive) -> Iterator[np.ndarray]:
    """The cells to compute, round by round; what a round asks for must be in the content when the next is asked for.

    Args:
        study: the study.
        content: what is finished, with values; it grows between the rounds.
        adaptive: where to spend trials.

    Yields:
        Numbers of missing cells.
    """
    found = list(lines(study, content, adaptive.axis, adaptive.quantity))
    shown = [np.zeros(len(line.positions), int) for line in found]
    known: list[Likelihood | None] = [None] * len(found)
    going = set(range(len(found)))
    for line, count in zip(found, shown, strict=True):
        count[[line.positions.argmin(), line.positions.argmax()]] = min(ENDS, line.cells.shape[1])
    while going:
        asked = [
            line.cells[p, k]
            for line, count in zip(found, shown, strict=True)
            for p in np.flatnonzero(count)
            for k in range(count[p])
        ]
        missing = [cell for cell in asked if content.states[cell] == MISSING]
        if missing:
            yield np.array(sorted(missing), np.int64)
            continue
        for number in going:
            known[number] = _revealed(content, found[number], shown[number], adaptive.quantity).likelihood()
        judged = posteriors(known)
        for number in sorted(going):
            wanted = _wanted(found[number], shown[number], judged[number], adaptive)
            shown[number][wanted] += 1
            if not wanted:
                going.discard(number)


def _revealed(content: Content, line: Line, shown: np.ndarray, quantity: str) -> Line:
    """The line with the trials that it has asked for only."""
    results = np.where(np.arange(line.cells.shape[1]) < shown[:, None], content.values[quantity][line.cells], np.nan)
    decided = np.isfinite(results)
    return dataclasses.replace(
        line, hits=np.where(decided, results, 0).sum(1), counts=decided.sum(1), used=shown.copy()
    )


def _wanted(line: Line, shown: np.ndarray, posterior: Likelihood | None, adaptive: Adaptive) -> list[int]:
    """Positions at which to try once more."""
    if posterior is None:  # no transition between the ends, or nothing was decided there
        return []
    step = np.ptp(line.positions) / (len(line.positions) - 1)
    if Z * posterior.moments()[1] <= adaptive.half_width * step:
        return []
    return best_positions(posterior, line.positions, shown < line.cells.shape[1], adaptive.first)
