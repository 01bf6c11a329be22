"""Douglas-Rachford splitting on the host, for one small instance among many of different sizes: nothing is compiled.

The same iteration as `douglas_rachford.py`, for an exact fit.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg

from flatmin.solvers._factors import Tangent, multipliers
from flatmin.solvers._gauges import Gauge
from flatmin.solvers._host import DenseMap, EntryMap, HostMap, RankOneMap, WeightedMap
from flatmin.solvers._splitting import BLOCK, FIRST_STEP, RELAXATION, SETTLE, SMALLEST_STEP

UNDERCUT = 1e-6
"""How far below the given value, relatively, a feasible point must be to refute it."""

FITS = 5e-11
"""Relative residual of a point of the cone that counts as feasible."""

TRY_DUAL = 5
"""Blocks between two attempts to finish from the multipliers at hand."""


class White(NamedTuple):
    """Orthonormal measurements: `Q` as rows, or the places of the entries seen."""

    rows: np.ndarray | None
    places: np.ndarray | None
    back: np.ndarray
    targets: np.ndarray
    shape: tuple[int, int]

    def forward(self, matrix: np.ndarray) -> np.ndarray:
        flat = matrix.reshape(-1)
        return flat[self.places] if self.rows is None else self.rows @ flat

    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        if self.rows is not None:
            return (weights @ self.rows).reshape(self.shape)
        flat = np.zeros(self.shape[0] * self.shape[1])
        flat[self.places] = weights
        return flat.reshape(self.shape)

    def tensor(self) -> np.ndarray:
        """Q, shape (k, d1, d2)."""
        flat = np.eye(self.shape[0] * self.shape[1])[self.places] if self.rows is None else self.rows
        return flat.reshape(-1, *self.shape)

    def multipliers(self, weights: np.ndarray) -> np.ndarray:
        return self.back * weights if self.back.ndim == 1 else self.back @ weights


def as_tensor(op: HostMap, count: int) -> np.ndarray:
    """The `count` measurements as one array."""
    match op:
        case DenseMap():
            return op.tensor
        case RankOneMap():
            return op.a[:, :, None] * op.b[:, None]
        case WeightedMap():
            inner = as_tensor(op.inner, count)
            left, right = (np.diag(f) if f.ndim == 1 else f for f in (op.P, op.Q))
            return np.matmul(left, inner @ right)
        case _:  # entries
            return np.stack([op.adjoint(unit) for unit in np.eye(count)])


def whiten(op: HostMap, targets: np.ndarray, shape: tuple[int, int]) -> White | None:
    """Orthonormal measurements, or None where the measurements depend on each other."""
    if isinstance(op, EntryMap):
        return White(None, op.rows * shape[1] + op.cols, 1 / op.weights, targets / op.weights, shape)
    flat = as_tensor(op, targets.size).reshape(targets.size, -1)
    if flat.shape[0] > flat.shape[1]:
        return None
    try:
        lower = np.linalg.cholesky(flat @ flat.T)
    except np.linalg.LinAlgError:
        return None
    if np.diagonal(lower).min() < 1e-6 * np.diagonal(lower).max():
        return None
    inverse = scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True)
    return White(inverse @ flat, None, inverse.T, inverse @ targets, shape)


class Found(NamedTuple):
    """A feasible point, multipliers of A, the iterations, and whether the point undercuts the value given."""

    matrix: np.ndarray
    dual: np.ndarray
    iterations: int
    undercut: bool


def split(
    op: HostMap,
    white: White,
    gauge: Gauge,
    *,
    tolerance: float,
    max_iterations: int,
    below: float | None = None,
    interpolant: Tangent | None = None,
) -> Found:
    """Iterate until the gap closes, the limit is reached, or a feasible point undercuts `below`.

    Args:
        op: the measurements.
        white: the same, orthonormal.
        gauge: the gauge.
        tolerance: the relative gap to reach.
        max_iterations: the limit.
        below: a value to refute.
        interpolant: a feasible point of low rank; its multipliers are tried now and then.

    Returns:
        The best point and multipliers.
    """
    nearest = white.adjoint(white.targets)
    scale = float(gauge.size(nearest))
    c = white.targets / scale
    Z, step = nearest / scale, FIRST_STEP
    best, primal = Z, gauge.strict_value(Z)
    dual, bound = np.zeros_like(c), 0.0
    if interpolant is not None:
        known = interpolant.left @ interpolant.right.T / scale
        value = gauge.strict_value(known)
        if value < primal:
            best, primal = known, value
    undercut = below is not None and primal * scale < below * (1 - UNDERCUT)
    # with nothing feasible at hand the value is infinite, and nothing is closed
    closed = np.isfinite(primal) and primal - bound <= tolerance * primal
    done, next_step = 0, step
    X, P, subgradient, residual = Z, Z, Z, c
    while not undercut and done < max_iterations and not closed:
        for _ in range(BLOCK):
            X, _ = gauge.prox(Z, step)
            subgradient = (Z - X) / step
            Z = X + next_step * subgradient
            step = next_step
            residual = white.forward(2 * X - Z) - c
            P = 2 * X - Z - white.adjoint(residual)
            Z = Z + RELAXATION * (P - X)
        done += BLOCK
        if gauge.one_sided:
            # no projection keeps both the fit and the cone: X is in the cone, and its fit must have converged
            best, primal = X, gauge.strict_value(X)
            fits = np.linalg.norm(white.forward(X) - c) <= FITS * np.linalg.norm(c)
        else:
            feasible = X - white.adjoint(white.forward(X) - c)
            value, fits = gauge.strict_value(feasible), True
            if value < primal:
                best, primal = feasible, value
        undercut = bool(fits) and below is not None and primal * scale < below * (1 - UNDERCUT)
        weights = -residual / step
        weights = weights / max(1.0, float(gauge.polar(white.adjoint(weights))))
        if c @ weights > bound:
            dual, bound = weights, float(c @ weights)
        closed = fits and abs(primal - bound) <= tolerance * primal
        in_primal = np.linalg.norm(P - X) / max(np.linalg.norm(X), 1e-300)
        outside = np.linalg.norm(subgradient - white.adjoint(white.forward(subgradient)))
        freedom = 1 / (1 + done / (BLOCK * SETTLE)) ** 2
        ratio = np.clip(np.sqrt(outside / np.linalg.norm(subgradient) / max(in_primal, 1e-300)), 0.5, 2.0) ** freedom
        next_step = max(step * float(ratio), SMALLEST_STEP)
        if interpolant is not None and not undercut and done % (TRY_DUAL * BLOCK) == 0:
            y = multipliers(interpolant, one_sided=gauge.one_sided, start=white.multipliers(dual))
            if y is not None:
                return Found(interpolant.left @ interpolant.right.T, y, done, undercut=False)
    return Found(best * scale, white.multipliers(dual), done, undercut)
