"""Running a study: what is missing is computed and stored, batch by batch."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from flatmin._core import Integer, SequenceOf, UsageError, checked_anywhere
from flatmin._core.forks import refuse_fork
from flatmin._core.threads import blas_threads
from flatmin.studies._batches import StudyJob
from flatmin.studies._feed import Feed
from flatmin.studies._job import Batch, Job
from flatmin.studies._segments import DONE, FAILED, MISSING, decode
from flatmin.studies.executors import Devices, Executor, Processes, Serial, silent
from flatmin.studies.opening import open_store
from flatmin.studies.spec import StudySpec
from flatmin.studies.store import Content, Store
from flatmin.studies.study import Study

BATCH_SECONDS = 0.5
"""A batch is made to take about this long: with less the disk is in the way, with more a kill costs more."""

BATCH_BYTES = 32 * 2**20
"""Most bytes of a segment."""

SUMMARY_BYTES = 2**28
"""Studies up to this size are held in memory while they run, so that the display can say what comes out."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: cells of this run that are finished, found ones included.
        failed: cells of this run that failed.
        total: cells of this run.
        content: what is stored so far.
    """

    done: int
    failed: int
    total: int
    content: Content


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        study: the study.
        folder: where it is stored.
        found: cells that were finished before.
        computed: cells computed now.
        failed: cells that failed now or before.
        missing: cells that are in nobody's share of this run.
        damaged: segments that were damaged and set aside.
        seconds: wall time.
    """

    study: Study
    folder: pathlib.Path
    found: int
    computed: int
    failed: int
    missing: int
    damaged: int
    seconds: float


@checked_anywhere(shard=SequenceOf(Integer(), 2))
def run_study(
    spec: StudySpec,
    folder: str | pathlib.Path,
    *,
    workers: int = 1,
    batch_size: int | None = None,
    shard: tuple[int, int] = (1, 1),
    scheduler: str | None = None,
    retry_failed: bool = False,
    accept_changes: bool = False,
    progress: Callable[[Progress], Any] | None = None,
) -> Summary:
    """Compute what is missing of a study; finished cells are never computed again.

    The result is the same bit for bit whatever the workers, the batches, the order and the interruptions: a cell's lane
    in its compiled call depends on the spec alone.

    Args:
        spec: the study.
        folder: where it is stored; made if it is not there.
        workers: processes; 1 computes in this one.
        batch_size: blocks (compiled calls) computed and stored together; default: so many that they take half a second.
        shard: `(i, n)`, from 1: the i-th of n shares of the blocks, for job arrays.
        scheduler: address of a Dask scheduler, or `local` for a cluster of `workers` on this machine.
        retry_failed: compute failed cells again.
        accept_changes: go on although the spec was edited or another version computed finished cells.
        progress: called after each batch.

    Returns:
        What was done.

    Raises:
        UsageError: for arguments out of range, an edited spec, a foreign folder.
        JobError: if the disk or the cluster fails; finished cells are kept.
    """
    check_share(shard)
    if spec.adaptive is not None and shard[1] > 1:
        raise UsageError("shard: an adaptive study decides as it goes and has no shares; use --workers or --scheduler")
    if workers == 1 and scheduler is None and spec.function is None:  # other processes are started anew
        refuse_fork()
    began = time.monotonic()
    store = open_store(pathlib.Path(folder), spec, accept_changes=accept_changes)
    with store.running() as others, blas_threads(1):
        small = store.study.grid.size * store.study.bytes_per_cell <= SUMMARY_BYTES
        content = store.read(values=small or spec.adaptive is not None)
        damaged = list(content.damaged)
        store.set_aside(damaged)
        run = _Run(store, content, shard, batch_size, retry_failed, progress, others)
        found = content.count(DONE)
        if spec.adaptive is not None and retry_failed:  # it asks for missing cells only
            content.states[content.states == FAILED] = MISSING
        executor, job = None, StudyJob(store.study)
        try:
            for blocks in _rounds(run):
                if not run.open_blocks(blocks):
                    continue
                executor = executor or make_executor(job, workers, scheduler, devices=spec.function is None)
                run.compute(blocks, executor, job)
        finally:
            if executor is not None:
                executor.close()
    return Summary(
        study=store.study,
        folder=store.folder,
        found=found,
        computed=run.computed,
        failed=content.count(FAILED),
        missing=content.count(MISSING),
        damaged=len(damaged),
        seconds=time.monotonic() - began,
    )


def _rounds(run: "_Run") -> Iterator[Iterable[int]]:
    """The blocks to compute, in rounds: an adaptive study decides each from the last."""
    study = run.store.study
    adaptive = study.spec.adaptive
    if adaptive is None:
        yield range(len(study.blocks))
        return
    from flatmin.studies.adaptive import rounds

    for cells in rounds(study, run.content, adaptive):
        yield sorted({study.blocks.block_of(int(cell)) for cell in cells})


def make_executor(job: Job, workers: int, scheduler: str | None, *, devices: bool = False) -> Executor:
    """Who computes a job, whose pieces keep to themselves.

    Args:
        job: the job.
        workers: processes.
        scheduler: of a cluster, None for none.
        devices: whether the pieces are spread over the devices that JAX sees, where one process computes.

    Returns:
        The executor.
    """
    if scheduler is not None:
        from flatmin.studies.cluster import Cluster

        return Cluster(job, scheduler, workers)
    if workers > 1:
        return Processes(job, workers)
    if devices:
        import jax

        found = jax.local_devices()
        if len(found) > 1:
            return Devices(job, found)
    return Serial(job)


