"""Tables with a row, a column and a value in each line: `.csv` and `.parquet`."""

import pathlib
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from flatmin._core import UsageError, choose, nearest
from flatmin._core.files import unicode_mark
from flatmin.datasets.limits import check_room
from flatmin.datasets.recovery_data import RecoveryData, real_numbers
from flatmin.measurements import entries

if TYPE_CHECKING:
    import pandas as pd

_OTHERS = {
    b"PK\x03\x04": "a ZIP or Excel file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "a picture",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x04": "pickled objects, which could run code and are never loaded",
    b"<": "HTML or XML",
    b"{": "JSON",
}
"""How files begin that are named `.csv` and hold something else."""

DUPLICATES = ("error", "mean")


def read_table(
    path: pathlib.Path,
    *,
    row: str | None = None,
    column: str | None = None,
    value: str | None = None,
    duplicates: str = "error",
    shape: tuple[int, int] | None = None,
) -> RecoveryData:
    """Read a partly known matrix from a table of its known entries.

    Args:
        path: a `.csv` or `.parquet` file with a header.
        row: name of the column that names the row of each entry; default: the first column.
        column: name of the column that names its column; default: the second.
        value: name of the column with the value; default: the third.
        duplicates: `error`, or `mean` to average entries given more than once.
        shape: (d1, d2), if rows and columns are numbers counted from 0; otherwise they are labels of any kind, and
            only rows and columns that occur are in the matrix.

    Returns:
        The data; labels are sorted (numbers as numbers).

    Raises:
        UsageError: for an unreadable or empty file, missing columns, values that are no finite numbers, entries that
            occur twice or lie outside `shape`.
    """
    choose("duplicates", duplicates, DUPLICATES)
    table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    lines = np.arange(len(table)) + (2 if path.suffix.lower() == ".csv" else 1)
    names = [_column(path.name, table, i, given) for i, given in enumerate((row, column, value))]
    if len(table.columns) > 3 and row is None and column is None and value is None:
        raise UsageError(
            f"{path.name}: got {len(table.columns)} columns ({', '.join(map(str, table.columns[:6]))}"
            f"{', ...' if len(table.columns) > 6 else ''}), expected row, column and value; say which these are "
            "with --row, --column and --value (a wide table is to be written as one line an entry)"
        )
    if len(set(names)) < 3:
        raise UsageError(f"{path.name}: got {', '.join(names)} for row, column and value, expected three columns")
    positions = [[str(c) for c in table.columns].index(name) for name in names]
    if len(table) == 0:
        raise UsageError(f"{path.name}: got a header but no entries (m = 0); at least one is needed")
    numbers = _values(path.name, table.iloc[:, positions[2]], lines)
    codes, labels = [], []
    for axis in (0, 1):
        keys = _present(path.name, table.iloc[:, positions[axis]], lines)
        if shape is None:
            code, label = _labelled(keys)
        else:
            code, label = _numbered(path.name, names[axis], keys, lines, shape[axis], axis), None
        codes.append(code)
        labels.append(label)
    size = shape or tuple(len(label) for label in labels if label is not None)
    d1, d2 = int(size[0]), int(size[1])
    check_room(path.name, 8 * d1 * d2, f"a matrix of {d1:,} × {d2:,} has too many entries, take a part of the table")
    flat = codes[0] * d2 + codes[1]
    kept, first, inverse, counts = np.unique(flat, return_index=True, return_inverse=True, return_counts=True)
    others = [str(c) for c in table.columns if str(c) not in names]
    notes = [
        f"Read as {len(flat):,} entries of {d1:,} rows and {d2:,} columns: {names[0]}, {names[1]} and {names[2]}"
        + (f"; not used: {', '.join(others[:10])}{', ...' if len(others) > 10 else ''}." if others else ".")
    ]
    if len(kept) < len(flat):
        at = int(np.argmax(counts > 1))
        twice = np.flatnonzero(inverse == at)
        where = ", ".join(str(table.iloc[int(first[at]), position]) for position in positions[:2])
        if duplicates == "error":
            raise UsageError(
                f"{path.name}: the entry ({where}) is given {counts[at]} times, first in lines {lines[twice[0]]} and "
                f"{lines[twice[1]]}; remove one, or average them with --duplicates mean"
            )
        numbers = np.bincount(inverse, weights=numbers) / counts
        notes.append(f"{int((counts > 1).sum())} entries were given more than once and averaged.")
    else:
        numbers = numbers[first]
    return RecoveryData(
        name=path.stem,
        measurements=entries(jnp.asarray(kept // d2), jnp.asarray(kept % d2), (d1, d2)),
        targets=np.asarray(numbers, dtype=np.float64),
        row_labels=labels[0],
        column_labels=labels[1],
        notes=tuple(notes),
    )


def _csv(path: pathlib.Path) -> "pd.DataFrame":
    import pandas as pd

    if path.stat().st_size == 0:
        raise UsageError(f"{path.name}: the file is empty; expected a header and lines of row, column, value")
    encoding, separator = _layout(path)
    try:
        table = pd.read_csv(path, sep=separator, skipinitialspace=True, encoding=encoding, low_memory=False)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name}: is not UTF-8 text ({error.reason}); save it as UTF-8 CSV") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path.name}: cannot be read as CSV ({reason}); check the line it names") from error
    first = [str(name) for name in table.columns]
    if len(first) >= 3 and all(_is_number(name) for name in first[2:3]):
        raise UsageError(
            f"{path.name}: the first line ({', '.join(first[:4])}) holds numbers, so the header is missing and an "
            "entry would be lost; write a header such as row,column,value above it"
        )
    return table


