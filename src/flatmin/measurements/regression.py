"""Linear regression: each measurement reads one output of the linear map at one input."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flatmin._core import UsageError, checked
from flatmin.measurements._base import AbstractMeasurements, check_matrix, check_weights, pick
from flatmin.measurements._generic import (
    HIGHEST,
    apply_right,
    col_gram,
    entry_gram,
    forward_product,
    gram_form,
    kernel_form,
    moment_matrix,
    row_gram,
    take,
    twist_gram,
)
from flatmin.measurements.rank_one import LowRankMeasurements


@checked()
class RegressionMeasurements(AbstractMeasurements):
    """`A_(i,k) = e_k x_i^T`: `A(W)` holds the outputs `W x_i`, sample-major, `m = n q`.

    Attributes:
        inputs: the data X, shape (n, d).
        num_outputs: q, the number of rows of the matrix.
    """

    inputs: Float[Array, "n d"]
    num_outputs: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if 0 in self.inputs.shape:
            raise UsageError(f"inputs: got shape {self.inputs.shape}; at least one sample and one feature are needed")

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(q, d)`."""
        return self.num_outputs, self.inputs.shape[1]

    @property
    def num_measurements(self) -> int:
        """`m = n q`."""
        return self.inputs.shape[0] * self.num_outputs

    def forward(self, matrix: Float[Array, "q d"]) -> Float[Array, " m"]:
        """`X W^T` as one vector, sample-major; 2 n q d flops."""
        matrix = check_matrix(self, matrix)
        return (self.inputs @ matrix.T).reshape(-1)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "q d"]:
        """`Y^T X` with Y the weights as (n, q); 2 n q d flops."""
        weights = check_weights(self, weights)
        return weights.reshape(-1, self.num_outputs).T @ self.inputs


@checked()
def regression(inputs: Float[Array, "n d"], num_outputs: int = 1) -> RegressionMeasurements:
    """Measurements of a linear map by its outputs at given inputs.

    Args:
        inputs: X, shape (n, d); the matrix measured has shape (num_outputs, d).
        num_outputs: q.

    Returns:
        The measurements, memory n d.

    Raises:
        UsageError: for a wrong shape, no data, NaN or infinite values, num_outputs < 1.
    """
    return RegressionMeasurements(inputs, num_outputs)


def _second_moment(op: RegressionMeasurements) -> Float[Array, "d d"]:
    return jnp.matmul(op.inputs.T, op.inputs, precision=HIGHEST)


def _energy(op: RegressionMeasurements, T: Array | None) -> Float[Array, ""]:
    """`tr(T X^T X)`."""
    return jnp.vdot(apply_right(op.inputs, T), op.inputs, precision=HIGHEST)


@row_gram.register
def _(op: RegressionMeasurements, T=None):
    return _energy(op, T) * jnp.eye(op.num_outputs, dtype=op.inputs.dtype)


@col_gram.register
def _(op: RegressionMeasurements, S=None):
    return (op.num_outputs if S is None else jnp.trace(S)) * _second_moment(op)


@twist_gram.register
def _(op: RegressionMeasurements, T):
    # sum_(i,k) e_k x_i^T T e_k x_i^T = T^T X^T X for q = d
    return jnp.matmul(T.T, _second_moment(op), precision=HIGHEST)


@gram_form.register
def _(op: RegressionMeasurements, S=None, T=None):
    return (op.num_outputs if S is None else jnp.trace(S)) * _energy(op, T)


@kernel_form.register
def _(op: RegressionMeasurements, S=None, T=None):
    samples = jnp.matmul(apply_right(op.inputs, T), op.inputs.T, precision=HIGHEST)
    return jnp.kron(samples, jnp.eye(op.num_outputs, dtype=samples.dtype) if S is None else S)


@moment_matrix.register
def _(op: RegressionMeasurements):
    return jnp.kron(jnp.eye(op.num_outputs, dtype=op.inputs.dtype), _second_moment(op))


@entry_gram.register
def _(op: RegressionMeasurements):
    return jnp.broadcast_to(jnp.sum(op.inputs**2, axis=0), op.matrix_shape)


@forward_product.register
def _(op: RegressionMeasurements, left, right):
    return ((op.inputs @ right.T) @ left.T).reshape(-1)


@take.register
def _(op: RegressionMeasurements, indices: Int[Array, " B"]):
    outputs = jnp.eye(op.num_outputs, dtype=op.inputs.dtype)[indices % op.num_outputs]
    return LowRankMeasurements(outputs[:, None], pick(op.inputs, indices // op.num_outputs)[:, None])
