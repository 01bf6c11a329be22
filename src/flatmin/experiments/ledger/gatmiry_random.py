"""[G] about random measurements: examples 1 and 2, theorems 3, 4 and 6, corollary 1, lemma 6."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger import _draw, _flat
from flatmin.experiments.ledger._draw import nuclear
from flatmin.experiments.ledger._entry import Batch, entry, family
from flatmin.measurements import dense, rip_lower_estimate
from flatmin.solvers import MinScaledNuclearNorm, solve_batch
from flatmin.theory import gatmiry2023 as theory

SIDE, LADDER = 6, (7680, 15360, 30720, 61440)


def _rip_ladder(rng: Generator, count: int, rank: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Estimated constants over the ladder of n, shape (count, len(LADDER)), and how many starts agree."""
    delta, agreement = np.empty((2, count, len(LADDER)))
    for j, n in enumerate(LADDER):
        for k in range(count):
            A = _draw.measurements(rng, 1, n, (SIDE, SIDE), kind)[0]
            # only `(1/n) sum <A_i, X>^2` matters: the same for the square root of the moments, one size for every n
            moments = A.reshape(n, -1).T @ A.reshape(n, -1) / n
            values, vectors = np.linalg.eigh(moments)
            root = (vectors * np.sqrt(np.maximum(values, 0) * len(values))).T.reshape(-1, SIDE, SIDE)
            key = jax.random.key(int(rng.integers(2**31)))
            found = rip_lower_estimate(dense(jnp.asarray(root)), key, rank, restarts=8, tolerance=1e-4)
            delta[k, j], agreement[k, j] = float(found.delta), float(found.agreement)
    return delta, agreement


@entry(
    "gatmiry-examples-1-2",
    source="[G, Examples 1 and 2]",
    statement="Gaussian and Bernoulli measurements satisfy (r, δ)-RIP with δ of order sqrt(r (d₀ + d_L)/n): the slope "
    "of log δ over log n is −1/2.",
    assumptions="n ≥ 640 (d₀ + d_L); δ is a lower estimate by alternating maximisation (exact at full rank)",
    kind="mean",
    margin=0.1,
    families=(
        family("Gaussian, rank 1", 40, quick=0, rank=1, kind="gaussian"),
        family("Bernoulli, rank 1", 40, quick=0, rank=1, kind="bernoulli"),
        family("Gaussian, rank 2", 40, quick=0, rank=2, kind="gaussian"),
        family("Gaussian, full rank (exact)", 40, quick=12, rank=SIDE, kind="gaussian"),
    ),
    note=f"d₀ = d_L = {SIDE}, n = {', '.join(map(str, LADDER))}",
)
def examples_1_2(rng: Generator, count: int, *, rank: int, kind: str) -> Batch:
    """How RIP constants shrink with the number of measurements."""
    delta, agreement = _rip_ladder(rng, count, rank, kind)
    x = np.log(LADDER) - np.mean(np.log(LADDER))
    slopes = np.log(delta) @ x / np.sum(x**2)
    extra = {f"delta_{n}": delta[:, j] for j, n in enumerate(LADDER)}
    extra |= {f"agreement_{n}": agreement[:, j] for j, n in enumerate(LADDER)}
    return Batch(np.full(count, -0.5), slopes, data={"delta": delta}, extra=extra)


@entry(
    "gatmiry-rip-estimates",
    source="[G, Def. 3]",
    statement="The lower estimate of the RIP constant attains the true one, where it is known in closed form.",
    assumptions="measurements that see all directions but one equally; 16 starts",
    kind="value",
    families=(
        family("4x4, unseen direction falling, rank 1", 20, quick=3, shape=(4, 4), rank=1),
        family("4x4, unseen direction falling, rank 2", 20, quick=0, shape=(4, 4), rank=2),
        family("3x5, unseen direction falling, full rank", 20, quick=3, shape=(3, 5), rank=3),
    ),
    note="tolerance: that at which the search stops",
)
def rip_estimates(rng: Generator, count: int, *, shape: tuple[int, int], rank: int) -> Batch:
    """The RIP tool against a closed form."""
    spectrum = (1.0, 0.6, 0.3, 0.1)[: min(shape)]
    A, _, delta = _draw.without_one_direction(rng, count, shape, spectrum, rank)
    key = jax.random.key(int(rng.integers(2**31)))
    found = [rip_lower_estimate(dense(jnp.asarray(a)), jax.random.fold_in(key, i), rank) for i, a in enumerate(A)]
    return Batch(delta, np.array([float(f.delta) for f in found]), 1e-4 * delta, data={"A": A})


