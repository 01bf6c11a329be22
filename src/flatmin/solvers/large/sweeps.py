"""Half a sweep: every row of one factor is a small ridge regression on the other factor."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from flatmin._core import Indices, RealArray, UsageError, checked
from flatmin.solvers.large.problem import LargeCompletion

BLOCK = 1 << 16
"""Entries looked at together: their factor rows stay in the cache."""

PADDING = 0.8
"""Lines in a block have at least this fraction of the entries of its longest."""

FLOOR = 1e-15
"""Ridge below this fraction of the mean diagonal is raised to it: rounding could make the system indefinite."""


@dataclasses.dataclass(frozen=True, eq=False)
class Lines:
    """The entries of one side, line by line, and the blocks of lines that are treated together.

    Attributes:
        start: where each line begins, shape (lines + 1,).
        other: for each entry its line on the other side, and one index past the end at last, shape (m + 1,).
        values: for each entry its value, and 0 at last, shape (m + 1,).
        others: number of lines of the other side.
        blocks: lines with entries, grouped by similar length, with the longest of each group.
    """

    start: np.ndarray
    other: np.ndarray
    values: np.ndarray
    others: int
    blocks: tuple[tuple[np.ndarray, int], ...]


def sides(problem: LargeCompletion) -> tuple[Lines, Lines]:
    """The rows' side and the columns' side of a problem."""
    d1, d2 = problem.shape
    return (
        _lines(problem.row_start, problem.cols, problem.values, d2),
        _lines(problem.col_start, problem.rows, problem.values[problem.by_column], d1),
    )


def _lines(start: np.ndarray, other: np.ndarray, values: np.ndarray, others: int) -> Lines:
    counts = np.diff(start)
    by_length = np.argsort(counts, kind="stable")[::-1]
    return Lines(
        start=start,
        other=np.append(other, np.int32(others)),
        values=np.append(values, 0.0),
        others=others,
        blocks=tuple(_blocks(by_length[counts[by_length] > 0], counts)),
    )


def _blocks(by_length: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    lengths, first = counts[by_length], 0
    while first < len(by_length):
        longest = int(lengths[first])
        # lengths descend: the first one that is too short ends the block
        short = int(np.searchsorted(-lengths, -PADDING * longest, side="right"))
        last = max(first + 1, min(short, first + max(1, BLOCK // longest)))
        yield by_length[first:last], longest
        first = last


def ridge_regressions(
    lines: Lines, other: Float[np.ndarray, "others k"], ridge: Float[np.ndarray, " lines"]
) -> tuple[Float[np.ndarray, "lines k"], float]:
    """`x_i = argmin ridge_i ||x||^2 + sum_j (f_j . x - y_ij)^2` for every line i, over its entries (j, y_ij).

    Args:
        lines: the entries of the lines.
        other: f, the factor of the other side.
        ridge: one number a line.

    Returns:
        x, zero in lines without an entry, and the sum of squares `sum_ij (f_j . x_i - y_ij)^2` that is left.

    Cost: O(m k^2 + lines k^3), a line of n < k entries O(n^2 k + n^3); memory O(BLOCK k + lines k).
    """
    k = other.shape[1]
    extended = np.vstack([other, np.zeros((1, k))])
    solved, left_over = np.zeros((len(lines.start) - 1, k)), 0.0
    for block, longest in lines.blocks:
        factors, values = _gather(lines, extended, block, longest)
        across = factors.transpose(0, 2, 1)
        # k unknowns from k equations, or as many as there are entries
        gram = across @ factors if k <= longest else factors @ across
        diagonal = np.arange(gram.shape[1])
        trace = gram[:, diagonal, diagonal].mean(axis=1)
        gram[:, diagonal, diagonal] += np.maximum(ridge[block], FLOOR * trace)[:, None]
        if k <= longest:
            x = np.linalg.solve(gram, across @ values[:, :, None])
        else:
            x = across @ np.linalg.solve(gram, values[:, :, None])
        solved[block] = x[:, :, 0]
        miss = (factors @ x)[:, :, 0] - values
        left_over += float(np.sum(miss * miss))
    return solved, left_over


def _gather(lines: Lines, extended: np.ndarray, block: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Factor rows and values of a block's entries, zeros where a line is shorter: (B, n, k) and (B, n)."""
    first, last = lines.start[block][:, None], lines.start[block + 1][:, None]
    at = first + np.arange(longest)
    at[at >= last] = len(lines.other) - 1
    return np.take(extended, lines.other[at], axis=0), lines.values[at]


@checked(
    rows=Indices("m", host=True),
    cols=Indices("m", host=True),
    values=RealArray("m", host=True),
    right=RealArray("d2 k", host=True),
    ridge=RealArray("rows", low=0, host=True),
)
def project_rows(
    rows: np.ndarray, cols: np.ndarray, values: np.ndarray, right: np.ndarray, ridge: np.ndarray
) -> np.ndarray:
    """Left factors of rows of any matrix, given the right factor: one ridge regression a row.

    Args:
        rows: row of each entry, ascending, shape (m,).
        cols: its column, shape (m,).
        values: what was seen, shape (m,).
        right: shape (d2, k).
        ridge: one number a row, shape (rows,).

    Returns:
        Shape (rows, k), zero where nothing is seen.

    Raises:
        UsageError: for rows that do not ascend, a row or a column outside.
    """
    if np.any(np.diff(rows) < 0):
        raise UsageError("rows: got rows out of order, expected ascending ones; sort rows, cols and values by row")
    if len(rows) and rows[-1] >= len(ridge):
        raise UsageError(f"rows: got row {rows[-1]}, expected rows below {len(ridge)}, the number of ridges")
    if len(cols) and cols.max() >= len(right):
        raise UsageError(f"cols: got column {cols.max()}, expected columns below {len(right)}, the rows of `right`")
    start = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(ridge)))])
    return ridge_regressions(_lines(start, cols.astype(np.int32), values, right.shape[0]), right, ridge)[0]


def predict_entries(problem: LargeCompletion, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`(L R^T)` at the problem's entries, in the order by rows; O(m k), a block at a time.

    Args:
        problem: whose entries.
        left: shape (d1, k).
        right: shape (d2, k).

    Returns:
        Shape (m,).
    """
    return predict_pairs(left, right, problem.row_of_entry, problem.cols)


def predict_pairs(left: np.ndarray, right: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """`(L R^T)` at pairs of indices; O(m k), a block at a time.

    Args:
        left: shape (d1, k).
        right: shape (d2, k).
        rows: shape (m,).
        cols: shape (m,).

    Returns:
        Shape (m,).
    """
    found = np.empty(len(rows))
    for first in range(0, len(rows), BLOCK):
        part = slice(first, first + BLOCK)
        found[part] = np.einsum("ek,ek->e", np.take(left, rows[part], axis=0), np.take(right, cols[part], axis=0))
    return found
