"""[M]: what gradient flow from a small initialisation does to the layers: nearly of rank one, and aligned."""

import functools
import itertools

import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger import _deep
from flatmin.experiments.ledger._entry import Batch, entry, family

SAMPLES = 20
FAMILIES = tuple(
    family(f"depth {depth}, d = {d}, initial scale {scale}", 24, quick=quick, depth=depth, d=d, scale=scale)
    for depth, d, scale, quick in ((2, 4, 0.05, 8), (3, 3, 0.15, 0), (4, 3, 0.25, 0), (3, 3, 0.3, 0))
)


def _slopes(covariance: np.ndarray, moment: np.ndarray, W: list[np.ndarray]) -> list[np.ndarray]:
    pull = 2 * (_deep.end_to_end(W) @ covariance - moment[:, None])
    return [P.transpose(0, 2, 1) @ pull @ Q.transpose(0, 2, 1) for P, Q in _deep.partial_products(W)]


def _flow(rng: Generator, count: int, depth: int, d: int, scale: float) -> tuple[list, list, np.ndarray]:
    """Layers at the start and the end of gradient flow (classical Runge-Kutta steps), and the size of the gradient."""
    X = rng.normal(size=(count, SAMPLES, d))
    X /= np.sqrt(np.linalg.eigvalsh(X.transpose(0, 2, 1) @ X / SAMPLES)[:, -1])[:, None, None]
    w = rng.normal(size=(count, d, 1))
    y = X @ (w / np.linalg.norm(w, axis=1, keepdims=True)) + 0.1 * rng.normal(size=(count, SAMPLES, 1))
    slopes = functools.partial(_slopes, X.transpose(0, 2, 1) @ X / SAMPLES, np.sum(X * y, axis=1) / SAMPLES)
    first = W = [scale * rng.normal(size=(count, b, a)) for a, b in itertools.pairwise((*(d,) * depth, 1))]
    step, k1 = 0.5 / depth, slopes(W)

    def moved(length: float, direction: list[np.ndarray]) -> list[np.ndarray]:
        return [factor - length * slope for factor, slope in zip(W, direction, strict=True)]

    for _ in range(4_000):
        k2 = slopes(moved(step / 2, k1))
        k3 = slopes(moved(step / 2, k2))
        k4 = slopes(moved(step, k3))
        W = moved(step / 6, [a + 2 * b + 2 * c + e for a, b, c, e in zip(k1, k2, k3, k4, strict=True)])
        k1 = slopes(W)
        if max(np.abs(slope).max() for slope in k1) < 1e-8:
            break
    return first, W, np.max([np.abs(slope).max(axis=(1, 2)) for slope in k1], axis=0)


def _imbalance(W: list[np.ndarray]) -> list[np.ndarray]:
    """`||W_{l+1}^T W_{l+1} - W_l W_l^T||_2` between neighbours."""
    return [
        np.linalg.norm(up.transpose(0, 2, 1) @ up - down @ down.transpose(0, 2, 1), ord=2, axis=(1, 2))
        for down, up in itertools.pairwise(W)
    ]


@entry(
    "marion-rank-one",
    source="[M, Sec 3], constant derived here",
    statement="Gradient flow ends with s₂(W_l)² ≤ Σ_{k ≥ l} ‖D_k‖₂ in every layer, D_k = W_{k+1}ᵀ W_{k+1} − W_k W_kᵀ "
    "at the start: from a small initialisation the layers are nearly of rank one.",
    assumptions="one output; the flow reaches a minimum (gradient below 1e-7); D_k is conserved",
    kind="upper",
    families=FAMILIES,
    note="shown: the layer that comes nearest to its bound",
)
def rank_one(rng: Generator, count: int, *, depth: int, d: int, scale: float) -> Batch:
    """The second singular values at the end, against what the start conserves."""
    first, W, gradient = _flow(rng, count, depth, d, scale)
    budgets = np.cumsum(_imbalance(first)[::-1], axis=0)[::-1]  # the last layer has rank one
    second = np.array([np.linalg.svd(factor, compute_uv=False)[:, 1] ** 2 for factor in W[:-1]])
    nearest = np.argmax(second / budgets, axis=0)
    predicted, measured = (np.take_along_axis(x, nearest[None], axis=0)[0] for x in (budgets, second))
    data = {f"start_{i + 1}": factor for i, factor in enumerate(first)}
    return Batch(predicted, measured, 1e-4 * predicted, applies=gradient < 1e-7, data=data)


@entry(
    "marion-alignment",
    source="[M, Sec 3], constant derived here",
    statement="Gradient flow ends with sin∠(u_l, v_{l+1}) ≤ ‖D_l‖₂/(s₁(W_l)² − s₂(W_{l+1})²), u_l the first left and "
    "v_{l+1} the first right singular vector of neighbours: they align.",
    assumptions="one output; the flow reaches a minimum (gradient below 1e-7); the denominator is positive",
    kind="upper",
    families=FAMILIES,
    note="by the sine theorem of Davis and Kahan; shown: the pair of layers that comes nearest to its bound",
)
def alignment(rng: Generator, count: int, *, depth: int, d: int, scale: float) -> Batch:
    """The angle between neighbouring layers at the end."""
    first, W, gradient = _flow(rng, count, depth, d, scale)
    sines, bounds = [], []
    for down, up, imbalance in zip(W[:-1], W[1:], _imbalance(first), strict=True):
        U, s, _ = np.linalg.svd(down)
        _, t, Vt = np.linalg.svd(up)
        cosine = np.sum(U[:, :, 0] * Vt[:, 0], axis=1)
        sines.append(np.linalg.norm(U[:, :, 0] - cosine[:, None] * Vt[:, 0], axis=1))
        rest = t[:, 1] ** 2 if t.shape[1] > 1 else 0.0
        bounds.append(imbalance / np.maximum(s[:, 0] ** 2 - rest, 1e-300))
    sine, bound = np.array(sines), np.array(bounds)
    nearest = np.argmax(sine / bound, axis=0)
    predicted, measured = (np.take_along_axis(x, nearest[None], axis=0)[0] for x in (bound, sine))
    applies = (gradient < 1e-7) & (predicted < 1e3)
    data = {f"start_{i + 1}": factor for i, factor in enumerate(first)}
    return Batch(predicted, measured, 1e-4 * predicted + 1e-9, applies=applies, data=data)