def flat_solutions(
    rng: Generator, count: int, n: int, size: int, depth: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian measurements, truths of full rank and unit norm, and the flattest interpolators.

    At depth 2 these are solutions of a convex programme, certified to 1e-6; deeper, they are those of the direct
    solver, in layers of unequal widths.

    Args:
        rng: generator.
        count: how many.
        n: measurements of each.
        size: the matrices are size x size.
        depth: L.

    Returns:
        The tensors, the truths and the solutions; NaN where there is none.
    """
    A = rng.normal(size=(count, n, size, size))
    frames = [_draw.orthonormal(rng, count, size, size) for _ in range(2)]
    truth = (frames[0] * 0.5 ** np.arange(size)) @ frames[1].transpose(0, 2, 1)
    truth /= np.linalg.norm(truth, axis=(1, 2), keepdims=True)
    labels = np.einsum("kiab,kab->ki", A, truth)
    if depth > 2:
        widths = (size, *(size + 1 + j % 2 for j in range(depth - 1)), size)
        seed = int(rng.integers(2**31))
        return A, truth, _flat.flattest_parameters(A, labels, widths, seed, ("scaled-nuclear",))[0]
    programs = [MinScaledNuclearNorm(dense(jnp.asarray(a)), jnp.asarray(b)) for a, b in zip(A, labels, strict=True)]
    solutions = solve_batch(programs, tolerance=1e-6)
    found = np.stack([np.asarray(s.matrix) if s.outcome.success else np.full((size, size), np.nan) for s in solutions])
    return A, truth, found


def _fractions(count: int, quick: int):
    for n in (12, 18, 24, 30):
        yield family(f"6x6, n = {n}", count, quick=quick if n in (12, 24) else 0, n=n, size=SIDE, depth=2)
    for depth in (3, 4):
        yield family(f"depth {depth}, 4x4, n = 9", 40, quick=0, n=9, size=4, depth=depth)


@entry(
    "gatmiry-theorem-3",
    source="[G, Thm 3]",
    statement="The population loss of the flattest interpolator is at most (d₀ + d_L)/n ‖M*‖∗² log³ n with high "
    "probability.",
    assumptions="Gaussian measurements; depth 2 certified, depths 3 and 4 by the direct solver where it converged; the "
    "constant of the theorem, which is not given, set to 1; what does not interpolate does not count as the event",
    kind="probability",
    families=(*_fractions(60, 40),),
    note="truths of full rank, so that nothing is recovered exactly",
)
def theorem_3(rng: Generator, count: int, *, n: int, size: int, depth: int) -> Batch:
    """The error of flat solutions on random measurements."""
    A, truth, found = flat_solutions(rng, count, n, size, depth)
    error = np.sum((found - truth) ** 2, axis=(1, 2))
    bound = 2 * size / n * nuclear(truth) ** 2 * np.log(n) ** 3
    measured = np.where(np.isnan(error), np.nan, (error <= bound) & _fits(A, truth, found))
    return Batch(
        np.full(count, 0.9),
        measured,
        applies=_solved(found, depth),
        data={"A": A, "truth": truth},
        extra={"error": error, "bound": bound},
    )


def _fits(A: np.ndarray, truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Whether the matrices interpolate, to 1e-4 of the targets: the theorems are about interpolators alone."""
    targets, seen = (np.einsum("kiab,kab->ki", A, M) for M in (truth, np.nan_to_num(found)))
    return np.linalg.norm(seen - targets, axis=1) <= 1e-4 * np.linalg.norm(targets, axis=1)


def _solved(found: np.ndarray, depth: int) -> np.ndarray:
    """The convex programme must be solved on every instance; the direct solver is allowed to stall."""
    return np.isfinite(found.sum((1, 2))) | np.full(len(found), depth == 2)


@entry(
    "gatmiry-corollary-1",
    source="[G, Cor. 1]",
    statement="The nuclear norm of the flattest interpolator is at most twice that of the truth, with high "
    "probability.",
    assumptions="Gaussian measurements, n ≥ d₀ + d_L; depth 2 certified, depths 3 and 4 by the direct solver where it "
    "converged; the factor 2 stands for the theorem's constant",
    kind="probability",
    families=(*_fractions(60, 40),),
)
def corollary_1(rng: Generator, count: int, *, n: int, size: int, depth: int) -> Batch:
    """The nuclear norm of flat solutions on random measurements."""
    A, truth, found = flat_solutions(rng, count, n, size, depth)
    ratio = np.where(np.isnan(found), 0, found)
    ratio = nuclear(ratio) / nuclear(truth)
    measured = np.where(np.isnan(found).any((1, 2)), np.nan, (ratio <= 2) & _fits(A, truth, found))
    return Batch(
        np.full(count, 0.9),
        measured,
        applies=_solved(found, depth),
        data={"A": A, "truth": truth},
        extra={"ratio": ratio},
    )


@entry(
    "gatmiry-lemma-6",
    source="[G, Lemma 6], constant derived here",
    statement="Standard Gaussian X: E X² 1{|X| ≥ c} ≤ sqrt(2/π) (c + 1/c) exp(−c²/2).",
    assumptions="c > 0; measured: the integral by quadrature",
    kind="upper",
    tight=True,
    families=(
        family("c in [0.1, 1]", 60, low=0.1, high=1.0),
        family("c in [1, 8]", 60, low=1.0, high=8.0),
    ),
    note="the formula of the paper is lost in our copy; this is the bound that its proof needs, by Mills' ratio",
)
def lemma_6(rng: Generator, count: int, *, low: float, high: float) -> Batch:
    """The tail of the second moment."""
    c = rng.uniform(low, high, size=count)
    predicted = np.sqrt(2 / np.pi) * (c + 1 / c) * np.exp(-(c**2) / 2)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = c[:, None] + 6 * (nodes + 1)  # what lies beyond c + 12 is below 1e-30 of it
    measured = np.sqrt(2 / np.pi) * 6 * np.sum(weights * x**2 * np.exp(-(x**2) / 2), axis=1)
    return Batch(predicted, measured, 1e-12 * predicted, data={"c": c})


@entry(
    "gatmiry-theorem-4",
    source="[G, Thm 4]",
    statement="E ‖M_F − M*‖²_F / ‖M*‖²_F = 1 − n/(d₀ d_L) for the interpolator of least Frobenius norm.",
    assumptions="Gaussian measurements",
    kind="mean",
    margin=0.03,
    functions=("min_frobenius_error",),
    families=(
        *(
            family(f"4x6, n = {n}, {kind} truth", 4000, quick=4000, n=n, kind=kind)
            for n, kind in ((2, "gaussian"), (8, "deficient"), (12, "ill"), (18, "spread"))
        ),
    ),
)
def theorem_4(rng: Generator, count: int, *, n: int, kind: str) -> Batch:
    """The error of the interpolator of least Frobenius norm."""
    truth = _draw.matrices(rng, count, 4, 6, kind).reshape(count, 24, 1)
    rows = rng.normal(size=(count, n, 24))
    basis = np.linalg.qr(rows.transpose(0, 2, 1))[0]
    seen = basis @ (basis.transpose(0, 2, 1) @ truth)
    measured = np.sum((truth - seen) ** 2, axis=(1, 2)) / np.sum(truth**2, axis=(1, 2))
    predicted = np.full(count, float(theory.min_frobenius_error(n, (4, 6))))
    return Batch(predicted, measured, data={"A": rows.reshape(count, n, 4, 6), "truth": truth.reshape(count, 4, 6)})


@entry(
    "gatmiry-theorem-6",
    source="[G, Thm 6] (Srebro, Sridharan, Tewari 2010)",
    statement="Every interpolator h of a bounded class has the population loss ≤ H log³ n R_n² + b log(1/0.01)/n, R_n "
    "the Rademacher complexity.",
    assumptions="linear functions of norm ≤ 1 on random signs, squared loss (H = 2, b = 4d); the worst interpolator "
    "of the class; the constant of the theorem, which is not given, set to 1",
    kind="upper",
    families=(
        *(family(f"d = {d}, n = {n}", 300, d=d, n=n) for d, n in ((20, 5), (20, 15), (60, 20), (60, 50), (200, 100))),
    ),
)
def theorem_6(rng: Generator, count: int, *, d: int, n: int) -> Batch:
    """The worst interpolator in the unit ball: the unseen part turned around and stretched to the rim."""
    inputs = rng.choice([-1.0, 1.0], size=(count, n, d))
    truth = rng.normal(size=(count, d))
    truth *= (rng.uniform(size=(count, 1)) ** 0.2) / np.linalg.norm(truth, axis=1, keepdims=True)
    _, s, basis = np.linalg.svd(inputs, full_matrices=False)
    coordinates = np.where(s > 1e-10 * s[:, :1], np.einsum("knd,kd->kn", basis, truth), 0)
    seen = np.sum(coordinates**2, axis=1)
    unseen = np.sqrt(np.maximum(np.sum(truth**2, axis=1) - seen, 0))
    measured = (unseen + np.sqrt(1 - seen)) ** 2
    complexity = np.sqrt(d / n)  # an upper end of E ||sum_i sigma_i x_i|| / n
    predicted = 2 * np.log(n) ** 3 * complexity**2 + 4 * d * np.log(100) / n
    return Batch(np.full(count, predicted), measured, data={"inputs": inputs, "truth": truth})
