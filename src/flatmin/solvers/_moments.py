"""Second moments of measurements for the programmes, on the host where that is cheaper."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin.measurements import AbstractMeasurements, DenseMeasurements, col_gram, row_gram


@functools.singledispatch
def moments(op: AbstractMeasurements) -> tuple[Float[Array, "d1 d1"], Float[Array, "d2 d2"]]:
    """`(1/m) sum A_i A_i^T` and `(1/m) sum A_i^T A_i`."""
    return row_gram(op) / op.num_measurements, col_gram(op) / op.num_measurements


@moments.register
def _(op: DenseMeasurements):
    tensor = np.asarray(op.tensor)
    m, d1, d2 = tensor.shape
    rows, cols = tensor.transpose(1, 0, 2).reshape(d1, -1), tensor.reshape(-1, d2)
    return jnp.asarray(rows @ rows.T / m), jnp.asarray(cols.T @ cols / m)
