"""No certificate flatters: every gauge, misfit and domain, at points made to deceive, beside an optimum from Clarabel.

The programmes are typed a second time here, in NumPy and CVXPY, so that nothing of the library's own judges it.
"""

import functools
from typing import NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import measurements as ms
from flatmin import solvers as sv
from flatmin.solvers import large
from flatmin.solvers._host import host_map
from flatmin.solvers._host_solve import certificate_on_host
from flatmin.solvers._host_solve import spectral as gauge_on_host
from flatmin.solvers._plain import to_plain
from flatmin.solvers.large import spectral

SHAPE, SQUARE, COUNT = (3, 4), (3, 3), 5
FITS = 1e-10
"""Relative violation up to which a point counts as feasible, here as in the library."""

CLOSE = 1e-6
"""Relative error of the reference optimum."""

GAUGES = ("nuclear", "scaled", "frobenius", "l1", "l4/3", "symmetric", "symmetric scaled", "psd", "psd scaled")
MISFITS = ("exact", "squared", "l2 ball", "l1", "l1 ball")
PCA = ("whole l1", "whole l1 ball", "masked l1", "masked l1 ball")


class Case(NamedTuple):
    """A programme, and all of it typed plainly."""

    program: sv.AbstractProgram
    tensor: np.ndarray
    targets: np.ndarray
    gauge: str
    weights: tuple[np.ndarray, ...]
    misfit: str
    level: float
    truth: np.ndarray | None = None

    def norm(self, X):
        if "psd" in self.gauge or "symmetric" in self.gauge:
            D = self.weights[0]
            values = np.linalg.eigvalsh(D @ X @ D)
            return values.sum() if "psd" in self.gauge else np.abs(values).sum()
        if self.gauge in ("nuclear", "scaled"):
            return np.linalg.svd(self.weights[0] @ X @ self.weights[1], compute_uv=False).sum()
        if self.gauge == "frobenius":
            return np.sqrt(np.sum(X**2))
        power = 1 if self.gauge == "l1" else 4 / 3
        return np.sum(self.weights[0] * np.abs(X) ** power) ** (1 / power)

    def polar(self, Z):
        if "psd" in self.gauge or "symmetric" in self.gauge:
            D = np.linalg.inv(self.weights[0])
            values = np.linalg.eigvalsh(D @ (Z + Z.T) / 2 @ D)
            return max(values[-1], 0) if "psd" in self.gauge else np.abs(values).max()
        if self.gauge in ("nuclear", "scaled"):
            left, right = map(np.linalg.inv, self.weights)
            return np.linalg.norm(left @ Z @ right, 2)
        if self.gauge == "frobenius":
            return np.sqrt(np.sum(Z**2))
        if self.gauge == "l1":
            return np.max(np.abs(Z) / self.weights[0])
        return np.sum((np.abs(Z) * self.weights[0] ** (-3 / 4)) ** 4) ** (1 / 4)

    def violation(self, residual):
        size = {
            "exact": np.linalg.norm(residual),
            "l2 ball": np.linalg.norm(residual) - self.level,
            "l1 ball": np.abs(residual).sum() - self.level,
        }.get(self.misfit, 0.0)
        return max(size, 0.0) / np.linalg.norm(self.targets)

    def charge(self, residual):
        squared, absolute = residual @ residual / (2 * self.level), self.level * np.abs(residual).sum()
        return {"squared": squared, "l1": absolute}.get(self.misfit, 0.0)

    def bound(self, y):
        """`b.y - h*(y)`, minus infinity where y is outside of the domain."""
        inside = self.polar(np.tensordot(y, self.tensor, 1)) <= 1 + 1e-9
        inside &= self.misfit != "l1" or np.abs(y).max() <= self.level * (1 + 1e-9)
        conjugate = {
            "squared": self.level * (y @ y) / 2,
            "l2 ball": self.level * np.linalg.norm(y),
            "l1 ball": self.level * np.abs(y).max(),
        }.get(self.misfit, 0.0)
        return self.targets @ y - conjugate if inside else -np.inf


def root(moment):
    values, vectors = np.linalg.eigh(moment)
    return (vectors * np.sqrt(values)) @ vectors.T


def plain_weights(gauge, tensor):
    """The weights of a gauge by their definition."""
    m, d1, d2 = tensor.shape
    if gauge == "scaled":
        return root(np.einsum("iab,icb->ac", tensor, tensor) / m), root(np.einsum("iab,iac->bc", tensor, tensor) / m)
    if gauge in ("l1", "l4/3"):
        return (np.sum(tensor**2, axis=0) / m,)
    if gauge in ("symmetric scaled", "psd scaled"):
        parts = (tensor + tensor.transpose(0, 2, 1)) / 2
        return (root(np.einsum("iab,ibc->ac", parts, parts) / m),)
    return np.eye(d1), np.eye(d2)


