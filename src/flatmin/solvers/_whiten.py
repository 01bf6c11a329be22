"""Whitening: the same affine set `{X : A(X) = b}` described by orthonormal measurements `Q`, `Q Q* = I`.

Then the projection onto it is `X - Q*(Q(X) - c)`, and the multipliers return as `y = W u`. The factor `W` comes
from the Gram matrix `A A*`: its diagonal where it is diagonal (completion), a Cholesky factor, or, if dependent
measurements make it singular, its eigenvectors.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from flatmin._core import UsageError
from flatmin.measurements import AbstractMeasurements, DenseMeasurements, kernel_form
from flatmin.solvers._reweighted import gram_diagonal

MAX_GRAM = 15_000
"""Largest m for which an m x m Gram matrix is factorised (1.8 GB)."""

STORED_WORK, STORED_ENTRIES = 2e10, 5e7
"""Orthonormal measurements are stored as a tensor below this many multiplications and this many entries (400 MB)."""

SINGULAR = 1e-13
"""Eigenvalues of the equilibrated Gram matrix below this fraction of the largest count as zero."""


class Whitened(eqx.Module):
    """Orthonormal measurements of the same affine set.

    Attributes:
        op: the operator that the iteration calls.
        mix: what follows it: `Q(X) = mix^T op(X)`; a vector is a diagonal, `None` the identity.
        back: `W`, which takes multipliers of Q to multipliers of A.
        targets: `c = W^T b`, shape (m',).
        squared_singular_values: the eigenvalues of `A A*` where Q is along its eigenvectors, else ones.
    """

    op: AbstractMeasurements
    mix: Array | None
    back: Array
    targets: Float[Array, " k"]
    squared_singular_values: Float[Array, " k"]

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " k"]:
        """`Q(X)`."""
        observed = self.op.forward(matrix)
        if self.mix is None:
            return observed
        return self.mix * observed if self.mix.ndim == 1 else observed @ self.mix

    def adjoint(self, weights: Float[Array, " k"]) -> Float[Array, "d1 d2"]:
        """`Q*(u)`."""
        return self.op.adjoint(weights if self.mix is None else self._spread(self.mix, weights))

    def multipliers(self, weights: Float[Array, " k"]) -> Float[Array, " m"]:
        """`y = W u`, so that `A*(y) = Q*(u)`."""
        return self._spread(self.back, weights)

    def unreached(self, targets: Float[Array, " m"]) -> Float[Array, " m"]:
        """The part of b outside the range of A; for measurements whitened along the eigenvectors of `A A*`."""
        if self.back.ndim == 1 or self.back.shape[0] == self.back.shape[1]:
            return jnp.zeros_like(targets)
        vectors = self.back * jnp.sqrt(self.squared_singular_values)[None, :]
        return targets - vectors @ (vectors.T @ targets)

    @staticmethod
    def _spread(factor: Array, weights: Array) -> Array:
        return factor * weights if factor.ndim == 1 else factor @ weights

    def project(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, "d1 d2"]:
        """The nearest point with `Q(X) = c`."""
        return matrix - self.adjoint(self.forward(matrix) - self.targets)


def whiten(
    op: AbstractMeasurements, targets: Float[Array, " m"], *, principal: bool = False
) -> tuple[Whitened, Float[Array, " m"] | None]:
    """Orthonormal measurements of `{X : A(X) = b}`, and a proof if that set is empty.

    Args:
        op: the measurements.
        targets: b, shape (m,).
        principal: whiten along the eigenvectors of the Gram matrix, so that up to a constant
            `||A(X) - b||^2 = ||squared_singular_values^{1/2} (Q(X) - c)||^2`: what a misfit in the l2 norm needs.

    Returns:
        The whitened measurements (of the consistent part of b, if b contradicts itself), and `None` or a vector y
        with `b.y = 1` and `A*(y) = 0` up to rounding: every feasible X would have `||X||_* >= 1 / ||A*(y)||_op`.

    Cost: nothing for completion; else the m x m Gram matrix, m^3/3 for Cholesky, 10 m^3 if it is singular.

    Raises:
        UsageError: if m > 15000 and the Gram matrix is not known to be diagonal.
    """
    diagonal = gram_diagonal(op)
    if diagonal is not None and bool(jnp.all(diagonal > 0)):
        weights = 1 / jnp.sqrt(diagonal)
        return Whitened(op, weights, weights, weights * targets, diagonal), None
    if op.num_measurements > MAX_GRAM:
        raise UsageError(
            f"measurements: got m = {op.num_measurements}, expected m <= {MAX_GRAM} for {type(op).__name__}, whose "
            "m x m Gram matrix must be factorised; use fewer measurements (take) or entries"
        )
    if principal:
        factor, squared_singular_values, null = _principal(np.asarray(kernel_form(op)))
    else:
        factor, null = _factor(np.asarray(kernel_form(op)))
        squared_singular_values = np.ones(factor.shape[1])
    contradiction = _contradiction(null, np.asarray(targets))
    factor = jnp.asarray(factor)
    white = Whitened(op, factor, factor, targets @ factor, jnp.asarray(squared_singular_values))
    if principal:
        return white, contradiction
    size = op.num_measurements * op.matrix_shape[0] * op.matrix_shape[1]
    cheap = size * op.num_measurements <= STORED_WORK and size <= STORED_ENTRIES
    return _stored(white, targets) if cheap or isinstance(op, DenseMeasurements) else white, contradiction


def _factor(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`W` with `W^T G W = I`, and an orthonormal-up-to-scale basis of the null space of G."""
    diagonal = np.diagonal(gram)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    equilibrated = gram * scale[:, None] * scale
    try:
        lower = np.linalg.cholesky(equilibrated)
        inverse = scipy.linalg.solve_triangular(lower, np.eye(len(gram)), lower=True)
        # ||G|| <= trace = m and ||G^-1|| <= ||L^-1||_F^2
        if np.sum(inverse**2) * len(gram) < 1 / SINGULAR:
            return scale[:, None] * inverse.T, np.zeros((len(gram), 0))
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(equilibrated)
    kept = values > SINGULAR * max(values[-1], 1.0)
    return scale[:, None] * vectors[:, kept] / np.sqrt(values[kept]), scale[:, None] * vectors[:, ~kept]


def _principal(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`W = V squared_singular_values^{-1/2}`, those, and a basis of the null space."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > SINGULAR * max(values[-1], np.finfo(float).tiny)
    return vectors[:, kept] / np.sqrt(values[kept]), values[kept], vectors[:, ~kept]


def _contradiction(null: np.ndarray, targets: np.ndarray) -> Float[Array, " m"] | None:
    # each column is scaled by 1 / ||A_i||; measured in those units
    norms = np.linalg.norm(null, axis=0)
    parts = targets @ null
    unit = np.linalg.norm(targets)
    if unit == 0 or not np.any(np.abs(parts) > 1e-9 * norms * unit):
        return None
    proof = null @ parts
    return jnp.asarray(proof / (targets @ proof))


@jax.jit
def _overlap(tensor: Float[Array, "k d1 d2"]) -> Float[Array, "k k"]:
    flat = tensor.reshape(tensor.shape[0], -1)
    return flat @ flat.T


def _stored(white: Whitened, targets: Float[Array, " m"]) -> Whitened:
    """The orthonormal measurements as a tensor, orthonormalised twice (as in CholeskyQR2) to be so to rounding."""
    back = white.back
    tensor = _tensor(white.op, back)
    again, _ = _factor(np.asarray(_overlap(tensor)))
    tensor = jnp.tensordot(jnp.asarray(again.T), tensor, 1)
    back = back @ again
    return Whitened(DenseMeasurements(tensor), None, back, targets @ back, white.squared_singular_values)


@eqx.filter_jit
def _tensor(op: AbstractMeasurements, weights: Float[Array, "m k"]) -> Float[Array, "k d1 d2"]:
    if isinstance(op, DenseMeasurements):
        return jnp.tensordot(weights.T, op.tensor, 1)
    return jax.lax.map(op.adjoint, weights.T, batch_size=16)
