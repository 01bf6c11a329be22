"""Stability thresholds against runs, both ends of the curvature, and what kind of run it was."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from flatmin import Outcome, UsageError, sharpness
from flatmin.dynamics import (
    GradientDescent,
    Record,
    StochasticGradientDescent,
    classify_run,
    progressive_sharpening_rate,
    stability_report,
    train,
    train_ensemble,
)
from flatmin.flatness import (
    Dense,
    Lanczos,
    XTrace,
    curvature_range,
    gauss_newton_spectrum,
    hessian_ends,
    sgd_stability_threshold,
)
from flatmin.measurements import gaussian
from flatmin.parameterizations import Balanced, Gaussian, deep_matrix
from flatmin.problems import RecoveryProblem, deep_linear_regression
from flatmin.theory import marion2024, mulayoff2023


def at_a_minimiser(seed, depth, n=12, d=4):
    """Regression whose least-squares minimiser, with a residual, is a random unbalanced point."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.geomspace(1, 2, d)
    parameterization = deep_matrix((1, d), depth)
    params = tuple(jnp.asarray(rng.normal(size=s) / np.sqrt(d) + np.eye(*s)) for s in parameterization.layer_shapes)
    noise = rng.normal(size=n)
    noise = noise - X @ np.linalg.lstsq(X, noise, rcond=None)[0]
    y = X @ np.asarray(parameterization.matrix(params))[0] + noise
    return deep_linear_regression(jnp.asarray(X), jnp.asarray(y), depth=depth), params


def interpolating(seed, n=8, shape=(3, 3)):
    """Two factors that interpolate Gaussian measurements exactly."""
    measurements = gaussian(jax.random.key(seed), n, shape)
    parameterization = deep_matrix(shape, 2)
    params = parameterization.init_params(jax.random.key(1000 + seed), Gaussian(0.8))
    problem = RecoveryProblem(measurements, parameterization, jnp.zeros(n))
    return RecoveryProblem(measurements, parameterization, problem.predict(params)), params


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


FAMILIES = {
    "regression-2": (lambda seed: at_a_minimiser(seed, 2), 13),
    "regression-3": (lambda seed: at_a_minimiser(seed, 3), 13),
    "regression-5": (lambda seed: at_a_minimiser(seed, 5), 12),
    "sensing": (interpolating, 12),
}


# --- gradient descent at 2/S ----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_descent_converges_below_and_leaves_above_two_over_the_sharpness(family):
    """50 random problems in all, each from near a minimiser, at 0.98 and 1.02 times 2/S."""
    build, count = FAMILIES[family]
    problems, params = zip(*(build(seed) for seed in range(count)), strict=True)
    problems, params = stacked(problems), stacked(params)
    S = jax.jit(jax.vmap(lambda problem, point: gauss_newton_spectrum(problem, point)[-1]))(problems, params)
    keys = jax.random.split(jax.random.key(3), count)
    near = jax.tree.map(lambda W: W + 1e-5 * jax.random.normal(jax.random.key(W.size), W.shape), params)
    least = np.asarray(jax.vmap(lambda problem, point: problem.loss(point))(problems, params))
    excess = {}
    for factor in (0.98, 1.02):
        result = train_ensemble(
            problems,
            GradientDescent(factor * 2 / S),
            near,
            steps=1500,
            keys=keys,
            batched_objective=True,
            records={"loss": Record(problems.loss, every=50)},
        )
        excess[factor] = result.records["loss"].values - least[:, None]
    assert np.all(excess[0.98][:, 0] > 1e-12)
    assert np.all(excess[0.98][:, -1] < 1e-2 * excess[0.98][:, 0])
    assert np.all(np.nanmax(excess[1.02], axis=1) > 1e3 * excess[1.02][:, 0])


