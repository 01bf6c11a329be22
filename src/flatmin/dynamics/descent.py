"""Gradient descent, mini-batch SGD and label-noise SGD: one update rule, three sources of gradients; see `_rule`."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from flatmin._core import AbstractObjective
from flatmin.dynamics._base import DynamicsState
from flatmin.dynamics._rule import AbstractBatchRule, AbstractRule, Scalar
from flatmin.dynamics.registry import register
from flatmin.dynamics.schedule import NON_NEGATIVE, AbstractSchedule, checked_rule, hyperparameter, value_at


@checked_rule()
@register("gradient_descent")
class GradientDescent(AbstractRule):
    """Full-batch gradient descent: `g_k = grad f(W_k)`; one gradient of the full loss a step.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        momentum: 0 <= mu < 1, `None` for none (then no velocity is kept).
        weight_decay: lambda >= 0, `None` for none.
    """

    full_loss = True

    def direction(
        self, draws: tuple, objective: AbstractObjective, state: DynamicsState
    ) -> tuple[Float[Array, ""], PyTree]:
        """The full loss and its gradient."""
        return eqx.filter_value_and_grad(objective.loss)(state.params)


@checked_rule()
@register("sgd")
class StochasticGradientDescent(AbstractBatchRule):
    """Mini-batch SGD: B samples a step, `g_k = grad (1/B) sum_{i in batch} l_i(W_k)`.

    With replacement, a sample drawn twice counts twice.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        batch_size: B >= 1, static.
        replacement: whether batches are drawn uniformly with replacement; if not, epoch by epoch in shuffled order.
        momentum: 0 <= mu < 1, `None` for none.
        weight_decay: lambda >= 0, `None` for none.
    """

    def direction(
        self, draws: Int[Array, " B"], objective: AbstractObjective, state: DynamicsState
    ) -> tuple[Float[Array, ""], PyTree]:
        """The batch's loss and its gradient."""
        return eqx.filter_value_and_grad(lambda params: objective.batch_loss(params, draws, None))(state.params)


@checked_rule()
@register("label_noise_sgd")
class LabelNoiseSGD(AbstractBatchRule):
    """Mini-batch SGD whose labels are moved by fresh noise `sigma N(0, 1)` at each step [G, Sec 7].

    `g_k = grad (1/B) sum_{i in batch} l_i(W_k; b_i + sigma xi_ki)`. A sample drawn twice in a batch gets two
    independent shifts. With sigma = 0 the batches are those of `StochasticGradientDescent` for the same key.
    After zero loss it follows the flow of `-grad tr(Hessian)` along the solutions, with time `steps eta^2
    sigma^2 / (2 B)` for a mean-of-squares loss.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        batch_size: B >= 1, static.
        noise: sigma >= 0, in the units of the labels; a number, an array or a schedule.
        replacement: as in `StochasticGradientDescent`.
        momentum: 0 <= mu < 1, `None` for none.
        weight_decay: lambda >= 0, `None` for none.
    """

    noise: Scalar | AbstractSchedule = eqx.field(converter=hyperparameter, metadata=NON_NEGATIVE)

    def draw_extra(self, key: Key[Array, ""], dtype: jnp.dtype) -> Float[Array, " B"]:
        """A standard normal for each sample of the batch."""
        return jax.random.normal(key, (self.batch_size,), dtype)

    def direction(
        self, draws: tuple[Int[Array, " B"], Float[Array, " B"]], objective: AbstractObjective, state: DynamicsState
    ) -> tuple[Float[Array, ""], PyTree]:
        """The batch's loss on the moved labels and its gradient."""
        indices, normals = draws
        shift = value_at(self.noise, state.step, normals.dtype) * normals
        return eqx.filter_value_and_grad(lambda params: objective.batch_loss(params, indices, shift))(state.params)
