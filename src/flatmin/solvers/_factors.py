"""Low-rank interpolation by Gauss-Newton, rank by rank, and the multipliers that may prove it optimal.

If a matrix of low rank fits, it is usually the minimiser of the nuclear norm too; then `A*(y) = U V^T` on its tangent
space and `||A*(y)||_op <= 1`. The least-norm y with the first property is tried, and moved inside the second where it
is outside. Whatever comes out is judged by the certificate alone.
"""

import numpy as np
import scipy.linalg

from flatmin.solvers._host import HostMap

FITTED = 1e-14
"""Relative residual that is rounding."""

STEPS_PER_RANK = 25
"""Most Gauss-Newton steps at one rank."""

SLOW = 0.7
"""A residual that shrinks by less, twice running, asks for another rank."""

NEARLY_FITTED = 1e-12
"""Relative residual that counts as rounding once no step lowers it."""

REPAIRS = 60
"""Most steps that move multipliers into the unit ball."""

MARGIN, INSIDE = 0.97, 0.9999
"""Singular values of `A*(y)` off the tangent space are pushed below the first, until all are below the second."""

OVERSHOOT = 1.8
"""Share of the best length of a gradient step, for an excess that shrinks in all directions at once."""

OUT_OF_REACH = 2.5
"""Multipliers this far outside are not repaired."""

MAX_UNKNOWNS = 2500
"""Largest normal matrix."""


