"""The fully observed matrix: `A` is the identity."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flatmin._core import checked
from flatmin.measurements._base import AbstractMeasurements, check_matrix, check_weights
from flatmin.measurements._generic import (
    col_gram,
    default_dtype,
    entry_gram,
    gram_form,
    kernel_form,
    observed_entries,
    row_gram,
    take,
    twist_gram,
)
from flatmin.measurements.entries import EntryMeasurements


@checked()
class IdentityMeasurements(AbstractMeasurements):
    """Every entry of the matrix, row-major: `m = d1 d2`, `A(X) = vec(X)`.

    Attributes:
        shape: (d1, d2).
    """

    shape: tuple[int, int] = eqx.field(static=True)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.shape

    @property
    def num_measurements(self) -> int:
        """`m = d1 d2`."""
        return self.shape[0] * self.shape[1]

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """`vec(X)`, free."""
        matrix = check_matrix(self, matrix)
        return matrix.reshape(-1)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """The vector as a matrix, free."""
        weights = check_weights(self, weights)
        return weights.reshape(self.shape)


@checked()
def identity(matrix_shape: tuple[int, int]) -> IdentityMeasurements:
    """Measurements that see the whole matrix.

    Args:
        matrix_shape: (d1, d2).

    Returns:
        The measurements; no memory.

    Raises:
        UsageError: if a size is below 1.
    """
    return IdentityMeasurements(matrix_shape)


def _trace(matrix: Array | None, size: int, like: Array | None = None) -> Array:
    dtype = default_dtype() if like is None else like.dtype
    return jnp.asarray(size, dtype) if matrix is None else jnp.trace(matrix)


@row_gram.register
def _(op: IdentityMeasurements, T=None):
    total = _trace(T, op.matrix_shape[1])
    return total * jnp.eye(op.matrix_shape[0], dtype=total.dtype)


@col_gram.register
def _(op: IdentityMeasurements, S=None):
    total = _trace(S, op.matrix_shape[0])
    return total * jnp.eye(op.matrix_shape[1], dtype=total.dtype)


@twist_gram.register
def _(op: IdentityMeasurements, T):
    return T.T


@gram_form.register
def _(op: IdentityMeasurements, S=None, T=None):
    return _trace(S, op.matrix_shape[0], T) * _trace(T, op.matrix_shape[1], S)


@kernel_form.register
def _(op: IdentityMeasurements, S=None, T=None):
    like = S if S is not None else T
    dtype = default_dtype() if like is None else like.dtype
    left = jnp.eye(op.matrix_shape[0], dtype=dtype) if S is None else S
    right = jnp.eye(op.matrix_shape[1], dtype=dtype) if T is None else T
    return jnp.kron(left, right)


@entry_gram.register
def _(op: IdentityMeasurements):
    return jnp.ones(op.matrix_shape, default_dtype())


@take.register
def _(op: IdentityMeasurements, indices: Int[Array, " B"]):
    return EntryMeasurements(indices // op.matrix_shape[1], indices % op.matrix_shape[1], op.matrix_shape)


@observed_entries.register
def _(op: IdentityMeasurements):
    d1, d2 = op.matrix_shape
    return np.divmod(np.arange(d1 * d2), d2)
