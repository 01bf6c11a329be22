"""The gauges of the plain programmes: their value, their polar, their proximal map and their domain.

Each is a sum over a spectrum: singular values, the eigenvalues of a symmetric matrix, or the entries. The code is
written over an array namespace: NumPy arrays give NumPy arrays and compile nothing, all others give JAX arrays.
"""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np

Domain = Literal["all", "symmetric", "psd", "entries"]

WRONG_SIGN = 100.0
"""Price of a negative eigenvalue where none is allowed, while iterating: well above 1, so that leaving the cone hardly
pays, and small enough to leave the sum its digits. Chosen, not derived; the certificate does not use it."""

IN_CONE = 1e-10
"""Negative eigenvalues below this share of the trace are rounding."""


def namespace(array: Any) -> Any:
    """`numpy` for a NumPy array, else `jax.numpy`."""
    return np if isinstance(array, np.ndarray | np.floating) else jnp


class Gauge(eqx.Module):
    """A gauge N: the sum of the sizes of a matrix's spectrum.

    Attributes:
        domain: `all`, singular values; `symmetric`, eigenvalues; `psd`, eigenvalues, none of them negative; `entries`.
    """

    domain: Domain = eqx.field(static=True, default="all")

    @property
    def symmetric(self) -> bool:
        """Whether N is finite for symmetric matrices only."""
        return self.domain in ("symmetric", "psd")

    @property
    def one_sided(self) -> bool:
        """Whether N is finite for positive semidefinite matrices only."""
        return self.domain == "psd"

    @property
    def spectral(self) -> bool:
        """Whether N depends on singular values or eigenvalues alone."""
        return self.domain != "entries"

    def spectrum(self, matrix: Any) -> Any:
        """Eigenvalues, ascending; singular values, descending; or the entries."""
        xp = namespace(matrix)
        if self.symmetric:
            return xp.linalg.eigvalsh((matrix + matrix.T) / 2)
        return xp.linalg.svd(matrix, compute_uv=False) if self.spectral else matrix.ravel()

    def value(self, matrix: Any) -> Any:
        """`N(X)`; in place of infinity, a negative eigenvalue that should not be there costs 100 times its size."""
        xp, values = namespace(matrix), self.spectrum(matrix)
        if self.one_sided:
            return xp.sum(xp.where(values < 0, -WRONG_SIGN * values, values))
        return xp.sum(xp.abs(values))

    def strict_value(self, matrix: np.ndarray) -> float:
        """`N(X)`; infinite where X is not in the domain up to rounding."""
        values = self.spectrum(matrix)
        total = float(np.abs(values).sum())
        return np.inf if self.one_sided and values[0] < -IN_CONE * total else total

    def polar(self, matrix: Any) -> Any:
        """`N°(Z) = max { <Z, X> : N(X) <= 1 }`: the largest size in the spectrum, of one sign where X has one."""
        xp, values = namespace(matrix), self.spectrum(matrix)
        return xp.maximum(xp.max(values), 0) if self.one_sided else xp.max(xp.abs(values))

    def size(self, matrix: Any) -> Any:
        """The largest size in the spectrum: what a threshold is measured by."""
        xp = namespace(matrix)
        return xp.max(xp.abs(self.spectrum(matrix)))

    def subgradient(self, matrix: Any) -> Any:
        """A Z with `<Z, X> = N(X)` and `N°(Z) <= 1`."""
        xp = namespace(matrix)
        if self.one_sided:
            return xp.eye(matrix.shape[0], dtype=matrix.dtype)
        if self.symmetric:
            values, V = xp.linalg.eigh((matrix + matrix.T) / 2)
            return (V * xp.sign(values)[None, :]) @ V.T
        if not self.spectral:
            return xp.sign(matrix)
        U, _, Vt = xp.linalg.svd(matrix, full_matrices=False)
        return U @ Vt

    def prox(self, matrix: Any, step: Any) -> tuple[Any, Any]:
        """`argmin_X t N(X) + ||X - Z||_F^2 / 2`, the spectrum moved by t towards 0, and how many of it are left.

        For singular values by the eigenvectors of the smaller Gram matrix, three times as fast as a singular value
        decomposition. What is lost to squaring are those far below t, which vanish: the error is about
        `eps (s_1 / t)^2 s_1 / 2`, and the certificate never goes this way.
        """
        xp = namespace(matrix)
        if self.symmetric:
            values, V = xp.linalg.eigh((matrix + matrix.T) / 2)
            kept = self._moved(values, step)
            return (V * kept[None, :]) @ V.T, xp.sum(kept != 0)
        if not self.spectral:
            kept = self._moved(matrix, step)
            return kept, xp.sum(kept != 0)
        if matrix.shape[0] < matrix.shape[1]:
            result, rank = self.prox(matrix.T, step)
            return result.T, rank
        squares, V = xp.linalg.eigh(matrix.T @ matrix)
        values = xp.sqrt(xp.maximum(squares, step**2))
        return ((matrix @ V) * (1 - step / values)[None, :]) @ V.T, xp.sum(squares > step**2)

    def _moved(self, values: Any, step: Any) -> Any:
        xp = namespace(values)
        if self.one_sided:
            return xp.maximum(values - step, 0)
        return xp.sign(values) * xp.maximum(xp.abs(values) - step, 0)

    def into_domain(self, matrix: Any) -> Any:
        """The nearest point where N is finite; the matrix itself where that is everything."""
        if not self.symmetric:
            return matrix
        xp, matrix = namespace(matrix), (matrix + matrix.T) / 2
        if not self.one_sided:
            return matrix
        values, V = xp.linalg.eigh(matrix)
        return xp.where(values[0] < 0, (V * xp.maximum(values, 0)[None, :]) @ V.T, matrix)
