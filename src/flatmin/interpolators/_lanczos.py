"""The smallest eigenvalue of a symmetric map, in NumPy: Lanczos with full reorthogonalisation."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flatmin._core import UsageError

STEPS = 400


class Eigenvalue(NamedTuple):
    """An eigenvalue with its residual.

    Attributes:
        value: the smallest Ritz value; an upper end of the smallest eigenvalue, and within `residual` of one.
        residual: `||H v - value v||`, measured.
        vector: v, of unit length.
        largest: the largest Ritz value in modulus.
        products: products with H.
    """

    value: float
    residual: float
    vector: Float[np.ndarray, " p"]
    largest: float
    products: int


def smallest_eigenvalue(
    matvec: Callable[[np.ndarray], np.ndarray],
    start: Float[np.ndarray, " p"],
    *,
    dimension: int,
    steps: int = STEPS,
    share: float = 0.01,
    floor: float = 1e-10,
) -> Eigenvalue:
    """Lanczos in the Krylov space of a start, ended once the residual is a part of the value, or of the largest one.

    Args:
        matvec: `x -> H x`, symmetric on the invariant space of the start.
        start: not zero.
        dimension: of that space, or an upper end of it.
        steps: products at most.
        share: of the value's modulus, at which it ends.
        floor: of the largest, at which it ends.

    Returns:
        The smallest Ritz value with its measured residual.

    Raises:
        UsageError: for a start that is zero.
    """
    size = float(np.linalg.norm(start))
    if not size > 0:
        raise UsageError("start: got zeros, expected a vector with a part in the space that is looked at")
    steps = max(1, min(steps, dimension))
    basis = np.empty((steps, len(start)))
    basis[0] = start / size
    diagonal, off = np.zeros(steps), np.zeros(steps)
    values, vectors, k = np.zeros(1), np.ones((1, 1)), 0
    for k in range(steps):
        image = matvec(basis[k])
        diagonal[k] = basis[k] @ image
        for _ in range(2):
            image = image - basis[: k + 1].T @ (basis[: k + 1] @ image)
        off[k] = np.linalg.norm(image)
        top = float(np.abs(diagonal[: k + 1]).max() + off[: k + 1].max())
        done = k + 1 == steps or off[k] <= 1e-12 * top
        if done or k % 10 == 9:
            tridiagonal = np.diag(diagonal[: k + 1]) + np.diag(off[:k], 1) + np.diag(off[:k], -1)
            values, vectors = np.linalg.eigh(tridiagonal)
            bound = off[k] * abs(vectors[-1, 0])
            if done or bound <= max(share * abs(values[0]), floor * np.abs(values).max()):
                break
        basis[k + 1] = image / off[k]
    vector = basis[: k + 1].T @ vectors[:, 0]
    vector /= np.linalg.norm(vector)
    residual = float(np.linalg.norm(matvec(vector) - values[0] * vector))
    return Eigenvalue(float(values[0]), residual, vector, float(np.abs(values).max()), k + 2)