def test_closed_form_sharpness_under_jit_and_vmap_is_the_dense_one():
    problems, params = zip(*(at_a_minimiser(seed, 3) for seed in range(3)), strict=True)
    top = jax.jit(jax.vmap(lambda problem, point: gauss_newton_spectrum(problem, point)[-1]))
    ends = jax.jit(jax.vmap(hessian_ends))(stacked(problems), stacked(params))
    dense = [float(sharpness(problem, point, Dense()).value) for problem, point in zip(problems, params, strict=True)]
    np.testing.assert_allclose(top(stacked(problems), stacked(params)), dense, rtol=1e-10)
    np.testing.assert_allclose(ends[:, 1], dense, rtol=1e-10)
    np.testing.assert_allclose(ends[:, 0], 0, atol=1e-10)


def test_closed_form_sharpness_of_two_hundred_layers():
    X, y = np.random.default_rng(0).normal(size=(9, 2)), np.random.default_rng(1).normal(size=9)
    c = marion2024.regression_constants(X, y)
    problem = deep_linear_regression(jnp.asarray(X), jnp.asarray(y), depth=200)
    params = problem.parameterization.init_params(jax.random.key(0), Balanced(c.minimiser[None, :]))
    found = float(gauss_newton_spectrum(problem, params)[-1])
    predicted = marion2024.balanced_rank_one_sharpness(c.covariance, c.minimiser, 200)
    assert found == pytest.approx(float(predicted), rel=1e-9)
    assert found > float(marion2024.sharpness_lower_bound(c.a, c.w_norm, 200)) > 0.3 * found


# --- mini-batches ---------------------------------------------------------------------------------


def jacobian(problem, params):
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jacrev(lambda x: problem.predict(unravel(x)))(flat))


def batches(n, size, *, replacement):
    return list(itertools.product(range(n), repeat=size) if replacement else itertools.combinations(range(n), size))


def moment_growth(J, batch_size, rate, *, replacement):
    """Factor a step of `X <- E[(I - eta H_B) X (I - eta H_B)]` after many steps, over every batch there is."""
    # in the span of the gradients: off it nothing moves, and rounding would leave a factor of one
    J = J @ np.linalg.svd(J, full_matrices=False)[2].T
    n, p = J.shape
    maps = np.stack(
        [
            np.eye(p) - rate * 2 / batch_size * J[list(b)].T @ J[list(b)]
            for b in batches(n, batch_size, replacement=replacement)
        ]
    )
    X = J.T @ J
    for _ in range(400):
        previous = X / np.linalg.norm(X)
        X = np.mean(maps @ previous @ maps.transpose(0, 2, 1), axis=0)
    return np.linalg.norm(X)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_second_moment_of_sgd_grows_beyond_the_threshold_only(batch_size, replacement):
    for seed in range(4):
        problem, params = interpolating(seed, n=5)
        threshold = float(sgd_stability_threshold(problem, params, batch_size, replacement=replacement))
        J = jacobian(problem, params)
        assert moment_growth(J, batch_size, 0.97 * threshold, replacement=replacement) < 1
        assert moment_growth(J, batch_size, 1.03 * threshold, replacement=replacement) > 1


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_threshold_is_that_of_the_dense_matrices(batch_size, replacement):
    problem, params = interpolating(7, n=5, shape=(2, 2))
    J = jacobian(problem, params)
    got = sgd_stability_threshold(problem, params, batch_size, replacement=replacement)
    dense = mulayoff2023.mean_square_stability_threshold(
        jnp.asarray(2 * np.einsum("ia,ib->iab", J, J)), batch_size, replacement=replacement
    )
    assert float(got) == pytest.approx(float(dense), rel=1e-9)
    assert 0 < float(got.error) < 1e-10 * float(got)
    full = 2 / float(sharpness(problem, params).value)
    if batch_size == 5 and not replacement:
        assert float(got) == pytest.approx(full, rel=1e-12)
    else:
        assert float(got) < 0.99 * full


