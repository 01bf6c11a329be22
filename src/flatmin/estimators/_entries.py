"""Known entries of what users pass: NaN, masks and sparse matrices all mean the same."""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from flatmin._core import UsageError
from flatmin.estimators._inputs import validated


class Entries(NamedTuple):
    """Known entries, by rows.

    Attributes:
        rows: row of each, shape (m,).
        cols: its column, shape (m,).
        values: shape (m,).
        shape: (samples, features).
    """

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]


def known_entries(estimator: Any, X: Any, *, reset: bool) -> tuple[Entries, np.ndarray | None]:
    """The known entries of X, after scikit-learn's checks.

    Args:
        estimator: whose input it is.
        X: samples by features. Unknown are NaN in a dense array, masked entries of a masked array, and entries that a
            sparse matrix does not store (a stored zero is known).
        reset: whether X decides on the number and names of the features (in `fit`).

    Returns:
        The entries, and X itself as a float array if it is dense.

    Raises:
        UsageError: in scikit-learn's words for wrong shapes, infinities, complex numbers; or if nothing is known.
    """
    if isinstance(X, np.ma.MaskedArray):
        if X.dtype.kind not in "fiub":
            raise UsageError(f"X: got a masked array of {X.dtype}, expected real numbers")
        X = np.ma.filled(X.astype(np.float64), np.nan)
    if sparse.issparse(X):
        _refuse_twice(X)
    X = validated(
        estimator,
        X,
        accept_sparse="csr",
        dtype=[np.float64, np.float32],
        ensure_all_finite="allow-nan",
        reset=reset,
    )
    if sparse.issparse(X):
        triples = X.tocoo()
        rows, cols, values, dense = triples.row, triples.col, triples.data.astype(np.float64), None
        known = ~np.isnan(values)
        order = np.lexsort((cols[known], rows[known]))
        rows, cols, values = rows[known][order], cols[known][order], values[known][order]
    else:
        dense = np.asarray(X)
        rows, cols = np.nonzero(~np.isnan(dense))
        values = dense[rows, cols].astype(np.float64)
    if reset and not values.size:
        raise UsageError("X: no entry is known, at least one is needed; unknown are NaN, masked or not stored entries")
    return Entries(rows.astype(np.int64), cols.astype(np.int64), values, (X.shape[0], X.shape[1])), dense


UNLIKE = 1e3
"""Columns whose spreads differ by more are of no common scale: the errors of the large ones hide the small ones."""


def scale_note(entries: Entries) -> str | None:
    """What to say where the columns are of very different scales: one norm weighs all their entries alike.

    Args:
        entries: the known entries.

    Returns:
        A sentence, None where the spreads of the columns are within a factor `UNLIKE`.
    """
    size = entries.shape[1]
    count = np.bincount(entries.cols, minlength=size)
    mean = np.bincount(entries.cols, weights=entries.values, minlength=size) / np.maximum(count, 1)
    square = np.bincount(entries.cols, weights=(entries.values - mean[entries.cols]) ** 2, minlength=size)
    spread = np.sqrt(square / np.maximum(count, 1))
    known = (count > 1) & (spread > 1e-12 * np.maximum(np.abs(mean), np.finfo(float).tiny))
    if not known.any() or spread[known].max() <= UNLIKE * spread[known].min():
        return None
    return (
        f"the columns differ in scale by a factor of {spread[known].max() / spread[known].min():.1e}: entries of the "
        "small ones count for nothing, and may be filled worse than by their column means; scale the columns before, "
        "such as by StandardScaler"
    )


def _refuse_twice(X: Any) -> None:
    """Refuse entries that a sparse matrix stores more than once: SciPy would add them up without a word."""
    stored = X.tocoo()
    flat = stored.row.astype(np.int64) * X.shape[1] + stored.col
    kept, first, counts = np.unique(flat, return_index=True, return_counts=True)
    if len(kept) < len(flat):
        at = int(first[np.argmax(counts > 1)])
        raise UsageError(
            f"X: the entry ({stored.row[at]}, {stored.col[at]}) is stored {counts.max()} times, expected once; "
            "add them up with X.sum_duplicates(), or keep one"
        )
