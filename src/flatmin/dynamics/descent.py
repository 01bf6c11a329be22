"""Gradient descent, mini-batch SGD and label-noise SGD: one update rule, three sources of gradients.

The rule, with learning rate eta, momentum mu and weight decay lambda (both optional), for the gradient g_k
at W_k:

    v_{k+1} = mu v_k + g_k + lambda W_k,   v_0 = 0
    W_{k+1} = W_k - eta_k v_{k+1}

that is, `optax.add_decayed_weights` then `optax.trace` then the step (PyTorch's SGD with the same
arguments). Weight decay is the gradient of `(lambda/2) ||W||^2`, coupled, and not part of the reported loss.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from flatmin._core import AbstractObjective
from flatmin.dynamics._base import AbstractDynamics, DynamicsState, StepInfo
from flatmin.dynamics._rule import Scalar, check_rule, descend, draw_batch, start
from flatmin.dynamics.record import whole
from flatmin.dynamics.schedule import AbstractSchedule, check_hyperparameter, hyperparameter, value_at


class GradientDescent(AbstractDynamics):
    """Full-batch gradient descent: the rule above with `g_k = grad f(W_k)`.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        momentum: 0 <= mu < 1, `None` for none (then no velocity is kept).
        weight_decay: lambda >= 0, `None` for none.
    """

    learning_rate: Scalar | AbstractSchedule = eqx.field(converter=hyperparameter)
    momentum: Scalar | None = eqx.field(converter=hyperparameter, default=None)
    weight_decay: Scalar | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_rule(self)

    def init(self, params: PyTree) -> DynamicsState:
        """Step 0, zero velocity."""
        return start(self.momentum, params)

    def draw(self, key: Key[Array, ""], objective: AbstractObjective, dtype: jnp.dtype) -> tuple:
        """Nothing is random."""
        return ()

    def update(
        self,
        draws: tuple,
        objective: AbstractObjective,
        state: DynamicsState,
    ) -> tuple[DynamicsState, StepInfo]:
        """One step; one gradient of the full loss."""
        return descend(self, objective.loss, state)


class StochasticGradientDescent(AbstractDynamics):
    """Mini-batch SGD: B samples a step, drawn uniformly with replacement.

    `g_k = grad (1/B) sum_{i in batch} l_i(W_k)`; a sample drawn twice counts twice.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        batch_size: B >= 1, static.
        momentum: 0 <= mu < 1, `None` for none.
        weight_decay: lambda >= 0, `None` for none.
    """

    learning_rate: Scalar | AbstractSchedule = eqx.field(converter=hyperparameter)
    batch_size: int = eqx.field(static=True)
    momentum: Scalar | None = eqx.field(converter=hyperparameter, default=None)
    weight_decay: Scalar | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_rule(self)
        whole("batch_size", self.batch_size, 1)

    def init(self, params: PyTree) -> DynamicsState:
        """Step 0, zero velocity."""
        return start(self.momentum, params)

    def draw(self, key: Key[Array, ""], objective: AbstractObjective, dtype: jnp.dtype) -> Int[Array, " B"]:
        """The batch's indices, from the first half of the key."""
        return draw_batch(jax.random.split(key)[0], self.batch_size, objective.num_samples)

    def update(
        self, draws: Int[Array, " B"], objective: AbstractObjective, state: DynamicsState
    ) -> tuple[DynamicsState, StepInfo]:
        """One step; one gradient of a batch of B samples."""
        return descend(self, lambda params: objective.batch_loss(params, draws, None), state)


class LabelNoiseSGD(AbstractDynamics):
    """Mini-batch SGD whose labels are moved by fresh noise `sigma N(0, 1)` at each step [G, Sec 7].

    `g_k = grad (1/B) sum_{i in batch} l_i(W_k; b_i + sigma xi_ki)`. A sample drawn twice in a batch gets two
    independent shifts. With sigma = 0 the batches are those of `StochasticGradientDescent` for the same key.
    After zero loss it follows the flow of `-grad tr(Hessian)` along the solutions, with time `steps eta^2
    sigma^2 / (2 B)` for a mean-of-squares loss.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        batch_size: B >= 1, static.
        noise: sigma >= 0, in the units of the labels; a number, an array or a schedule.
        momentum: 0 <= mu < 1, `None` for none.
        weight_decay: lambda >= 0, `None` for none.
    """

    learning_rate: Scalar | AbstractSchedule = eqx.field(converter=hyperparameter)
    batch_size: int = eqx.field(static=True)
    noise: Scalar | AbstractSchedule = eqx.field(converter=hyperparameter)
    momentum: Scalar | None = eqx.field(converter=hyperparameter, default=None)
    weight_decay: Scalar | None = eqx.field(converter=hyperparameter, default=None)

    def __check_init__(self):
        check_rule(self)
        whole("batch_size", self.batch_size, 1)
        check_hyperparameter("noise", self.noise, lambda x: x >= 0, "finite value(s) >= 0")

    def init(self, params: PyTree) -> DynamicsState:
        """Step 0, zero velocity."""
        return start(self.momentum, params)

    def draw(
        self, key: Key[Array, ""], objective: AbstractObjective, dtype: jnp.dtype
    ) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
        """The batch's indices and a standard normal for each, from the two halves of the key."""
        batch_key, noise_key = jax.random.split(key)
        indices = draw_batch(batch_key, self.batch_size, objective.num_samples)
        return indices, jax.random.normal(noise_key, (self.batch_size,), dtype)

    def update(
        self,
        draws: tuple[Int[Array, " B"], Float[Array, " B"]],
        objective: AbstractObjective,
        state: DynamicsState,
    ) -> tuple[DynamicsState, StepInfo]:
        """One step; one gradient of a batch of B samples."""
        indices, normals = draws
        shift = value_at(self.noise, state.step, normals.dtype) * normals
        return descend(self, lambda params: objective.batch_loss(params, indices, shift), state)
