"""Hyperparameters that change with the step: one piecewise constant schedule, and its converter."""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flatmin._core import (
    Domain,
    FloatType,
    Indices,
    Numbers,
    Optional,
    Real,
    RealArray,
    UsageError,
    checked,
    is_traced,
)
from flatmin._core.domains import Sizes

Rule = TypeVar("Rule", bound=type[Any])


class AbstractSchedule(eqx.Module):
    """A hyperparameter as a function of the step index; evaluated inside the compiled loop."""

    values: eqx.AbstractVar[Array]

    @abc.abstractmethod
    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The value that step number `step` (from 0) uses."""


def _floats(values: Any) -> Array:
    return jnp.asarray(values, dtype=jnp.result_type(float))


@checked(boundaries=Indices("q", least=1), values=RealArray("... p"))
class Piecewise(AbstractSchedule):
    """`values[k]` for the steps `boundaries[k-1] <= step < boundaries[k]`.

    `Piecewise([100, 400], [3e-3, 1e-2, 3e-3])` uses 3e-3 for the steps 0..99, 1e-2 for 100..399, 3e-3 from
    400 on.

    Attributes:
        boundaries: shape (p - 1,), increasing, each >= 1.
        values: shape (p,); shape (runs, p) in an ensemble.
    """

    boundaries: Int[Array, " q"] = eqx.field(converter=lambda b: jnp.asarray(b, dtype=jnp.int32))
    values: Float[Array, "*runs p"] = eqx.field(converter=_floats)

    def __check_init__(self):
        pieces = self.boundaries.shape[0] + 1
        if self.values.ndim < 1 or self.values.shape[-1] != pieces:
            raise UsageError(
                f"values: got shape {self.values.shape}, expected {pieces} value(s), one more than there are boundaries"
            )
        if not is_traced(self.boundaries):
            bounds = np.asarray(self.boundaries)
            if np.any(np.diff(bounds, prepend=0) <= 0):
                raise UsageError(f"boundaries: got {bounds.tolist()}, expected increasing steps, each >= 1")

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """`values[number of boundaries <= step]`."""
        return self.values[jnp.sum(self.boundaries <= step)]


class Setting(Domain):
    """A hyperparameter: a number, an array of one for each run, or a schedule; schedules' values are looked at too."""

    def __init__(self, one: Real) -> None:
        self.one, self.numbers = one, Numbers(one)

    def expected(self) -> str:
        """`a finite number > 0, or an array of such, or a schedule of flatmin.dynamics`."""
        return f"{self.numbers.expected()}, or a schedule of flatmin.dynamics"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The number, array or schedule."""
        if isinstance(value, AbstractSchedule):
            self.numbers.accept(argument, value.values, sizes)
            return value
        if callable(value):
            raise self.refuse(argument, value, " (those of optax go with OptaxRule)")
        accepted = self.numbers.accept(argument, value, sizes)
        if np.size(accepted) == 0:
            raise self.refuse(argument, value)
        return accepted


@checked(value=Optional(Setting(Real(infinite=True, undefined=True))))
def hyperparameter(value: Any) -> Any:
    """Field converter: a number becomes a float array leaf, so that a new value does not recompile.

    Args:
        value: a number, an array, a schedule, or `None`.

    Returns:
        A float array; schedules and `None` unchanged.

    Raises:
        UsageError: for a function, or anything else that is no real number.
    """
    return value if value is None or isinstance(value, AbstractSchedule) else _floats(value)


class Range(NamedTuple):
    """What a hyperparameter may be.

    Attributes:
        positive: whether zero is excluded.
        below: the first number that is too large; None for none.
    """

    positive: bool
    below: float | None = None

    def words(self, name: str) -> str:
        """For the sentence."""
        if self.below is not None:
            return f"0 {'<' if self.positive else '<='} {name} < {self.below:g}"
        return "positive finite value(s)" if self.positive else "finite value(s) >= 0"

    def accepts(self, numbers: np.ndarray) -> np.ndarray:
        """Elementwise, for finite numbers."""
        large = numbers > 0 if self.positive else numbers >= 0
        return np.asarray(large if self.below is None else large & (numbers < self.below))

    def domain(self) -> Setting:
        """The same as the domain of an argument."""
        below = math.inf if self.below is None else self.below
        return Setting(Real(0, below, above=self.positive, below=self.below is not None))


POSITIVE: Mapping[str, Range] = {"range": Range(positive=True)}
"""Metadata of a field: `eqx.field(converter=hyperparameter, metadata=POSITIVE)` is checked, and read by studies."""
NON_NEGATIVE: Mapping[str, Range] = {"range": Range(positive=False)}
BELOW_ONE: Mapping[str, Range] = {"range": Range(positive=False, below=1.0)}


def checked_rule(**domains: Domain) -> Callable[[Rule], Rule]:
    """`checked` above a rule's class: the range that a field says is the domain of its argument.

    Args:
        domains: of the other arguments whose annotation and name do not say what they accept.

    Returns:
        The decorator.
    """

    def decorate(rule: Rule) -> Rule:
        found = dict(domains)
        for field in dataclasses.fields(rule):
            within = field.metadata.get("range")
            if within is not None:
                found[field.name] = Optional(within.domain()) if field.default is None else within.domain()
        return checked(**found)(rule)

    return decorate


def check_settings(module: Any) -> None:
    """Check every hyperparameter of a rule whose field says its range.

    Args:
        module: the rule.

    Raises:
        UsageError: for the first that is out of range.
    """
    for field in dataclasses.fields(module):
        within = field.metadata.get("range")
        if within is not None:
            check_hyperparameter(field.name, getattr(module, field.name), within.accepts, within.words(field.name))


def check_hyperparameter(argument: str, value: Any, accept: Callable[[np.ndarray], np.ndarray], expected: str) -> None:
    """Refuse a hyperparameter out of range; silent for `None` and traced values.

    Args:
        argument: the argument's name, for the sentence.
        value: an array or a schedule.
        accept: elementwise test; NaN and infinities are refused before it.
        expected: the range in words, for the sentence.

    Raises:
        UsageError: with the values that were got.
    """
    values = value.values if isinstance(value, AbstractSchedule) else value
    if values is None or is_traced(values) or not eqx.is_array_like(values):
        return
    numbers = np.asarray(values)
    if not (np.isfinite(numbers).all() and accept(numbers).all()):
        raise UsageError(f"{argument}: got {numbers.tolist()}, expected {expected}")


@checked(value=Setting(Real(infinite=True, undefined=True)), step=Indices(""), dtype=FloatType())
def value_at(value: Any, step: Int[Array, ""], dtype: Any) -> Float[Array, ""]:
    """The hyperparameter at `step`, in the type of the params (so that theirs is kept).

    Args:
        value: a scalar array or a schedule.
        step: step index from 0.
        dtype: type of the result.

    Returns:
        A scalar.
    """
    return (value(step) if isinstance(value, AbstractSchedule) else jnp.asarray(value)).astype(dtype)
