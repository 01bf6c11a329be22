"""Second moments of measurements for the programmes, on the host where that costs no compilation."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin.measurements import (
    AbstractMeasurements,
    DenseMeasurements,
    LowRankMeasurements,
    col_gram,
    row_gram,
)


@functools.singledispatch
def row_moment(op: AbstractMeasurements) -> Float[Array, "d1 d1"]:
    """`(1/m) sum A_i A_i^T`."""
    return row_gram(op) / op.num_measurements


@functools.singledispatch
def col_moment(op: AbstractMeasurements) -> Float[Array, "d2 d2"]:
    """`(1/m) sum A_i^T A_i`."""
    return col_gram(op) / op.num_measurements


@row_moment.register
def _(op: DenseMeasurements):
    tensor = np.asarray(op.tensor)
    rows = tensor.transpose(1, 0, 2).reshape(tensor.shape[1], -1)
    return jnp.asarray(rows @ rows.T / len(tensor))


@col_moment.register
def _(op: DenseMeasurements):
    cols = np.asarray(op.tensor).reshape(-1, op.tensor.shape[2])
    return jnp.asarray(cols.T @ cols / op.num_measurements)


def _of_factors(outer: np.ndarray, inner: np.ndarray) -> Array:
    """`(1/m) sum outer_i^T (inner_i inner_i^T) outer_i`."""
    weighted = np.matmul(np.matmul(inner, inner.transpose(0, 2, 1)), outer)
    d = outer.shape[2]
    return jnp.asarray(outer.reshape(-1, d).T @ weighted.reshape(-1, d) / len(outer))


@row_moment.register
def _(op: LowRankMeasurements):
    return _of_factors(np.asarray(op.left), np.asarray(op.right))


@col_moment.register
def _(op: LowRankMeasurements):
    return _of_factors(np.asarray(op.right), np.asarray(op.left))
