"""Stability thresholds of gradient descent and of SGD against runs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from flatmin import UsageError, sharpness
from flatmin.dynamics import (
    GradientDescent,
    Record,
    StochasticGradientDescent,
    train_ensemble,
)
from flatmin.flatness import (
    Dense,
    gauss_newton_spectrum,
    hessian_ends,
    sgd_stability_threshold,
)
from flatmin.parameterizations import Balanced
from flatmin.problems import RecoveryProblem, deep_linear_regression
from flatmin.theory import marion2024, mulayoff2023
from minimisers import at_a_minimiser, interpolating


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


def test_one_sample_has_no_noise():
    """The weight of the noise: 0 for a whole batch, also of one sample; 1 for one of many."""
    assert mulayoff2023.batch_noise_weight(1, 1) == 0
    assert mulayoff2023.batch_noise_weight(1, 3, replacement=True) == 0
    assert mulayoff2023.batch_noise_weight(7, 7) == 0
    assert mulayoff2023.batch_noise_weight(7, 1) == mulayoff2023.batch_noise_weight(7, 1, replacement=True) == 1


def test_the_error_of_the_threshold_is_that_of_the_whole_residual(monkeypatch):
    """Where the eigenvalue may be a tenth smaller, the threshold may be a ninth larger."""
    from flatmin.flatness import mean_square

    found = mean_square.linalg.eigenpair_residual

    def loose(matvec, vector):
        top, _ = found(matvec, vector)
        return top, 0.1 * top

    problem, params = interpolating(7, n=5, shape=(2, 2))
    exact = float(sgd_stability_threshold(problem, params, 2))
    monkeypatch.setattr(mean_square.linalg, "eigenpair_residual", loose)
    got = sgd_stability_threshold(problem, params, 2)
    assert float(got) == pytest.approx(exact, rel=1e-9)
    assert float(got.error) == pytest.approx(exact / 9, rel=1e-9)
