"""The statements on deep linear regression, full factorisation and mini-batch stability, against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError, sharpness
from flatmin.flatness import Dense
from flatmin.measurements import identity, scaled
from flatmin.parameterizations import Balanced, deep_matrix
from flatmin.problems import RecoveryProblem, deep_linear_regression
from flatmin.theory import STATEMENTS, kamber2025, mulayoff2023
from flatmin.theory import marion2024 as theory


def data(seed, n=12, d=4, stretch=True):
    """Inputs with an uneven covariance, outputs with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * (np.geomspace(1, 4, d) if stretch else 1)
    return jnp.asarray(X), jnp.asarray(X @ rng.normal(size=d) + rng.normal(size=n))


def minimiser(seed, depth, w, spread=0.4):
    """Random layers near balanced ones whose product is exactly w: the first layer is corrected."""
    rng = np.random.default_rng(seed)
    width = w.shape[0]
    layers = list(deep_matrix((1, width), depth).init_params(jax.random.key(seed), Balanced(w[None, :])))
    layers = [W + spread * rng.normal(size=W.shape) * float(jnp.max(jnp.abs(W))) for W in layers]
    left = jnp.eye(1)
    for W in layers[:0:-1]:
        left = left @ W
    gap = w[None, :] - left @ layers[0]
    layers[0] = layers[0] + jnp.linalg.pinv(left) @ gap
    return tuple(layers)


def dense_sharpness(problem, params):
    return float(sharpness(problem, params, Dense()).value)


def test_constants_are_those_of_numpy():
    X, y = map(np.asarray, data(0))
    got = theory.regression_constants(X, y[:, None])
    w = np.linalg.lstsq(X, y, rcond=None)[0]
    Sigma = np.asarray(X.T @ X) / 12
    np.testing.assert_allclose(got.minimiser, w, rtol=1e-11)
    np.testing.assert_allclose(got.covariance, Sigma, rtol=1e-12)
    assert float(got.w_norm) == pytest.approx(np.linalg.norm(w), rel=1e-12)
    assert float(got.a) == pytest.approx(w @ Sigma @ w / (w @ w), rel=1e-11)
    assert float(got.lambda_max) == pytest.approx(np.linalg.eigvalsh(Sigma)[-1], rel=1e-12)
    assert float(got.least_loss) == pytest.approx(np.mean((X @ w - y) ** 2), rel=1e-11)
    assert got.unique
    assert got.caveats == ()


def test_constants_under_jit_and_vmap():
    pairs = [data(seed) for seed in range(3)]
    X, y = (jnp.stack(part) for part in zip(*pairs, strict=True))
    batched = jax.jit(jax.vmap(theory.regression_constants))(X, y)
    single = theory.regression_constants(*pairs[1])
    assert float(batched.a[1]) == pytest.approx(float(single.a), rel=1e-12)
    np.testing.assert_allclose(batched.minimiser[1], single.minimiser, rtol=1e-11)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_lower_bounds_are_not_crossed(depth):
    for seed in range(6):
        X, y = data(seed)
        c = theory.regression_constants(X, y)
        plain = float(theory.sharpness_lower_bound(c.a, c.w_norm, depth))
        sharper = float(theory.minimiser_sharpness_lower_bound(c.covariance, c.minimiser, depth))
        assert plain < sharper
        problem = deep_linear_regression(X, y, depth=depth)
        for params in (minimiser(seed, depth, c.minimiser), minimiser(seed, depth, c.minimiser, spread=0.02)):
            assert dense_sharpness(problem, params) >= sharper * (1 - 1e-12)


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_lower_bounds_are_attained_for_white_inputs(depth):
    X, y = data(3)
    X = 1.7 * np.sqrt(12) * jnp.linalg.qr(X)[0]
    c = theory.regression_constants(X, y)
    params = deep_matrix((1, 4), depth).init_params(jax.random.key(0), Balanced(c.minimiser[None, :]))
    found = dense_sharpness(deep_linear_regression(X, y, depth=depth), params)
    assert float(theory.sharpness_lower_bound(c.a, c.w_norm, depth)) == pytest.approx(found, rel=1e-10)
    assert float(theory.minimiser_sharpness_lower_bound(c.covariance, c.minimiser, depth)) == pytest.approx(found)
    assert float(theory.critical_learning_rate(c.a, c.w_norm, depth)) == pytest.approx(2 / found, rel=1e-10)
    assert float(theory.critical_learning_rate(c.a, c.w_norm, depth)) == pytest.approx(
        1 / (depth * float(c.a) * float(c.w_norm) ** (2 - 2 / depth)), rel=1e-12
    )


