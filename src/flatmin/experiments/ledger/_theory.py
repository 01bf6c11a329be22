"""The library's theory functions over a leading axis of instances, from NumPy to NumPy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def over(fn: Callable[..., Any], *arrays: np.ndarray) -> Any:
    """`fn` of each instance; operation by operation, so that only shapes compile and never whole functions.

    Args:
        fn: a function of JAX arrays.
        *arrays: each with the instances along its first axis.

    Returns:
        NumPy arrays of the structure that `fn` returns.
    """
    return jax.tree.map(np.asarray, jax.vmap(fn)(*(jnp.asarray(a) for a in arrays)))
