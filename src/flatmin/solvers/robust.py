"""Robust PCA: a low-rank matrix seen with few gross errors."""

import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from flatmin._core import Optional, Real, RealArray, UsageError, as_real, check_shape, checked, is_traced
from flatmin.measurements import AbstractMeasurements, entries, identity
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._gauges import Gauge
from flatmin.solvers.misfits import AbstractMisfit, L1Ball, L1Loss


@checked()
def default_penalty(matrix_shape: tuple[int, int]) -> float:
    """`1/sqrt(max(d1, d2))`, the usual weight of the errors where their size is not known [Candes et al. 2011].

    Args:
        matrix_shape: (d1, d2).

    Returns:
        The weight.
    """
    return 1 / math.sqrt(max(matrix_shape))


@checked(
    observed=RealArray("d1 d2", finite=False),
    radius=Optional(Real(0, above=True)),
    penalty=Optional(Real(0, above=True)),
    mask=Optional(RealArray("d1 d2")),
)
class RobustPCA(AbstractProgram):
    """`min ||X||_* s.t. ||Y - X||_1 <= radius`, or `min ||X||_* + penalty ||Y - X||_1`, over the seen entries.

    With the radius these are the flat solutions of
    `min_S ||L R^T + S - Y||_F^2`, `||S||_1 <= radius` [D, Sec 4]. Unseen entries
    of Y are not charged for. The dual point is a matrix `Z = A*(y)` on the seen entries, `max <Y, Z> - radius
    ||Z||_inf s.t. ||Z||_op <= 1`, or `max <Y, Z> s.t. ||Z||_op <= 1, ||Z||_inf <= penalty`.

    Attributes:
        measurements: the seen entries.
        targets: their values, row by row, float64.
        misfit: `L1Ball(radius)` or `L1Loss(penalty)`.

    Raises:
        UsageError: for an observed array that is not a matrix, not finite where seen, or not float64; a mask of
            another shape or with nothing seen; neither or both of radius and penalty, or one that is not positive.
    """

    objective: ClassVar[str] = "nuclear norm"
    measurements: AbstractMeasurements
    targets: Array
    misfit: AbstractMisfit

    def __init__(
        self,
        observed: ArrayLike,
        *,
        radius: ArrayLike | None = None,
        penalty: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ):
        matrix = as_real("observed", observed)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise UsageError(f"observed: got shape {matrix.shape}, expected a matrix (d1, d2)")
        shape = (matrix.shape[0], matrix.shape[1])
        if is_traced(matrix, mask):
            raise UsageError("observed, mask: got traced values, expected arrays; build the programme outside jit")
        if (radius is None) == (penalty is None):
            raise UsageError(
                f"radius, penalty: got {'neither' if radius is None else 'both'}, expected one of them; where the size "
                f"of the errors is not known, penalty = 1/sqrt(max(d1, d2)) = {default_penalty(shape):.4g}"
            )
        if radius is not None:
            self.misfit = L1Ball(radius)
        else:
            self.misfit = L1Loss(_positive_penalty(penalty))
        if mask is None:
            self.measurements, self.targets = identity(shape), matrix.reshape(-1)
            return
        seen = np.asarray(mask)
        check_shape("mask", seen, shape)
        if not np.all((seen == 0) | (seen == 1)):
            raise UsageError("mask: got values other than 0 and 1, expected True where an entry is seen")
        rows, cols = np.nonzero(seen)
        self.measurements = entries(jnp.asarray(rows), jnp.asarray(cols), shape)
        self.targets = matrix[rows, cols]

    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||X||_*`."""
        return Gauge().value(matrix)

    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||Z||_op`."""
        return Gauge().polar(matrix)


def _positive_penalty(penalty: ArrayLike | None) -> float:
    value = np.asarray(penalty, float)
    if not (value.ndim == 0 and np.isfinite(value) and value > 0):
        raise UsageError(f"penalty: got {penalty}, expected a positive finite value")
    return float(value)
