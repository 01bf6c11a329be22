"""A process made by `os.fork()` after JAX has started lacks the threads that its programs wait for: it is told so."""

import os
import sys

from flatmin._core.errors import JobError

_without_threads = False


def refuse_fork() -> None:
    """Refuse to compute in a process that was forked after JAX had started; it would wait for ever.

    Raises:
        JobError: in such a process, and in those that it forks.
    """
    if _without_threads:
        raise JobError(
            "fork: this process was made by os.fork() after JAX had started, and lacks its threads; start it anew "
            "(multiprocessing with the method 'spawn', or a command of its own), or fork before anything is computed"
        )


def _note() -> None:
    global _without_threads  # noqa: PLW0603 - what a process is, it is as a whole
    bridge = sys.modules.get("jax._src.xla_bridge")
    # where JAX does not say whether it has started, it is taken to have
    started = getattr(bridge, "backends_are_initialized", lambda: bridge is not None)
    _without_threads = _without_threads or bool(started())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)
