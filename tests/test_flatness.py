"""Traces, sharpness and spectra against dense Hessians by autodiff, at points that interpolate and that do not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import flatmin.measurements as fm
from flatmin import UsageError, flatness, linalg
from flatmin._core import JobError, Outcome
from flatmin.parameterizations import AbstractParameterization, DeepMatrix, Flattest
from flatmin.problems import RecoveryProblem
from registry import PARAMETERIZATIONS, measurements, numbers, parameters

EPS = float(np.finfo(np.float64).eps)

# one measurement kind of each Gram form; every kind itself is compared with its tensor in test_measurements
KINDS = (
    "low_rank-3x4",
    "entries-3x4",
    "identity-3x4",
    "regression-1x4",
    "with_moments-3x4",
    "with_fourth_moment-3x4",
    "function-3x4",
)
SQUARE_KINDS = (
    "symmetric_rank_one-3x3",
    "symmetrised_dense-3x3",
    "dense_square",
)


def build(kind, parameterization, seed=0, interpolate=False, dtype=jnp.float64):
    """A problem with random targets, or targets that the parameters fit."""
    if kind == "dense_square":
        op, tensor = fm.dense(jnp.asarray(numbers(31, 6, 3, 3), dtype)), numbers(31, 6, 3, 3)
    else:
        op, tensor = measurements(kind, dtype)
    par = PARAMETERIZATIONS[parameterization](op.matrix_shape)
    params = parameters(par, seed, dtype)
    targets = op.forward(par.matrix(params)) if interpolate else jnp.asarray(numbers(32, op.num_measurements), dtype)
    return RecoveryProblem(op, par, targets), params, jnp.asarray(tensor, dtype)


@eqx.filter_jit
def dense_hessian(par: AbstractParameterization, params, tensor, targets):
    """Full autodiff of the loss typed plainly over the dense tensor; knows nothing of the measurements' code."""
    flat, unravel = ravel_pytree(params)
    m = targets.shape[0]

    def loss(x):
        return sum((jnp.sum(tensor[i] * par.matrix(unravel(x))) - targets[i]) ** 2 for i in range(m)) / m

    return jax.hessian(loss)(flat)


CASES = [
    (k, p) for p in PARAMETERIZATIONS for k in KINDS if not p.startswith("quad") and (p == "deep3" or k in KINDS[:3])
]
CASES += [(k, p) for p in PARAMETERIZATIONS for k in SQUARE_KINDS if p.startswith("quad")]
CASES += [("symmetrised_dense-3x3", "deep3"), ("symmetrised_dense-3x3", "hadamard3")]


@pytest.mark.parametrize(("kind", "parameterization"), CASES)
def test_trace_in_total_and_per_layer_against_the_dense_hessian(kind, parameterization):
    for interpolate in (True, False):
        problem, params, tensor = build(kind, parameterization, interpolate=interpolate)
        hessian = np.asarray(dense_hessian(problem.parameterization, params, tensor, problem.targets))
        blocks = np.split(np.diagonal(hessian), np.cumsum([leaf.size for leaf in params])[:-1])
        expected = np.array([block.sum() for block in blocks])
        tolerance = 100 * EPS * len(hessian) * np.abs(np.diagonal(hessian)).sum()
        per_layer = flatness.hessian_trace(problem, params, per_layer=True)
        total = flatness.hessian_trace(problem, params)
        assert total.exact
        assert (total.method, total.matvecs) == ("closed form", 0)
        assert np.max(np.abs(per_layer.value - expected)) <= tolerance
        assert abs(float(total) - expected.sum()) <= min(tolerance, float(total.error) + tolerance / 10)
        assert abs(expected.sum()) > 1e3 * tolerance
    dense = flatness.hessian_trace(problem, params, flatness.Dense())
    assert abs(float(dense) - expected.sum()) <= float(dense.error)
    assert dense.matvecs == len(hessian)


@pytest.mark.parametrize("parameterization", ["deep3", "hadamard3"])
def test_single_precision_is_kept(parameterization):
    problem, params, _tensor = build("low_rank-3x4", parameterization, dtype=jnp.float32)
    exact, wide, _ = build("low_rank-3x4", parameterization)
    trace = flatness.hessian_trace(problem, params)
    assert trace.value.dtype == jnp.float32
    truth = float(flatness.hessian_trace(exact, wide))
    assert abs(float(trace) - truth) <= float(trace.error) < 1e-2 * truth
    top, true_top = flatness.sharpness(problem, params), float(flatness.sharpness(exact, wide))
    assert top.value.dtype == jnp.float32
    assert abs(float(top) - true_top) <= float(top.error) + 50 * np.finfo(np.float32).eps * abs(true_top)


