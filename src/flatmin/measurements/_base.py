"""Measurement operators `A : R^{d1 x d2} -> R^m`, `A(X)_i = <A_i, X>`.

The base class holds only what cannot be derived: two sizes, the map and its adjoint. Every other question
(Gram forms, sub-batches, the dense tensor) is a generic function in `_generic.py`, with a default that works for
any operator and a cheap form registered by each kind in its own file. A new kind is therefore one class and
as many registrations as it has shortcuts; a new question is one generic function, for all kinds.
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flatmin._core import Indices, RealArray, Shown, UsageError, as_real, checked, is_traced
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

    def named_sizes(self) -> dict[str, int]:
        """The axes that arguments beside measurements must share; `d_L`, `d_0` and `d` (if square) name the same."""
        d1, d2 = self.matrix_shape
        square = {"d": d1} if d1 == d2 else {}
        return {"d1": d1, "d2": d2, "m": self.num_measurements} | {"d_L": d1, "d_0": d2} | square


@checked(matrix=RealArray(finite=False))
def check_matrix(op: AbstractMeasurements, matrix: Any) -> Float[Array, "d1 d2"]:
    """Return the matrix as a real array of the operator's shape; JAX would read any other at clamped indices.

    Args:
        op: the measurements.
        matrix: what was given; may be traced.

    Returns:
        The array; NaN and infinities pass.

    Raises:
        UsageError: for another shape, or anything but real numbers.
    """
    array = as_real("matrix", matrix)
    if array.shape != tuple(op.matrix_shape):
        raise UsageError(
            f"matrix: got shape {array.shape}, expected {tuple(op.matrix_shape)}, the matrix_shape of the measurements"
        )
    return array


@checked(weights=RealArray(finite=False))
def check_weights(op: AbstractMeasurements, weights: Any) -> Float[Array, " m"]:
    """Return the weights as a real array, one a measurement.

    Args:
        op: the measurements.
        weights: what was given; may be traced.

    Returns:
        The array; NaN and infinities pass.

    Raises:
        UsageError: for another shape, or anything but real numbers.
    """
    array = as_real("weights", weights)
    if array.shape != (op.num_measurements,):
        raise UsageError(f"weights: got shape {array.shape}, expected ({op.num_measurements},), one a measurement")
    return array


@checked(values=RealArray("_ ...", finite=False), indices=Indices("_"))
def pick(values: Float[Array, "n ..."], indices: Int[Array, " B"]) -> Float[Array, "B ..."]:
    """`values[indices]`, NaN where a traced index lies outside of `[0, n)`.

    Indices that can be seen are checked where they come in; JAX would count the others from the end or clamp them.

    Args:
        values: an array of real numbers.
        indices: integers.

    Returns:
        The rows.
    """
    if not is_traced(indices, values):
        most = int(np.max(np.asarray(indices), initial=-1))
        if most >= len(values):
            raise UsageError(f"indices: got {most}, expected positions below {len(values)}, the number of values")
    if not is_traced(indices):
        return values[indices]
    return values.at[outside(indices, values.shape[0])].get(mode="fill", fill_value=jnp.nan)


def outside(indices: Int[Array, " B"], size: int) -> Int[Array, " B"]:
    """The indices with those below 0 moved above `size`, where JAX's modes `fill` and `drop` see them."""
    return jnp.where(indices < 0, size, indices)