def test_lower_bound_holds_over_all_minimisers_of_a_singular_covariance():
    """The least-norm solution gives one bound; minimisers with another end-to-end vector obey it too."""
    X, y = data(1, n=3, d=6)
    c = theory.regression_constants(X, y)
    assert int(c.rank) == 3
    assert not c.unique
    problem = deep_linear_regression(X, y, depth=3)
    bound = float(theory.minimiser_sharpness_lower_bound(c.covariance, c.minimiser, 3))
    null = np.linalg.svd(X)[2][3:]
    for seed, size in itertools.product(range(3), (0.0, 0.3, 2.0)):
        w = c.minimiser + size * jnp.asarray(np.random.default_rng(seed).normal(size=3) @ null)
        np.testing.assert_allclose(theory.minimiser_sharpness_lower_bound(c.covariance, w, 3), bound, rtol=1e-10)
        assert dense_sharpness(problem, minimiser(seed, 3, w, spread=0.05)) >= bound
    assert bound > float(theory.sharpness_lower_bound(c.a, c.w_norm, 3)) > 0.3 * bound


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_balanced_rank_one_sharpness(depth):
    X, y = data(5)
    c = theory.regression_constants(X, y)
    params = deep_matrix((1, 4), depth).init_params(jax.random.key(1), Balanced(c.minimiser[None, :]))
    found = dense_sharpness(deep_linear_regression(X, y, depth=depth), params)
    value = float(theory.balanced_rank_one_sharpness(c.covariance, c.minimiser, depth))
    assert value == pytest.approx(found, rel=1e-9)
    assert float(theory.sharpness_lower_bound(c.a, c.w_norm, depth)) <= value
    assert value <= float(theory.flow_sharpness_upper_bound(c.lambda_max, depth, c.w_norm))


def test_bounds_follow_the_scale_of_the_outputs():
    """y -> c y multiplies every sharpness of a balanced minimiser by c^{2-2/L}; plain numbers for the formulas."""
    assert float(theory.sharpness_lower_bound(0.7, 8.0, 3)) == pytest.approx(6 * 0.7 * 16)
    assert float(theory.flow_sharpness_upper_bound(1.5, 10)) == pytest.approx(120)
    assert float(theory.flow_sharpness_upper_bound(1.5, 3, 8.0)) == pytest.approx(8 * 3 * 1.5 * 16)
    X, y = data(5)
    c, k = theory.regression_constants(X, y), theory.regression_constants(X, 8 * y)
    ratio = theory.balanced_rank_one_sharpness(k.covariance, k.minimiser, 3) / theory.balanced_rank_one_sharpness(
        c.covariance, c.minimiser, 3
    )
    assert float(ratio) == pytest.approx(16)


