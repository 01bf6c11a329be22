"""Primal-dual interior-point steps for small programmes of the nuclear norm, the symmetric one, or the trace.

With `M = Q*(u)` the dual is `max c.u - (ridge u).u / 2` over the u for which all of these are positive semidefinite:
`[[I, M], [M^T, I]]` for the nuclear norm, `I - M` and `I + M` for the symmetric one, `I - M` for the trace. Each is
`Z = I - sum_i u_i B_i`; the primal variable `Y` of the same size gives X back. Mehrotra's predictor and corrector in
the direction of Helmberg, Rendl, Vanderbei & Wolkowicz (1996), Kojima, Shindoh & Hara (1997) and Monteiro (1997): ten
to twenty steps whatever the conditioning, where a splitting may need a hundred thousand.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg

STEPS = 20
"""Steps that one solve is reckoned to take."""

TO_THE_EDGE = 0.98
"""Share of the way to the boundary of the cone."""

SHORT = 1e-6
"""Steps shorter than this lead nowhere."""

PATIENCE = 4
"""Steps without half the error, after which rounding is to blame."""


class Interior(NamedTuple):
    """A point, multipliers strictly inside their domain, the steps, and the rank that both agree on.

    The rank counts eigenvalues of Y above those of Z: at the central path their products are all equal, so the smaller
    of each pair is the one that vanishes.
    """

    matrix: np.ndarray
    weights: np.ndarray
    steps: int
    rank: int


def _lift(tensor: np.ndarray, *, symmetric: bool, one_sided: bool) -> list[np.ndarray]:
    """The `B_i` of each block, shape (k, n, n)."""
    if symmetric:
        B = (tensor + tensor.transpose(0, 2, 1)) / 2
        return [B] if one_sided else [B, -B]
    k, d1, d2 = tensor.shape
    B = np.zeros((k, d1 + d2, d1 + d2))
    B[:, :d1, d1:], B[:, d1:, :d1] = tensor, tensor.transpose(0, 2, 1)
    return [B]


class Cost(NamedTuple):
    """What `interior_point` would take: entries of its largest array, and floating-point operations in all."""

    entries: float
    operations: float


def cost(count: int, shape: tuple[int, int], *, symmetric: bool, one_sided: bool) -> Cost:
    """Reckon the cost of `interior_point` for k = count measurements."""
    n, blocks = (shape[0], 1 if one_sided else 2) if symmetric else (sum(shape), 1)
    return Cost(blocks * count * n**2, STEPS * (blocks * (4.0 * count * n**3 + 2.0 * count**2 * n**2) + count**3 / 3))


def interior_point(
    tensor: np.ndarray,
    targets: np.ndarray,
    *,
    symmetric: bool,
    one_sided: bool,
    tolerance: float,
    max_steps: int,
    ridge: np.ndarray | None = None,
) -> Interior:
    """Follow the central path until the relative gap is below the tolerance, or no step is left.

    Args:
        tensor: orthonormal measurements Q, shape (k, d1, d2).
        targets: c, shape (k,), of size about one.
        symmetric: whether X is symmetric.
        one_sided: whether X is positive semidefinite too.
        tolerance: the relative gap to reach.
        max_steps: the limit.
        ridge: positive weights of `u_i^2 / 2` in the dual: a squared loss in place of an exact fit.

    Returns:
        The point and the multipliers. Memory 3 k n^2, `n = d1 + d2` (d where X is symmetric, twice where it may have
        both signs); a step costs `4 k n^3 + 2 k^2 n^2 + k^3 / 3`.
    """
    path = _Path(tensor, targets, ridge, symmetric=symmetric, one_sided=one_sided)
    best, best_error, steps, idle = path.point, np.inf, 0, 0
    while True:
        error = path.error()
        idle = 0 if error < best_error / 2 else idle + 1
        if error < best_error:
            best, best_error = path.point, error
        if error <= tolerance or idle > PATIENCE or steps >= max_steps or not path.step():
            break
        steps += 1
    Y, u = best
    d1, d2 = tensor.shape[1:]
    matrix = (Y[0] if one_sided else Y[0] - Y[1]) if symmetric else 2 * Y[0][:d1, d1 : d1 + d2]
    kept = [np.linalg.eigvalsh(y)[::-1] > np.linalg.eigvalsh(z) for y, z in zip(Y, path.slack(u), strict=True)]
    return Interior(matrix, u, steps, int(sum(map(np.sum, kept))))


class _Path:
    """The iterate: Y positive definite, u strictly inside the dual domain, and the slacks Z that follow from u."""

    def __init__(
        self, tensor: np.ndarray, targets: np.ndarray, ridge: np.ndarray | None, *, symmetric: bool, one_sided: bool
    ):
        self.blocks = _lift(tensor, symmetric=symmetric, one_sided=one_sided)
        self.flat = [B.reshape(len(B), -1) for B in self.blocks]
        self.targets, self.ridge = targets, ridge
        self.size = self.blocks[0].shape[1]
        self.Y = [max(1.0, float(np.linalg.norm(targets))) * np.eye(self.size) for _ in self.blocks]
        self.u = np.zeros(len(targets))
        self.Z = self.slack(self.u)

    @property
    def point(self) -> tuple[list[np.ndarray], np.ndarray]:
        return self.Y, self.u

    def slack(self, weights: np.ndarray) -> list[np.ndarray]:
        """Z."""
        return [np.eye(self.size) - (weights @ B).reshape(self.size, -1) for B in self.flat]

    def _seen(self, parts: list[np.ndarray]) -> np.ndarray:
        return sum((B @ part.ravel() for B, part in zip(self.flat, parts, strict=True)), np.zeros(len(self.targets)))

    def _centrality(self, Y: list[np.ndarray], Z: list[np.ndarray]) -> float:
        return float(sum(np.vdot(y, z) for y, z in zip(Y, Z, strict=True))) / (self.size * len(Y))

    def error(self) -> float:
        """The relative gap, or the relative residual of an exact fit if that is larger."""
        value = float(sum(np.trace(y) for y in self.Y))
        miss = self._seen(self.Y) - self.targets
        if self.ridge is None:
            gap = self._centrality(self.Y, self.Z) * self.size * len(self.Y) / value
            return max(gap, float(np.linalg.norm(miss) / np.linalg.norm(self.targets)))
        value += float(miss**2 @ (0.5 / self.ridge))
        return abs(value - float(self.targets @ self.u - self.ridge @ self.u**2 / 2)) / value

    def step(self) -> bool:
        """One predictor and corrector; False where rounding leaves none."""
        try:
            W = [_inverse(z) for z in self.Z]
            system = np.diag(np.zeros_like(self.targets) if self.ridge is None else self.ridge)
            for B, flat, y, w in zip(self.blocks, self.flat, self.Y, W, strict=True):
                system = system + flat @ np.matmul(w @ B, y).reshape(len(B), -1).T
            system = _sym(system)
            factor = scipy.linalg.cho_factor(system, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return False
        held = self.targets if self.ridge is None else self.targets - self.ridge * self.u

        def direction(wanted: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
            """The move with `Y + dY + sym(Y dZ W) = wanted`."""
            rhs = held - self._seen(wanted)
            du = scipy.linalg.cho_solve(factor, rhs, check_finite=False)
            du += scipy.linalg.cho_solve(factor, rhs - system @ du, check_finite=False)
            dZ = [-(du @ B).reshape(self.size, -1) for B in self.flat]
            dY = [r - y - _sym(y @ dz @ w) for r, y, dz, w in zip(wanted, self.Y, dZ, W, strict=True)]
            return du, dY, dZ

        _, dY, dZ = direction([np.zeros_like(y) for y in self.Y])
        primal, dual = _reach(self.Y, dY), _reach(self.Z, dZ)
        ahead = self._centrality(_moved(self.Y, primal, dY), _moved(self.Z, dual, dZ))
        mu = self._centrality(self.Y, self.Z)
        centre = mu * min(1.0, max(ahead / mu, 0.0)) ** 3
        du, dY, dZ = direction([centre * w - _sym(dy @ dz @ w) for w, dy, dz in zip(W, dY, dZ, strict=True)])
        primal, dual = _reach(self.Y, dY), _reach(self.Z, dZ)
        if not max(primal, dual) > SHORT:
            return False
        self.Y, self.u = _moved(self.Y, primal, dY), self.u + dual * du
        self.Z = self.slack(self.u)
        return True


def _moved(parts: list[np.ndarray], length: float, moves: list[np.ndarray]) -> list[np.ndarray]:
    return [part + length * move for part, move in zip(parts, moves, strict=True)]


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """By Cholesky: symmetric, and accurate in the directions that matter where the matrix is nearly singular."""
    half = scipy.linalg.solve_triangular(
        np.linalg.cholesky(matrix), np.eye(len(matrix)), lower=True, check_finite=False
    )
    return half.T @ half


def _sym(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _reach(parts: list[np.ndarray], moves: list[np.ndarray]) -> float:
    """The largest step up to 1 that keeps positive definite matrices so; 0 where rounding made them indefinite."""
    length = 1.0
    for part, move in zip(parts, moves, strict=True):
        try:
            lower = np.linalg.cholesky(part)
        except np.linalg.LinAlgError:
            return 0.0
        half = scipy.linalg.solve_triangular(lower, move, lower=True, check_finite=False)
        whole = scipy.linalg.solve_triangular(lower, half.T, lower=True, check_finite=False)
        least = float(np.linalg.eigvalsh(_sym(whole))[0])
        length = min(length, -TO_THE_EDGE / least) if least < 0 else length
    return length
