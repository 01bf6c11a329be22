"""Gradient flow against closed solutions and SciPy, its invariants, where it stops, and what it says then."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.flatten_util import ravel_pytree

from flatmin import JobError, Outcome, UsageError, sharpness
from flatmin._core import FunctionObjective
from flatmin.dynamics import GradientDescent, Record, descent_beside_flow, gradient_flow, train
from flatmin.parameterizations import (
    Gaussian,
    alignment,
    balance_sides,
    balancedness,
    neighbour_cosines,
    rank_one_distances,
    stable_ranks,
)
from flatmin.problems import deep_linear_regression
from flatmin.theory import marion2024 as theory

BAR = 1e-8  # relative drift of the balancedness


@functools.cache
def regression(n=20, d=3, seed=0):
    """Data with `||w*|| = 1`, and their constants."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.geomspace(1, 2, d)
    y = X @ rng.normal(size=d) + 0.5 * rng.normal(size=n)
    y = y / theory.regression_constants(X, y).w_norm
    return jnp.asarray(X), jnp.asarray(y), theory.regression_constants(X, y)


@functools.cache
def problem(depth=3):
    X, y, _ = regression()
    return deep_linear_regression(X, y, depth=depth)


def start(scale, depth=3, seed=0):
    return problem(depth).parameterization.init_params(jax.random.key(seed), Gaussian(scale))


# --- right along the way --------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["tsit5", "dopri5", "dopri8", "kvaerno5"])
def test_quadratic_flow_is_the_exponential(solver):
    rates = jnp.array([0.5, 3.0, 20.0])
    objective = FunctionObjective(lambda x: jnp.sum(rates * x**2) / 2)
    first = jnp.array([1.0, -2.0, 3.0])
    times = [0.1, 0.7, 2.0]
    result = gradient_flow(
        objective, first, max_time=3.0, tolerance=0, save_at=times, records={"x": lambda x: x}, solver=solver
    )
    history = result.records["x"]
    np.testing.assert_array_equal(history.times, [0, *times, 3.0])
    exact = np.exp(-np.outer([0, *times, 3.0], rates)) * np.asarray(first)
    np.testing.assert_allclose(history.values, exact, atol=2e-8)
    assert result.outcome is Outcome.completed
    assert result.time == 3.0


def test_deep_flow_is_that_of_scipy():
    params = start(0.3)
    flat, unravel = ravel_pytree(params)
    slope = jax.jit(lambda x: -jax.grad(lambda v: problem().loss(unravel(v)))(x))
    exact = scipy.integrate.solve_ivp(
        lambda t, x: np.asarray(slope(x)), (0, 2.0), np.asarray(flat), method="DOP853", rtol=1e-12, atol=1e-13
    ).y[:, -1]
    result = gradient_flow(problem(), params, max_time=2.0, tolerance=0)
    got = ravel_pytree(result.params)[0]
    np.testing.assert_allclose(got, exact, atol=1e-8)
    assert float(jnp.linalg.norm(got - flat)) > 0.5
    assert result.loss == pytest.approx(float(problem().loss(result.params)), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 0.5])
def test_balancedness_is_conserved_and_loss_falls(scale):
    result = gradient_flow(problem(), start(scale), invariant=balance_sides, records={"b": balancedness})
    assert result.outcome is Outcome.converged
    assert 0 < result.relative_drift <= BAR
    assert result.loss_rise <= 1e-14
    ends = [np.linalg.norm(B[-1] - B[0]) for B in result.records["b"].values]
    assert max(ends) <= result.drift * (1 + 1e-9)
    gradient = ravel_pytree(jax.grad(problem().loss)(result.params))[0]
    assert result.gradient_norm == pytest.approx(float(jnp.linalg.norm(gradient)), rel=1e-6)
    assert result.stationarity <= 2**-26
    np.testing.assert_allclose(problem().matrix(result.params)[0], regression()[2].minimiser, atol=1e-6)


