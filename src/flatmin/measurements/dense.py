"""Measurements given by a dense tensor: Gaussian, Bernoulli, or the user's own matrices."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from flatmin._core import UsageError, checked
from flatmin.measurements._base import AbstractMeasurements, check_matrix, check_weights, pick
from flatmin.measurements._generic import (
    HIGHEST,
    apply_left,
    apply_right,
    col_gram,
    default_dtype,
    entry_gram,
    gram_form,
    kernel_form,
    left_vector,
    materialise,
    moment_matrix,
    right_vector,
    row_gram,
    take,
    twist_gram,
)

BLOCK_ENTRIES = 2**16  # a block and its transpose stay in a core's cache


@checked()
class DenseMeasurements(AbstractMeasurements):
    """`A_i = tensor[i]`.

    Attributes:
        tensor: shape (m, d1, d2).
    """

    tensor: Float[Array, "m d1 d2"]

    def __check_init__(self):
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
        matrix = check_matrix(self, matrix)
        return self._flat @ matrix.reshape(-1)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`sum y_i A_i`; 2 m d1 d2 flops, one pass over the tensor."""
        weights = check_weights(self, weights)
        return (weights @ self._flat).reshape(self.matrix_shape)


@checked()
def dense(tensor: Float[Array, "m d1 d2"]) -> DenseMeasurements:
    """Measurements from the user's own matrices.

    Args:
        tensor: shape (m, d1, d2), finite.

    Returns:
        The measurements.

    Raises:
        UsageError: for a wrong shape, m = 0, NaN or infinite values.
    """
    return DenseMeasurements(tensor)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _draw(
    sample: Callable[..., Array], key: Key[Array, ""], shape: tuple[int, int, int], dtype: DTypeLike
) -> Float[Array, "m d1 d2"]:
    """`tensor[i] = sample(fold_in(key, i))`, some at a time: the bits of all at once take four times the tensor."""
    count, *matrix_shape = shape
    size = min(count, max(1, BLOCK_ENTRIES // math.prod(matrix_shape)))

    def body(block, tensor):
        first = jnp.minimum(block * size, count - size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(size))
        rows = jax.vmap(lambda k: sample(k, tuple(matrix_shape), dtype))(keys)
        return jax.lax.dynamic_update_slice_in_dim(tensor, rows, first, axis=0)

    return jax.lax.fori_loop(0, -(-count // size), body, jnp.zeros(shape, dtype))


@checked()
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
    shape = (num_measurements, *matrix_shape)
    return DenseMeasurements(_draw(jax.random.normal, key, shape, dtype or default_dtype()))


@checked()
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
    shape = (num_measurements, *matrix_shape)
    return DenseMeasurements(_draw(jax.random.rademacher, key, shape, dtype or default_dtype()))


def _sum_over_blocks(op: DenseMeasurements, term: Callable[[Float[Array, "n d1 d2"]], Array]) -> Array:
    """`sum term(block)` over blocks of measurements.

    The contractions below need the tensor with the measurement index in the middle. Transposed block by block
    it costs little beside the products, and no second tensor; XLA would transpose it as a whole, which takes
    longer than the products themselves.
    """
    size = max(1, BLOCK_ENTRIES // (op.tensor.shape[1] * op.tensor.shape[2]))
    count = op.num_measurements // size
    rest = op.tensor[count * size :]
    if count == 0:
        return term(rest)

    def body(i, total):
        return total + term(jax.lax.dynamic_slice_in_dim(op.tensor, i * size, size))

    shape = jax.eval_shape(term, op.tensor[:size])
    total = jax.lax.fori_loop(0, count, body, jnp.zeros(shape.shape, shape.dtype))
    return total + term(rest) if rest.shape[0] else total


def _times_right(block: Float[Array, "d1 n d2"], T: Float[Array, "d2 d2"] | None) -> Float[Array, "d1 n d2"]:
    return block if T is None else apply_right(block.reshape(-1, block.shape[2]), T).reshape(block.shape)


def _times_left(S: Float[Array, "d1 d1"] | None, block: Float[Array, "d1 n d2"]) -> Float[Array, "d1 n d2"]:
    return block if S is None else apply_left(S, block.reshape(block.shape[0], -1)).reshape(block.shape)


@row_gram.register
def _(op: DenseMeasurements, T=None):
    def term(block):
        block = block.swapaxes(0, 1)
        rows = block.shape[0]
        right = _times_right(block, T).reshape(rows, -1)
        return jnp.matmul(right, block.reshape(rows, -1).T, precision=HIGHEST)

    return _sum_over_blocks(op, term)


@col_gram.register
def _(op: DenseMeasurements, S=None):
    columns = op.tensor.shape[2]
    if S is None:
        stacked = op.tensor.reshape(-1, columns)
        return jnp.matmul(stacked.T, stacked, precision=HIGHEST)

    def term(block):
        block = block.swapaxes(0, 1)
        left = _times_left(S, block).reshape(-1, columns)
        return jnp.matmul(block.reshape(-1, columns).T, left, precision=HIGHEST)

    return _sum_over_blocks(op, term)


@gram_form.register
def _(op: DenseMeasurements, S=None, T=None):
    if S is None:
        return jnp.trace(col_gram(op)) if T is None else jnp.vdot(T, col_gram(op), precision=HIGHEST)

    # sum_i <S A_i, A_i T>: two products, and no third for the Gram matrix
    def term(block):
        block = block.swapaxes(0, 1)
        return jnp.vdot(_times_left(S, block), _times_right(block, T), precision=HIGHEST)

    return _sum_over_blocks(op, term)


@twist_gram.register
def _(op: DenseMeasurements, T):
    size = op.tensor.shape[2]

    def term(block):
        right = _times_right(block.swapaxes(0, 1), T).reshape(size, -1)
        return jnp.matmul(right, block.reshape(-1, size), precision=HIGHEST)

    return _sum_over_blocks(op, term)


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
    # rows of the flat tensor: a plain copy of each
    return DenseMeasurements(pick(op._flat, indices).reshape(-1, *op.matrix_shape))
