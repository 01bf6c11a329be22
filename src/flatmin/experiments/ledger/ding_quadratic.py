"""[D, Sec 4]: the flattest units of a quadratic network, and how far they are from the smallest ones."""

import jax.numpy as jnp
import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger._draw import nuclear
from flatmin.experiments.ledger._entry import EPS, Batch, entry, family
from flatmin.experiments.ledger._theory import over
from flatmin.measurements import symmetric_rank_one
from flatmin.solvers import MinSymmetricNuclearNorm, solve_batch
from flatmin.theory import ding2022 as theory

FAMILIES = (
    family("4 inputs, 12 samples", 200, d=4, m=12, spread=1.0),
    family("6 inputs, 9 samples, condition 10", 200, quick=0, d=6, m=9, spread=10.0),
    family("3 inputs, 40 samples, condition 100", 200, quick=0, d=3, m=40, spread=100.0),
)
LIBRARY_UNITS = 8
"""So many instances of a family take the units from the library, one call each; the others from NumPy."""


def _samples(rng: Generator, count: int, d: int, m: int, spread: float) -> np.ndarray:
    return rng.normal(size=(count, m, d)) * np.geomspace(1, spread, d)


def _weights(x: np.ndarray) -> np.ndarray:
    return over(lambda inputs: theory.quadratic_weight(symmetric_rank_one(inputs)), x)


def _flat_units(x: np.ndarray, M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units with their signs, one matrix (d, d) and one vector (d,) an instance."""
    D = _weights(x)
    values, vectors = np.linalg.eigh(D @ M @ D)
    units = np.linalg.solve(D, vectors * np.sqrt(np.abs(values))[:, None])
    signs = np.sign(values)
    for i in range(min(LIBRARY_UNITS, len(x))):
        plus, minus = theory.flat_units(symmetric_rank_one(jnp.asarray(x[i])), jnp.asarray(M[i]))
        found = np.concatenate([plus, minus], axis=1)
        units[i] = np.pad(found, ((0, 0), (0, units.shape[2] - found.shape[1])))
        signs[i] = np.repeat([1.0, -1.0, 0.0], [plus.shape[1], minus.shape[1], units.shape[2] - found.shape[1]])
    return units, signs


@entry(
    "ding-quadratic-flat",
    source="[D, Sec 4]",
    statement="No units of M = U₁U₁ᵀ − U₂U₂ᵀ have a smaller 8 (‖D U₁‖² + ‖D U₂‖²) than 8 ‖D M D‖∗.",
    assumptions="any samples; D = ((1/m) Σ ‖xᵢ‖² xᵢ xᵢᵀ)^½",
    kind="lower",
    tight=True,
    functions=("quadratic_weight", "smallest_quadratic_trace", "flat_units"),
    families=tuple(
        family(f"{f.label}, {point}", f.count, quick=f.quick, **f.settings, point=point)
        for f in FAMILIES
        for point in ("random units", "flat units")
    ),
)
def flat_units(rng: Generator, count: int, *, d: int, m: int, spread: float, point: str) -> Batch:
    """The trace over the units of one matrix."""
    x = _samples(rng, count, d, m, spread)
    U, signs = rng.normal(size=(count, d, d)), np.where(np.arange(d) % 2, -1.0, 1.0) * np.ones((count, d))
    M = (U * signs[:, None]) @ U.transpose(0, 2, 1)
    bad = np.zeros(count)
    if point == "flat units":
        U, signs = _flat_units(x, M)
        wrong = np.linalg.norm((U * signs[:, None]) @ U.transpose(0, 2, 1) - M, axis=(1, 2))
        bad = np.where(wrong > 1e-8 * np.linalg.norm(M, axis=(1, 2)), np.nan, 0.0)
    seen = np.sum((x @ U) ** 2, axis=2)
    measured = 8 / m * np.sum(np.sum(x**2, axis=2) * seen, axis=1)
    predicted = over(lambda a, y: theory.smallest_quadratic_trace(symmetric_rank_one(a), y), x, M)
    return Batch(predicted, measured + bad, 1e-9 * measured, data={"x": x, "M": M})


@entry(
    "ding-quadratic-norm-gap",
    source="[D, Thm 3.3], for quadratic networks, derived here",
    statement="(‖U₁‖² + ‖U₂‖²)/‖M_nuc‖∗ − 1 ≤ κ(D)² − 1 at the flat units of a flat solution.",
    assumptions="D invertible; both programmes certified to 1e-8",
    kind="upper",
    functions=("quadratic_norm_gap_bound",),
    families=(
        family("5 inputs, 11 samples", 60, quick=8, d=5, m=11, spread=1.0),
        family("4 inputs, 8 samples, condition 5", 60, quick=0, d=4, m=8, spread=5.0),
    ),
)
def norm_gap(rng: Generator, count: int, *, d: int, m: int, spread: float) -> Batch:
    """How much larger than the smallest units the flat ones are."""
    x = _samples(rng, count, d, m, spread)
    b = rng.normal(size=(count, m))
    operators = [(symmetric_rank_one(jnp.asarray(a)), jnp.asarray(y)) for a, y in zip(x, b, strict=True)]
    flat, least = (
        solve_batch([MinSymmetricNuclearNorm(op, y, scaled=scaled) for op, y in operators], tolerance=1e-8)
        for scaled in (True, False)
    )
    solved = np.array([f.outcome.success and n.outcome.success for f, n in zip(flat, least, strict=True)])
    M = np.stack([np.asarray(f.matrix) for f in flat])
    U, _ = _flat_units(x, M)
    size = np.where(solved, nuclear(np.stack([np.asarray(n.matrix) for n in least])), 1.0)
    predicted = over(theory.quadratic_norm_gap_bound, _weights(x))
    return Batch(
        predicted,
        np.sum(U**2, axis=(1, 2)) / size - 1,
        1e-7 * (1 + predicted),
        applies=solved,
        data={"x": x, "b": b},
    )


@entry(
    "ding-quadratic-overlap",
    source="[D, Thm 3.3], for quadratic networks, derived here",
    statement="‖U₁ᵀU₂‖_F/‖M‖_F ≤ (κ(D)² − 1)/(2√2) at flat units.",
    assumptions="flat units of any matrix; D invertible",
    kind="upper",
    functions=("overlap_bound",),
    families=FAMILIES,
)
def overlap(rng: Generator, count: int, *, d: int, m: int, spread: float) -> Batch:
    """How far the units of one sign are from orthogonal to those of the other."""
    x = _samples(rng, count, d, m, spread)
    G = rng.normal(size=(count, d, d))
    M = G + G.transpose(0, 2, 1)
    U, signs = _flat_units(x, M)
    crossing = (signs[:, :, None] > 0) & (signs[:, None] < 0)
    products = np.where(crossing, U.transpose(0, 2, 1) @ U, 0.0)
    measured = np.linalg.norm(products, axis=(1, 2)) / np.linalg.norm(M, axis=(1, 2))
    predicted = over(theory.overlap_bound, _weights(x))
    return Batch(predicted, measured, 1e4 * EPS * (1 + predicted), data={"x": x, "M": M})
