"""Polish: Newton's method on the factors, from a point whose rank is already right.

At fixed rank r the programme is `min (||L||^2 + ||R||^2)/2 s.t. Q(L R^T) = c`, smooth, with the same multipliers u
as the convex one. Newton's method on its Lagrangian is not defined where the solution or the multipliers are not
unique (and the factors never are: L Omega, R Omega^-T), so each step carries a small proximal term in both, weight
DELTA: among many multipliers it moves to the nearest ones. Then rank and residual come out to rounding.
Whether the point is optimal for the convex programme is left to the certificate.
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flatmin.solvers._host import factor_jacobian
from flatmin.solvers._whiten import Whitened

DELTA = 1e-6
"""Weight of the proximal terms; the solution is scaled to spectral norm about 1."""

FINE_DELTA = 1e-8
"""The same for a second polish, where multipliers are large and a slow approach is not enough."""

STEPS = 10
"""Most Newton steps; each gains about five digits."""

MAX_SYSTEM, MAX_ENTRIES = 2500, 4e7
"""Largest linear system solved, and most entries of the Jacobian (320 MB)."""

_BATCH = 32


def affordable(shape: tuple[int, ...], measured: int, rank: int) -> bool:
    """Whether a polish at this rank fits in memory and in about a second."""
    unknowns = rank * sum(shape)
    return 0 < min(unknowns, measured) <= MAX_SYSTEM and unknowns * measured <= MAX_ENTRIES


class Measured(abc.ABC):
    """Orthonormal measurements, as the polish needs them."""

    @abc.abstractmethod
    def forward(self, matrix: np.ndarray) -> np.ndarray:
        """`Q(X)`, shape (k,)."""

    @abc.abstractmethod
    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        """`Q*(u)`, shape (d1, d2)."""

    @abc.abstractmethod
    def jacobian(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """`d Q(L R^T)`, one row an unknown: (L row by row, then R row by row), shape (r (d1 + d2), k)."""


class Compiled(Measured):
    """Whitened measurements, called through compiled functions; nothing is formed but the Jacobian."""

    def __init__(self, white: Whitened):
        self.white = white

    def forward(self, matrix: np.ndarray) -> np.ndarray:
        """`Q(X)`."""
        return np.asarray(_forward(self.white, jnp.asarray(matrix)))

    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        """`Q*(u)`."""
        return np.asarray(_adjoint(self.white, jnp.asarray(weights)))

    def jacobian(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """One forward for each unknown."""
        (d1, rank), d2 = left.shape, right.shape[0]
        lefts = np.concatenate([np.repeat(np.eye(d1), rank, 0), np.tile(left.T, (d2, 1))])
        rights = np.concatenate([np.tile(right.T, (d1, 1)), np.repeat(np.eye(d2), rank, 0)])
        count = len(lefts)
        padding = [(0, -count % _BATCH), (0, 0)]
        lefts, rights = np.pad(lefts, padding), np.pad(rights, padding)
        at = range(0, len(lefts), _BATCH)
        many = (_forward_many(self.white, *(jnp.asarray(part[i : i + _BATCH]) for part in (lefts, rights))) for i in at)
        return np.concatenate([np.asarray(part) for part in many])[:count]


class Stored(Measured):
    """Orthonormal measurements held as a tensor, shape (k, d1, d2)."""

    def __init__(self, tensor: np.ndarray):
        self.tensor, self.flat = tensor, tensor.reshape(len(tensor), -1)

    def forward(self, matrix: np.ndarray) -> np.ndarray:
        """`Q(X)`."""
        return self.flat @ matrix.ravel()

    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        """`Q*(u)`."""
        return (weights @ self.flat).reshape(self.tensor.shape[1:])

    def jacobian(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Two products with the tensor."""
        return factor_jacobian(self.tensor, left, right).T


@eqx.filter_jit
def _forward_many(white: Whitened, left: Float[Array, "B d1"], right: Float[Array, "B d2"]) -> Float[Array, "B k"]:
    return jax.vmap(lambda u, v: white.forward(u[:, None] * v[None, :]))(left, right)


@eqx.filter_jit
def _forward(white: Whitened, matrix: Float[Array, "d1 d2"]) -> Float[Array, " k"]:
    return white.forward(matrix)


@eqx.filter_jit
def _adjoint(white: Whitened, weights: Float[Array, " k"]) -> Float[Array, "d1 d2"]:
    return white.adjoint(weights)


def _newton_step(
    J: np.ndarray, M: np.ndarray, gradient: np.ndarray, residual: np.ndarray, delta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve `(K (x) I + delta) d - J w = -gradient`, `J^T d + delta w = residual`, in the smaller of the two unknowns.

    `K (x) I` is the Hessian of the Lagrangian, `K = [[I, -M], [-M^T, I]]`.
    """
    d1 = M.shape[0]
    K = (1 + delta) * np.eye(sum(M.shape))
    K[:d1, d1:] -= M
    K[d1:, :d1] -= M.T
    size, measured = J.shape
    if size <= measured:
        system = J @ J.T / delta + np.kron(K, np.eye(size // len(K)))
        move = np.linalg.solve(system, J @ residual / delta - gradient)
        return move, (residual - move @ J) / delta
    inverse = np.linalg.inv(K)

    def solve_hessian(rows: np.ndarray) -> np.ndarray:
        return (inverse @ rows.reshape(len(K), -1)).reshape(rows.shape)

    solved = solve_hessian(J)
    system = J.T @ solved
    system[np.diag_indices_from(system)] += delta
    push = np.linalg.solve(system, residual + solved.T @ gradient)
    return solve_hessian(J @ push - gradient), push


def polish(
    op: Measured, targets: np.ndarray, matrix: np.ndarray, weights: np.ndarray, rank: int, delta: float = DELTA
) -> tuple[np.ndarray, np.ndarray] | None:
    """A few Newton steps on the factors of `matrix` and the multipliers `weights`.

    Args:
        op: orthonormal measurements Q.
        targets: c, scaled so that the solution has spectral norm about 1.
        matrix: the point to start from; its best approximation of rank `rank` is taken.
        weights: multipliers of the orthonormal measurements, `||Q*(u)||_op <= 1`.
        rank: the rank r.
        delta: weight of the proximal terms.

    Returns:
        The last point and multipliers whose stationarity and residual were smaller than before, or `None` if the
        first step did not reduce them. Cost a step: n = r (d1 + d2) forwards and a linear solve of size min(n, k).
    """
    U, s, Vt = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(s[:rank])
    left, right, u = U[:, :rank] * root, Vt[:rank].T * root, weights
    split = left.size
    best, best_error = None, math.inf
    for step in range(STEPS + 1):
        M = op.adjoint(u)
        gradient = np.concatenate([(left - M @ right).ravel(), (right - M.T @ left).ravel()])
        residual = targets - op.forward(left @ right.T)
        error = math.hypot(np.linalg.norm(gradient), np.linalg.norm(residual))
        if not error < best_error / 2:
            break
        best, best_error = (left @ right.T, u), error
        if error < 1e-15 or step == STEPS:
            break
        J = op.jacobian(left, right)
        try:
            move, push = _newton_step(J, M, gradient, residual, delta)
        except np.linalg.LinAlgError:
            break
        u = u + push
        left, right = left + move[:split].reshape(left.shape), right + move[split:].reshape(right.shape)
    return best
