"""An upper bound of the spectral norm of a sparse matrix that holds with a stated probability.

Lanczos converges to the largest singular value from below, so by itself it certifies nothing. Started at a vector
drawn uniformly from the sphere, k steps on a positive semidefinite n x n matrix miss its largest eigenvalue by more
than a fraction eps with probability at most `1.648 sqrt(n) exp(-(2k - 1) sqrt(eps))` [Kuczynski & Wozniakowski 1992,
Thm 4.2]. That bound is crude in eps, but where it is spent is free: the leading singular directions are known from the
solution, are split off exactly, and only the remainder W, well below them, is bounded so:

    || [A B; C W] || <= || [||A|| ||B||; ||C|| ||W||] ||,   A = U^T G V,  B = U^T G (I - VV^T),  C = (I - UU^T) G V.

Errors in U and V enter squared.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from scipy import sparse

from flatmin._core import Real, UsageError, checked

DENSE = 160_000
"""Matrices with at most this many cells are decomposed whole."""

CHECK_EVERY = 10
MAX_STEPS = 300
NEAR = 0.97
"""A remainder bounded by this fraction of the level needs no more steps."""

HALF = 0.5
"""Relative error of the bound before a run may end with directions found instead of a bound."""

MOST_ADDED = 24
"""Directions handed back for growth at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralBound:
    """What is known of `||G||`.

    Attributes:
        upper: at least `||G||`, but for `failure_probability` and rounding.
        lower: at most `||G||`.
        failure_probability: over the random start; 0 where the matrix was decomposed whole.
        steps: Lanczos steps.
        method: how it was obtained, in a sentence.
        values: singular values found beside U and V above the level, descending.
        left: their left directions, shape (d1, number).
        right: their right directions, shape (d2, number).
    """

    upper: float
    lower: float
    failure_probability: float
    steps: int
    method: str
    values: Float[np.ndarray, " number"]
    left: Float[np.ndarray, "d1 number"]
    right: Float[np.ndarray, "d2 number"]


