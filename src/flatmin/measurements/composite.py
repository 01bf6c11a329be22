"""Measurements made of other measurements: scaled, stacked, symmetrised."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from flatmin._core import Numbers, Real, UsageError, checked
from flatmin._core.trees import floating_type
from flatmin.measurements._base import AbstractMeasurements, check_matrix, check_weights
from flatmin.measurements._generic import (
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
from flatmin.measurements.dense import DenseMeasurements
from flatmin.measurements.rank_one import LowRankMeasurements


@checked()
class ScaledMeasurements(AbstractMeasurements):
    """`A_i` replaced by `scale A_i`.

    Attributes:
        inner: the measurements scaled.
        scale: a number.
    """

    inner: AbstractMeasurements
    scale: Float[Array, ""]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.inner.matrix_shape

    @property
    def num_measurements(self) -> int:
        """`m`."""
        return self.inner.num_measurements

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """`scale A(X)`."""
        matrix = check_matrix(self, matrix)
        return self.scale.astype(matrix.dtype) * self.inner.forward(matrix)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`scale A*(y)`."""
        weights = check_weights(self, weights)
        return self.inner.adjoint(self.scale.astype(weights.dtype) * weights)


@checked(scale=Numbers(Real()))
def scaled(inner: AbstractMeasurements, scale: ArrayLike) -> AbstractMeasurements:
    """`A_i` replaced by `scale A_i`, or by `scale[i] A_i` for a vector of weights.

    Args:
        inner: the measurements.
        scale: a finite number, or one weight a measurement, shape (m,).

    Returns:
        The scaled measurements. For a vector of weights dense and low-rank kinds are rescaled in place of
        being wrapped; other kinds accept a number only.

    Raises:
        UsageError: for a wrong shape, NaN or infinite scales, or weights on a kind that cannot take them.
    """
    scale = jnp.asarray(scale, floating_type(inner))
    if scale.ndim == 0:
        return ScaledMeasurements(inner, scale)
    if scale.shape != (inner.num_measurements,):
        raise UsageError(f"scale: got shape {scale.shape}, expected () or ({inner.num_measurements},)")
    if isinstance(inner, DenseMeasurements):
        return DenseMeasurements(inner.tensor * scale[:, None, None])
    if isinstance(inner, LowRankMeasurements):
        return LowRankMeasurements(inner.left * scale[:, None, None], inner.right)
    raise UsageError(
        f"scale: one weight a measurement is not available for {type(inner).__name__}; pass a number, or "
        "dense(materialise(...)) for small sizes"
    )


def _times(factor: Array, answer: Array) -> Array:
    return factor.astype(answer.dtype) * answer


@row_gram.register
def _(op: ScaledMeasurements, T=None):
    return _times(op.scale**2, row_gram(op.inner, T))


@col_gram.register
def _(op: ScaledMeasurements, S=None):
    return _times(op.scale**2, col_gram(op.inner, S))


@twist_gram.register
def _(op: ScaledMeasurements, T):
    return _times(op.scale**2, twist_gram(op.inner, T))


@gram_form.register
def _(op: ScaledMeasurements, S=None, T=None):
    return _times(op.scale**2, gram_form(op.inner, S, T))


@kernel_form.register
def _(op: ScaledMeasurements, S=None, T=None):
    return _times(op.scale**2, kernel_form(op.inner, S, T))


@moment_matrix.register
def _(op: ScaledMeasurements):
    return _times(op.scale**2, moment_matrix(op.inner))


@right_vector.register
def _(op: ScaledMeasurements, v):
    return op.scale * right_vector(op.inner, v)


@left_vector.register
def _(op: ScaledMeasurements, u):
    return op.scale * left_vector(op.inner, u)


@entry_gram.register
def _(op: ScaledMeasurements):
    return _times(op.scale**2, entry_gram(op.inner))


@forward_product.register
def _(op: ScaledMeasurements, left, right):
    return op.scale.astype(left.dtype) * forward_product(op.inner, left, right)


@take.register
def _(op: ScaledMeasurements, indices: Int[Array, " B"]):
    return ScaledMeasurements(take(op.inner, indices), op.scale)


