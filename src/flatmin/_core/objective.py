"""The seam between models and dynamics: what a rule descends.

Dynamics know neither problems nor measurements: they see an `AbstractObjective`, a mean of per-sample losses
that can be evaluated on all samples or on a sub-batch with shifted targets (label noise). `Objective` makes one of any
JAX function, `Descended` is what the verbs accept.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from flatmin._core.array_domains import Data
from flatmin._core.checked import checked
from flatmin._core.domains import Domain, Function, Optional, Sizes
from flatmin._core.errors import UsageError


class AbstractObjective(eqx.Module):
    """A loss `f(params) = (1/n) sum_i l_i(params)` that dynamics can descend."""

    @property
    @abc.abstractmethod
    def num_samples(self) -> int:
        """n, the number of per-sample losses."""

    @abc.abstractmethod
    def loss(self, params: PyTree) -> Float[Array, ""]:
        """The full loss, mean over all samples."""

    @abc.abstractmethod
    def batch_loss(
        self, params: PyTree, indices: Int[Array, " B"], label_shift: Float[Array, " B"] | None
    ) -> Float[Array, ""]:
        """Mean loss over the samples `indices` (repeats count), each label moved by `+label_shift`."""


@checked(fn=Function(), data=Optional(Data()), labels=Optional(Function()))
class Objective(AbstractObjective):
    """Any JAX function as what dynamics descend: a loss, or a loss with its data.

        Objective(lambda w: jnp.sum((w - 1) ** 2))
        Objective(lambda w, batch: (batch["x"] @ w - batch["y"]) ** 2, {"x": x, "y": y}, labels=lambda d: d["y"])

    The arrays in `data` (and those of an equinox module as `fn`) are arguments of the compiled step; arrays that a
    function closes over are constants of it.

    Attributes:
        fn: `fn(params) -> scalar`; with `data`, `fn(params, batch)` gives one loss for each sample of the batch, shape
            (B,), or their mean, a scalar.
        data: a pytree of arrays with one row per sample, the same number n of rows in all; None for a bare loss, which
            knows no samples and no mini-batches.
        labels: `labels(batch)` picks the leaf of shape (B,) that label noise moves; None where there are no labels.

    Raises:
        UsageError: if `fn` is no function, or the arrays do not have the same number of rows.
    """

    fn: Callable[..., Any] | Any
    data: PyTree = None
    labels: Callable[[PyTree], Array] | Any = None

    def __check_init__(self):
        if self.data is None:
            if self.labels is not None:
                raise UsageError("labels: got a function but no data, expected both; pass the data that it picks from")
            return
        rows = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(self.data)}
        if len(rows) != 1 or rows & {(), (0,)}:
            raise UsageError(
                f"data: got arrays of shapes {[np.shape(leaf) for leaf in jax.tree.leaves(self.data)]}, expected one "
                "row per sample in each; give all arrays the same number of rows"
            )

    @property
    def num_samples(self) -> int:
        """n, the rows of the data; 1 for a bare function, which has no samples."""
        return 1 if self.data is None else jax.tree.leaves(self.data)[0].shape[0]

    def loss(self, params: PyTree) -> Float[Array, ""]:
        """`fn(params)`, or the mean of `fn(params, data)`.

        Raises:
            UsageError: if the function returns anything but real numbers in one of the two shapes.
        """
        return self._mean(params, () if self.data is None else (self.data,), self.num_samples)

    def batch_loss(
        self, params: PyTree, indices: Int[Array, " B"], label_shift: Float[Array, " B"] | None
    ) -> Float[Array, ""]:
        """The mean of `fn(params, batch)` over the rows `indices`; one call of `fn`.

        Raises:
            UsageError: for a bare function, or for a shift where no labels are known.
        """
        if self.data is None:
            raise UsageError(
                "objective: a bare function has no samples to draw a mini-batch from; use GradientDescent, or pass "
                "Objective(fn, data) with fn(params, batch)"
            )
        batch = jax.tree.map(lambda x: x[indices], self.data)
        if label_shift is not None:
            batch = self._shifted(batch, label_shift)
        return self._mean(params, (batch,), indices.shape[0])

    def _shifted(self, batch: PyTree, shift: Float[Array, " B"]) -> PyTree:
        if self.labels is None:
            raise UsageError(
                "objective: got label noise, but it does not know its labels; pass Objective(fn, data, "
                "labels=lambda batch: ...), or use StochasticGradientDescent"
            )
        labels = self.labels(batch)
        if np.shape(labels) != shift.shape or not jnp.issubdtype(jnp.result_type(labels), jnp.floating):
            raise UsageError(
                f"labels: got {jnp.result_type(labels)} of shape {np.shape(labels)}, expected one real number per "
                f"sample, shape {shift.shape}; pick the leaf that holds them"
            )
        return eqx.tree_at(self.labels, batch, labels + shift.astype(labels.dtype))

    def _mean(self, params: PyTree, batch: tuple[PyTree, ...], size: int) -> Float[Array, ""]:
        try:
            values = self.fn(params, *batch)
        except jax.errors.JAXTypeError as error:
            raise UsageError(f"objective: the function cannot be traced by JAX ({_first_line(error)})") from error
        known = isinstance(values, jax.Array | np.ndarray | float | int)
        dtype = jnp.result_type(values) if known else None
        shapes = ((),) if not batch else ((), (size,))
        if dtype is None or np.shape(values) not in shapes or not jnp.issubdtype(dtype, jnp.floating):
            got = type(values).__name__ if dtype is None else f"{dtype} of shape {np.shape(values)}"
            wanted = "a real scalar" if not batch else f"a real scalar or one loss per sample, shape ({size},)"
            raise UsageError(f"objective: the function returned {got}, expected {wanted}; reduce it inside")
        return jnp.mean(jnp.asarray(values))


FunctionObjective = Objective
"""The name until 0.1."""


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]


class Descended(Domain):
    """What dynamics can descend; a function becomes an objective."""

    def expected(self) -> str:
        """The set in words."""
        return "a function of the params or an objective; write lambda params: ... or Objective(fn, data)"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> AbstractObjective:
        """The objective itself, or `Objective(function)`."""
        if isinstance(value, AbstractObjective):
            return value
        if isinstance(getattr(value, "problem", None), AbstractObjective):
            raise UsageError(
                f"{argument}: got a {type(value).__name__}, expected what is to be descended; pass its .problem"
            )
        if not callable(value) or isinstance(value, type):
            raise self.refuse(argument, value)
        return Objective(value)