def test_trace_under_jit_vmap_and_grad():
    problem, params, _ = build("low_rank-3x4", "deep3")
    value = lambda p: flatness.hessian_trace(problem, p).value  # noqa: E731
    eager = value(params)
    np.testing.assert_allclose(jax.jit(value)(params), eager, rtol=1e-14)
    batch = jax.tree.map(lambda w: jnp.stack([w, 2 * w, -0.5 * w]), params)
    together = jax.jit(jax.vmap(value))(batch)
    np.testing.assert_allclose(together, [eager, 2**4 * eager, 0.5**4 * eager], rtol=1e-13)
    gradient = jax.jit(jax.grad(value))(params)
    flat, unravel = ravel_pytree(params)
    direction = jnp.asarray(numbers(40, flat.size))
    slope = jnp.vdot(ravel_pytree(gradient)[0], direction)
    step = 1e-3  # the trace is a polynomial of degree 4 in the step: a five-point stencil is exact
    jitted = jax.jit(lambda t: value(unravel(flat + t * direction)))
    stencil = [float(jitted(jnp.asarray(k * step))) for k in (-2, -1, 1, 2)]
    difference = (stencil[0] - 8 * stencil[1] + 8 * stencil[2] - stencil[3]) / (12 * step)
    assert abs(slope - difference) <= 1e-11 * abs(eager) / step
    assert abs(slope) > 1e-3 * abs(eager)


def test_scaled_trace_by_its_definition_and_the_formula_of_the_paper():
    for kind in ("low_rank-3x4", "symmetrised_dense-3x3"):
        problem, params, tensor = build(kind, "deep2")
        d1, d2 = problem.measurements.matrix_shape
        m, A = len(tensor), np.asarray(tensor)
        got = flatness.scaled_trace(problem, params)
        # [D]: D1 = ((1/(m d2)) sum A A')^(1/2), D2 = ((1/(m d1)) sum A' A)^(1/2), L = W_2, R = W_1'
        square1, square2 = np.einsum("iab,icb->ac", A, A) / (m * d2), np.einsum("iab,iac->bc", A, A) / (m * d1)
        W1, W2 = (np.asarray(w) for w in params)
        formula = 2 * np.trace(W2.T @ square1 @ W2) + 2 * np.trace(W1 @ square2 @ W1.T)
        hessian = np.asarray(dense_hessian(problem.parameterization, params, tensor, problem.targets))
        right, left = np.diagonal(hessian)[: W1.size].sum(), np.diagonal(hessian)[W1.size :].sum()
        np.testing.assert_allclose(float(got), formula, rtol=1e-13)
        np.testing.assert_allclose(float(got), left / d1 + right / d2, rtol=1e-12)
        assert got.exact
        assert 0 < float(got.error) < 1e-9 * float(got)
    np.testing.assert_allclose(float(got), float(flatness.hessian_trace(problem, params)) / d1, rtol=1e-13)


def test_scaled_trace_refuses_other_depths():
    problem, params, _ = build("low_rank-3x4", "deep3")
    with pytest.raises(UsageError, match="scaled trace is defined for two factors; use a DeepMatrix of depth 2"):
        flatness.scaled_trace(problem, params)


# ----------------------------------------------------------------------------- eigenvalues


