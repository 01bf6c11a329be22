"""Batches on a Dask cluster: an existing scheduler by its address, or a local cluster of processes.

Whoever may talk to a scheduler may run code on its workers and on the machines that ask it: an address is trusted as
given, and a local cluster (`flatmin.studies._local`) lets nobody else in. Bytes travel back to the process that runs
the job, which stores them: the workers need no common disk. A worker that dies loses its batches only, and they run
elsewhere; one that joins late gets work as soon as it is there.
"""

import functools
import queue
import time
from collections.abc import Iterator
from typing import Any

from flatmin._core import JobError, UsageError
from flatmin.studies._job import Batch, Job, packed, silent, unpacked
from flatmin.studies.executors import Executor, Lost, Outcome, Report, Source
from flatmin.studies.executors import silent as unheard

AHEAD = 2
"""Batches for each thread of the cluster: one that runs, and one that waits on it."""

PATIENCE = 30.0
"""Seconds to wait for a scheduler, and for one that went away."""


class Cluster(Executor):
    """On a Dask cluster."""

    def __init__(self, job: Job, scheduler: str, workers: int):
        self._local: Any = None
        self._client: Any = None
        try:
            from distributed import Client

            from flatmin.studies._local import LocalCluster
        except ImportError as error:
            raise UsageError("scheduler: needs Dask; install it with pip install 'flatmin[cluster]'") from error
        self._job = packed(job)
        try:
            if scheduler == "local":
                self._local = LocalCluster(workers, user_code=job.user_code)
                self._client = self._local.client
            else:
                self._client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
        except UsageError:
            self._shut()
            raise
        except (OSError, ValueError) as error:
            self._shut()
            raise JobError(
                f"scheduler: no answer from {scheduler} ({type(error).__name__}); start one with `dask scheduler`, "
                "or use --scheduler local"
            ) from error
        self.slots = max(1, self._threads())

    def run(self, source: Source, report: Report = unheard) -> Iterator[Outcome]:
        """Keep every thread of the cluster busy, whoever joins or leaves."""
        results: queue.Queue[tuple[Batch, Any]] = queue.Queue()
        flying: dict[str, Any] = {}
        empty, away = False, 0.0
        while flying or not empty:
            self.slots = max(1, self._threads())
            while not empty and len(flying) < AHEAD * self.slots:
                batch = source(0)
                if batch is None:
                    empty = True
                    break
                future = self._submit(batch)
                flying[future.key] = future
                future.add_done_callback(functools.partial(_put, results, batch))
            if not flying:
                return
            try:
                batch, future = results.get(timeout=1.0)
            except queue.Empty:
                report(None, 0, 0)
                away = self._check(away)
                continue
            if flying.pop(future.key, None) is not None:
                yield batch, self._result(future)
                empty = False  # what was lost comes again from the source

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self._shut()

    def _shut(self) -> None:
        part = self._local or self._client
        if part is not None:
            part.close()

    def _submit(self, batch: Batch) -> Any:
        try:
            return self._client.submit(_remote, self._job, batch.pieces, pure=False)
        except (OSError, RuntimeError) as error:
            raise JobError(_GONE) from error

    def _result(self, future: Any) -> bytes | Lost:
        from distributed import KilledWorker

        if future.status in ("cancelled", "lost"):
            raise JobError(_GONE)
        try:
            return future.result()
        except KilledWorker:
            return Lost("the workers that computed it died, perhaps for want of memory")
        except (UsageError, JobError):
            raise
        except Exception as error:
            raise JobError(
                f"scheduler: a worker could not compute ({type(error).__name__}: {error}); is the same flatmin "
                "installed there?"
            ) from error

    def _threads(self) -> int:
        try:
            return sum(self._client.nthreads().values())
        except Exception:  # noqa: BLE001 - the scheduler may be away for a moment; `_check` decides
            return self.slots

    def _check(self, away: float) -> float:
        """Since when the scheduler does not answer; raises when that is too long, or when nobody is left to compute."""
        if self._local is not None:
            self._local.check()
        if self._client.status == "running":
            return 0.0
        now = time.monotonic()
        if self._client.status == "closed" or (away and now - away > PATIENCE):
            raise JobError(_GONE)
        return away or now


_GONE = (
    "scheduler: it went away; finished cells are kept, start the same command again when it is back, "
    "or without --scheduler"
)


def _put(results: "queue.Queue[tuple[Batch, Any]]", batch: Batch, future: Any) -> None:
    results.put((batch, future))


_unpacked = functools.lru_cache(maxsize=4)(unpacked)


def _remote(job: bytes, pieces: tuple[int, ...]) -> bytes:
    """On a worker."""
    from flatmin._core.threads import blas_threads

    with blas_threads(1):
        return _unpacked(job).compute(pieces, silent)
