"""Deep products and their Hessian traces typed plainly, for many networks at once; oracles of the library's code."""

from collections.abc import Sequence

import numpy as np

Layers = Sequence[np.ndarray]


def end_to_end(W: Layers) -> np.ndarray:
    """`W_L ... W_1`, shape (k, d_L, d_0)."""
    product = W[0]
    for factor in W[1:]:
        product = factor @ product
    return product


def partial_products(W: Layers) -> list[tuple[np.ndarray, np.ndarray]]:
    """`(P_l, Q_l)` of every layer: `P_l = W_L ... W_(l+1)`, `Q_l = W_(l-1) ... W_1`."""
    k = W[0].shape[0]
    rights = [np.broadcast_to(np.eye(W[0].shape[2]), (k, W[0].shape[2], W[0].shape[2]))]
    for factor in W[:-1]:
        rights.append(factor @ rights[-1])
    lefts = [np.broadcast_to(np.eye(W[-1].shape[1]), (k, W[-1].shape[1], W[-1].shape[1]))]
    for factor in W[:0:-1]:
        lefts.append(lefts[-1] @ factor)
    return list(zip(lefts[::-1], rights, strict=True))


def trace(A: np.ndarray, W: Layers) -> np.ndarray:
    """`(2/n) sum_i sum_l ||P_l^T A_i Q_l^T||_F^2` [G, Lemma 2], shape (k,)."""
    total = 0.0
    for P, Q in partial_products(W):
        blocks = P.transpose(0, 2, 1)[:, None] @ A @ Q.transpose(0, 2, 1)[:, None]
        total = total + np.sum(blocks**2, axis=(1, 2, 3))
    return 2 * total / A.shape[1]


def jacobian(A: np.ndarray, W: Layers) -> np.ndarray:
    """Gradients of the predictions, shape (k, n, parameters), layer by layer in row-major order."""
    k, n = A.shape[:2]
    blocks = [
        (P.transpose(0, 2, 1)[:, None] @ A @ Q.transpose(0, 2, 1)[:, None]).reshape(k, n, -1)
        for P, Q in partial_products(W)
    ]
    return np.concatenate(blocks, axis=2)


def population_trace(W: Layers) -> np.ndarray:
    """`2 sum_l ||P_l||_F^2 ||Q_l||_F^2` [G, eq. 10]: the trace where `(1/n) sum <A_i, X>^2 = ||X||_F^2`."""
    norms = [np.sum(P**2, axis=(1, 2)) * np.sum(Q**2, axis=(1, 2)) for P, Q in partial_products(W)]
    return 2 * np.sum(norms, axis=0)


def population_minimiser(rng: np.random.Generator, M: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
    """The factors of M with the least `population_trace`, after the proof of [G, Lemma 4].

    With `M = U S V^T`, orthonormal-column `O_l` and `k = (d_0 d_L ||M||_*^(L-2))^(-1/L)`:
    `W_1 = sqrt(d_0 k) O_1 S^(1/2) V^T`, `W_l = sqrt(||M||_* k) O_l O_(l-1)^T`, `W_L = sqrt(d_L k) U S^(1/2) O_(L-1)^T`.

    Args:
        rng: generator of the `O_l`.
        M: shape (k, d_L, d_0).
        widths: `d_0, ..., d_L`, hidden ones at least `min(d_0, d_L)`.

    Returns:
        The factors.
    """
    count, dL, d0 = M.shape
    depth, r = len(widths) - 1, min(dL, d0)
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    size = s.sum(-1)
    k = (d0 * dL * size ** (depth - 2)) ** (-1 / depth)
    if depth == 1:
        return [M]
    frames = [np.linalg.qr(rng.normal(size=(count, w, r)))[0] for w in widths[1:-1]]
    root = np.sqrt(s)[:, :, None]
    factors = [np.sqrt(d0 * k)[:, None, None] * (frames[0] @ (root * Vt))]
    for left, right in zip(frames[1:], frames[:-1], strict=True):
        factors.append(np.sqrt(size * k)[:, None, None] * (left @ right.transpose(0, 2, 1)))
    factors.append(np.sqrt(dL * k)[:, None, None] * ((U * root.transpose(0, 2, 1)) @ frames[-1].transpose(0, 2, 1)))
    return factors


def regauged(rng: np.random.Generator, W: Layers, size: float) -> list[np.ndarray]:
    """Other factors of the same product: `W_l -> G_l W_l G_(l-1)^(-1)` with random G near the identity.

    Args:
        rng: generator.
        W: the factors.
        size: how far G is from the identity.

    Returns:
        The factors.
    """
    moved = list(W)
    for layer in range(len(W) - 1):
        width = W[layer].shape[1]
        G = np.eye(width) + size * rng.normal(size=(W[0].shape[0], width, width)) / np.sqrt(width)
        moved[layer], moved[layer + 1] = G @ moved[layer], moved[layer + 1] @ np.linalg.inv(G)
    return moved
