"""Training one run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Key, PyTree

from flatmin._core import AbstractObjective, UsageError, checked
from flatmin.dynamics._base import AbstractDynamics
from flatmin.dynamics._model import Model
from flatmin.dynamics._params import Start
from flatmin.dynamics._run import Progress, TrainResult, run
from flatmin.dynamics.checkpoint import Checkpoint
from flatmin.dynamics.ensemble import RUN, run_axes
from flatmin.dynamics.record import Record
from flatmin.dynamics.until import Until


@checked(**RUN, params=Start())
def train(
    objective: AbstractObjective | Callable[[PyTree], Any] | Any,
    dynamics: AbstractDynamics | Any,
    params: PyTree,
    *,
    steps: int,
    key: Key[Array, ""],
    records: Mapping[str, Record] | Any = None,
    chunk: int = 1024,
    checkpoint: Checkpoint | str | Path | None = None,
    progress: Progress | None = None,
    throw: bool = False,
    until: Until | None = None,
) -> TrainResult:
    """Move `params` for `steps` steps of `dynamics`.

    Step k (from 0) uses the random key `fold_in(key, k)`: the bits of a result depend on neither `chunk`,
    nor on what is recorded, nor on interruptions. Compiled once for all values of the hyperparameters and
    all record times.

    Args:
        objective: what to descend: a function of the params, an `Objective` (a loss with its data), a recovery problem.
        dynamics: the rule.
        params: initial point, any pytree; its floating point arrays move.
        steps: number of steps to have done at the end, >= 0.
        key: a typed key, `jax.random.key(0)`.
        records: name -> `Record(fn, every=...)`.
        chunk: for how many steps the random numbers are drawn at once (memory: chunk times batch size), and
            the longest stretch between two looks at `progress`, `checkpoint` and Ctrl-C.
        checkpoint: a file, or `Checkpoint(file, seconds=...)`. If it exists, the run goes on from it.
        progress: called as `progress(steps done, steps)` between stretches.
        throw: raise instead of returning a diverged or interrupted result.
        until: when the run is done before its last step; later records repeat what was measured where it ended.

    Returns:
        The last finite point, the records and how it ended; Ctrl-C gives what was done so far.

    Raises:
        UsageError: for arguments out of range, initial params that are not finite, and checkpoints that are
            damaged or belong to another run.
        JobError: if `throw` and the run did not complete, or if a checkpoint could not be written.
    """
    for path, batched in jax.tree_util.tree_leaves_with_path(run_axes(dynamics)):
        if batched:
            name = jax.tree_util.keystr(path).lstrip(".")
            raise UsageError(f"dynamics: {name} has one value per run; use train_ensemble, or pass a single number")
    model: Any = (dynamics, objective)
    return run(
        Model(model, jax.tree.map(lambda _: False, model), runs=None),
        params,
        steps=steps,
        key=key,
        records=records,
        chunk=chunk,
        checkpoint=checkpoint,
        progress=progress,
        throw=throw,
        until=until,
    )
