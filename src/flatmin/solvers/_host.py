"""Measurements on the host, as NumPy: products of factors, normal matrices of their tangent space, adjoints.

Nothing here is compiled, so that many instances of different sizes cost no more than their arithmetic.
"""

import abc
import functools
from dataclasses import dataclass

import numpy as np

from flatmin.measurements import (
    AbstractMeasurements,
    DenseMeasurements,
    EntryMeasurements,
    IdentityMeasurements,
    LowRankMeasurements,
    MomentMeasurements,
    ScaledMeasurements,
    SymmetrisedMeasurements,
    materialise,
)
from flatmin.solvers._reweighted import ReweightedMeasurements, multiply

MAX_TENSOR = 5e7
"""Most entries of a tensor that is formed for want of something cheaper (400 MB)."""

SMALL = 250_000
"""Entries of the measurements (2 MB, what a cache holds) up to which `solve` compiles nothing: compiling for a new
shape takes a second and memory that JAX keeps, solving milliseconds."""


def factor_jacobian(tensor: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`J (dL, dR) = A(dL R^T + L dR^T)`, `A_i = tensor[i]`: shape (m, r (d1 + d2)), unknowns row by row, L before R."""
    m, d1, d2 = tensor.shape
    by_left = (tensor.reshape(m * d1, d2) @ right).reshape(m, -1)
    by_right = np.matmul(left.T, tensor).transpose(0, 2, 1).reshape(m, -1)
    return np.concatenate([by_left, by_right], 1)


class HostMap(abc.ABC):
    """`A : R^{d1 x d2} -> R^m` on NumPy arrays."""

    @abc.abstractmethod
    def forward(self, matrix: np.ndarray) -> np.ndarray:
        """`A(X)`, shape (m,)."""

    @abc.abstractmethod
    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        """`A*(y)`, shape (d1, d2)."""

    @abc.abstractmethod
    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """`A(L R^T)`."""

    @abc.abstractmethod
    def normal(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """`J^T J` for `J (dL, dR) = A(dL R^T + L dR^T)`; unknowns row by row, L before R."""


@dataclass(frozen=True)
class DenseMap(HostMap):
    """`A_i = tensor[i]`."""

    tensor: np.ndarray

    def forward(self, matrix: np.ndarray) -> np.ndarray:
        return self.tensor.reshape(len(self.tensor), -1) @ matrix.reshape(-1)

    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        return (weights @ self.tensor.reshape(len(self.tensor), -1)).reshape(self.tensor.shape[1:])

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self.forward(left @ right.T)

    def normal(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        J = factor_jacobian(self.tensor, left, right)
        return J.T @ J


@dataclass(frozen=True)
class RankOneMap(HostMap):
    """`A_i = a_i b_i^T`."""

    a: np.ndarray
    b: np.ndarray

    def forward(self, matrix: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->i", self.a @ matrix, self.b)

    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        return (self.a * weights[:, None]).T @ self.b

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->i", self.a @ left, self.b @ right)

    def normal(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        m = len(self.a)
        by_left = (self.a[:, :, None] * (self.b @ right)[:, None]).reshape(m, -1)
        by_right = (self.b[:, :, None] * (self.a @ left)[:, None]).reshape(m, -1)
        J = np.concatenate([by_left, by_right], 1)
        return J.T @ J


@dataclass(frozen=True)
class EntryMap(HostMap):
    """`A_i = weights_i e_row e_col^T`."""

    rows: np.ndarray
    cols: np.ndarray
    weights: np.ndarray
    shape: tuple[int, int]

    def forward(self, matrix: np.ndarray) -> np.ndarray:
        return self.weights * matrix[self.rows, self.cols]

    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        matrix = np.zeros(self.shape)
        matrix[self.rows, self.cols] = self.weights * weights
        return matrix

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self.forward(left @ right.T)

    def normal(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        (d1, d2), r = self.shape, left.shape[1]
        squares = self.adjoint(self.weights)
        system = np.zeros((d1 + d2, r, d1 + d2, r))
        i, j = np.arange(d1), d1 + np.arange(d2)
        system[i, :, i, :] = (squares @ np.einsum("ja,jb->jab", right, right).reshape(d2, -1)).reshape(d1, r, r)
        system[j, :, j, :] = (squares.T @ np.einsum("ia,ib->iab", left, left).reshape(d1, -1)).reshape(d2, r, r)
        for a in range(r):
            for b in range(r):
                block = squares * left[:, b, None] * right[:, a]
                system[:d1, a, d1:, b] = block
                system[d1:, b, :d1, a] = block.T
        return system.reshape((d1 + d2) * r, -1)


@dataclass(frozen=True)
class WeightedMap(HostMap):
    """`A_i` replaced by `P A_i Q`, P and Q symmetric."""

    inner: HostMap
    P: np.ndarray
    Q: np.ndarray

    def forward(self, matrix: np.ndarray) -> np.ndarray:
        return self.inner.forward(multiply(self.P, matrix, self.Q))

    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        return multiply(self.P, self.inner.adjoint(weights), self.Q)

    def _apply(self, factor: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return factor[:, None] * rows if factor.ndim == 1 else factor @ rows

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self.inner.product(self._apply(self.P, left), self._apply(self.Q, right))

    def normal(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        system = self.inner.normal(self._apply(self.P, left), self._apply(self.Q, right))
        split = left.size

        def both(factor: np.ndarray, rows: np.ndarray, rank: int) -> np.ndarray:
            return self._apply(factor, rows.reshape(len(factor), -1)).reshape(len(factor) * rank, -1)

        for _ in range(2):
            above, below = both(self.P, system[:split], left.shape[1]), both(self.Q, system[split:], left.shape[1])
            system = np.concatenate([above, below]).T
        return system


@functools.singledispatch
def host_map(op: AbstractMeasurements) -> HostMap | None:
    """The measurements on the host, or None where that is not cheap."""
    m, (d1, d2) = op.num_measurements, op.matrix_shape
    return DenseMap(np.asarray(materialise(op))) if m * d1 * d2 <= MAX_TENSOR else None


@host_map.register
def _(op: DenseMeasurements):
    return DenseMap(np.asarray(op.tensor))


@host_map.register
def _(op: LowRankMeasurements):
    left, right = np.asarray(op.left), np.asarray(op.right)
    if left.shape[1] == 1:
        return RankOneMap(left[:, 0], right[:, 0])
    return DenseMap(np.einsum("iqa,iqb->iab", left, right))


@host_map.register
def _(op: EntryMeasurements):
    return EntryMap(np.asarray(op.rows), np.asarray(op.cols), np.ones(op.num_measurements), op.shape)


@host_map.register
def _(op: IdentityMeasurements):
    d1, d2 = op.matrix_shape
    rows, cols = np.divmod(np.arange(d1 * d2), d2)
    return EntryMap(rows, cols, np.ones(d1 * d2), (d1, d2))


@host_map.register
def _(op: MomentMeasurements):
    return host_map(op.inner)


@host_map.register
def _(op: ScaledMeasurements):
    inner = host_map(op.inner)
    if inner is None:
        return None
    if isinstance(inner, EntryMap):
        return EntryMap(inner.rows, inner.cols, float(op.scale) * inner.weights, inner.shape)
    d1, d2 = op.matrix_shape
    return WeightedMap(inner, np.full(d1, float(op.scale)), np.ones(d2))


@host_map.register
def _(op: SymmetrisedMeasurements):
    inner = host_map(op.inner)
    if isinstance(inner, DenseMap):
        return DenseMap((inner.tensor + inner.tensor.transpose(0, 2, 1)) / 2)
    return None


@host_map.register
def _(op: ReweightedMeasurements):
    inner = host_map(op.inner)
    if inner is None:
        return None
    left, right = np.asarray(op.left), np.asarray(op.right)
    if isinstance(inner, EntryMap) and left.ndim == right.ndim == 1:
        return EntryMap(inner.rows, inner.cols, inner.weights * left[inner.rows] * right[inner.cols], inner.shape)
    return WeightedMap(inner, left, right)
