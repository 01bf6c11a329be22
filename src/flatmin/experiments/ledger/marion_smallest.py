"""[M, Thm 1] completed: the smallest sharpness of all minimisers, and what bounds it from above."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger import _deep, _draw
from flatmin.experiments.ledger._entry import Batch, entry, family
from flatmin.experiments.ledger._theory import over
from flatmin.experiments.ledger.marion import _problem, balanced, minimiser, sharpness_of
from flatmin.theory import marion2024
from flatmin.theory import smallest_sharpness as theory

DEPTHS = (2, 3, 5, 10)


def _flattest(covariance: np.ndarray, w: np.ndarray, depth: int) -> list[np.ndarray]:
    return list(over(lambda s, v: theory.smallest_sharpness_minimiser(s, v, depth), covariance, w))


def _covariance(X: np.ndarray) -> np.ndarray:
    return X.transpose(0, 2, 1) @ X / X.shape[1]


@entry(
    "marion-smallest-sharpness",
    source="ours, completing [M, Thm 1]",
    statement="The smallest sharpness of all minimisers is 2 min_t λ_max(t Σ + (L−1) t^(−1/(L−1)) Σ^½ w wᵀ Σ^½), "
    "attained by aligned layers of rank one with geometric norms.",
    assumptions="one output; any depth",
    kind="value",
    functions=("smallest_sharpness", "smallest_sharpness_minimiser"),
    families=tuple(
        family(f"depth {L}, {kind} data", 150, quick=None if L in (3, 10) and kind != "ill" else 0, depth=L, kind=kind)
        for L in DEPTHS
        for kind in ("isotropic", "ill", "deficient")
    ),
)
def smallest_value(rng: Generator, count: int, *, depth: int, kind: str) -> Batch:
    """The explicit minimisers attain it."""
    X, w, _, _ = _problem(rng, count, 12, 4, kind)
    covariance = _covariance(X)
    predicted = over(lambda s, v: theory.smallest_sharpness(s, v, depth), covariance, w)
    W = _flattest(covariance, w, depth)
    off = np.linalg.norm(_deep.end_to_end(W)[:, 0] - w, axis=1) / np.linalg.norm(w, axis=1)
    measured = np.where(off < 1e-12, sharpness_of(X, W), np.nan)
    return Batch(predicted, measured, 1e-11 * predicted, data={"X": X, "w": w})


@entry(
    "marion-smallest-bound",
    source="ours, completing [M, Thm 1]",
    statement="No minimiser is flatter than 2 min_t λ_max(t Σ + (L−1) t^(−1/(L−1)) Σ^½ w wᵀ Σ^½).",
    assumptions="one output; w the end-to-end vector; any depth and widths",
    kind="lower",
    tight=True,
    functions=("smallest_sharpness",),
    families=(
        *(
            family(
                f"depth {len(widths) - 1}, {kind} data, random minimisers", 150, widths=widths, kind=kind, nearby=0.0
            )
            for widths in ((4, 5, 1), (3, 4, 6, 3, 1))
            for kind in ("isotropic", "deficient")
        ),
        *(
            family(f"depth {L}, ill data, gauges of the flattest", 150, widths=(4, *(1,) * L), kind="ill", nearby=size)
            for L, size in ((2, 0.02), (3, 0.1), (5, 0.02))
        ),
    ),
)
def smallest_bound(rng: Generator, count: int, *, widths: Sequence[int], kind: str, nearby: float) -> Batch:
    """Random minimisers, and ones near the flattest, also with parts that no later layer sees."""
    depth, d = len(widths) - 1, widths[0]
    X, w, _, _ = _problem(rng, count, 12, d, kind)
    covariance = _covariance(X)
    if nearby:
        narrow = _flattest(covariance, w, depth)
        # two hidden units per layer: the second one is fed by noise and read by nobody
        W = [np.concatenate([narrow[0], nearby * rng.normal(size=narrow[0].shape)], axis=1)]
        for factor in narrow[1:-1]:
            block = np.zeros((count, 2, 2))
            block[:, :1, :1], block[:, 1:, 1:] = factor, nearby * rng.normal(size=(count, 1, 1))
            W.append(block)
        W.append(np.concatenate([narrow[-1], np.zeros((count, 1, 1))], axis=2))
        W = _deep.regauged(rng, W, nearby)
    else:
        W = minimiser(rng, w, widths, 0.3)
    predicted = over(lambda s, v: theory.smallest_sharpness(s, v, depth), covariance, w)
    measured = sharpness_of(X, W)
    data = {"X": X} | {f"W_{i + 1}": factor for i, factor in enumerate(W)}
    return Batch(predicted, measured, 1e-10 * measured, data=data)


def _constants(rng: Generator, count: int, kind: str) -> tuple[np.ndarray, ...]:
    if kind == "whitened":
        X = np.sqrt(12) * _draw.orthonormal(rng, count, 12, 4) * np.exp(rng.normal(size=(count, 1, 1)))
        w = rng.normal(size=(count, 4))
    else:
        X, w, _, _ = _problem(rng, count, 12, 4, kind)
    covariance = _covariance(X)
    size = np.linalg.norm(w, axis=1)
    a = np.einsum("ki,kij,kj->k", w, covariance, w) / size**2
    return X, w, covariance, a, np.linalg.eigvalsh(covariance)[:, -1], size


def _kinds(count: int):
    for L in DEPTHS:
        for kind in ("whitened", "isotropic", "ill"):
            quick = None if kind == "whitened" or L == 3 else 0
            yield family(
                f"depth {L}, {'Σ = c I' if kind == 'whitened' else kind}", count, quick=quick, depth=L, kind=kind
            )


@entry(
    "marion-smallest-upper",
    source="[M, Thm 1], recalled",
    statement="The smallest sharpness of all minimisers is at most 2 ‖w‖^(2−2/L) sqrt((2L−1) Λ² + (L−1)² a²).",
    assumptions="one output; any depth; equality where Σ is a multiple of the identity",
    kind="upper",
    tight=True,
    functions=("smallest_sharpness_upper_bound",),
    families=tuple(_kinds(150)),
)
def smallest_upper(rng: Generator, count: int, *, depth: int, kind: str) -> Batch:
    """The sharpness of the flattest minimiser, measured at its factors."""
    X, w, covariance, a, top, size = _constants(rng, count, kind)
    predicted = np.asarray(theory.smallest_sharpness_upper_bound(a, top, size, depth))
    measured = sharpness_of(X, _flattest(covariance, w, depth))
    return Batch(predicted, measured, 1e-11 * predicted, data={"X": X, "w": w})


@entry(
    "marion-small-start",
    source="ours",
    statement="The balanced minimiser of rank one, the limit of small starts, has S ≤ 2 (Λ + (L−1) a) ‖w‖^(2−2/L).",
    assumptions="one output; any depth; equality where Σ is a multiple of the identity",
    kind="upper",
    tight=True,
    functions=("small_start_sharpness_upper_bound",),
    families=tuple(_kinds(150)),
)
def small_start(rng: Generator, count: int, *, depth: int, kind: str) -> Batch:
    """The sharpness of balanced layers of rank one."""
    X, w, _, a, top, size = _constants(rng, count, kind)
    predicted = np.asarray(theory.small_start_sharpness_upper_bound(a, top, size, depth))
    measured = sharpness_of(X, balanced(rng, w, depth))
    return Batch(predicted, measured, 1e-11 * predicted, data={"X": X, "w": w})


@entry(
    "marion-small-start-ratio",
    source="ours",
    statement="Its sharpness is at most 1 + (Λ/a − 1)/L times the smallest of all minimisers: a ratio that tends to 1 "
    "with depth.",
    assumptions="one output; any depth; equality where Σ is a multiple of the identity",
    kind="upper",
    tight=True,
    functions=("small_start_sharpness_upper_bound", "smallest_sharpness"),
    families=tuple(_kinds(150)),
)
def small_start_ratio(rng: Generator, count: int, *, depth: int, kind: str) -> Batch:
    """Balanced layers of rank one against the flattest."""
    X, w, covariance, a, top, size = _constants(rng, count, kind)
    predicted = np.asarray(theory.small_start_sharpness_upper_bound(a, top, size, depth)) / np.asarray(
        marion2024.sharpness_lower_bound(a, size, depth)
    )
    measured = sharpness_of(X, balanced(rng, w, depth)) / sharpness_of(X, _flattest(covariance, w, depth))
    return Batch(predicted, measured, 1e-10 * predicted, data={"X": X, "w": w})
