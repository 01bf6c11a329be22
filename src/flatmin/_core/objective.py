"""The seam between problems and dynamics.

Dynamics know neither problems nor measurements: they see an `AbstractObjective`, a mean of per-sample losses
that can be evaluated on all samples or on a sub-batch with shifted targets (label noise).
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, Int, PyTree


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


class FunctionObjective(AbstractObjective):
    """Any scalar JAX function as an objective; full-batch dynamics only."""

    fn: Callable[..., Any]

    @property
    def num_samples(self) -> int:
        """1: a bare function has no samples."""
        return 1

    def loss(self, params: PyTree) -> Float[Array, ""]:
        """`fn(params)`."""
        return self.fn(params)

    def batch_loss(
        self, params: PyTree, indices: Int[Array, " B"], label_shift: Float[Array, " B"] | None
    ) -> Float[Array, ""]:
        """Not available: a bare function has no samples.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "objective: a bare function has no samples to draw a mini-batch from; use GradientDescent, or pass "
            "an objective with batch_loss such as RecoveryProblem"
        )
