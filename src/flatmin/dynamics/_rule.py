"""What the rules share: the step, momentum and weight decay.

With learning rate eta, momentum mu and weight decay lambda (both optional), for the direction g_k at W_k:

    v_{k+1} = mu v_k + g_k + lambda W_k,   v_0 = 0
    W_{k+1} = W_k - eta_k v_{k+1}

that is, `optax.add_decayed_weights` then `optax.trace` then the step (PyTorch's SGD with the same arguments). Weight
decay is the gradient of `(lambda/2) ||W||^2`, coupled, and not part of the reported loss.
"""

import abc
from collections.abc import Callable
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from flatmin._core import AbstractObjective
from flatmin.dynamics._base import AbstractDynamics, DynamicsState, StepInfo
from flatmin.dynamics._batches import Batches
from flatmin.dynamics.schedule import (
    BELOW_ONE,
    NON_NEGATIVE,
    POSITIVE,
    AbstractSchedule,
    check_settings,
    hyperparameter,
    value_at,
)

Scalar = Float[Array, "..."]
Loss = Callable[[PyTree], Float[Array, ""]]


class AbstractRule(AbstractDynamics):
    """A rule of the module's form: it says which direction to go, the rest is done here.

        class SignDescent(AbstractRule):
            def direction(self, draws, objective, state):
                loss, gradient = equinox.filter_value_and_grad(objective.loss)(state.params)
                return loss, jax.tree.map(jnp.sign, gradient)

    An own hyperparameter is a field `equinox.field(converter=hyperparameter, metadata=POSITIVE)`, read by
    `value_at(self.field, state.step, dtype)`: a number, one number per run of an ensemble, or a schedule.
    `@register("name")` above the class lets studies name it. Random numbers are drawn in `draw`.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        momentum: 0 <= mu < 1, `None` for none (then no velocity is kept).
        weight_decay: lambda >= 0, `None` for none.

    Raises:
        UsageError: for hyperparameters out of range.
    """

    learning_rate: Scalar | AbstractSchedule = eqx.field(converter=hyperparameter, metadata=POSITIVE)
    momentum: Scalar | None = eqx.field(converter=hyperparameter, metadata=BELOW_ONE, default=None, kw_only=True)
    weight_decay: Scalar | None = eqx.field(converter=hyperparameter, metadata=NON_NEGATIVE, default=None, kw_only=True)

    def __check_init__(self):
        check_settings(self)

    @abc.abstractmethod
    def direction(
        self, draws: PyTree, objective: AbstractObjective, state: DynamicsState
    ) -> tuple[Float[Array, ""], PyTree]:
        """The loss to report, and g_k of the structure of the floating point arrays of the params."""

    def draw(self, key: Key[Array, ""], objective: AbstractObjective, dtype: jnp.dtype) -> PyTree:
        """Nothing is random."""
        return ()

    @final
    def init(self, params: PyTree) -> DynamicsState:
        """Step 0, with zero velocity where there is momentum."""
        floats = eqx.filter(params, eqx.is_inexact_array)
        velocity = None if self.momentum is None else jax.tree.map(jnp.zeros_like, floats)
        return DynamicsState(params, jnp.zeros((), jnp.int32), velocity)

    @final
    def update(
        self, draws: PyTree, objective: AbstractObjective, state: DynamicsState
    ) -> tuple[DynamicsState, StepInfo]:
        """One step of the module's rule along `direction`."""
        value, along = self.direction(draws, objective, state)
        floats, rest = eqx.partition(state.params, eqx.is_inexact_array)
        velocity, decay, momentum = None, self.weight_decay, self.momentum
        if decay is not None:
            along = jax.tree.map(lambda g, w: g + decay.astype(w.dtype) * w, along, floats)
        if momentum is not None:
            along = velocity = jax.tree.map(lambda v, g: momentum.astype(v.dtype) * v + g, state.buffers, along)
        floats = jax.tree.map(lambda w, v: w - value_at(self.learning_rate, state.step, w.dtype) * v, floats, along)
        info = StepInfo(value, value_at(self.learning_rate, state.step, value.dtype))
        return DynamicsState(eqx.combine(floats, rest), state.step + 1, velocity), info


class AbstractBatchRule(AbstractRule):
    """A rule that takes B samples a step: `draws` holds their indices, see `draw`.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        batch_size: B >= 1, static.
        replacement: whether each sample of each step is drawn anew (with replacement). If not, the samples are
            shuffled anew for each epoch of `n // B` steps and taken in that order; the `n mod B` last ones are left
            out of that epoch.
        momentum: 0 <= mu < 1, `None` for none.
        weight_decay: lambda >= 0, `None` for none.

    Raises:
        UsageError: for hyperparameters out of range.
    """

    batch_size: int = eqx.field(static=True)
    replacement: bool = eqx.field(static=True, default=True, kw_only=True)

    def __check_init__(self):
        self._batches.check()

    @property
    def _batches(self) -> Batches:
        return Batches(self.batch_size, self.replacement)

    def draw_extra(self, key: Key[Array, ""], dtype: jnp.dtype) -> PyTree:
        """Random numbers beside the batch, from the second half of the step's key; None for none."""
        return None

    def draw(self, key: Key[Array, ""], objective: AbstractObjective, dtype: jnp.dtype) -> PyTree:
        """Indices of a batch drawn with replacement, from the first half of the key; a pair with `draw_extra`, if any.

        Raises:
            UsageError: without replacement, where a step alone has no batch.
        """
        return self._batches.draw(key, objective.num_samples, lambda k: self.draw_extra(k, dtype))

    def draw_steps(
        self, key: Key[Array, ""], steps: Int[Array, " K"], objective: AbstractObjective, dtype: jnp.dtype
    ) -> PyTree:
        """The same for consecutive steps, from the run's key; the only way without replacement."""
        return self._batches.draw_steps(key, steps, objective.num_samples, lambda k: self.draw_extra(k, dtype))


def unit(direction: PyTree) -> PyTree:
    """`g / ||g||`, the norm over all arrays together; zero where g is zero.

    Args:
        direction: a pytree of arrays (None where there is none).

    Returns:
        The same structure and types.
    """
    leaves = jax.tree.leaves(direction)
    size = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in leaves if g.size]))
    size = jnp.where(size > 0, size, 1)  # so that neither squares nor their sum leave the range
    norm = jnp.sqrt(jnp.sum(jnp.stack([jnp.sum((g / size) ** 2) for g in leaves if g.size])))
    norm = jnp.where(norm > 0, norm, 1)
    return jax.tree.map(lambda g: (g / size.astype(g.dtype)) / norm.astype(g.dtype), direction)
