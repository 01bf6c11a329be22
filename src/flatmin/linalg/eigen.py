"""Extreme eigenvalues of a symmetric map, each with the residual of its eigenvector."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from flatmin._core import FloatType, RealArray, checked
from flatmin.linalg.lanczos import lanczos_ends
from flatmin.linalg.scale import applied, safe_norm

Matvec = Callable[[Float[Array, " p"]], Float[Array, " p"]]


@checked(vector=RealArray("p", finite=False, nonempty=True))
def eigenpair_residual(matvec: Matvec, vector: Float[Array, " p"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Rayleigh quotient and residual bound of a vector: some eigenvalue lies within the bound of the quotient.

    Args:
        matvec: a symmetric map.
        vector: non-zero, shape (p,).

    Returns:
        `(lambda, r)` with `lambda = v^T H v / v^T v` and `r = ||H v - lambda v|| / ||v||` plus the rounding of sums of
        p terms, `8 eps ||H v||`. What the map itself loses is not in it: `FlatHessian.twin_difference` measures that.
        One matvec.
    """
    unit = vector / jnp.max(jnp.abs(vector))
    unit = unit / jnp.linalg.norm(unit)
    image = applied(matvec, unit)
    value = jnp.vdot(unit, image)
    rounding = 8 * jnp.finfo(image.dtype).eps * safe_norm(image)
    return value, safe_norm(image - value * unit) + rounding


@checked(dtype=FloatType())
def extreme_eigenvector(
    matvec: Matvec,
    size: int,
    dtype: DTypeLike,
    *,
    key: Key[Array, ""],
    end: Literal["highest", "lowest"] = "highest",
    tolerance: float = 0.0,
    max_matvecs: int = 5000,
) -> tuple[Float[Array, " p"], int]:
    """Eigenvector of the algebraically highest or lowest eigenvalue, by `lanczos_ends`.

    Args:
        matvec: a symmetric map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        key: random key of the starting vector.
        end: which end of the spectrum.
        tolerance: residual against the largest eigenvalue in size; 0 is machine precision.
        max_matvecs: budget of products.

    Returns:
        The unit vector, the best within the budget (`eigenpair_residual` says how good), and the number of products.

    Raises:
        UsageError: as `lanczos_ends`.
        JobError: as `lanczos_ends`.
    """
    found = lanczos_ends(matvec, size, dtype, key=key, ends=(end,), tolerance=tolerance, max_matvecs=max_matvecs)
    return (found.highest if end == "highest" else found.lowest), found.matvecs


@checked(dtype=FloatType())
def extreme_eigenvectors(
    matvec: Matvec,
    size: int,
    dtype: DTypeLike,
    *,
    key: Key[Array, ""],
    tolerance: float = 0.0,
    max_matvecs: int = 5000,
) -> tuple[Float[Array, " p"], Float[Array, " p"], int]:
    """Eigenvectors of both ends of the spectrum, lowest and highest, by one run of `lanczos_ends`.

    Args:
        matvec: a symmetric map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        key: random key of the starting vector.
        tolerance: residuals against the largest eigenvalue in size; 0 is machine precision.
        max_matvecs: budget of products.

    Returns:
        The two unit vectors and the number of products.

    Raises:
        UsageError: as `lanczos_ends`.
        JobError: as `lanczos_ends`.
    """
    found = lanczos_ends(matvec, size, dtype, key=key, tolerance=tolerance, max_matvecs=max_matvecs)
    return found.lowest, found.highest, found.matvecs
