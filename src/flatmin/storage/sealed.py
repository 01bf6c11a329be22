"""Files that carry their own checksum, in a folder to which many processes may add.

A file is written under a hidden name, forced to disk and renamed. What a killed process leaves is a hidden file that
nobody reads. Files of different names never harm each other; of two with the same name the later one stays, whole.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import secrets
import struct
from collections.abc import Collection, Mapping
from typing import Any

from flatmin._core import JobError
from flatmin.storage.folders import DamagedError, host_name, is_alive, read_regular, sync

MAGIC = b"flatmin segment 1\n"


def seal(header: Mapping[str, Any], payload: bytes) -> bytes:
    """A header and a payload as bytes: mark, length of the header, header (JSON), payload, SHA-256 of all before.

    Args:
        header: JSON values.
        payload: the rest.

    Returns:
        The bytes.
    """
    text = json.dumps(header).encode()
    body = b"".join([MAGIC, struct.pack("<Q", len(text)), text, payload])
    return body + hashlib.sha256(body).digest()


def unseal(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header and the payload behind sealed bytes.

    Args:
        data: what `seal` returned, possibly damaged since.

    Returns:
        Both.

    Raises:
        DamagedError: unless every byte is as it was written.
    """
    if len(data) < len(MAGIC) + 40 or not data.startswith(MAGIC):
        raise DamagedError("not a sealed file, or cut off")
    whole = memoryview(data)
    body, digest = whole[:-32], whole[-32:]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedError("the checksum does not fit")
    start = len(MAGIC) + 8
    (length,) = struct.unpack("<Q", body[len(MAGIC) : start])
    return json.loads(bytes(body[start : start + length])), body[start + length :]


def seal_json(plain: Mapping[str, Any]) -> bytes:
    """JSON values with their own checksum, in a file that people can read.

    Args:
        plain: JSON values by name.

    Returns:
        The bytes: JSON with one more name, `sha256`, of the bytes without it.
    """
    digest = hashlib.sha256(_json(plain)).hexdigest()
    return _json({**plain, "sha256": digest})


def unseal_json(data: bytes, unsealed: Collection[str] = ()) -> dict[str, Any]:
    """The values behind bytes of `seal_json`.

    Args:
        data: the bytes, possibly damaged since.
        unsealed: the names in a file of an earlier version, which had no checksum.

    Returns:
        The values, by name.

    Raises:
        DamagedError: unless every byte is as it was written.
    """
    try:
        plain = json.loads(data)
        names = set(plain)
        digest = plain.pop("sha256", None)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"not JSON values by name ({error})") from error
    if not (names == set(unsealed) or (digest is not None and seal_json(plain) == data)):
        raise DamagedError("the checksum does not fit")
    return plain


def _json(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, indent=2, ensure_ascii=False).encode()


class SealedFolder:
    """A folder of sealed files.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path

    def names(self, suffix: str) -> list[str]:
        """Names of the files that are complete, in order; hidden ones are being written, or were.

        Args:
            suffix: how they end.

        Returns:
            The names.

        Raises:
            OSError: if the folder is not there or cannot be read.
        """
        found = (entry.name for entry in os.scandir(self.path))
        return sorted(name for name in found if name.endswith(suffix) and name[0] != ".")

    def write(self, name: str, data: bytes) -> None:
        """Add a file; on return it is on disk.

        Args:
            name: of the file.
            data: sealed bytes.

        Raises:
            JobError: if the disk is full or refuses; nothing finished is lost.
        """
        hidden = self.path / f".{host_name()}-{os.getpid()}-{secrets.token_hex(3)}-{name}"
        try:
            with hidden.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            hidden.rename(self.path / name)
            sync(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                hidden.unlink(missing_ok=True)
            what = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder"
            raise JobError(
                f"out: could not write to {self.path} ({error.strerror or error}); {what} and start the same "
                "command again. Finished cells are kept"
            ) from error

    def read(self, name: str) -> tuple[dict[str, Any], memoryview]:
        """The header and the payload of a file.

        Args:
            name: of the file.

        Returns:
            Both.

        Raises:
            FileNotFoundError: if it is not there.
            DamagedError: unless every byte is as it was written.
        """
        try:
            data = read_regular(self.path / name)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DamagedError(str(error)) from error
        return unseal(data)

    def set_aside(self, names: list[str]) -> None:
        """Rename damaged files, so that they are reported once; they are kept for who wants to look.

        Args:
            names: of the files.
        """
        for name in names:
            with contextlib.suppress(OSError):
                (self.path / name).rename(self.path / f"{name}.damaged")

    def remove_leftovers(self) -> None:
        """Remove hidden files of processes of this machine that are gone."""
        for path in self.path.glob(f".{host_name()}-*"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int(path.name.split("-")[1])
                if os.name != "nt" and pid != os.getpid() and not is_alive(pid):
                    path.unlink()