def test_the_drift_is_seen_where_there_is_one():
    """A law that does not hold drifts by as much as the layers move; gradient descent drifts too."""
    wrong = gradient_flow(problem(), start(0.1), invariant=_not_conserved)
    assert 0.5 < wrong.relative_drift < 2
    assert np.isnan(gradient_flow(problem(), start(0.1)).drift)
    descent = train(problem(), GradientDescent(0.05), start(0.1), steps=2000, key=jax.random.key(0))
    drift = max(
        float(jnp.linalg.norm(a - b))
        for a, b in zip(balancedness(descent.params), balancedness(start(0.1)), strict=True)
    )
    assert drift > 1e3 * BAR


def _not_conserved(params):
    upper, lower = balance_sides(params)
    return upper, tuple(-x for x in lower)


def test_small_start_ends_at_the_balanced_rank_one_minimiser():
    """[M, Thm 2]: nearly rank one, aligned, sharpness between the lower bound and the plotted upper line."""
    c = regression()[2]
    distances = []
    for scale in (1e-3, 0.1, 0.5):
        result = gradient_flow(problem(), start(scale), records={"layers": alignment}, save_at=[1e-3])
        layers = result.records["layers"].values
        distances.append(layers["rank_one_distances"][-1].max())
        S = float(sharpness(problem(), result.params).value)
        assert float(theory.sharpness_lower_bound(c.a, c.w_norm, 3)) <= S * (1 + 1e-6)
        assert float(theory.flow_sharpness_upper_bound(c.lambda_max, 3)) >= S
        if scale == 1e-3:
            balanced = float(theory.balanced_rank_one_sharpness(c.covariance, c.minimiser, 3))
            assert pytest.approx(balanced, rel=1e-4) == S
            np.testing.assert_allclose(layers["stable_ranks"][-1], 1, atol=1e-4)
            np.testing.assert_allclose(layers["neighbour_cosines"][-1], 1, atol=1e-4)
            assert layers["stable_ranks"][0].max() > 1.2
    assert distances[0] < 1e-2 < distances[1] < distances[2]


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scales_of_the_data(scale):
    X, y, c = regression()
    result = gradient_flow(deep_linear_regression(scale * X, scale * y, depth=3), start(0.3), invariant=balance_sides)
    assert result.outcome is Outcome.converged
    assert result.relative_drift <= BAR
    assert result.loss == pytest.approx(scale**2 * float(c.least_loss), rel=1e-9)


# --- where it stops -------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "lowest"), [(2, None), (3, 0.0)])
def test_zero_initialisation_is_a_saddle(depth, lowest):
    zero = tuple(jnp.zeros(shape) for shape in problem(depth).parameterization.layer_shapes)
    result = gradient_flow(problem(depth), zero)
    assert result.outcome is Outcome.saddle
    assert result.time == 0 == result.stationarity
    if depth == 2:  # H = [[0, B], [B^T, 0]]: both signs
        assert float(result.lowest_curvature) == pytest.approx(-float(result.highest_curvature), rel=1e-12) != 0
    else:
        assert float(result.lowest_curvature) == 0 == float(result.highest_curvature)
    with pytest.raises(JobError, match="gradient_flow: the gradient vanished at a saddle or a flat point"):
        gradient_flow(problem(depth), zero, throw=True)


def test_depth_one_from_zero_converges():
    result = gradient_flow(problem(1), (jnp.zeros((1, 3)),), invariant=balance_sides)
    assert result.outcome is Outcome.converged
    assert result.drift == 0
    np.testing.assert_allclose(result.params[0][0], regression()[2].minimiser, atol=1e-6)
    assert float(result.highest_curvature) == pytest.approx(2 * float(regression()[2].lambda_max), rel=1e-10)


def test_zero_outputs_and_a_known_lower_bound():
    """y = 0: w* = 0, at the flat point of depth three; only the bound tells that it is the minimum."""
    X, y, _ = regression()
    vanishing = deep_linear_regression(X, 0 * y, depth=3)
    zero = tuple(jnp.zeros(shape) for shape in vanishing.parameterization.layer_shapes)
    assert gradient_flow(vanishing, zero).outcome is Outcome.saddle
    assert gradient_flow(vanishing, zero, lower_bound=0.0).outcome is Outcome.converged
    assert gradient_flow(problem(), zero, lower_bound=0.0).outcome is Outcome.saddle
    result = gradient_flow(vanishing, start(0.3), lower_bound=0.0)
    assert result.outcome is Outcome.converged
    assert result.loss < 1e-6 * float(vanishing.loss(start(0.3)))


