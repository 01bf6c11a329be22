"""The seam between models and dynamics: what a rule descends.

Dynamics know neither problems nor measurements: they see an `AbstractObjective`, a mean of per-sample losses
that can be evaluated on all samples or on a sub-batch with shifted targets (label noise). `Objective` makes one of any
JAX function, `as_objective` is what the verbs call on their first argument.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

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


def _arrays(data: PyTree) -> PyTree:
    def array(leaf: Any) -> Any:
        try:
            return jnp.asarray(leaf)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"data: got a {type(leaf).__name__}, expected arrays with one row per sample; write them as arrays"
            ) from error

    return jax.tree.map(array, data)


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
    data: PyTree = eqx.field(converter=_arrays, default=None)
    labels: Callable[[PyTree], Array] | Any = None

    def __check_init__(self):
        for name in ("fn",) if self.labels is None else ("fn", "labels"):
            if not callable(getattr(self, name)):
                got = type(getattr(self, name)).__name__
                raise UsageError(f"{name}: got {got}, expected a function; write lambda params: ...")
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


def as_objective(objective: Any) -> AbstractObjective:
    """What a verb was given, as an objective.

    Args:
        objective: an objective (a recovery problem is one), or a scalar JAX function of the params.

    Returns:
        The objective itself, or `Objective(function)`.

    Raises:
        UsageError: for anything else; a planted problem is told from its `problem`.
    """
    if isinstance(objective, AbstractObjective):
        return objective
    got = type(objective).__name__
    if isinstance(getattr(objective, "problem", None), AbstractObjective):
        raise UsageError(f"objective: got a {got}, expected what is to be descended; pass its .problem")
    if not callable(objective) or isinstance(objective, type):
        raise UsageError(
            f"objective: got {got}, expected a function of the params or an objective; write lambda params: ... or "
            "Objective(fn, data)"
        )
    return Objective(objective)
