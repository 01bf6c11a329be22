"""Measurements after a change of variables, and the Gram matrices that are known to be diagonal."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin.measurements import (
    AbstractMeasurements,
    EntryMeasurements,
    IdentityMeasurements,
    MomentMeasurements,
    ScaledMeasurements,
    kernel_form,
)


def multiply(left: Any, matrix: Any, right: Any) -> Any:
    """`left X right`; vectors stand for diagonal matrices. NumPy arrays give NumPy arrays."""
    matrix = left[:, None] * matrix if left.ndim == 1 else left @ matrix
    return matrix * right[None, :] if right.ndim == 1 else matrix @ right


class ReweightedMeasurements(AbstractMeasurements):
    """`A_i` replaced by `left A_i right`, both symmetric.

    Attributes:
        inner: the measurements.
        left: symmetric (d1, d1), or (d1,) for a diagonal.
        right: symmetric (d2, d2), or (d2,) for a diagonal.
    """

    inner: AbstractMeasurements
    left: Array
    right: Array

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.inner.matrix_shape

    @property
    def num_measurements(self) -> int:
        """`m`."""
        return self.inner.num_measurements

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """`A(left X right)`."""
        return self.inner.forward(multiply(self.left, matrix, self.right))

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`left A*(y) right`."""
        return multiply(self.left, self.inner.adjoint(weights), self.right)


class EntryWeighted(AbstractMeasurements):
    """`A_i` replaced by `weights o A_i`, entry by entry.

    Attributes:
        inner: the measurements.
        weights: shape (d1, d2).
    """

    inner: AbstractMeasurements
    weights: Float[Array, "d1 d2"]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.inner.matrix_shape

    @property
    def num_measurements(self) -> int:
        """`m`."""
        return self.inner.num_measurements

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """`A(weights o X)`."""
        return self.inner.forward(self.weights * matrix)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`weights o A*(y)`."""
        return self.weights * self.inner.adjoint(weights)


def _square(factor: Array) -> Array:
    return jnp.diag(factor**2) if factor.ndim == 1 else factor @ factor


@kernel_form.register
def _(op: ReweightedMeasurements, S=None, T=None):
    left = _square(op.left) if S is None else multiply(op.left, S, op.left)
    right = _square(op.right) if T is None else multiply(op.right, T, op.right)
    return kernel_form(op.inner, left, right)


@functools.singledispatch
def gram_diagonal(op: AbstractMeasurements) -> Float[Array, " m"] | None:
    """The diagonal of `A A*` where that matrix is known to be diagonal, else `None`.

    Args:
        op: the measurements.

    Returns:
        Shape (m,), without forming anything of size m x m.
    """
    del op
    return None


@gram_diagonal.register
def _(op: IdentityMeasurements):
    return jnp.ones(op.num_measurements)


@gram_diagonal.register
def _(op: EntryMeasurements):
    flat = np.asarray(op.rows, np.int64) * op.matrix_shape[1] + np.asarray(op.cols)
    return jnp.ones(op.num_measurements) if np.unique(flat).size == flat.size else None


@gram_diagonal.register
def _(op: ScaledMeasurements):
    inner = gram_diagonal(op.inner)
    return None if inner is None else op.scale**2 * inner


@gram_diagonal.register
def _(op: MomentMeasurements):
    return gram_diagonal(op.inner)


@gram_diagonal.register
def _(op: ReweightedMeasurements):
    # diagonal factors rescale each entry of the matrix, and an operator that reads entries stays one
    inner = gram_diagonal(op.inner)
    if inner is None or op.left.ndim == 2 or op.right.ndim == 2:
        return None
    observed = op.inner.forward(jnp.outer(op.left, op.right))
    return observed**2


@gram_diagonal.register
def _(op: EntryWeighted):
    inner = gram_diagonal(op.inner)
    return None if inner is None or not _reads_entries(op.inner) else op.inner.forward(op.weights**2)


def _reads_entries(op: AbstractMeasurements) -> bool:
    return isinstance(op, EntryMeasurements | IdentityMeasurements)
