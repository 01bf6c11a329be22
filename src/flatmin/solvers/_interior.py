"""Primal-dual interior-point steps for small programmes of the nuclear norm, the symmetric one, or the trace.

With `M = Q*(u)` the dual is `max c.u - (ridge u).u / 2` over the u for which all of these are positive semidefinite:
`[[I, M], [M^T, I]]` for the nuclear norm, `I - M` and `I + M` for the symmetric one, `I - M` for the trace. Each is
`Z = I - sum_i u_i B_i`; the primal variable `Y` of the same size gives X back. Linear inequalities `G u <= g` with
multipliers `v >= 0` may stand beside them: the bounds of an l1 misfit. Mehrotra's predictor and corrector in
the direction of Helmberg, Rendl, Vanderbei & Wolkowicz (1996), Kojima, Shindoh & Hara (1997) and Monteiro (1997): ten
to twenty steps whatever the conditioning, where a splitting may need a hundred thousand.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse

STEPS = 20
"""Steps that one solve is reckoned to take."""

TO_THE_EDGE = 0.98
"""Share of the way to the boundary of the cone."""

SHORT = 1e-6
"""Steps shorter than this lead nowhere."""

PATIENCE, CLOSE, FIRST_PATIENCE = 4, 1e-8, 20
"""Steps that may pass until the error has halved again, once it is below the second, and before.

After more, rounding is to blame. Where few positive definite matrices fit, or none, steps are short for long.
"""

ROOMY = 1000.0, 100.0
"""A positive semidefinite Y starts so many times as large as what fits: a thin cone has its edge near.

The second is for a second try, by another way, where rounding ended the first.
"""

JITTER = 1e-14
"""Share of the mean diagonal that is added to a system which rounding made indefinite."""


class Interior(NamedTuple):
    """A point, multipliers strictly inside their domain, the steps, and the rank that both agree on.

    The rank counts eigenvalues of Y above those of Z: at the central path their products are all equal, so the smaller
    of each pair is the one that vanishes. So do the inequalities: `active` are those with the larger multiplier.
    """

    matrix: np.ndarray
    weights: np.ndarray
    steps: int
    rank: int
    active: np.ndarray


def _lift(tensor: np.ndarray, *, symmetric: bool, one_sided: bool) -> list[np.ndarray]:
    """The `B_i` of each block, shape (k, n, n)."""
    if symmetric:
        B = (tensor + tensor.transpose(0, 2, 1)) / 2
        return [B] if one_sided else [B, -B]
    k, d1, d2 = tensor.shape
    B = np.zeros((k, d1 + d2, d1 + d2))
    B[:, :d1, d1:], B[:, d1:, :d1] = tensor, tensor.transpose(0, 2, 1)
    return [B]


class Linear(NamedTuple):
    """`G u <= g`.

    Attributes:
        rows: G, sparse, shape (l, k).
        bounds: g, shape (l,).
        start: a u with `G u < g` inside the other domains, shape (k,).
    """

    rows: scipy.sparse.csr_array
    bounds: np.ndarray
    start: np.ndarray


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
    linear: Linear | None = None,
    roomy: float = ROOMY[0],
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
        linear: further inequalities of the dual.
        roomy: how large Y starts if X is positive semidefinite; 1 is about the size of X.

    Returns:
        The point and the multipliers. Memory 3 k n^2, `n = d1 + d2` (d where X is symmetric, twice where it may have
        both signs); a step costs `4 k n^3 + 2 k^2 n^2 + k^3 / 3`.
    """
    size = (roomy if one_sided else 1) * starting_size(targets)
    path = _Path(tensor, targets, ridge, linear, size, symmetric=symmetric, one_sided=one_sided)
    best, best_error, steps, mark, idle = path.point, np.inf, 0, np.inf, 0
    while True:
        error = path.error()
        mark, idle = (error, 0) if error < mark / 2 else (mark, idle + 1)
        if error < best_error:
            best, best_error = path.point, error
        patience = PATIENCE if best_error < CLOSE else FIRST_PATIENCE
        if error <= tolerance or idle > patience or steps >= max_steps or not path.step():
            break
        steps += 1
    Y, u, active = best
    d1, d2 = tensor.shape[1:]
    matrix = (Y[0] if one_sided else Y[0] - Y[1]) if symmetric else 2 * Y[0][:d1, d1 : d1 + d2]
    kept = [np.linalg.eigvalsh(y)[::-1] > np.linalg.eigvalsh(z) for y, z in zip(Y, path.slack(u), strict=True)]
    return Interior(matrix, u, steps, int(sum(map(np.sum, kept))), active)


def starting_size(targets: np.ndarray) -> float:
    """About the size of what fits, where the measurements are of size one."""
    return max(1.0, float(np.linalg.norm(targets)))


