"""Measurements given by a dense tensor: Gaussian, Bernoulli, or the user's own matrices."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from flatmin._core import UsageError, as_real, check_at_least, check_finite, check_shape
from flatmin.measurements._base import AbstractMeasurements
from flatmin.measurements._generic import (
    HIGHEST,
    apply_left,
    apply_right,
    col_gram,
    default_dtype,
    entry_gram,
    kernel_form,
    left_vector,
    materialise,
    moment_matrix,
    right_vector,
    row_gram,
    take,
    twist_gram,
)


class DenseMeasurements(AbstractMeasurements):
    """`A_i = tensor[i]`.

    Attributes:
        tensor: shape (m, d1, d2).
    """

    tensor: Float[Array, "m d1 d2"]

    def __check_init__(self):
        check_shape("tensor", self.tensor, ("m", "d1", "d2"))
        if 0 in self.tensor.shape:
            raise UsageError(
                f"tensor: got shape {self.tensor.shape}; at least one measurement of a non-empty matrix is needed"
            )

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        _, d1, d2 = self.tensor.shape
        return d1, d2

    @property
    def num_measurements(self) -> int:
        """`m`."""
        return self.tensor.shape[0]

    @property
    def _flat(self) -> Float[Array, "m d1d2"]:
        return self.tensor.reshape(self.num_measurements, -1)

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """`<A_i, X>`; 2 m d1 d2 flops, one pass over the tensor."""
        return self._flat @ matrix.reshape(-1)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`sum y_i A_i`; 2 m d1 d2 flops, one pass over the tensor."""
        return (weights @ self._flat).reshape(self.matrix_shape)


def dense(tensor: Float[Array, "m d1 d2"]) -> DenseMeasurements:
    """Measurements from the user's own matrices.

    Args:
        tensor: shape (m, d1, d2), finite.

    Returns:
        The measurements.

    Raises:
        UsageError: for a wrong shape, m = 0, NaN or infinite values.
    """
    tensor = as_real("tensor", tensor)
    check_finite("tensor", tensor)
    return DenseMeasurements(tensor)


def _check_sizes(num_measurements: int, matrix_shape: tuple[int, int]) -> tuple[int, int, int]:
    check_at_least("num_measurements", num_measurements, 1)
    check_at_least("matrix_shape", min(matrix_shape), 1)
    return num_measurements, *matrix_shape


def gaussian(
    key: Key[Array, ""], num_measurements: int, matrix_shape: tuple[int, int], dtype: DTypeLike | None = None
) -> DenseMeasurements:
    """Matrices with independent N(0, 1) entries; `(r, delta)`-RIP for m of order r (d1 + d2) [G, Ex. 1].

    Args:
        key: random key.
        num_measurements: m >= 1.
        matrix_shape: (d1, d2).
        dtype: default: JAX's default float.

    Returns:
        Dense measurements of memory m d1 d2.

    Raises:
        UsageError: if a size is below 1.
    """
    shape = _check_sizes(num_measurements, matrix_shape)
    return DenseMeasurements(jax.random.normal(key, shape, dtype or default_dtype()))


def bernoulli(
    key: Key[Array, ""], num_measurements: int, matrix_shape: tuple[int, int], dtype: DTypeLike | None = None
) -> DenseMeasurements:
    """Matrices with independent entries +1 or -1, equally likely [G, Ex. 2].

    Args:
        key: random key.
        num_measurements: m >= 1.
        matrix_shape: (d1, d2).
        dtype: default: JAX's default float.

    Returns:
        Dense measurements of memory m d1 d2.

    Raises:
        UsageError: if a size is below 1.
    """
    shape = _check_sizes(num_measurements, matrix_shape)
    return DenseMeasurements(jax.random.rademacher(key, shape, dtype or default_dtype()))


@row_gram.register
def _(op: DenseMeasurements, T=None):
    # one (m d1, d2)(d2, d2) product, then one contraction over (i, column)
    right = op.tensor if T is None else apply_right(op.tensor, T)
    return jnp.einsum("iab,icb->ac", right, op.tensor, precision=HIGHEST)


@col_gram.register
def _(op: DenseMeasurements, S=None):
    left = op.tensor if S is None else jnp.einsum("ca,iab->icb", S, op.tensor, precision=HIGHEST)
    return jnp.einsum("iab,iac->bc", op.tensor, left, precision=HIGHEST)


@twist_gram.register
def _(op: DenseMeasurements, T):
    return jnp.einsum("iab,ibc->ac", apply_right(op.tensor, T), op.tensor, precision=HIGHEST)


@kernel_form.register
def _(op: DenseMeasurements, S=None, T=None):
    inner = apply_right(apply_left(S, op.tensor), T).reshape(op.num_measurements, -1)
    return jnp.matmul(op._flat, inner.T, precision=HIGHEST)


@moment_matrix.register
def _(op: DenseMeasurements):
    return jnp.matmul(op._flat.T, op._flat, precision=HIGHEST)


@right_vector.register
def _(op: DenseMeasurements, v):
    return jnp.matmul(op.tensor, v, precision=HIGHEST)


@left_vector.register
def _(op: DenseMeasurements, u):
    return jnp.einsum("iab,a->ib", op.tensor, u, precision=HIGHEST)


@entry_gram.register
def _(op: DenseMeasurements):
    return jnp.sum(op.tensor**2, axis=0)


@materialise.register
def _(op: DenseMeasurements):
    return op.tensor


@take.register
def _(op: DenseMeasurements, indices: Int[Array, " B"]):
    return DenseMeasurements(op.tensor[indices])
