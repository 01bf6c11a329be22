"""Measurement operators `A : R^{d1 x d2} -> R^m`, `A(X)_i = <A_i, X>`.

The base class holds only what cannot be derived: two sizes, the map and its adjoint. Every other question
(Gram forms, sub-batches, the dense tensor) is a generic function in `_generic.py`, with a default that works for
any operator and a cheap form registered by each kind in its own file. A new kind is therefore one class and
as many registrations as it has shortcuts; a new question is one generic function, for all kinds.
"""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from flatmin._core import Shown
from flatmin._core.display import shape


class AbstractMeasurements(Shown, eqx.Module):
    """A linear map from matrices to `m` numbers."""

    def headline(self) -> str:
        """`30 measurements of a 6 x 6 matrix`."""
        return f"{self.num_measurements:,} measurements of a {shape(self.matrix_shape)} matrix"

    @property
    @abc.abstractmethod
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`, the shape of the matrices it reads."""

    @property
    @abc.abstractmethod
    def num_measurements(self) -> int:
        """`m`."""

    @abc.abstractmethod
    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """`A(X)_i = <A_i, X>`, shape (m,)."""

    @abc.abstractmethod
    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`A*(y) = sum_i y_i A_i`, shape (d1, d2)."""
