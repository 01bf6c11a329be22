"""Extreme eigenvalues of a symmetric map, each with the residual of its eigenvector."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from flatmin._core import JobError

Matvec = Callable[[Float[Array, " p"]], Float[Array, " p"]]


def safe_norm(array: Array) -> Float[Array, ""]:
    """The Frobenius norm, without overflow or underflow of the squares."""
    size = jnp.max(jnp.abs(array))
    unit = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    return unit * jnp.linalg.norm(array / unit)


def eigenpair_residual(matvec: Matvec, vector: Float[Array, " p"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Rayleigh quotient and residual bound of a vector: some eigenvalue lies within the bound of the quotient.

    Args:
        matvec: a symmetric map.
        vector: non-zero, shape (p,).

    Returns:
        `(lambda, r)` with `lambda = v^T H v / v^T v` and `r = ||H v - lambda v|| / ||v||` plus the rounding of the
        product itself (`8 eps ||H v||`). One matvec.
    """
    unit = vector / jnp.max(jnp.abs(vector))
    unit = unit / jnp.linalg.norm(unit)
    image = matvec(unit)
    value = jnp.vdot(unit, image)
    rounding = 8 * jnp.finfo(image.dtype).eps * safe_norm(image)
    return value, safe_norm(image - value * unit) + rounding


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
    """Eigenvector of the algebraically highest or lowest eigenvalue, by implicitly restarted Lanczos (ARPACK).

    Args:
        matvec: a symmetric map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        key: random key of the starting vector.
        end: which end of the spectrum.
        tolerance: relative accuracy; 0 is machine precision.
        max_matvecs: stop after about so many products.

    Returns:
        The unit eigenvector and the number of matvecs used.

    Raises:
        JobError: if it did not converge within `max_matvecs`, or the map returned NaN.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh  # half a second to import

    count = 0

    def counted(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        image = np.asarray(matvec(jnp.asarray(vector.reshape(-1), dtype)))
        if not np.isfinite(image).all():
            raise JobError("params: the Hessian at this point has NaN or infinite products; check the parameters")
        return image

    start = np.asarray(jax.random.normal(key, (size,), dtype))
    if size <= 2:  # ARPACK needs at least three dimensions
        values, vectors = np.linalg.eigh(np.stack([counted(e) for e in np.eye(size, dtype=start.dtype)]))
        return jnp.asarray(vectors[:, np.argmax(values) if end == "highest" else np.argmin(values)]), count
    # ARPACK's convergence test is absolute for values below 1e-11 and it refuses a zero map: give it one of size one
    size_of_map = float(np.max(np.abs(counted(start))))
    if size_of_map == 0:
        return jnp.asarray(start / np.linalg.norm(start)), count
    exponent = -int(np.frexp(size_of_map)[1])
    operator: Any = LinearOperator((size, size), matvec=lambda v: np.ldexp(counted(v), exponent), dtype=start.dtype)  # pyright: ignore[reportCallIssue]
    subspace = min(size, 40)
    try:
        _, vectors = eigsh(
            operator,
            k=1,
            which="LA" if end == "highest" else "SA",
            v0=start,
            ncv=subspace,
            tol=tolerance,  # pyright: ignore[reportArgumentType]
            maxiter=max(1, max_matvecs // subspace),
        )
    except ArpackNoConvergence as error:
        raise JobError(
            f"method: Lanczos did not converge in {count} matvecs; raise max_matvecs or tolerance"
        ) from error
    return jnp.asarray(vectors[:, 0]), count


def extreme_eigenvectors(
    matvec: Matvec,
    size: int,
    dtype: DTypeLike,
    *,
    key: Key[Array, ""],
    tolerance: float = 0.0,
    max_matvecs: int = 5000,
) -> tuple[Float[Array, " p"], Float[Array, " p"], int]:
    """Eigenvectors of both ends of the spectrum, lowest and highest, by Lanczos.

    The highest comes first; the lowest is sought in the map shifted down by its size. Thus a lowest end that is zero
    to rounding, as at every minimiser, is found to an accuracy relative to the highest, and does not cost the budget.

    Args:
        matvec: a symmetric map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        key: random key of the starting vectors.
        tolerance: relative accuracy; 0 is machine precision.
        max_matvecs: budget of products for each end.

    Returns:
        The two unit eigenvectors and the number of matvecs used.

    Raises:
        JobError: as `extreme_eigenvector`.
    """
    first, second = jax.random.split(key)
    options = {"tolerance": tolerance, "max_matvecs": max_matvecs}
    highest, count = extreme_eigenvector(matvec, size, dtype, key=first, **options)
    top, _ = eigenpair_residual(matvec, highest)
    lowest, more = extreme_eigenvector(
        lambda v: matvec(v) - jnp.abs(top) * v, size, dtype, key=second, end="lowest", **options
    )
    return lowest, highest, count + more + 1
