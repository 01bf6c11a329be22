"""From pieces to executors and back: each piece is given once, and again, alone, if who computed it has gone."""

import threading
from collections.abc import Callable, Iterator, Sequence

from flatmin.studies._job import Batch, Job
from flatmin.studies.executors import Executor, Lost, Report

ATTEMPTS = 2
"""How often a piece may kill who computes it before it is recorded as lost."""


class Feed:
    """Open pieces, in the order of each slot.

    Attributes:
        size: pieces that are given together.
    """

    def __init__(self, orders: Sequence[Iterator[int]], is_open: Callable[[int], bool], size: int = 1):
        self.size = size
        self.lock = threading.Lock()
        self._orders, self._is_open = orders, is_open
        self._taken: set[int] = set()
        self._again: list[Batch] = []

    def source(self, slot: int) -> Batch | None:
        """The next batch for a slot, None if nothing is open."""
        with self.lock:
            if self._again:
                return self._again.pop()
            chosen: list[int] = []
            for piece in self._orders[slot % len(self._orders)]:
                if piece not in self._taken and self._is_open(piece):
                    chosen.append(piece)
                    self._taken.add(piece)
                    if len(chosen) >= self.size:
                        break
            return Batch(tuple(chosen)) if chosen else None

    def drive(self, executor: Executor, job: Job, enter: Callable[[Batch, bytes], None], report: Report) -> None:
        """Have all open pieces computed.

        Args:
            executor: who computes.
            job: what.
            enter: called with each batch and its bytes, in this thread.
            report: told how far each batch is.
        """
        while True:
            for batch, result in executor.run(self.source, report):
                if not isinstance(result, Lost):
                    enter(batch, result)
                elif len(batch.pieces) == 1 and batch.attempt + 1 >= ATTEMPTS:
                    enter(batch, job.lost(batch.pieces, result.reason))
                else:
                    with self.lock:
                        self._again += [Batch((piece,), batch.attempt + 1) for piece in batch.pieces]
            if not self._again:  # what was lost at the very end
                return
