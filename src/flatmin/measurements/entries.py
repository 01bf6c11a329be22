"""Single entries of the matrix: completion. Nothing of size d1 x d2 x m is ever formed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flatmin._core import UsageError, is_traced
from flatmin._core.array_domains import Indices
from flatmin._core.checked import checked
from flatmin.measurements._base import AbstractMeasurements, check_matrix, check_weights, outside
from flatmin.measurements._generic import (
    HIGHEST,
    col_gram,
    default_dtype,
    entry_gram,
    forward_product,
    gram_form,
    kernel_form,
    moment_matrix,
    observed_entries,
    row_gram,
    take,
    twist_gram,
)


@checked(rows=Indices("m", least=None), cols=Indices("m", least=None))
class EntryMeasurements(AbstractMeasurements):
    """`A_i = e_{rows[i]} e_{cols[i]}^T`, so `A(X)_i = X[rows[i], cols[i]]`.

    Attributes:
        rows: row of each entry, shape (m,).
        cols: column of each entry, shape (m,).
        shape: (d1, d2).
    """

    rows: Int[Array, " m"]
    cols: Int[Array, " m"]
    shape: tuple[int, int] = eqx.field(static=True)

    def __check_init__(self):
        for name, index, size in (("rows", self.rows, self.shape[0]), ("cols", self.cols, self.shape[1])):
            _check_range(name, index, size)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.shape

    @property
    def num_measurements(self) -> int:
        """`m`."""
        return self.rows.shape[0]

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """The seen entries; O(m). NaN for traced rows and columns outside of the matrix."""
        matrix = check_matrix(self, matrix)
        if not is_traced(self.rows, self.cols):
            return matrix[self.rows, self.cols]
        rows, cols = outside(self.rows, self.shape[0]), outside(self.cols, self.shape[1])
        return matrix.at[rows, cols].get(mode="fill", fill_value=jnp.nan)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """Scatter-add of the weights; O(m + d1 d2)."""
        weights = check_weights(self, weights)
        return jnp.zeros(self.shape, weights.dtype).at[self.rows, self.cols].add(weights)


def _check_range(name: str, index: Array, size: int) -> None:
    if is_traced(index) or not isinstance(index, jax.Array | np.ndarray) or index.size == 0:
        return
    host = np.asarray(index)
    if host.dtype.kind in "iu" and (host.min() < 0 or host.max() >= size):
        bad = int(np.argmax((host < 0) | (host >= size)))
        raise UsageError(
            f"{name}: entry {bad} is {int(host[bad])}, outside [0, {size}); indices count from 0 and must fit the "
            "matrix_shape"
        )


@checked(rows=Indices("m", least=None), cols=Indices("m", least=None))
def entries(rows: Int[Array, " m"], cols: Int[Array, " m"], matrix_shape: tuple[int, int]) -> EntryMeasurements:
    """Measurements of the entries `(rows[i], cols[i])`.

    Args:
        rows: integers in [0, d1), shape (m,).
        cols: integers in [0, d2), shape (m,).
        matrix_shape: (d1, d2).

    Returns:
        Sparse measurements, memory 2 m integers.

    Raises:
        UsageError: for m = 0, non-integers, entries out of range, or an entry given twice.
    """
    if rows.size == 0:
        raise UsageError("rows: got no entries (m = 0); at least one measurement is needed")
    op = EntryMeasurements(rows, cols, matrix_shape)
    if not is_traced(rows, cols):
        flat = np.asarray(rows, dtype=np.int64) * matrix_shape[1] + np.asarray(cols)
        unique, first, counts = np.unique(flat, return_index=True, return_counts=True)
        if unique.size != flat.size:
            at = int(first[np.argmax(counts > 1)])
            raise UsageError(
                f"rows, cols: entry ({int(rows[at])}, {int(cols[at])}) is given {int(counts.max())} times; "
                "average the values of duplicates first"
            )
    return op


@checked(rows=Indices("m"), cols=Indices("m"))
def unlinked(
    rows: Int[Array | np.ndarray, " m"], cols: Int[Array | np.ndarray, " m"], matrix_shape: tuple[int, int]
) -> str | None:
    """What known entries leave open: seen rows and columns that no chain of entries links.

    The bipartite graph of rows and columns with an edge an entry has as many parts as the matrix has blocks that can be
    scaled against each other: an entry between two parts can have any value in a low-rank matrix that fits.

    Args:
        rows: integers in [0, d1), shape (m,).
        cols: integers in [0, d2), shape (m,).
        matrix_shape: (d1, d2).

    Returns:
        A sentence, or None where all that is seen hangs together.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    i, j = np.asarray(rows), np.asarray(cols)
    size = sum(matrix_shape)
    graph = coo_array((np.ones(len(i), dtype=np.int8), (i, j + matrix_shape[0])), shape=(size, size))
    part = connected_components(graph, directed=False)[1]
    parts = np.unique(part[i]).size
    if parts < 2:
        return None
    return (
        f"the known entries fall into {parts} groups of rows and columns with no entry between them; the data do not "
        "determine entries between the groups, which get what the norm prefers"
    )