def _layout(path: pathlib.Path) -> tuple[str, str]:
    """Encoding and separator by the first line; what is no text is named by what it is."""
    with path.open("rb") as stream:
        start = stream.read(65_536)
    for mark, what in _OTHERS.items():
        if start.lstrip().startswith(mark):
            raise UsageError(f"{path.name}: is {what}, expected a CSV text; save it as CSV, or give it its own ending")
    encoding = unicode_mark(start) or "utf-8-sig"
    line = start.decode(encoding, errors="replace").split("\n")[0]
    if "\x00" in line:
        raise UsageError(f"{path.name}: holds NUL bytes, so it is no text; save it as CSV in UTF-8")
    if line.startswith("#"):
        raise UsageError(f"{path.name}: begins with a comment (#), expected the header; remove comment lines")
    separators = [s for s in ";\t|" if line.count(s) >= 2] if "," not in line else []
    return encoding, separators[0] if separators else ","


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(path: pathlib.Path) -> "pd.DataFrame":
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with path.open("rb") as stream:
            return parquet.read_table(stream).to_pandas()
    except (pa.ArrowException, ValueError, OSError, KeyError) as error:
        if isinstance(error, PermissionError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path.name}: cannot be read as Parquet ({reason}); write it again") from error


def _column(name: str, table: "pd.DataFrame", position: int, given: str | None) -> str:
    role = ("row", "column", "value")[position]
    columns = [str(c) for c in table.columns]
    if given is not None:
        if given not in columns:
            raise UsageError(f"{role}: {name} has no column {given!r}; {nearest(given, columns)}")
        return given
    if len(columns) < 3:
        raise UsageError(
            f"{name}: got {len(columns)} column(s) ({', '.join(columns)}), expected three: row, column, value"
        )
    return columns[position]


def _values(name: str, column: "pd.Series", lines: np.ndarray) -> np.ndarray:
    import pandas as pd

    if column.dtype.kind == "c":
        raise UsageError(f"{name}, {column.name}: got complex numbers, expected real ones")
    try:
        numbers = np.asarray(pd.Series(pd.to_numeric(column, errors="coerce")).astype("float64"))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}, {column.name}: got values of type {column.dtype}, expected real numbers") from error
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        text = column.iloc[int(bad[0])]
        plain = text.item() if isinstance(text, np.generic) else text
        missing = "an empty cell" if np.ndim(plain) == 0 and pd.isna(plain) else repr(plain)
        raise UsageError(
            f"{name}, {column.name}: line {lines[bad[0]]} holds {missing}, expected a finite number"
            f" ({bad.size} such line(s)); "
            + (
                "write decimal commas as points"
                if isinstance(plain, str) and "," in plain
                else "leave unknown entries out"
            )
        )
    return real_numbers(f"{name}, {column.name}", numbers)


def _present(name: str, column: "pd.Series", lines: np.ndarray) -> np.ndarray:
    empty = np.flatnonzero(column.isna().to_numpy())
    if empty.size:
        raise UsageError(f"{name}, {column.name}: line {lines[empty[0]]} is empty, expected a label; fill or remove it")
    return column.to_numpy()


def _labelled(keys: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    if keys.dtype.kind not in "iufM":
        keys = np.array([str(key) for key in keys])
    labels, codes = np.unique(keys, return_inverse=True)
    return codes.astype(np.int64), tuple(str(label) for label in labels.tolist())


def _numbered(name: str, column: str, keys: Any, lines: np.ndarray, size: int, axis: int) -> np.ndarray:
    try:
        codes = np.asarray(keys, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{name}, {column}: got labels, but shape asks for numbers from 0; leave --shape out"
        ) from error
    if np.any(codes != np.floor(codes)):
        at = int(np.argmax(codes != np.floor(codes)))
        raise UsageError(f"{name}, {column}: line {lines[at]} holds {codes[at]}, expected a whole number from 0")
    outside = (codes < 0) | (codes >= size)
    if outside.any():
        at = int(np.argmax(outside))
        what = ("rows", "columns")[axis]
        raise UsageError(
            f"{name}, {column}: line {lines[at]} holds {int(codes[at])}, outside [0, {size}), the {what} of --shape; "
            "indices count from 0"
        )
    return codes.astype(np.int64)