def make(gauge, op, b, misfit):
    """The library's programme."""
    kinds = {
        "nuclear": sv.MinNuclearNorm,
        "scaled": sv.MinScaledNuclearNorm,
        "frobenius": sv.MinFrobenius,
        "l1": functools.partial(sv.MinWeightedLp, depth=2),
        "l4/3": functools.partial(sv.MinWeightedLp, depth=3),
        "symmetric": sv.MinSymmetricNuclearNorm,
        "symmetric scaled": functools.partial(sv.MinSymmetricNuclearNorm, scaled=True),
        "psd": sv.MinTrace,
        "psd scaled": functools.partial(sv.MinTrace, scaled=True),
    }
    return kinds[gauge](op, b, misfit)


@functools.cache
def case(gauge, kind):
    """One instance: few measurements of a rank-one matrix with some noise, which no matrix of norm zero fits."""
    rng = np.random.default_rng([GAUGES.index(gauge), MISFITS.index(kind)])
    square = "psd" in gauge or "symmetric" in gauge
    shape = SQUARE if square else SHAPE
    tensor = rng.normal(size=(COUNT, *shape))
    truth = np.outer(u := rng.normal(size=shape[0]), u if square else rng.normal(size=shape[1]))
    b = np.tensordot(tensor, truth, 2) + (0 if kind == "exact" else 0.2) * rng.normal(size=COUNT)
    level = {"squared": 0.4, "l1": 0.5, "l2 ball": 0.3 * np.linalg.norm(b), "l1 ball": 0.3 * np.abs(b).sum()}
    weights = plain_weights(gauge, tensor)
    if kind == "l1":  # neither all errors nor none
        level["l1"] = 0.5 / max(Case(None, tensor, b, gauge, weights, kind, 1).polar(A) for A in tensor)
    made = {
        "exact": lambda _: sv.Exact(),
        "squared": sv.SquaredLoss,
        "l2 ball": sv.L2Ball,
        "l1": sv.L1Loss,
        "l1 ball": sv.L1Ball,
    }
    size = level.get(kind, 1.0)
    program = make(gauge, ms.dense(jnp.asarray(tensor)), jnp.asarray(b), made[kind](size))
    return Case(program, tensor, b, gauge, weights, kind, size, truth)


@functools.cache
def pca(name):
    """Robust PCA, all or some entries seen."""
    rng = np.random.default_rng(len(name))
    where, kind = name.split(" ", 1)
    mask = np.ones(SHAPE, bool)
    if where == "masked":
        mask[[0, 2], [1, 3]] = False
    Y = np.outer(rng.normal(size=3), rng.normal(size=4)) + 4 * (rng.random(SHAPE) < 0.2)
    level = 0.5 if kind == "l1" else 0.3 * np.abs(Y[mask]).sum()
    settings = {"penalty": level} if kind == "l1" else {"radius": level}
    program = sv.RobustPCA(Y, mask=None if where == "whole" else mask, **settings)
    tensor = np.eye(12).reshape(12, *SHAPE)[mask.reshape(-1)]
    return Case(program, tensor, Y[mask], "nuclear", (np.eye(3), np.eye(4)), kind, level)


@functools.cache
def optimum(gauge, kind):
    """The optimal value, a minimiser, and multipliers, by Clarabel."""
    made = pca(kind) if gauge == "pca" else case(gauge, kind)
    (m, d1, d2), W = made.tensor.shape, made.weights
    symmetric = "psd" in made.gauge or "symmetric" in made.gauge
    X = cp.Variable((d1, d2), PSD="psd" in made.gauge, symmetric="psd" not in made.gauge and symmetric)
    r = cp.Variable(m)
    norm = {
        "frobenius": lambda: cp.norm(X, "fro"),
        "l1": lambda: cp.sum(cp.multiply(W[0], cp.abs(X))),
        "l4/3": lambda: cp.pnorm(cp.vec(cp.multiply(W[0] ** (3 / 4), X), order="C"), p=4 / 3, max_denom=64),
        "psd": lambda: cp.trace(X),
        "psd scaled": lambda: cp.trace(W[0] @ X @ W[0]),
    }.get(made.gauge, lambda: cp.normNuc(W[0] @ X @ W[-1]))()
    fit = made.tensor.reshape(m, -1) @ cp.vec(X, order="C") - r == made.targets
    constraints, charge = [fit], 0
    if kind == "exact":
        constraints.append(r == 0)
    elif "l2 ball" in kind:
        constraints.append(cp.norm(r) <= made.level)
    elif "l1 ball" in kind:
        constraints.append(cp.norm1(r) <= made.level)
    else:
        charge = cp.sum_squares(r) / (2 * made.level) if kind == "squared" else made.level * cp.norm1(r)
    problem = cp.Problem(cp.Minimize(norm + charge), constraints)
    value = problem.solve(solver=cp.CLARABEL)
    y = max((fit.dual_value, -fit.dual_value), key=lambda y: made.targets @ y)
    return value, np.asarray(X.value), y


