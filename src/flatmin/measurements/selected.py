"""Some measurements of any operator, by index: what `take` answers where a kind has nothing cheaper."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flatmin.measurements._base import AbstractMeasurements, check_matrix, check_weights, outside, pick


class SelectedMeasurements(AbstractMeasurements):
    """Some measurements of any operator, by index; the default answer of `take`.

    Attributes:
        inner: the operator selected from.
        indices: integers in [0, m), repeats allowed, shape (B,).
    """

    inner: AbstractMeasurements
    indices: Int[Array, " B"]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.inner.matrix_shape

    @property
    def num_measurements(self) -> int:
        """`B`."""
        return self.indices.shape[0]

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " B"]:
        """All measurements, then the selected ones: costs a full forward."""
        matrix = check_matrix(self, matrix)
        return pick(self.inner.forward(matrix), self.indices)

    def adjoint(self, weights: Float[Array, " B"]) -> Float[Array, "d1 d2"]:
        """Weights spread over all measurements: costs a full adjoint."""
        weights = check_weights(self, weights)
        full = jnp.zeros(self.inner.num_measurements, weights.dtype)
        return self.inner.adjoint(full.at[outside(self.indices, full.size)].add(weights, mode="drop"))