def test_threshold_rises_with_the_batch():
    problem, params = interpolating(3)
    values = [float(sgd_stability_threshold(problem, params, B)) for B in range(1, 9)]
    assert np.all(np.diff(values) > 0)
    with_replacement = [float(sgd_stability_threshold(problem, params, B, replacement=True)) for B in (1, 2, 1000)]
    assert with_replacement[0] == pytest.approx(values[0], rel=1e-12)
    assert with_replacement[1] < values[1]
    assert with_replacement[2] == pytest.approx(values[-1], rel=0.02)


# just below the threshold the second moment falls slowly: the longer run
@pytest.mark.parametrize(("factor", "grows"), [pytest.param(0.9, False, marks=pytest.mark.long), (1.2, True)])
def test_runs_of_sgd_follow_the_second_moment(factor, grows):
    """The library's SGD, batches with replacement, beside the exact moments: the thresholds speak of these runs."""
    problem, params = interpolating(2, n=4)
    rate = factor * float(sgd_stability_threshold(problem, params, 2, replacement=True))
    J, runs, steps, size = jacobian(problem, params), 2000, 4, 1e-7
    flat, unravel = ravel_pytree(params)
    direction = np.linalg.svd(J)[2][0]
    result = train_ensemble(
        problem,
        StochasticGradientDescent(rate, 2),
        unravel(flat + size * direction),
        steps=steps,
        keys=jax.random.split(jax.random.key(5), runs),
        batched_params=False,
    )
    ends = np.concatenate([np.asarray(W).reshape(runs, -1) for W in result.params], axis=1)
    squares = np.sum(((ends - np.asarray(flat)) @ np.linalg.pinv(J) @ J / size) ** 2, axis=1)
    maps = [np.eye(len(direction)) - rate * J[list(b)].T @ J[list(b)] for b in batches(4, 2, replacement=True)]
    X = np.outer(direction, direction)
    for _ in range(steps):
        X = np.mean([m @ X @ m.T for m in maps], axis=0)
    sem = squares.std(ddof=1) / runs**0.5
    assert abs(squares.mean() - np.trace(X)) < 5 * sem
    assert sem < 0.2 * np.trace(X)
    assert (moment_growth(J, 2, rate, replacement=True) > 1) == grows


def test_threshold_of_one_sample_and_of_a_vanishing_hessian():
    X, y = jnp.array([[1.0, 2.0]]), jnp.array([1.0])
    problem = deep_linear_regression(X, y, depth=2)
    params = problem.parameterization.init_params(jax.random.key(0), Balanced(jnp.array([[0.2, 0.4]])))
    full = 2 / float(sharpness(problem, params).value)
    assert float(sgd_stability_threshold(problem, params, 1)) == pytest.approx(full, rel=1e-12)
    zero = deep_linear_regression(X, 0 * y, depth=2)
    nothing = sgd_stability_threshold(zero, jax.tree.map(jnp.zeros_like, params), 1)
    assert float(nothing) == np.inf
    assert float(nothing.error) == 0


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_threshold_at_the_scales_of_the_data(scale):
    problem, params = interpolating(4, n=5)
    scaled = RecoveryProblem(
        type(problem.measurements)(scale * problem.measurements.tensor),
        problem.parameterization,
        scale * problem.targets,
    )
    assert float(sgd_stability_threshold(scaled, params, 2)) == pytest.approx(
        float(sgd_stability_threshold(problem, params, 2)) / scale**2, rel=1e-10
    )


def test_threshold_refuses():
    problem, params = at_a_minimiser(0, 2)
    with pytest.raises(UsageError, match=r"params: got a residual of norm .* expected a point that interpolates"):
        sgd_stability_threshold(problem, params, 2)
    problem, params = interpolating(0)
    with pytest.raises(UsageError, match="batch_size: got 9, expected at most the 8 samples"):
        sgd_stability_threshold(problem, params, 9)
    with pytest.raises(UsageError, match="batch_size: got 0"):
        sgd_stability_threshold(problem, params, 0)


# --- both ends of the curvature -------------------------------------------------------------------