def deceptions(made, X, y, rng):
    """Points and multipliers: optimal, nearly so, scaled, random, off the domain, just outside of the ball."""
    noise, turn = rng.normal(size=X.shape), rng.normal(size=X.shape)
    e = np.zeros_like(y)
    e[0] = 1.0
    z = rng.normal(size=y.shape)
    z *= 1.01 / made.polar(np.tensordot(z, made.tensor, 1))
    yield X, y
    yield X + 1e-6 * noise, y + 1e-6 * rng.normal(size=y.shape)
    yield 0.99 * X, 1.01 * y  # outside of a ball by some 1%, and of the polar's
    yield outside(made, X, 1.01), 1.1 * y
    yield outside(made, X, 1 + 1e-6), y * (1 + 1e-6)
    yield X + 0.3 * (turn - turn.T if X.shape == SQUARE else turn), y + 0.3 * rng.normal(size=y.shape)
    yield X - 0.5 * np.eye(*X.shape), z
    yield 1e3 * noise, 1e3 * e
    yield -X, -y
    yield 0 * X, 0.3 * e


FAR = 5
"""Deceptions from here on are no optima."""

SHORT = (0, 3, 5, 6, 7)
"""Those that the short test takes."""


def outside(made, X, factor):
    """A multiple of X below it whose residual is the radius times the factor; X for other misfits."""
    if "ball" not in made.misfit:
        return X
    order = 2 if made.misfit == "l2 ball" else 1
    seen = np.tensordot(made.tensor, X, 2)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        beyond = np.linalg.norm(middle * seen - made.targets, order) > factor * made.level
        low, high = (middle, high) if beyond else (low, middle)
    return low * X


def judged(made, found, best):
    """Whether the certificate calls its point feasible; all that it claims is checked."""
    X, y, value = np.asarray(found.matrix), np.asarray(found.dual), abs(best)
    assert found.dual_value <= best + CLOSE * value
    assert found.dual_value == pytest.approx(made.bound(y), rel=1e-9, abs=1e-9 * value)
    if found.residual > FITS:
        return False
    residual = np.tensordot(made.tensor, X, 2) - made.targets
    assert made.violation(residual) <= 2 * FITS
    if "psd" in made.gauge or "symmetric" in made.gauge:
        np.testing.assert_allclose(X, X.T, atol=1e-12 * np.abs(X).max())
    if "psd" in made.gauge:
        values = np.linalg.eigvalsh(X)
        assert values[0] >= -1e-12 * max(values[-1], 1)
    assert found.primal_value == pytest.approx(made.norm(X) + made.charge(residual), rel=1e-9)
    assert found.primal_value >= best - CLOSE * value
    assert found.gap >= (found.primal_value - best) / found.primal_value - CLOSE
    assert found.gap == pytest.approx(abs(found.primal_value - found.dual_value) / found.primal_value, rel=1e-9)
    return True


@pytest.mark.parametrize("kind", MISFITS)
@pytest.mark.parametrize("gauge", GAUGES)
def test_no_certificate_flatters(gauge, kind):
    check_certificates(case(gauge, kind), *optimum(gauge, kind), SHORT)


@pytest.mark.parametrize("name", PCA)
def test_no_certificate_of_robust_pca_flatters(name):
    check_certificates(pca(name), *optimum("pca", name), SHORT)


@pytest.mark.long
@pytest.mark.parametrize("name", [(g, m) for g in GAUGES for m in MISFITS] + [("pca", name) for name in PCA])
def test_no_certificate_flatters_at_any_point(name):
    check_certificates(pca(name[1]) if name[0] == "pca" else case(*name), *optimum(*name), range(10))