class _Run:
    """One call of `run_study`: which blocks are open, and how results are entered."""

    def __init__(
        self,
        store: Store,
        content: Content,
        shard: tuple[int, int],
        batch_size: int | None,
        retry_failed: bool,
        progress: Callable[[Progress], Any] | None,
        others: int,
    ):
        self.store, self.content, self.computed = store, content, 0
        self._shard, self._size, self._adapts = shard, batch_size or 1, batch_size is None
        self._progress, self._others = progress, others
        study = store.study
        self._largest = max(1, BATCH_BYTES // (study.bytes_per_cell * study.width))
        # a failure is final unless it is asked to be tried again; then each is tried once
        self._retry = content.states == FAILED if retry_failed else np.zeros(0, bool)

    def is_open(self, block: int) -> bool:
        """Whether a block of this share has a cell to compute."""
        part, parts = self._shard
        if block % parts != part - 1:
            return False
        cells = self.store.study.blocks.cells(block)
        states = self.content.states[cells]
        if self._retry.size and (self._retry[cells] & (states == FAILED)).any():
            return True
        return bool((states == MISSING).any())

    def open_blocks(self, blocks: Iterable[int]) -> bool:
        """Whether any of the blocks is open."""
        return any(self.is_open(block) for block in blocks)

    def compute(self, blocks: Iterable[int], executor: Executor, job: Job) -> None:
        """Compute the open ones of the blocks, and store them."""
        ordered = blocks if isinstance(blocks, range) else list(blocks)
        # where another process has begun at the start, begin elsewhere: they meet once, not at every block
        turn = int(len(ordered) * (self._others * 0.6180339887498949 % 1.0))
        kin = self.store.study.kin
        orders = [_order(ordered, turn, kin, slot, executor.slots) for slot in range(executor.slots)]
        feed = Feed(orders, self.is_open, self._size)
        total = self._total(ordered)
        self._report(total)

        def enter(batch: Batch, data: bytes) -> None:
            self._enter(feed, batch, data)
            self._report(total)

        feed.drive(executor, job, enter, silent)
        self._size = feed.size

    def _total(self, blocks: Iterable[int]) -> int:
        part, parts = self._shard
        study = self.store.study
        if isinstance(blocks, range) and parts == 1:
            return study.grid.size
        return sum(study.blocks.cells(b).size for b in blocks if b % parts == part - 1)

    def _enter(self, feed: Feed, batch: Batch, data: bytes) -> None:
        segment = decode(data)
        self.store.write(data)
        self.store.beat()
        self.store.refresh(self.content)
        with feed.lock:
            self.computed += int(np.count_nonzero(self.content.states[segment.cells] != DONE))
            self.store.merge(self.content, segment, segment.cells, np.ones(segment.cells.shape, bool))
            if self._retry.size:
                self._retry[segment.cells] = False
            seconds = float(segment.about.get("seconds", BATCH_SECONDS))
            if self._adapts and seconds < BATCH_SECONDS / 2 and len(batch.pieces) >= feed.size:
                feed.size = min(2 * feed.size, self._largest)
            elif self._adapts and seconds > 2 * BATCH_SECONDS and feed.size > 1:
                feed.size //= 2

    def _report(self, total: int) -> None:
        if self._progress is not None:
            done, failed = self.content.count(DONE), self.content.count(FAILED)
            self._progress(Progress(min(done, total), failed, total, self.content))


def _order(blocks: Sequence[int], turn: int, kin: int, slot: int, slots: int) -> Iterator[int]:
    """The blocks in the order of a slot: every n-th family of blocks that share programs, then what others have left.

    A slot that stays with a family compiles its programs only. What is left is taken from the end, where its owner
    comes last.
    """
    count = len(blocks)
    if slots == 1 or kin == 1:
        yield from (blocks[(i + turn) % count] for i in range(count))
        return
    first, last = blocks[0] // kin, blocks[-1] // kin
    present = range(first, last + 1) if isinstance(blocks, range) else sorted({block // kin for block in blocks})
    here = None if isinstance(blocks, range) else set(blocks)
    families = len(present)

    def family(k: int) -> Iterator[int]:
        number = present[(k + turn // kin) % families]
        members = range(number * kin, (number + 1) * kin)
        yield from (b for b in members if (b < blocks[-1] + 1 if here is None else b in here))

    for k in range(slot, families, slots):
        yield from family(k)
    for k in range(families - 1, -1, -1):
        if k % slots != slot:
            yield from reversed(list(family(k)))


def check_share(shard: tuple[int, int]) -> None:
    """Refuse a share that does not exist.

    Args:
        shard: `(i, n)`.

    Raises:
        UsageError: unless `1 <= i <= n`.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise UsageError(f"shard: got {part}/{parts}, expected i/n with 1 <= i <= n, such as 3/8")


def share_of(text: str) -> tuple[int, int]:
    """`i/n` as numbers.

    Args:
        text: such as `3/8`.

    Returns:
        Both numbers.

    Raises:
        UsageError: for anything else.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"shard: got {text!r}, expected i/n with 1 <= i <= n, such as 3/8")
    return int(part), int(parts)
