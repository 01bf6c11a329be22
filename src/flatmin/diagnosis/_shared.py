"""What the diagnoses of all families ask."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import UsageError, require_float64
from flatmin.measurements import AbstractMeasurements


def prepared(
    measurements: AbstractMeasurements, targets: Float[Array, " m"], matrix: Float[Array, "d1 d2"]
) -> tuple[Float[Array, " m"], Float[Array, "d1 d2"], Float[Array, ""]]:
    """Targets and matrix as arrays, and the Frobenius norm of the matrix.

    Raises:
        UsageError: for single precision or a zero matrix.
    """
    require_float64("diagnose", matrix, targets)
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