def check_certificates(made, best, X, y, taken):
    in_cone = "psd" in made.gauge
    if in_cone and made.misfit == "exact":
        X = made.truth  # Clarabel's point fits to its own tolerance, and no projection keeps cone and fit
    points = list(deceptions(made, X, y, np.random.default_rng(0)))
    with jax.disable_jit():  # one compilation a programme would cost more than all the points
        found = [sv.certify(made.program, *map(jnp.asarray, points[i])) for i in taken]
    accepted = dict(zip(taken, [judged(made, point, best) for point in found], strict=True))
    # it accepts what is optimal; only a cone may keep a point from the fit
    assert accepted[0]
    assert found[0].gap <= 1e-4 or (in_cone and made.misfit == "exact")
    assert in_cone or all(accepted.values())
    assert accepted[3] or made.misfit == "exact"
    # the rest are no optima: a certificate that calls one optimal is broken
    assert all(point.gap > 1e-3 for i, point in zip(taken, found, strict=True) if i >= FAR)


@pytest.mark.parametrize("gauge", ["nuclear", "scaled", "symmetric", "symmetric scaled", "psd", "psd scaled"])
def test_no_certificate_of_a_batch_flatters(gauge):
    made, (best, X, y) = case(gauge, "exact"), optimum(gauge, "exact")
    plain = to_plain(made.program)
    op, host = host_map(plain.measurements), gauge_on_host(made.program, plain)
    rng = np.random.default_rng(0)
    accepted = []
    for point, dual in deceptions(made, X, y, rng):
        inside = np.asarray(plain.enter(jnp.asarray(point)))
        found = certificate_on_host(op, plain, made.targets, host, inside, dual)
        accepted.append(judged(made, found, best))
    # nothing is projected here (but onto symmetric matrices): a point that does not fit is refused
    assert not any(accepted[FAR + 1 :])


def test_the_nearest_point_of_a_cone_is_taken():
    op = ms.symmetric_rank_one(jnp.eye(3))
    X = jnp.diag(jnp.asarray([2.0, -1.0, 0.5])) + jnp.asarray([[0, 1.0, 0], [-1, 0, 0], [0, 0, 0]])
    loss = sv.SquaredLoss(1.0)
    psd = sv.certify(sv.MinTrace(op, jnp.ones(3), loss), X, jnp.zeros(3))
    np.testing.assert_allclose(psd.matrix, np.diag([2, 0, 0.5]), atol=1e-15)
    symmetric = sv.certify(sv.MinSymmetricNuclearNorm(op, jnp.ones(3), loss), X, jnp.zeros(3))
    np.testing.assert_allclose(symmetric.matrix, np.diag([2, -1, 0.5]), atol=1e-15)


def test_the_nearest_point_of_a_cone_is_taken_in_a_batch():
    made = case("psd", "exact")
    plain = to_plain(made.program)
    op, host = host_map(plain.measurements), gauge_on_host(made.program, plain)
    found = certificate_on_host(op, plain, made.targets, host, np.diag([2.0, -1.0, 0.5]), np.zeros(COUNT))
    np.testing.assert_allclose(found.matrix, np.diag([2, 0, 0.5]), atol=1e-15)


@pytest.mark.parametrize("misfit", [sv.SquaredLoss(0.4), sv.L2Ball(0.3), sv.L1Loss(0.5), sv.L1Ball(0.2)])
def test_misfits_are_even(misfit):
    vector = jnp.asarray([0.1, -3.0, 0.5])
    for question in (misfit.value, misfit.violation, misfit.conjugate, misfit.limit):
        assert float(question(vector)) == float(question(-vector))


@pytest.mark.parametrize("gauge", ["nuclear", "psd", "l1"])
def test_contradictory_targets_are_refused(gauge):
    shape = SQUARE if gauge == "psd" else SHAPE
    tensor = np.random.default_rng(0).normal(size=(3, *shape))
    op = ms.dense(jnp.asarray(np.concatenate([tensor, tensor])))
    program = make(gauge, op, jnp.arange(6.0), sv.Exact())
    for X in (np.zeros(shape), np.ones(shape)):
        found = sv.certify(program, jnp.asarray(X), jnp.ones(6))
        assert found.residual > 0.1


FACTORED = [(w, kind) for w in (0.0, 0.5, 1.0) for kind in ("penalty", "radius")]


@functools.cache
def factored(weighting, kind):
    """A small completion for the large solver, and its optimum."""
    rng = np.random.default_rng(int(10 * weighting))
    shape = (6, 5)
    mask = rng.random(shape) < 0.7
    mask[np.arange(6), np.arange(6) % 5] = True
    rows, cols = np.nonzero(mask)
    values = (np.outer(rng.normal(size=6), rng.normal(size=5)) + 0.3 * rng.normal(size=shape))[mask]
    level = 0.3 * np.linalg.norm(values) if kind == "radius" else 0.1
    problem = large.large_completion(rows, cols, values, shape, weighting=weighting, **{kind: level})
    a, b = ((np.bincount(index) / len(rows)) ** (weighting / 2) for index in (rows, cols))
    X = cp.Variable(shape)
    miss = X[rows, cols] - values
    norm = cp.normNuc(np.diag(a) @ X @ np.diag(b))
    if kind == "penalty":
        best = cp.Problem(cp.Minimize(level * norm + cp.sum_squares(miss) / 2)).solve(solver=cp.CLARABEL)
    else:
        best = cp.Problem(cp.Minimize(norm), [cp.norm(miss) <= level]).solve(solver=cp.CLARABEL)
    return problem, (rows, cols, values, a, b, level), best, np.asarray(X.value)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("weighting", "kind"), FACTORED)
