"""Errors of curvature that are errors: coverage, scale, budgets, memory of programs, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError, flatness, linalg
from flatmin._core import JobError, Outcome

SIZE = 120


def spectra(p):
    """Nine maps: eigenvalues and whether they are rotated."""
    k = np.arange(1, p + 1)
    return {
        "flat": (1 + 0.1 * k / p, True),
        "1/k": (1 / k, True),
        "1/k diagonal": (1 / k, False),
        "geometric": (0.9**k, True),
        "rank 3": (np.where(k <= 3, 1.0, 0.0), True),
        "rank 30": (np.where(k <= 30, 1.0, 0.0), True),
        "spikes": (np.r_[100, 50, 20, np.ones(p - 3)], True),
        "indefinite": (np.linspace(-1, 2, p), True),
        "traceless": (np.where(k <= p // 2, 1.0, -1.0), True),
    }


def a_map(name, p=SIZE):
    values, rotated = spectra(p)[name]
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((p, p)))[0] if rotated else np.eye(p)
    return jnp.asarray((Q * values) @ Q.T), float(values.sum())


def coverage(name, estimator, budget, keys):
    H, truth = a_map(name)

    def one(key):
        found = estimator(lambda v: H @ v, len(H), H.dtype, budget, key)
        return found.value, found.error

    value, error = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=50))(
        jax.random.split(jax.random.key(7), keys)
    )
    return float(np.mean(np.abs(np.asarray(value) - truth) <= 1.96 * np.asarray(error))), np.median(error)


def by_hutchinson(matvec, size, dtype, budget, key):
    return linalg.hutchinson(matvec, size, dtype, num_probes=budget, key=key)


def by_hutch_plus_plus(matvec, size, dtype, budget, key):
    return linalg.hutch_plus_plus(matvec, size, dtype, num_matvecs=budget, key=key)


@pytest.mark.long
@pytest.mark.parametrize("budget", [16, 40, 100])
@pytest.mark.parametrize("name", spectra(SIZE))
@pytest.mark.parametrize("estimator", [by_hutchinson, by_hutch_plus_plus])
def test_intervals_of_a_trace_cover(estimator, name, budget):
    covered, width = coverage(name, estimator, budget, 2000)
    assert covered >= 0.93
    constant = (name, estimator) == ("1/k diagonal", by_hutchinson) or width < 1e-9
    assert constant or covered <= 0.97


@pytest.mark.parametrize(("name", "budget"), [("spikes", 40), ("flat", 16)])
def test_an_interval_covers_in_nineteen_of_twenty(name, budget):
    # three standard deviations of 600 draws at 0.93 and 0.97
    covered, _ = coverage(name, by_hutch_plus_plus, budget, 600)
    assert 0.93 - 0.031 <= covered <= 0.97 + 0.021


def test_calibrated_is_student_and_skewness():
    mean, error = linalg.calibrated(jnp.array([1.0, 2.0, 4.0]))
    deviation, skewness = np.std([1, 2, 4], ddof=1), np.mean((np.array([1, 2, 4]) - 7 / 3) ** 3)
    student = 0.95 * (2 / (1 - 0.95**2)) ** 0.5  # two degrees of freedom
    widening = student / 1.959963984540054 * (1 + 0.5 * abs(skewness) / deviation**3 / 3**0.5)
    assert float(mean) == pytest.approx(7 / 3, rel=1e-15)
    assert float(error) == pytest.approx(deviation / 3**0.5 * widening, rel=1e-12)


def test_few_values_have_no_interval_and_all_products_are_exact():
    H, truth = a_map("1/k")
    few = by_hutchinson(lambda v: H @ v, SIZE, H.dtype, 8, jax.random.key(0))
    assert few.error_kind == "none"
    assert few.interval() == (-np.inf, np.inf)
    for found in (
        by_hutchinson(lambda v: H @ v, SIZE, H.dtype, SIZE, jax.random.key(0)),
        by_hutch_plus_plus(lambda v: H @ v, SIZE, H.dtype, SIZE + 9, jax.random.key(0)),
    ):
        assert (found.error_kind, found.matvecs) == ("rounding", SIZE)
        assert abs(float(found) - truth) <= float(found.error) < 1e-12
        low, high = found.interval()
        assert low <= truth <= high


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.long)])
def test_a_scaled_map_has_scaled_answers(dtype):
    H = a_map("1/k", 60)[0].astype(dtype)
    key, found = jax.random.key(0), {}
    for c in (1e-30, 1.0, 1e30):
        scaled = jnp.asarray(c, dtype) * H
        matvec = lambda v, H=scaled: H @ v  # noqa: E731
        traces = [f(matvec, 60, dtype, 40, key) for f in (by_hutchinson, by_hutch_plus_plus)]
        density = linalg.lanczos_density(matvec, 60, dtype, order=8, num_probes=3, key=key)
        top, residual = linalg.eigenpair_residual(matvec, linalg.extreme_eigenvector(matvec, 60, dtype, key=key)[0])
        numbers = [*(x for t in traces for x in (t.value, t.error)), *density.moment(1), top]
        found[c] = np.array([float(x) / c for x in numbers])
        assert abs(float(top) / c - 1) <= float(residual) / c + 1e-6
    eps = float(jnp.finfo(dtype).eps)
    for c in (1e-30, 1e30):
        np.testing.assert_allclose(found[c], found[1.0], rtol=3e3 * eps)


def test_lanczos_keeps_its_budget_and_its_bits():
    d = jnp.arange(400.0)
    for budget in (1, 2, 3, 10, 45):
        found = linalg.lanczos_ends(lambda v: d * v, 400, d.dtype, key=jax.random.key(3), max_matvecs=budget)
        assert found.matvecs == budget
        assert not found.converged
        for vector in (found.lowest, found.highest):
            value, residual = linalg.eigenpair_residual(lambda v: d * v, vector)
            assert np.min(np.abs(np.asarray(d) - float(value))) <= float(residual)
    same = [linalg.extreme_eigenvector(lambda v: 3 * v, 300, d.dtype, key=jax.random.key(3))[0] for _ in range(2)]
    assert (same[0] == same[1]).all()
    top = flatness.sharpness(lambda x: 0.5 * jnp.vdot(x, d * x), jnp.ones(400), flatness.Lanczos(max_matvecs=10))
    assert top.outcome is Outcome.max_iterations
    assert top.matvecs <= 10


def test_another_batch_compiles_nothing_and_programs_are_let_go():
    traced = []

    def loss(x, batch):
        traced.append(1)
        return jnp.mean(jnp.cos(batch @ x))

    batches, point = np.random.default_rng(0).standard_normal((2, 30, 4)), jnp.ones(4)
    values = [flatness.hessian_trace(loss, point, batch=batches[0])]
    before = len(traced)
    values.append(flatness.hessian_trace(loss, point, batch=batches[1]))
    assert len(traced) - before <= 1  # the shape of the output is asked for; nothing is compiled
    for value, batch in zip(values, batches, strict=True):
        assert float(value) == pytest.approx(-np.mean(np.cos(batch.sum(1)) * (batch**2).sum(1)), rel=1e-12)
    from flatmin.linalg import programs

    for shift in range(programs.KEPT + 3):
        flatness.hessian_trace(lambda x, shift=shift: jnp.sum((x - shift) ** 4), point)
    assert len(programs._programs) <= programs.KEPT


def test_single_precision_is_held_against_double_precision():
    X = jnp.asarray(np.random.default_rng(1).standard_normal((50_000, 5)), jnp.float32)

    def loss(w):
        return jnp.mean(jnp.logaddexp(0.0, -(X @ w)))

    w = jnp.linspace(-3, 3, 5, dtype=jnp.float32)
    for measure in (flatness.sharpness, flatness.lowest_curvature, flatness.hessian_trace):
        found, truth = measure(loss, w), measure(loss, w.astype(jnp.float64))
        assert found.value.dtype == jnp.float32
        assert abs(float(found) - float(truth)) <= float(found.error) < 1e-4 * abs(float(truth))


def test_gradient_at_a_repeated_eigenvalue_is_a_subgradient():
    slope = np.asarray(jax.grad(lambda p: flatness.sharpness(lambda q: jnp.sum(q**4), p).value)(jnp.ones(5)))
    assert (slope >= -1e-9).all()
    assert slope.sum() == pytest.approx(24, rel=1e-12)


REFUSED = {
    "complex": (jnp.ones(2, complex), "params"),
    "half": (jnp.ones(2, jnp.float16), "params: got float16"),
    "integers": (jnp.ones(2, int), "params: got an array of int64"),
    "text": ({"w": jnp.ones(2), "act": "relu"}, "params"),
    "empty": (jnp.zeros(0), "params"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("verb", ["hessian_trace", "sharpness", "lowest_curvature", "curvature_range", "spectrum"])
def test_what_is_no_point_is_refused_by_every_verb(verb, name, unchecked):
    point, sentence = REFUSED[name]
    with pytest.raises(UsageError, match=sentence):
        getattr(flatness, verb)(lambda p: sum(jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(p)), point)


def test_a_stochastic_choice_needs_a_key_and_nan_is_named():
    big = jnp.ones(1500)
    with pytest.raises(UsageError, match="key: HutchPlusPlus is stochastic"):
        flatness.hessian_trace(lambda p: jnp.sum(p**2), big)
    with pytest.raises(JobError, match="the loss at this point is NaN"):
        flatness.spectrum(lambda p: jnp.sum(jnp.log(p)), -jnp.ones(3))
