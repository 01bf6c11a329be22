"""Square roots of second moments and their inverses, or a sentence on what is not seen."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flatmin._core import UsageError


def roots(moment: Array, line: str, name: str, instead: str) -> tuple[Array, Array]:
    """Square root of a moment and its inverse; vectors if the moment is diagonal.

    Raises:
        UsageError: if the moment is singular to working precision.
    """
    host = np.asarray(moment)
    diagonal = np.diagonal(host)
    remedy = f"drop it, add measurements, or use {instead}, which needs no inverse"
    if diagonal.min() <= 1e-14 * max(diagonal.max(), 0):
        unseen = np.flatnonzero(diagonal <= 1e-14 * max(diagonal.max(), 0))
        raise UsageError(
            f"measurements: got {unseen.size} {line}(s) that no measurement sees, the first is {line} {unseen[0]}, "
            f"expected an invertible {name}; {remedy}"
        )
    if not np.any(host - np.diag(diagonal)):
        root = jnp.sqrt(diagonal)
        return root, 1 / root
    values, vectors = np.linalg.eigh(host)
    if values[0] <= 1e-13 * values[-1]:
        mostly = int(np.argmax(np.abs(vectors[:, 0])))
        raise UsageError(
            f"measurements: got a singular {name} (eigenvalues from {values[0]:.1e} to {values[-1]:.1e}), expected an "
            f"invertible one: a combination of {line}s, mostly {line} {mostly}, is seen by no measurement; {remedy}"
        )
    root = (vectors * np.sqrt(values)) @ vectors.T
    return jnp.asarray(root), jnp.asarray((vectors / np.sqrt(values)) @ vectors.T)
