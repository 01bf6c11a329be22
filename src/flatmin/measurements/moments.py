"""Measurements with their moments kept, for repeated Hessian traces."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin._core import checked
from flatmin.measurements._base import AbstractMeasurements, check_matrix, check_weights
from flatmin.measurements._generic import (
    HIGHEST,
    col_gram,
    entry_gram,
    forward_product,
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


@checked()
class MomentMeasurements(AbstractMeasurements):
    """Measurements with their moments kept, for repeated Hessian traces.

    Attributes:
        inner: the measurements.
        row_moment: `sum_i A_i A_i^T`, shape (d1, d1).
        col_moment: `sum_i A_i^T A_i`, shape (d2, d2).
        pair_moment: `sum_i A_i[a,b] A_i[c,d]`, symmetrised over (a, c) and over (b, d), one row for each a <= c and one
            column for each b <= d; or None.
    """

    inner: AbstractMeasurements
    row_moment: Float[Array, "d1 d1"]
    col_moment: Float[Array, "d2 d2"]
    pair_moment: Float[Array, "p1 p2"] | None = None

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.inner.matrix_shape

    @property
    def num_measurements(self) -> int:
        """`m`."""
        return self.inner.num_measurements

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """`A(X)`."""
        matrix = check_matrix(self, matrix)
        return self.inner.forward(matrix)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`A*(y)`."""
        weights = check_weights(self, weights)
        return self.inner.adjoint(weights)


@checked()
def with_moments(inner: AbstractMeasurements, *, fourth: bool = False) -> MomentMeasurements:
    """The same measurements with their moments computed once.

    The second moments answer the outer layers of a Hessian trace. The fourth moment answers the inner ones too, by one
    product with a matrix of d1 (d1 + 1) / 2 by d2 (d2 + 1) / 2 entries in place of two passes over the measurements;
    its rounding is relative to `|S| |moment| |T|` and not to the result.

    Args:
        inner: the measurements.
        fourth: keep the fourth moment; costs one `moment_matrix` and, while it is made, its (d1 d2)^2 entries.

    Returns:
        Measurements that answer Gram forms from the moments they keep.
    """
    pair_moment = _pair_moment(inner) if fourth else None
    return MomentMeasurements(inner, row_gram(inner), col_gram(inner), pair_moment)


@eqx.filter_jit
def _pair_moment(inner: AbstractMeasurements) -> Float[Array, "p1 p2"]:
    d1, d2 = inner.matrix_shape
    moment = moment_matrix(inner).reshape(d1, d2, d1, d2)
    (a, c), (b, d) = (index[:, None] for index in np.triu_indices(d1)), (index[None] for index in np.triu_indices(d2))
    return (moment[a, b, c, d] + moment[c, b, a, d]) / 2


def _packed(matrix: Float[Array, "d d"]) -> Float[Array, " p"]:
    """The symmetric part of a matrix on and above its diagonal, pairs counted twice off it."""
    rows, cols = np.triu_indices(matrix.shape[0])
    return jnp.where(rows == cols, matrix[rows, cols], matrix[rows, cols] + matrix[cols, rows])


@row_gram.register
def _(op: MomentMeasurements, T=None):
    return op.row_moment if T is None else row_gram(op.inner, T)


@col_gram.register
def _(op: MomentMeasurements, S=None):
    return op.col_moment if S is None else col_gram(op.inner, S)


@gram_form.register
def _(op: MomentMeasurements, S=None, T=None):
    if S is None:
        return jnp.trace(op.col_moment) if T is None else jnp.vdot(T, op.col_moment, precision=HIGHEST)
    if T is None:
        return jnp.vdot(S, op.row_moment, precision=HIGHEST)
    if op.pair_moment is None:
        return gram_form(op.inner, S, T)
    return jnp.vdot(_packed(S), jnp.matmul(op.pair_moment, _packed(T), precision=HIGHEST), precision=HIGHEST)


def _ask_inner(function):
    return lambda op, *args: function(op.inner, *args)


for _function in (
    twist_gram,
    kernel_form,
    moment_matrix,
    right_vector,
    left_vector,
    entry_gram,
    materialise,
    forward_product,
):
    _function.register(MomentMeasurements, _ask_inner(_function))
take.register(MomentMeasurements, lambda op, indices: take(op.inner, indices))
