"""Random matrices of every kind of difficulty, many at a time, on the host. Leading axis: the instance."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from flatmin._core import choose


def nuclear(matrices: np.ndarray) -> np.ndarray:
    """`||M||_*` of each, shape (k,)."""
    return np.linalg.svd(matrices, compute_uv=False).sum(-1)


def orthonormal(rng: Generator, count: int, rows: int, cols: int) -> np.ndarray:
    """Matrices with orthonormal columns (rows >= cols), shape (count, rows, cols)."""
    return np.linalg.qr(rng.normal(size=(count, rows, cols)))[0]


def conditioned(rng: Generator, count: int, rows: int, cols: int, condition: float) -> np.ndarray:
    """Matrices whose singular values fall geometrically from 1 to 1 / condition."""
    r = min(rows, cols)
    s = np.geomspace(1, 1 / condition, r) if r > 1 else np.ones(1)
    return (orthonormal(rng, count, rows, r) * s) @ orthonormal(rng, count, cols, r).transpose(0, 2, 1)


KINDS = ("gaussian", "ill", "deficient", "tiny", "huge", "spread", "ones")


def matrices(rng: Generator, count: int, rows: int, cols: int, kind: str = "gaussian") -> np.ndarray:
    """Random matrices of one kind.

    Args:
        rng: generator.
        count: how many.
        rows: rows of each.
        cols: columns of each.
        kind: `gaussian`; `ill`, condition number 1e8; `deficient`, rank one; `tiny` and `huge`, scaled by 1e-60 and
            1e60; `spread`, entries over 12 orders of magnitude; `ones`, every entry one and the same.

    Returns:
        Shape (count, rows, cols).
    """
    choose("kind", kind, KINDS)
    G = rng.normal(size=(count, rows, cols))
    if kind == "ill":
        return conditioned(rng, count, rows, cols, 1e8)
    if kind == "deficient":
        return rng.normal(size=(count, rows, 1)) @ rng.normal(size=(count, 1, cols))
    if kind == "spread":
        return G * 10.0 ** rng.uniform(-6, 6, size=G.shape)
    if kind == "ones":
        return np.broadcast_to(rng.normal(size=(count, 1, 1)), G.shape).copy()
    return G * {"tiny": 1e-60, "huge": 1e60}.get(kind, 1.0)


def layers(rng: Generator, count: int, widths: Sequence[int], kind: str = "gaussian") -> list[np.ndarray]:
    """Factors `W_1, ..., W_L` of widths `d_0, ..., d_L`; `kind` is that of the first factor.

    Args:
        rng: generator.
        count: how many networks.
        widths: `d_0, ..., d_L`.
        kind: as in `matrices`.

    Returns:
        L arrays of shape (count, d_l, d_(l-1)); Gaussian factors have entries of variance `1 / d_(l-1)`.
    """
    drawn = []
    for layer in range(1, len(widths)):
        rows, cols = widths[layer], widths[layer - 1]
        drawn.append(matrices(rng, count, rows, cols, kind if layer == 1 else "gaussian") / np.sqrt(cols))
    return drawn


def measurements(rng: Generator, count: int, n: int, shape: tuple[int, int], kind: str = "gaussian") -> np.ndarray:
    """Measurement matrices, shape (count, n, d1, d2).

    Args:
        rng: generator.
        count: how many operators.
        n: measurements of each.
        shape: (d1, d2).
        kind: as in `matrices`, or `bernoulli` (signs), `bilinear` (`a b^T`), `entries` (distinct entries, n <= d1 d2),
            `correlated` (rows and columns mixed by ill-conditioned matrices).

    Returns:
        The tensors.
    """
    d1, d2 = shape
    if kind == "bernoulli":
        return rng.choice([-1.0, 1.0], size=(count, n, d1, d2))
    if kind == "bilinear":
        return rng.normal(size=(count, n, d1, 1)) * rng.normal(size=(count, n, 1, d2))
    if kind == "entries":
        order = np.argsort(rng.random((count, d1 * d2)), axis=1)[:, :n]
        return np.eye(d1 * d2)[order].reshape(count, n, d1, d2)
    if kind == "correlated":
        left = conditioned(rng, count, d1, d1, 1e3)[:, None]
        right = conditioned(rng, count, d2, d2, 1e3)[:, None]
        return left @ rng.normal(size=(count, n, d1, d2)) @ right
    return matrices(rng, count * n, d1, d2, kind).reshape(count, n, d1, d2)


def without_one_direction(
    rng: Generator, count: int, shape: tuple[int, int], spectrum: Sequence[float], rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measurements that see every direction but one equally, and their exact (rank, delta)-RIP constant.

    For a unit N, `(1/n) sum <A_i, X>^2 = c (||X||_F^2 - <X, N>^2)` with n = d1 d2 - 1. The largest `<X, N>^2` over unit
    X of rank r is `s = sum_{j <= r} s_j(N)^2`, so that with `c = 2 / (2 - s)` both ends deviate from 1 by
    `delta = s / (2 - s)`, which is the constant.

    Args:
        rng: generator.
        count: how many.
        shape: (d1, d2).
        spectrum: relative singular values of N.
        rank: r.

    Returns:
        The tensors (count, d1 d2 - 1, d1, d2), N (count, d1, d2), and delta (count,).
    """
    d1, d2 = shape
    r = min(d1, d2)
    s = np.asarray(spectrum, float) / np.linalg.norm(spectrum)
    N = (orthonormal(rng, count, d1, r) * s) @ orthonormal(rng, count, d2, r).transpose(0, 2, 1)
    size = d1 * d2
    frame = np.concatenate([N.reshape(count, size, 1), rng.normal(size=(count, size, size - 1))], axis=2)
    rest = np.linalg.qr(frame)[0][:, :, 1:].transpose(0, 2, 1).reshape(count, size - 1, d1, d2)
    seen = float(np.sum(np.sort(s**2)[::-1][:rank]))
    c = 2 / (2 - seen)
    return rest * np.sqrt(c * (size - 1)), N, np.full(count, seen / (2 - seen))


