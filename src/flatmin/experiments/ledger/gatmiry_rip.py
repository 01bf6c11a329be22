"""[G] under the restricted isometry property: lemmas 3 and 5, theorems 1 and 2, with constants that are known exactly.

Certifying an RIP constant is hard in general. The assumptions are known to hold here because the instances are of two
kinds: measurements that see all directions but one equally, whose constants of every rank are closed forms, and
measurements whose full-rank constant, an eigenvalue, is taken for the constant of every smaller rank.
"""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger import _deep, _draw, _flat
from flatmin.experiments.ledger._draw import nuclear
from flatmin.experiments.ledger._entry import EPS, Batch, entry, family
from flatmin.experiments.ledger._theory import over
from flatmin.theory import gatmiry2023 as theory

# spectra of the direction that is not seen: from the mildest (all equal) to one that nearly is a rank-one matrix
UNSEEN = {"even": (1.0, 1.0, 1.0, 1.0), "falling": (1.0, 0.6, 0.3, 0.1), "nearly rank one": (1.0, 0.2, 0.0, 0.0)}


def _operators(
    rng: Generator, count: int, shape: tuple[int, int], kind: str, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Measurements and a (rank, delta)-RIP constant that is known to hold."""
    if kind in UNSEEN:
        A, _, delta = _draw.without_one_direction(rng, count, shape, UNSEEN[kind][: min(shape)], rank)
        return A, delta
    A = _draw.measurements(rng, count, 8 * shape[0] * shape[1], shape, kind)
    return A, _draw.full_rank_delta(A)


def _sandwich_families(points: Sequence[str]):
    for label, widths, count in (
        ("depth 2, 4x3", (3, 5, 4), 120),
        ("depth 3, unequal widths", (2, 6, 3, 5), 120),
        ("depth 7, 3x3", (3,) * 8, 80),
    ):
        for kind in (*UNSEEN, "gaussian", "bernoulli"):
            for point in points:
                yield family(
                    f"{label}, {kind}, {point}",
                    count,
                    quick=None if label.startswith("depth 2") or kind == "falling" else 0,
                    widths=widths,
                    kind=kind,
                    point=point,
                )
    for point in points:
        yield family(f"1x1, depth 3, {point}", 100, widths=(1, 1, 1, 1), kind="gaussian", point=point)


def _sandwich(
    rng: Generator, count: int, widths: Sequence[int], kind: str, point: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    shape = (widths[-1], widths[0])
    A, delta = _operators(rng, count, shape, kind, 1)
    if point == "random factors":
        W = _draw.layers(rng, count, widths)
    else:
        r = min(shape)
        M = rng.normal(size=(count, shape[0], r)) @ rng.normal(size=(count, r, shape[1]))
        W = _deep.population_minimiser(rng, M, widths)
        if point == "near the population minimiser":
            W = _deep.regauged(rng, W, 0.1)
    return A, delta, _deep.end_to_end(W), W


@entry(
    "gatmiry-lemma-3-upper",
    source="[G, Lemma 3]",
    statement="tr H ≤ (1 + δ) · 2 Σ_l ‖P_l‖²_F ‖Q_l‖²_F at every point.",
    assumptions="(1, δ)-RIP, δ known exactly or certified",
    kind="upper",
    tight=True,
    families=(*_sandwich_families(("random factors", "population minimiser")),),
)
def lemma_3_upper(rng: Generator, count: int, *, widths: Sequence[int], kind: str, point: str) -> Batch:
    """The trace against the population functional, from above."""
    A, delta, _, W = _sandwich(rng, count, widths, kind, point)
    predicted = (1 + delta) * _deep.population_trace(W)
    data = {"A": A, "delta": delta} | {f"W_{i + 1}": w for i, w in enumerate(W)}
    return Batch(predicted, _deep.trace(A, W), 1e3 * EPS * predicted, data=data)


@entry(
    "gatmiry-lemma-3-lower",
    source="[G, Lemma 3]",
    statement="tr H ≥ (1 − δ) · 2 Σ_l ‖P_l‖²_F ‖Q_l‖²_F at every point.",
    assumptions="(1, δ)-RIP, δ known exactly or certified",
    kind="lower",
    tight=True,
    families=(*_sandwich_families(("random factors", "population minimiser")),),
)
def lemma_3_lower(rng: Generator, count: int, *, widths: Sequence[int], kind: str, point: str) -> Batch:
    """The trace against the population functional, from below."""
    A, delta, _, W = _sandwich(rng, count, widths, kind, point)
    population = _deep.population_trace(W)
    data = {"A": A, "delta": delta} | {f"W_{i + 1}": w for i, w in enumerate(W)}
    return Batch((1 - delta) * population, _deep.trace(A, W), 1e3 * EPS * population, data=data)


@entry(
    "gatmiry-theorem-1-lower",
    source="[G, Thm 1.1]",
    statement="(1 − δ) · 2L (d₀ d_L)^(1/L) ‖M‖∗^(2(L−1)/L) ≤ tr H at all factors of M, so it is a lower bound on F(M).",
    assumptions="(1, δ)-RIP, δ known exactly or certified",
    kind="lower",
    tight=True,
    functions=("rip_regulariser_lower",),
    families=(*_sandwich_families(("random factors", "near the population minimiser", "population minimiser")),),
)
def theorem_1_lower(rng: Generator, count: int, *, widths: Sequence[int], kind: str, point: str) -> Batch:
    """The induced regulariser from below."""
    A, delta, M, W = _sandwich(rng, count, widths, kind, point)
    depth, shape = len(widths) - 1, M.shape[1:]
    predicted = over(lambda size, d: theory.rip_regulariser_lower(size, depth, shape, d), nuclear(M), delta)
    measured = _deep.trace(A, W)
    data = {"A": A, "delta": delta} | {f"W_{i + 1}": w for i, w in enumerate(W)}
    return Batch(predicted, measured, 1e3 * EPS * np.maximum(measured, np.abs(predicted)), data=data)


@entry(
    "gatmiry-theorem-1-upper",
    source="[G, Thm 1.1]",
    statement="F(M) ≤ (1 + δ) · 2L (d₀ d_L)^(1/L) ‖M‖∗^(2(L−1)/L); depth 2: F(M) by theorem 5; deeper: tr H at the "
    "factors of M that are flattest for the population.",
    assumptions="(1, δ)-RIP, δ known exactly or certified",
    kind="upper",
    tight=True,
    functions=("rip_regulariser_upper",),
    families=(*_sandwich_families(("population minimiser",)),),
)
def theorem_1_upper(rng: Generator, count: int, *, widths: Sequence[int], kind: str, point: str) -> Batch:
    """The induced regulariser from above."""
    A, delta, M, W = _sandwich(rng, count, widths, kind, point)
    depth, shape = len(widths) - 1, M.shape[1:]
    predicted = over(lambda size, d: theory.rip_regulariser_upper(size, depth, shape, d), nuclear(M), delta)
    if len(widths) == 3:
        left, right = (_draw.root(D) for D in _draw.moments(A))
        measured = 4 * nuclear(left @ M @ right)
    else:
        measured = _deep.trace(A, W)
    return Batch(predicted, measured, 1e3 * EPS * predicted, data={"A": A, "M": M, "delta": delta})


def _reach(A: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Beyond it no interpolator on the line is the flattest."""
    left, right = (np.linalg.cond(_draw.root(D)) for D in _draw.moments(A))
    return 3 * nuclear(truth) * np.maximum(1, left * right)


def _line(
    rng: Generator, count: int, shape: tuple[int, int], unseen: str, rank: int, true_rank: int, depth: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measurements, the unseen direction N, delta, a truth, and the flattest and the nuclear interpolator M* + t N.

    At depth 2 the flattest one minimises a norm; deeper, the induced regulariser of each matrix is itself a minimum,
    global by geodesic convexity, and the line is searched for the matrix with the least one.
    """
    A, N, delta = _draw.without_one_direction(rng, count, shape, UNSEEN[unseen][: min(shape)], rank)
    truth = rng.normal(size=(count, shape[0], true_rank)) @ rng.normal(size=(count, true_rank, shape[1]))
    left, right = (_draw.root(D) for D in _draw.moments(A))
    reach = _reach(A, truth)
    if depth == 2:
        at = _draw.least_on_lines(truth, N, lambda X: nuclear(left @ X @ right), reach)
    else:
        at = np.array([_flat.flattest_on_line(*each, depth)[0] for each in zip(A, truth, N, reach, strict=True)])
    flat = truth + at[:, None, None] * N
    least = truth + _draw.least_on_lines(truth, N, nuclear, reach)[:, None, None] * N
    return A, N, delta, truth, flat, least


def _line_families(count: int, rank: int, deep: int):
    for shape in ((3, 3), (4, 4), (3, 5)):
        for unseen in UNSEEN:
            for true_rank in (1, 2):
                if rank < min(shape):
                    yield family(
                        f"{shape[0]}x{shape[1]}, unseen direction {unseen}, M* of rank {true_rank}",
                        count,
                        quick=None if shape == (4, 4) else 0,
                        shape=shape,
                        unseen=unseen,
                        true_rank=true_rank,
                        depth=2,
                    )
    for depth, shape, true_rank in ((3, (3, 3), 1), (3, (3, 4), 2), (4, (3, 3), 2), (4, (4, 3), 1)):
        for unseen in UNSEEN:
            yield family(
                f"depth {depth}, {shape[0]}x{shape[1]}, unseen direction {unseen}, M* of rank {true_rank}",
                deep,
                quick=4 if (depth, unseen, true_rank, rank) == (3, "falling", 1, 1) else 0,
                shape=shape,
                unseen=unseen,
                true_rank=true_rank,
                depth=depth,
            )


@entry(
    "gatmiry-definition-1",
    source="[G, Def. 1]",
    statement="The least trace over all interpolating parameters is the least F(M) over all interpolating matrices.",
    assumptions="hidden widths ≥ min(d₀, d_L); n = d₀ d_L − 1, so that the interpolators are a line, searched for the "
    "least F; measured: the direct solver over the factors",
    kind="value",
    families=(
        family("depth 3, widths 3-4-6-3", 8, quick=2, widths=(3, 4, 6, 3), unseen="falling"),
        family("depth 3, widths 4-3-5-3", 8, quick=0, widths=(4, 3, 5, 3), unseen="even"),
        family("depth 4, widths 3-5-3-4-3", 8, quick=0, widths=(3, 5, 3, 4, 3), unseen="falling"),
    ),
    note="tolerance: 1e-6, to which the line is searched",
)
def definition_1(rng: Generator, count: int, *, widths: tuple[int, ...], unseen: str) -> Batch:
    """Two ways to the flattest interpolator."""
    shape, depth = (widths[-1], widths[0]), len(widths) - 1
    A, N, _ = _draw.without_one_direction(rng, count, shape, UNSEEN[unseen][: min(shape)], 1)
    truth = rng.normal(size=(count, shape[0], 2)) @ rng.normal(size=(count, 2, shape[1]))
    reach = _reach(A, truth)
    predicted = np.array([_flat.flattest_on_line(*each, depth)[1] for each in zip(A, truth, N, reach, strict=True)])
    labels = np.einsum("kiab,kab->ki", A, truth)
    starts = ("nuclear", "scaled-nuclear", "random")
    _, measured = _flat.flattest_parameters(A, labels, widths, int(rng.integers(2**31)), starts)
    return Batch(predicted, measured, 1e-6 * predicted, data={"A": A, "truth": truth})


@entry(
    "gatmiry-theorem-1-ratio",
    source="[G, Thm 1.2]",
    statement="‖M_flat‖∗ / min ‖M‖∗ ≤ ((1 + δ)/(1 − δ))^(L/(2(L−1))) over interpolators.",
    assumptions="(1, δ)-RIP with δ < 1; n = d₀ d_L − 1, so that the interpolators are a line, searched for the least "
    "F(M): a norm at depth 2, a geodesically convex problem each at depths 3 and 4",
    kind="upper",
    functions=("rip_nuclear_ratio",),
    families=(*_line_families(80, 1, 10),),
)
def theorem_1_ratio(
    rng: Generator, count: int, *, shape: tuple[int, int], unseen: str, true_rank: int, depth: int
) -> Batch:
    """How far the flattest interpolator is from the least nuclear norm."""
    A, _, delta, truth, flat, least = _line(rng, count, shape, unseen, 1, true_rank, depth)
    predicted = over(lambda d: theory.rip_nuclear_ratio(depth, d), delta)
    measured = nuclear(flat) / nuclear(least)
    # the minimisers are found to about 1e-8 along the line
    slack = 1e-9 if depth == 2 else 1e-6
    return Batch(
        predicted, measured, slack, applies=delta < 1, data={"A": A, "truth": truth, "flat": flat, "delta": delta}
    )


@entry(
    "gatmiry-theorem-2",
    source="[G, Thm 2]",
    statement="‖M_flat − M*‖²_F ≤ δ (‖M_flat‖∗ + ‖M*‖∗)², for every interpolator in place of M_flat too.",
    assumptions="(2, δ)-RIP; half of the instances at the flattest interpolator, of depths 2, 3 and 4",
    kind="upper",
    functions=("rip_recovery_error",),
    families=(*_line_families(80, 2, 10),),
)
def theorem_2(rng: Generator, count: int, *, shape: tuple[int, int], unseen: str, true_rank: int, depth: int) -> Batch:
    """Recovery: half of the instances at the flattest interpolator, half at any."""
    A, N, delta, truth, flat, _ = _line(rng, count, shape, unseen, 2, true_rank, depth)
    anywhere = truth + (rng.normal(size=count) * nuclear(truth))[:, None, None] * N
    found = np.where((np.arange(count) % 2 == 0)[:, None, None], flat, anywhere)
    predicted = over(theory.rip_recovery_error, nuclear(found), nuclear(truth), delta)
    measured = np.sum((found - truth) ** 2, axis=(1, 2))
    return Batch(predicted, measured, 1e-12 * predicted, data={"A": A, "truth": truth, "found": found, "delta": delta})


@entry(
    "gatmiry-lemma-5",
    source="[G, Lemma 5]",
    statement="|(1/n) Σ ⟨Aᵢ, M⟩² − ‖M‖²_F| ≤ δ ‖M‖∗² for every M.",
    assumptions="(2, δ)-RIP",
    kind="upper",
    tight=True,
    families=(
        *(
            family(f"{a}x{b}, {kind}, {form}", 120, shape=(a, b), kind=kind, form=form)
            for a, b in ((3, 3), (4, 5))
            for kind in (*UNSEEN, "gaussian", "bernoulli")
            for form in ("gaussian", "deficient")
        ),
        family("1x1", 100, shape=(1, 1), kind="gaussian", form="gaussian"),
    ),
)
def lemma_5(rng: Generator, count: int, *, shape: tuple[int, int], kind: str, form: str) -> Batch:
    """Energies of matrices of any rank."""
    A, delta = _operators(rng, count, shape, kind, 2)
    M = _draw.matrices(rng, count, *shape, form)
    energy = np.mean(np.einsum("kiab,kab->ki", A, M) ** 2, axis=1)
    size = np.sum(M**2, axis=(1, 2))
    predicted = delta * nuclear(M) ** 2
    return Batch(predicted, np.abs(energy - size), 1e3 * EPS * size, data={"A": A, "M": M, "delta": delta})
