"""Folders that are either complete or absent.

A folder is filled under a hidden sibling name, its files are forced to disk, and one rename publishes it. A
killed process leaves only the hidden sibling, which nobody reads and the next writer on that machine removes.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import secrets
import shutil
from collections.abc import Iterator

from flatmin._core import JobError

CHECKSUMS = "SHA256SUMS"
_PARTIAL = re.compile(r"\.partial-.+-(?P<host>[A-Za-z0-9]+)-(?P<pid>\d+)-[0-9a-f]{8}")


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
    lines = [f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    replace_file(folder / CHECKSUMS, "".join(lines).encode())


def read_checksums(folder: pathlib.Path) -> dict[str, str]:
    """The listed checksums by relative name; names that would leave the folder are dropped.

    Args:
        folder: the folder.

    Returns:
        Hexadecimal SHA-256 by name.
    """
    listed: dict[str, str] = {}
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        path = pathlib.PurePosixPath(name)
        if name and not path.is_absolute() and ".." not in path.parts:
            listed[name] = digest
    return listed


def sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Args:
        path: the file.

    Returns:
        64 digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
