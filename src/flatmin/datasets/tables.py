"""Tables: a row, a column and a value in each line, or (`wide`) a row of the matrix in each."""

import io
import pathlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flatmin._core import UsageError, choose, nearest
from flatmin._core.files import unicode_mark
from flatmin.datasets.known_entries import DUPLICATES, from_entries, from_matrix
from flatmin.datasets.limits import unpacked
from flatmin.datasets.recovery_data import RecoveryData, real_numbers

if TYPE_CHECKING:
    import pandas as pd

_OTHERS = {
    b"PK\x03\x04": "a ZIP or Excel file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip file, to be called .csv.gz",
    b"\x89PNG": "a picture",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x04": "pickled objects, which could run code and are never loaded",
    b"<": "HTML or XML",
    b"{": "JSON",
}
"""How files begin that are named `.csv` and hold something else."""

MISSING = ("", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None", "none")
"""What stands for no number in a column of values; in columns of labels each text is a label."""

_COMMA = re.compile(r"[+-]?\d+(,\d+)?")


class _Table(NamedTuple):
    """A table as it was read.

    Attributes:
        frame: texts where the file is text.
        lines: line of the file, or number of the row from 1, of each row.
        decimals: whether a comma in a number can only be a decimal one.
        notes: what was skipped or turned.
    """

    frame: "pd.DataFrame"
    lines: np.ndarray
    decimals: bool
    notes: tuple[str, ...]


def read_table(
    path: pathlib.Path,
    *,
    row: str | None = None,
    column: str | None = None,
    value: str | None = None,
    duplicates: str = "error",
    shape: tuple[int, int] | None = None,
    wide: bool = False,
    header: bool = True,
) -> RecoveryData:
    """Read a partly known matrix from a table.

    Args:
        path: a `.csv`, `.tsv` or `.txt` file, also with `.gz` behind, or a `.parquet` file. Texts may be separated by
            commas, semicolons, tabs or bars; comment lines (#) above the header are skipped.
        row: name of the column that names the row of each entry; default: the first column.
        column: name of the column that names its column; default: the second.
        value: name of the column with the value; default: the third.
        duplicates: one of `DUPLICATES`, for entries given more than once.
        shape: (d1, d2), if rows and columns are numbers counted from 0; otherwise they are labels of any kind, and
            only rows and columns that occur are in the matrix.
        wide: whether each line is a row of the matrix, empty where it is unknown; a first column with anything but
            numbers names the rows.
        header: whether the first line names the columns; without it they are called 1, 2, 3.

    Returns:
        The data; labels as they stand in the file, sorted (whole numbers as numbers).

    Raises:
        UsageError: for an unreadable or empty file, missing columns, values that are no finite numbers, entries that
            occur twice or lie outside `shape`.
    """
    choose("duplicates", duplicates, DUPLICATES)
    if wide:
        if shape is not None or {row, column, value} != {None}:
            raise UsageError("wide: got --row, --column, --value or --shape too, which name parts of a list of entries")
        return _read_wide(path, header=header)
    names, table = _read_entries(path, (row, column, value), header=header)
    frame, lines = table.frame, table.lines
    chosen = [frame.iloc[:, list(frame.columns).index(name)] for name in names]
    numbers, turned = _values(path.name, chosen[2], lines, decimals=table.decimals)
    codes, labels = [], []
    for axis in (0, 1):
        keys = _present(path.name, chosen[axis], lines)
        if shape is None:
            code, label = _labelled(keys)
        else:
            code, label = _numbered(path.name, names[axis], keys, lines, shape[axis], axis), None
        codes.append(code)
        labels.append(label)
    size = shape or tuple(len(label) for label in labels if label is not None)
    d1, d2 = int(size[0]), int(size[1])
    others = [str(c) for c in frame.columns if str(c) not in names]
    note = f"Read as {len(numbers):,} entries of {d1:,} rows and {d2:,} columns: {names[0]}, {names[1]} and {names[2]}"
    note += f"; not used: {', '.join(others[:10])}{', ...' if len(others) > 10 else ''}." if others else "."

    def where(at: np.ndarray) -> str:
        entry = ", ".join(str(keys.iloc[int(at[0])]) for keys in chosen[:2])
        return f"({entry}) is given {len(at)} times, first in lines {lines[at[0]]} and {lines[at[1]]}"

    return from_entries(
        path.name.split(".")[0], codes[0], codes[1], numbers, (d1, d2), file=path.name, where=where,
        duplicates=duplicates, labels=(labels[0], labels[1]), notes=(note, *turned, *table.notes),
    )  # fmt: skip


def _read_entries(path: pathlib.Path, given: tuple[str | None, ...], *, header: bool) -> tuple[tuple[str, ...], _Table]:
    """The names of the columns of rows, columns and values, and the table."""
    source = _source(path)
    columns = source.columns(header=header)
    names = tuple(_column(path.name, columns, i, name) for i, name in enumerate(given))
    if header and source.is_text and _is_number(names[2]) and given == (None, None, None):
        raise UsageError(
            f"{path.name}: the first line ({', '.join(columns[:4])}) holds numbers, so the header is missing and an "
            "entry would be lost; say so with --no-header, or write a header such as row,column,value above it"
        )
    if len(columns) > 3 and given == (None, None, None):
        raise UsageError(
            f"{path.name}: got {len(columns)} columns ({', '.join(columns[:6])}"
            f"{', ...' if len(columns) > 6 else ''}), expected row, column and value; say which these are with --row, "
            "--column and --value, or give --wide if each line is a row of the matrix"
        )
    if len(set(names)) < 3:
        raise UsageError(f"{path.name}: got {', '.join(names)} for row, column and value, expected three columns")
    table = source.read(header=header, labels=names[:2])
    if len(table.frame) == 0:
        raise UsageError(f"{path.name}: got a header but no entries (m = 0); at least one is needed")
    return names, table


def _read_wide(path: pathlib.Path, *, header: bool) -> RecoveryData:
    """A matrix, one row a line."""
    source = _source(path)
    columns = source.columns(header=header)
    table = source.read(header=header, labels=columns)
    frame = table.frame
    first = frame.iloc[:, 0] if len(frame) else []
    named = any(_is_label(cell) for cell in first)
    body = frame.iloc[:, 1:] if named else frame
    if not body.size:
        raise UsageError(f"{path.name}: got no numbers, expected a matrix; is it a table of row, column and value?")
    turned: list[str] = []
    matrix = np.empty(body.shape)
    for j in range(body.shape[1]):
        matrix[:, j], notes = _values(path.name, body.iloc[:, j], table.lines, decimals=table.decimals, unknown=True)
        turned += [note for note in notes if note not in turned]
    names = tuple(str(c) for c in body.columns)
    if header and source.is_text and all(_is_number(name) for name in names) and not named and len(set(names)) > 1:
        turned.append("The first line names the columns; give --no-header if it is a row of the matrix.")
    if named:
        turned.append("The first column names the rows.")
    rows = tuple(str(cell) for cell in first) if named else None
    return from_matrix(
        path.name.split(".")[0], matrix, file=path.name, labels=(rows, names if header else None),
        notes=(*turned, *table.notes),
    )  # fmt: skip


class _Parquet(NamedTuple):
    """A Parquet file."""

    frame: "pd.DataFrame"
    notes: tuple[str, ...]
    is_text = False

    def columns(self, *, header: bool) -> list[str]:
        """Names of the columns; a Parquet file always has them."""
        return [str(name) for name in self.frame.columns]

    def read(self, *, header: bool, labels: Any) -> _Table:
        """The table with names as texts."""
        frame = self.frame.set_axis(self.columns(header=header), axis=1)
        return _Table(frame, np.arange(len(frame)) + 1, decimals=False, notes=self.notes)


class _Text(NamedTuple):
    """A text file: what to hand to pandas."""

    path: pathlib.Path
    content: io.BytesIO | pathlib.Path
    encoding: str
    separator: str
    comments: int
    is_text = True

    def _csv(self, **options: Any) -> "pd.DataFrame":
        import pandas as pd

        if isinstance(self.content, io.BytesIO):
            self.content.seek(0)
        try:
            return pd.read_csv(
                self.content, sep=self.separator, skipinitialspace=True, encoding=self.encoding, low_memory=False,
                skiprows=self.comments, **options,
            )  # fmt: skip
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path.name}: is not UTF-8 text ({error.reason}); save it as UTF-8 CSV") from error
        except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"{self.path.name}: cannot be read as CSV ({reason}); check the line it names") from error

    def columns(self, *, header: bool) -> list[str]:
        """Names of the columns: the first line, or 1, 2, 3."""
        first = self._csv(nrows=0 if header else 1, header=0 if header else None, dtype=str)
        return [str(name) if header else str(i + 1) for i, name in enumerate(first.columns)]

    def read(self, *, header: bool, labels: Any) -> _Table:
        """The table: labels as the file has them, numbers where all are, else texts."""
        names = self.columns(header=header)
        frame = self._csv(
            header=0 if header else None, names=None if header else names, dtype=dict.fromkeys(labels, str),
            keep_default_na=False, na_values={name: list(MISSING) for name in names if name not in labels},
            index_col=False,
        )  # fmt: skip
        lines = np.arange(len(frame)) + 1 + int(header) + self.comments
        notes = (f"{self.comments} comment line(s) above the table were skipped.",) if self.comments else ()
        return _Table(frame.set_axis(names, axis=1), lines, self.separator != ",", notes)


