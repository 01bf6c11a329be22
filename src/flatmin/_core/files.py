"""Files that users name: what stands at a path is looked at before a byte of it is read."""

import errno
import os
import pathlib
import stat
from collections.abc import Iterable

from flatmin._core.errors import UsageError, nearest

MOST_TEXT = 64_000_000
"""Bytes of a file of settings; one of a million values has less than 20 MB."""

_OTHERS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_UNICODE = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def regular_file(path: str | os.PathLike[str], argument: str = "file", *, endings: Iterable[str] = ()) -> pathlib.Path:
    """The path, if a file that can be read stands there.

    Pipes, devices and sockets are refused by their kind, never opened: reading one may wait for ever.

    Args:
        path: what the user gave; links are followed.
        argument: its name, for the sentence.
        endings: of files worth suggesting where there is none of that name.

    Returns:
        The path.

    Raises:
        UsageError: if nothing stands there, for a link that leads nowhere or in a circle, for anything that is no
            regular file, and for one that this user may not read.
    """
    try:
        file = pathlib.Path(path)
        mode = file.stat().st_mode
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{argument}: {_absent(path, error, tuple(endings))}") from error
    for kind, words in _OTHERS:
        if kind(mode):
            raise UsageError(
                f"{argument}: {path} is {words}, expected a file; copy what it holds into a file and name that"
            )
    if not os.access(file, os.R_OK):
        raise UsageError(f"{argument}: {path} may not be read by this user; change its permissions")
    return file


def read_text(path: str | os.PathLike[str], argument: str = "file") -> str:
    """The text of a small file of settings, in UTF-8 with or without a byte-order mark, UTF-16 or UTF-32 with one.

    Args:
        path: the file.
        argument: its name, for the sentence.

    Returns:
        The text, without the mark.

    Raises:
        UsageError: for what `regular_file` refuses, more than `MOST_TEXT` bytes, and what is no such text.
    """
    file = regular_file(path, argument)
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_TEXT + 1)
    except OSError as error:
        raise UsageError(f"{argument}: {path} cannot be read ({error.strerror or error}); check the file") from error
    if len(content) > MOST_TEXT:
        raise UsageError(
            f"{argument}: {path} has more than {MOST_TEXT:,} bytes, expected a file of settings; name another"
        )
    encoding = unicode_mark(content) or "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{argument}: {path} is not a text in UTF-8 ({error.reason} at byte {error.start}); save it as one"
        ) from error
    if "\x00" in text:
        raise UsageError(f"{argument}: {path} holds NUL bytes, so it is no text; save it as a text in UTF-8")
    return text


def unicode_mark(content: bytes) -> str | None:
    """The encoding that a byte-order mark at the beginning tells.

    Args:
        content: the first bytes of a file.

    Returns:
        `utf-8-sig`, `utf-16` or `utf-32`, None without a mark.
    """
    if content.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    return next((name for mark, name in _UNICODE if content.startswith(mark)), None)


def _absent(path: object, error: Exception, endings: tuple[str, ...]) -> str:
    if isinstance(error, TypeError):
        return f"got {type(path).__name__}, expected the path of a file"
    shown = str(path)[:200] + ("..." if len(str(path)) > 200 else "")
    if isinstance(error, ValueError):  # a NUL in the name
        return f"got {shown!r}, which no file can be called; check the path"
    file = pathlib.Path(str(path))
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ELOOP:
        return f"{shown} is a link that leads in a circle; name the file itself"
    if code == errno.ENAMETOOLONG:
        return f"got a name of {len(str(path))} characters ({shown}), which no file can have; check the path"
    if code == errno.EACCES:
        return f"{shown} lies in a folder that this user may not enter; change its permissions"
    if file.is_symlink():
        return f"{shown} is a link to {file.readlink()}, where nothing is; name the file itself"
    if code == errno.ENOTDIR:
        return f"there is no file {shown}, a part of the path is no folder; check the path"
    if code not in (errno.ENOENT, None):
        return f"{shown} cannot be read ({os.strerror(code)}); check the path"
    return f"there is no file {shown}; {_hint(file, endings)}"


def _hint(file: pathlib.Path, endings: tuple[str, ...]) -> str:
    try:
        beside = [p.name for p in file.parent.iterdir() if p.suffix.lower() in endings and p.is_file()]
    except OSError:
        beside = []
    return nearest(file.name, beside) if 0 < len(beside) <= 30 else "check the path"
