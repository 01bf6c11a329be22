"""The files of a recovery: the matrix for programs, the matrix for people, and all numbers."""

import csv
import io
import json
import math
from typing import Any

import numpy as np

from flatmin._core.text import spreadsheet_cell
from flatmin.datasets import RecoveryData

MOST_CELLS = 2_000_000


def output_files(
    data: RecoveryData, matrix: np.ndarray, result: dict[str, Any], errors: np.ndarray | None = None
) -> dict[str, bytes]:
    """`matrix.npy`, `result.json`, `errors.npy` for robust PCA and, for completions but pictures, `matrix.csv`.

    Above `MOST_CELLS` entries the names of rows and columns stand in `ids.json` instead, in the order of `matrix.npy`.

    Labels in `matrix.csv` that a spreadsheet would compute (`=1+1`, `@SUM(A1)`) begin with an apostrophe.

    Args:
        data: what was read.
        matrix: the recovered matrix.
        result: numbers, texts, lists and dictionaries; NaN and infinities become null.
        errors: the sparse part that was split off.

    Returns:
        Content by file name.
    """
    files = {"matrix.npy": _npy(matrix), "result.json": _json(result)}
    if errors is not None:
        files["errors.npy"] = _npy(errors)
    if data.is_completion and not data.image and matrix.size <= MOST_CELLS:
        files["matrix.csv"] = _csv(data, matrix)
    elif data.row_labels is not None or data.column_labels is not None:
        files["ids.json"] = _json({"rows": data.row_labels, "columns": data.column_labels})
    return files


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(array, dtype=np.float64), allow_pickle=False)
    return stream.getvalue()


def _csv(data: RecoveryData, matrix: np.ndarray) -> bytes:
    rows = data.row_labels or tuple(str(i) for i in range(matrix.shape[0]))
    columns = data.column_labels or tuple(str(i) for i in range(matrix.shape[1]))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["", *map(spreadsheet_cell, columns)])
    for label, values in zip(rows, matrix.tolist(), strict=True):
        writer.writerow([spreadsheet_cell(label), *(repr(value) for value in values)])
    return stream.getvalue().encode()


def _json(result: dict[str, Any]) -> bytes:
    return (json.dumps(_plain(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