class Tangent:
    """Moves of the factors of `X = L R^T`, or of `X = L diag(signs) L^T` where X is symmetric.

    A move v is dL (and dR) row by row, and changes `A(X)` by `J v`.
    """

    def __init__(self, op: HostMap, left: np.ndarray, signs: np.ndarray | None, right: np.ndarray):
        self.op, self.left, self.right, self.signs = op, left, right, signs

    def normal(self) -> np.ndarray:
        """`J^T J`."""
        system = self.op.normal(self.left, self.right)
        if self.signs is None:
            return system
        n, s = self.left.size, np.tile(self.signs, len(self.left))
        cross = system[:n, n:] * s
        return system[:n, :n] + cross + cross.T + s[:, None] * system[n:, n:] * s

    def pull(self, weights: np.ndarray) -> np.ndarray:
        """`J^T y`."""
        G = self.op.adjoint(weights)
        if self.signs is None:
            return np.concatenate([(G @ self.right).ravel(), (G.T @ self.left).ravel()])
        return (2 * (G @ self.right)).ravel()

    def split(self, move: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """DL and dR."""
        dL = move[: self.left.size].reshape(self.left.shape)
        return dL, dL * self.signs if self.signs is not None else move[self.left.size :].reshape(self.right.shape)

    def push(self, move: np.ndarray) -> np.ndarray:
        """`J v`."""
        dL, dR = self.split(move)
        return self.op.product(np.hstack([dL, self.left]), np.hstack([self.right, dR]))

    def subgradient(self) -> np.ndarray:
        """What `J^T y` is where `A*(y)` is a subgradient of the norm at balanced factors."""
        if self.signs is None:
            return np.concatenate([self.left.ravel(), self.right.ravel()])
        return 2 * self.left.ravel()


def _damped(system: np.ndarray, damping: float) -> tuple[np.ndarray, bool]:
    damped = system.copy()
    damped[np.diag_indices_from(damped)] += damping * np.trace(system) / len(system)
    return scipy.linalg.cho_factor(damped, lower=True, check_finite=False)[0], True


def balanced(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`L R^T = L' R'^T` with `L' = U S^{1/2}`, `R' = V S^{1/2}`, and S."""
    first, upper = np.linalg.qr(left)
    second, other = np.linalg.qr(right)
    U, s, Vt = np.linalg.svd(upper @ other.T)
    root = np.sqrt(s)
    return first @ U * root, second @ Vt.T * root, s


def _balanced_symmetric(left: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    basis, upper = np.linalg.qr(left)
    values, vectors = np.linalg.eigh((upper * signs) @ upper.T)
    order = np.argsort(-np.abs(values))
    values = values[order]
    return basis @ vectors[:, order] * np.sqrt(np.abs(values)), np.sign(values), np.abs(values)


def _widen(
    op: HostMap, left: np.ndarray, right: np.ndarray, signs: np.ndarray | None, miss: np.ndarray, one_sided: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """One more column in each factor: the leading singular pair of `A*(miss)`, with the best length."""
    G = op.adjoint(miss)
    if signs is None:
        U, s, Vt = np.linalg.svd(G)
        u, v, slope = U[:, :1], Vt[:1].T, s[0]
    else:
        d = len(G)
        # for A_i = x_i x_i^T the mean of A*(A(X)) is a multiple of 2 X + tr(X) I
        values, vectors = np.linalg.eigh(G - np.trace(G) / (d + 2) * np.eye(d))
        at = int(np.argmax(values if one_sided else np.abs(values)))
        sign = 1.0 if values[at] >= 0 or one_sided else -1.0
        u = vectors[:, at : at + 1]
        v, slope, signs = u * sign, abs(float(u[:, 0] @ G @ u[:, 0])), np.append(signs, sign)
    seen = op.product(u, v)
    length = np.sqrt(slope / max(float(seen @ seen), np.finfo(float).tiny))
    return np.hstack([left, u * length]), np.hstack([right, v * length]), signs


def interpolate(
    op: HostMap,
    targets: np.ndarray,
    shape: tuple[int, int],
    max_rank: int,
    *,
    symmetric: bool = False,
    one_sided: bool = False,
) -> tuple[Tangent, int] | None:
    """A matrix of small rank with `A(X) = b`, as balanced factors.

    Args:
        op: the measurements.
        targets: b.
        shape: (d1, d2).
        max_rank: give up above it.
        symmetric: whether X is symmetric.
        one_sided: whether X is positive semidefinite too.

    Returns:
        The factors with their tangent space, and the number of steps; or None.
    """
    size = np.linalg.norm(targets)
    left, right, miss = np.zeros((shape[0], 0)), np.zeros((shape[1], 0)), targets
    signs = np.zeros(0) if symmetric else None
    steps = 0
    for _ in range(max_rank):
        left, right, signs = _widen(op, left, right, signs, miss, one_sided)
        if left.shape[1] * (shape[0] if symmetric else sum(shape)) > MAX_UNKNOWNS:
            return None
        miss = targets - op.product(left, right)
        error, damping, slow, worse = np.linalg.norm(miss), 1e-2, 0, 0
        for _ in range(STEPS_PER_RANK):
            steps += 1
            tangent = Tangent(op, left, signs, right)
            if error <= FITTED * size or (worse and error <= NEARLY_FITTED * size):
                return _finished(op, left, right, signs), steps
            try:
                factor = _damped(tangent.normal(), damping)
            except np.linalg.LinAlgError:
                damping = max(100 * damping, 1e-12)
                continue
            dL, dR = tangent.split(scipy.linalg.cho_solve(factor, tangent.pull(miss)))
            trial = targets - op.product(left + dL, right + dR)
            new = np.linalg.norm(trial)
            if not new < error:
                damping = max(10 * damping, 1e-8)
                worse += 1
                if worse > 2:
                    break
                continue
            left, right, miss = left + dL, right + dR, trial
            slow = slow + 1 if new > SLOW * error else 0
            damping = max(damping * min(0.1, float(new / error) ** 2), 1e-13)
            error = new
            if slow >= 2:
                break
    return None


def _finished(op: HostMap, left: np.ndarray, right: np.ndarray, signs: np.ndarray | None) -> Tangent:
    if signs is None:
        left, right, _ = balanced(left, right)
        return Tangent(op, left, None, right)
    left, signs, _ = _balanced_symmetric(left, signs)
    return Tangent(op, left, signs, left * signs)


def multipliers(tangent: Tangent, *, one_sided: bool = False, start: np.ndarray | None = None) -> np.ndarray | None:
    """Y with `A*(y) R = L`, `A*(y)^T L = R` and, if it can be had, `||A*(y)||_op <= 1`.

    Args:
        tangent: balanced factors `L = U S^{1/2}`, `R = V S^{1/2}`.
        one_sided: only the largest eigenvalue of a symmetric `A*(y)` is bounded.
        start: y near which to look, without repairs; default 0.

    Returns:
        The multipliers, or None if they stay outside.
    """
    op, left, right = tangent.op, tangent.left, tangent.right
    try:
        factor = _damped(tangent.normal(), 1e-13)
    except np.linalg.LinAlgError:
        return None

    def into_range(y: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The nearest y with `J^T y = wanted`."""
        for _ in range(3):
            y = y + tangent.push(scipy.linalg.cho_solve(factor, wanted - tangent.pull(y)))
        return y

    wanted = tangent.subgradient()
    y = into_range(np.zeros_like(op.product(left, right)) if start is None else start, wanted)
    U, V = left / np.linalg.norm(left, axis=0), right / np.linalg.norm(right, axis=0)
    for _ in range(REPAIRS if start is None else 1):
        M = op.adjoint(y)
        off = M - U @ (U.T @ M)
        off = off - (off @ V) @ V.T
        if one_sided:
            values, vectors = np.linalg.eigh((off + off.T) / 2)
            largest, excess = values[-1], (vectors * np.maximum(values - MARGIN, 0)) @ vectors.T
        else:
            P, s, Qt = np.linalg.svd(off)
            count = s.size
            largest, excess = s[0], (P[:, :count] * np.maximum(s - MARGIN, 0)) @ Qt[:count]
        if largest <= INSIDE:
            return y
        if not largest < OUT_OF_REACH:
            return None
        slope = into_range(op.forward(excess), np.zeros_like(wanted))
        y = y - OVERSHOOT * (slope @ slope) / np.sum(op.adjoint(slope) ** 2) * slope
    return None
