"""A process that computes batches for another one.

It reads requests from its standard input and writes segments to its standard output, each with its length before it.
It ends when its input does, so that it does not outlive the process that started it.
"""

import json
import os
import signal
import struct
import sys
from typing import BinaryIO

LENGTH = struct.Struct("<Q")


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
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from flatmin._core.threads import blas_threads
    from flatmin.studies._batches import compute_batch
    from flatmin.studies.spec import StudySpec
    from flatmin.studies.study import Study

    try:
        first = json.loads(receive(sys.stdin.buffer))
        study = Study(StudySpec.model_validate(first["spec"]), first["width"])
        send(out, b"ready")
        with blas_threads(1):
            while True:
                blocks = json.loads(receive(sys.stdin.buffer))
                send(out, compute_batch(study, tuple(blocks)))
    except (EOFError, BrokenPipeError):
        os._exit(0)
