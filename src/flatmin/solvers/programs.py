"""The programmes: minimum nuclear norm, its weighted form, minimum Frobenius norm; all subject to `A(X) = b`."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from flatmin._core import UsageError
from flatmin.measurements import AbstractMeasurements, col_gram, row_gram
from flatmin.solvers._base import AbstractProgram, nuclear_norm, operator_norm
from flatmin.solvers._reweighted import ReweightedMeasurements, multiply


class MinNuclearNorm(AbstractProgram):
    """`min ||X||_* s.t. A(X) = b`; dual `max b.y s.t. ||A*(y)||_op <= 1`.

    Attributes:
        measurements: `A`, in float64.
        targets: `b`, shape (m,), float64.

    Raises:
        UsageError: for targets of a wrong shape, not finite or not float64.
    """

    measurements: AbstractMeasurements
    targets: Array = eqx.field(converter=jnp.asarray)

    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||X||_*`."""
        return nuclear_norm(matrix)

    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||Z||_op`."""
        return operator_norm(matrix)


class MinFrobenius(AbstractProgram):
    """`min ||X||_F s.t. A(X) = b`; dual `max b.y s.t. ||A*(y)||_F <= 1` [G, Thm 4].

    Attributes:
        measurements: `A`, in float64.
        targets: `b`, shape (m,), float64.

    Raises:
        UsageError: for targets of a wrong shape, not finite or not float64.
    """

    measurements: AbstractMeasurements
    targets: Array = eqx.field(converter=jnp.asarray)

    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||X||_F`."""
        return jnp.linalg.norm(matrix)

    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||Z||_F`."""
        return jnp.linalg.norm(matrix)


class MinScaledNuclearNorm(AbstractProgram):
    """`min ||D_out^{1/2} X D_in^{1/2}||_* s.t. A(X) = b`: the flat solutions of two factors [G, Thm 5; D, Thm 3.2].

    `D_out = (1/m) sum A_i A_i^T`, `D_in = (1/m) sum A_i^T A_i`, so four times the optimal value is the smallest
    trace of the Hessian of `(1/m) ||A(W_2 W_1) - b||^2` over interpolating factors. The dual is
    `max b.y s.t. ||D_out^{-1/2} A*(y) D_in^{-1/2}||_op <= 1`.

    Attributes:
        measurements: `A`, in float64.
        targets: `b`, shape (m,), float64.

    Raises:
        UsageError: for targets of a wrong shape, not finite or not float64; or if D_out or D_in is singular, naming
            the row or column that no measurement sees.
    """

    measurements: AbstractMeasurements
    targets: Array
    roots: tuple[Array, Array]
    inverse_roots: tuple[Array, Array]

    def __init__(self, measurements: AbstractMeasurements, targets: ArrayLike):
        m = measurements.num_measurements
        self.measurements, self.targets = measurements, jnp.asarray(targets)
        out_root, out_inverse = _roots(row_gram(measurements) / m, "row", "D_out")
        in_root, in_inverse = _roots(col_gram(measurements) / m, "column", "D_in")
        self.roots = (out_root, in_root)
        self.inverse_roots = (out_inverse, in_inverse)

    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||D_out^{1/2} X D_in^{1/2}||_*`."""
        return nuclear_norm(multiply(self.roots[0], matrix, self.roots[1]))

    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||D_out^{-1/2} Z D_in^{-1/2}||_op`."""
        return operator_norm(self.from_plain(matrix))

    def to_plain(self) -> MinNuclearNorm:
        """The plain programme in `X' = D_out^{1/2} X D_in^{1/2}`, with `A_i' = D_out^{-1/2} A_i D_in^{-1/2}`."""
        return MinNuclearNorm(ReweightedMeasurements(self.measurements, *self.inverse_roots), self.targets)

    def from_plain(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, "d1 d2"]:
        """`X = D_out^{-1/2} X' D_in^{-1/2}`."""
        return multiply(self.inverse_roots[0], matrix, self.inverse_roots[1])


def _roots(moment: Array, line: str, name: str) -> tuple[Array, Array]:
    """Square root of a moment and its inverse; vectors if the moment is diagonal.

    Raises:
        UsageError: if the moment is singular to working precision.
    """
    host = np.asarray(moment)
    diagonal = np.diagonal(host)
    remedy = "drop it, add measurements, or use MinNuclearNorm, which needs no inverse"
    if diagonal.min() <= 1e-14 * max(diagonal.max(), 0):
        unseen = np.flatnonzero(diagonal <= 1e-14 * max(diagonal.max(), 0))
        raise UsageError(
            f"measurements: got {unseen.size} {line}(s) that no measurement sees, the first is {line} {unseen[0]}, "
            f"expected an invertible {name}; {remedy}"
        )
    if not np.any(host - np.diag(diagonal)):
        root = jnp.sqrt(diagonal)
        return root, 1 / root
    values, vectors = np.linalg.eigh(host)
    if values[0] <= 1e-13 * values[-1]:
        mostly = int(np.argmax(np.abs(vectors[:, 0])))
        raise UsageError(
            f"measurements: got a singular {name} (eigenvalues from {values[0]:.1e} to {values[-1]:.1e}), expected an "
            f"invertible one: a combination of {line}s, mostly {line} {mostly}, is seen by no measurement; {remedy}"
        )
    root = (vectors * np.sqrt(values)) @ vectors.T
    return jnp.asarray(root), jnp.asarray((vectors / np.sqrt(values)) @ vectors.T)