def _source(path: pathlib.Path) -> _Parquet | _Text:
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    if path.stat().st_size == 0:
        raise UsageError(f"{path.name}: the file is empty; expected a header and lines of row, column, value")
    content = unpacked(path) if path.suffix.lower() == ".gz" else path
    with path.open("rb") if content is path else io.BytesIO(content.getvalue()) as stream:  # pyright: ignore[reportAttributeAccessIssue]
        start = stream.read(65_536)
    return _Text(path, content, *_layout(path.name, start))


def _layout(name: str, start: bytes) -> tuple[str, str, int]:
    """Encoding, separator and number of comment lines by the first lines; what is no text is named by what it is."""
    for mark, what in _OTHERS.items():
        if start.lstrip().startswith(mark):
            raise UsageError(f"{name}: is {what}, expected a CSV text; save it as CSV, or give it its own ending")
    encoding = unicode_mark(start) or "utf-8-sig"
    lines = start.decode(encoding, errors="replace").split("\n")
    if "\x00" in lines[0]:
        raise UsageError(f"{name}: holds NUL bytes, so it is no text; save it as CSV in UTF-8")
    comments = next((i for i, line in enumerate(lines) if not line.lstrip().startswith("#")), len(lines))
    if not "".join(lines[comments:]).strip():
        raise UsageError(f"{name}: begins with {comments} comment lines (#), expected the header; remove them")
    line = lines[comments]
    separators = [s for s in ";\t|" if line.count(s) >= 2] if line.count(",") < 2 else []
    if not separators and line.count(",") == 0:
        separators = [s for s in ";\t|" if s in line]
    return encoding, separators[0] if separators else ",", comments