def test_no_certificate_of_factors_flatters(weighting, kind, whole, monkeypatch):
    if not whole:
        monkeypatch.setattr(spectral, "DENSE", 0)
    problem, (rows, cols, values, a, b, level), best, X = factored(weighting, kind)
    rng = np.random.default_rng(1)
    scale = problem.scale
    units = scale if kind == "radius" else scale**2
    points = [X, 1.01 * X, 0.99 * X, 0.5 * X, -X, 0 * X, X + 0.3 * rng.normal(size=X.shape), 30 * X]
    gaps = []
    for point in points:
        U, s, Vt = np.linalg.svd(point / scale)
        left, right = U[:, :5] * s, Vt.T
        found = large.certify_large(problem, left, right, penalty=None, rng=np.random.default_rng(0))
        assert units * found.dual_value <= best * (1 + CLOSE)
        q = found.dual
        matrix = np.zeros(X.shape)
        matrix[rows, cols] = q / (a[rows] * b[cols])
        limit = 1.0 if kind == "radius" else level / scale
        assert np.linalg.norm(matrix, 2) <= limit * (1 + 1e-12)
        penalised = -(q @ q) / 2 if kind == "penalty" else -level / scale * np.linalg.norm(q)
        assert found.dual_value == pytest.approx(q @ values / scale + penalised, rel=1e-9, abs=1e-12)
        miss = np.linalg.norm(point[rows, cols] - values)
        norm = np.linalg.svd(a[:, None] * point * b, compute_uv=False).sum()
        plain = norm if kind == "radius" else level * norm + miss**2 / 2
        assert units * found.primal_value == pytest.approx(plain, rel=1e-9)
        assert scale * found.residual == pytest.approx(miss, rel=1e-9)
        if kind == "penalty" or miss <= level:
            assert units * found.primal_value >= best * (1 - CLOSE)
            assert found.gap >= (units * found.primal_value - best) / (units * found.primal_value) - CLOSE
        assert (found.failure_probability == 0) == whole
        gaps.append(found.gap)
    assert gaps[0] <= (1e-3 if whole else 0.05)
    assert min(gaps[3:]) > 1e-2


@pytest.mark.parametrize(("weighting", "kind"), FACTORED)
def test_factors_that_are_returned_hold_their_certificate(weighting, kind):
    problem, (rows, cols, values, a, b, level), best, _ = factored(weighting, kind)
    found = large.complete(problem, tolerance=1e-6)
    X = found.matrix()
    miss, norm = X[rows, cols] - values, np.linalg.svd(a[:, None] * X * b, compute_uv=False).sum()
    assert found.primal_value == pytest.approx(norm if kind == "radius" else level * norm + miss @ miss / 2, rel=1e-9)
    assert kind == "penalty" or np.linalg.norm(miss) <= level * (1 + 2e-9)
    assert found.dual_value <= best * (1 + CLOSE) <= found.primal_value * (1 + 3 * CLOSE)
    assert found.certificate.dual == found.dual_value


@pytest.mark.parametrize("beyond", [1.0, 1.02, 3.0])
def test_a_random_start_never_bounds_a_norm_from_below_it(beyond, monkeypatch):
    monkeypatch.setattr(spectral, "DENSE", 0)
    rng = np.random.default_rng(4)
    U, V = (np.linalg.qr(rng.normal(size=(n, 60)))[0] for n in (90, 70))
    s = np.append(beyond, np.linspace(1, 0.5, 59))
    matrix = spectral.sparse.csr_array((U * s) @ V.T)
    for seed in range(8):
        for known in (0, 1):
            found = spectral.spectral_bound(
                matrix,
                matrix.T.tocsr(),
                U[:, :known],
                V[:, :known],
                level=2 * beyond,
                rng=np.random.default_rng(seed),
            )
            assert found.lower <= beyond * (1 + 1e-12)
            assert beyond * (1 - 1e-12) <= found.upper <= 2 * beyond
            assert found.failure_probability > 0