@pytest.mark.parametrize(
    ("kind", "parameterization"), [("low_rank-3x4", "deep3"), ("symmetrised_dense-3x3", "quadratic")]
)
@pytest.mark.parametrize("interpolate", [True, False])
def test_sharpness_lowest_curvature_and_spectrum_against_dense_eigenvalues(kind, parameterization, interpolate):
    problem, params, tensor = build(kind, parameterization, interpolate=interpolate)
    truth = np.linalg.eigvalsh(np.asarray(dense_hessian(problem.parameterization, params, tensor, problem.targets)))
    size = np.max(np.abs(truth))
    slack = 20 * len(truth) * EPS * size  # of the dense reference itself
    chosen = flatness.sharpness_method(problem, params)
    assert isinstance(chosen, flatness.TangentKernel if interpolate else flatness.Dense)
    methods = [None, flatness.Dense(), flatness.Lanczos()] + ([flatness.TangentKernel()] if interpolate else [])
    for method in methods:
        top = flatness.sharpness(problem, params, method)
        assert abs(float(top) - truth[-1]) <= float(top.error) + slack, method
        assert float(top.error) < 1e-6 * size
        assert top.error_kind == "residual bound"
        assert top.matvecs > 0
    for method in (None, flatness.Dense(), flatness.Lanczos()):
        low = flatness.lowest_curvature(problem, params, method)
        assert abs(float(low) - truth[0]) <= float(low.error) + slack, method
    all_of_them = flatness.spectrum(problem, params)
    assert all_of_them.method == ("tangent kernel" if interpolate else "dense")
    nonzero = truth[np.abs(truth) > 1e3 * EPS * size][::-1]
    if interpolate:
        assert len(all_of_them.value) <= problem.num_samples
        assert len(nonzero) == len(all_of_them.value)
        np.testing.assert_allclose(all_of_them.value, nonzero, rtol=0, atol=float(all_of_them.error[0]) + slack)
    dense = flatness.spectrum(problem, params, flatness.Dense())
    np.testing.assert_allclose(dense.value, nonzero, rtol=0, atol=slack)
    assert dense.value[0] >= dense.value[-1]
    assert dense.error.shape == dense.value.shape
    trace = float(flatness.hessian_trace(problem, params))
    assert abs(float(all_of_them.value.sum()) - trace) <= len(truth) * slack


@pytest.fixture(scope="module")
def bowl():
    """`end(H, highest)`: the library's Lanczos and dense ends of a Hessian given as a matrix, compiled once."""
    matvec = jax.jit(lambda H, v: jax.jvp(jax.grad(lambda x: jnp.vdot(x, H @ x) / 2), (v,), (v,))[1])

    def end(H, highest):
        vector, count = linalg.extreme_eigenvector(
            lambda v: matvec(H, v), len(H), H.dtype, key=jax.random.key(1), end="highest" if highest else "lowest"
        )
        return *linalg.eigenpair_residual(lambda v: matvec(H, v), vector), count

    return end


def random_spectrum(seed, n=12):
    """Hessians with all kinds of spectra: indefinite, negative definite, low rank, clustered, graded, any scale."""
    rng = np.random.default_rng(seed)
    values = [
        rng.standard_normal(n),
        -rng.uniform(0.5, 1, n),
        np.concatenate([rng.standard_normal(3), np.zeros(n - 3)]),
        np.concatenate([[1.0], np.full(n - 1, 1 - 1e-9)]),
        np.logspace(0, -12, n) * rng.choice([-1, 1], n),
        -np.logspace(0, -6, n),
    ][seed % 6]
    U, _ = np.linalg.qr(rng.standard_normal((n, n)))
    H = (U * values) @ U.T * 10.0 ** rng.choice([0, 0, -30, 30, -120, 120])
    return (H + H.T) / 2


def test_residual_bounds_contain_the_truth_and_signs_are_right(bowl):
    for seed in range(150):
        H = random_spectrum(seed)
        truth = np.linalg.eigvalsh(H)
        size = np.max(np.abs(truth))
        for highest in (True, False):
            value, residual, _ = bowl(jnp.asarray(H), highest)
            target = truth[-1 if highest else 0]
            assert abs(float(value) - target) <= float(residual) + 12 * EPS * size, seed
            assert 0 < float(residual) <= 1e-6 * size, seed
            if abs(target) > 1e-9 * size:
                assert np.sign(float(value)) == np.sign(target), seed


def test_a_concave_loss_has_negative_sharpness():
    weights = jnp.arange(1.0, 7.0)
    concave = lambda p: -jnp.sum(weights * p["a"] ** 2) - jnp.sum(p["b"] ** 2)  # noqa: E731
    params = {"a": jnp.ones(6), "b": jnp.ones((2, 2))}
    for method in (None, flatness.Dense(), flatness.Lanczos()):
        top = flatness.sharpness(concave, params, method)
        low = flatness.lowest_curvature(concave, params, method)
        assert abs(float(top) + 2) <= float(top.error) + 1e-14
        assert abs(float(low) + 12) <= float(low.error) + 1e-14
    assert float(flatness.hessian_trace(concave, params)) == pytest.approx(-50, rel=1e-14)
    np.testing.assert_allclose(flatness.spectrum(concave, params).value, [-2] * 5 + [-4, -6, -8, -10, -12], rtol=1e-13)


