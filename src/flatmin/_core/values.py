"""What a value is: the number in it, the kind of its entries, a few words for a sentence."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

UNREADABLE = (
    *(TypeError, ValueError, OverflowError, RecursionError, AttributeError, RuntimeError, MemoryError),
    SystemError,  # of JAX's trees, for lists that hold themselves
)
"""What NumPy and foreign containers raise for things that are no arrays."""

SHOWN = 40
"""Characters of a text or a number in a sentence."""


def described(value: Any) -> str:
    """A value in a few words: numbers and short texts as they are, the rest by type and shape."""
    if value is None or isinstance(value, bool | np.bool_):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float | complex | str | bytes):
        text = repr(value)
        return text if len(text) <= SHOWN else text[:SHOWN] + "..."
    if isinstance(value, np.ma.MaskedArray):
        return f"a masked array of shape {value.shape}"
    if isinstance(value, Tracer):
        return f"a traced value of {value.dtype} and shape {value.shape}"
    if isinstance(value, np.generic):
        return f"{str(value)[:SHOWN]} ({value.dtype})"
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"


def article(name: str) -> str:
    return "an" if name[0] in "AEIOaeiox" else "a"


@functools.cache
def kind_of(dtype: Any) -> str:
    """`f`, `i`, `b`, `c`, `k` (random key) or `?`."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return "k"
    kind = np.dtype(dtype).kind
    if kind in "iu":
        return "i"
    if kind in "fbc":
        return kind
    return "f" if kind == "V" and np.dtype(dtype).names is None and jnp.issubdtype(dtype, jnp.floating) else "?"


def scalar(value: Any) -> int | float | Tracer | None:
    """The number that a value is, a tracer as it stands, None for what is no number.

    Args:
        value: anything.

    Returns:
        A Python number or a tracer of rank 0.
    """
    if isinstance(value, bool | np.bool_ | np.ma.MaskedArray):
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0 and kind_of(value.dtype) in "if":
        if isinstance(value, Tracer):
            return value
        return int(value) if kind_of(value.dtype) == "i" else float(value)
    return None