# --- fully observed -------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_fully_observed_sharpness(depth):
    shape = (3, 4)
    parameterization = deep_matrix(shape, depth)
    keys = jax.random.split(jax.random.key(2), depth)
    layers = tuple(jax.random.normal(k, s) for k, s in zip(keys, parameterization.layer_shapes, strict=True))
    measurements = scaled(identity(shape), 12**0.5)
    M = parameterization.matrix(layers)
    problem = RecoveryProblem(measurements, parameterization, measurements.forward(M))
    found = dense_sharpness(problem, layers)
    assert float(kamber2025.fully_observed_sharpness(layers)) == pytest.approx(found, rel=1e-10)
    upper = float(kamber2025.fully_observed_sharpness_upper_bound(layers))
    assert found <= upper * (1 + 1e-12)
    if depth <= 2:
        assert upper == pytest.approx(found, rel=1e-10)
    smallest = float(kamber2025.smallest_fully_observed_sharpness(M, depth))
    flattest = parameterization.init_params(jax.random.key(3), Balanced(M))
    assert dense_sharpness(problem, flattest) == pytest.approx(smallest, rel=1e-9)
    assert found >= smallest * (1 - 1e-12)
    if depth > 1:
        assert found > 1.05 * smallest


# --- mini-batches ---------------------------------------------------------------------------------


def growth(hessians, batch_size, rate, *, replacement):
    """Spectral radius of `E[(I - eta H_B) (x) (I - eta H_B)]`, over every batch there is."""
    n, p, _ = hessians.shape
    draws = (
        itertools.product(range(n), repeat=batch_size) if replacement else itertools.combinations(range(n), batch_size)
    )
    maps = [np.eye(p) - rate * hessians[list(batch)].mean(axis=0) for batch in draws]
    return np.abs(np.linalg.eigvals(np.mean([np.kron(m, m) for m in maps], axis=0))).max()


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_mean_square_threshold_is_where_the_second_moment_starts_to_grow(batch_size, replacement):
    rng = np.random.default_rng(4)
    factors = rng.normal(size=(4, 2, 3))
    hessians = np.einsum("ika,ikb->iab", factors, factors)  # rank 2 each, full rank together
    threshold = float(
        mulayoff2023.mean_square_stability_threshold(jnp.asarray(hessians), batch_size, replacement=replacement)
    )
    assert growth(hessians, batch_size, 0.999 * threshold, replacement=replacement) < 1
    assert growth(hessians, batch_size, 1.001 * threshold, replacement=replacement) > 1
    full = 2 / np.linalg.eigvalsh(hessians.mean(axis=0))[-1]
    if batch_size == 4 and not replacement:
        assert threshold == pytest.approx(full, rel=1e-12)
    else:
        assert threshold < 0.99 * full


def test_mean_square_threshold_with_common_null_directions():
    rng = np.random.default_rng(5)
    g = rng.normal(size=(3, 5))
    hessians = 2 * np.einsum("ia,ib->iab", g, g)
    threshold = float(mulayoff2023.mean_square_stability_threshold(jnp.asarray(hessians), 1))
    frame = np.linalg.svd(g, full_matrices=False)[2]
    inner = np.einsum("ra,iab,sb->irs", frame, hessians, frame)
    assert growth(inner, 1, 0.999 * threshold, replacement=False) < 1
    assert growth(inner, 1, 1.001 * threshold, replacement=False) > 1


# --- bad input ------------------------------------------------------------------------------------


def test_zero_outputs():
    X, y = data(0)
    for outputs in (0 * y, jnp.asarray(np.linalg.svd(X)[0][:, 5])):  # zero, or orthogonal to every feature
        c = theory.regression_constants(X, outputs)
        assert float(c.w_norm) == 0
        assert np.isnan(float(c.a))
        assert "is zero, so a = w*^T Sigma w* / ||w*||^2 is undefined (NaN)" in c.caveats[0]
        assert float(theory.sharpness_lower_bound(c.a, c.w_norm, 3)) == 0
        assert float(theory.critical_learning_rate(c.a, c.w_norm, 3)) == np.inf
        assert float(theory.minimiser_sharpness_lower_bound(c.covariance, c.minimiser, 3)) == 0
        assert float(theory.balanced_rank_one_sharpness(c.covariance, c.minimiser, 3)) == 0
        assert np.isnan(float(theory.sharpness_lower_bound(c.a, c.w_norm, 1)))


