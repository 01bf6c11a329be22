"""The folder of a study: finished cells, durable and checksummed, whoever wrote them and when.

    FOLDER/
        study.json        the spec, the lanes of a call, the versions
        SHA256SUMS        checksums of study.json and specs/*.json, and of itself (see `flatmin.studies._manifest`)
        segments/*.seg    results, each file complete or absent; many processes may add to them
        specs/*.json      specs that the folder had before, for the cells that the present one shares
        running/*.json    one file a process that is computing, renewed now and then
        report/           derived

Nothing is ever written over (see `flatmin.storage.sealed`), so processes that share the folder cannot harm each other;
a cell that two of them computed has the same bits in both.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import secrets
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from flatmin._core import JobError
from flatmin.storage.folders import host_name, is_alive, read_regular
from flatmin.storage.sealed import SealedFolder, seal_json, unseal_json
from flatmin.studies._manifest import SPECS, damaged_specs, earlier_study, set_specs_aside
from flatmin.studies._segments import DONE, FAILED, Segment, segment_of
from flatmin.studies._translation import translate
from flatmin.studies.study import Study

HEARTBEAT = 30.0
"""Seconds between two signs of life of a process that computes."""

GONE = 300.0
"""Seconds after which a process of another machine that gives no sign is taken for gone."""


@dataclasses.dataclass
class Content:
    """What is known of the cells.

    Attributes:
        states: `MISSING`, `DONE` or `FAILED` by cell, uint8.
        values: float64 by name, (cells, ...); NaN where missing or failed. Empty unless values were asked for.
        reasons: why a cell failed.
        damaged: names of segments and specs that are not what was written; their cells count as missing.
        foreign: segments of another spec or another number of lanes that say nothing about these cells.
        seconds: computing time of the segments, all processes together.
    """

    states: np.ndarray
    values: dict[str, np.ndarray]
    reasons: dict[int, str]
    damaged: list[str] = dataclasses.field(default_factory=list)
    foreign: int = 0
    seconds: float = 0.0

    def count(self, state: int) -> int:
        """Number of cells in a state."""
        return int(np.count_nonzero(self.states == state))


class Store:
    """The folder of one study."""

    def __init__(self, folder: pathlib.Path, study: Study):
        self.folder, self.study = folder, study
        self._segments = folder / "segments"
        self._files = SealedFolder(self._segments)
        self._seen: set[str] = set()
        self._stamp = -1
        self._other: dict[str, Study | None] = {}
        self._mark: pathlib.Path | None = None
        self._beat = 0.0

    # reading ----------------------------------------------------------------------------------------------------------

    def read(self, *, values: bool = True) -> Content:
        """All that is stored, from the beginning.

        Args:
            values: also the numbers, not only which cells are finished.

        Returns:
            The content.
        """
        self._seen.clear()
        self._stamp = -1
        size = self.study.grid.size
        found = {}
        if values:
            found = {name: np.full((size, *out.shape), np.nan) for name, out in self.study.outputs.items()}
        content = Content(np.zeros(size, np.uint8), found, {}, damaged=damaged_specs(self.folder))
        self.refresh(content)
        return content

    def refresh(self, content: Content) -> bool:
        """Add what other processes have written since.

        Args:
            content: what `read` returned; changed in place.

        Returns:
            Whether there was anything.
        """
        try:
            stamp = self._segments.stat().st_mtime_ns
            if stamp == self._stamp:
                return False
            names = self._files.names(".seg")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise JobError(f"out: cannot read {self._segments} ({error.strerror}); check its permissions") from error
        new = [name for name in names if name not in self._seen]
        for name in new:
            self._seen.add(name)
            self._add(name, content)
        # a file that came while we were reading changes the stamp after this one
        self._stamp = stamp
        return bool(new)

    def _add(self, name: str, content: Content) -> None:
        try:
            segment = segment_of(*self._files.read(name))
        except FileNotFoundError:
            return
            self._check(segment)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            content.damaged.append(name)
            return
        cells, keep = self._translated(segment)
        if not keep.any():
            content.foreign += 1
            return
        self.merge(content, segment, cells, keep)

    def merge(self, content: Content, segment: Segment, cells: np.ndarray, keep: np.ndarray) -> None:
        """Enter a segment into the content; what is finished stays finished."""
        content.seconds += float(segment.about.get("seconds", 0.0))
        keep = keep & (content.states[cells] != DONE)
        chosen, states = cells[keep], segment.states[keep]
        content.states[chosen] = states
        for name, stored in content.values.items():
            if name in segment.values:
                stored[chosen] = segment.values[name][keep]
        for cell, original, state in zip(chosen.tolist(), segment.cells[keep].tolist(), states, strict=True):
            content.reasons.pop(cell, None)
            if state == FAILED:
                content.reasons[cell] = segment.reasons.get(original, "no reason was recorded")

    def _translated(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the segment's cells in this study, and which of them it has."""
        if segment.study == self.study.id:
            inside = (segment.cells >= 0) & (segment.cells < self.study.grid.size)
            return segment.cells, inside
        if segment.study not in self._other:
            self._other[segment.study] = earlier_study(self.folder, segment.study)
        other = self._other[segment.study]
        cells = np.full(segment.cells.shape, -1, np.int64)
        if other is not None and other.width == self.study.width:
            cells[:] = [translate(other, self.study, int(cell)) for cell in segment.cells]
        keep = cells >= 0
        return np.where(keep, cells, 0), keep

    def _check(self, segment: Segment) -> None:
        """Refuse a segment whose arrays do not belong together, or not to the study that it names."""
        arrays = [segment.states, *segment.values.values()]
        if segment.cells.ndim != 1 or any(array.shape[:1] != segment.cells.shape for array in arrays):
            raise ValueError("arrays of different cells")
        if segment.study == self.study.id:
            for name, out in self.study.outputs.items():
                if name in segment.values and segment.values[name].shape[1:] != out.shape:
                    raise ValueError("values of another shape")

    # writing ----------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Add a segment; on return it is on disk.

        Args:
            data: an encoded segment.

        Raises:
            JobError: if the disk is full or refuses; nothing finished is lost.
        """
        name = f"{host_name()}-{os.getpid()}-{time.time_ns():x}-{secrets.token_hex(3)}.seg"
        self._files.write(name, data)
        self._seen.add(name)

    def set_aside(self, names: list[str]) -> None:
        """Rename damaged segments and specs, so that they are reported once; they are kept for who wants to look.

        Args:
            names: of the files.
        """
        specs = [name for name in names if name.startswith(f"{SPECS}/")]
        set_specs_aside(self.folder, specs)
        self._files.set_aside([name for name in names if name not in specs])

    # who is computing -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Say that this process computes here, while the block lasts.

        Yields:
            Number of other processes that do.

        Raises:
            JobError: if one of them computes another spec.
        """
        others = self.others()
        different = [mark for mark in others if mark["study"] != self.study.id]
        if different:
            raise in_use(self.folder, different[0])
        marks = self.folder / "running"
        self._mark = marks / f"{host_name()}-{os.getpid()}-{secrets.token_hex(3)}.json"
        try:
            marks.mkdir(exist_ok=True)
            self.beat(force=True)
            self._files.remove_leftovers()
            yield len(others)
        finally:
            self._mark.unlink(missing_ok=True)
            self._mark = None

    def beat(self, *, force: bool = False) -> None:
        """Give a sign of life, if it is time."""
        if self._mark is None or (not force and time.monotonic() - self._beat < HEARTBEAT):
            return
        self._beat = time.monotonic()
        mark = {"host": host_name(), "pid": os.getpid(), "study": self.study.id}
        try:
            self._mark.write_text(seal_json(mark).decode(), encoding="utf-8")
        except OSError as error:
            raise JobError(
                f"out: cannot write to {self.folder} ({error.strerror or error}); free space or check its permissions"
            ) from error

    def others(self) -> list[dict[str, Any]]:
        """The other processes that compute in this folder."""
        found = []
        for path in (self.folder / "running").glob("*.json"):
            try:
                mark = unseal_json(read_regular(path), ("host", "pid", "study"))
                age = time.time() - path.stat().st_mtime
                here = mark["host"] == host_name()
                alive = is_alive(int(mark["pid"])) if here and os.name != "nt" else age < GONE
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if alive and path != self._mark and not (here and int(mark["pid"]) == os.getpid()):
                found.append(mark)
            elif not alive:
                with contextlib.suppress(OSError):
                    path.unlink()
        return found


def in_use(folder: pathlib.Path, mark: dict[str, Any]) -> JobError:
    """The sentence for a folder in which another process computes another spec.

    Args:
        folder: the folder.
        mark: of the process.

    Returns:
        The error, to be raised.
    """
    return JobError(
        f"out: {folder} is in use by process {mark['pid']} on {mark['host']}, with another version of the spec; "
        "wait until it ends, or choose another folder with --out"
    )


def content_hash(study: Study, content: Content) -> str:
    """SHA-256 of all states and numbers, in the order of the cells: equal for studies that are equal bit for bit.

    Args:
        study: the study.
        content: read with values.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(study.id.encode())
    digest.update(content.states.tobytes())
    for name in sorted(content.values):
        digest.update(name.encode())
        # every NaN is the same: where they came from may differ
        values = np.where(np.isnan(content.values[name]), np.nan, content.values[name])
        digest.update(np.ascontiguousarray(values, "<f8").tobytes())
    return digest.hexdigest()
