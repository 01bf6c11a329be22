"""A run's checkpoints: the point and the records so far, and back."""

import dataclasses
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from flatmin._core import UsageError
from flatmin.dynamics._model import Model
from flatmin.dynamics._records import Block, Recorder
from flatmin.dynamics.checkpoint import Checkpoint, Store, fingerprint, restore
from flatmin.dynamics.until import Until

if TYPE_CHECKING:
    from flatmin.dynamics._run import Point


class Saving:
    """Writes and reads the points of one run."""

    def __init__(
        self, checkpoint: Any, model: Model, params: PyTree, key: Any, recorder: Recorder, until: Until | None
    ):
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint(checkpoint)
        measured = {name: plan.measured.fn for name, plan in recorder.plans.items()}
        self._store = Store(checkpoint, fingerprint(*model.whole, params, key, measured))
        self._recorder = recorder
        self._until = None if until is None else list(dataclasses.astuple(until))

    def when_due(self, point: "Point") -> "Point":
        """The hook: writes when the time has come."""
        if self._store.due:
            self.write(point)
        return point

    def write(self, point: "Point") -> None:
        """Replace the file.

        Args:
            point: where the run is.

        Raises:
            JobError: if it cannot be written.
        """
        histories = self._recorder.histories(point.blocks)
        histories = {name: histories[name] for name in sorted(histories)}
        meta = {
            "position": point.position,
            "divergence": point.divergence.tolist(),
            "finished": point.finished.tolist(),
            "until": self._until,
            "records": {name: [history.steps.tolist()] for name, history in histories.items()},
        }
        self._store.write(
            [eqx.filter(point.state, eqx.is_array), {name: h.values for name, h in histories.items()}], meta
        )

    def load(self, start: "Point", steps: int) -> "Point | None":
        """The point of the file, with the recorder filled.

        Args:
            start: the point at step 0, for the structure.
            steps: of the run.

        Returns:
            None if there is no file.

        Raises:
            UsageError: if the file cannot serve the request.
        """
        found = self._store.read()
        if found is None:
            return None
        meta, leaves = found
        path, position, plans = self._store.checkpoint.path, meta["position"], self._recorder.plans
        if position > steps:
            raise UsageError(f"steps: got {steps}, but {path} has already done {position}; ask for at least as many")
        if meta.get("until") != self._until:
            raise UsageError(f"until: {path} was begun with another condition; keep it, or delete the file")
        stored = {name: np.asarray(held[0]) for name, held in meta["records"].items()}
        if set(stored) != set(plans):
            raise UsageError(
                f"records: got {sorted(plans)}, but {path} holds {sorted(stored)}; keep the names, or delete the file"
            )
        divergence = np.asarray(meta["divergence"])
        finished = np.asarray(meta.get("finished", np.zeros(divergence.shape, bool)))
        goes_on = bool(((divergence < 0) & ~finished).any())
        state_like, static = eqx.partition(start.state, eqx.is_array)
        like = [state_like, {name: plans[name].structure(start.state.params) for name in sorted(stored)}]
        state, values = restore(like, leaves)
        for name, held in stored.items():
            times = plans[name].times
            # what a step feeds at the position itself comes with the step that starts there
            passed = held[-1] if not goes_on else position - 1 if plans[name].fed else position
            wanted = times[times <= passed]
            missing = np.setdiff1d(wanted, held)
            if missing.size:
                raise UsageError(
                    f"records: {name!r} is wanted at step {missing[0]}, but {path} has passed it without; "
                    "keep the times of the first part, or delete the file"
                )
            rows = np.searchsorted(held, wanted)
            block = Block(name, wanted, jax.tree.map(lambda v, r=rows: np.asarray(v)[r], values[name]))
            if wanted.size:
                self._recorder.blocks.append(block)
        return type(start)(position, eqx.combine(state, static), divergence, finished, len(self._recorder.blocks))
