"""`descend`: gradient descent of many runs, blocked for the cache and spread over threads."""

import concurrent.futures
import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from flatmin._core import Integer, Numbers, Real, SequenceOf, UsageError, check_at_least, check_positive, checked
from flatmin.linear_networks._compiled import advance, compiler_options, measure
from flatmin.linear_networks._gradients import device_data
from flatmin.linear_networks.data import RegressionData
from flatmin.linear_networks.network import Network, Weights

LOSS_BOUND = 1e12
"""A run whose loss exceeds it, or is not finite, has diverged."""

_LANES = 16
_CACHE_BYTES = 400_000
_SECONDS_PER_CALL = 0.5


@dataclasses.dataclass(frozen=True)
class Descent:
    """What `descend` returns; every array is on the host, the run first except in `weights`.

    Attributes:
        network: what was trained.
        data: on what.
        weights: the end points, batch last; NaN for diverged runs.
        diverged_at: the step from which the loss left its bounds (the loss after that many steps is the first bad one),
            -1 for a run that did not diverge; shape (runs,).
        steps: steps at which was recorded, shape (records,).
        loss: `f` at these steps, shape (runs, records), NaN after divergence and after a run's last step.
        distance: `||w - w*||^2 / d`, likewise; NaN for networks with an activation.
        snapshots: the weights at these steps, if they were asked for, else empty.
        compiler_options: what XLA was told, besides its defaults: speed only. Empty where this version of XLA knows
            none of the options that help, and on accelerators.
    """

    network: Network
    data: RegressionData
    weights: Weights
    diverged_at: np.ndarray
    steps: np.ndarray
    loss: np.ndarray
    distance: np.ndarray
    snapshots: tuple[Weights, ...] = ()
    compiler_options: Mapping[str, bool | int] = dataclasses.field(default_factory=dict)

    @property
    def diverged(self) -> np.ndarray:
        """Whether each run diverged."""
        return self.diverged_at >= 0


@checked(
    learning_rate=Numbers(Real(0, above=True)),
    steps=Numbers(Real(0)),
    record_at=SequenceOf(Integer(0)),
    loss_bound=Real(0, above=True),
)
def descend(
    network: Network,
    data: RegressionData,
    weights: Weights,
    *,
    learning_rate: ArrayLike,
    steps: ArrayLike,
    record_at: Sequence[int] = (),
    snapshots: bool = False,
    loss_bound: float = LOSS_BOUND,
    threads: int | None = None,
    block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Descent:
    """Gradient descent `W_l <- W_l - eta grad_l f`, `f = (1/n) ||prediction - y||^2`, for many runs.

    Cost O(L w^2) a run and step for linear networks, O(L n w^2) with an activation. One compilation for a network, a
    block size and a precision: learning rates, scales, numbers of steps and data are arrays.

    Args:
        network: the network.
        data: the regression.
        weights: the starting points; their type is the precision of the training.
        learning_rate: eta, a number or one a run.
        steps: number of steps, a number or one a run.
        record_at: steps at which loss and distance are recorded, besides each run's start and end.
        snapshots: also keep the weights at the recorded steps (needs equal `steps` for all runs).
        loss_bound: a loss above it is a divergence, which freezes the run to NaN.
        threads: blocks at the same time; default: the number of cores.
        block: runs in a block; default: what fits a core's cache and feeds every thread.
        progress: called with (run-steps done, all run-steps), from any thread.

    Returns:
        The end points and records.

    Raises:
        UsageError: for values out of range or arrays of the wrong length.
    """
    runs = weights.runs
    rate = _per_run("learning_rate", learning_rate, runs, np.float64)
    count = _per_run("steps", steps, runs, np.int64)
    check_positive("learning_rate", rate)
    check_at_least("steps", count, 0)
    check_positive("loss_bound", loss_bound)
    if network.dimension != data.dimension:
        raise UsageError(f"data: has {data.dimension} features, but the network takes {network.dimension}")
    if snapshots and np.unique(count).size > 1:
        raise UsageError("snapshots: needs the same number of steps for all runs; call descend once for each number")
    threads = threads or os.cpu_count() or 1
    check_at_least("threads", threads, 1)
    block = block or _block_size(network, data, count, threads, weights.inner.dtype.itemsize)
    check_at_least("block", block, 1)
    marks = np.unique([0, *record_at, *count])
    marks = marks[marks <= count.max()]
    tasks = _blocks(count, block)
    job = _Job(network, data, weights, rate, marks, loss_bound, snapshots, _Progress(progress, int(count.sum())))
    if threads == 1 or len(tasks) == 1:
        done = [job.run(task, int(count[task[0]]), block) for task in tasks]
    else:
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(job.run, task, int(count[task[0]]), block) for task in tasks]
            try:
                done = [future.result() for future in futures]
            except BaseException:
                job.stop.set()
                for future in futures:
                    future.cancel()
                raise
    return _assemble(network, data, runs, marks, tasks, done, snapshots)


def _per_run(name: str, value: ArrayLike, runs: int, dtype) -> np.ndarray:
    array = np.asarray(value, dtype=dtype)
    if array.shape not in ((), (runs,)):
        raise UsageError(f"{name}: got shape {array.shape}, expected a number or one a run, ({runs},)")
    return np.broadcast_to(array, (runs,))


