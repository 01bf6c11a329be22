"""[D]: two-factor problems, quadratic networks and Hadamard factors."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger import _draw
from flatmin.experiments.ledger._draw import nuclear
from flatmin.experiments.ledger._entry import EPS, Batch, entry, family
from flatmin.experiments.ledger._theory import over
from flatmin.measurements import dense
from flatmin.solvers import MinNuclearNorm, MinScaledNuclearNorm, solve_batch
from flatmin.theory import ding2022 as theory


def _weights(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`D_1` and `D_2` by the library's theory function."""
    return over(lambda a: theory.weight_matrices(dense(a)), A)


def _scaled_trace(A: np.ndarray, L: np.ndarray, R: np.ndarray) -> np.ndarray:
    """`(1/d_1) tr(L block) + (1/d_2) tr(R block) = (2/m) sum_i (||A_i R||^2 / d_1 + ||A_i^T L||^2 / d_2)`."""
    m, d1, d2 = A.shape[1:]
    of_left = np.sum((A @ R[:, None]) ** 2, axis=(1, 2, 3)) / d1
    of_right = np.sum((A.transpose(0, 1, 3, 2) @ L[:, None]) ** 2, axis=(1, 2, 3)) / d2
    return 2 / m * (of_left + of_right)


LIBRARY_FACTORS = 8
"""So many instances of a family take the factors from the library, one call each; the others from NumPy."""

ENSEMBLES = (
    family("4x3, 20 Gaussian", 250, shape=(4, 3), m=20, kind="gaussian"),
    family("2x6, 25 bilinear", 250, quick=0, shape=(2, 6), m=25, kind="bilinear"),
    family("5x5, 30 correlated, condition 1e3 on each side", 250, quick=0, shape=(5, 5), m=30, kind="correlated"),
    family("5x4, 17 of 20 entries", 250, quick=0, shape=(5, 4), m=17, kind="entries"),
)


@entry(
    "ding-scaled-trace",
    source="[D, Sec 3]",
    statement="The scaled trace (1/d₁) tr(L block) + (1/d₂) tr(R block) is 2 ‖D₁ L‖²_F + 2 ‖D₂ R‖²_F.",
    assumptions="any measurements and factors",
    kind="value",
    functions=("weight_matrices",),
    families=(
        *ENSEMBLES,
        family("4x3, one of rank one", 250, shape=(4, 3), m=1, kind="deficient"),
        family("6x2, 5 scaled by 1e60", 250, quick=0, shape=(6, 2), m=5, kind="huge"),
    ),
)
def scaled_trace(rng: Generator, count: int, *, shape: tuple[int, int], m: int, kind: str) -> Batch:
    """Two ways to the scaled trace."""
    A = _draw.measurements(rng, count, m, shape, kind)
    L, R = rng.normal(size=(count, shape[0], 4)), rng.normal(size=(count, shape[1], 4))
    left, right = _weights(A)
    predicted = 2 * np.sum((left @ L) ** 2, axis=(1, 2)) + 2 * np.sum((right @ R) ** 2, axis=(1, 2))
    size = 4 * np.sum(A**2, axis=(1, 2, 3)) / m * (np.sum(L**2, axis=(1, 2)) + np.sum(R**2, axis=(1, 2)))
    return Batch(predicted, _scaled_trace(A, L, R), 100 * EPS * size, data={"A": A, "L": L, "R": R})


@entry(
    "ding-theorem-3-2-bound",
    source="[D, Thm 3.2]",
    statement="No factors of M have a smaller scaled trace than 4 ‖D₁ M D₂‖∗.",
    assumptions="any measurements",
    kind="lower",
    tight=True,
    functions=("smallest_scaled_trace", "flat_factors"),
    families=tuple(
        family(f"{f.label}, {point}", f.count, quick=f.quick, **f.settings, point=point)
        for f in ENSEMBLES
        for point in ("random factors", "near the flat factors", "flat factors")
    ),
)
def theorem_3_2_bound(rng: Generator, count: int, *, shape: tuple[int, int], m: int, kind: str, point: str) -> Batch:
    """The scaled trace over the factors of one matrix."""
    A = _draw.measurements(rng, count, m, shape, kind)
    k = min(shape) + 1
    L, R = rng.normal(size=(count, shape[0], k)), rng.normal(size=(count, shape[1], k))
    bad = np.zeros(count)
    if point != "random factors":
        L, R, bad = _flat_factors(A, L @ R.transpose(0, 2, 1), k)
    if point.startswith("near"):
        mix = np.eye(k) + 0.1 * rng.normal(size=(count, k, k))
        L, R = L @ mix, R @ np.linalg.inv(mix).transpose(0, 2, 1)
    M = L @ R.transpose(0, 2, 1)
    measured = _scaled_trace(A, L, R)
    predicted = over(lambda a, x: theory.smallest_scaled_trace(dense(a), x), A, M)
    return Batch(predicted, measured + bad, 1e-9 * measured, data={"A": A, "L": L, "R": R})