def test_singular_covariance_keeps_the_start_in_the_null_space():
    """One sample: the flow interpolates, at a vector that is not the one of least norm."""
    X, y, _ = regression()
    single = deep_linear_regression(X[:1], y[:1], depth=2)
    result = gradient_flow(single, start(0.5, depth=2), invariant=balance_sides)
    assert result.outcome is Outcome.converged
    assert result.loss < 1e-14
    assert result.relative_drift <= BAR
    c = theory.regression_constants(X[:1], y[:1])
    assert float(jnp.linalg.norm(single.matrix(result.params)[0] - c.minimiser)) > 1e-3


def test_limits_of_time_and_steps():
    late = gradient_flow(problem(), start(0.1), max_time=0.5)
    assert late.outcome is Outcome.max_time
    assert late.time == 0.5
    assert late.stationarity > 1e-3
    assert late.lowest_curvature is None
    short = gradient_flow(problem(), start(0.1), max_steps=7)
    assert short.outcome is Outcome.max_iterations
    assert short.accepted + short.rejected == 7
    with pytest.raises(JobError, match=r"end of time was reached before the tolerance.*\(at time 0.5 after"):
        late.raise_if_failed()


def test_flow_that_meets_the_end_of_the_domain_stalls():
    """`x' = 1 / (1 - x)` reaches x = 1 at t = 1/2."""
    objective = FunctionObjective(lambda x: jnp.where(x < 1, jnp.log(1 - x), jnp.nan))
    result = gradient_flow(objective, jnp.zeros(()))
    assert result.outcome is Outcome.stalled
    assert result.time == pytest.approx(0.5, abs=1e-6)
    assert result.rejected > 10


def test_many_parameters_take_lanczos_at_the_end():
    X, y, _ = regression()
    wide = deep_linear_regression(X, y, depth=3, width=20)
    params = wide.parameterization.init_params(jax.random.key(0), Gaussian(0.1))
    result = gradient_flow(wide, params)
    assert result.outcome is Outcome.converged
    assert result.highest_curvature.method == "lanczos"
    assert float(result.highest_curvature) == pytest.approx(float(sharpness(wide, result.params).value), rel=1e-4)
    zero = jax.tree.map(jnp.zeros_like, params)
    assert gradient_flow(wide, zero).outcome is Outcome.saddle


def test_single_precision_converges_to_its_own_tolerance():
    X, y, c = regression()
    narrow = deep_linear_regression(jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32), depth=3)
    result = gradient_flow(narrow, tuple(p.astype(jnp.float32) for p in start(0.3)), invariant=balance_sides)
    assert result.outcome is Outcome.converged
    assert result.relative_drift < 1e-5
    assert {p.dtype for p in result.params} == {jnp.dtype(jnp.float32)}
    assert result.loss == pytest.approx(float(c.least_loss), rel=1e-4)


# --- descent beside flow --------------------------------------------------------------------------


def test_descent_approaches_the_flow_at_first_order():
    runs = [
        descent_beside_flow(
            problem(), start(0.3), learning_rate=0.02 / k, steps=[20 * k, 100 * k], records={"loss": problem().loss}
        )
        for k in (1, 2)
    ]
    np.testing.assert_allclose(runs[0].times, [0, 0.4, 2.0], rtol=1e-15)
    np.testing.assert_allclose(runs[1].times, runs[0].times, rtol=1e-15)
    assert runs[0].distances[0] == 0
    assert np.all(runs[0].distances[1:] > 1e-5)
    np.testing.assert_allclose(runs[0].distances[1:] / runs[1].distances[1:], 2, rtol=0.1)
    assert set(runs[0].flow.records) == set(runs[0].descent.records) == {"loss"}
    far = sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(runs[0].descent.params, runs[0].flow.params, strict=True))
    assert runs[0].distances[-1] == pytest.approx(far**0.5, rel=1e-9)


