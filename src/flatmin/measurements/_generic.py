"""Questions that can be asked of every measurement operator.

`S` is always `(d1, d1)`, `T` always `(d2, d2)`; both symmetric; `None` stands for the identity and is cheaper.
The default of each function reads the operator one measurement at a time through `adjoint`: correct for any
operator, `m` adjoints. The kinds register what they can do better.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, Int

from flatmin._core import Indices, Instance, Optional, RealArray, checked, is_traced
from flatmin._core.domains import Sizes
from flatmin._core.trees import floating_type
from flatmin.measurements._base import AbstractMeasurements, outside
from flatmin.measurements.selected import SelectedMeasurements

HIGHEST = jax.lax.Precision.HIGHEST


# the numbers of S, T and vectors may be NaN: a run that diverged is looked at, too
class _Square(Instance):
    """Measurements of square matrices."""

    def accept(self, argument: str, value: Any, sizes: Sizes) -> AbstractMeasurements:
        op = super().accept(argument, value, sizes)
        if op.matrix_shape[0] != op.matrix_shape[1]:
            raise self.refuse(argument, value, f" of {op.matrix_shape[0]} x {op.matrix_shape[1]} matrices")
        return op


_S, _T = Optional(RealArray("d1 d1", finite=False)), Optional(RealArray("d2 d2", finite=False))


def default_dtype() -> jnp.dtype:
    """The floating type that JAX gives to new arrays: float64 if enabled, else float32."""
    return jnp.zeros(()).dtype


def _accumulate(op: AbstractMeasurements, term, like: jax.Array | None) -> Array:
    """`sum_i term(A_i)` with `A_i` read one at a time through the adjoint."""
    dtype = floating_type(op) if like is None else like.dtype
    unit = jnp.zeros(op.num_measurements, dtype)

    def body(total, i):
        return total + term(op.adjoint(unit.at[i].set(1))), None

    start = jnp.zeros(
        jax.eval_shape(term, jax.ShapeDtypeStruct(op.matrix_shape, dtype)).shape,
        dtype,
    )
    return jax.lax.scan(body, start, jnp.arange(op.num_measurements))[0]


def apply_right(matrix: Array, T: Array | None) -> Array:
    """`X T`, with `None` for the identity."""
    return matrix if T is None else jnp.matmul(matrix, T, precision=HIGHEST)


def apply_left(S: Array | None, matrix: Array) -> Array:
    """`S X`, with `None` for the identity."""
    return matrix if S is None else jnp.matmul(S, matrix, precision=HIGHEST)


@checked(T=_T)
@functools.singledispatch
def row_gram(op: AbstractMeasurements, T: Float[Array, "d2 d2"] | None = None) -> Float[Array, "d1 d1"]:
    """`sum_i A_i T A_i^T`, shape (d1, d1). With `T = None` it is `n D_out` of [G, Thm 5].

    Args:
        op: the measurements.
        T: symmetric (d2, d2); `None` for the identity.

    Returns:
        The (d1, d1) matrix. Default cost: m adjoints and m products of d1 x d2 with d2 x d2.
    """
    return _accumulate(op, lambda A: jnp.matmul(apply_right(A, T), A.T, precision=HIGHEST), T)


@checked(S=_S)
@functools.singledispatch
def col_gram(op: AbstractMeasurements, S: Float[Array, "d1 d1"] | None = None) -> Float[Array, "d2 d2"]:
    """`sum_i A_i^T S A_i`, shape (d2, d2). With `S = None` it is `n D_in` of [G, Thm 5].

    Args:
        op: the measurements.
        S: symmetric (d1, d1); `None` for the identity.

    Returns:
        The (d2, d2) matrix. Default cost: m adjoints and m products of d1 x d1 with d1 x d2.
    """
    return _accumulate(op, lambda A: jnp.matmul(A.T, apply_left(S, A), precision=HIGHEST), S)


@checked(op=_Square(AbstractMeasurements, what="measurements of square matrices"), T=RealArray("d d", finite=False))
@functools.singledispatch
def twist_gram(op: AbstractMeasurements, T: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """`sum_i A_i T A_i` for square measurements, shape (d, d); what symmetrising needs besides the two Grams.

    Args:
        op: measurements with `d1 = d2`.
        T: (d, d), not necessarily symmetric.

    Returns:
        The (d, d) matrix.
    """
    return _accumulate(op, lambda A: jnp.matmul(apply_right(A, T), A, precision=HIGHEST), T)


@checked(S=_S, T=_T)
@functools.singledispatch
def gram_form(
    op: AbstractMeasurements,
    S: Float[Array, "d1 d1"] | None = None,
    T: Float[Array, "d2 d2"] | None = None,
) -> Float[Array, ""]:
    """`sum_i tr(A_i^T S A_i T) = <S, row_gram(T)> = <T, col_gram(S)>`, the seam to the Hessian trace.

    Args:
        op: the measurements.
        S: symmetric psd (d1, d1); `None` for the identity.
        T: symmetric psd (d2, d2); `None` for the identity.

    Returns:
        A scalar, non-negative up to rounding.
    """
    if S is None:
        return jnp.trace(col_gram(op)) if T is None else jnp.vdot(T, col_gram(op), precision=HIGHEST)
    return jnp.vdot(S, row_gram(op, T), precision=HIGHEST)


@checked(S=_S, T=_T)
@functools.singledispatch
def kernel_form(
    op: AbstractMeasurements,
    S: Float[Array, "d1 d1"] | None = None,
    T: Float[Array, "d2 d2"] | None = None,
) -> Float[Array, "m m"]:
    """The m x m matrix `K_ij = <A_i, S A_j T>`; its trace is `gram_form`. With `None`s it is `A A*`.

    Args:
        op: the measurements.
        S: symmetric (d1, d1); `None` for the identity.
        T: symmetric (d2, d2); `None` for the identity.

    Returns:
        The (m, m) matrix. Default cost: m adjoints and m forwards.
    """
    like = S if S is not None else T
    dtype = floating_type(op) if like is None else like.dtype

    def column(unit):
        return op.forward(apply_right(apply_left(S, op.adjoint(unit)), T))

    return jax.lax.map(column, jnp.eye(op.num_measurements, dtype=dtype)).T


@checked()
@functools.singledispatch
def moment_matrix(op: AbstractMeasurements) -> Float[Array, "d1d2 d1d2"]:
    """`A* A` on row-major vectors, shape (d1 d2, d1 d2): the small side of the Gram matrix when m > d1 d2.

    Args:
        op: the measurements.

    Returns:
        The matrix of `X -> A*(A(X))`. Default cost: d1 d2 forwards and adjoints.
    """
    size = op.matrix_shape[0] * op.matrix_shape[1]

    def column(unit):
        return op.adjoint(op.forward(unit.reshape(op.matrix_shape))).reshape(-1)

    return jax.lax.map(column, jnp.eye(size, dtype=floating_type(op))).T


@checked(v=RealArray("d2", finite=False))
@functools.singledispatch
def right_vector(op: AbstractMeasurements, v: Float[Array, " d2"]) -> Float[Array, "m d1"]:
    """All `A_i v` as rows, shape (m, d1).

    Args:
        op: the measurements.
        v: shape (d2,).

    Returns:
        The products. Default cost: m adjoints.
    """
    return jax.lax.map(lambda unit: op.adjoint(unit) @ v, jnp.eye(op.num_measurements, dtype=v.dtype))


@checked(u=RealArray("d1", finite=False))
@functools.singledispatch
def left_vector(op: AbstractMeasurements, u: Float[Array, " d1"]) -> Float[Array, "m d2"]:
    """All `A_i^T u` as rows, shape (m, d2).

    Args:
        op: the measurements.
        u: shape (d1,).

    Returns:
        The products. Default cost: m adjoints.
    """
    return jax.lax.map(lambda unit: op.adjoint(unit).T @ u, jnp.eye(op.num_measurements, dtype=u.dtype))


@checked()
@functools.singledispatch
def entry_gram(op: AbstractMeasurements) -> Float[Array, "d1 d2"]:
    """`sum_i A_i o A_i` (entrywise squares), shape (d1, d2); what Hadamard factors need."""
    return _accumulate(op, jnp.square, None)


@checked()
@functools.singledispatch
def materialise(op: AbstractMeasurements) -> Float[Array, "m d1 d2"]:
    """The dense tensor of all `A_i`, shape (m, d1, d2). Memory m d1 d2: for small sizes and for tests."""
    return jax.vmap(op.adjoint)(jnp.eye(op.num_measurements, dtype=floating_type(op)))


@checked(left=RealArray("d1 k", finite=False), right=RealArray("k d2", finite=False))
@functools.singledispatch
def forward_product(
    op: AbstractMeasurements, left: Float[Array, "d1 k"], right: Float[Array, "k d2"]
) -> Float[Array, " m"]:
    """`A(L R)` for a matrix given as a product, shape (m,); never forms `L R` where the kind can avoid it."""
    return op.forward(jnp.matmul(left, right, precision=HIGHEST))


@checked(indices=Indices("B", below="m"))
@functools.singledispatch
def take(op: AbstractMeasurements, indices: Int[Array, " B"]) -> AbstractMeasurements:
    """The measurements `indices` of `op`, in that order, repeats allowed; may be traced.

    Args:
        op: the measurements.
        indices: integers in `[0, m)`.

    Returns:
        Measurements with `num_measurements = len(indices)`. Traced indices outside of the range give NaN.

    Raises:
        UsageError: for indices that are no integers or lie outside of `[0, m)`.
    """
    return SelectedMeasurements(op, indices)


@take.register
def _(op: SelectedMeasurements, indices: Int[Array, " B"]):
    if is_traced(indices):  # outside stays outside: -1 is nobody's index
        return SelectedMeasurements(
            op.inner, op.indices.at[outside(indices, op.indices.size)].get(mode="fill", fill_value=-1)
        )
    return SelectedMeasurements(op.inner, op.indices[indices])


@checked()
def as_lineax(op: AbstractMeasurements) -> lx.AbstractLinearOperator:
    """The same map as a lineax operator from (d1, d2) arrays to (m,) arrays."""
    return lx.FunctionLinearOperator(op.forward, jax.ShapeDtypeStruct(op.matrix_shape, default_dtype()))


@checked()
@functools.singledispatch
def observed_entries(op: AbstractMeasurements) -> tuple[np.ndarray, np.ndarray] | None:
    """Where `A(X)_i = X[rows[i], cols[i]]`, if the measurements see single entries and nothing else.

    Args:
        op: the measurements, not traced.

    Returns:
        Row and column of each measurement, shapes (m,), or None for measurements of another kind. Kinds of one's own
        answer by `observed_entries.register`.
    """
    return None


@observed_entries.register
def _(op: SelectedMeasurements):
    inner = observed_entries(op.inner)
    if inner is None:
        return None
    chosen = np.asarray(op.indices)
    return inner[0][chosen], inner[1][chosen]
