"""The programmes over all matrices: nuclear norm, its weighted form, Frobenius norm."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flatmin._core import RealArray, checked
from flatmin.measurements import AbstractMeasurements
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._gauges import nuclear_norm, operator_norm
from flatmin.solvers._moments import col_moment, row_moment
from flatmin.solvers._reweighted import multiply
from flatmin.solvers._roots import roots
from flatmin.solvers.misfits import AbstractMisfit, Exact


@checked(targets=RealArray("m"))
class MinNuclearNorm(AbstractProgram):
    """`min ||X||_* s.t. A(X) = b`; dual `max b.y s.t. ||A*(y)||_op <= 1`.

    Attributes:
        measurements: `A`, in float64.
        targets: `b`, shape (m,), float64.
        misfit: what to charge for `A(X) - b`; default `Exact()`.

    Raises:
        UsageError: for targets of a wrong shape, not finite or not float64.
    """

    objective: ClassVar[str] = "nuclear norm"
    measurements: AbstractMeasurements
    targets: Array = eqx.field(converter=jnp.asarray)
    misfit: AbstractMisfit = eqx.field(default_factory=Exact)

    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||X||_*`."""
        return nuclear_norm(matrix)

    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||Z||_op`."""
        return operator_norm(matrix)


@checked(targets=RealArray("m"))
class MinFrobenius(AbstractProgram):
    """`min ||X||_F s.t. A(X) = b`; dual `max b.y s.t. ||A*(y)||_F <= 1` [G, Thm 4].

    Attributes:
        measurements: `A`, in float64.
        targets: `b`, shape (m,), float64.
        misfit: `Exact()`, the only one that its closed form knows.

    Raises:
        UsageError: for targets of a wrong shape, not finite or not float64.
    """

    objective: ClassVar[str] = "Frobenius norm"
    measurements: AbstractMeasurements
    targets: Array = eqx.field(converter=jnp.asarray)
    misfit: AbstractMisfit = eqx.field(default_factory=Exact)

    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||X||_F`."""
        return jnp.linalg.norm(matrix)

    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||Z||_F`."""
        return jnp.linalg.norm(matrix)


@checked(targets=RealArray("m"))
class MinScaledNuclearNorm(AbstractProgram):
    """`min ||D_out^{1/2} X D_in^{1/2}||_* s.t. A(X) = b`: the flat solutions of two factors [G, Thm 5; D, Thm 3.2].

    `D_out = (1/m) sum A_i A_i^T`, `D_in = (1/m) sum A_i^T A_i`, so four times the optimal value is the smallest
    trace of the Hessian of `(1/m) ||A(W_2 W_1) - b||^2` over interpolating factors. The dual is
    `max b.y s.t. ||D_out^{-1/2} A*(y) D_in^{-1/2}||_op <= 1`. In the notation of [D], `D_1 = D_out^{1/2} / sqrt(d_2)`
    and `D_2 = D_in^{1/2} / sqrt(d_1)`: the same solutions, the value divided by `sqrt(d_1 d_2)`.

    Attributes:
        measurements: `A`, in float64.
        targets: `b`, shape (m,), float64.
        misfit: what to charge for `A(X) - b`; default `Exact()`.
        roots: `D_out^{1/2}` and `D_in^{1/2}`; vectors if diagonal.
        inverse_roots: their inverses.

    Raises:
        UsageError: for targets of a wrong shape, not finite or not float64; or if D_out or D_in is singular, naming
            the row or column that no measurement sees.
    """

    objective: ClassVar[str] = "weighted nuclear norm"
    measurements: AbstractMeasurements
    targets: Array
    misfit: AbstractMisfit
    roots: tuple[Array, Array]
    inverse_roots: tuple[Array, Array]

    def __init__(self, measurements: AbstractMeasurements, targets: ArrayLike, misfit: AbstractMisfit | None = None):
        self.measurements, self.targets = measurements, jnp.asarray(targets)
        self.misfit = Exact() if misfit is None else misfit
        out_root, out_inverse = roots(row_moment(measurements), "row", "D_out", "MinNuclearNorm")
        in_root, in_inverse = roots(col_moment(measurements), "column", "D_in", "MinNuclearNorm")
        self.roots = (out_root, in_root)
        self.inverse_roots = (out_inverse, in_inverse)

    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||D_out^{1/2} X D_in^{1/2}||_*`."""
        return nuclear_norm(multiply(self.roots[0], matrix, self.roots[1]))

    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||D_out^{-1/2} Z D_in^{-1/2}||_op`."""
        return operator_norm(multiply(self.inverse_roots[0], matrix, self.inverse_roots[1]))
