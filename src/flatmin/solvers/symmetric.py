"""The programmes over symmetric and over positive semidefinite matrices: quadratic networks and covariances."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from flatmin._core import RealArray, UsageError, checked
from flatmin.measurements import AbstractMeasurements, LowRankMeasurements, symmetrised
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._gauges import SymmetricNuclear, Trace
from flatmin.solvers._moments import row_moment
from flatmin.solvers._reweighted import multiply
from flatmin.solvers._roots import roots
from flatmin.solvers.misfits import AbstractMisfit, Exact


def _of_symmetric(measurements: AbstractMeasurements) -> AbstractMeasurements:
    """The measurements' symmetric parts, which is all that a symmetric matrix shows.

    Raises:
        UsageError: if the matrix is not square.
    """
    d1, d2 = measurements.matrix_shape
    if d1 != d2:
        raise UsageError(f"measurements: got matrix_shape {(d1, d2)}, expected a square one for a symmetric matrix")
    if isinstance(measurements, LowRankMeasurements) and np.array_equal(measurements.left, measurements.right):
        return measurements
    return symmetrised(measurements)


def _parts(
    measurements: AbstractMeasurements, targets: ArrayLike, misfit: AbstractMisfit | None, *, scaled: bool
) -> tuple[AbstractMeasurements, Array, AbstractMisfit, Array, Array]:
    """Symmetric measurements, targets, misfit, D and its inverse."""
    op = _of_symmetric(measurements)
    ones = jnp.ones(op.matrix_shape[0])
    root, inverse = (ones, ones) if not scaled else roots(row_moment(op), "row", "D^2", "scaled=False")
    return op, jnp.asarray(targets), Exact() if misfit is None else misfit, root, inverse


@checked(targets=RealArray("m"))
class MinSymmetricNuclearNorm(AbstractProgram):
    """`min ||M||_*`, or `min ||D M D||_*` if scaled, over symmetric M with `A(M) = b` [D, Sec 4].

    `D^2 = (1/m) sum A_i^2` for symmetric `A_i`; with `A_i = x_i x_i^T` it is `(1/m) sum ||x_i||^2 x_i x_i^T`, and eight
    times the optimal value is the smallest trace of the Hessian of a quadratic network `M = U_1 U_1^T - U_2 U_2^T`
    with enough units. The dual is `max b.y s.t. ||D^{-1} A*(y) D^{-1}||_op <= 1`.

    Attributes:
        measurements: the symmetric parts of `A`, in float64.
        targets: `b`, shape (m,), float64.
        misfit: what to charge for `A(M) - b`; default `Exact()`.
        root: D, (d, d); a vector if diagonal; ones if not scaled.
        inverse_root: its inverse.

    Raises:
        UsageError: for measurements that are not square, targets of a wrong shape, not finite or not float64; or, if
            scaled, for a singular D.
    """

    objective: ClassVar[str] = "nuclear norm of a symmetric matrix"
    measurements: AbstractMeasurements
    targets: Array
    misfit: AbstractMisfit
    root: Array
    inverse_root: Array

    def __init__(
        self,
        measurements: AbstractMeasurements,
        targets: ArrayLike,
        misfit: AbstractMisfit | None = None,
        *,
        scaled: bool = False,
    ):
        parts = _parts(measurements, targets, misfit, scaled=scaled)
        self.measurements, self.targets, self.misfit, self.root, self.inverse_root = parts

    def norm(self, matrix: Float[Array, "d d"]) -> Float[Array, ""]:
        """`||D M D||_*`."""
        return SymmetricNuclear().value(multiply(self.root, matrix, self.root))

    def polar_norm(self, matrix: Float[Array, "d d"]) -> Float[Array, ""]:
        """`||D^{-1} Z D^{-1}||_op` of a symmetric Z."""
        return SymmetricNuclear().polar(multiply(self.inverse_root, matrix, self.inverse_root))


@checked(targets=RealArray("m"))
class MinTrace(AbstractProgram):
    """`min tr M`, or `min tr(D M D)` if scaled, over positive semidefinite M with `A(M) = b` [D, Sec 4].

    Covariance estimation and phase retrieval: `M = U U^T`, D as in `MinSymmetricNuclearNorm`; eight times the optimal
    value is the smallest trace of the Hessian. The dual is `max b.y s.t. lambda_max(D^{-1} A*(y) D^{-1}) <= 1`.
    Targets that no positive semidefinite matrix has come back as infeasible, with y: `A*(y) <= 0` and `b.y = 1`.

    Attributes:
        measurements: the symmetric parts of `A`, in float64.
        targets: `b`, shape (m,), float64.
        misfit: what to charge for `A(M) - b`; default `Exact()`.
        root: D, (d, d); a vector if diagonal; ones if not scaled.
        inverse_root: its inverse.

    Raises:
        UsageError: for measurements that are not square, targets of a wrong shape, not finite or not float64; or, if
            scaled, for a singular D.
    """

    objective: ClassVar[str] = "trace"
    measurements: AbstractMeasurements
    targets: Array
    misfit: AbstractMisfit
    root: Array
    inverse_root: Array

    def __init__(
        self,
        measurements: AbstractMeasurements,
        targets: ArrayLike,
        misfit: AbstractMisfit | None = None,
        *,
        scaled: bool = False,
    ):
        parts = _parts(measurements, targets, misfit, scaled=scaled)
        self.measurements, self.targets, self.misfit, self.root, self.inverse_root = parts

    def norm(self, matrix: Float[Array, "d d"]) -> Float[Array, ""]:
        """`tr(D M D)` of a positive semidefinite M."""
        return jnp.trace(multiply(self.root, matrix, self.root))

    def polar_norm(self, matrix: Float[Array, "d d"]) -> Float[Array, ""]:
        """`max(lambda_max(D^{-1} Z D^{-1}), 0)` of a symmetric Z."""
        return Trace().polar(multiply(self.inverse_root, matrix, self.inverse_root))
