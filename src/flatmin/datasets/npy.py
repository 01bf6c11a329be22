"""NumPy's files: what their headers declare is looked at before any value is read or unpacked."""

import math
import pathlib
import struct
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

from flatmin._core import UsageError
from flatmin.datasets.limits import check_room

# what NumPy and zipfile raise for files that are cut, damaged or made to deceive
_DAMAGE = (
    ValueError,
    EOFError,
    SyntaxError,
    TypeError,
    OverflowError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def array_shapes(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """The arrays of an `.npz` archive by their headers alone: the values are not unpacked.

    Args:
        path: the archive.

    Returns:
        Shape by name.

    Raises:
        UsageError: for what is no such archive, objects, and lengths that do not fit the header.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            headers = {}
            for entry in entries:
                if entry.filename.endswith("/"):
                    continue
                with archive.open(entry) as stream:
                    headers[entry.filename.removesuffix(".npy")] = _header(stream, entry.file_size)
    except _DAMAGE as error:
        raise _unreadable(path, error, "an .npz archive") from error
    if len(headers) < len(entries):
        raise UsageError(f"{path.name}: holds two arrays of the same name, or folders; write it again")
    for name, (_, dtype) in headers.items():
        _refuse_objects(f"{path.name}, {name}", dtype)
    return {name: shape for name, (shape, _) in headers.items()}


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an archive that `array_shapes` accepted.

    Args:
        path: the archive.

    Returns:
        Array by name.

    Raises:
        UsageError: for a damaged archive.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _DAMAGE as error:
        raise _unreadable(path, error, "an .npz archive") from error


def read_array(path: pathlib.Path, argument: str = "") -> np.ndarray:
    """The array of an `.npy` file.

    Args:
        path: the file.
        argument: what it is read for, for the sentence.

    Returns:
        The array.

    Raises:
        UsageError: for what is no such file, objects, fewer or more values than the header declares, and more than
            `limits.room` allows.
    """
    where = f"{argument}: {path.name}" if argument else path.name
    try:
        with path.open("rb") as stream:
            shape, dtype = _header(stream, path.stat().st_size)
    except _DAMAGE as error:
        raise _unreadable(path, error, "an array", argument) from error
    _refuse_objects(where, dtype)
    check_room(where, math.prod(shape) * max(8, dtype.itemsize), "give a smaller array")
    try:
        return np.load(path, allow_pickle=False)
    except _DAMAGE as error:
        raise _unreadable(path, error, "an array", argument) from error


def _header(stream: Any, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that an array in `size` bytes declares; the lengths must agree."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if any(side < 0 for side in shape):
        raise ValueError(f"the header declares the shape {shape}")
    declared, found = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if not dtype.hasobject and declared != found:
        raise ValueError(f"the header declares {declared:,} bytes and {found:,} are there")
    return shape, dtype


def _refuse_objects(where: str, dtype: np.dtype) -> None:
    if dtype.hasobject:
        raise UsageError(
            f"{where}: got pickled objects, which could run code and are never loaded; store plain numbers"
        )


def _unreadable(path: pathlib.Path, error: Exception, what: str, argument: str = "") -> UsageError:
    where = f"{argument}: {path.name}" if argument else path.name
    with path.open("rb") as stream:
        start = stream.read(6)
    if what != "an array" and start == b"\x93NUMPY":
        return UsageError(f"{where}: got a single array, expected an .npz archive; write it with numpy.savez")
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return UsageError(
        f"{where} cannot be read as {what} ({reason}); it is cut off, damaged or of another type, write it again"
        if argument
        else f"{where}: cannot be read as {what} ({reason}); it is cut off, damaged or of another type, write it again"
    )