def test_a_zero_hessian_and_flat_points_are_answered():
    problem, params, _ = build("low_rank-3x4", "deep3")
    zero = jax.tree.map(jnp.zeros_like, params)
    still = RecoveryProblem(problem.measurements, problem.parameterization, jnp.zeros(6))
    for method in (None, flatness.Dense(), flatness.Lanczos()):
        top = flatness.sharpness(still, zero, method)
        assert float(top) == 0
        assert float(top.error) == 0
    assert flatness.spectrum(still, zero).value.shape == (0,)
    assert float(flatness.hessian_trace(still, zero)) == 0


def test_least_squares_minimiser_with_residual_left():
    # theory, section 1: S = 2 lambda_max(Sigma^(1/2) T Sigma^(1/2)), T = sum_l ||P_l||^2 Q_l' Q_l, though r != 0
    X, y = numbers(60, 9, 4), numbers(61, 9)
    w, *_ = np.linalg.lstsq(X, y, rcond=None)
    par = DeepMatrix((4, 4, 4, 1))
    W1, W2 = numbers(62, 4, 4), numbers(63, 4, 4)
    W3 = w @ np.linalg.inv(W2 @ W1)
    params = tuple(jnp.asarray(x) for x in (W1, W2, W3[None]))
    problem = RecoveryProblem(fm.regression(jnp.asarray(X)), par, jnp.asarray(y))
    assert float(problem.loss(params)) > 0.1
    values, vectors = np.linalg.eigh(X.T @ X / 9)
    root = (vectors * np.sqrt(values)) @ vectors.T
    T = sum((P @ P) * Q.T @ Q for P, Q in ((W3 @ W2, np.eye(4)), (W3, W1), (np.ones(1), W2 @ W1)))
    expected = 2 * np.linalg.eigvalsh(root @ T @ root)[::-1]
    top = flatness.sharpness(problem, params)
    assert top.method == "tangent kernel"
    np.testing.assert_allclose(float(top), expected[0], rtol=1e-10)
    np.testing.assert_allclose(flatness.spectrum(problem, params).value, expected, rtol=1e-9)
    truth = np.linalg.eigvalsh(linalg.flat_hessian(problem.loss, params).dense())
    np.testing.assert_allclose(truth[-4:][::-1], expected, rtol=1e-9)
    elsewhere = jax.tree.map(lambda x: 1.1 * x, params)
    for verb in (flatness.sharpness, flatness.spectrum):
        with pytest.raises(UsageError, match=r"exact only where A\*\(r\) = 0 \(interpolation, least-squares minima\)"):
            verb(problem, elsewhere, flatness.TangentKernel())


def test_tangent_kernel_of_every_parameterization_against_the_jacobian():
    for kind, parameterization in (
        ("low_rank-3x4", "deep3"),
        ("regression-1x4", "deep2"),
        ("dense_square", "quadratic"),
    ):
        problem, params, _ = build(kind, parameterization)
        rows = [
            ravel_pytree(jax.grad(lambda p, i=i, problem=problem: problem.predict(p)[i])(params))[0]
            for i in range(problem.num_samples)
        ]
        J = np.stack(rows)
        np.testing.assert_allclose(flatness.tangent_kernel(problem, params), J @ J.T, rtol=0, atol=1e-13 * np.sum(J**2))
        values = flatness.gauss_newton_spectrum(problem, params)
        truth = np.linalg.svd(J, compute_uv=False) ** 2 * 2 / problem.num_samples
        np.testing.assert_allclose(values[::-1][: len(truth)], truth[: len(values)], rtol=0, atol=1e-12 * truth[0])


def test_more_measurements_than_entries_uses_the_small_side():
    op = fm.gaussian(jax.random.key(8), 30, (2, 3))
    par = DeepMatrix((3, 2, 2))
    params = parameters(par, 1)
    problem = RecoveryProblem(op, par, op.forward(par.matrix(params)))
    values = flatness.gauss_newton_spectrum(problem, params)
    assert values.shape == (6,)
    truth = np.linalg.eigvalsh(linalg.flat_hessian(problem.loss, params).dense())
    np.testing.assert_allclose(values, truth[-6:], rtol=0, atol=1e-12 * truth[-1])


# ----------------------------------------------------------------------------- losses that are not flatmin's