@pytest.mark.parametrize("method", [None, Dense(), Lanczos()])
def test_both_ends_with_their_signs(method):
    """At random starts the eigenvalue of largest size is often negative; it is never called the sharpness."""
    rng = np.random.default_rng(0)
    X, y = jnp.asarray(rng.normal(size=(20, 4))), jnp.asarray(3 * rng.normal(size=20))
    problem, seen = deep_linear_regression(X, y, depth=4), set()
    for seed in (0, 2, 6, 7):
        params = problem.parameterization.init_params(jax.random.key(seed), Gaussian(0.2))
        flat, unravel = ravel_pytree(params)
        values = np.linalg.eigvalsh(jax.hessian(lambda x, u=unravel: problem.loss(u(x)))(flat))
        lowest, highest = ends = curvature_range(problem, params, method)
        assert float(lowest) == pytest.approx(values[0], rel=1e-8)
        assert float(highest) == pytest.approx(values[-1], rel=1e-8)
        assert abs(float(lowest) - values[0]) <= float(lowest.error) + 1e-12
        assert ends.dominated_by_negative is bool(-values[0] > values[-1])
        assert ("the largest in size is negative" in str(ends)) is ends.dominated_by_negative
        assert f"{values[0]:.4g}"[:4] in str(ends)
        seen.add(ends.dominated_by_negative)
    assert seen == {True, False}


def test_lowest_end_of_a_minimiser_by_lanczos_is_zero():
    problem, params = at_a_minimiser(0, 3)
    lowest, highest = curvature_range(problem, params, Lanczos())
    dense = curvature_range(problem, params, Dense())
    assert float(highest) == pytest.approx(float(dense.highest), rel=1e-10)
    assert abs(float(lowest)) < 1e-7 * float(highest)


def test_a_wholly_negative_curvature():
    lowest, highest = ends = curvature_range(lambda x: -jnp.sum(jnp.array([1.0, 2.0, 5.0]) * x**2) / 2, jnp.ones(3))
    assert (float(lowest), float(highest)) == (pytest.approx(-5), pytest.approx(-1))
    assert ends.dominated_by_negative
    with pytest.raises(UsageError, match="XTrace does not give both ends"):
        curvature_range(lambda x: jnp.sum(x**2), jnp.ones(2), XTrace())


# --- what kind of run: curves made by hand --------------------------------------------------------

ETA = 0.1  # 2/eta = 20
K = np.arange(400)
FLAT = np.full(400, 5.0)


def test_converged_at_the_first_loss_that_stays_low():
    verdict = classify_run(np.exp(-0.1 * K), FLAT, ETA, least_loss=0.0)
    assert (verdict.kind, verdict.step, verdict.edge_step) == ("converged", 139, -1)  # exp(-13.9) < 1e-6
    assert not verdict.started_beyond
    assert "from step 139 on" in verdict.reason
    verdict = classify_run(1 + np.exp(-0.1 * K), FLAT, ETA)  # within 2e-6 of each other
    assert (verdict.kind, verdict.step) == ("converged", 132)
    bumped = np.exp(-0.1 * K)
    bumped[200] = 1e-3
    assert classify_run(bumped, FLAT, ETA, least_loss=0.0).step == 201
    assert classify_run(np.exp(-0.1 * K), FLAT, ETA, steps=10 * K, least_loss=0.0).step == 1390


def test_diverged_at_the_first_loss_out_of_range():
    verdict = classify_run(2.0 ** np.arange(60), np.full(60, 30.0), ETA)
    assert (verdict.kind, verdict.step) == ("diverged", 20)  # 2^20 > 1e6
    assert verdict.started_beyond
    broken = np.exp(-0.1 * K)
    broken[7] = np.nan
    assert (classify_run(broken, FLAT, ETA).kind, classify_run(broken, FLAT, ETA).step) == ("diverged", 7)
    assert classify_run(np.exp(-0.1 * K[:50]), FLAT[:50], ETA, divergence_step=55).step == 55
    assert classify_run([0.0, 1e20], [1.0, 1.0], ETA).kind == "descending"  # from zero there is no scale but 1e30
    assert classify_run([0.0, 1e31], [1.0, 1.0], ETA).kind == "diverged"


