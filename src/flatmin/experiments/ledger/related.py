"""Kamber and Parhi 2025 (fully observed factorisation) and Mulayoff and Michaeli 2023 (mean-square stability)."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger import _deep, _draw
from flatmin.experiments.ledger._entry import EPS, Batch, entry, family
from flatmin.experiments.ledger._theory import over
from flatmin.theory import kamber2025, mulayoff2023

WIDTHS = {"depth 2, 3x4": (4, 5, 3), "depth 3, 2x2, unequal widths": (2, 5, 3, 2), "depth 6, 3x3": (3,) * 7}


def _families(points: Sequence[str], count: int = 150):
    for label, widths in WIDTHS.items():
        for point in points:
            yield family(f"{label}, {point}", count, quick=None if len(widths) == 4 else 0, widths=widths, point=point)


def _factors(rng: Generator, count: int, widths: Sequence[int], point: str) -> list[np.ndarray]:
    if point in ("random", "deficient", "ill"):
        return _draw.layers(rng, count, widths, "gaussian" if point == "random" else point)
    M = rng.normal(size=(count, widths[-1], widths[0]))
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    depth, r = len(widths) - 1, s.shape[1]
    frames = [Vt.transpose(0, 2, 1), *(_draw.orthonormal(rng, count, w, r) for w in widths[1:-1]), U]
    share = (s ** (1 / depth))[:, None, :]
    W = [(b * share) @ a.transpose(0, 2, 1) for a, b in itertools.pairwise(frames)]
    return _deep.regauged(rng, W, 0.05) if point == "near balanced" else W


def _all_sharpness(W: Sequence[np.ndarray]) -> np.ndarray:
    """`2 lambda_max(J J^T)` with all entries observed."""
    rows, cols = W[-1].shape[1], W[0].shape[2]
    A = np.broadcast_to(np.eye(rows * cols).reshape(1, rows * cols, rows, cols), (len(W[0]), rows * cols, rows, cols))
    J = _deep.jacobian(A, W)
    return 2 * np.linalg.eigvalsh(J @ J.transpose(0, 2, 1))[:, -1]


@entry(
    "kamber-sharpness",
    source="[Kamber, Parhi 2025]",
    statement="‖M − W_L…W₁‖²_F has the sharpness 2 λ_max(Σ_l Q_lᵀ Q_l ⊗ P_l P_lᵀ) at a factorisation of M.",
    assumptions="every entry observed, zero residual; measured: 2 λ_max(J Jᵀ), J the dense Jacobian",
    kind="value",
    functions=("fully_observed_sharpness",),
    families=(*_families(("random", "deficient", "ill")),),
)
def sharpness(rng: Generator, count: int, *, widths: Sequence[int], point: str) -> Batch:
    """The sharpness as a Kronecker sum."""
    W = _factors(rng, count, widths, point)
    predicted = over(lambda *w: kamber2025.fully_observed_sharpness(w), *W)
    return Batch(predicted, _all_sharpness(W), 1e3 * EPS * predicted, data={f"W_{i + 1}": w for i, w in enumerate(W)})


@entry(
    "kamber-upper-bound",
    source="[Kamber, Parhi 2025]",
    statement="That sharpness is at most 2 Σ_l ‖P_l‖²₂ ‖Q_l‖²₂, with equality at depth 2.",
    assumptions="every entry observed, zero residual",
    kind="upper",
    tight=True,
    functions=("fully_observed_sharpness_upper_bound",),
    families=(*_families(("random", "deficient", "ill", "balanced")),),
)
def upper_bound(rng: Generator, count: int, *, widths: Sequence[int], point: str) -> Batch:
    """The sharpness from above."""
    W = _factors(rng, count, widths, point)
    predicted = over(lambda *w: kamber2025.fully_observed_sharpness_upper_bound(w), *W)
    data = {f"W_{i + 1}": w for i, w in enumerate(W)}
    return Batch(predicted, _all_sharpness(W), 1e3 * EPS * predicted, data=data)


@entry(
    "kamber-smallest",
    source="[Kamber, Parhi 2025]",
    statement="No factorisation of M has a sharpness below 2 L ‖M‖₂^(2−2/L); balanced ones attain it.",
    assumptions="every entry observed; hidden widths ≥ rank M",
    kind="lower",
    tight=True,
    functions=("smallest_fully_observed_sharpness",),
    families=(*_families(("random", "deficient", "near balanced", "balanced")),),
)
def smallest(rng: Generator, count: int, *, widths: Sequence[int], point: str) -> Batch:
    """The sharpness from below."""
    W = _factors(rng, count, widths, point)
    depth, measured = len(widths) - 1, _all_sharpness(W)
    predicted = over(lambda m: kamber2025.smallest_fully_observed_sharpness(m, depth), _deep.end_to_end(W))
    data = {f"W_{i + 1}": w for i, w in enumerate(W)}
    return Batch(predicted, measured, 1e3 * depth * EPS * measured, data=data)


@entry(
    "mulayoff-threshold",
    source="[Mulayoff, Michaeli 2023]",
    statement="Mini-batch SGD is stable in the mean square exactly up to η* = 2/λ_max(C⁺ D): there the second-moment "
    "operator of a step, averaged over all batches, has the spectral radius 1.",
    assumptions="interpolating minimum, positive definite Hessian; measured: the radius at η*, by enumeration of all "
    "batches",
    kind="value",
    functions=("mean_square_stability_threshold",),
    families=(
        family("p = 2, n = 5, B = 1", 200, p=2, n=5, batch=1, replacement=False),
        family("p = 3, n = 5, B = 2", 150, p=3, n=5, batch=2, replacement=False),
        family("p = 3, n = 4, B = 2, with replacement", 150, quick=0, p=3, n=4, batch=2, replacement=True),
        family("p = 2, n = 6, full batch", 100, quick=0, p=2, n=6, batch=6, replacement=False),
        family(
            "p = 3, n = 5, B = 2, samples of sizes 1 to 1000",
            150,
            quick=0,
            p=3,
            n=5,
            batch=2,
            replacement=False,
            uneven=True,
        ),
    ),
)
def threshold(
    rng: Generator, count: int, *, p: int, n: int, batch: int, replacement: bool, uneven: bool = False
) -> Batch:
    """The spectral radius of the second moments at the threshold."""
    J = rng.normal(size=(count, n, p))
    if uneven:
        J = J * np.geomspace(1, 30, n)[None, :, None]
    H = 2 * J[:, :, :, None] * J[:, :, None, :]
    eta = over(lambda h: mulayoff2023.mean_square_stability_threshold(h, batch, replacement=replacement), H)
    draws = itertools.product(range(n), repeat=batch) if replacement else itertools.combinations(range(n), batch)
    operator, total = np.zeros((count, p * p, p * p)), 0
    for chosen in draws:
        step = np.eye(p) - eta[:, None, None] * H[:, list(chosen)].mean(axis=1)
        operator += np.einsum("kab,kcd->kacbd", step, step).reshape(count, p * p, p * p)
        total += 1
    radius = np.abs(np.linalg.eigvals(operator / total)).max(axis=1)
    mean = H.mean(axis=1)
    condition = np.linalg.cond(mean)
    return Batch(np.ones(count), radius, 300 * EPS * condition, data={"J": J})