class _Path:
    """The iterate: Y positive definite, u strictly inside the dual domain, and the slacks Z that follow from u."""

    def __init__(
        self,
        tensor: np.ndarray,
        targets: np.ndarray,
        ridge: np.ndarray | None,
        linear: Linear | None,
        start: float,
        *,
        symmetric: bool,
        one_sided: bool,
    ):
        self.blocks = _lift(tensor, symmetric=symmetric, one_sided=one_sided)
        self.flat = [B.reshape(len(B), -1) for B in self.blocks]
        self.targets, self.ridge = targets, ridge
        self.size = self.blocks[0].shape[1]
        self.Y = [start * np.eye(self.size) for _ in self.blocks]
        if linear is None:
            none = scipy.sparse.csr_array((0, len(targets)))
            linear = Linear(none, np.zeros(0), np.zeros(len(targets)))
        self.linear, self.u = linear, linear.start
        self.Z, self.z = self.slack(self.u), self.room(self.u)
        self.v = self.Y[0][0, 0] / self.z

    @property
    def point(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        return self.Y, self.u, self.v > self.z

    def slack(self, weights: np.ndarray) -> list[np.ndarray]:
        """Z."""
        return [np.eye(self.size) - (weights @ B).reshape(self.size, -1) for B in self.flat]

    def room(self, weights: np.ndarray) -> np.ndarray:
        """Z of the inequalities, `z = g - G u`."""
        return self.linear.bounds - self.linear.rows @ weights

    def _seen(self, parts: list[np.ndarray], multipliers: np.ndarray) -> np.ndarray:
        return sum((B @ part.ravel() for B, part in zip(self.flat, parts, strict=True)), multipliers @ self.linear.rows)

    def _centrality(self, Y: list[np.ndarray], Z: list[np.ndarray], v: np.ndarray, z: np.ndarray) -> float:
        products = sum(float(np.vdot(y, slack)) for y, slack in zip(Y, Z, strict=True)) + float(v @ z)
        return products / (self.size * len(Y) + len(v))

    def error(self) -> float:
        """The relative gap, or the relative residual of an exact fit if that is larger."""
        value = float(sum(np.trace(y) for y in self.Y) + self.linear.bounds @ self.v)
        miss = self._seen(self.Y, self.v) - self.targets
        if self.ridge is None:
            products = self._centrality(self.Y, self.Z, self.v, self.z) * (self.size * len(self.Y) + len(self.v))
            gap = products / value
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
            if len(self.z):
                rows = self.linear.rows
                system = system + (rows.T @ rows.multiply((self.v / self.z)[:, None])).toarray()
            system = _sym(system)
            factor = _factor(system)
        except np.linalg.LinAlgError:
            return False
        held = self.targets if self.ridge is None else self.targets - self.ridge * self.u

        def direction(wanted: list[np.ndarray], aims: np.ndarray) -> _Move:
            """The move with `Y + dY + sym(Y dZ W) = wanted` and `v + dv + v dz / z = aims`."""
            rhs = held - self._seen(wanted, aims)
            du = scipy.linalg.cho_solve(factor, rhs, check_finite=False)
            du += scipy.linalg.cho_solve(factor, rhs - system @ du, check_finite=False)
            dZ = [-(du @ B).reshape(self.size, -1) for B in self.flat]
            dY = [r - y - _sym(y @ dz @ w) for r, y, dz, w in zip(wanted, self.Y, dZ, W, strict=True)]
            dz = -(self.linear.rows @ du)
            return _Move(du, dY, dZ, aims - self.v - self.v * dz / self.z, dz)

        move = direction([np.zeros_like(y) for y in self.Y], np.zeros_like(self.v))
        primal, dual = self._lengths(move)
        ahead = self._centrality(
            _moved(self.Y, primal, move.primal),
            _moved(self.Z, dual, move.slack),
            self.v + primal * move.dv,
            self.z + dual * move.dz,
        )
        mu = self._centrality(self.Y, self.Z, self.v, self.z)
        centre = mu * min(1.0, max(ahead / mu, 0.0)) ** 3
        wanted = [centre * w - _sym(dy @ dz @ w) for w, dy, dz in zip(W, move.primal, move.slack, strict=True)]
        move = direction(wanted, (centre - move.dv * move.dz) / self.z)
        primal, dual = self._lengths(move)
        if not max(primal, dual) > SHORT:
            return False
        self.Y, self.u, self.v = _moved(self.Y, primal, move.primal), self.u + dual * move.du, self.v + primal * move.dv
        self.Z, self.z = self.slack(self.u), self.room(self.u)
        return True

    def _lengths(self, move: "_Move") -> tuple[float, float]:
        """The largest steps of (Y, v) and of (Z, z)."""
        primal = min(_reach(self.Y, move.primal), _reach_linear(self.v, move.dv))
        return primal, min(_reach(self.Z, move.slack), _reach_linear(self.z, move.dz))


class _Move(NamedTuple):
    du: np.ndarray
    primal: list[np.ndarray]
    slack: list[np.ndarray]
    dv: np.ndarray
    dz: np.ndarray


def _moved(parts: list[np.ndarray], length: float, moves: list[np.ndarray]) -> list[np.ndarray]:
    return [part + length * move for part, move in zip(parts, moves, strict=True)]


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """By Cholesky: symmetric, and accurate in the directions that matter where the matrix is nearly singular."""
    half = scipy.linalg.solve_triangular(
        np.linalg.cholesky(matrix), np.eye(len(matrix)), lower=True, check_finite=False
    )
    return half.T @ half


def _factor(system: np.ndarray) -> tuple[np.ndarray, bool]:
    """Cholesky's; of a slightly larger matrix where rounding left none."""
    try:
        return scipy.linalg.cho_factor(system, lower=True, check_finite=False)[0], True
    except np.linalg.LinAlgError:
        lifted = system + JITTER * np.trace(system) / len(system) * np.eye(len(system))
        return scipy.linalg.cho_factor(lifted, lower=True, check_finite=False)[0], True


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


def _reach_linear(values: np.ndarray, moves: np.ndarray) -> float:
    """The largest step up to 1 that keeps positive numbers so; 0 where rounding made one negative."""
    if not np.all(values > 0):
        return 0.0
    shrinking = moves < 0
    return min(1.0, TO_THE_EDGE * float(np.min(values[shrinking] / -moves[shrinking], initial=np.inf)))
