"""Checkpoints: one file, written atomically, checked when read.

The file is a line of text, the SHA-256 of what follows, and a numpy archive without pickles. It holds the
state, the records so far, and a fingerprint of everything that decides the run's bits; a file of another run
is refused.
"""

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from flatmin._core import JobError, Real, UsageError, checked
from flatmin._core.identity import identity

_MAGIC = b"flatmin checkpoint 1 sha256 "


@checked(seconds=Real(0, infinite=True))
@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where and how often to save a run.

    The file is written at the first moment between two stretches of steps after `seconds` have passed, when
    the run is interrupted, and at its end. If it exists already, the run continues from it.

    Attributes:
        path: the file; its folder must exist.
        seconds: least time between two writes.

    Raises:
        UsageError: if the folder does not exist, or `seconds` is negative.
    """

    path: Path | str
    seconds: float | int = 60.0

    def __post_init__(self):
        if not self.file.parent.is_dir():
            raise UsageError(f"checkpoint: the folder {self.file.parent} does not exist; create it first")
        if self.file.is_dir():
            raise UsageError(f"checkpoint: {self.file} is a folder, expected a file name")

    @property
    def file(self) -> Path:
        """The path as a `Path`."""
        return Path(self.path)


def _numpy(leaf: Any) -> np.ndarray:
    keys = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if keys else leaf)


def fingerprint(
    dynamics: Any, objective: Any, params: PyTree, key: Key[Array, "..."], records: Mapping[str, Callable[..., Any]]
) -> dict[str, str]:
    """What decides the bits of a run, in parts with names.

    Args:
        dynamics: rule and hyperparameters.
        objective: loss and data; of a function its code and all that it captures, see `flatmin._core.identity`.
        params: the initial point.
        key: random key(s).
        records: the function of each record.

    Returns:
        Part -> hash (or version).

    Raises:
        UsageError: for a part without an identity, such as a function that captures an open file.
    """
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flatmin") if _installed(name)}
    parts = {"dynamics": dynamics, "objective": objective, "params": params, "key": key}
    parts |= {f"records[{name!r}]": fn for name, fn in records.items()}
    return {name: identity(part, f"checkpoint: {name}") for name, part in parts.items()} | {
        "versions": " ".join(f"{name} {version}" for name, version in versions.items())
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


class Store:
    """Writes and reads the file of one run.

    Attributes:
        checkpoint: path and period.
        identity: fingerprint of the run.
    """

    def __init__(self, checkpoint: Checkpoint, identity: dict[str, str]):
        self.checkpoint = checkpoint
        self.identity = identity
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether `seconds` have passed since the last write."""
        return time.monotonic() - self._last >= self.checkpoint.seconds

    def write(self, tree: PyTree, meta: dict[str, Any]) -> None:
        """Replace the file by a new one, or leave the old one as it is.

        Args:
            tree: pytree of arrays.
            meta: what JSON can hold.

        Raises:
            JobError: if the disk refuses; the previous checkpoint is intact.
        """
        leaves = jax.tree.leaves(tree)
        header = json.dumps({"identity": self.identity, "meta": meta, "leaves": len(leaves)})
        archive = io.BytesIO()
        arrays = {f"leaf{i}": _numpy(leaf) for i, leaf in enumerate(leaves)}
        arrays["header"] = np.frombuffer(header.encode(), np.uint8)
        np.savez(archive, **arrays)  # pyright: ignore[reportArgumentType]
        body = archive.getvalue()
        path, temporary = self.checkpoint.file, None
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
            temporary = None
            _sync_folder(path.parent)
        except OSError as error:
            raise JobError(
                f"checkpoint: writing {path} failed ({error.strerror or error}); "
                "the previous checkpoint is intact; free some space or choose another path"
            ) from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
        self._last = time.monotonic()

    def read(self) -> tuple[dict[str, Any], list[np.ndarray]] | None:
        """The checkpoint's meta data and leaves.

        Returns:
            `None` if there is no file.

        Raises:
            UsageError: if the file is damaged or belongs to another run.
            JobError: if it cannot be read.
        """
        path = self.checkpoint.file
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JobError(f"checkpoint: reading {path} failed ({error.strerror or error})") from error
        if not raw.startswith(_MAGIC):
            raise UsageError(f"checkpoint: {path} is not a flatmin checkpoint; choose another path")
        head, _, body = raw.partition(b"\n")
        if head[len(_MAGIC) :] != hashlib.sha256(body).hexdigest().encode():
            raise UsageError(f"checkpoint: {path} is damaged (checksum mismatch); delete it to start the run again")
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            leaves = [archive[f"leaf{i}"] for i in range(header["leaves"])]
        theirs = header["identity"]
        # other records than the file's are the caller's business; the same name with another function is not
        differing = [part for part, value in self.identity.items() if part in theirs and theirs[part] != value]
        differing += [part for part in self.identity if part not in theirs and not part.startswith("records[")]
        if differing:
            raise UsageError(
                f"checkpoint: {path} belongs to another run ({', '.join(differing)} differ); "
                "choose another path or delete it"
            )
        return header["meta"], leaves


def restore(like: PyTree, leaves: list[np.ndarray]) -> PyTree:
    """Leaves of a file, with the structure and types of `like`.

    Args:
        like: pytree of arrays.
        leaves: as stored; types that numpy does not know come back as raw bytes.

    Returns:
        A pytree of JAX arrays.
    """
    expected, structure = jax.tree.flatten(like)
    arrays = [jnp.asarray(leaf.view(e.dtype), dtype=e.dtype) for leaf, e in zip(leaves, expected, strict=True)]
    return jax.tree.unflatten(structure, arrays)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows: a folder cannot be opened, the rename itself is durable
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
