"""The programme over sparse entries, and its data in the two orders that sweeps need."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flatmin._core import AnyOf, Choice, Indices, Optional, Real, RealArray, UsageError, checked, choose

WEIGHTINGS = ("flat", "plain")


@dataclasses.dataclass(frozen=True, eq=False)
class LargeCompletion:
    """`min lambda ||D1 X D2||_* + 1/2 sum_seen (X - Y)^2`, or `min ||D1 X D2||_* s.t. ||X - Y||_seen <= radius`.

    `D1 = diag(a)`, `D2 = diag(b)`, with `a_i = (n_i / m)^{w/2}` for a row seen n_i times of m, columns alike. `w = 1`
    (`"flat"`) makes the norm `||D_out^{1/2} X D_in^{1/2}||_*` of `MinScaledNuclearNorm`: a quarter of the smallest
    trace of the Hessian over factors of X [G, Thm 5; D, Thm 3.2], known as the weighted trace norm [Salakhutdinov &
    Srebro 2010]. `w = 0` (`"plain"`) is the nuclear norm. Make it with `large_completion`.

    Attributes:
        shape: (d1, d2).
        row_start: where each row begins among the entries, shape (d1 + 1,).
        cols: column of each entry, by rows, shape (m,).
        values: `Y` in the same order, divided by `scale`.
        col_start: where each column begins among the entries by columns, shape (d2 + 1,).
        rows: row of each entry, by columns, shape (m,).
        by_column: position by rows of each entry by columns, shape (m,).
        order: position in the user's order of each entry by rows, shape (m,).
        row_weights: a, shape (d1,); 0 in a row that was reduced away.
        col_weights: b, shape (d2,).
        weighting: w.
        penalty: lambda in the user's units, None with a radius.
        radius: radius in the user's units, None with a penalty.
        scale: the root mean square value.
        notes: what was decided, in sentences.
    """

    shape: tuple[int, int]
    row_start: Int[np.ndarray, " d1_plus_1"]
    cols: Int[np.ndarray, " m"]
    values: Float[np.ndarray, " m"]
    col_start: Int[np.ndarray, " d2_plus_1"]
    rows: Int[np.ndarray, " m"]
    by_column: Int[np.ndarray, " m"]
    order: Int[np.ndarray, " m"]
    row_weights: Float[np.ndarray, " d1"]
    col_weights: Float[np.ndarray, " d2"]
    weighting: float
    penalty: float | None
    radius: float | None
    scale: float
    notes: tuple[str, ...]

    @property
    def num_entries(self) -> int:
        """M."""
        return self.values.shape[0]

    @property
    def row_counts(self) -> np.ndarray:
        """n_i, how often each row is seen, shape (d1,)."""
        return np.diff(self.row_start)

    @property
    def col_counts(self) -> np.ndarray:
        """How often each column is seen, shape (d2,)."""
        return np.diff(self.col_start)

    @property
    def row_of_entry(self) -> np.ndarray:
        """Row of each entry, in the order by rows, shape (m,)."""
        return np.repeat(np.arange(self.shape[0], dtype=np.int32), self.row_counts)

    def with_penalty(self, penalty: float) -> "LargeCompletion":
        """The same data with another lambda (shared, not copied).

        Raises:
            UsageError: if it is not positive and finite.
        """
        return dataclasses.replace(self, penalty=_positive("penalty", penalty), radius=None)

    def with_values(self, values: Float[np.ndarray, " m"]) -> "LargeCompletion":
        """The same entries with other values, given in the user's order.

        Raises:
            UsageError: for a wrong length, or values that are not finite real numbers.
        """
        numbers = real_vector("values", values)
        if numbers.shape != self.values.shape:
            raise UsageError(f"values: got {numbers.size} of them, expected {self.num_entries}, one an entry")
        scale = _scale(numbers)
        return dataclasses.replace(self, values=numbers[self.order] / scale, scale=scale)


@checked(
    rows=Indices("m", host=True),
    cols=Indices("m", host=True),
    values=RealArray("m", host=True),
    penalty=Optional(Real(0, above=True)),
    radius=Optional(Real(0)),
    weighting=AnyOf(Choice("flat", "plain"), Real(0, 1)),
)
def large_completion(
    rows: Int[np.ndarray, " m"] | Sequence[int],
    cols: Int[np.ndarray, " m"] | Sequence[int],
    values: Float[np.ndarray, " m"] | Sequence[float],
    shape: tuple[int, int],
    *,
    penalty: float | None = None,
    radius: float | None = None,
    weighting: str | float = "flat",
    reduce: bool = False,
) -> LargeCompletion:
    """Completion of a d1 x d2 matrix from m entries, for `complete`.

    Args:
        rows: row of each entry, integers in [0, d1).
        cols: column of each entry, integers in [0, d2).
        values: what was seen.
        shape: (d1, d2).
        penalty: lambda > 0, in the units of the values times those of the weights; give this or a radius. X = 0 is the
            answer from `lambda_max(problem)` on.
        radius: > 0, the largest accepted Euclidean norm of `X - Y` over the entries.
        weighting: `"flat"` (1), `"plain"` (0), or an exponent w between.
        reduce: whether rows and columns without an entry may be left out of a weighted programme, which their weight
            of 0 leaves undetermined; their factors are then 0 and the solution says so.

    Returns:
        The programme; memory about 28 bytes an entry.

    Raises:
        UsageError: for shapes or indices that do not fit, an entry given twice, values that are not finite, none or
            both of penalty and radius, or an unseen row or column under weights without `reduce`.
    """
    exponent = _exponent(weighting)
    if (penalty is None) == (radius is None):
        got = "neither" if penalty is None else "both"
        raise UsageError(f"penalty, radius: got {got}, expected one: penalty=lambda, or radius=the norm of the noise")
    penalty = None if penalty is None else _positive("penalty", penalty)
    radius = None if radius is None else _positive("radius", radius)
    d1, d2 = _shape(shape)
    row = _indices("rows", rows, d1)
    col = _indices("cols", cols, d2)
    numbers = real_vector("values", values)
    if not row.size == col.size == numbers.size:
        raise UsageError(
            f"rows, cols, values: got {row.size}, {col.size} and {numbers.size} of them, expected one of each an entry"
        )
    place = row * d2 + col
    order = np.argsort(place, kind="stable")
    place = place[order]
    twice = np.flatnonzero(place[1:] == place[:-1])
    if twice.size:
        i, j = divmod(int(place[twice[0]]), d2)
        raise UsageError(
            f"rows, cols: got {twice.size} entries that are given again, the first is ({i}, {j}); average the values "
            "of duplicates first"
        )
    del place
    row_counts, col_counts = np.bincount(row, minlength=d1), np.bincount(col, minlength=d2)
    notes = _unseen(row_counts, col_counts, exponent, reduce=reduce)
    scale = _scale(numbers)
    by_column = np.argsort(col[order], kind="stable").astype(np.int32 if row.size < 2**31 else np.int64)
    return LargeCompletion(
        shape=(d1, d2),
        row_start=np.concatenate([[0], np.cumsum(row_counts)]),
        cols=col[order].astype(np.int32),
        values=numbers[order] / scale,
        col_start=np.concatenate([[0], np.cumsum(col_counts)]),
        rows=row[order][by_column].astype(np.int32),
        by_column=by_column,
        order=order,
        row_weights=_weights(row_counts, exponent),
        col_weights=_weights(col_counts, exponent),
        weighting=exponent,
        penalty=penalty,
        radius=radius,
        scale=scale,
        notes=(*notes, *_spread(numbers)),
    )


def real_vector(argument: str, values: Any) -> np.ndarray:
    """The values as finite float64 numbers in a vector.

    Args:
        argument: their name, for the sentence.
        values: anything numpy can read.

    Returns:
        Shape (m,).

    Raises:
        UsageError: for another shape, no values, complex numbers, texts, NaN or infinities.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise UsageError(f"{argument}: got shape {array.shape}, expected (m,) with m >= 1")
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{argument}: got {array.dtype}, expected real numbers")
    numbers = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise UsageError(
            f"{argument}: got {bad.size} value(s) that are NaN or infinite, the first at index {bad[0]}; leave unknown "
            "entries out"
        )
    return numbers


