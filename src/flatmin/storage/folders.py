"""Folders that are either complete or absent.

A folder is filled under a hidden sibling name, its files are forced to disk, and one rename publishes it. A
killed process leaves only the hidden sibling, which nobody reads and the next writer on that machine removes.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from flatmin._core import JobError

CHECKSUMS = "SHA256SUMS"
_PARTIAL = re.compile(r"\.partial-.+-(?P<host>[A-Za-z0-9]+)-(?P<pid>\d+)-[0-9a-f]{8}")


_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>[^\n]+)")


class DamagedError(ValueError):
    """What is there is not what was written."""


@contextlib.contextmanager
def staged_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Fill a hidden sibling of `target`; publish it when the block ends well, remove it otherwise.

    If another process published `target` meanwhile, that one stays and this one is dropped.

    Args:
        target: the folder that shall exist, complete, or not at all.

    Yields:
        The folder to fill.

    Raises:
        JobError: if the disk is full or refuses; nothing is left behind.
    """
    stage = stage_path(target)
    try:
        try:
            stage.mkdir(parents=True)
            remove_leftovers(target.parent)
            yield stage
            write_checksums(stage)
            _sync_tree(stage)
            _publish(stage, target)
        except OSError as error:
            raise JobError(
                f"run: could not write {target} ({error.strerror or error}); free space or choose "
                "another folder with --out, then start it again. Nothing was left behind"
            ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def stage_path(target: pathlib.Path) -> pathlib.Path:
    """A hidden sibling of `target` whose name tells which process of which machine fills it.

    Args:
        target: the folder to be published.

    Returns:
        A path that does not exist yet.
    """
    return target.parent / f".partial-{target.name}-{host_name()}-{os.getpid()}-{secrets.token_hex(4)}"


def replace_file(path: pathlib.Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    Args:
        path: the file.
        content: its new content.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_checksums(folder: pathlib.Path) -> None:
    """List the SHA-256 of every file, in the form that `sha256sum -c` reads.

    Args:
        folder: the folder to list.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS and p.name[0] != ".")
    listed = [(sha256(file), file.relative_to(folder).as_posix()) for file in files]
    replace_file(folder / CHECKSUMS, checksum_list(listed))


def checksum_list(lines: Iterable[tuple[str, str]]) -> bytes:
    """A list of checksums, in the form that `sha256sum -c` reads; its last line, a comment there, is its own checksum.

    Args:
        lines: hexadecimal SHA-256 and relative name, for each line.

    Returns:
        The bytes.
    """
    text = "".join(f"{digest}  {name}\n" for digest, name in lines).encode()
    return text + f"# {hashlib.sha256(text).hexdigest()}\n".encode()


def read_checksums(folder: pathlib.Path, *, sealed: bool = False) -> dict[str, str]:
    """The listed checksums by relative name.

    Args:
        folder: the folder.
        sealed: refuse a list without its own checksum; those of 0.1 had none.

    Returns:
        Hexadecimal SHA-256 by name.

    Raises:
        DamagedError: unless each line has the form of `sha256sum` and names another file inside of the folder.
        OSError: if the list cannot be read.
    """
    listed: dict[str, str] = {}
    for digest, name in checksum_lines(read_regular(folder / CHECKSUMS), sealed=sealed):
        if name in listed:
            raise DamagedError(f"{CHECKSUMS} lists {name} twice")
        listed[name] = digest
    return listed


def checksum_lines(content: bytes, *, sealed: bool = False) -> list[tuple[str, str]]:
    """The lines of a list of checksums.

    Args:
        content: of the list.
        sealed: refuse a list without its own checksum.

    Returns:
        Hexadecimal SHA-256 and relative name, for each line.

    Raises:
        DamagedError: unless each line has the form of `sha256sum` and names a file inside of the folder, and its own
            checksum fits.
    """
    before, mark, digest = content.rpartition(b"# ")
    if mark:
        if hashlib.sha256(before).hexdigest().encode() + b"\n" != digest:
            raise DamagedError(f"{CHECKSUMS} does not fit its own checksum")
        content = before
    elif sealed:
        raise DamagedError(f"{CHECKSUMS} lacks its own checksum")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DamagedError(f"{CHECKSUMS} is no text") from error
    lines: list[tuple[str, str]] = []
    for line in text.removesuffix("\n").split("\n") if text else []:
        match = _LINE.fullmatch(line)
        if match is None or not _is_inside(match["name"]):
            raise DamagedError(f"{CHECKSUMS} has a line that is no checksum of a file of the folder")
        lines.append((match["digest"], match["name"]))
    if text and not text.endswith("\n"):
        raise DamagedError(f"{CHECKSUMS} is cut off")
    return lines


def _is_inside(name: str) -> bool:
    path = pathlib.PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == name != "."


def is_as_listed(folder: pathlib.Path, name: str, digest: str) -> bool:
    """Whether a file is there, is a file and no link, nor below one, and has its checksum.

    Args:
        folder: the folder.
        name: relative name.
        digest: hexadecimal SHA-256.

    Returns:
        The answer.
    """
    above = pathlib.PurePosixPath(name).parents
    if any((folder / part).is_symlink() for part in above if part.name):
        return False
    try:
        return sha256(folder / name) == digest
    except OSError:
        return False


def sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Args:
        path: the file.

    Returns:
        64 digits.

    Raises:
        OSError: for what is no regular file, a link included.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def open_regular(path: pathlib.Path, *, links: bool = False) -> BinaryIO:
    """A file, open for reading; never a pipe or a device, which would be waited for.

    Args:
        path: the file.
        links: whether a link to a file will do.

    Returns:
        The stream.

    Raises:
        OSError: for what is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | (0 if links else getattr(os, "O_NOFOLLOW", 0)))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))  # noqa: TRY301 - the handle is closed below
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: pathlib.Path, *, links: bool = False, limit: int | None = None) -> bytes:
    """The content of a file; never of a pipe or a device.

    Args:
        path: the file.
        links: whether a link to a file will do.
        limit: most bytes; None for any.

    Returns:
        The bytes.

    Raises:
        OSError: for what is no regular file, or is larger.
    """
    with open_regular(path, links=links) as stream:
        if limit is not None and os.fstat(stream.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return stream.read()


def remove_leftovers(out: pathlib.Path) -> None:
    """Remove what killed processes of this machine left behind; folders of living ones stay.

    Args:
        out: the folder of runs.
    """
    if os.name == "nt":  # os.kill(pid, 0) would end the process there
        return
    for folder in out.glob(".partial-*"):
        match = _PARTIAL.fullmatch(folder.name)
        if match and match["host"] == host_name() and not is_alive(int(match["pid"])):
            shutil.rmtree(folder, ignore_errors=True)


def _publish(stage: pathlib.Path, target: pathlib.Path) -> None:
    try:
        stage.replace(target)
    except OSError:
        if not (target / CHECKSUMS).is_file():
            raise
        return  # somebody else was first, with the same id and so the same content
    sync(target.parent)


def _sync_tree(folder: pathlib.Path) -> None:
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: pathlib.Path) -> None:
    """Force a file, or the names in a folder, to disk.

    Args:
        path: the file or folder.
    """
    if os.name == "nt":  # neither folders nor read-only handles can be synced there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is running.

    Args:
        pid: its number.

    Returns:
        True also for a process of another user.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def host_name() -> str:
    """The machine's name in letters and digits, for names of files.

    Returns:
        The name.
    """
    return re.sub(r"[^A-Za-z0-9]", "", platform.node()) or "host"
