"""A study as a job: its blocks, computed into the bytes of one segment wherever that may be."""

import functools
import json
import os
import platform
import time
from typing import Any

import numpy as np

from flatmin._core import JobError, UsageError
from flatmin._core.forks import refuse_fork
from flatmin.storage.folders import host_name
from flatmin.studies._job import Job, Report
from flatmin.studies._segments import DONE, FAILED, Segment, encode
from flatmin.studies.spec import StudySpec
from flatmin.studies.study import Study


class StudyJob(Job):
    """The blocks of a study.

    Attributes:
        study: the study.
    """

    def __init__(self, study: Study):
        self.study = study

    @property
    def user_code(self) -> bool:
        """A study of a function calls the user's."""
        return self.study.spec.function is not None

    def __reduce__(self) -> tuple[Any, ...]:
        """As spec and width: a process that has them has the study."""
        plain = self.study.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return _job_of, (json.dumps(plain), self.study.width)

    def compute(self, pieces: tuple[int, ...], report: Report) -> bytes:
        """Blocks into a segment; failures of cells are recorded in it."""
        return compute_batch(self.study, pieces)

    def lost(self, pieces: tuple[int, ...], reason: str) -> bytes:
        """Failed cells, with the reason."""
        return failed_batch(self.study, pieces, reason)


@functools.lru_cache(maxsize=4)
def _job_of(spec: str, width: int) -> StudyJob:
    return StudyJob(Study(StudySpec.model_validate(json.loads(spec)), width))


def compute_batch(study: Study, blocks: tuple[int, ...]) -> bytes:
    """Compute blocks; a cell that cannot be computed is recorded with its reason, its neighbours are not touched.

    Args:
        study: the study.
        blocks: numbers of the blocks.

    Returns:
        An encoded segment.
    """
    began = time.perf_counter()
    parts = [_block(study, block) for block in blocks]
    about = {"seconds": time.perf_counter() - began, "host": host_name(), "pid": os.getpid(), "date": time.time()}
    return encode(_joined(study, parts, about | {"python": platform.python_version()}))


def failed_batch(study: Study, blocks: tuple[int, ...], reason: str) -> bytes:
    """The record of blocks that nobody could compute.

    Args:
        study: the study.
        blocks: numbers of the blocks.
        reason: why.

    Returns:
        An encoded segment.
    """
    cells = np.concatenate([study.blocks.cells(block) for block in blocks])
    return encode(_joined(study, [(cells, None, dict.fromkeys(cells.tolist(), reason))], {}))


Part = tuple[np.ndarray, dict[str, np.ndarray] | None, dict[int, str]]


def _block(study: Study, block: int) -> Part:
    cells = study.blocks.cells(block)
    try:
        values = _in_float64(study, lambda: study.compute(block))
    except Exception as error:  # noqa: BLE001 - recorded with the cell
        if cells.size == 1:
            return cells, None, {int(cells[0]): _reason(error)}
    else:
        return cells, values, {}
    # one bad cell must not take the others with it
    values = {name: np.full((cells.size, *out.shape), np.nan) for name, out in study.outputs.items()}
    reasons: dict[int, str] = {}
    for lane, cell in enumerate(cells.tolist()):
        try:
            alone = _in_float64(study, lambda lane=lane: study.compute_alone(block, lane))
        except Exception as error:  # noqa: BLE001 - recorded with the cell
            reasons[cell] = _reason(error)
        else:
            for name, value in alone.items():
                values[name][lane] = value
    return cells, values, reasons


def _in_float64(study: Study, work: Any) -> Any:
    if study.spec.function is not None:
        return work()
    import jax

    refuse_fork()

    # the setting of this thread, while it computes: what the caller's program has chosen stays
    with jax.enable_x64(True):
        return work()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return "not enough memory; lower batching.width or make the problem smaller"
    return text if isinstance(error, UsageError | JobError) else f"{type(error).__name__}: {text}"[:500]


def _joined(study: Study, parts: list[Part], about: dict[str, Any]) -> Segment:
    cells = np.concatenate([part[0] for part in parts])
    reasons = {cell: reason for part in parts for cell, reason in part[2].items()}
    states = np.array([FAILED if cell in reasons else DONE for cell in cells.tolist()], np.uint8)
    values = {}
    for name, out in study.outputs.items():
        blanks = (np.full((part[0].size, *out.shape), np.nan) if part[1] is None else part[1][name] for part in parts)
        values[name] = np.concatenate(list(blanks))
    return Segment(study.id, cells, states, values, reasons, about)