def _scale(numbers: np.ndarray) -> float:
    largest = float(np.abs(numbers).max())
    if largest == 0:
        return 1.0
    if not 1e-150 < largest < 1e150:
        raise UsageError(
            f"values: got values up to {largest:.1e}, whose squares leave the range of floating point; rescale them"
        )
    return largest * float(np.sqrt(np.mean(np.square(numbers / largest))))


def _spread(numbers: np.ndarray) -> tuple[str, ...]:
    """A sentence if some values are below what float64 resolves beside the largest."""
    sizes = np.abs(numbers[numbers != 0])
    if not sizes.size:
        return ()
    limit = 1e-13 * float(sizes.max())
    small = int(np.sum(sizes < limit))
    if not small:
        return ()
    told = f"{small} value(s) are below {limit:.1e}, 1e-13 of the largest, and cannot be told from 0 beside it; "
    return (told + "rescale rows or columns, or take logarithms.",)


def _exponent(weighting: str | float) -> float:
    if isinstance(weighting, str):
        return 1.0 if choose("weighting", weighting, WEIGHTINGS) == "flat" else 0.0
    if not 0 <= weighting <= 1:
        raise UsageError(f"weighting: got {weighting}, expected 'flat', 'plain' or an exponent between 0 and 1")
    return float(weighting)


