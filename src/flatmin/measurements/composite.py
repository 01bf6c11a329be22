"""Measurements made of other measurements: scaled, stacked, symmetrised, selected, with moments kept."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from flatmin._core import UsageError, check_finite
from flatmin.measurements._base import AbstractMeasurements
from flatmin.measurements._generic import (
    col_gram,
    dtype_of,
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
        return self.scale.astype(matrix.dtype) * self.inner.forward(matrix)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`scale A*(y)`."""
        return self.inner.adjoint(self.scale.astype(weights.dtype) * weights)


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
    scale = jnp.asarray(scale, dtype_of(inner))
    check_finite("scale", scale)
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
        return jnp.concatenate([part.forward(matrix) for part in self.parts])

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """The sum of the parts' adjoints."""
        total, start = jnp.zeros(self.matrix_shape, weights.dtype), 0
        for part in self.parts:
            total = total + part.adjoint(weights[start : start + part.num_measurements])
            start += part.num_measurements
        return total


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
        return self.inner.forward((matrix + matrix.T) / 2)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d d"]:
        """The symmetric part of `A*(y)`."""
        matrix = self.inner.adjoint(weights)
        return (matrix + matrix.T) / 2


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
        return self.inner.forward(matrix)[self.indices]

    def adjoint(self, weights: Float[Array, " B"]) -> Float[Array, "d1 d2"]:
        """Weights spread over all measurements: costs a full adjoint."""
        full = jnp.zeros(self.inner.num_measurements, weights.dtype)
        return self.inner.adjoint(full.at[self.indices].add(weights))


@take.register
def _(op: SelectedMeasurements, indices: Int[Array, " B"]):
    return SelectedMeasurements(op.inner, op.indices[indices])


class MomentMeasurements(AbstractMeasurements):
    """Measurements with `row_gram(None)` and `col_gram(None)` kept, for repeated Hessian traces.

    Attributes:
        inner: the measurements.
        row_moment: `sum_i A_i A_i^T`, shape (d1, d1).
        col_moment: `sum_i A_i^T A_i`, shape (d2, d2).
    """

    inner: AbstractMeasurements
    row_moment: Float[Array, "d1 d1"]
    col_moment: Float[Array, "d2 d2"]

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
        return self.inner.forward(matrix)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`A*(y)`."""
        return self.inner.adjoint(weights)


def with_moments(inner: AbstractMeasurements) -> MomentMeasurements:
    """The same measurements with their two second moments computed once.

    Args:
        inner: the measurements.

    Returns:
        Measurements that answer the outer layers of a Hessian trace from two small matrices.
    """
    return MomentMeasurements(inner, row_gram(inner), col_gram(inner))


@row_gram.register
def _(op: MomentMeasurements, T=None):
    return op.row_moment if T is None else row_gram(op.inner, T)


@col_gram.register
def _(op: MomentMeasurements, S=None):
    return op.col_moment if S is None else col_gram(op.inner, S)


@gram_form.register
def _(op: MomentMeasurements, S=None, T=None):
    if S is None:
        return jnp.trace(op.col_moment) if T is None else jnp.vdot(T, op.col_moment)
    return jnp.vdot(S, op.row_moment) if T is None else gram_form(op.inner, S, T)


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