def _block_size(network: Network, data: RegressionData, count: np.ndarray, threads: int, itemsize: int) -> int:
    """As many runs as fit the cache, at most a thread's share of the longest group; a multiple of 16."""
    numbers = network.num_parameters + 2 * network.depth * network.width
    if network.activation != "identity":
        numbers += 2 * (network.depth + 1) * network.width * len(data.outputs)
    fits = max(_CACHE_BYTES // (numbers * itemsize), 4 * _LANES if network.activation != "identity" else _LANES)
    lengths, sizes = np.unique(count, return_counts=True)
    longest = sizes[np.argmax(lengths * sizes)]
    share = math.ceil(longest / threads)
    pieces = math.ceil(share / fits)
    return max(_LANES, math.ceil(share / pieces / _LANES) * _LANES)


def _blocks(count: np.ndarray, block: int) -> list[np.ndarray]:
    """Indices of runs of equal length, the longest first, so that threads end together."""
    tasks = []
    for length in np.unique(count)[::-1]:
        members = np.flatnonzero(count == length)
        tasks += [members[i : i + block] for i in range(0, len(members), block)]
    return tasks


class _Progress:
    """Sums the progress of all threads."""

    def __init__(self, report: Callable[[int, int], None] | None, total: int):
        self._report, self._total, self._done, self._lock = report, total, 0, threading.Lock()

    def add(self, amount: int) -> None:
        if self._report is not None:
            with self._lock:
                self._done += amount
                self._report(self._done, self._total)


@dataclasses.dataclass
class _Job:
    """What is common to all blocks."""

    network: Network
    data: RegressionData
    weights: Weights
    rate: np.ndarray
    marks: np.ndarray
    bound: float
    snapshots: bool
    progress: _Progress
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    def run(self, members: np.ndarray, length: int, block: int) -> dict:
        """Train one block, padded by repeating its first run so that all blocks share a compilation."""
        dtype = self.weights.inner.dtype
        padded = np.concatenate([members, np.full(block - len(members), members[0])])
        weights = jax.tree.map(lambda x: x[..., padded], self.weights)
        data = device_data(self.network, self.data, dtype)
        rate = jnp.asarray(self.rate[padded], dtype=dtype)
        bound = jnp.asarray(self.bound, dtype=dtype)
        alive = jnp.zeros(block, jnp.int32)
        used = len(members)
        records, kept, done, pace = [], [], 0, 64
        for mark in self.marks[self.marks <= length]:
            while done < mark:
                now = int(min(pace, mark - done))
                began = time.perf_counter()
                weights, alive = advance(self.network, data, weights, rate, bound, alive, jnp.int32(now))
                alive.block_until_ready()
                seconds = time.perf_counter() - began
                done += now
                if now == pace:  # grow until a call takes half a second: few calls, yet Ctrl-C is answered
                    pace = max(16, int(pace * min(8.0, max(0.25, _SECONDS_PER_CALL / seconds))))
                self.progress.add(now * used)
                if self.stop.is_set():
                    raise KeyboardInterrupt
            records.append({k: np.asarray(v)[..., :used] for k, v in measure(self.network, data, weights).items()})
            if self.snapshots:
                kept.append(jax.tree.map(lambda x: np.asarray(x[..., :used]), weights))
        return {
            "weights": jax.tree.map(lambda x: np.asarray(x[..., :used]), weights),
            "alive": np.asarray(alive)[:used],
            "length": length,
            "records": records,
            "snapshots": kept,
            "bound": self.bound,
        }


def _assemble(network, data, runs, marks, tasks, done, snapshots) -> Descent:
    order = np.argsort(np.concatenate(tasks))
    loss = np.full((runs, len(marks)), np.nan)
    distance = np.full((runs, len(marks)), np.nan)
    diverged_at = np.full(runs, -1)
    for members, block in zip(tasks, done, strict=True):
        for j, record in enumerate(block["records"]):
            # past its bound a run is over, also where the bound was passed at the very last step
            fine = record["loss"] <= block["bound"]
            if "end_to_end" not in record:
                loss[members, j] = np.where(fine, record["loss"], np.nan)
            else:
                # float64 from here on: single precision sums lose the small losses of underdetermined problems
                away = np.where(fine, record["end_to_end"].astype(np.float64), np.nan) - data.solution[:, None]
                loss[members, j] = np.mean((data.inputs @ away) ** 2, axis=0) + data.least_loss
                distance[members, j] = np.mean(away**2, axis=0)
        ended_badly = ~(block["records"][-1]["loss"] <= block["bound"])
        diverged_at[members] = np.where(ended_badly, block["alive"], -1)

    def join(trees):
        return jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1)[..., order], *trees)

    kept = ()
    if snapshots:
        kept = tuple(join([block["snapshots"][j] for block in done]) for j in range(len(marks)))
    weights = join([block["weights"] for block in done])
    bad = diverged_at >= 0
    weights = jax.tree.map(lambda x: np.where(bad, np.asarray(np.nan, x.dtype), x), weights)
    return Descent(network, data, weights, diverged_at, marks, loss, distance, kept, compiler_options())