def _is_label(cell: Any) -> bool:
    """Whether a cell of a first column names its row: it is neither a number nor empty."""
    text = str(cell).strip()
    return text not in MISSING and not _is_number(text.replace(",", "."))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(path: pathlib.Path) -> _Parquet:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with path.open("rb") as stream:
            frame = parquet.read_table(stream).to_pandas()
    except (pa.ArrowException, ValueError, OSError, KeyError) as error:
        if isinstance(error, PermissionError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path.name}: cannot be read as Parquet ({reason}); write it again") from error
    if isinstance(frame.index, pd.RangeIndex):
        return _Parquet(frame, ())
    names = [str(name) for name in frame.index.names if name is not None]
    frame = frame.reset_index()
    return _Parquet(frame, (f"The index ({', '.join(names) or 'without a name'}) was read as the first column(s).",))


def _column(name: str, columns: list[str], position: int, given: str | None) -> str:
    role = ("row", "column", "value")[position]
    if given is not None:
        if given not in columns:
            raise UsageError(f"{role}: {name} has no column {given!r}; {nearest(given, columns)}")
        return given
    if len(columns) < 3:
        raise UsageError(
            f"{name}: got {len(columns)} column(s) ({', '.join(columns)}), expected three: row, column, value; "
            "they are separated by commas, semicolons, tabs or bars"
        )
    return columns[position]


def _values(
    name: str, column: "pd.Series", lines: np.ndarray, *, decimals: bool, unknown: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column as numbers, NaN only where it may be unknown, and what was turned."""
    import pandas as pd

    if column.dtype.kind == "c":
        raise UsageError(f"{name}, {column.name}: got complex numbers, expected real ones")
    notes: tuple[str, ...] = ()
    if unknown and column.dtype.kind not in "fiub":
        column = column.where(~column.isin(MISSING))
    try:
        numbers = np.array(pd.Series(pd.to_numeric(column, errors="coerce")).astype("float64"))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}, {column.name}: got values of type {column.dtype}, expected real numbers") from error
    empty = column.isna().to_numpy()
    if decimals and np.any(np.isnan(numbers) & ~empty):
        texts = [text for text in column[~empty] if isinstance(text, str)]
        if len(texts) == int((~empty).sum()) and all(_COMMA.fullmatch(text.strip()) for text in texts):
            numbers[~empty] = [float(text.replace(",", ".")) for text in texts]
            notes = ("Decimal commas were read as points.",)
    bad = np.flatnonzero(~np.isfinite(numbers) & ~(empty & unknown))
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
    if not unknown:
        numbers = real_numbers(f"{name}, {column.name}", numbers)
    return numbers, notes


def _present(name: str, column: "pd.Series", lines: np.ndarray) -> np.ndarray:
    keys = column.to_numpy()
    empty = column.isna().to_numpy()
    if keys.dtype.kind not in "iufMb":
        empty = empty | (column.astype(str).str.strip() == "").to_numpy()
    at = np.flatnonzero(empty)
    if at.size:
        raise UsageError(f"{name}, {column.name}: line {lines[at[0]]} is empty, expected a label; fill or remove it")
    return keys


def _labelled(keys: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The code of each key and the labels as they stand, sorted; whole numbers by their value."""
    import pandas as pd

    if keys.dtype.kind not in "iufM":
        keys = np.array([str(key) for key in keys], dtype=object)
    codes, labels = pd.factorize(keys)
    if labels.dtype == object:
        whole = all(re.fullmatch(r"-?\d{1,18}", text) for text in labels)
        order = sorted(range(len(labels)), key=lambda i: (int(labels[i]) if whole else 0, labels[i]))
    else:
        order = np.argsort(labels, kind="stable").tolist()
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[codes], tuple(str(label) for label in labels[order].tolist())


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