def mlp_loss(p):
    """A small tanh network on fixed data; 5 * 3 + 3 + 3 = 21 parameters."""
    x, y = jnp.asarray(numbers(70, 8, 5)), jnp.asarray(numbers(71, 8))
    return jnp.mean((jnp.tanh(x @ p["w"] + p["b"][None]) @ p["v"] - y) ** 2)


@pytest.fixture(scope="module")
def mlp():
    params = {"w": jnp.asarray(numbers(72, 5, 3)), "b": jnp.asarray(numbers(73, 3)), "v": jnp.asarray(numbers(74, 3))}
    return params, np.asarray(linalg.flat_hessian(mlp_loss, params).dense())


def test_automatic_choices(mlp):
    params, H = mlp
    assert isinstance(flatness.trace_method(mlp_loss, params), flatness.Dense)
    assert isinstance(flatness.sharpness_method(mlp_loss, params), flatness.Dense)
    big = {"w": jnp.ones(1001)}
    assert isinstance(flatness.trace_method(lambda p: jnp.sum(p["w"] ** 4), big), flatness.HutchPlusPlus)
    assert isinstance(flatness.sharpness_method(lambda p: jnp.sum(p["w"] ** 4), big), flatness.Lanczos)
    problem, factors, _ = build("low_rank-3x4", "deep3")
    assert isinstance(flatness.trace_method(problem, factors), flatness.Exact)
    trace, top = flatness.hessian_trace(mlp_loss, params), flatness.sharpness(mlp_loss, params)
    assert (trace.method, top.method) == ("dense", "dense")
    assert abs(float(trace) - np.trace(H)) <= float(trace.error)
    truth = np.linalg.eigvalsh(H)
    assert abs(float(top) - truth[-1]) <= float(top.error) + 100 * EPS * np.abs(truth).max()


def hutchinson_variance(H):
    """Variance of z' H z for random signs: 2 (||H||_F^2 - ||diag H||^2)."""
    return 2 * (np.sum(H**2) - np.sum(np.diagonal(H) ** 2))


def test_stochastic_traces_at_fixed_budget_and_seeds(mlp):
    params, H = mlp
    truth, probes = np.trace(H), 18
    errors = {"hutchinson": [], "hutch++": []}
    for seed in range(20):
        for method in (flatness.Hutchinson(probes), flatness.XTrace(20)):
            estimate = flatness.hessian_trace(mlp_loss, params, method, key=jax.random.key(seed))
            assert abs(float(estimate) - truth) < 5 * float(estimate.error), (method, seed)
            assert estimate.error_kind == "standard error"
            assert not estimate.exact
            errors[estimate.method].append((float(estimate) - truth, float(estimate.error), estimate.matvecs))
    deviation, sem, matvecs = np.array(errors["hutchinson"]).T
    sem = sem / 1.15  # Student's t for 17 degrees against the normal quantile, and the skewness
    assert set(matvecs) == {probes}
    formula = (hutchinson_variance(H) / probes) ** 0.5
    # variance of a mean of 20 sample variances of 18 probes: relative sd about sqrt(2 / (20 * 17)) (kurtosis below 6)
    assert abs((sem**2).mean() / formula**2 - 1) < 5 * (5 / (20 * 17)) ** 0.5
    assert 0.4 < (deviation**2).mean() / formula**2 < 2.2  # chi-squared with 20 degrees: 0.2 percent tails
    _, sem, matvecs = np.array(errors["hutch++"]).T
    assert set(matvecs) == {20}
    # same cost, less error than Hutchinson on a decaying spectrum
    assert np.median(sem) < (hutchinson_variance(H) / 20) ** 0.5


def test_stochastic_methods_same_key_same_bits_and_need_a_key(mlp):
    params, _ = mlp
    for method in (flatness.Hutchinson(5), flatness.XTrace(6)):
        one, same, other = (
            float(flatness.hessian_trace(mlp_loss, params, method, key=jax.random.key(k))) for k in (3, 3, 4)
        )
        assert one == same != other
        with pytest.raises(UsageError, match=rf"key: {type(method).__name__} is stochastic; pass key=jax.random.key"):
            flatness.hessian_trace(mlp_loss, params, method)