@checked()
class StackedMeasurements(AbstractMeasurements):
    """All measurements of several operators on the same matrix, one after another.

    Attributes:
        parts: the operators.
    """

    parts: tuple[AbstractMeasurements, ...]

    def __check_init__(self):
        if not self.parts:
            raise UsageError("parts: got no measurements to stack; give at least one")
        shapes = {part.matrix_shape for part in self.parts}
        if len(shapes) > 1:
            raise UsageError(f"parts: got matrix shapes {sorted(shapes)}; all parts must read the same matrix")

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.parts[0].matrix_shape

    @property
    def num_measurements(self) -> int:
        """The sum over the parts."""
        return sum(part.num_measurements for part in self.parts)

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """The parts' measurements, concatenated."""
        matrix = check_matrix(self, matrix)
        return jnp.concatenate([part.forward(matrix) for part in self.parts])

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """The sum of the parts' adjoints."""
        weights = check_weights(self, weights)
        total, start = jnp.zeros(self.matrix_shape, weights.dtype), 0
        for part in self.parts:
            total = total + part.adjoint(weights[start : start + part.num_measurements])
            start += part.num_measurements
        return total


@checked()
def stacked(*parts: AbstractMeasurements) -> StackedMeasurements:
    """All measurements of several operators on the same matrix.

    Args:
        parts: operators with equal `matrix_shape`.

    Returns:
        The stacked measurements.

    Raises:
        UsageError: for no parts or different matrix shapes.
    """
    return StackedMeasurements(tuple(parts))


def _sum_over_parts(function):
    return lambda op, *args: sum(function(part, *args) for part in op.parts[1:]) + function(op.parts[0], *args)


for _function in (row_gram, col_gram, twist_gram, gram_form, moment_matrix, entry_gram):
    _function.register(StackedMeasurements, _sum_over_parts(_function))


@forward_product.register
def _(op: StackedMeasurements, left, right):
    return jnp.concatenate([forward_product(part, left, right) for part in op.parts])


@materialise.register
def _(op: StackedMeasurements):
    return jnp.concatenate([materialise(part) for part in op.parts])


@checked()
class SymmetrisedMeasurements(AbstractMeasurements):
    """`A_i` replaced by `(A_i + A_i^T) / 2`: it sees only the symmetric part of a square matrix.

    Attributes:
        inner: square measurements.
    """

    inner: AbstractMeasurements

    def __check_init__(self):
        d1, d2 = self.inner.matrix_shape
        if d1 != d2:
            raise UsageError(f"inner: got matrix_shape {(d1, d2)}; only square measurements can be symmetrised")

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d, d)`."""
        return self.inner.matrix_shape

    @property
    def num_measurements(self) -> int:
        """`m`."""
        return self.inner.num_measurements

    def forward(self, matrix: Float[Array, "d d"]) -> Float[Array, " m"]:
        """`A((X + X^T)/2)`."""
        matrix = check_matrix(self, matrix)
        return self.inner.forward((matrix + matrix.T) / 2)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d d"]:
        """The symmetric part of `A*(y)`."""
        weights = check_weights(self, weights)
        matrix = self.inner.adjoint(weights)
        return (matrix + matrix.T) / 2


@checked()
def symmetrised(inner: AbstractMeasurements) -> SymmetrisedMeasurements:
    """`A_i` replaced by `(A_i + A_i^T) / 2`.

    Args:
        inner: square measurements.

    Returns:
        The symmetrised measurements.

    Raises:
        UsageError: if the matrix is not square.
    """
    return SymmetrisedMeasurements(inner)


def _symmetrised_gram(op: SymmetrisedMeasurements, T: Array | None) -> Array:
    # sum (A + A') T (A + A')' / 4, with A' T A' = (A T' A)'
    d = op.matrix_shape[0]
    full = jnp.eye(d, dtype=row_gram(op.inner).dtype) if T is None else T
    return (
        row_gram(op.inner, T) + col_gram(op.inner, T) + twist_gram(op.inner, full) + twist_gram(op.inner, full.T).T
    ) / 4


row_gram.register(SymmetrisedMeasurements, lambda op, T=None: _symmetrised_gram(op, T))
col_gram.register(SymmetrisedMeasurements, lambda op, S=None: _symmetrised_gram(op, S))
twist_gram.register(SymmetrisedMeasurements, _symmetrised_gram)


@take.register
def _(op: SymmetrisedMeasurements, indices: Int[Array, " B"]):
    return SymmetrisedMeasurements(take(op.inner, indices))