def at_the_edge():
    """Sharpness climbs from 10 to 20 in 100 steps and stays; the loss falls with a ripple of period three."""
    ripple = 1 + 0.3 * (K % 3 == 0) * (K > 100)
    return np.exp(-0.005 * K) * ripple, np.minimum(10 + 0.1 * K, 20 + 0.5 * np.sin(K))


def test_edge_of_stability_from_the_first_step_in_the_band():
    losses, S = at_the_edge()
    verdict = classify_run(losses, S, ETA, least_loss=0.0)
    assert (verdict.kind, verdict.step, verdict.edge_step) == ("edge of stability", 60, 60)  # 16 = 0.8 * 20
    assert verdict.rises == pytest.approx(1 / 3, abs=0.01)
    narrow = classify_run(losses, S, ETA, band=0.05)
    assert (narrow.kind, narrow.step) == ("edge of stability", 90)
    sparse = np.where(K % 10 == 0, S, np.nan)
    assert classify_run(losses, sparse, ETA).step == 60
    assert classify_run(losses, 0.5 * S, ETA).kind == "oscillating"  # not at 2/eta
    assert classify_run(losses, np.full(400, np.nan), ETA).kind == "oscillating"


def test_oscillating_goes_nowhere():
    losses = np.where(K % 2 == 0, 1.0, 0.5)
    losses[:4] = [3.0, 2.0, 1.5, 0.4]
    for S in (30.0, 20.0):  # beyond 2/eta, or at it: without progress it is no edge of stability
        verdict = classify_run(losses, np.full(400, S), ETA, least_loss=0.0)
        assert (verdict.kind, verdict.step) == ("oscillating", 3)
        assert verdict.rises == pytest.approx(0.5, abs=0.01)
    odd = classify_run(losses[:399], np.full(399, 20.0), ETA, least_loss=0.0)
    assert odd.kind == "oscillating"


def test_descending_is_not_decided():
    verdict = classify_run(1 / (1 + K), FLAT, ETA, least_loss=0.0)
    assert (verdict.kind, verdict.step) == ("descending", 399)
    assert verdict.rises == 0


def test_sharpening_rate():
    S = at_the_edge()[1]
    rate = progressive_sharpening_rate(K, S, ETA, until=0.95)
    assert float(rate) == pytest.approx(1.0, rel=1e-9)  # 0.1 a step, a step is 0.1
    assert float(rate.error) < 1e-9
    noisy = 10 + 0.1 * K[:80] + np.random.default_rng(0).normal(size=80)
    fit, cov = np.polyfit(ETA * K[:80], noisy, 1, cov="unscaled")
    rate = progressive_sharpening_rate(K[:80], noisy, ETA, until=10)
    residual = noisy - np.polyval(fit, ETA * K[:80])
    assert float(rate.error) == pytest.approx(np.sqrt(cov[0, 0] * residual @ residual / 78), rel=1e-9)
    beyond = progressive_sharpening_rate(K, np.full(400, 21.0), ETA)
    assert np.isnan(float(beyond))
    assert float(beyond.error) == np.inf


# --- what kind of run: real ones ------------------------------------------------------------------


@functools.cache
def real():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3)) * np.geomspace(1, 2, 3)
    y = X @ rng.normal(size=3) + 0.5 * rng.normal(size=20)
    y = y / marion2024.regression_constants(X, y).w_norm
    return deep_linear_regression(jnp.asarray(X), y, depth=3), marion2024.regression_constants(X, y)


def report(rate, scale=0.1, steps=300, every=1):
    problem, c = real()
    params = problem.parameterization.init_params(jax.random.key(0), Gaussian(scale))
    result = train(
        problem,
        GradientDescent(rate),
        params,
        steps=steps,
        key=jax.random.key(0),
        records={
            "loss": Record(problem.loss, every=1),
            "sharpness": Record(functools.partial(hessian_ends, problem), every=every),
        },
    )
    return result, stability_report(result, rate, highest=lambda v: v[:, 1], least_loss=float(c.least_loss))


