"""Any optax transformation as a rule: Adam, Muon, schedules, clipping, whatever optax has or will have."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key, PyTree

from flatmin._core import (
    AbstractObjective,
    AnyOf,
    Flag,
    Function,
    Instance,
    Integer,
    Optional,
    Real,
    UsageError,
    checked,
)
from flatmin._core.trees import floating_type
from flatmin._core.values import described, kind_of
from flatmin.dynamics._base import AbstractDynamics, DynamicsState, StepInfo
from flatmin.dynamics._params import strong
from flatmin.dynamics._rule import Batches
from flatmin.dynamics.registry import register
from flatmin.dynamics.schedule import NON_NEGATIVE, POSITIVE, AbstractSchedule, Setting, hyperparameter, value_at


@checked(
    transformation=AnyOf(Instance(optax.GradientTransformation, what="an optax transformation"), Function()),
    batch_size=Optional(Integer(1)),
    noise=Optional(NON_NEGATIVE["range"].domain()),
    replacement=Flag(),
)
@register("optax")
class OptaxRule(AbstractDynamics):
    """An optax transformation on the full gradient, on mini-batches, or on mini-batches with label noise.

        OptaxRule(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 1000))))
        OptaxRule(optax.adam, learning_rate=1e-3, batch_size=32)

    In the first form all is optax's; each new transformation object compiles anew. In the second the transformation is
    made inside the compiled step, and its hyperparameters that are floating point numbers are arguments of it: other
    values do not compile anew, and in an ensemble each run may have its own. The state of the transformation is the
    `buffers` of the run's state, and so part of checkpoints. The value, the gradient and the function itself are passed
    on to transformations that want them (line searches, L-BFGS).

    Attributes:
        transformation: an optax transformation, or a function that makes one from `hyperparameters`.
        batch_size: B, samples a step; None for the full loss.
        noise: sigma >= 0 of the label noise, as in `LabelNoiseSGD`; None for none.
        replacement: as in `StochasticGradientDescent`.
        hyperparameters: of the function, by name; floats become arrays, all else is static.

    Raises:
        UsageError: for what optax cannot make a transformation of, and for noise without batches.
    """

    transformation: Any
    batch_size: int | None = eqx.field(static=True)
    noise: Any
    replacement: bool = eqx.field(static=True)
    hyperparameters: dict[str, Any]

    def __init__(
        self,
        transformation: Any,
        *,
        batch_size: int | Any = None,
        noise: Any = None,
        replacement: bool | Any = True,
        **hyperparameters: Any,
    ):
        self.transformation = transformation
        self.batch_size = batch_size
        self.noise = hyperparameter(noise)
        self.replacement = replacement
        self.hyperparameters = {name: _leaf(name, value) for name, value in hyperparameters.items()}

    def __check_init__(self):
        if self.batch_size is None and (self.noise is not None or not self.replacement):
            name = "noise" if self.noise is not None else "replacement"
            raise UsageError(f"{name}: got it without mini-batches, expected both; give batch_size too")
        ready = isinstance(self.transformation, optax.GradientTransformation)
        if ready and self.hyperparameters:
            names = ", ".join(self.hyperparameters)
            raise UsageError(
                f"transformation: got a ready transformation and {names}, expected a function such as optax.adam "
                "beside them; leave them out, or pass the function"
            )
        if not ready:
            self._made({name: _first(value) for name, value in self.hyperparameters.items()})

    @property
    def full_loss(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether steps report the loss over all samples."""
        return self.batch_size is None

    def init(self, params: PyTree) -> DynamicsState:
        """Step 0, with the transformation's own start."""
        floats = eqx.filter(params, eqx.is_inexact_array)
        return DynamicsState(params, jnp.zeros((), jnp.int32), strong(self._ready(params).init(floats)))

    def draw(self, key: Key[Array, ""], objective: AbstractObjective, dtype: jnp.dtype) -> PyTree:
        """As `LabelNoiseSGD`, as far as there are batches and noise."""
        if self.batch_size is None:
            return ()
        return self._batches.draw(key, objective.num_samples, self._normals(dtype))

    def draw_steps(
        self, key: Key[Array, ""], steps: Int[Array, " K"], objective: AbstractObjective, dtype: jnp.dtype
    ) -> PyTree:
        """The same for consecutive steps, from the run's key."""
        if self.batch_size is None:
            return ()
        return self._batches.draw_steps(key, steps, objective.num_samples, self._normals(dtype))

    def update(
        self, draws: PyTree, objective: AbstractObjective, state: DynamicsState
    ) -> tuple[DynamicsState, StepInfo]:
        """One step of the transformation; the learning rate reported is NaN where it is not a hyperparameter."""
        floats, rest = eqx.partition(state.params, eqx.is_inexact_array)

        def loss(floats: PyTree) -> Array:
            params = eqx.combine(floats, rest)
            if self.batch_size is None:
                return objective.loss(params)
            if self.noise is None:
                return objective.batch_loss(params, draws, None)
            indices, normals = draws
            return objective.batch_loss(params, indices, value_at(self.noise, state.step, normals.dtype) * normals)

        value, gradient = jax.value_and_grad(loss)(floats)
        transformation = optax.with_extra_args_support(self._ready(state.params))
        try:
            updates, buffers = transformation.update(
                gradient, state.buffers, floats, value=value, grad=gradient, value_fn=loss
            )
        except UsageError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise self._refused(error) from error
        moved = optax.apply_updates(floats, updates)
        kept = jax.tree.map(  # what the loop carries keeps its type
            lambda new, old: new.astype(old.dtype) if eqx.is_array(old) and new.dtype != old.dtype else new,
            buffers,
            state.buffers,
        )
        rate = self.hyperparameters.get("learning_rate", jnp.nan)
        rate = rate if eqx.is_array(rate) else jnp.nan
        info = StepInfo(value, jnp.asarray(rate, value.dtype))
        return DynamicsState(eqx.combine(moved, rest), state.step + 1, kept), info

    @property
    def _batches(self) -> Batches:
        return Batches(self.batch_size, self.replacement)

    def _normals(self, dtype: jnp.dtype) -> Callable[[Any], Any] | None:
        return None if self.noise is None else lambda key: jax.random.normal(key, (self.batch_size or 0,), dtype)

    def _ready(self, params: PyTree) -> optax.GradientTransformation:
        if isinstance(self.transformation, optax.GradientTransformation):
            return self.transformation
        dtype = floating_type(params)
        return self._made({name: v.astype(dtype) if eqx.is_array(v) else v for name, v in self.hyperparameters.items()})

    def _made(self, hyperparameters: dict[str, Any]) -> optax.GradientTransformation:
        try:
            made = self.transformation(**hyperparameters)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._refused(error) from error
        if not isinstance(made, optax.GradientTransformation):
            raise UsageError(
                f"transformation: got a function that returns {type(made).__name__}, expected an optax "
                "transformation; write optax.adam"
            )
        return made

    def _refused(self, error: Exception) -> UsageError:
        what = str(error).strip().split("\n", maxsplit=1)[0]
        name = getattr(self.transformation, "__name__", "the transformation")
        return UsageError(
            f"transformation: {name} does not take {sorted(self.hyperparameters) or 'this'} ({what}); pass a ready "
            "transformation instead"
        )


def _leaf(name: str, value: Any) -> Any:
    if isinstance(value, AbstractSchedule):
        raise UsageError(
            "OptaxRule: got a schedule of flatmin, expected numbers or a schedule of optax; write "
            "optax.piecewise_constant_schedule"
        )
    if name == "learning_rate" and value is not None and not callable(value):
        return hyperparameter(POSITIVE["range"].domain().accept(name, value, {}))
    if isinstance(value, np.ndarray | np.generic) and kind_of(value.dtype) == "?":
        raise UsageError(f"{name}: got {described(value)}, expected numbers; see {name!r} in optax")
    if not (eqx.is_array_like(value) and _floating(value)):
        return value
    return hyperparameter(Setting(Real()).accept(name, value, {}))


def _floating(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)


def _first(value: Any) -> Any:
    """One number of those of an ensemble, to try the function with."""
    return value.reshape(-1)[0] if eqx.is_array(value) and value.ndim else value
