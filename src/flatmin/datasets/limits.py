"""How much a file may unpack to: looked up before it is unpacked."""

import gzip
import io
import pathlib
import sys
import zlib

from flatmin._core import UsageError
from flatmin._core.threads import machine_memory

LEAST_ROOM = 256_000_000
"""Bytes that any file may unpack to."""

SHARE = 16
"""A file may take this part of the machine's memory: it is held three times while it is read, and solvers take more."""


def room() -> int:
    """Bytes that what is read from one file may take.

    Returns:
        A sixteenth of the machine's memory, a quarter of the process's own limit if that is less, and no less than
        `LEAST_ROOM`.
    """
    most = machine_memory() // SHARE
    if sys.platform != "win32":
        import resource

        for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
            limit = resource.getrlimit(kind)[0]
            if limit != resource.RLIM_INFINITY:
                most = min(most, limit // 4)
    return max(most, LEAST_ROOM)


def check_room(where: str, size: int, advice: str) -> None:
    """Refuse what would take more than `room`.

    Args:
        where: the file, for the sentence.
        size: bytes that it declares.
        advice: what to do.

    Raises:
        UsageError: with both sizes.
    """
    if size > room():
        raise UsageError(
            f"{where}: holds {_bytes(size)} of numbers, expected at most {_bytes(room())} on this machine; {advice}"
        )


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def unpacked(path: pathlib.Path) -> io.BytesIO:
    """What a `.gz` file holds, in memory; it is counted while it is unpacked.

    Args:
        path: the file.

    Returns:
        A stream at its beginning.

    Raises:
        UsageError: for what is no gzip file, and more bytes than `room`.
    """
    content = io.BytesIO()
    try:
        with gzip.open(path) as stream:
            while piece := stream.read(1 << 20):
                check_room(path.name, content.tell() + len(piece), "take a part of it")
                content.write(piece)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(
            f"{path.name}: cannot be unpacked ({error}); it is cut off or damaged, write it again"
        ) from error
    content.seek(0)
    return content
