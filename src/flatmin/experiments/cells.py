"""Cells: the independent pieces of a long computation, each kept as soon as it is done.

A cell is a function of its key. Finished cells stay in a folder until the run that they belong to is stored, so an
interrupted or failed run starts again where it stopped.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flatmin._core import JobError
from flatmin._core.threads import available_cores, blas_threads
from flatmin.storage.folders import replace_file, sha256
from flatmin.storage.netcdf import read_netcdf, write_netcdf

if TYPE_CHECKING:
    import xarray as xr

Progress = Callable[[str, int, int], Any]


def _silent(_name: str, _done: int, _total: int) -> None:
    """No progress."""


@dataclasses.dataclass(frozen=True)
class Context:
    """How a computation runs, as against what it computes; never part of an id.

    Attributes:
        folder: where finished cells and checkpoints are kept.
        workers: cells computed at the same time, each in a thread of its own.
        progress: called as `progress(cell name, done, total)`, from any thread; first with total 0 for each cell, so
            that all are known from the start.
    """

    folder: pathlib.Path
    workers: int = 2
    progress: Progress = _silent


@dataclasses.dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        name: for the progress display.
        key: what it depends on, as JSON values; with the names of the run it identifies the result.
        compute: called as `compute(checkpoint file, progress)`; returns a dataset.
    """

    name: str
    key: Mapping[str, Any]
    compute: Callable[[pathlib.Path, Callable[[int, int], None]], "xr.Dataset"]


@contextlib.contextmanager
def roomy_threads() -> Iterator[None]:
    """Threads started in this block get 64 MiB of stack: compilers recurse deeply, and a full stack is a crash."""
    before = threading.stack_size(64 * 2**20)
    try:
        yield
    finally:
        threading.stack_size(before)


def compute_cells(cells: Mapping[Hashable, Cell], context: Context) -> dict[Any, "xr.Dataset"]:
    """Compute all cells, those found finished excepted.

    Args:
        cells: the cells by any label.
        context: folder, workers, progress.

    Returns:
        Dataset by label.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the running cells have written their checkpoints.
        JobError: the first failure of a cell, or of the disk.
    """
    stop = threading.Event()
    try:
        context.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"out: cannot write to {context.folder} ({error.strerror}); choose another folder") from error

    def work(cell: Cell) -> "xr.Dataset":
        def progress(done: int, total: int) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            context.progress(cell.name, done, total)

        progress(0, 1)
        dataset = _obtain(cell, context.folder, progress)
        context.progress(cell.name, 1, 1)
        return dataset

    for cell in cells.values():
        context.progress(cell.name, 0, 0)
    share = max(1, available_cores() // context.workers)
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=context.workers)
    with blas_threads(share), roomy_threads(), pool:
        futures = {label: pool.submit(work, cell) for label, cell in cells.items()}
        try:
            done, _ = concurrent.futures.wait(futures.values(), return_when="FIRST_EXCEPTION")
            for future in done:
                future.result()
        except BaseException:
            stop.set()
            for future in futures.values():
                future.cancel()
            raise
    return {label: future.result() for label, future in futures.items()}


def _obtain(cell: Cell, folder: pathlib.Path, progress: Callable[[int, int], None]) -> "xr.Dataset":
    digest = hashlib.sha256(json.dumps(cell.key, sort_keys=True).encode()).hexdigest()[:16]
    file, seal, checkpoint = (folder / f"{digest}{suffix}" for suffix in (".nc", ".sha256", ".checkpoint"))
    if file.exists() and seal.exists() and seal.read_text() == sha256(file):
        return read_netcdf(file)
    dataset = cell.compute(checkpoint, progress)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            part = pathlib.Path(scratch) / "cell.nc"
            write_netcdf(dataset, part)
            replace_file(file, part.read_bytes())
        replace_file(seal, sha256(file).encode())
        checkpoint.unlink(missing_ok=True)
    except OSError as error:
        raise JobError(f"out: cannot write to {folder} ({error.strerror}); free space and start again") from error
    return dataset


def discard_cells(folder: pathlib.Path) -> None:
    """Delete the kept cells of a run that is stored.

    Args:
        folder: the folder of the context.
    """
    shutil.rmtree(folder, ignore_errors=True)