@pytest.mark.long
def test_nominal_95_percent_intervals_cover(mlp):
    _, H = mlp
    H = jnp.asarray(H)
    matvec = jax.jit(lambda v: H @ v)
    keys, probes = jax.random.split(jax.random.key(0), 2000), 20

    def estimate(key):
        found = linalg.hutchinson(matvec, 21, H.dtype, num_probes=probes, key=key)
        return found.value, found.error

    value, error = jax.jit(jax.vmap(estimate))(keys)
    covered = np.mean(np.abs(value - jnp.trace(H)) <= 1.96 * error)
    assert 0.93 <= covered <= 0.97


def test_spectral_density_moments_and_integral(mlp):
    params, H = mlp
    p = len(H)
    density = flatness.spectral_density(mlp_loss, params, key=jax.random.key(0), order=10, num_probes=24)
    assert density.nodes.shape == (24, 10)
    assert density.matvecs == 240
    np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-13)
    for order, truth in ((1, np.trace(H) / p), (2, np.trace(H @ H) / p), (3, np.trace(H @ H @ H) / p)):
        mean, sem = density.moment(order)
        assert abs(float(mean) - truth) < 5 * float(sem)
        assert float(sem) < abs(truth)
    spread = np.abs(np.linalg.eigvalsh(H)).max()
    grid = jnp.linspace(-2 * spread, 2 * spread, 4001)
    mean, sem = density.smoothed(grid, 0.05 * spread)
    assert abs(float(jnp.trapezoid(mean, grid)) - 1) < 1e-10
    assert (np.asarray(mean) >= 0).all()
    # against the smoothed truth: mean over the eigenvalues, pointwise within 5 sem of a degree-10 quadrature's reach
    center = float(jnp.trapezoid(mean * grid, grid))
    assert abs(center - np.trace(H) / p) < 5 * float(density.moment(1)[1])


@pytest.mark.parametrize("values", [[1] * 8, [0] * 8, [2, -1, 0, 0, 0, 0, 0, 0], [3, 3, 3, 3, -1, -1, 0, 0]])
def test_spectral_density_where_the_krylov_space_is_exhausted(values):
    # quadrature is exact once the Krylov space is exhausted: all moments, not only the first few
    rng = np.random.default_rng(3)
    U, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    H = (U * np.array(values, float)) @ U.T
    for dtype, eps in ((jnp.float64, EPS), (jnp.float32, float(np.finfo(np.float32).eps))):
        matrix = jnp.asarray((H + H.T) / 2, dtype)
        density = linalg.lanczos_density(
            lambda v, H=matrix: H @ v, 8, dtype, order=7, num_probes=6, key=jax.random.key(0)
        )
        assert density.nodes.dtype == dtype
        starts = [jax.random.rademacher(k, (8,), dtype) for k in jax.random.split(jax.random.key(0), 6)]
        for power in range(6):
            truth = [float(z @ np.linalg.matrix_power(H, power) @ z) / 8 for z in np.asarray(starts, float)]
            got = np.sum(np.asarray(density.weights * density.nodes**power, float), axis=1)
            np.testing.assert_allclose(got, truth, rtol=0, atol=100 * eps * max(np.abs(values).max(), 1) ** power)
        heavy = np.asarray(density.weights) > 100 * eps
        assert np.min(np.abs(np.asarray(density.nodes)[..., None] - np.array(values)), axis=-1)[heavy].max() < 300 * eps


# ----------------------------------------------------------------------------- mistakes

SOMEWHERE = {"x": jnp.ones(4)}


def sum_of_squares(p):
    return jnp.sum(p["x"] ** 2)


