"""Named cells: a grid whose cells are functions of their own, each with a key and a labelled dataset as its result.

The same engine as a study's: the same executors, and one sealed file a cell. A cell is a function of its key; finished
ones stay in the folder, so that an interrupted or failed run goes on where it stopped, in this process or another.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from flatmin._core import JobError
from flatmin._core.threads import available_cores, blas_threads
from flatmin.storage.folders import host_name
from flatmin.storage.netcdf import from_netcdf, to_netcdf
from flatmin.storage.sealed import DamagedError, SealedFolder, seal, unseal
from flatmin.studies._feed import Feed
from flatmin.studies._job import Batch, Job, Report
from flatmin.studies.engine import check_share, make_executor
from flatmin.studies.executors import Executor, Threads

if TYPE_CHECKING:
    import xarray as xr

Spread = Literal["threads", "processes"]
Compute = Callable[[pathlib.Path, Report], "xr.Dataset"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        name: for the progress display.
        key: what it depends on, as JSON values; with the names of the run it identifies the result.
        compute: called as `compute(checkpoint file, progress)`; returns a dataset. A function of a module, or a partial
            of one, where cells are computed by other processes.
    """

    name: str
    key: Mapping[str, Any]
    compute: Compute

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the key."""
        return hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:16]


class OtherSharesError(Exception):
    """The cells of this share are finished, others are not.

    Attributes:
        finished: cells that are there.
        total: all cells.
    """

    def __init__(self, finished: int, total: int):
        super().__init__(f"{finished} of {total} cells are finished")
        self.finished, self.total = finished, total


@dataclasses.dataclass(frozen=True)
class CellsJob(Job):
    """Named cells as a job.

    Attributes:
        cells: the cells.
        folder: where they keep their checkpoints; a machine that does not see it keeps none.
        float64: whether they compute in float64.
        home: the process that has the setting.
    """

    cells: tuple[Cell, ...]
    folder: pathlib.Path
    float64: bool
    home: int = dataclasses.field(default_factory=os.getpid)
    patience = 5.0

    @property
    def user_code(self) -> bool:
        """Whether a cell is computed by a function that is not ours."""
        modules = (getattr(_innermost(cell.compute), "__module__", None) for cell in self.cells)
        return any(name is None or name.partition(".")[0] != "flatmin" for name in modules)

    def compute(self, pieces: tuple[int, ...], report: Report) -> bytes:
        """One cell into its dataset."""
        (number,) = pieces
        cell = self.cells[number]
        began = time.perf_counter()
        with contextlib.ExitStack() as stack:
            folder = self.folder
            if not folder.is_dir():
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._enter_precision(stack)
            report(0, 1)
            dataset = cell.compute(folder / f"{cell.digest}.checkpoint", report)
            payload = to_netcdf(dataset)
        about = {"seconds": time.perf_counter() - began, "host": host_name(), "pid": os.getpid(), "date": time.time()}
        return seal({"key": dict(cell.key), "about": about}, payload)

    def _enter_precision(self, stack: contextlib.ExitStack) -> None:
        import jax

        if bool(jax.config.read("jax_enable_x64")) == self.float64:
            return
        if os.getpid() != self.home:  # the threads that a cell starts would have the other precision
            raise JobError(f"scheduler: start its workers with JAX_ENABLE_X64={int(self.float64)}, as here")
        stack.enter_context(jax.enable_x64(self.float64))

    def lost(self, pieces: tuple[int, ...], reason: str) -> bytes:
        """A cell that cannot be computed stops the run."""
        raise JobError(f"{self.cells[pieces[0]].name}: {reason}; start the same command again, finished cells are kept")


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def run_cells(
    cells: Iterable[Cell],
    folder: pathlib.Path,
    *,
    workers: int = 1,
    spread: Spread = "threads",
    shard: tuple[int, int] = (1, 1),
    scheduler: str | None = None,
    progress: Callable[[str, int, int], Any],
) -> "list[xr.Dataset]":
    """Compute all cells of a share, those found finished excepted.

    Args:
        cells: the cells; the largest first, so that workers end together.
        folder: where finished cells and checkpoints are kept.
        workers: cells computed at the same time.
        spread: over threads, for cells that share compiled programs and leave Python's lock alone, or processes.
        shard: `(i, n)`, from 1: the i-th of n shares of the cells.
        scheduler: address of a Dask scheduler, or `local`.
        progress: called as `progress(cell name, done, total)`, from any thread; first with total 0 for each cell, so
            that all are known from the start.

    Returns:
        Their datasets, in order.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the running cells have written their checkpoints.
        JobError: the first failure of a cell, or of the disk or the cluster.
        UsageError: for a share that does not exist.
        OtherSharesError: if all of this share is finished, and others are not.
    """
    import jax

    check_share(shard)
    job = CellsJob(tuple(cells), folder, bool(jax.config.read("jax_enable_x64")))
    run = _Run(job, shard, progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"out: cannot write to {folder} ({error.strerror}); choose another folder") from error
    run.files.remove_leftovers()
    for cell in job.cells:
        progress(cell.name, 0, 0)
    # cells that may be anywhere take one thread everywhere: other numbers of threads, other last bits
    threads = 1 if spread == "processes" or scheduler is not None else max(1, available_cores() // workers)
    with blas_threads(threads):
        found = [number for number in range(len(job.cells)) if run.find(number)]
        run.files.set_aside([run.name(number) for number in run.damaged])
        feed = Feed([iter(range(len(job.cells)))], run.is_open)
        if len(found) < len(job.cells):
            executor = _executor(job, workers, spread, scheduler)
            try:
                feed.drive(executor, job, run.enter, run.report)
            finally:
                executor.close()
    done = [run.done.get(number) for number in range(len(job.cells))]
    complete = [dataset for dataset in done if dataset is not None]
    if len(complete) < len(job.cells):
        raise OtherSharesError(len(complete), len(job.cells))
    return complete


def _executor(job: CellsJob, workers: int, spread: Spread, scheduler: str | None) -> Executor:
    if spread == "threads" and scheduler is None:
        return Threads(job, workers)
    return make_executor(job, workers, scheduler)


class _Run:
    """One call of `run_cells`: what is finished, and how results are entered."""

    def __init__(self, job: CellsJob, shard: tuple[int, int], progress: Callable[[str, int, int], Any]):
        self.files = SealedFolder(job.folder)
        self.done: dict[int, xr.Dataset] = {}
        self.damaged: list[int] = []
        self._job, self._shard, self._progress = job, shard, progress

    def name(self, number: int) -> str:
        return f"{self._job.cells[number].digest}.cell"

    def find(self, number: int) -> bool:
        """Whether a cell is finished, here or by another process."""
        if number in self.done:
            return True
        try:
            header, payload = self.files.read(self.name(number))
            # a file of another cell, under this one's name, says nothing about it
            if header.get("key") != json.loads(json.dumps(dict(self._job.cells[number].key))):
                raise DamagedError("it holds another cell")  # noqa: TRY301 - as any other damage
            self.done[number] = from_netcdf(payload)
        except FileNotFoundError:
            return False
        except (DamagedError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.damaged.append(number)
            return False
        self._progress(self._job.cells[number].name, 1, 1)
        return True

    def is_open(self, number: int) -> bool:
        part, parts = self._shard
        return number % parts == part - 1 and not self.find(number)

    def enter(self, batch: Batch, data: bytes) -> None:
        (number,) = batch.pieces
        _, payload = unseal(data)
        self.done[number] = from_netcdf(payload)
        # another process may have stored the whole run meanwhile, and cleared up
        self.files.path.mkdir(parents=True, exist_ok=True)
        self.files.write(self.name(number), data)
        with contextlib.suppress(OSError):
            (self.files.path / f"{self._job.cells[number].digest}.checkpoint").unlink(missing_ok=True)
        self._progress(self._job.cells[number].name, 1, 1)

    def report(self, batch: Batch | None, done: int, total: int) -> None:
        numbers: Sequence[int] = (0,) if batch is None else batch.pieces
        self._progress(self._job.cells[numbers[0]].name, done, total)
