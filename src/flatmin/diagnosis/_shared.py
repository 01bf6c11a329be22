"""What the diagnoses of all families ask."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import UsageError, check_finite, check_shape, require_float64
from flatmin.measurements import AbstractMeasurements


def checked(
    measurements: AbstractMeasurements, targets: Float[Array, " m"], matrix: Float[Array, "d1 d2"]
) -> tuple[Float[Array, " m"], Float[Array, "d1 d2"], Float[Array, ""]]:
    """Targets and matrix as arrays, and the Frobenius norm of the matrix.

    Raises:
        UsageError: for shapes that do not fit, numbers that are not finite, single precision, or a zero matrix.
    """
    matrix, targets = jnp.asarray(matrix), jnp.asarray(targets)
    check_shape("matrix", matrix, measurements.matrix_shape)
    check_shape("targets", targets, (measurements.num_measurements,))
    require_float64("diagnose", matrix, targets)
    check_finite("matrix", matrix)
    size = jnp.linalg.norm(matrix)
    if not bool(size > 0):
        raise UsageError("matrix: got a zero matrix, expected a solution with something to diagnose")
    return targets, matrix, size


def effective_rank(matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
    """`exp(entropy)` of `s / sum s`, s the singular values; r for r equal ones."""
    shares = jnp.linalg.svd(matrix, compute_uv=False)
    shares = shares / jnp.sum(shares)
    return jnp.exp(-jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), 0.0)))


def relative_distance(matrix: Float[Array, "..."], other: Float[Array, "..."]) -> Float[Array, ""]:
    """`||X - Y||_F / ||Y||_F`."""
    return jnp.linalg.norm(matrix - other) / jnp.linalg.norm(other)