@checked(level=Real(0))
def spectral_bound(
    matrix: sparse.csr_array,
    transpose: sparse.csr_array,
    left: Float[np.ndarray, "d1 k"],
    right: Float[np.ndarray, "d2 k"],
    *,
    level: float,
    rng: np.random.Generator,
    failure_probability: float = 1e-10,
) -> SpectralBound:
    """Bound `||G||` from above.

    Args:
        matrix: G, shape (d1, d2), by rows.
        transpose: G^T by rows.
        left: U, orthonormal columns near the leading left singular vectors; may have none.
        right: V, the same for the right.
        level: what the norm is compared with: steps are spent until the bound is clear on that scale.
        rng: draws the start.
        failure_probability: of the bound, in exact arithmetic, over the draw.

    Returns:
        The bound. `values` are singular values of the remainder above `level`: directions that U and V lack.

    Cost: at most 600 Lanczos steps of two sparse products each, memory 300 vectors of length d2.
    """
    d1, d2 = matrix.shape  # pyright: ignore[reportGeneralTypeIssues, reportAssignmentType]
    for name, got, expected in (
        ("transpose", transpose.shape, (d2, d1)),
        ("left", left.shape, (d1, left.shape[1])),
        ("right", right.shape, (d2, left.shape[1])),
    ):
        if got != expected:
            raise UsageError(f"{name}: got shape {got}, expected {expected} beside a matrix of shape {(d1, d2)}")
    if math.prod(matrix.shape) <= DENSE:  # pyright: ignore[reportCallIssue, reportArgumentType]
        return _dense(matrix, left, right, level)
    if left.shape[0] < right.shape[0]:  # the basis of Lanczos lives on the shorter side
        turned = spectral_bound(
            transpose, matrix, right, left, level=level, rng=rng, failure_probability=failure_probability
        )
        return dataclasses.replace(turned, left=turned.right, right=turned.left)
    checks = 2 * (MAX_STEPS // CHECK_EVERY)
    split = _Split(matrix, transpose, left, right)
    run = _lanczos(split, level, failure_probability / checks, rng)
    steps = run.steps
    if run.bound > NEAR * level and run.values.size and run.values[0] <= level:
        # nothing is missing, but the remainder comes near the level: split off what was found and look again
        close = run.values >= 0.5 * level
        wider = _widened(split, run.vectors[:, close])
        again = _lanczos(wider, level, failure_probability / checks, rng)
        steps += again.steps
        if wider.norm(again.bound) < split.norm(run.bound):
            split, run = wider, again
    found = run.values > level * (1 + 1e-12)
    directions = run.vectors[:, found][:, :MOST_ADDED]
    images = split.apply(directions)
    sizes = np.linalg.norm(images, axis=0)
    return SpectralBound(
        upper=split.norm(run.bound),
        lower=max(split.block, float(run.values[0]) if run.values.size else 0.0),
        failure_probability=failure_probability,
        steps=steps,
        method=f"random-start Lanczos, {steps} steps, beside {split.left.shape[1]} directions split off exactly",
        values=sizes,
        left=images / np.maximum(sizes, np.finfo(float).tiny),
        right=directions,
    )


def _dense(matrix: sparse.csr_array, left: np.ndarray, right: np.ndarray, level: float) -> SpectralBound:
    whole = matrix.toarray()
    norm = float(np.linalg.norm(whole, 2))
    rest = whole - left @ (left.T @ whole)
    rest -= (rest @ right) @ right.T
    U, s, Vt = np.linalg.svd(rest, full_matrices=False)
    found = np.flatnonzero(s > level * (1 + 1e-12))[:MOST_ADDED]
    return SpectralBound(
        upper=norm,
        lower=norm,
        failure_probability=0.0,
        steps=0,
        method="singular value decomposition of the whole matrix",
        values=s[found],
        left=U[:, found],
        right=Vt[found].T,
    )


class _Split:
    """G cut along U and V, with `W = (I - UU^T) G (I - VV^T)` as a map."""

    def __init__(self, matrix: sparse.csr_array, transpose: sparse.csr_array, left: np.ndarray, right: np.ndarray):
        self.matrix, self.transpose, self.left, self.right = matrix, transpose, left, right
        GV, GtU = matrix @ right, transpose @ left
        A = left.T @ GV
        self.block, self.below, self.beside = (_norm(part) for part in (A, GV - left @ A, GtU - right @ A.T))

    def norm(self, rest: float) -> float:
        """The bound of the whole from one of `||W||`."""
        if math.isinf(rest):
            return rest
        return float(np.linalg.norm([[self.block, self.beside], [self.below, rest]], 2))

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        image = self.matrix @ (vectors - self.right @ (self.right.T @ vectors))
        return image - self.left @ (self.left.T @ image)

    def apply_transpose(self, vectors: np.ndarray) -> np.ndarray:
        image = self.transpose @ (vectors - self.left @ (self.left.T @ vectors))
        return image - self.right @ (self.right.T @ image)


def _norm(block: np.ndarray) -> float:
    return float(np.linalg.norm(block, 2)) if block.size else 0.0


def _widened(split: _Split, directions: np.ndarray) -> _Split:
    left = np.linalg.qr(np.hstack([split.left, split.apply(directions)]))[0]
    right = np.linalg.qr(np.hstack([split.right, directions]))[0]
    return _Split(split.matrix, split.transpose, left, right)


@dataclasses.dataclass(frozen=True)
class _Run:
    bound: float
    values: np.ndarray
    vectors: np.ndarray
    steps: int


def _lanczos(split: _Split, level: float, failure: float, rng: np.random.Generator) -> _Run:
    """Lanczos on `W^T W` with full reorthogonalisation; stops once the bound is clear beside the level."""
    n = split.right.shape[0]
    start = rng.standard_normal(n)
    start -= split.right @ (split.right.T @ start)
    limit = min(MAX_STEPS, n - split.right.shape[1])
    size = np.linalg.norm(start)
    if limit < 1 or size == 0:
        return _Run(0.0, np.zeros(0), np.zeros((n, 0)), 0)
    basis = np.empty((limit + 1, n))
    basis[0] = start / size
    diagonal, beside = [], []
    theta, vectors, bound, steps = np.zeros(1), np.ones((1, 1)), math.inf, 0
    for step in range(limit):
        image = split.apply_transpose(split.apply(basis[step]))
        diagonal.append(float(basis[step] @ image))
        for _ in range(2):
            image -= basis[: step + 1].T @ (basis[: step + 1] @ image)
        beta, steps = float(np.linalg.norm(image)), step + 1
        whole = beta <= 1e-14 * max(diagonal) or steps == n - split.right.shape[1]
        if whole or steps % CHECK_EVERY == 0 or steps == limit:
            theta, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
            top = max(float(theta[-1]), 0.0)
            miss = 0.0 if whole else (math.log(1.648 * math.sqrt(n) / failure) / (2 * steps - 1)) ** 2
            bound = math.sqrt(top / (1 - miss)) if miss < 1 else math.inf
            lacking = miss < HALF and math.sqrt(top) > level and abs(beta * vectors[-1, -1]) <= 1e-3 * top
            if whole or bound <= NEAR * level or lacking:
                break
        beside.append(beta)
        basis[step + 1] = image / beta
    kept = np.arange(theta.size)[::-1][: 2 * MOST_ADDED]
    return _Run(bound, np.sqrt(np.maximum(theta[kept], 0.0)), basis[:steps].T @ vectors[:, kept], steps)
