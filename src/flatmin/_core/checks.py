"""Checks of static arguments; each raises one clear sentence."""

from typing import Any

import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from flatmin._core.array_domains import RealArray
from flatmin._core.domains import Real
from flatmin._core.errors import UsageError
from flatmin._core.values import described


def is_traced(*arrays: Any) -> bool:
    """Whether any of the arrays is a tracer, so that its values cannot be looked at."""
    return any(isinstance(a, Tracer) for a in arrays)


def as_real(argument: str, array: Any) -> Array:
    """The array with a floating type: integers and booleans become JAX's default float.

    Args:
        argument: the argument's name, for the sentence.
        array: an array, or nested lists of numbers.

    Returns:
        A floating point array; half and single precision are kept. NaN and infinities pass.

    Raises:
        UsageError: for complex numbers, text, masked arrays and other things that are not real numbers.
    """
    return RealArray(finite=False).accept(argument, array, {})


def check_finite(argument: str, array: Any) -> None:
    """Refuse NaN and infinities; silent for traced arrays.

    Args:
        argument: the argument's name, for the sentence.
        array: the array to look at.

    Raises:
        UsageError: naming the first bad index, or what is no array of real numbers.
    """
    RealArray().accept(argument, array, {})


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


def check_at_least(argument: str, value: Any, least: float) -> None:
    """Refuse a number below `least` (or NaN); silent for traced values.

    Args:
        argument: the argument's name, for the sentence.
        value: the number.
        least: the smallest accepted value.

    Raises:
        UsageError: with the value that was got.
    """
    _check_numbers(
        argument, value, Real(least, infinite=True), RealArray(low=least, finite=False), f"a value >= {least}"
    )


def check_positive(argument: str, value: Any) -> None:
    """Refuse zero, negative numbers, NaN and infinities; silent for traced values.

    Args:
        argument: the argument's name, for the sentence.
        value: the number.

    Raises:
        UsageError: with the value that was got.
    """
    _check_numbers(argument, value, Real(0, above=True), RealArray(low=0, above=True), "a positive finite value")


def _check_numbers(argument: str, value: Any, one: Real, many: RealArray, expected: str) -> None:
    several = isinstance(value, list | tuple) or (isinstance(value, np.ndarray | Array) and value.ndim > 0)
    try:
        (many if several else one).accept(argument, value, {})
    except UsageError as error:
        raise UsageError(f"{argument}: got {described(value)}, expected {expected}") from error


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
