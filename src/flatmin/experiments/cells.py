"""Cells of an experiment: how they are run, as against what they compute."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

from flatmin._core import Integer, SequenceOf, checked_anywhere
from flatmin.studies.cells import Cell, Spread, run_cells

if TYPE_CHECKING:
    import xarray as xr

Progress = Callable[[str, int, int], Any]


def _silent(_name: str, _done: int, _total: int) -> None:
    """No progress."""


@checked_anywhere(shard=SequenceOf(Integer(), 2))
@dataclasses.dataclass(frozen=True)
class Context:
    """How a computation runs, as against what it computes; never part of an id.

    Attributes:
        folder: where finished cells and checkpoints are kept.
        workers: cells computed at the same time.
        progress: called as `progress(cell name, done, total)`, from any thread; first with total 0 for each cell, so
            that all are known from the start.
        shard: `(i, n)`, from 1: the i-th of n shares of the cells.
        scheduler: address of a Dask scheduler, or `local` for a cluster of `workers` on this machine; None for none.
    """

    folder: pathlib.Path
    workers: int = 2
    progress: Progress = _silent
    shard: tuple[int, int] = (1, 1)
    scheduler: str | None = None


def compute_cells(
    cells: Mapping[Hashable, Cell], context: Context, *, spread: Spread = "threads"
) -> "dict[Any, xr.Dataset]":
    """Compute all cells, those found finished excepted, on the engine of studies.

    Args:
        cells: the cells by any label; the largest first.
        context: folder, workers, progress, share, scheduler.
        spread: over threads, which share compiled programs, or processes.

    Returns:
        Dataset by label.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the running cells have written their checkpoints.
        JobError: the first failure of a cell, or of the disk or the cluster.
        OtherSharesError: if this share is finished and others are not.
    """
    found = run_cells(
        cells.values(),
        context.folder,
        workers=context.workers,
        spread=spread,
        shard=context.shard,
        scheduler=context.scheduler,
        progress=context.progress,
    )
    return dict(zip(cells, found, strict=True))


def discard_cells(folder: pathlib.Path) -> None:
    """Delete the kept cells of a run that is stored.

    Args:
        folder: the folder of the context.
    """
    shutil.rmtree(folder, ignore_errors=True)