def _positive(argument: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UsageError(f"{argument}: got {value}, expected a positive finite number")
    return float(value)


def _shape(shape: tuple[int, int]) -> tuple[int, int]:
    sizes = tuple(int(size) for size in shape)
    if len(sizes) != 2 or min(sizes) < 1 or max(sizes) >= 2**31:
        raise UsageError(f"shape: got {shape}, expected (d1, d2) with both between 1 and 2^31 - 1")
    return sizes[0], sizes[1]


def _indices(argument: str, given: Any, size: int) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim != 1 or array.size == 0:
        raise UsageError(f"{argument}: got shape {array.shape}, expected (m,) with m >= 1")
    if array.dtype.kind not in "iu":
        raise UsageError(f"{argument}: got {array.dtype}, expected integers")
    if array.min() < 0 or array.max() >= size:
        at = int(np.argmax((array < 0) | (array >= size)))
        raise UsageError(f"{argument}: entry {at} is {int(array[at])}, outside [0, {size}); indices count from 0")
    return array.astype(np.int64)


def _weights(counts: np.ndarray, exponent: float) -> np.ndarray:
    if exponent == 0:
        return np.ones(counts.shape)
    return (counts / counts.sum()) ** (exponent / 2)


_FILLED = "0, or the mean where it was taken out before"


def _unseen(row_counts: np.ndarray, col_counts: np.ndarray, exponent: float, *, reduce: bool) -> list[str]:
    notes = []
    for line, counts in (("row", row_counts), ("column", col_counts)):
        empty = np.flatnonzero(counts == 0)
        if not empty.size:
            continue
        what = f"{empty.size} of {counts.size} {line}s without an entry, the first is {line} {empty[0]}"
        if exponent == 0:
            notes.append(f"There are {what}; the plain nuclear norm says nothing of them: they get {_FILLED}.")
        elif reduce:
            notes.append(f"There are {what}; the programme was reduced to the seen part, these get {_FILLED}.")
        else:
            raise UsageError(
                f"rows, cols: got {what}, whose weight 0 leaves it undetermined; pass reduce=True to solve for the "
                "seen part only, or weighting='plain'"
            )
    return notes
