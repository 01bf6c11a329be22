"""Many runs in one compilation: seeds, step sizes, starting points, data."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from jaxtyping import Key as KeyOf

from flatmin._core import (
    AbstractObjective,
    AnyOf,
    Descended,
    Domain,
    Flag,
    Free,
    Function,
    Instance,
    Key,
    Mapped,
    Optional,
    Path,
    UsageError,
    checked,
)
from flatmin._core.values import described
from flatmin.dynamics._base import AbstractDynamics, SharedFunction
from flatmin.dynamics._model import Model
from flatmin.dynamics._params import Start
from flatmin.dynamics._run import Progress, TrainResult, run
from flatmin.dynamics.checkpoint import Checkpoint
from flatmin.dynamics.record import Record
from flatmin.dynamics.schedule import AbstractSchedule
from flatmin.dynamics.until import Until


def run_axes(dynamics: AbstractDynamics) -> PyTree[bool]:
    """Which hyperparameters have one value per run.

    Args:
        dynamics: the rule; a single run has scalar hyperparameters and schedules with `values` of shape (p,).

    Returns:
        A pytree of bools, `True` for arrays of shape (runs,) and schedule values of shape (runs, p).
    """

    def mask(leaf):
        if isinstance(leaf, AbstractSchedule):
            shared = jax.tree.map(lambda _: False, leaf)
            return eqx.tree_at(lambda s: s.values, shared, leaf.values.ndim > 1)
        if isinstance(leaf, SharedFunction):
            return jax.tree.map(lambda _: False, leaf)
        return eqx.is_array(leaf) and leaf.ndim > 0

    return jax.tree.map(mask, dynamics, is_leaf=lambda leaf: isinstance(leaf, AbstractSchedule | SharedFunction))


RUN: dict[str, Domain] = {
    "objective": Descended(),
    "dynamics": Instance(AbstractDynamics, what="a rule; write GradientDescent(0.1), or OptaxRule(...) for optax"),
    "records": Optional(Mapped(Instance(Record, what="a Record; write Record(fn, every=100)"))),
    "checkpoint": Optional(AnyOf(Instance(Checkpoint), Path())),
    "progress": Optional(Function()),
    "until": Optional(Instance(Until, what="an Until; write Until(loss=1e-8)")),
}
"""What `train` and `train_ensemble` accept."""


@checked(
    **RUN,
    params=Start(moves=False),
    keys=Key("runs"),
    batched_objective=AnyOf(Flag(), Free("a tree of truth values: looked at beside the objective")),
)
def train_ensemble(
    objective: AbstractObjective | Callable[[PyTree], Any] | Any,
    dynamics: AbstractDynamics | Any,
    params: PyTree,
    *,
    steps: int,
    keys: KeyOf[Array, " runs"],
    batched_params: bool = True,
    batched_objective: bool | PyTree[bool] = False,
    records: Mapping[str, Record] | Any = None,
    chunk: int = 1024,
    checkpoint: Checkpoint | str | pathlib.Path | None = None,
    progress: Progress | None = None,
    throw: bool = False,
    until: Until | None = None,
) -> TrainResult:
    """`train` for many runs side by side, one compilation for all.

    Run r is `train` with the key `keys[r]`, the params `params[r]` and the hyperparameters of index r: same
    random numbers; the results agree to rounding (batched matrix products may sum in another order). A run
    that diverges stops at its last finite point while the others go on.

    Args:
        objective: as in `train`, shared by the runs unless `batched_objective` says otherwise.
        dynamics: the rule; a hyperparameter of shape (runs,), or a schedule with values of shape (runs, p),
            has one value per run, others are shared.
        params: initial points, each array with a leading run axis.
        steps: number of steps, the same for all runs.
        keys: one key per run, `jax.random.split(key, runs)`.
        batched_params: `False` if `params` is a single point from which all runs start.
        batched_objective: `True` if every array of `objective` has a leading run axis, or a pytree of bools
            of the objective's structure that says which have.
        records: name -> `Record`, with functions of a single run's params. A bound method of a batched
            `objective` is evaluated with each run's own data.
        chunk: as in `train`; the random numbers take runs times chunk times batch size.
        checkpoint: as in `train`, one file for all runs.
        progress: as in `train`.
        throw: raise if any run did not complete.
        until: as in `train`; each run ends by itself and stays where it is while the others go on.

    Returns:
        The result with a leading run axis everywhere; records are NaN from a run's divergence on.

    Raises:
        UsageError: as in `train`, and for a run axis of the wrong length.
        JobError: as in `train`.
    """
    runs = keys.shape[0]
    if runs == 0:
        raise UsageError("keys: got shape (0,), expected at least one key; write jax.random.split(key, runs)")
    if not batched_params:
        params = jax.tree.map(lambda x: jnp.stack([x] * runs) if eqx.is_array(x) else x, params)
    if isinstance(batched_objective, bool):
        batched_objective = jax.tree.map(lambda x: batched_objective and eqx.is_array(x), objective)
    mask = (run_axes(dynamics), batched_objective)
    try:  # a list that holds itself ends in a SystemError
        batched = eqx.filter((dynamics, objective), mask)
    except (TypeError, ValueError, SystemError) as error:
        raise UsageError(
            f"batched_objective: got {described(batched_objective)}, expected True, False or a tree of them of the "
            "objective's structure"
        ) from error
    for name, tree in (("params", params), ("dynamics", batched[0]), ("objective", batched[1])):
        _check_run_axis(name, tree, runs)
    return run(
        Model((dynamics, cast("AbstractObjective", objective)), mask, runs),
        params,
        steps=steps,
        key=keys,
        records=records,
        chunk=chunk,
        checkpoint=checkpoint,
        progress=progress,
        throw=throw,
        until=until,
    )


def _check_run_axis(argument: str, tree: PyTree, runs: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array)):
        if np.shape(leaf)[:1] != (runs,):
            name = jax.tree_util.keystr(path).lstrip(".")
            raise UsageError(
                f"{argument}: {name} has shape {np.shape(leaf)}, expected a leading run axis of length "
                f"{runs}, the number of keys"
            )
