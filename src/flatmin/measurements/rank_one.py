"""Measurements of low rank: bilinear `a_i b_i^T`, symmetric `x_i x_i^T`, and short sums of them."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from flatmin._core import UsageError, checked
from flatmin.measurements._base import AbstractMeasurements, check_matrix, check_weights, pick
from flatmin.measurements._generic import (
    HIGHEST,
    apply_right,
    col_gram,
    default_dtype,
    entry_gram,
    forward_product,
    gram_form,
    kernel_form,
    left_vector,
    right_vector,
    row_gram,
    take,
    twist_gram,
)


@checked()
class LowRankMeasurements(AbstractMeasurements):
    """`A_i = sum_j left[i, j] right[i, j]^T`, with q terms each (q = 1: rank one).

    Attributes:
        left: shape (m, q, d1).
        right: shape (m, q, d2).
    """

    left: Float[Array, "m q d1"]
    right: Float[Array, "m q d2"]

    def __check_init__(self):
        if 0 in self.left.shape + self.right.shape:
            raise UsageError(
                f"left, right: got shapes {self.left.shape}, {self.right.shape}; at least one measurement of a "
                "non-empty matrix is needed"
            )

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.left.shape[2], self.right.shape[2]

    @property
    def num_measurements(self) -> int:
        """`m`."""
        return self.left.shape[0]

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """`sum_j left_ij^T X right_ij`; 2 m q d1 d2 flops as one matrix product."""
        matrix = check_matrix(self, matrix)
        return jnp.einsum("ijb,ijb->i", self.left @ matrix, self.right)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`sum_i y_i A_i`; 2 m q d1 d2 flops as one matrix product."""
        weights = check_weights(self, weights)
        d1, d2 = self.matrix_shape
        return (self.left * weights[:, None, None]).reshape(-1, d1).T @ self.right.reshape(-1, d2)


@checked()
def rank_one(left: Float[Array, "m d1"], right: Float[Array, "m d2"]) -> LowRankMeasurements:
    """`A_i = left[i] right[i]^T` (bilinear sensing).

    Args:
        left: vectors a_i, shape (m, d1).
        right: vectors b_i, shape (m, d2).

    Returns:
        The measurements, memory m (d1 + d2).

    Raises:
        UsageError: for mismatched shapes, m = 0, NaN or infinite values.
    """
    return LowRankMeasurements(left[:, None], right[:, None])


@checked()
def symmetric_rank_one(vectors: Float[Array, "m d"]) -> LowRankMeasurements:
    """`A_i = x_i x_i^T`, so `A(M)_i = x_i^T M x_i` (covariance, phase retrieval, quadratic networks).

    Args:
        vectors: the x_i, shape (m, d).

    Returns:
        The measurements.

    Raises:
        UsageError: for a wrong shape, m = 0, NaN or infinite values.
    """
    return rank_one(vectors, vectors)


@checked()
def bilinear_gaussian(
    key: Key[Array, ""], num_measurements: int, matrix_shape: tuple[int, int], dtype: DTypeLike | None = None
) -> LowRankMeasurements:
    """`A_i = a_i b_i^T` with independent N(0, 1) entries in a_i and b_i.

    Args:
        key: random key.
        num_measurements: m >= 1.
        matrix_shape: (d1, d2).
        dtype: default: JAX's default float.

    Returns:
        The measurements.

    Raises:
        UsageError: if a size is below 1.
    """
    dtype = dtype or default_dtype()
    left_key, right_key = jax.random.split(key)
    return rank_one(
        jax.random.normal(left_key, (num_measurements, matrix_shape[0]), dtype),
        jax.random.normal(right_key, (num_measurements, matrix_shape[1]), dtype),
    )


def _pairs(vectors: Array, matrix: Array | None) -> Float[Array, "m q q"]:
    """`v_ij^T matrix v_ik` for every pair of terms of each measurement."""
    return jnp.einsum("ija,ika->ijk", apply_right(vectors, matrix), vectors, precision=HIGHEST)


def _weighted(left: Array, weights: Float[Array, "m q q"], right: Array) -> Array:
    """`sum_i sum_jk left_ij weights_ijk right_ik^T`."""
    mixed = jnp.einsum("ijk,ija->ika", weights, left, precision=HIGHEST)
    return jnp.matmul(mixed.reshape(-1, left.shape[2]).T, right.reshape(-1, right.shape[2]), precision=HIGHEST)


@row_gram.register
def _(op: LowRankMeasurements, T=None):
    return _weighted(op.left, _pairs(op.right, T), op.left)


@col_gram.register
def _(op: LowRankMeasurements, S=None):
    return _weighted(op.right, _pairs(op.left, S), op.right)


@twist_gram.register
def _(op: LowRankMeasurements, T):
    weights = jnp.einsum("ija,ika->ijk", apply_right(op.right, T), op.left, precision=HIGHEST)
    return _weighted(op.left, weights, op.right)


@gram_form.register
def _(op: LowRankMeasurements, S=None, T=None):
    return jnp.vdot(_pairs(op.left, S), _pairs(op.right, T), precision=HIGHEST)


@kernel_form.register
def _(op: LowRankMeasurements, S=None, T=None):
    m, q, d1 = op.left.shape
    lefts = op.left.reshape(m * q, d1)
    rights = op.right.reshape(m * q, -1)
    products = jnp.matmul(apply_right(lefts, S), lefts.T, precision=HIGHEST) * jnp.matmul(
        apply_right(rights, T), rights.T, precision=HIGHEST
    )
    return products.reshape(m, q, m, q).sum((1, 3))


@right_vector.register
def _(op: LowRankMeasurements, v):
    return jnp.einsum("ija,ij->ia", op.left, op.right @ v, precision=HIGHEST)


@left_vector.register
def _(op: LowRankMeasurements, u):
    return jnp.einsum("ijb,ij->ib", op.right, op.left @ u, precision=HIGHEST)


@entry_gram.register
def _(op: LowRankMeasurements):
    if op.left.shape[1] == 1:
        return jnp.matmul(op.left[:, 0].T ** 2, op.right[:, 0] ** 2, precision=HIGHEST)
    products = jnp.einsum("ija,ika,ijb,ikb->ab", op.left, op.left, op.right, op.right, precision=HIGHEST)
    return jnp.maximum(products, 0)


@forward_product.register
def _(op: LowRankMeasurements, left, right):
    return jnp.einsum("ijk,ijk->i", op.left @ left, op.right @ right.T)


@take.register
def _(op: LowRankMeasurements, indices: Int[Array, " B"]):
    return LowRankMeasurements(pick(op.left, indices), pick(op.right, indices))
