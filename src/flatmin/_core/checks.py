"""Checks of static arguments; each raises one clear sentence."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike

from flatmin._core.errors import UsageError


def is_traced(*arrays: Any) -> bool:
    """Whether any of the arrays is a tracer, so that its values cannot be looked at."""
    return any(isinstance(a, Tracer) for a in arrays)


def as_real(argument: str, array: Any) -> Array:
    """The array with a floating type: integers and booleans become JAX's default float.

    Args:
        argument: the argument's name, for the sentence.
        array: anything that JAX can turn into an array.

    Returns:
        A floating point array; half and single precision are kept.

    Raises:
        UsageError: for complex numbers, text and other things that are not real numbers.
    """
    try:
        values = jnp.asarray(array)
    except TypeError as error:
        raise UsageError(f"{argument}: got {type(array).__name__}, expected an array of real numbers") from error
    if jnp.issubdtype(values.dtype, jnp.floating):
        return values
    if values.dtype == bool or jnp.issubdtype(values.dtype, jnp.integer):
        return values.astype(jnp.result_type(float))
    raise UsageError(f"{argument}: got {values.dtype}, expected real numbers")


def check_finite(argument: str, array: Any) -> None:
    """Refuse NaN and infinities; silent for traced arrays.

    Args:
        argument: the argument's name, for the sentence.
        array: the array to look at.

    Raises:
        UsageError: naming the first bad index.
    """
    if is_traced(array):
        return
    values = np.asarray(array)
    if values.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UsageError(
            f"{argument}: got {int(bad.sum())} value(s) that are NaN or infinite, the first at index {where}; "
            "remove or mask them"
        )


def check_shape(argument: str, array: Any, expected: tuple[int | str, ...]) -> None:
    """Refuse a wrong shape. Strings in `expected` are free dimensions, kept for the sentence.

    Args:
        argument: the argument's name, for the sentence.
        array: anything with a `.shape`.
        expected: one entry an axis; an integer must match, a string names a free axis.

    Raises:
        UsageError: with the shape that was got and the one expected.
    """
    shape = tuple(array.shape)
    fits = len(shape) == len(expected) and all(
        isinstance(e, str) or e == s for s, e in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join(str(e) for e in expected) + ("," if len(expected) == 1 else "") + ")"
        raise UsageError(f"{argument}: got shape {shape}, expected {wanted}")


def check_at_least(argument: str, value: ArrayLike, least: float) -> None:
    """Refuse a number below `least` (or NaN); silent for traced values.

    Args:
        argument: the argument's name, for the sentence.
        value: the number.
        least: the smallest accepted value.

    Raises:
        UsageError: with the value that was got.
    """
    if not is_traced(value) and not np.all(np.asarray(value) >= least):
        raise UsageError(f"{argument}: got {value}, expected a value >= {least}")


def check_positive(argument: str, value: ArrayLike) -> None:
    """Refuse zero, negative numbers, NaN and infinities; silent for traced values.

    Args:
        argument: the argument's name, for the sentence.
        value: the number.

    Raises:
        UsageError: with the value that was got.
    """
    if is_traced(value):
        return
    numbers = np.asarray(value, dtype=float)
    if not np.all(numbers > 0) or not np.all(np.isfinite(numbers)):
        raise UsageError(f"{argument}: got {value}, expected a positive finite value")


def require_float64(what: str, *arrays: Any) -> None:
    """Refuse single precision where a certificate depends on it.

    Args:
        what: the operation that needs it, for the sentence.
        arrays: the arrays that must be float64.

    Raises:
        UsageError: saying how to turn float64 on.
    """
    for array in arrays:
        dtype = array.dtype
        if dtype != np.float64:
            raise UsageError(
                f"{what}: needs float64, got {dtype}; call jax.config.update('jax_enable_x64', True) before creating "
                "arrays and pass float64 data"
            )
