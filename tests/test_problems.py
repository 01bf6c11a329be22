"""The recovery problem by plain loops, and every preset with its planted truth."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatmin.measurements as fm
from flatmin import UsageError
from flatmin._core import FunctionObjective
from flatmin.parameterizations import Balanced, DeepMatrix, Gaussian, Hadamard, Quadratic, Sum, deep_matrix
from flatmin.problems import (
    RecoveryProblem,
    bilinear_sensing,
    covariance_estimation,
    deep_linear_regression,
    low_rank_matrix,
    matrix_completion,
    matrix_sensing,
    phase_retrieval,
    planted,
    power_law,
    quadratic_network,
    robust_pca,
    sparse_recovery,
)
from registry import measurements, numbers, parameters

KEY = jax.random.key(5)


def small_problem(kind="low_rank-3x4"):
    op, tensor = measurements(kind)
    par = DeepMatrix((op.matrix_shape[1], 4, op.matrix_shape[0]))
    targets = numbers(300, op.num_measurements)
    return RecoveryProblem(op, par, jnp.asarray(targets)), parameters(par, 1), tensor, targets


@pytest.mark.parametrize("kind", ["low_rank-3x4", "entries-3x4", "regression-3x4", "stacked-3x4", "identity-3x4"])
def test_losses_are_plain_means_of_squares(kind):
    problem, params, tensor, targets = small_problem(kind)
    X = np.asarray(params[1]) @ np.asarray(params[0])
    total = 0.0
    residuals = []
    for A, b in zip(tensor, targets, strict=True):
        residuals.append(float((A * X).sum() - b))
        total += residuals[-1] ** 2
    np.testing.assert_allclose(problem.loss(params), total / len(targets), rtol=1e-13)  # mean, and no 1/2
    np.testing.assert_allclose(problem.residual(params), residuals, rtol=0, atol=1e-13 * np.max(np.abs(residuals)))
    np.testing.assert_allclose(problem.predict(params), residuals + targets, rtol=0, atol=1e-12)
    assert problem.num_samples == len(targets)
    indices, shift = [2, 0, 2, 5, 2], numbers(301, 5)
    plain = sum(residuals[i] ** 2 for i in indices) / 5
    moved = sum(((tensor[i] * X).sum() - (targets[i] + s)) ** 2 for i, s in zip(indices, shift, strict=True)) / 5
    batch = eqx.filter_jit(problem.batch_loss)
    np.testing.assert_allclose(batch(params, jnp.asarray(indices), None), plain, rtol=1e-12)
    np.testing.assert_allclose(batch(params, jnp.asarray(indices), jnp.asarray(shift)), moved, rtol=1e-12)
    np.testing.assert_allclose(
        problem.batch_loss(params, jnp.arange(len(targets)), None), total / len(targets), rtol=1e-12
    )
    again = jax.tree.unflatten(*reversed(jax.tree.flatten(problem)))
    assert eqx.tree_equal(again, problem)


def test_a_function_is_an_objective_of_one_sample():
    objective = FunctionObjective(lambda p: 3 * jnp.sum(p**2))
    assert objective.num_samples == 1
    assert float(objective.loss(jnp.array([1.0, 2.0]))) == 15
    with pytest.raises(
        ValueError, match="a bare function has no samples to draw a mini-batch from; use GradientDescent"
    ):
        objective.batch_loss(jnp.ones(2), jnp.array([0]), None)


def test_low_rank_matrices_have_rank_and_norm():
    for rank in (1, 2, 3):
        M = low_rank_matrix(KEY, (3, 5), rank, norm=2.5)
        s = np.linalg.svd(M, compute_uv=False)
        assert (s > 1e-10).sum() == rank
        np.testing.assert_allclose(np.linalg.norm(s), 2.5, rtol=1e-14)
    many = jax.vmap(lambda k: low_rank_matrix(k, (3, 4), 2, norm=None))(jax.random.split(KEY, 3000))
    squares = np.sum(np.asarray(many) ** 2, axis=(1, 2))  # E ||M_1 M_2||_F^2 = d1 d2 r
    assert abs(squares.mean() - 24) < 5 * squares.std() / 3000**0.5


PRESETS = {
    "gaussian": lambda key, noise: matrix_sensing(key, (4, 5), 2, 30, depth=3, noise=noise),
    "bernoulli": lambda key, noise: matrix_sensing(key, (4, 5), 2, 30, ensemble="bernoulli", width=6, noise=noise),
    "bilinear": lambda key, noise: bilinear_sensing(key, (4, 5), 2, 30, depth=2, noise=noise),
    "completion": lambda key, noise: matrix_completion(key, (4, 5), 2, 0.7, noise=noise),
    "quadratic": lambda key, noise: quadratic_network(key, 5, 30, positive=2, negative=1, noise=noise),
    "weighted completion": lambda key, noise: matrix_completion(
        key, (6, 7), 2, 0.6, noise=noise, row_weights=power_law(6, 0.8), col_weights=power_law(7, 0.5)
    ),
    "covariance": lambda key, noise: covariance_estimation(key, 5, 2, 30, noise=noise),
    "phase retrieval": lambda key, noise: phase_retrieval(key, 5, 30, noise=noise),
    "sparse": lambda key, noise: sparse_recovery(key, 9, 3, 30, depth=3, noise=noise),
}
RANKS = {"quadratic": 3, "phase retrieval": 1, "sparse": 1}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_consistent_with_their_truth(name):
    made, noisy = PRESETS[name](KEY, 0.0), PRESETS[name](KEY, 0.1)
    problem = made.problem
    np.testing.assert_allclose(np.linalg.norm(made.truth), 1, rtol=1e-13)
    assert np.linalg.matrix_rank(np.asarray(made.truth), tol=1e-10) == RANKS.get(name, 2)
    tensor = np.asarray(fm.materialise(problem.measurements))
    np.testing.assert_allclose(problem.targets, np.einsum("iab,ab->i", tensor, made.truth), rtol=0, atol=1e-13)
    params = problem.parameterization.init_params(KEY, Balanced(made.truth))
    assert float(problem.loss(params)) < 1e-28
    assert float(made.squared_error(params)) < 1e-28
    other = jax.tree.map(lambda w: 1.1 * w, params)
    gap = np.asarray(problem.matrix(other)) - np.asarray(made.truth)
    np.testing.assert_allclose(made.squared_error(other), np.sum(gap**2), rtol=1e-13)
    assert float(problem.loss(other)) > 1e-4
    # same key, same instance; the noise is added to the same targets, with the asked size
    assert eqx.tree_equal(PRESETS[name](KEY, 0.0), made)
    assert not eqx.tree_equal(PRESETS[name](jax.random.key(6), 0.0), made)
    assert eqx.tree_equal(noisy.truth, made.truth)
    noise = np.asarray(noisy.problem.targets - problem.targets) / 0.1
    assert abs((noise**2).mean() - 1) < 5 * (2 / noise.size) ** 0.5
    assert abs(noise.mean()) < 5 / noise.size**0.5


def test_preset_shapes():
    assert PRESETS["gaussian"](KEY, 0.0).problem.parameterization.widths == (5, 5, 5, 4)
    assert PRESETS["bernoulli"](KEY, 0.0).problem.parameterization.widths == (5, 6, 4)
    assert set(np.unique(PRESETS["bernoulli"](KEY, 0.0).problem.measurements.tensor)) == {-1.0, 1.0}
    assert isinstance(PRESETS["bilinear"](KEY, 0.0).problem.measurements, fm.LowRankMeasurements)
    student = quadratic_network(KEY, 5, 30, positive=2, negative=1, units=(3, 2)).problem.parameterization
    assert (student.positive, student.negative) == (3, 2)
    seen = [matrix_completion(k, (20, 30), 2, 0.3).problem.num_samples for k in jax.random.split(KEY, 5)]
    assert abs(np.sum(seen) - 5 * 600 * 0.3) < 5 * (5 * 600 * 0.3 * 0.7) ** 0.5


HELD_OUT = {
    "sensing": lambda key, noise: matrix_sensing(key, (4, 5), 2, 30, noise=noise, held_out=40),
    "bilinear": lambda key, noise: bilinear_sensing(key, (4, 5), 2, 30, noise=noise, held_out=40),
    "completion": lambda key, noise: matrix_completion(key, (12, 13), 2, 0.4, noise=noise, held_out=40),
    "quadratic": lambda key, noise: quadratic_network(key, 5, 30, positive=2, negative=1, noise=noise, held_out=40),
    "covariance": lambda key, noise: covariance_estimation(key, 5, 2, 30, noise=noise, held_out=40),
    "phase": lambda key, noise: phase_retrieval(key, 5, 30, noise=noise, held_out=40),
    "sparse": lambda key, noise: sparse_recovery(key, 9, 3, 30, noise=noise, held_out=40),
}


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_measurements_are_others_of_the_same_truth(name):
    made, noisy = HELD_OUT[name](KEY, 0.0), HELD_OUT[name](KEY, 0.5)
    test, train = made.held_out, made.problem
    assert test.num_samples == 40
    seen = np.asarray(fm.materialise(train.measurements)).reshape(train.num_samples, -1)
    kept = np.asarray(fm.materialise(test.measurements)).reshape(40, -1)
    assert not (kept[:, None] == seen[None]).all(-1).any()
    np.testing.assert_allclose(test.targets, kept @ np.asarray(made.truth).reshape(-1), atol=1e-12)
    params = train.parameterization.init_params(KEY, Balanced(made.truth))
    assert float(test.loss(params)) < 1e-26
    noise = np.asarray(noisy.held_out.targets - test.targets) / 0.5
    assert abs((noise**2).mean() - 1) < 5 * (2 / 40) ** 0.5
    # asking for them changes nothing of the rest
    np.testing.assert_array_equal(noisy.problem.targets.shape, train.targets.shape)
    assert eqx.tree_equal(made.truth, noisy.truth)


def test_popular_rows_are_seen_more_often():
    weights = power_law(40, 1.0)
    np.testing.assert_allclose(weights, 1 / np.arange(1, 41))
    made = [matrix_completion(k, (40, 30), 1, 0.3, row_weights=weights) for k in jax.random.split(KEY, 8)]
    counts = np.zeros(40)
    for planted_problem in made:
        rows = np.asarray(planted_problem.problem.measurements.rows)
        counts += np.bincount(rows, minlength=40)
        assert np.bincount(rows, minlength=40).min() >= 1
        assert np.bincount(planted_problem.problem.measurements.cols, minlength=30).min() >= 1
    share = counts / (8 * 30)
    # min(1, c / i) with a mean of 0.3, the first three being 1
    chance = np.minimum(1, 9 / np.sum(1 / np.arange(4, 41)) / np.arange(1, 41))
    assert chance.mean() == pytest.approx(0.3)
    assert share[0] == 1
    assert np.all(np.abs(share - chance) < 5 * np.sqrt(chance * (1 - chance) / 240) + 0.03)


def test_robust_pca_has_a_truth_and_errors():
    made = robust_pca(KEY, (30, 40), 2, 0.1, outlier_size=5.0)
    assert np.linalg.matrix_rank(np.asarray(made.truth), tol=1e-10) == 2
    wrong = np.asarray(made.outliers) != 0
    assert abs(wrong.mean() - 0.1) < 5 * (0.09 / 1200) ** 0.5
    bound = 5.0 / 1200**0.5
    assert 0.9 * bound < np.abs(made.outliers).max() <= bound
    np.testing.assert_allclose(made.problem.targets.reshape(30, 40), made.truth + made.outliers, atol=1e-15)
    factors = made.problem.parameterization.parts[0].init_params(KEY, Balanced(made.truth))
    params = (factors, (made.outliers,))
    assert float(made.squared_error(params)) < 1e-28
    assert float(made.problem.loss(params)) < 1e-28
    np.testing.assert_allclose(made.relative_error(2 * made.truth), 1.0, rtol=1e-12)
    part = robust_pca(KEY, (30, 40), 2, 0.1, fraction=0.5, noise=0.1, held_out=25)
    assert abs(part.problem.num_samples / 1200 - 0.5) < 5 * (0.25 / 1200) ** 0.5
    places = {
        (int(i), int(j)) for i, j in zip(part.held_out.measurements.rows, part.held_out.measurements.cols, strict=True)
    }
    train = {
        (int(i), int(j)) for i, j in zip(part.problem.measurements.rows, part.problem.measurements.cols, strict=True)
    }
    assert len(places) == 25
    assert not places & train


def test_sums_add_and_refuse_to_guess():
    parts = (deep_matrix((3, 4), 2), Hadamard((3, 4), 1))
    both = Sum(parts)
    params = both.init_params(KEY, Gaussian(0.5))
    np.testing.assert_allclose(both.matrix(params), params[0][1] @ params[0][0] + params[1][0], rtol=1e-14)
    assert abs(float(jnp.std(params[1][0])) - 0.5) < 0.4
    with pytest.raises(UsageError, match="scheme: Balanced is not defined for Sum; use one of Gaussian, Small"):
        both.init_params(KEY, Balanced(jnp.ones((3, 4))))
    with pytest.raises(UsageError, match=r"parts: got matrix shapes \[\(3, 4\), \(4, 3\)\], expected one or more"):
        Sum((parts[0], Hadamard((4, 3), 1)))


def test_deep_linear_regression_is_least_squares():
    X, y, Y = numbers(310, 7, 3), numbers(311, 7), numbers(312, 7, 2)
    for outputs, q in ((y, 1), (Y, 2)):
        problem = deep_linear_regression(jnp.asarray(X), jnp.asarray(outputs), depth=3)
        assert problem.parameterization.widths == (3, 3, 3, q)
        params = parameters(problem.parameterization, 2)
        W = np.linalg.multi_dot([np.asarray(w) for w in params[::-1]])
        expected = sum((W[k] @ X[i] - outputs.reshape(7, q)[i, k]) ** 2 for i in range(7) for k in range(q)) / (7 * q)
        np.testing.assert_allclose(problem.loss(params), expected, rtol=1e-13)


PAR, OP = deep_matrix((2, 3), 2), fm.identity((2, 3))
MISTAKES = {
    "shapes": (
        lambda: RecoveryProblem(OP, Hadamard((3, 2), 2), jnp.zeros(6)),
        r"parameterization: has matrix_shape \(3, 2\), but the measurements read matrices of shape \(2, 3\)",
    ),
    "targets": (lambda: RecoveryProblem(OP, PAR, jnp.zeros(5)), r"targets: got shape \(5,\), expected \(6,\)"),
    "targets nan": (lambda: RecoveryProblem(OP, PAR, jnp.full(6, jnp.nan)), r"targets: got 6 value\(s\) that are NaN"),
    "noise": (
        lambda: planted(KEY, OP, PAR, jnp.zeros((2, 3)), -0.1),
        r"noise: got \-0\.1, expected a finite number >= 0",
    ),
    "noise nan": (
        lambda: planted(KEY, OP, PAR, jnp.zeros((2, 3)), float("nan")),
        r"noise: got nan, expected a finite number >= 0",
    ),
    "rank": (lambda: low_rank_matrix(KEY, (3, 4), 4), r"rank: got 4, expected 1 <= rank <= min\(d1, d2\) = 3"),
    "rank zero": (lambda: matrix_sensing(KEY, (3, 4), 0, 5), r"rank: got 0, expected an integer >= 1"),
    "ensemble": (
        lambda: matrix_sensing(KEY, (3, 4), 1, 5, ensemble="gausian"),
        r"ensemble: 'gausian' is not known; did you mean 'gaussian'\? \(bernoulli, bilinear, gaussian\)",
    ),
    "m": (lambda: matrix_sensing(KEY, (3, 4), 1, 0), r"num_measurements: got 0, expected an integer >= 1"),
    "sensing noise": (lambda: matrix_sensing(KEY, (3, 4), 1, 5, noise=-1.0), "noise: got -1.0"),
    "fraction": (
        lambda: matrix_completion(KEY, (3, 4), 1, 1.5),
        r"fraction: got 1\.5, expected a finite number > 0 and <= 1",
    ),
    "every entry wrong": (
        lambda: robust_pca(KEY, (3, 4), 1, 1.0),
        r"outliers: got 1.0, expected a probability in \[0, 1\); with every entry wrong nothing is left",
    ),
    "robust fraction": (lambda: robust_pca(KEY, (3, 4), 1, 0.1, fraction=0.0), "fraction: got 0.0"),
    "sparsity": (lambda: sparse_recovery(KEY, 5, 6, 3), "sparsity: got 6, expected 1 <= sparsity <= dimension = 5"),
    "row weights": (
        lambda: matrix_completion(KEY, (3, 4), 1, 0.5, row_weights=jnp.ones(4)),
        r"row_weights: got shape \(4,\), expected \(3,\)",
    ),
    "zero weight": (
        lambda: matrix_completion(KEY, (3, 4), 1, 0.5, col_weights=jnp.zeros(4)),
        "col_weights: got .* expected a positive finite value",
    ),
    "held out": (
        lambda: matrix_completion(KEY, (3, 4), 1, 0.9, held_out=12),
        r"held_out: got 12, but \d+ entries are unseen; lower held_out or the fraction",
    ),
    "negative held out": (lambda: matrix_sensing(KEY, (3, 4), 1, 5, held_out=-1), "held_out: got -1"),
    "nothing seen": (lambda: matrix_completion(KEY, (2, 2), 1, 1e-9), r"rows: got no entries \(m = 0\)"),
    "samples": (
        lambda: quadratic_network(KEY, 3, 0, positive=1, negative=0),
        r"num_samples: got 0, expected an integer >= 1",
    ),
    "units": (lambda: quadratic_network(KEY, 3, 4, positive=0, negative=0), "at least one unit"),
    "regression rows": (
        lambda: deep_linear_regression(jnp.ones((4, 2)), jnp.ones(3), depth=2),
        r"outputs: got shape \(3,\), expected \(4,\), as `inputs` has n",
    ),
    "regression tensor": (
        lambda: deep_linear_regression(jnp.ones((4, 2)), jnp.ones((4, 1, 1)), depth=2),
        r"inputs, outputs: got shapes \(4, 2\) and \(4, 1, 1\)",
    ),
    "regression depth": (lambda: deep_linear_regression(jnp.ones((4, 2)), jnp.ones(4), depth=0), "depth: got 0"),
    "regression nan": (
        lambda: deep_linear_regression(jnp.full((4, 2), jnp.inf), jnp.ones(4), depth=1),
        "inputs: got 8 val",
    ),
    "regression targets": (
        lambda: deep_linear_regression(jnp.ones((2, 2)), jnp.array([1.0, jnp.nan]), depth=1),
        r"outputs: got 1 value\(s\) that are NaN or infinite, the first",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_meets_its_sentence(name, unchecked):
    mistake, sentence = MISTAKES[name]
    with pytest.raises(UsageError, match=sentence):
        mistake()


def test_quadratic_network_is_the_network():
    made = quadratic_network(KEY, 4, 6, positive=1, negative=1)
    assert isinstance(made.problem.parameterization, Quadratic)
    X = np.asarray(made.problem.measurements.left[:, 0])
    plus, minus = parameters(made.problem.parameterization, 3)
    network = ((X @ np.asarray(plus)) ** 2).sum(1) - ((X @ np.asarray(minus)) ** 2).sum(1)
    np.testing.assert_allclose(made.problem.predict((plus, minus)), network, rtol=0, atol=1e-12 * np.abs(network).max())
