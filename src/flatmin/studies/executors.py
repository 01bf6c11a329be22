"""Where pieces of a job are computed: in this process, in processes beside it, on several devices, on a Dask cluster.

All of them turn a source of batches into pairs of a batch and its bytes. Who computes differs; the bits do not.
"""

import abc
import contextlib
import functools
import json
import pickle
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from flatmin._core import JobError
from flatmin._core.threads import roomy_threads
from flatmin.studies._children import python_command, worker_environment
from flatmin.studies._job import Batch, Job, packed
from flatmin.studies._worker import ERROR, PROGRESS, receive, send

Source = Callable[[int], Batch | None]
"""Gives the next batch for a slot, None when there is none: a slot is given what it has the programs for."""

Report = Callable[[Batch | None, int, int], None]
"""Called as `report(batch, done, total)` from any thread while a batch is computed, with no batch as a mere sign of
life; raises KeyboardInterrupt when the work shall stop."""


def silent(_batch: Batch | None, _done: int, _total: int) -> None:
    """No report."""


class Lost:
    """In the place of bytes: whoever computed the batch has gone.

    Attributes:
        reason: what is known of it.
    """

    def __init__(self, reason: str):
        self.reason = reason


Outcome = tuple[Batch, bytes | Lost]


class Executor(abc.ABC):
    """Computes batches.

    Attributes:
        slots: how many at the same time.
    """

    slots: int = 1

    @abc.abstractmethod
    def run(self, source: Source, report: Report = silent) -> Iterator[Outcome]:
        """Compute all that the source gives.

        Args:
            source: called from any thread, one call at a time.
            report: told how far each batch is, by those who can.

        Yields:
            Each batch with its bytes, as they are finished.

        Raises:
            Exception: what a piece raises; a study records failures in its bytes, and raises none.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """End what was started."""


class Serial(Executor):
    """In the calling thread."""

    def __init__(self, job: Job):
        self._job = job

    def run(self, source: Source, report: Report = silent) -> Iterator[Outcome]:
        """One after the other."""
        while (batch := source(0)) is not None:
            yield batch, self._job.compute(batch.pieces, functools.partial(report, batch))


Place = Callable[[Batch, Report], bytes | Lost]


class _Lanes(Executor):
    """A thread for each of several places, each of which computes a batch at a time."""

    _places: list[Place]
    _threads: list[threading.Thread]

    def run(self, source: Source, report: Report = silent) -> Iterator[Outcome]:
        """Each place takes the next batch as soon as it is free."""
        lock, stop = threading.Lock(), threading.Event()
        results: queue.Queue[Outcome | BaseException | None] = queue.Queue()

        def heard(batch: Batch | None, done: int, total: int) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            report(batch, done, total)

        def work(slot: int, place: Place) -> None:
            try:
                while not stop.is_set():
                    with lock:
                        batch = source(slot)
                    if batch is None:
                        break
                    results.put((batch, place(batch, heard)))
            except BaseException as error:  # noqa: BLE001 - handed to the consumer
                results.put(error)
            finally:
                results.put(None)

        self._threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(self._places)]
        with roomy_threads():
            for thread in self._threads:
                thread.start()
        running = len(self._threads)
        try:
            while running:
                result = results.get()
                if result is None:
                    running -= 1
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield result
        finally:
            stop.set()


class Threads(_Lanes):
    """In threads of this process, for pieces that leave its lock alone and share its compiled programs."""

    def __init__(self, job: Job, count: int):
        def place(batch: Batch, report: Report) -> bytes:
            return job.compute(batch.pieces, functools.partial(report, batch))

        self._places = [place] * count
        self._threads = []
        self.slots = count

    def close(self) -> None:
        """Wait for pieces that were told to stop: they keep what they have begun."""
        for thread in self._threads:
            thread.join()


class Devices(_Lanes):
    """On several devices of this process: whole batches, one device each, so that their programs are the same."""

    def __init__(self, job: Job, devices: list[Any]):
        import jax

        def place(device: Any) -> Place:
            def compute(batch: Batch, report: Report) -> bytes:
                with jax.default_device(device):
                    return job.compute(batch.pieces, functools.partial(report, batch))

            return compute

        self._places = [place(device) for device in devices]
        self.slots = len(devices)


class Processes(_Lanes):
    """In processes of their own, each with one thread of linear algebra; one that dies is replaced."""

    def __init__(self, job: Job, count: int):
        self.slots = count
        data = packed(job)
        self._workers: list[_Process] = [_Process(data, job) for _ in range(count)]
        self._places = [worker.compute for worker in self._workers]

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.tell()
        for worker in self._workers:
            worker.end()


class _Process:
    """One process, started when it is first needed and again after it died."""

    def __init__(self, data: bytes, job: Job):
        self._job, self._patience, self._user_code = data, job.patience, job.user_code
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def compute(self, batch: Batch, report: Report) -> bytes | Lost:
        process = self._started()
        answer = self._exchange(process, json.dumps(batch.pieces).encode())
        while answer is not None and answer[:1] == PROGRESS:
            report(batch, *json.loads(answer[1:]))
            answer = self._exchange(process)
        if answer is None:
            code = process.wait()
            self._process = None
            _close(process)
            if self._closed:
                raise KeyboardInterrupt
            return Lost(f"the process that computed it died ({_why(code)})")
        if answer[:1] == ERROR:
            raise pickle.loads(answer[1:])  # noqa: S301 - from the process that we started
        return answer[1:]

    def _exchange(self, process: "subprocess.Popen[bytes]", request: bytes = b"") -> bytes | None:
        """The next answer, None if the process has gone."""
        try:
            if request:
                send(pipe(process.stdin), request)
            return receive(pipe(process.stdout))
        except (EOFError, OSError, ValueError):
            return None

    def _started(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._closed:
                raise KeyboardInterrupt
            if self._process is not None:
                return self._process
            process = self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                python_command("flatmin.studies._worker:main", user_code=self._user_code),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=worker_environment(),
            )
        try:
            send(pipe(process.stdin), self._job)
            receive(pipe(process.stdout))
        except (EOFError, OSError, ValueError) as error:
            if self._closed:
                raise KeyboardInterrupt from None
            code = process.wait()
            raise JobError(
                f"workers: a process could not be started ({_why(code)}); try --workers 1, which starts none"
            ) from error
        return process

    def tell(self) -> None:
        """Let it know that nothing more is wanted; if it computes and reports, it stops and keeps what it has."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                process.stdin.close()

    def end(self) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._patience)
            process.kill()
            process.wait()
            _close(process)


def _close(process: "subprocess.Popen[bytes]") -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def pipe(stream: Any) -> BinaryIO:
    """The end of a pipe that was asked for, as what it is."""
    return stream


def _why(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name
    return f"exit code {code}"
