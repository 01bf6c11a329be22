"""Sizes of vectors and maps, where squares would leave the range of the numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flatmin._core import RealArray, UsageError, checked

Matvec = Callable[[Float[Array, " p"]], Float[Array, " p"]]


@checked(array=RealArray(finite=False, nonempty=True))
def safe_norm(array: Array) -> Float[Array, ""]:
    """The Frobenius norm, without overflow or underflow of the squares."""
    size = jnp.max(jnp.abs(array))
    unit = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    return unit * jnp.linalg.norm(array / unit)


def applied(matvec: Matvec, vector: Array) -> Array:
    """The image of a vector, which has to be one of the same length.

    Raises:
        UsageError: for anything else; an array of another shape would be broadcast.
    """
    image = matvec(vector)
    if getattr(image, "shape", None) != vector.shape:
        got = f"shape {image.shape}" if hasattr(image, "shape") else type(image).__name__
        raise UsageError(f"matvec: the function returned {got}, expected a vector of shape {vector.shape}")
    return image


def exponent_of(image: Array) -> Int[Array, ""]:
    """The power of two next above the largest entry; 0 for a zero or infinite one."""
    size = jnp.max(jnp.abs(jax.lax.stop_gradient(image)))
    return jnp.where((size > 0) & jnp.isfinite(size), jnp.frexp(size)[1], 0).astype(jnp.int32)


def shifted(array: Array, exponent: Array | int) -> Array:
    """`2^exponent` times the array, in two steps, since the power alone may leave the range of the numbers."""
    half = exponent // 2
    one = jnp.ones((), array.dtype)
    return array * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)
