"""Interleaved timing of several sides, each in a process of its own with its own thread count.

A side is a function `make(quick)` of a benchmark module that prepares everything, warms up, and returns a `Side`.
The rounds go A B C A B C, so that whatever else the machine does disturbs all sides alike; a ratio is taken
within each round. Each side is first tried with every thread count, and keeps the better one.
"""

import dataclasses
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Side:
    """One contestant, in its own process.

    Attributes:
        run: does one round and waits until the result is there.
        units: how many steps (or calls) a round has.
        facts: answers `facts(question)` in plain JSON, for checks that all sides do the same; not timed.
    """

    run: Callable[[], Any]
    units: int
    facts: Callable[[Any], Any]


class Worker:
    """A side in a child process; `threads` is what the process may use."""

    def __init__(self, module: str, side: str, threads: int, *, quick: bool):
        self.side, self.threads = side, threads
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks._measure", module, side, str(threads), str(int(quick))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.units = 0

    def ready(self) -> None:
        """Wait until it is warm."""
        self.units = self._read()["units"]

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.side} with {self.threads} thread(s) ended early: exit {self._process.wait()}")
        return json.loads(line)

    def ask(self, command: str, question: Any = None) -> Any:
        print(json.dumps([command, question]), file=self._process.stdin, flush=True)
        return self._read()

    def seconds(self) -> float:
        """Seconds a unit, of one round."""
        return self.ask("run") / self.units

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def race(
    module: str, sides: list[str], *, rounds: int, quick: bool
) -> tuple[dict[str, Worker], dict[str, list[float]]]:
    """Choose each side's thread count, then time all sides round by round.

    Args:
        module: name of the benchmark module.
        sides: names of its side functions.
        rounds: timed rounds.
        quick: pass on to the sides.

    Returns:
        The workers, still open for questions, and the seconds a unit of each side and round.
    """
    counts = thread_counts()[:1] if quick else thread_counts()
    started = {side: [Worker(module, side, threads, quick=quick) for threads in counts] for side in sides}
    for tried in started.values():
        for worker in tried:
            worker.ready()
    workers = {}
    for side, tried in started.items():
        seconds = [[worker.seconds() for worker in tried] for _ in range(1 if quick else 5)]
        medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
        workers[side] = tried[medians.index(min(medians))]
        for worker in tried:
            if worker is not workers[side]:
                worker.close()
    times = {side: [] for side in sides}
    for _ in range(rounds):
        for side, worker in workers.items():
            times[side].append(worker.seconds())
    return workers, times


def thread_counts() -> list[int]:
    """One thread, and one for each core the process may use."""
    return sorted({1, len(os.sched_getaffinity(0))})


def ratio(slower: list[float], faster: list[float]) -> tuple[float, float, float]:
    """Median, first and third quartile of the ratios within each round."""
    ratios = sorted(a / b for a, b in zip(slower, faster, strict=True))
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def _serve(module: str, side: str, threads: int, quick: bool) -> None:
    # libraries print; answers go to the real stdout
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[-threads:]))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    made: Side = getattr(importlib.import_module(f"benchmarks.{module}"), side)(quick=quick)
    made.run()
    print(json.dumps({"units": made.units}), file=answers, flush=True)
    for line in sys.stdin:
        command, question = json.loads(line)
        if command == "run":
            start = time.perf_counter()
            made.run()
            answer = time.perf_counter() - start
        else:
            answer = made.facts(question)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1")
