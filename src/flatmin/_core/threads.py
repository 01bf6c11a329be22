"""Threads: how many the linear algebra behind NumPy and SciPy takes, and the stack of our own."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController


@functools.cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  # the libraries must be loaded to be found

    return ThreadpoolController()


def blas_threads(count: int) -> contextlib.AbstractContextManager[object]:
    """Limit the threads of BLAS and LAPACK in a block.

    Products of small matrices gain nothing from a second thread, and where as many computations as cores run side by
    side the waiting threads of each take the others' time: an order of magnitude in phase diagrams. The limit is the
    process's, not the calling thread's.

    Args:
        count: at most so many.

    Returns:
        A context manager.
    """
    return _controller().limit(limits=count, user_api="blas")


def available_cores() -> int:
    """Cores that this process may run on, where the system tells; else all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def roomy_threads() -> Iterator[None]:
    """Threads started in this block get 64 MiB of stack: compilers recurse deeply, and a full stack is a crash."""
    before = threading.stack_size(64 * 2**20)
    try:
        yield
    finally:
        threading.stack_size(before)


def machine_memory() -> int:
    """Bytes of memory of this machine; 16 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**34
