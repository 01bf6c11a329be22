"""What every reader of partly known matrices ends in: entries, each once, or a matrix with holes."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from flatmin._core import UsageError
from flatmin.datasets.limits import check_room
from flatmin.datasets.recovery_data import RecoveryData, missing_at_random, real_numbers
from flatmin.measurements import entries

DUPLICATES = ("error", "mean", "last")
"""What is done with an entry that is given more than once."""

Labels = tuple[tuple[str, ...] | None, tuple[str, ...] | None]


def from_entries(
    name: str,
    rows: np.ndarray,
    cols: np.ndarray,
    values: np.ndarray,
    shape: tuple[int, int],
    *,
    file: str,
    where: Callable[[np.ndarray], str],
    duplicates: str = "error",
    labels: Labels = (None, None),
    notes: tuple[str, ...] = (),
) -> RecoveryData:
    """Data from a list of known entries.

    Args:
        name: how to call the data.
        rows: row of each entry, shape (m,).
        cols: its column.
        values: finite numbers.
        shape: (d1, d2).
        file: the file's name, for sentences.
        where: says in words which entry stands at some positions of the list.
        duplicates: one of `DUPLICATES`.
        labels: names of rows and columns.
        notes: what the reader decided.

    Returns:
        The data, sorted by row and column.

    Raises:
        UsageError: for an entry given twice, unless `duplicates` says what to do, and for too large a matrix.
    """
    d1, d2 = shape
    check_room(file, 8 * d1 * d2, f"a matrix of {d1:,} × {d2:,} has too many entries, take a part of it")
    flat = rows.astype(np.int64) * d2 + cols
    kept, first, inverse, counts = np.unique(flat, return_index=True, return_inverse=True, return_counts=True)
    if len(kept) == len(flat):
        numbers = values[first]
    elif duplicates == "error":
        twice = np.flatnonzero(inverse == int(np.argmax(counts > 1)))
        raise UsageError(
            f"{file}: the entry {where(twice)}; remove one, or say what counts with --duplicates mean or last"
        )
    else:
        last = np.zeros(len(kept), dtype=np.int64)
        last[inverse] = np.arange(len(flat))
        numbers = values[last] if duplicates == "last" else np.bincount(inverse, weights=values) / counts
        done = "the last one was kept" if duplicates == "last" else "averaged"
        notes = (*notes, f"{int((counts > 1).sum())} entries were given more than once and {done}.")
    return RecoveryData(
        name=name,
        measurements=entries(jnp.asarray(kept // d2), jnp.asarray(kept % d2), shape),
        targets=np.asarray(numbers, dtype=np.float64),
        row_labels=labels[0],
        column_labels=labels[1],
        notes=notes,
    )


def from_matrix(
    name: str,
    matrix: np.ndarray,
    *,
    file: str,
    missing: float | None = None,
    seed: int = 0,
    whole: bool = False,
    labels: Labels = (None, None),
    notes: tuple[str, ...] = (),
) -> RecoveryData:
    """Data from a matrix in which NaN stands for unknown.

    Args:
        name: how to call the data.
        matrix: shape (d1, d2).
        file: the file's name, for sentences.
        missing: fraction of the known entries to hide, for a matrix that is known.
        seed: of what is hidden.
        whole: whether nothing need be hidden, since errors are looked for.
        labels: names of rows and columns.
        notes: what the reader decided.

    Returns:
        The data; the matrix is the truth where all of it is known and part of it is hidden.

    Raises:
        UsageError: for another number of axes, values that are no real numbers, infinities, nothing known, or nothing
            to hide.
    """
    if matrix.ndim != 2 or not matrix.size:
        raise UsageError(f"{file}: got an array of shape {matrix.shape}, expected a matrix (d1, d2)")
    if matrix.dtype.kind not in "fiub":
        real_numbers(file, matrix)  # says what they are
    matrix = matrix.astype(np.float64)
    known = ~np.isnan(matrix)
    if not known.any():
        raise UsageError(f"{file}: every entry is NaN, at least one must be known")
    real_numbers(file, matrix[known])
    check_room(file, 24 * matrix.size, "take a part of the matrix")
    if missing is None and known.all() and not whole:
        raise UsageError(
            f"missing: {file} is completely known; mark unknown entries as NaN, or hide a fraction of a matrix in a "
            ".npy or .mtx file with --missing 0.6"
        )
    seen = known if missing is None else known & missing_at_random(matrix.shape, missing, seed)
    if not seen.any():
        raise UsageError(f"missing: got {missing}, which hides every known entry of {file}; hide fewer")
    rows, cols = np.nonzero(seen)
    d1, d2 = (int(side) for side in matrix.shape)
    note = f"Read as a matrix of {d1:,} rows and {d2:,} columns, {int(known.sum()):,} of {matrix.size:,} entries known."
    return RecoveryData(
        name=name,
        measurements=entries(jnp.asarray(rows), jnp.asarray(cols), (d1, d2)),
        targets=matrix[seen],
        truth=matrix if known.all() and missing is not None else None,
        row_labels=labels[0],
        column_labels=labels[1],
        notes=(note, *notes),
    )