def _diagonal(matrix: Array | None, index: Array, like: Array | None) -> Array:
    if matrix is None:
        return jnp.ones(index.shape, default_dtype() if like is None else like.dtype)
    if is_traced(index):
        return matrix.at[index, index].get(mode="fill", fill_value=jnp.nan)
    return matrix[index, index]


def _counts(index: Array, size: int) -> Array:
    """How often each line is seen, as a diagonal matrix; on the host, so that no size is compiled for."""
    return jnp.asarray(np.diag(np.bincount(np.asarray(index), minlength=size)), default_dtype())


@row_gram.register
def _(op: EntryMeasurements, T=None):
    if T is None and not is_traced(op.rows):
        return _counts(op.rows, op.matrix_shape[0])
    weights = _diagonal(T, op.cols, T)
    return jnp.diag(jnp.zeros(op.matrix_shape[0], weights.dtype).at[op.rows].add(weights))


@col_gram.register
def _(op: EntryMeasurements, S=None):
    if S is None and not is_traced(op.cols):
        return _counts(op.cols, op.matrix_shape[1])
    weights = _diagonal(S, op.rows, S)
    return jnp.diag(jnp.zeros(op.matrix_shape[1], weights.dtype).at[op.cols].add(weights))


@twist_gram.register
def _(op: EntryMeasurements, T):
    return jnp.zeros(op.shape, T.dtype).at[op.rows, op.cols].add(T[op.cols, op.rows])


@gram_form.register
def _(op: EntryMeasurements, S=None, T=None):
    like = S if S is not None else T
    return jnp.sum(_diagonal(S, op.rows, like) * _diagonal(T, op.cols, like))


def _block(matrix: Array | None, index: Array, like: Array | None) -> Array:
    if matrix is None:
        return (index[:, None] == index[None, :]).astype(default_dtype() if like is None else like.dtype)
    return matrix[index[:, None], index[None, :]]


@kernel_form.register
def _(op: EntryMeasurements, S=None, T=None):
    like = S if S is not None else T
    return _block(S, op.rows, like) * _block(T, op.cols, like)


@moment_matrix.register
def _(op: EntryMeasurements):
    return jnp.diag(entry_gram(op).reshape(-1))


@entry_gram.register
def _(op: EntryMeasurements):
    return op.adjoint(jnp.ones(op.num_measurements, default_dtype()))


@forward_product.register
def _(op: EntryMeasurements, left, right):
    return jnp.einsum("ik,ki->i", left[op.rows], right[:, op.cols], precision=HIGHEST)


@take.register
def _(op: EntryMeasurements, indices: Int[Array, " B"]):
    if not is_traced(indices):
        return EntryMeasurements(op.rows[indices], op.cols[indices], op.shape)
    at = outside(indices, op.num_measurements)  # what lies outside is an entry outside of the matrix
    rows, cols = (
        index.at[at].get(mode="fill", fill_value=size) for index, size in zip((op.rows, op.cols), op.shape, strict=True)
    )
    return EntryMeasurements(rows, cols, op.shape)


@observed_entries.register
def _(op: EntryMeasurements):
    return np.asarray(op.rows), np.asarray(op.cols)
