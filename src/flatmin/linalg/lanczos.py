"""Lanczos with thick restarts: both ends of a spectrum within a budget, and what was reached when it is spent."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from flatmin._core import Choice, FloatType, JobError, SequenceOf, UsageError, checked
from flatmin.linalg.scale import applied

Matvec = Callable[[Float[Array, " p"]], Float[Array, " p"]]

SUBSPACE = 40
"""Vectors kept at most; as ARPACK's usual choice, enough for ends that are clear of the rest."""

CHECKED = 5
"""Products between two looks at the residuals."""


class Ends(NamedTuple):
    """Both ends of a spectrum.

    Attributes:
        lowest: unit vector, the best for the lowest eigenvalue.
        highest: unit vector, the best for the highest eigenvalue.
        matvecs: products spent.
        converged: whether the residuals that were asked for reached the tolerance.
    """

    lowest: Float[Array, " p"]
    highest: Float[Array, " p"]
    matvecs: int
    converged: bool


@checked(dtype=FloatType(), ends=SequenceOf(Choice("lowest", "highest"), least=1))
def lanczos_ends(
    matvec: Matvec,
    size: int,
    dtype: DTypeLike,
    *,
    key: Key[Array, ""],
    ends: tuple[str, ...] = ("lowest", "highest"),
    tolerance: float = 0.0,
    max_matvecs: int = 5000,
) -> Ends:
    """Vectors of both ends of the spectrum, by Lanczos with full orthogonalisation and thick restarts [Wu, Simon 2000].

    Everything follows from the key: no other random numbers are drawn, so the same key gives the same bits.

    Args:
        matvec: a symmetric map on (p,) vectors; it cannot be traced.
        size: p.
        dtype: floating type of the vectors.
        key: random key of the starting vector.
        ends: for which ends the residual has to reach the tolerance.
        tolerance: of the residual against the largest eigenvalue in size; 0 is machine precision.
        max_matvecs: budget of products, at least 1.

    Returns:
        The ends, converged or not. Memory: `SUBSPACE` vectors.

    Raises:
        UsageError: under jit, vmap or grad, or for a budget below 1.
        JobError: if the map returned NaN or an infinite number.
    """
    start = jax.random.normal(key, (size,), dtype)
    if isinstance(start, Tracer):
        raise UsageError(
            "method: Lanczos() runs outside of jit, vmap, grad and records; use Dense(), which can be traced"
        )
    run = _Run(matvec, np.asarray(start), min(max_matvecs, size), tolerance)
    return run.ends(ends, max_matvecs)


class _Run:
    """The basis V (m, p), `T = V H V^T`, and what is left of H along the last vector."""

    def __init__(self, matvec: Matvec, start: np.ndarray, subspace: int, tolerance: float):
        self.matvec, self.dtype = matvec, start.dtype
        self.room = min(SUBSPACE, subspace)
        self.tolerance = max(tolerance, 4 * float(np.finfo(start.dtype).eps))
        self.V = np.zeros((self.room, start.size), start.dtype)
        self.V[0] = start / np.linalg.norm(start)
        self.T = np.zeros((self.room, self.room))
        self.count, self.exponent = 0, None

    def product(self, vector: np.ndarray) -> np.ndarray:
        """`2^-e H v`, with the exponent of the first product: maps of any size come to order one."""
        image = applied(self.matvec, jnp.asarray(vector))
        if isinstance(image, Tracer):
            raise UsageError(
                "method: Lanczos() runs outside of jit, vmap, grad and records; use Dense(), which can be traced"
            )
        image = np.asarray(image)
        self.count += 1
        if not np.isfinite(image).all():
            raise JobError("params: the Hessian at this point has NaN or infinite products; check the parameters")
        if self.exponent is None:
            size = float(np.max(np.abs(image)))
            self.exponent = -int(np.frexp(size)[1]) if size > 0 else 0
        return np.ldexp(image, self.exponent)

    def ends(self, wanted: tuple[str, ...], budget: int) -> Ends:
        j = 0
        while True:
            w = self.product(self.V[j])
            along = np.zeros(j + 1, w.dtype)
            for _ in range(2):  # once is not orthogonal to working precision
                part = self.V[: j + 1] @ w
                w = w - part @ self.V[: j + 1]
                along += part
            self.T[: j + 1, j] = self.T[j, : j + 1] = along
            beta = float(np.linalg.norm(w.astype(np.float64)))
            size = float(np.abs(self.T[: j + 1, : j + 1]).sum(axis=0).max())
            whole = beta <= 4 * float(np.finfo(w.dtype).eps) * size or j + 1 == self.V.shape[1]
            last = whole or self.count == budget
            if last or j + 1 == self.room or j % CHECKED == 0:
                theta, S = np.linalg.eigh(self.T[: j + 1, : j + 1])
                residuals = {"lowest": beta * abs(S[-1, 0]), "highest": beta * abs(S[-1, -1])}
                converged = whole or max(residuals[end] for end in wanted) <= self.tolerance * np.abs(theta).max()
                if last or converged:
                    low, high = (self.unit(S[:, i], j) for i in (0, -1))
                    return Ends(low, high, self.count, converged)
                if j + 1 == self.room:
                    j = self.restart(theta, S, w / beta)
                    continue
            j += 1
            self.V[j] = w / beta

    def unit(self, weights: np.ndarray, j: int) -> Array:
        vector = weights.astype(self.dtype) @ self.V[: j + 1]
        return jnp.asarray(vector / np.linalg.norm(vector))

    def restart(self, theta: np.ndarray, S: np.ndarray, following: np.ndarray) -> int:
        """Keep the outer Ritz vectors and the last direction; the next product fills in how they couple."""
        side = max(1, (self.room - 1) // 4)
        if self.room <= 2:
            self.V[0] = following
            self.T[:] = 0
            return 0
        kept = np.r_[0:side, len(theta) - side : len(theta)]
        self.V[: len(kept)] = S[:, kept].T.astype(self.dtype) @ self.V
        self.V[len(kept)] = following
        self.T[:] = 0
        self.T[np.arange(len(kept)), np.arange(len(kept))] = theta[kept]
        return len(kept)
