"""A process that computes pieces of a job for another one.

It reads requests from its standard input and writes answers to its standard output, each with its length before it. It
ends when its input does, so that it does not outlive the process that started it; a computation that reports how far
it is hears that too, and keeps what it has begun.
"""

import contextlib
import json
import os
import pickle
import select
import signal
import struct
import sys
import threading
import time
import traceback
from typing import BinaryIO

from flatmin.studies._children import answers_only

LENGTH = struct.Struct("<Q")
RESULT, PROGRESS, ERROR = b"=", b"+", b"!"
"""First byte of an answer: sealed bytes; how far it is, JSON; a pickled exception."""

PERIOD = 0.2
"""Seconds between two answers that say how far it is."""


def send(stream: BinaryIO, data: bytes) -> None:
    """Write a message.

    Args:
        stream: where to.
        data: its bytes.
    """
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO) -> bytes:
    """Read a message.

    Args:
        stream: where from.

    Returns:
        Its bytes.

    Raises:
        EOFError: if the other side has gone.
    """
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main() -> None:
    """Compute until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who started us ends us
    # what a user's function prints must not get between the messages
    out = os.fdopen(answers_only(), "wb")
    from flatmin._core.threads import blas_threads, roomy_threads
    from flatmin.studies._job import unpacked

    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if _input_ended():
            raise KeyboardInterrupt
        if time.monotonic() - last > PERIOD:
            last = time.monotonic()
            send(out, PROGRESS + json.dumps([int(done), int(total)]).encode())

    def work() -> None:
        try:
            job = unpacked(receive(sys.stdin.buffer))
            send(out, RESULT)
            while True:
                pieces = tuple(json.loads(receive(sys.stdin.buffer)))
                try:
                    answer = RESULT + job.compute(pieces, report)
                except Exception as error:  # noqa: BLE001 - raised again on the other side
                    answer = ERROR + _pickled(error)
                send(out, answer)
        except (EOFError, BrokenPipeError, KeyboardInterrupt):
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the process ends with it
            traceback.print_exc()
            os._exit(1)

    with blas_threads(1), roomy_threads():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


def _input_ended() -> bool:
    """Whether who started us has closed our input: nothing else is to be read there while we compute."""
    return os.name != "nt" and bool(select.select([sys.stdin.buffer], [], [], 0)[0])


def _pickled(error: Exception) -> bytes:
    from flatmin._core import JobError

    with contextlib.suppress(Exception):
        data = pickle.dumps(error)
        pickle.loads(data)  # noqa: S301 - ours; some exceptions can be written but not read
        return data
    return pickle.dumps(JobError(f"{type(error).__name__}: {error}"))
