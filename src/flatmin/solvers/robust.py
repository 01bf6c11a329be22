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
from flatmin.solvers.misfits import AbstractMisfit, HuberLoss, L1Ball, L1Loss


@checked()
def default_penalty(matrix_shape: tuple[int, int]) -> float:
    """`1/sqrt(max(d1, d2))`, the usual weight of the errors where their size is not known [Candes et al. 2011].

    Args:
        matrix_shape: (d1, d2).

    Returns:
        The weight.
    """
    return 1 / math.sqrt(max(matrix_shape))


NORM_MARGIN = 2.0
"""Standard deviations above its mean, at most 1 each, that the norm of normal noise may lie."""


@checked(share=Real(0, 1))
def noise_norm(matrix_shape: tuple[int, int], share: float = 1.0) -> float:
    """`sqrt(share) (sqrt(d1) + sqrt(d2) + 2)`: what the spectral norm of unit noise in the seen entries stays below.

    Args:
        matrix_shape: (d1, d2).
        share: of the entries that are seen.

    Returns:
        The norm for a standard deviation of 1. Where all is seen, normal noise exceeds it with a probability of at most
        `exp(-2)` (Davidson & Szarek 2001), in practice hardly ever; seen entries are taken to be spread evenly.
    """
    return math.sqrt(share) * (math.sqrt(matrix_shape[0]) + math.sqrt(matrix_shape[1]) + NORM_MARGIN)


@checked(
    observed=RealArray("d1 d2", finite=False),
    radius=Optional(Real(0, above=True)),
    penalty=Optional(Real(0, above=True)),
    noise=Real(0),
    mask=Optional(RealArray("d1 d2")),
)
class RobustPCA(AbstractProgram):
    """`min ||X||_* s.t. ||Y - X||_1 <= radius`, or `min ||X||_* + penalty ||Y - X||_1`, over the seen entries.

    With `noise`, the standard deviation sigma of small errors in all entries, beside a penalty: `min ||X||_* + penalty
    ||S||_1 + ||Y - X - S||_F^2 / (2 mu)`, with mu the spectral norm that the noise of the seen entries has. With the
    radius these are the flat solutions of
    `min_S ||L R^T + S - Y||_F^2`, `||S||_1 <= radius` [D, Sec 4]. Unseen entries
    of Y are not charged for. The dual point is a matrix `Z = A*(y)` on the seen entries, `max <Y, Z> - radius
    ||Z||_inf s.t. ||Z||_op <= 1`, or `max <Y, Z> s.t. ||Z||_op <= 1, ||Z||_inf <= penalty`.

    Attributes:
        measurements: the seen entries.
        targets: their values, row by row, float64.
        misfit: `L1Ball(radius)`, `L1Loss(penalty)`, or with noise `HuberLoss(penalty, noise noise_norm(...))`.

    Raises:
        UsageError: for an observed array that is not a matrix, not finite where seen, or not float64; a mask of
            another shape or with nothing seen; noise beside a radius; neither or both of radius and penalty, or one
            that is not positive.
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
        noise: ArrayLike = 0.0,
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
        sigma = float(np.asarray(noise))
        if radius is not None and sigma:
            raise UsageError("noise: got noise beside a radius, expected a penalty; a radius holds all of the errors")
        share = 1.0 if mask is None else float(np.mean(np.asarray(mask) != 0))
        if radius is not None:
            self.misfit = L1Ball(radius)
        elif sigma and share:
            self.misfit = HuberLoss(_positive_penalty(penalty), sigma * noise_norm(shape, share))
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