MISTAKES = {
    "exact for a loss": (
        lambda: flatness.hessian_trace(sum_of_squares, SOMEWHERE, flatness.Exact()),
        r"Exact\(\) needs a RecoveryProblem; use Dense\(\), Hutchinson\(\) or XTrace\(\) for a loss",
    ),
    "trace by lanczos": (
        lambda: flatness.hessian_trace(sum_of_squares, SOMEWHERE, flatness.Lanczos()),
        r"method: Lanczos does not compute a trace; use Auto\(\), Exact\(\)",
    ),
    "per layer": (
        lambda: flatness.hessian_trace(sum_of_squares, SOMEWHERE, flatness.Dense(), per_layer=True),
        r"per_layer: only Exact\(\) gives one value a layer, got Dense",
    ),
    "kernel for a loss": (
        lambda: flatness.sharpness(sum_of_squares, SOMEWHERE, flatness.TangentKernel()),
        r"TangentKernel\(\) needs a RecoveryProblem; use Dense\(\) or Lanczos\(\) for a loss",
    ),
    "kernel for the lowest": (
        lambda: flatness.lowest_curvature(sum_of_squares, SOMEWHERE, flatness.TangentKernel()),
        r"TangentKernel\(\) knows no negative curvature; use Dense\(\) or Lanczos\(\)",
    ),
    "sharpness by xtrace": (
        lambda: flatness.sharpness(sum_of_squares, SOMEWHERE, flatness.XTrace()),
        "method: XTrace does not compute an eigenvalue",
    ),
    "spectrum by lanczos": (
        lambda: flatness.spectrum(sum_of_squares, SOMEWHERE, flatness.Lanczos()),
        "method: Lanczos does not give the spectrum of this object",
    ),
    "spectrum of many": (
        lambda: flatness.spectrum(sum_of_squares, {"x": jnp.ones(3001)}),
        r"params: 3001 parameters at a point .* \(limit 3000\); use spectral_density",
    ),
    "integers": (
        lambda: flatness.sharpness(sum_of_squares, {"x": jnp.ones(3, int)}),
        r"params: got an array of int64 and shape .* in the tree, expected a tree",
    ),
    "no parameters": (
        lambda: flatness.sharpness(lambda p: 0.0, {}),
        r"params: got a value of type dict, without any array, expected",
    ),
    "vector loss": (
        lambda: flatness.sharpness(lambda p: p["x"], SOMEWHERE),
        r"loss: got an output of shape \(4,\), expected a scalar",
    ),
    "one probe": (
        lambda: flatness.hessian_trace(sum_of_squares, SOMEWHERE, flatness.Hutchinson(1), key=jax.random.key(0)),
        "num_probes: got 1, expected an integer >= 2",
    ),
    "odd budget": (
        lambda: flatness.hessian_trace(sum_of_squares, SOMEWHERE, flatness.XTrace(5), key=jax.random.key(0)),
        "num_matvecs: got 5, expected an even number of at least 4",
    ),
    "budget above size": (
        lambda: flatness.hessian_trace(sum_of_squares, SOMEWHERE, flatness.XTrace(8), key=jax.random.key(0)),
        r"num_matvecs: got 8 for 4 parameters; use Dense\(\) at this size",
    ),
    "order": (
        lambda: flatness.spectral_density(sum_of_squares, SOMEWHERE, key=jax.random.key(0), order=1),
        "order: got 1, expected 2 <= order <= number of parameters = 4",
    ),
    "density probes": (
        lambda: flatness.spectral_density(sum_of_squares, SOMEWHERE, key=jax.random.key(0), num_probes=1),
        "num_probes: got 1, expected an integer >= 2",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_meets_its_sentence(name, unchecked):
    mistake, sentence = MISTAKES[name]
    with pytest.raises(UsageError, match=sentence):
        mistake()


def test_lanczos_says_when_it_failed():
    rough = jnp.linspace(1, 1.001, 120)
    top = flatness.sharpness(lambda p: jnp.sum(rough * p**2), jnp.ones(120), flatness.Lanczos(max_matvecs=30))
    assert top.outcome is Outcome.max_iterations
    assert top.matvecs <= 30
    assert np.min(np.abs(2 * np.asarray(rough) - float(top))) <= float(top.error) < 1e-3
    with pytest.raises(JobError, match="params: the loss at this point is NaN; check the parameters"):
        flatness.sharpness(lambda p: jnp.sum(p**3), jnp.full(5, jnp.nan), flatness.Lanczos())
    with pytest.raises(JobError, match="the Hessian at this point has NaN or infinite products; check the parameters"):
        flatness.sharpness(lambda p: jnp.sum(jnp.abs(p) ** 1.5), jnp.zeros(5), flatness.Lanczos())


def test_the_flattest_point_is_flatter_than_its_neighbours_on_the_fibre():
    par = DeepMatrix((3, 4, 3))
    op = fm.scaled(fm.identity((3, 3)), 3.0)
    matrix = jnp.asarray(numbers(81, 3, 3))
    params = par.init_params(jax.random.key(0), Flattest(matrix))
    problem = RecoveryProblem(op, par, op.forward(matrix))
    flat = float(flatness.hessian_trace(problem, params))
    for seed in range(5):
        G = np.eye(4) + 0.3 * numbers(82 + seed, 4, 4)
        moved = (jnp.asarray(G @ params[0]), jnp.asarray(params[1] @ np.linalg.inv(G)))
        assert float(flatness.hessian_trace(problem, moved)) > flat