def test_real_run_below_the_critical_rate_converges():
    _, c = real()
    rate = 0.6 * float(marion2024.critical_learning_rate(c.a, c.w_norm, 3))
    result, seen = report(rate)
    assert seen.verdict.kind == "converged"
    assert seen.verdict.edge_step == -1
    assert seen.threshold == 2 / rate
    assert float(seen.sharpening) > 5 * float(seen.sharpening.error)  # from a small start the sharpness rises
    excess = np.asarray(result.records["loss"].values) - float(c.least_loss)
    step = seen.verdict.step
    assert np.all(excess[step:] <= 1e-6 * excess[0])
    assert excess[step - 1] > 1e-6 * excess[0]
    assert seen.sharpness[-1] < seen.threshold
    _, sparse = report(rate, every=50)
    assert sparse.verdict.step == step
    np.testing.assert_array_equal(sparse.steps, np.arange(0, 301, 50))
    np.testing.assert_allclose(sparse.losses, result.records["loss"].values[::50], rtol=1e-12)


def test_real_run_beyond_the_critical_rate_does_not_converge():
    _, c = real()
    _, seen = report(1.05 * float(marion2024.critical_learning_rate(c.a, c.w_norm, 3)), steps=1000)
    assert seen.verdict.kind in ("oscillating", "edge of stability")
    assert seen.losses[-1] > 1.001 * float(c.least_loss)


def test_real_run_between_flow_and_flattest_ends_flatter_than_the_flow():
    """The balanced minimiser, where the flow ends, is too sharp for this rate: training goes to the edge first."""
    _, c = real()
    balanced = float(marion2024.balanced_rank_one_sharpness(c.covariance, c.minimiser, 3))
    _, seen = report(2 / (1.02 * balanced))
    assert seen.verdict.kind == "converged"
    assert 0 <= seen.verdict.edge_step < seen.verdict.step
    _, early = report(2 / (0.995 * balanced), steps=2000)
    assert early.verdict.kind == "edge of stability"
    assert np.abs(early.sharpness[1000:] / early.threshold - 1).max() < 0.2


def test_initialisation_beyond_two_over_eta():
    """It starts where descent is unstable: a moderate excess leads to a flatter place, a large one to divergence."""
    problem, _ = real()
    params = problem.parameterization.init_params(jax.random.key(0), Gaussian(1.2))
    S = float(curvature_range(problem, params).highest)
    _, moderate = report(2.4 / S, scale=1.2)
    assert moderate.verdict.started_beyond
    assert moderate.verdict.kind == "converged"
    assert np.isnan(float(moderate.sharpening))
    result, far = report(12 / S, scale=1.2)
    assert far.verdict.started_beyond
    assert (far.verdict.kind, result.outcome) == ("diverged", Outcome.diverged)
    assert far.verdict.step <= result.divergence_step


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: classify_run([1.0, 2.0], [1.0], 0.1), r"losses, sharpness, steps: got shapes \(2,\), \(1,\)"),
        (lambda: classify_run([], [], 0.1), "at least one record"),
        (lambda: classify_run([1.0, 2.0], [1.0, 1.0], 0.1, steps=[3, 3]), "steps: expected increasing steps"),
        (lambda: classify_run([1.0], [1.0], -0.1), "learning_rate: got -0.1"),
        (lambda: progressive_sharpening_rate([1, 2], [1.0], 0.1), "steps, sharpness: got shapes"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()


def test_reports_need_their_records():
    problem, _ = real()
    params = problem.parameterization.init_params(jax.random.key(0), Gaussian(0.1))
    result = train(problem, GradientDescent(0.01), params, steps=3, key=jax.random.key(0))
    with pytest.raises(UsageError, match=r"result: has the records \[\], expected one named 'loss'"):
        stability_report(result, 0.01)
