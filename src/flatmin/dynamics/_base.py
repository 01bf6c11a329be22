"""The protocol of a dynamics: a state, the randomness of a step, and the step."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from flatmin._core import AbstractObjective
from flatmin._core.trees import floating_type


class DynamicsState(eqx.Module):
    """What the next step needs, and nothing else.

    Attributes:
        params: the point.
        step: number of steps done, int32.
        buffers: what the rule remembers (the velocity of momentum), `None` if nothing.
    """

    params: PyTree
    step: Int[Array, ""]
    buffers: PyTree = None


class StepInfo(eqx.Module):
    """Diagnostics of one step; no later step reads them.

    Attributes:
        loss: the (batch) loss at the point where the step started, shifted labels included.
        learning_rate: the step size that was used.
    """

    loss: Float[Array, ""]
    learning_rate: Float[Array, ""]


class SharedFunction(eqx.Module):
    """A function that a rule calls; its arrays belong to no run and are shared by all runs of an ensemble.

    Attributes:
        fn: the function.
    """

    fn: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """`fn(*args)`."""
        return self.fn(*args)


class AbstractDynamics(eqx.Module):
    """A rule that moves params downhill.

    A step is cut in two: `draw` makes its random numbers from its key, `update` is deterministic. `train`
    calls `draw` for a whole chunk of keys at once, which is much cheaper than one step at a time, and gets
    the same bits, because the key of step k is `fold_in(run key, k)`.

    Attributes:
        full_loss: whether the loss that a step reports is the objective's own at its start, over all samples; then it
            can be recorded at the cost of a store.
    """

    full_loss: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, params: PyTree) -> DynamicsState:
        """The state at step 0."""

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], objective: AbstractObjective, dtype: jnp.dtype) -> PyTree:
        """The random numbers of one step, floats of type `dtype`; `()` for a deterministic rule."""

    @abc.abstractmethod
    def update(
        self, draws: PyTree, objective: AbstractObjective, state: DynamicsState
    ) -> tuple[DynamicsState, StepInfo]:
        """One step with the random numbers of `draw`."""

    def draw_steps(
        self, key: Key[Array, ""], steps: Int[Array, " K"], objective: AbstractObjective, dtype: jnp.dtype
    ) -> PyTree:
        """The random numbers of consecutive steps, stacked, from the key of the run.

        Step k uses `draw(fold_in(key, k))`. A rule whose steps hang together (epochs) overrides this one; what it
        draws for a step must not depend on which steps are drawn beside it.
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, steps)
        return jax.vmap(lambda k: self.draw(k, objective, dtype))(keys)

    def step(
        self, key: Key[Array, ""], objective: AbstractObjective, state: DynamicsState
    ) -> tuple[DynamicsState, StepInfo]:
        """One step: `update(draw(key), ...)`."""
        return self.update(self.draw(key, objective, floating_type(state.params)), objective, state)