def _flat_factors(A: np.ndarray, M: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The library's flat factors; the last array is NaN where their product is not M."""
    # entries may leave a row unseen, which the library refuses: then plain factors with a pseudo-inverse
    L, R, bad = np.empty((len(A), A.shape[2], width)), np.empty((len(A), A.shape[3], width)), np.zeros(len(A))
    left, right = _weights(A)
    U, s, Vt = np.linalg.svd(left @ M @ right, full_matrices=False)
    for i in range(len(A)):
        singular = max(np.linalg.cond(left[i]), np.linalg.cond(right[i])) > 1e6
        if not singular and i < LIBRARY_FACTORS:
            L[i], R[i] = map(np.asarray, theory.flat_factors(dense(jnp.asarray(A[i])), jnp.asarray(M[i]), width))
        else:
            r = min(width, s.shape[1])
            L[i], R[i] = 0, 0
            L[i][:, :r] = np.linalg.pinv(left[i]) @ (U[i] * np.sqrt(s[i]))[:, :r]
            R[i][:, :r] = np.linalg.pinv(right[i]) @ (Vt[i].T * np.sqrt(s[i]))[:, :r]
        if not singular and np.linalg.norm(L[i] @ R[i].T - M[i]) > 1e-8 * np.linalg.norm(M[i]):
            bad[i] = np.nan
    return L, R, bad


CONVEX = (
    family("5x4, 14 Gaussian", 60, quick=8, shape=(5, 4), m=14, kind="gaussian"),
    family("4x6, 18 bilinear", 60, quick=0, shape=(4, 6), m=18, kind="bilinear"),
    family("5x5, 15 correlated", 60, quick=0, shape=(5, 5), m=15, kind="correlated"),
    family("4x4, 13 entries", 60, quick=0, shape=(4, 4), m=13, kind="entries"),
)


def _flat_convex(
    rng: Generator, count: int, shape: tuple[int, int], m: int, kind: str, rank: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measurements, truths, solutions of `min ||D_1 X D_2||_*` and `min ||X||_*`, and which are both solved."""
    A = _draw.measurements(rng, count, m, shape, kind)
    truth = rng.normal(size=(count, shape[0], rank)) @ rng.normal(size=(count, rank, shape[1]))
    labels = np.einsum("kiab,kab->ki", A, truth)
    pairs = [(dense(jnp.asarray(a)), jnp.asarray(b)) for a, b in zip(A, labels, strict=True)]
    regular = np.all([np.linalg.matrix_rank(D) == D.shape[1] for D in _draw.moments(A)], axis=0)
    found = []
    for program in (MinScaledNuclearNorm, MinNuclearNorm):
        programs = [program(op, b) for (op, b), ok in zip(pairs, regular, strict=True) if ok]
        matrices = np.full((count, *shape), np.nan)
        for i, solution in zip(np.flatnonzero(regular), solve_batch(programs, tolerance=1e-8), strict=True):
            if solution.outcome.success:
                matrices[i] = np.asarray(solution.matrix)
        found.append(matrices)
    solved = regular & ~np.isnan(found[0]).any((1, 2)) & ~np.isnan(found[1]).any((1, 2))
    return A, truth, np.nan_to_num(found[0]), np.nan_to_num(found[1]), solved


@entry(
    "ding-theorem-3-2-convex",
    source="[D, Thm 3.2]",
    statement="Flat solutions are those of min ‖D₁ X D₂‖∗ over interpolators: no interpolating factors have a smaller "
    "scaled trace than 4 times its certified optimum.",
    assumptions="D₁ and D₂ invertible; optimum certified to 1e-8; measured: factors of the truth, of random "
    "interpolators and of the optimum",
    kind="lower",
    tight=True,
    functions=("smallest_scaled_trace",),
    families=tuple(
        family(f"{f.label}, {point}", f.count, quick=f.quick, **f.settings, point=point)
        for f in CONVEX
        for point in ("truth", "random interpolator", "optimum")
    ),
)
def theorem_3_2_convex(rng: Generator, count: int, *, shape: tuple[int, int], m: int, kind: str, point: str) -> Batch:
    """The convex programme is the flattest interpolator."""
    A, truth, flat, _, solved = _flat_convex(rng, count, shape, m, kind)
    M = flat if point == "optimum" else truth
    if point == "random interpolator":
        G = rng.normal(size=truth.shape)
        rows = A.reshape(count, m, -1)
        seen = np.linalg.pinv(rows) @ (rows @ G.reshape(count, -1, 1))
        M = truth + G - seen.reshape(truth.shape)
    M = np.where(solved[:, None, None], M, 1.0)
    L, R, bad = _flat_factors(A, M, min(shape))
    left, right = _weights(A)
    predicted = 4 * nuclear(left @ np.where(solved[:, None, None], flat, 1.0) @ right)
    measured = _scaled_trace(A, L, R) + np.where(solved, bad, 0)
    return Batch(predicted, measured, 1e-7 * measured, applies=solved, data={"A": A, "truth": truth, "flat": flat})


def _extremes(D: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(D)[:, [0, -1]].T


@entry(
    "ding-theorem-3-3-norm-gap",
    source="[D, Thm 3.3], constants derived here",
    statement="(‖L‖² + ‖R‖² − 2 ‖M_nuc‖∗)/(2 ‖M_nuc‖∗) ≤ (s₁⁻² + s₂⁻²) t₁ t₂/2 − 1 at flat solutions, [s_i, t_i] the "
    "spectrum of D_i.",
    assumptions="flat factors of a flat solution; D₁ and D₂ invertible; both solves certified to 1e-8",
    kind="upper",
    functions=("norm_gap_bound",),
    families=CONVEX,
)
def norm_gap(rng: Generator, count: int, *, shape: tuple[int, int], m: int, kind: str) -> Batch:
    """How much larger than norm-minimal factors the flat ones are."""
    A, truth, flat, least, solved = _flat_convex(rng, count, shape, m, kind)
    M = np.where(solved[:, None, None], flat, 1.0)
    L, R, _ = _flat_factors(A, M, min(shape))
    size = np.where(solved, nuclear(least), 1.0)
    measured = (np.sum(L**2, axis=(1, 2)) + np.sum(R**2, axis=(1, 2))) / (2 * size) - 1
    left, right = _weights(A)
    predicted = np.where(solved, over(theory.norm_gap_bound, left, right), 1.0)
    return Batch(
        predicted, measured, 1e-7 * (1 + predicted), applies=solved, data={"A": A, "truth": truth, "flat": flat}
    )


@entry(
    "ding-theorem-3-3-imbalance",
    source="[D, Thm 3.3], constants derived here",
    statement="‖LᵀL − RᵀR‖_F/‖M‖_F ≤ max(s₁⁻² − t₂⁻², s₂⁻² − t₁⁻²) t₁ t₂ at flat factors.",
    assumptions="flat factors of any matrix; D₁ and D₂ invertible",
    kind="upper",
    functions=("imbalance_bound",),
    families=(
        *ENSEMBLES,
        family("4x4, isotropic: all entries, bound zero", 250, shape=(4, 4), m=16, kind="entries"),
    ),
)
def imbalance(rng: Generator, count: int, *, shape: tuple[int, int], m: int, kind: str) -> Batch:
    """How unbalanced flat factors are."""
    A = _draw.measurements(rng, count, m, shape, kind)
    M = rng.normal(size=(count, *shape))
    left, right = _weights(A)
    (s1, _), (s2, _) = _extremes(left), _extremes(right)
    regular = np.minimum(s1, s2) > 1e-6
    L, R, _ = _flat_factors(A, M, min(shape))
    gram = L.transpose(0, 2, 1) @ L - R.transpose(0, 2, 1) @ R
    measured = np.linalg.norm(gram, axis=(1, 2)) / np.linalg.norm(M, axis=(1, 2))
    predicted = np.where(regular, over(theory.imbalance_bound, left, right), 1.0)
    slack = 1e4 * EPS * np.where(regular, (1 / s1 + 1 / s2) ** 2, 1.0)
    return Batch(predicted, measured, slack, applies=regular, data={"A": A, "M": M})


@entry(
    "ding-exact-recovery",
    source="[D, Sec 4]",
    statement="Flat solutions recover a planted low-rank matrix exactly, with high probability, from enough "
    "measurements.",
    assumptions="rank 1, 10x10; m = 60 (Gaussian, bilinear) of at least 19 unknowns; recovered: relative error < 1e-6",
    kind="probability",
    families=(
        family("Gaussian", 60, quick=40, kind="gaussian"),
        family("bilinear", 60, quick=0, kind="bilinear"),
    ),
)
def exact_recovery(rng: Generator, count: int, *, kind: str) -> Batch:
    """Planted instances well above the threshold."""
    A, truth, flat, _, solved = _flat_convex(rng, count, (10, 10), 60, kind)
    error = np.linalg.norm(flat - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))
    return Batch(np.full(count, 0.85), solved & (error < 1e-6), data={"A": A, "truth": truth}, extra={"error": error})


@entry(
    "ding-hadamard-bound",
    source="[D, Sec 5]",
    statement="Hadamard factors of x: 2 Σ_j Σ_c D_c Π_{l≠j} v_lc² ≥ 2k Σ_c D_c |x_c|^(2−2/k), with equality where all "
    "factors have the same absolute values.",
    assumptions="k ≥ 2 factors",
    kind="lower",
    tight=True,
    functions=("smallest_hadamard_trace",),
    families=tuple(
        family(f"k = {k}, {point}", 200, k=k, point=point)
        for k in (2, 3, 6)
        for point in ("random factors", "sparse x", "balanced")
    ),
)
def hadamard(rng: Generator, count: int, *, k: int, point: str) -> Batch:
    """The trace of Hadamard factors."""
    v = rng.normal(size=(count, k, 7))
    if point == "sparse x":
        v[:, 0, 2:] = 0
    x = v.prod(axis=1)
    if point == "balanced":
        v = np.abs(x)[:, None] ** (1 / k) * np.ones((1, k, 1))
    D = rng.uniform(0.01, 3, size=(count, 7))
    others = np.stack([np.prod(np.delete(v, j, axis=1) ** 2, axis=1) for j in range(k)])
    measured = 2 * np.sum(D * others.sum(axis=0), axis=1)
    predicted = over(lambda d, y: theory.smallest_hadamard_trace(d, y, k), D, x)
    return Batch(predicted, measured, 100 * k * EPS * measured, data={"D": D, "v": v, "x": x})


@entry(
    "ding-quadratic-network",
    source="[D, Sec 4.4]",
    statement="Quadratic networks at zero residual: tr H = 8 tr(Uᵀ D² U), D² = (1/m) Σ ‖xᵢ‖² xᵢ xᵢᵀ, over both blocks.",
    assumptions="zero residual; measured: the trace of the dense Hessian by automatic differentiation",
    kind="value",
    families=(
        family("4 inputs, blocks of 3 and 2, 6 samples", 300, d=4, widths=(3, 2), m=6),
        family("3 inputs, one positive unit, 9 samples", 300, quick=0, d=3, widths=(1, 0), m=9),
    ),
)
def quadratic_network(rng: Generator, count: int, *, d: int, widths: Sequence[int], m: int) -> Batch:
    """The trace of quadratic networks."""
    U, x = rng.normal(size=(count, d, sum(widths))), rng.normal(size=(count, m, d))
    signs = jnp.asarray(np.repeat([1.0, -1.0], widths))
    D2 = np.einsum("ki,kia,kib->kab", np.sum(x**2, axis=2), x, x) / m
    predicted = 8 * np.einsum("kau,kab,kbu->k", U, D2, U)

    @jax.jit
    @jax.vmap
    def dense_trace(u, inputs):
        def predict(w):
            return jnp.sum(signs[None] * (inputs @ w.reshape(u.shape)) ** 2, axis=1)

        labels = predict(u.reshape(-1))
        return jnp.trace(jax.hessian(lambda w: jnp.mean((predict(w) - labels) ** 2))(u.reshape(-1)))

    measured = np.asarray(dense_trace(jnp.asarray(U), jnp.asarray(x)))
    return Batch(predicted, measured, 1e3 * EPS * predicted, data={"U": U, "x": x})
