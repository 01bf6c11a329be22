"""Rules that move along the zero-loss set towards flat points without label noise.

Each is the common rule (momentum, weight decay, schedules; see `descent`) with another direction g_k. On the set of
zero loss, to leading order in the step size eta (a mean-of-squares loss with Hessian H, P_T the projection on the
tangent space), a step moves params by

    SharpnessAwareDescent            -(eta rho^2 / 2) P_T grad lambda_max(H)     [Wen, Ma, Li 2023]
    StochasticSharpnessAware, B = 1  -(eta rho^2 / 2) P_T grad tr H              [Wen, Ma, Li 2023]
    NormalisedGradientDescent        -(eta^2 / 4) P_T grad log lambda_max(H)     [Arora, Li, Panigrahi 2022]
    PenalisedGradientDescent         -eta lambda P_T grad penalty                exactly what it says
    LabelNoiseSGD                    -(eta^2 sigma^2 / (2 B)) P_T grad tr H      [Damian, Ma, Lee 2021]

`theory.implicit_drift` has these constants with their derivations, and `flatmin verify-theory` measures them.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, PyTree

from flatmin._core import AbstractObjective, Function
from flatmin.dynamics._base import DynamicsState, SharedFunction
from flatmin.dynamics._rule import AbstractBatchRule, AbstractRule, Loss, Scalar, unit
from flatmin.dynamics.registry import register
from flatmin.dynamics.schedule import NON_NEGATIVE, AbstractSchedule, checked_rule, hyperparameter, value_at


def _look_ahead(radius: Scalar | AbstractSchedule, loss: Loss, state: DynamicsState) -> tuple[Float[Array, ""], PyTree]:
    """The loss at W, and `grad loss(W + rho g / ||g||)`, `g = grad loss(W)`."""
    value, ascent = eqx.filter_value_and_grad(loss)(state.params)
    floats, rest = eqx.partition(state.params, eqx.is_inexact_array)
    ahead = jax.tree.map(lambda w, g: w + value_at(radius, state.step, w.dtype) * g, floats, unit(ascent))
    return value, eqx.filter_grad(loss)(eqx.combine(ahead, rest))


@checked_rule()
@register("sharpness_aware")
class SharpnessAwareDescent(AbstractRule):
    """Full-batch sharpness-aware minimisation: `g_k = grad f(W + rho g / ||g||)`, `g = grad f(W)`.

    The norm is over all parameters together. Where the gradient is zero it is gradient descent. With rho = 0 it is
    gradient descent to rounding. After zero loss it lowers the largest eigenvalue of the Hessian.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        radius: rho >= 0, in the units of the params; a number, an array or a schedule.
        momentum: 0 <= mu < 1, `None` for none.
        weight_decay: lambda >= 0, `None` for none.
    """

    full_loss = True

    radius: Scalar | AbstractSchedule = eqx.field(converter=hyperparameter, metadata=NON_NEGATIVE)

    def direction(
        self, draws: tuple, objective: AbstractObjective, state: DynamicsState
    ) -> tuple[Float[Array, ""], PyTree]:
        """The full loss and the gradient further up; two gradients."""
        return _look_ahead(self.radius, objective.loss, state)


@checked_rule()
@register("stochastic_sharpness_aware")
class StochasticSharpnessAware(AbstractBatchRule):
    """Mini-batch sharpness-aware minimisation: both gradients of a step are those of the same batch.

    `g_k = grad f_B(W + rho g / ||g||)`, `g = grad f_B(W)`, with the batches of `StochasticGradientDescent` for the
    same key. With B = 1 it lowers the trace of the Hessian after zero loss.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        batch_size: B >= 1, static.
        radius: rho >= 0, in the units of the params; a number, an array or a schedule.
        replacement: as in `StochasticGradientDescent`.
        momentum: 0 <= mu < 1, `None` for none.
        weight_decay: lambda >= 0, `None` for none.
    """

    radius: Scalar | AbstractSchedule = eqx.field(converter=hyperparameter, metadata=NON_NEGATIVE)

    def direction(
        self, draws: Int[Array, " B"], objective: AbstractObjective, state: DynamicsState
    ) -> tuple[Float[Array, ""], PyTree]:
        """The batch's loss and its gradient further up; two gradients of a batch."""
        return _look_ahead(self.radius, lambda params: objective.batch_loss(params, draws, None), state)


@checked_rule()
@register("normalised")
class NormalisedGradientDescent(AbstractRule):
    """Full-batch normalised gradient descent: `g_k = grad f(W_k) / ||grad f(W_k)||`, so that steps have length eta.

    The norm is over all parameters together; where the gradient is zero the params stay. It never settles: near a
    minimum it jumps across, along the sharpest direction, and lowers the largest eigenvalue of the Hessian.

    Attributes:
        learning_rate: eta > 0, the length of a step; a number, an array (one per run of an ensemble) or a schedule.
        momentum: 0 <= mu < 1, `None` for none.
        weight_decay: lambda >= 0, `None` for none; added to the normalised gradient.
    """

    full_loss = True

    def direction(
        self, draws: tuple, objective: AbstractObjective, state: DynamicsState
    ) -> tuple[Float[Array, ""], PyTree]:
        """The full loss and its normalised gradient."""
        value, gradient = eqx.filter_value_and_grad(objective.loss)(state.params)
        return value, unit(gradient)


@checked_rule(penalty=Function())
@register("penalised")
class PenalisedGradientDescent(AbstractRule):
    """Full-batch gradient descent on `f(W) + lambda penalty(W)`, for any penalty; the loss reported is f alone.

    For the trace of the Hessian of a recovery problem, exact at every point:

        PenalisedGradientDescent(1e-2, TracePenalty(problem), 1e-3)

    with `class TracePenalty(equinox.Module)` whose `__call__(params)` returns `hessian_trace(problem, params).value`:
    the arrays of a module or of a bound method are arguments of the compiled step, those in a closure constants of it,
    and a new closure compiles anew.

    Attributes:
        learning_rate: eta > 0, a number, an array (one per run of an ensemble) or a schedule.
        penalty: `penalty(params) -> scalar`; shared by all runs of an ensemble.
        coefficient: lambda >= 0, a number, an array or a schedule.
        of_objective: whether it is `penalty(objective, params)`, called with each run's own objective.
        momentum: 0 <= mu < 1, `None` for none.
        weight_decay: `None` for none.
    """

    full_loss = True

    penalty: Callable[..., Any] | Any = eqx.field(
        converter=lambda fn: fn if isinstance(fn, SharedFunction) else SharedFunction(fn)
    )
    coefficient: Scalar | AbstractSchedule = eqx.field(converter=hyperparameter, metadata=NON_NEGATIVE)
    of_objective: bool = eqx.field(static=True, default=False, kw_only=True)

    def direction(
        self, draws: tuple, objective: AbstractObjective, state: DynamicsState
    ) -> tuple[Float[Array, ""], PyTree]:
        """The full loss, and its gradient with that of the penalty."""
        own = (objective,) if self.of_objective else ()

        def total(params: PyTree) -> tuple[Array, Array]:
            loss = objective.loss(params)
            weight = value_at(self.coefficient, state.step, loss.dtype)
            return loss + weight * self.penalty(*own, params), loss

        (_, loss), gradient = eqx.filter_value_and_grad(total, has_aux=True)(state.params)
        return loss, gradient
