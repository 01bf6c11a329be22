"""A long computation in a thread of its own, so that Ctrl-C is heard while compiled code runs, and its progress."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from flatmin._core.text import printable
from flatmin.cli._streams import say

T = TypeVar("T")
GRACE = 10.0
"""Seconds that an interrupted computation has to write its checkpoints."""

QUIET = 20.0
"""Seconds between two lines where the output is not a terminal."""


class Interrupted(Exception):  # noqa: N818 - not an error; typer swallows a KeyboardInterrupt
    """Ctrl-C was heard; `abandoned` if the computation did not stop in time."""

    def __init__(self, *, abandoned: bool):
        super().__init__()
        self.abandoned = abandoned


class Tracker:
    """How far each piece is, and a note on what comes out; the computation writes, the display reads."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._pieces: dict[str, tuple[int, int]] = {}
        self.note = ""

    def __call__(self, name: str, done: int, total: int) -> None:
        """Note the progress of a piece; total 0 announces it. Raises KeyboardInterrupt once a stop is asked for."""
        if self.stop.is_set():
            raise KeyboardInterrupt
        with self._lock:
            before = self._pieces.get(name, (0, 0))
            # a finished piece reports 1 of 1: keep its real size, which is its share of the whole
            self._pieces[name] = (before[1], before[1]) if done == total == 1 < before[1] else (done, total)

    def pieces(self) -> dict[str, tuple[int, int]]:
        """A copy of the state."""
        with self._lock:
            return dict(self._pieces)


def fraction_done(pieces: dict[str, tuple[int, int]]) -> float:
    """The share of all work that is done; pieces without steps count as a hundredth of the largest.

    Args:
        pieces: (done, total) by name.

    Returns:
        From 0 to 1.
    """
    largest = max((total for _, total in pieces.values()), default=1)
    small = max(largest / 100, 1.0)
    # pieces that have not begun are taken to be as large as the mean of those that are known
    known = [total for _, total in pieces.values() if total > 1]
    unknown = sum(known) / len(known) if known else small
    weights = {n: float(t) if t > 1 else small if t == 1 else unknown for n, (_, t) in pieces.items()}
    whole = sum(weights.values())
    return sum(weights[n] * d / t for n, (d, t) in pieces.items() if t > 0) / whole if whole else 0.0


def in_background(work: Callable[[], T], tracker: Tracker) -> T:
    """Run `work` in a thread and show its progress on standard error.

    Args:
        work: the computation; it calls the tracker.
        tracker: what it calls.

    Returns:
        What `work` returns.

    Raises:
        Interrupted: on Ctrl-C, after the computation stopped or `GRACE` seconds.
    """
    box: dict[str, Any] = {}
    finished = threading.Event()  # not Thread.join: an interrupt there marks the thread as ended

    def run() -> None:
        try:
            box["value"] = work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            box["error"] = error
        finally:
            finished.set()

    from flatmin._core.threads import roomy_threads

    thread = threading.Thread(target=run, daemon=True, name="flatmin-work")
    display = _terminal(tracker) if _moves(sys.stderr) else _Lines(tracker)
    with display:
        with roomy_threads():
            thread.start()
        try:
            while not finished.wait(0.1):
                display.refresh()
        except KeyboardInterrupt as error:
            tracker.stop.set()
            with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C: do not wait
                finished.wait(GRACE)
            if "value" in box:  # it was finishing: nothing is lost
                return box["value"]
            raise Interrupted(abandoned=not finished.is_set()) from error
    if isinstance(box.get("error"), KeyboardInterrupt):
        raise Interrupted(abandoned=False)
    if "error" in box:
        raise box["error"]
    return box["value"]


def _moves(stream: Any) -> bool:
    """Whether a terminal can go back in a line."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


class _Lines:
    """Plain lines: one when a piece is finished, and one now and then."""

    def __init__(self, tracker: Tracker):
        self._tracker, self._start, self._last = tracker, time.monotonic(), time.monotonic()
        self._finished: set[str] = set()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()

    def refresh(self) -> None:
        pieces = self._tracker.pieces()
        seconds = time.monotonic() - self._start
        for name, (done, total) in pieces.items():
            if 0 < total <= done and name not in self._finished:
                self._finished.add(name)
                self._print(f"[{_clock(seconds)}] {len(self._finished)} of {len(pieces)} done: {name}")
        running = [(n, d, t) for n, (d, t) in pieces.items() if d < t]
        if running and time.monotonic() - self._last > QUIET:
            share = fraction_done(pieces)
            name, done, total = running[0]
            part = f" ({done / total:.0%})" if total > 1 else ""
            left = f", about {_clock(seconds * (1 - share) / share)} left" if share > 0.02 else ""
            whole = f"{share:.0%} of all{left}; " if share > 0 else ""
            note = f"; {self._tracker.note}" if self._tracker.note else ""
            self._print(f"[{_clock(seconds)}] {whole}running: {name}{part}{note}")

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        say(line, error=True)


def _terminal(tracker: Tracker) -> Any:
    """One bar for all with the time left, and one line for each piece that runs."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        Remaining(compact=True),
        console=Console(stderr=True),
        transient=True,
    )

    class Bars:
        def __init__(self) -> None:
            self._overall = progress.add_task("all", total=1.0)
            self._tasks: dict[str, TaskID] = {}

        def __enter__(self) -> Any:
            progress.start()
            return self

        def __exit__(self, *_: object) -> None:
            progress.stop()

        def refresh(self) -> None:
            pieces = tracker.pieces()
            for name, (done, total) in pieces.items():
                if done < total and name not in self._tasks:
                    self._tasks[name] = progress.add_task(f"  {printable(name)}", total=None)
                if name in self._tasks:
                    length = total if total > 1 else None
                    progress.update(self._tasks[name], completed=done, total=length, visible=done < total)
            progress.update(
                self._overall, completed=fraction_done(pieces), description=printable(tracker.note) or "all"
            )

    return Bars()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
