"""Files that hold one matrix: `.npy`, `.mtx`, and `.npz` of one array or of SciPy's sparse matrices."""

import gzip
import pathlib
from typing import Any

import numpy as np

from flatmin._core import UsageError
from flatmin.datasets.known_entries import from_entries, from_matrix
from flatmin.datasets.limits import check_room, unpacked
from flatmin.datasets.npy import read_array, read_arrays
from flatmin.datasets.recovery_data import RecoveryData, real_numbers

_FIELDS = {
    "pattern": "positions without values, so that nothing is measured",
    "complex": "complex numbers, expected real ones; flatmin recovers real matrices from files",
}


def read_matrix(
    path: pathlib.Path, *, missing: float | None, duplicates: str, seed: int, whole: bool = False
) -> RecoveryData:
    """Read a matrix of which some entries are known.

    Args:
        path: a `.npy` file in which NaN stands for unknown; or a Matrix Market file, `.mtx` or `.mtx.gz`, of which the
            listed entries are known (zeros too).
        missing: fraction of the known entries to hide.
        duplicates: one of `DUPLICATES`, for entries that a list gives more than once.
        seed: of what is hidden.
        whole: whether nothing need be hidden, since errors are looked for.

    Returns:
        The data.

    Raises:
        UsageError: for what cannot be read, numbers that are not real, and matrices of which nothing or all is known.
    """
    stem = path.name.split(".")[0]
    hide: dict[str, Any] = {"missing": missing, "seed": seed, "whole": whole}
    if path.suffix.lower() == ".npy":
        return from_matrix(stem, read_array(path), file=path.name, **hide)
    found = _market(path)
    if isinstance(found, np.ndarray):
        return from_matrix(stem, found, file=path.name, **hide)
    if missing is not None:
        raise UsageError(f"missing: {path.name} lists the known entries; hold back part of them with --holdout")
    return from_sparse(stem, found, file=path.name, duplicates=duplicates)


def read_npz_matrix(path: pathlib.Path, form: str) -> RecoveryData:
    """Read an archive that holds one matrix.

    Args:
        path: the file.
        form: `sparse` for what `scipy.sparse.save_npz` wrote, `matrix` for one array in which NaN stands for unknown.

    Returns:
        The data.

    Raises:
        UsageError: for a damaged archive, and as for `read_matrix`.
    """
    if form == "matrix":
        ((_, matrix),) = read_arrays(path).items()
        return from_matrix(path.stem, matrix, file=path.name)
    from scipy import sparse

    try:
        found = sparse.load_npz(path)
        if hasattr(found, "check_format"):
            found.check_format(full_check=True)
        found = found.tocoo()
    except (ValueError, KeyError, TypeError, OSError, IndexError, OverflowError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(
            f"{path.name}: cannot be read as a sparse matrix of SciPy ({reason}); write it again"
        ) from error
    return from_sparse(path.stem, found, file=path.name)


def from_sparse(name: str, matrix: Any, *, file: str, duplicates: str = "error") -> RecoveryData:
    """Data from a sparse matrix in coordinate form, of which the stored entries are known.

    Args:
        name: how to call the data.
        matrix: of SciPy, with `row`, `col`, `data` and `shape`.
        file: the file's name, for sentences.
        duplicates: one of `DUPLICATES`.

    Returns:
        The data.

    Raises:
        UsageError: for values that are not real and finite, and entries stored twice.
    """
    if not matrix.data.size:
        raise UsageError(f"{file}: stores no entry, at least one must be known")
    unknown = np.isnan(matrix.data) if matrix.data.dtype.kind == "f" else np.zeros(len(matrix.data), dtype=bool)
    if unknown.all():
        raise UsageError(f"{file}: every stored entry is NaN, at least one must be known")
    rows, cols = np.asarray(matrix.row)[~unknown], np.asarray(matrix.col)[~unknown]
    values = real_numbers(file, matrix.data[~unknown])
    d1, d2 = (int(side) for side in matrix.shape)
    notes = [f"Read as {len(values):,} entries of {d1:,} rows and {d2:,} columns: what is stored is known, zeros too."]
    if unknown.any():
        notes.append(f"{int(unknown.sum()):,} stored entries are NaN and not seen.")

    def where(at: np.ndarray) -> str:
        return f"({rows[at[0]]}, {cols[at[0]]}), counted from 0, is stored {len(at)} times"

    return from_entries(
        name, rows, cols, values, (d1, d2), file=file, where=where, duplicates=duplicates, notes=tuple(notes)
    )


def _market(path: pathlib.Path) -> Any:
    """A matrix in coordinate form, or an array where all entries are listed; the header is looked at first."""
    from scipy import io

    packed = path.suffix.lower() == ".gz"
    try:
        source = unpacked(path) if packed else path
        rows, cols, listed, form, field, _ = io.mminfo(source)
        if field in _FIELDS:
            raise UsageError(f"{path.name}: holds {_FIELDS[field]}")
        check_room(
            path.name, 8 * rows * cols, f"a matrix of {rows:,} × {cols:,} has too many entries, take a part of it"
        )
        check_room(path.name, 24 * listed, "take a part of it")
        if packed:
            source.seek(0)  # pyright: ignore[reportAttributeAccessIssue]
        found: Any = io.mmread(source)
    except (ValueError, OSError, OverflowError, TypeError, IndexError, EOFError, gzip.BadGzipFile) as error:
        if isinstance(error, UsageError | PermissionError):
            raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(f"{path.name}: cannot be read as a Matrix Market file ({reason}); write it again") from error
    return np.asarray(found) if form == "array" else found.tocoo()
