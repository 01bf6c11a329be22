"""The recovery problem: measurements of a parameterized matrix, and targets."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from flatmin._core import AbstractObjective, RealArray, Shown, UsageError, as_real, check_finite, check_shape, checked
from flatmin.measurements import AbstractMeasurements, pick, take
from flatmin.parameterizations import AbstractParameterization, check_params


@checked(targets=RealArray("m"))
class RecoveryProblem(Shown, AbstractObjective):
    """`f(params) = (1/m) sum_i (<A_i, X(params)> - b_i)^2` (mean of squares, no 1/2).

    Attributes:
        measurements: the operator A.
        parameterization: the map params -> X.
        targets: b, shape (m,).
    """

    measurements: AbstractMeasurements
    parameterization: AbstractParameterization
    targets: Float[Array, " m"] = eqx.field(converter=lambda values: as_real("targets", values))

    def __check_init__(self):
        if self.measurements.matrix_shape != self.parameterization.matrix_shape:
            raise UsageError(
                f"parameterization: has matrix_shape {self.parameterization.matrix_shape}, but the measurements read "
                f"matrices of shape {self.measurements.matrix_shape}"
            )
        check_shape("targets", self.targets, (self.measurements.num_measurements,))
        check_finite("targets", self.targets)

    def headline(self) -> str:
        """`30 measurements of a 6 x 6 matrix (DenseMeasurements, DeepMatrix)`."""
        kinds = f"{type(self.measurements).__name__}, {type(self.parameterization).__name__}"
        return f"{self.measurements.headline()} ({kinds})"

    @property
    def num_samples(self) -> int:
        """`m`."""
        return self.measurements.num_measurements

    def matrix(self, params: PyTree) -> Float[Array, "d1 d2"]:
        """The matrix X at `params`.

        Raises:
            UsageError: for params that are not those of the parameterization.
        """
        return self.parameterization.matrix(check_params(self.parameterization, params))

    def predict(self, params: PyTree) -> Float[Array, " m"]:
        """`A(X(params))`."""
        return self.measurements.forward(self.matrix(params))

    def residual(self, params: PyTree) -> Float[Array, " m"]:
        """`A(X(params)) - b`."""
        return self.predict(params) - self.targets

    def loss(self, params: PyTree) -> Float[Array, ""]:
        """The mean of squared residuals over all measurements."""
        return jnp.mean(self.residual(params) ** 2)

    def batch_loss(
        self, params: PyTree, indices: Int[Array, " B"], label_shift: Float[Array, " B"] | None
    ) -> Float[Array, ""]:
        """`(1/B) sum_{i in indices} (<A_i, X> - b_i - shift_i)^2`, repeats counted.

        Raises:
            UsageError: for indices outside of `[0, m)`, or a shift of another shape; traced indices outside give NaN.
        """
        batch = take(self.measurements, indices)
        residual = batch.forward(self.matrix(params)) - pick(self.targets, jnp.asarray(indices))
        if label_shift is not None:
            residual = residual - check_shift(label_shift, residual.shape[0])
        return jnp.mean(residual**2)


def check_shift(label_shift: Any, size: int) -> Float[Array, " B"]:
    """Return the shift of the labels, one a sample of the batch.

    Args:
        label_shift: what was given; a scalar moves all labels.
        size: B.

    Returns:
        The shift, shape (B,) or ().

    Raises:
        UsageError: for another shape, or anything but real numbers.
    """
    shift = as_real("label_shift", label_shift)
    if shift.shape not in ((), (size,)):
        raise UsageError(f"label_shift: got shape {shift.shape}, expected ({size},), one a sample of the batch")
    return shift
