"""Facial reduction: traces of positive semidefinite matrices where none that fits is positive definite.

Then the dual has no maximiser, and no method that looks for one converges. But if `A*(y)` is positive semidefinite and
`b.y = 0` for some y, every fitting M >= 0 has `<A*(y), M> = b.y = 0`, so that its range lies in the kernel V of
`A*(y)`: `M = V W V^T` (Borwein & Wolkowicz 1981). The programme over W >= 0 has the same solutions, and multipliers.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse

from flatmin.solvers._interior import Linear, interior_point

STRICT = 1e-5
"""Smallest eigenvalue of `A*(y)` off the face, where the largest is 1, that proves a face."""

EXPOSED = 1e-10
"""Largest entry of `A*(y)` on the face that is rounding, in the same units."""

DEPENDENT = 1e-10
"""Singular values of the measurements of a face below this share of the largest count as zero."""

FITS = 1e-12
"""Largest relative residual of a point whose range may be a face."""

RANGE = 1e-9
"""Eigenvalues below this share of the largest do not count for a range."""

STEPS = 60


class Face(NamedTuple):
    """`{V W V^T : W >= 0}`, and the proof that it holds all that fits.

    Attributes:
        basis: V, orthonormal columns, shape (d, p), in plain coordinates.
        proof: y, shape (m,), scaled so that the largest eigenvalue of `A*(y)` is 1.
        smallest: the smallest eigenvalue of `A*(y)` off the face.
        error: the largest of `||A*(y) V||` and `|b.y| / ||b||`, which are 0 but for rounding. A fitting M has at most
            `(error (||b|| + 2 tr M)) / smallest` of its trace off the face.
    """

    basis: np.ndarray
    proof: np.ndarray
    smallest: float
    error: float


class OnFace(NamedTuple):
    """The solution of the programme over a face.

    Attributes:
        face: the face and its proof.
        matrix: X, in plain coordinates.
        dual: y, with `V^T A*(y) V <= I`.
        value: `tr X`.
        bound: `b.y`, a lower bound for all that lies in the face.
        residual: relative to b.
        steps: of the interior-point method.
    """

    face: Face
    matrix: np.ndarray
    dual: np.ndarray
    value: float
    bound: float
    residual: float
    steps: int

    @property
    def gap(self) -> float:
        """The relative gap of the programme over the face."""
        return abs(self.value - self.bound) / max(self.value, np.finfo(float).tiny)


def on_exposed_face(
    tensor: np.ndarray, targets: np.ndarray, points: Iterable[np.ndarray], tolerance: float
) -> OnFace | None:
    """The programme over the range of one of some fitting points, where that is proved to hold all that fits.

    Args:
        tensor: measurements, shape (m, d, d).
        targets: b, shape (m,).
        points: candidates, shape (d, d) each; those that do not fit are passed over.
        tolerance: the relative gap to reach.

    Returns:
        The solution, or None.
    """
    tensor = (tensor + tensor.transpose(0, 2, 1)) / 2
    for point in points:
        miss = tensor.reshape(len(targets), -1) @ point.ravel() - targets
        if np.linalg.norm(miss) > FITS * np.linalg.norm(targets):
            continue
        values, vectors = np.linalg.eigh((point + point.T) / 2)
        face = exposed_face(tensor, targets, vectors[:, values > RANGE * values[-1]])
        found = None if face is None else solve_on_face(tensor, targets, face, tolerance)
        if found is not None:
            return found
    return None


def exposed_face(tensor: np.ndarray, targets: np.ndarray, basis: np.ndarray) -> Face | None:
    """The proof that all that fits has its range in that of a basis, if there is one.

    Maximises the smallest eigenvalue of `A*(y)` off the basis over `A*(y) V = 0`, y in a box, by an interior-point
    method.

    Args:
        tensor: symmetric measurements, shape (m, d, d).
        targets: b, shape (m,).
        basis: V, orthonormal, shape (d, p), p < d.

    Returns:
        The face, or None.
    """
    count, d, _ = tensor.shape
    p = basis.shape[1]
    off = scipy.linalg.null_space(basis.T)
    moved = (tensor @ basis).reshape(count, -1)
    kept = scipy.linalg.null_space(moved.T, rcond=1e-12)
    if p in (0, d) or kept.shape[1] == 0:
        return None
    free = np.tensordot(kept.T, off.T @ tensor @ off, 1)
    size = float(np.abs(free).max())
    q, k = d - p, kept.shape[1]
    lifted = np.concatenate([free / size, np.eye(q)[None]])
    sides = scipy.sparse.eye_array(k, k + 1)
    rows = scipy.sparse.csr_array(scipy.sparse.vstack([sides, -sides]))
    found = interior_point(
        lifted,
        np.append(np.zeros(k), 1.0),
        symmetric=True,
        one_sided=True,
        tolerance=1e-6,
        max_steps=STEPS,
        linear=Linear(rows, np.ones(2 * k), np.zeros(k + 1)),
    )
    y = -kept @ found.weights[:k]
    values = np.linalg.eigvalsh(np.tensordot(y, off.T @ tensor @ off, 1))
    if not values[0] > STRICT * values[-1] > 0:
        return None
    y = y / values[-1]
    on_face = np.linalg.norm(np.tensordot(y, moved, 1))
    error = float(max(on_face, abs(targets @ y) / np.linalg.norm(targets)))
    return Face(basis, y, float(values[0] / values[-1]), error) if error <= EXPOSED else None


def solve_on_face(tensor: np.ndarray, targets: np.ndarray, face: Face, tolerance: float) -> OnFace | None:
    """`min tr W s.t. A(V W V^T) = b`, W >= 0, with multipliers: `V^T A*(y) V <= I`.

    Args:
        tensor: symmetric measurements, shape (m, d, d).
        targets: b, shape (m,).
        face: from `exposed_face`.
        tolerance: the relative gap to reach.

    Returns:
        The solution; None where nothing on the face fits.
    """
    V, p = face.basis, face.basis.shape[1]
    flat = (V.T @ tensor @ V).reshape(len(targets), -1)
    U, s, Qt = np.linalg.svd(flat, full_matrices=False)
    rank = int(np.sum(s > DEPENDENT * s[0]))
    U, s, Q = U[:, :rank], s[:rank], Qt[:rank]
    c = (U.T @ targets) / s
    if rank == p * (p + 1) // 2:
        # one W fits, and every multiplier with V^T A*(y) V = I proves its trace
        W, u, steps = (c @ Q).reshape(p, p), Q @ np.eye(p).ravel(), 0
    else:
        size = float(np.linalg.norm(c))
        found = interior_point(
            Q.reshape(rank, p, p), c / size, symmetric=True, one_sided=True, tolerance=tolerance / 10, max_steps=STEPS
        )
        W, u, steps = size * found.matrix, found.weights, found.steps
    values, vectors = np.linalg.eigh((W + W.T) / 2)
    if not values[0] >= -1e-10 * values[-1]:
        return None
    W = (vectors * np.maximum(values, 0)) @ vectors.T
    u = u / max(1.0, float(np.linalg.eigvalsh((u @ Q).reshape(p, p))[-1]))
    X, y = V @ W @ V.T, U @ (u / s)
    miss = tensor.reshape(len(targets), -1) @ X.ravel() - targets
    residual = float(np.linalg.norm(miss) / np.linalg.norm(targets))
    return OnFace(face, X, y, float(np.trace(W)), float(targets @ y), residual, steps)
