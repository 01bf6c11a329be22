"""Where batches are computed: in this process, in processes beside it, on several devices, on a Dask cluster.

All of them turn a source of batches into pairs of a batch and its segment. Who computes differs; the bits do not.
"""

import abc
import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from flatmin._core import JobError
from flatmin.studies._batches import Batch, compute_batch
from flatmin.studies._worker import receive, send
from flatmin.studies.study import Study

Source = Callable[[int], Batch | None]
"""Gives the next batch for a slot, None when there is none: a slot is given what it has the programs for."""


class Lost:
    """In the place of a segment: whoever computed the batch has gone.

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
    def run(self, source: Source) -> Iterator[Outcome]:
        """Compute all that the source gives.

        Args:
            source: called from any thread, one call at a time.

        Yields:
            Each batch with its segment, as they are finished.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """End what was started."""


class Serial(Executor):
    """In the calling thread."""

    def __init__(self, study: Study):
        self._study = study

    def run(self, source: Source) -> Iterator[Outcome]:
        """One after the other."""
        while (batch := source(0)) is not None:
            yield batch, compute_batch(self._study, batch.blocks)


class _Lanes(Executor):
    """A thread for each of several places, each of which computes a batch at a time."""

    _places: list[Callable[[Batch], bytes | Lost]]

    def run(self, source: Source) -> Iterator[Outcome]:
        """Each place takes the next batch as soon as it is free."""
        lock, stop = threading.Lock(), threading.Event()
        results: queue.Queue[Outcome | BaseException | None] = queue.Queue()

        def work(slot: int, place: Callable[[Batch], bytes | Lost]) -> None:
            try:
                while not stop.is_set():
                    with lock:
                        batch = source(slot)
                    if batch is None:
                        break
                    results.put((batch, place(batch)))
            except BaseException as error:  # noqa: BLE001 - handed to the consumer
                results.put(error)
            finally:
                results.put(None)

        threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(self._places)]
        for thread in threads:
            thread.start()
        running = len(threads)
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


class Devices(_Lanes):
    """On several devices of this process: whole blocks, one device each, so that their programs are the same."""

    def __init__(self, study: Study, devices: list[Any]):
        import jax

        def place(device: Any) -> Callable[[Batch], bytes]:
            def compute(batch: Batch) -> bytes:
                with jax.default_device(device):
                    return compute_batch(study, batch.blocks)

            return compute

        self._places = [place(device) for device in devices]
        self.slots = len(devices)


class Processes(_Lanes):
    """In processes of their own, each with one thread of linear algebra; one that dies is replaced."""

    def __init__(self, study: Study, count: int):
        self._study = study
        self.slots = count
        self._workers: list[_Process] = [_Process(study) for _ in range(count)]
        self._places = [worker.compute for worker in self._workers]

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.end()


class _Process:
    """One process, started when it is first needed and again after it died."""

    def __init__(self, study: Study):
        self._study = study
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def compute(self, batch: Batch) -> bytes | Lost:
        process = self._started()
        try:
            send(pipe(process.stdin), json.dumps(batch.blocks).encode())
            return receive(pipe(process.stdout))
        except (EOFError, OSError, ValueError):
            code = process.wait()
            self._process = None
            _close(process)
            if self._closed:
                raise KeyboardInterrupt from None
            return Lost(f"the process that computed it died ({_why(code)})")

    def _started(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._closed:
                raise KeyboardInterrupt
            if self._process is not None:
                return self._process
            process = self._process = subprocess.Popen(
                [sys.executable, "-c", "from flatmin.studies._worker import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=worker_environment(),
            )
        spec = self._study.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
        try:
            send(pipe(process.stdin), json.dumps({"spec": spec, "width": self._study.width}).encode())
            receive(pipe(process.stdout))
        except (EOFError, OSError, ValueError) as error:
            if self._closed:
                raise KeyboardInterrupt from None
            code = process.wait()
            raise JobError(
                f"workers: a process could not be started ({_why(code)}); try --workers 1, which starts none"
            ) from error
        return process

    def end(self) -> None:
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
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


def worker_environment() -> dict[str, str]:
    """The environment of a process that shares the machine with others of its kind: one thread each.

    Not by `--xla_cpu_multi_thread_eigen=false`: that makes other programs of the same code, and other last bits.

    Returns:
        This process's environment with limits for XLA and BLAS, its path of modules and its cache of programs.
    """
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC", "PJRT_NPROC"):
        environment[name] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(
        dict.fromkeys(path for path in (*sys.path, str(pathlib.Path.cwd())) if path)
    )
    if "jax" in sys.modules:
        import jax

        cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
        if cache:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
            # the small programs of many shapes too: other processes need them next
            environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"
    return environment
