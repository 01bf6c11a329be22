"""Square roots of second moments and their inverses, or a sentence on what is not seen."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flatmin._core import UsageError

SMALLEST_SHARE, SMALLEST_EIGENVALUE = 1e-14, 1e-13
"""Of the largest: the weight of a line, and the eigenvalue, below which no digit of an inverse is right."""


def roots(moment: Array, line: str, name: str, instead: str) -> tuple[Array, Array]:
    """Square root of a moment and its inverse; vectors if the moment is diagonal.

    Raises:
        UsageError: if a line is not seen, or the moment has no inverse in this precision.
    """
    host = np.asarray(moment)
    diagonal = np.diagonal(host)
    if not diagonal.min() > 0:
        unseen = np.flatnonzero(~(diagonal > 0))
        raise UsageError(
            f"measurements: got {unseen.size} {line}(s) that no measurement sees, the first is {line} {unseen[0]}, "
            f"expected an invertible {name}; drop it, add measurements, or use {instead}, which needs no inverse"
        )
    if diagonal.min() <= SMALLEST_SHARE * diagonal.max():
        weakest = int(np.argmin(diagonal))
        raise UsageError(
            f"measurements: got {line} {weakest} seen {np.sqrt(diagonal[weakest] / diagonal.max()):.0e} times as "
            f"strongly as the strongest {line}, which leaves {name} without an inverse in this precision; rescale the "
            f"{line}s, or use {instead}, which needs no inverse"
        )
    if not np.any(host - np.diag(diagonal)):
        root = jnp.sqrt(diagonal)
        return root, 1 / root
    values, vectors = np.linalg.eigh(host)
    if values[0] <= SMALLEST_EIGENVALUE * values[-1]:
        mostly = int(np.argmax(np.abs(vectors[:, 0])))
        raise UsageError(
            f"measurements: got a singular {name} in this precision (eigenvalues from {values[0]:.1e} to "
            f"{values[-1]:.1e}), expected an invertible one: a combination of {line}s, mostly {line} {mostly}, is seen "
            f"too weakly beside the others, or not at all; rescale the {line}s, add measurements, or use {instead}, "
            "which needs no inverse"
        )
    root = (vectors * np.sqrt(values)) @ vectors.T
    return jnp.asarray(root), jnp.asarray((vectors / np.sqrt(values)) @ vectors.T)