@pytest.mark.parametrize(
    ("X", "rank"),
    [
        (np.random.default_rng(0).normal(size=(1, 3)), 1),
        (np.ones((6, 3)), 1),
        (np.c_[np.ones(6), np.arange(6.0), np.arange(6.0)], 2),
        (np.zeros((6, 3)), 0),
    ],
    ids=["one sample", "constant features", "equal features", "zero"],
)
def test_singular_covariance_is_said(X, rank):
    y = np.arange(1.0, 1 + len(X))
    c = theory.regression_constants(X, y)
    assert int(c.rank) == rank
    assert f"inputs: the covariance has rank {rank} of 3, so the least-squares solution is not unique" in c.caveats[-1]
    np.testing.assert_allclose(c.minimiser, np.linalg.pinv(X) @ y, atol=1e-12)
    assert (float(c.w_norm) == 0) == (rank == 0)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scales_of_the_data(scale):
    X, y = data(6)
    c, k = theory.regression_constants(X, y), theory.regression_constants(scale * X, scale**2 * y)
    assert k.unique
    assert float(k.a) == pytest.approx(scale**2 * float(c.a), rel=1e-10)
    assert float(k.w_norm) == pytest.approx(scale * float(c.w_norm), rel=1e-10)
    assert float(theory.balanced_rank_one_sharpness(k.covariance, k.minimiser, 20)) == pytest.approx(
        scale ** (4 - 2 / 20) * float(theory.balanced_rank_one_sharpness(c.covariance, c.minimiser, 20)), rel=1e-9
    )
    problem = deep_linear_regression(scale * X, scale**2 * y, depth=20, width=4)
    params = problem.parameterization.init_params(jax.random.key(0), Balanced(k.minimiser[None, :]))
    assert float(sharpness(problem, params).value) == pytest.approx(
        float(theory.balanced_rank_one_sharpness(k.covariance, k.minimiser, 20)), rel=1e-9
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: theory.sharpness_lower_bound(1.0, 1.0, 0), "depth: got 0"),
        (lambda: theory.critical_learning_rate(-1.0, 1.0, 2), "a: got -1.0, expected a finite number >= 0"),
        (lambda: theory.flow_sharpness_upper_bound(1.0, 2, -3.0), "w_norm: got -3.0"),
        (lambda: theory.balanced_rank_one_sharpness(jnp.eye(2), jnp.ones(2), 0), "depth: got 0"),
        (lambda: theory.minimiser_sharpness_lower_bound(jnp.eye(2), jnp.ones(2), 0), "depth: got 0"),
        (lambda: theory.regression_constants(np.ones((3, 2)), np.ones(4)), r"got shapes \(3, 2\) and \(4,\)"),
        (lambda: theory.regression_constants(np.ones((3, 2)), np.ones((3, 2))), "those of one output"),
        (lambda: theory.regression_constants(np.ones((0, 2)), np.ones(0)), "n, d >= 1"),
        (lambda: theory.regression_constants(np.ones((3, 2)), [1.0, np.nan, 0.0]), "outputs: got 1 value"),
        (lambda: kamber2025.fully_observed_sharpness((jnp.ones((2, 3)), jnp.ones((2, 3)))), "layers: got shapes"),
        (lambda: kamber2025.smallest_fully_observed_sharpness(jnp.eye(2), 0), "depth: got 0"),
        (lambda: mulayoff2023.batch_noise_weight(3, 4), "1 <= batch_size <= n = 3 without replacement"),
        (
            lambda: mulayoff2023.batch_noise_weight(3, 0, replacement=True),
            "batch_size: got 0, expected an",
        ),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()


def test_statements_are_indexed():
    names = {
        "sharpness_lower_bound",
        "critical_learning_rate",
        "minimiser_sharpness_lower_bound",
        "flow_sharpness_upper_bound",
        "balanced_rank_one_sharpness",
        "fully_observed_sharpness",
        "fully_observed_sharpness_upper_bound",
        "smallest_fully_observed_sharpness",
        "mean_square_stability_threshold",
    }
    assert names <= set(STATEMENTS)
    assert STATEMENTS["critical_learning_rate"].kind == "upper"