def full_rank_delta(A: np.ndarray) -> np.ndarray:
    """The exact RIP constant at full rank, which is one for every rank: the spectrum of `(1/n) A* A`, shape (k,)."""
    k, n = A.shape[:2]
    flat = A.reshape(k, n, -1)
    values = np.linalg.eigvalsh(flat.transpose(0, 2, 1) @ flat / n)
    return np.maximum(values[:, -1] - 1, 1 - np.maximum(values[:, 0], 0))


def moments(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`D_out = (1/n) sum A_i A_i^T` and `D_in = (1/n) sum A_i^T A_i` of each operator."""
    n = A.shape[1]
    return np.einsum("kiab,kicb->kac", A, A) / n, np.einsum("kiab,kiac->kbc", A, A) / n


def root(moments: np.ndarray) -> np.ndarray:
    """The symmetric square root of positive semidefinite matrices."""
    values, vectors = np.linalg.eigh(moments)
    return (vectors * np.sqrt(np.maximum(values, 0))[:, None, :]) @ vectors.transpose(0, 2, 1)


def least_on_lines(start: np.ndarray, direction: np.ndarray, norm, reach: np.ndarray) -> np.ndarray:
    """`argmin_t norm(start + t direction)` for convex norms, by golden section, all instances at once.

    Args:
        start: shape (k, d1, d2).
        direction: shape (k, d1, d2).
        norm: from (k, d1, d2) to (k,), convex.
        reach: shape (k,); the minimisers lie in [-reach, reach].

    Returns:
        t, shape (k,).
    """
    golden = (np.sqrt(5) - 1) / 2
    low, high = -reach, +reach

    def value(t: np.ndarray) -> np.ndarray:
        return norm(start + t[:, None, None] * direction)

    a, b = high - golden * (high - low), low + golden * (high - low)
    fa, fb = value(a), value(b)
    for _ in range(75):
        left = fa < fb
        low, high = np.where(left, low, a), np.where(left, b, high)
        new_a, new_b = high - golden * (high - low), low + golden * (high - low)
        a, b, fa_old, fb_old = new_a, new_b, fa, fb
        fresh = value(np.where(left, a, b))
        fa, fb = np.where(left, fresh, fb_old), np.where(left, fa_old, fresh)
    return (low + high) / 2