def test_descent_that_diverges_beside_its_flow():
    runs = descent_beside_flow(problem(), start(1.0), learning_rate=5.0, steps=[0, 1, 50])
    assert runs.descent.outcome is Outcome.diverged
    assert runs.flow.outcome is Outcome.completed
    assert np.isnan(runs.distances[-1])
    assert runs.distances[1] > 1


# --- measures of the layers -----------------------------------------------------------------------


def test_alignment_is_that_of_numpy():
    layers = tuple(jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(4, 3), (5, 4), (2, 5)]))
    decompositions = [np.linalg.svd(W) for W in layers]
    s = [d[1] for d in decompositions]
    got = alignment(layers)
    expected = [np.sum(v**2) / v[0] ** 2 for v in s]
    np.testing.assert_allclose(got["stable_ranks"], expected, rtol=1e-12)
    np.testing.assert_allclose(stable_ranks(layers), expected, rtol=1e-12)
    expected = [np.linalg.norm(v[1:]) / np.linalg.norm(v) for v in s]
    np.testing.assert_allclose(got["rank_one_distances"], expected, rtol=1e-12)
    np.testing.assert_allclose(rank_one_distances(layers), expected, rtol=1e-12)
    expected = [abs(decompositions[i][0][:, 0] @ decompositions[i + 1][2][0]) for i in range(2)]
    np.testing.assert_allclose(got["neighbour_cosines"], expected, rtol=1e-10)
    np.testing.assert_allclose(neighbour_cosines(layers), expected, rtol=1e-10)
    np.testing.assert_allclose(balancedness(layers)[1], layers[2].T @ layers[2] - layers[1] @ layers[1].T, atol=1e-12)


def test_alignment_of_special_layers():
    u, v = jnp.array([3.0, 4.0]), jnp.array([1.0, 0.0])
    measures = alignment((1e-200 * jnp.outer(v, u), 1e200 * jnp.outer(u, v), jnp.eye(2), jnp.zeros((1, 2))))
    np.testing.assert_allclose(measures["stable_ranks"], [1, 1, 2, np.nan], rtol=1e-12)
    np.testing.assert_allclose(measures["rank_one_distances"], [0, 0, 0.5**0.5, np.nan], atol=1e-12)
    assert float(measures["neighbour_cosines"][0]) == pytest.approx(1)
    assert np.isnan(measures["neighbour_cosines"][2])
    assert balancedness((jnp.ones((1, 2)),)) == ()
    assert alignment((jnp.ones((1, 2)),))["neighbour_cosines"].shape == (0,)


def test_alignment_is_a_record():
    result = train(
        problem(),
        GradientDescent(0.02),
        start(0.3),
        steps=40,
        key=jax.random.key(0),
        records={"a": Record(alignment, every=20)},
    )
    values = result.records["a"].values
    assert values["neighbour_cosines"].shape == (3, 2)
    np.testing.assert_allclose(values["stable_ranks"][-1], stable_ranks(result.params), rtol=1e-10)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"solver": "euler"}, "solver: 'euler' is not known"),
        ({"tolerance": -1.0}, "tolerance: got -1.0, expected a finite number >= 0 and <= 1"),
        ({"tolerance": 0.0}, "max_time: got infinity with tolerance 0"),
        ({"max_time": float("nan")}, "max_time: got nan"),
        ({"rtol": 1e-30}, "rtol: got 1e-30"),
        ({"max_steps": 0}, "max_steps: got 0"),
        ({"max_time": 1.0, "save_at": [0.5, 2.0]}, "save_at: got .* expected increasing times between 0 and max_time"),
        ({"save_at": [2.0, 1.0]}, "save_at: got"),
    ],
)
def test_errors(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        gradient_flow(problem(), start(0.1), **options)


def test_errors_of_the_start():
    with pytest.raises(UsageError, match="params: got no floating point array"):
        gradient_flow(problem(), (jnp.array(1),))
    bad = start(0.1)
    with pytest.raises(UsageError, match=r"params\[0\]: got 1 value"):
        gradient_flow(problem(), (bad[0].at[0, 1].set(jnp.nan), *bad[1:]))
    with pytest.raises(UsageError, match=r"params: the loss there is (inf|nan)"):
        gradient_flow(problem(), jax.tree.map(lambda p: 1e120 * p, start(1.0)))
