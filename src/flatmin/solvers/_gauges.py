"""The gauges of the plain programmes: their value, their polar, and their proximal map."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Matrix = Float[Array, "d1 d2"]
Shrunk = tuple[Matrix, Int[Array, ""]]

WRONG_SIGN = 100.0
"""Price of a negative eigenvalue where none is allowed, while iterating; the certificate does not use it."""


class AbstractGauge(eqx.Module):
    """A gauge N with `N(X) <= 1` on the convex hull of its atoms."""

    @abc.abstractmethod
    def value(self, matrix: Matrix) -> Float[Array, ""]:
        """`N(X)`."""

    @abc.abstractmethod
    def polar(self, matrix: Matrix) -> Float[Array, ""]:
        """`N°(Z) = max { <Z, X> : N(X) <= 1 }`."""

    @abc.abstractmethod
    def size(self, matrix: Matrix) -> Float[Array, ""]:
        """The largest singular value, or the largest entry: what a threshold is measured by."""

    @abc.abstractmethod
    def subgradient(self, matrix: Matrix) -> Matrix:
        """A Z with `<Z, X> = N(X)` and `N°(Z) <= 1`."""

    @abc.abstractmethod
    def shrink(self, matrix: Matrix, threshold: Float[Array, ""]) -> Shrunk:
        """`argmin_X t N(X) + ||X - Z||_F^2 / 2`, and how many atoms it has."""


class Nuclear(AbstractGauge):
    """The sum of singular values."""

    def value(self, matrix: Matrix) -> Float[Array, ""]:
        """`||X||_*`."""
        return nuclear_norm(matrix)

    def polar(self, matrix: Matrix) -> Float[Array, ""]:
        """`||Z||_op`."""
        return operator_norm(matrix)

    def size(self, matrix: Matrix) -> Float[Array, ""]:
        """`||Z||_op`."""
        return operator_norm(matrix)

    def subgradient(self, matrix: Matrix) -> Matrix:
        """`U V^T`."""
        U, _, Vt = jnp.linalg.svd(matrix, full_matrices=False)
        return U @ Vt

    def shrink(self, matrix: Matrix, threshold: Float[Array, ""]) -> Shrunk:
        """Singular value thresholding, `U max(S - t, 0) V^T`, and the number of singular values above t.

        By the eigenvectors of the smaller Gram matrix, three times as fast as a singular value decomposition. The
        singular values lost to squaring are those far below t, which vanish: the error is about
        `eps (s_1 / t)^2 s_1 / 2`, and the certificate never goes this way.
        """
        if matrix.shape[0] < matrix.shape[1]:
            result, rank = self.shrink(matrix.T, threshold)
            return result.T, rank
        squares, V = jnp.linalg.eigh(matrix.T @ matrix)
        values = jnp.sqrt(jnp.maximum(squares, threshold**2))
        return ((matrix @ V) * (1 - threshold / values)[None, :]) @ V.T, jnp.sum(squares > threshold**2)


def _symmetric(matrix: Matrix) -> Matrix:
    return (matrix + matrix.T) / 2


class SymmetricNuclear(AbstractGauge):
    """The sum of absolute eigenvalues of a symmetric matrix."""

    def value(self, matrix: Matrix) -> Float[Array, ""]:
        """`sum |lambda_i|`."""
        return jnp.sum(jnp.abs(jnp.linalg.eigvalsh(_symmetric(matrix))))

    def polar(self, matrix: Matrix) -> Float[Array, ""]:
        """`max |lambda_i|`."""
        return jnp.max(jnp.abs(jnp.linalg.eigvalsh(_symmetric(matrix))))

    def size(self, matrix: Matrix) -> Float[Array, ""]:
        """`max |lambda_i|`."""
        return self.polar(matrix)

    def subgradient(self, matrix: Matrix) -> Matrix:
        """The signs of the eigenvalues on the eigenvectors."""
        values, V = jnp.linalg.eigh(_symmetric(matrix))
        return (V * jnp.sign(values)[None, :]) @ V.T

    def shrink(self, matrix: Matrix, threshold: Float[Array, ""]) -> Shrunk:
        """Each eigenvalue moved by t towards 0."""
        values, V = jnp.linalg.eigh(_symmetric(matrix))
        kept = jnp.sign(values) * jnp.maximum(jnp.abs(values) - threshold, 0)
        return (V * kept[None, :]) @ V.T, jnp.sum(kept != 0)


class Trace(AbstractGauge):
    """The trace of a positive semidefinite matrix."""

    def value(self, matrix: Matrix) -> Float[Array, ""]:
        """`tr X`; a negative eigenvalue costs a hundred times its size."""
        values = jnp.linalg.eigvalsh(_symmetric(matrix))
        return jnp.sum(jnp.where(values < 0, -WRONG_SIGN * values, values))

    def polar(self, matrix: Matrix) -> Float[Array, ""]:
        """`max(lambda_max, 0)`."""
        return jnp.maximum(jnp.linalg.eigvalsh(_symmetric(matrix))[-1], 0)

    def size(self, matrix: Matrix) -> Float[Array, ""]:
        """`max |lambda_i|`."""
        return jnp.max(jnp.abs(jnp.linalg.eigvalsh(_symmetric(matrix))))

    def subgradient(self, matrix: Matrix) -> Matrix:
        """The identity."""
        return jnp.eye(matrix.shape[0], dtype=matrix.dtype)

    def shrink(self, matrix: Matrix, threshold: Float[Array, ""]) -> Shrunk:
        """`max(lambda_i - t, 0)`."""
        values, V = jnp.linalg.eigh(_symmetric(matrix))
        kept = jnp.maximum(values - threshold, 0)
        return (V * kept[None, :]) @ V.T, jnp.sum(kept != 0)


class Entrywise(AbstractGauge):
    """The sum of absolute entries."""

    def value(self, matrix: Matrix) -> Float[Array, ""]:
        """`||X||_1`."""
        return jnp.sum(jnp.abs(matrix))

    def polar(self, matrix: Matrix) -> Float[Array, ""]:
        """`max |Z_ij|`."""
        return jnp.max(jnp.abs(matrix))

    def size(self, matrix: Matrix) -> Float[Array, ""]:
        """`max |Z_ij|`."""
        return jnp.max(jnp.abs(matrix))

    def subgradient(self, matrix: Matrix) -> Matrix:
        """The signs."""
        return jnp.sign(matrix)

    def shrink(self, matrix: Matrix, threshold: Float[Array, ""]) -> Shrunk:
        """Each entry moved by t towards 0."""
        kept = jnp.sign(matrix) * jnp.maximum(jnp.abs(matrix) - threshold, 0)
        return kept, jnp.sum(kept != 0)


def nuclear_norm(matrix: Matrix) -> Float[Array, ""]:
    """`||X||_*`, the sum of the singular values."""
    return jnp.sum(jnp.linalg.svd(matrix, compute_uv=False))


def operator_norm(matrix: Matrix) -> Float[Array, ""]:
    """`||X||_op`, the largest singular value."""
    return jnp.linalg.svd(matrix, compute_uv=False)[0]
