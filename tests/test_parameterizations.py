"""Every parameterization with every scheme: the promised matrix, shapes, statistics and flatness."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

import flatmin.measurements as fm
from flatmin import UsageError, flatness
from flatmin.parameterizations import (
    Balanced,
    DeepMatrix,
    Flattest,
    Gaussian,
    Hadamard,
    Orthogonal,
    Quadratic,
    Residual,
    Small,
    deep_matrix,
)
from flatmin.problems import RecoveryProblem
from flatmin.testing import parameterization_laws
from registry import PARAMETERIZATIONS, numbers, parameters, tangible

KEY = jax.random.key(11)
EPS = float(np.finfo(np.float64).eps)
WIDTHS = [(4, 3), (4, 4, 3), (3, 5, 4), (4, 3, 5, 3), (3, 3, 4, 6, 3)]


def target(shape, rank=None):
    """A matrix of full or given rank."""
    full = numbers(200, *shape)
    if rank is None:
        return full
    return numbers(201, shape[0], rank) @ numbers(202, rank, shape[1]) if rank else np.zeros(shape)


def slow_matrix(par, params):
    """The matrix by its definition, in NumPy."""
    p = [np.asarray(x, np.float64) for x in params]
    match par:
        case DeepMatrix():
            out = np.eye(par.widths[0])
            for w in p:
                out = w @ out
            return out
        case Hadamard():
            return np.prod(np.stack(p), axis=0)
        case Quadratic():
            return p[0] @ p[0].T - p[1] @ p[1].T
    raise TypeError(par)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_matrix_by_its_definition_and_the_laws_in_both_precisions(name, dtype):
    par = PARAMETERIZATIONS[name]((3, 3))
    for seed in range(3):
        params = parameters(par, seed, dtype)
        expected, got = slow_matrix(par, params), par.matrix(params)
        assert got.dtype == dtype
        scale = 100 * float(jnp.finfo(dtype).eps) * np.max(np.abs(expected))
        np.testing.assert_allclose(got, expected, rtol=0, atol=scale)
    parameterization_laws(par, params, key=KEY)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("rank", [None, 1, 0])
def test_balanced_and_flattest_multiply_to_their_matrix(widths, rank):
    par, depth = DeepMatrix(widths), len(widths) - 1
    M = target(par.matrix_shape, rank)
    s = np.linalg.svd(M, compute_uv=False)
    tolerance = 100 * EPS * max(s[0], 1)
    balanced = par.init_params(KEY, Balanced(jnp.asarray(M)))
    flattest = par.init_params(KEY, Flattest(jnp.asarray(M)))
    for params in (balanced, flattest):
        assert [w.shape for w in params] == [(b, a) for a, b in itertools.pairwise(widths)]
        assert all(np.isfinite(w).all() for w in params)
        np.testing.assert_allclose(par.matrix(params), M, rtol=0, atol=tolerance)
    for before, after in itertools.pairwise(balanced):
        np.testing.assert_allclose(after.T @ after, before @ before.T, rtol=0, atol=tolerance)
    for w in balanced:
        # a root magnifies rounding: singular values of size eps become eps^(1/L)
        got = np.linalg.svd(w, compute_uv=False)[: len(s)] ** depth
        np.testing.assert_allclose(got, s[: len(got)], rtol=0, atol=tolerance)
    # F(M) = 2 L (d0 dL)^(1/L) ||M||_*^(2(L-1)/L), with (1/n) sum <A_i, X>^2 = ||X||_F^2 exactly
    d0, dL, nuclear = widths[0], widths[-1], s.sum()
    op = fm.scaled(fm.identity((dL, d0)), (d0 * dL) ** 0.5)
    problem = RecoveryProblem(op, par, op.forward(jnp.asarray(M)))
    expected = 2 * depth * (d0 * dL) ** (1 / depth) * nuclear ** (2 * (depth - 1) / depth)
    assert abs(float(flatness.hessian_trace(problem, flattest)) - expected) <= 1e-12 * max(expected, 1)
    assert float(flatness.hessian_trace(problem, balanced)) >= expected - 1e-12 * max(expected, 1)
    if rank != 0:
        assert expected > 1


@pytest.mark.parametrize("widths", [(4, 4, 3), (3, 3, 4, 3)])
@pytest.mark.parametrize("rank", [None, 1])
def test_no_gauge_transformation_goes_below_the_flattest_point(widths, rank):
    par, depth = DeepMatrix(widths), len(widths) - 1
    M = target(par.matrix_shape, rank)
    d0, dL = widths[0], widths[-1]
    op = fm.scaled(fm.identity((dL, d0)), (d0 * dL) ** 0.5)
    problem = RecoveryProblem(op, par, op.forward(jnp.asarray(M)))
    lowest = (
        2 * depth * (d0 * dL) ** (1 / depth) * np.linalg.svd(M, compute_uv=False).sum() ** (2 * (depth - 1) / depth)
    )
    start = par.init_params(KEY, Balanced(jnp.asarray(M)))
    flat, unravel = ravel_pytree([jnp.eye(w) for w in widths[1:-1]])

    def transformed(x):
        gauges = [None, *unravel(x), None]
        out = []
        for i, w in enumerate(start):
            w = w if gauges[i + 1] is None else gauges[i + 1] @ w
            out.append(w if gauges[i] is None else w @ jnp.linalg.inv(gauges[i]))
        return tuple(out)

    value = jax.jit(jax.value_and_grad(lambda x: flatness.hessian_trace(problem, transformed(x)).value))
    best = np.inf
    for seed in range(4):
        x0 = np.asarray(flat) + 0.3 * numbers(210 + seed, flat.size)
        found = minimize(lambda x: tuple(np.asarray(v) for v in value(x)), x0, jac=True, method="L-BFGS-B")
        moved = transformed(jnp.asarray(found.x))
        drift = np.max(np.abs(par.matrix(moved) - M))
        if drift < 1e-9:  # a nearly singular gauge leaves the fibre by rounding
            best = min(best, found.fun)
            assert found.fun >= lowest * (1 - 1e-8)
    assert best <= 1.05 * lowest  # and the bound is the right one: the search comes near it


def test_the_flattest_hadamard_factors():
    # 2 k sum_c D_c |x_c|^(2 - 2/k), attained by Balanced and by no rescaling of entries
    A = numbers(220, 5, 3, 2)
    x = numbers(221, 3, 2)
    x[0, 0] = 0
    for k in (1, 2, 3):
        par = Hadamard((3, 2), k)
        problem = RecoveryProblem(fm.dense(jnp.asarray(A)), par, jnp.zeros(5))
        params = par.init_params(KEY, Balanced(jnp.asarray(x)))
        np.testing.assert_allclose(par.matrix(params), x, rtol=0, atol=10 * EPS)
        D = (A**2).mean(0)
        expected = 2 * k * np.sum(D * np.abs(x) ** (2 - 2 / k))
        np.testing.assert_allclose(float(flatness.hessian_trace(problem, params)), expected, rtol=1e-13)
        if k > 1:
            factor = np.exp(0.3 * numbers(222, 3, 2))
            moved = (params[0] * factor, params[1] / factor, *params[2:])
            assert float(flatness.hessian_trace(problem, moved)) > expected


def test_quadratic_units_from_eigenvalues():
    U, _ = np.linalg.qr(numbers(230, 4, 4))
    M = (U * [3.0, 1.0, 0.0, -2.0]) @ U.T
    for k1, k2 in ((2, 1), (4, 4), (3, 2), (6, 5)):
        par = Quadratic(4, k1, k2)
        plus, minus = par.init_params(KEY, Balanced(jnp.asarray((M + M.T) / 2)))
        assert plus.shape == (4, k1)
        assert minus.shape == (4, k2)
        np.testing.assert_allclose(plus @ plus.T - minus @ minus.T, M, rtol=0, atol=50 * EPS)
        np.testing.assert_allclose(np.linalg.norm(plus) ** 2 + np.linalg.norm(minus) ** 2, 6, rtol=1e-13)
    zero = Quadratic(3, 1, 1).init_params(KEY, Balanced(jnp.zeros((3, 3))))
    np.testing.assert_array_equal(Quadratic(3, 1, 1).matrix(zero), 0)


def deviations(sample, sd):
    """Mean and variance of a sample in standard errors of a N(0, sd^2) sample."""
    n = sample.size
    return sample.mean() / (sd / n**0.5), ((sample**2).mean() - sd**2) / (sd**2 * (2 / n) ** 0.5)


def test_random_schemes_have_their_statistics():
    par, L = DeepMatrix((60, 50, 40)), 2
    for scheme, sd, centre in (
        (Gaussian(0.3), lambda fan_in: 0.3, False),
        (Small(0.1), lambda fan_in: 0.1 / fan_in**0.5, False),
        (Residual(0.5), lambda fan_in: 0.5 / (L * fan_in) ** 0.5, True),
    ):
        for w in par.init_params(KEY, scheme):
            w = np.asarray(w) - (np.eye(*w.shape) if centre else 0)
            assert np.max(np.abs(deviations(w, sd(w.shape[1])))) < 5, scheme
    for w, size in zip(Hadamard((60, 50), 2).init_params(KEY, Gaussian(0.3)), (0.3, 0.3), strict=True):
        assert np.max(np.abs(deviations(np.asarray(w), size))) < 5
    for scheme, size in ((Gaussian(0.3), 0.3), (Small(0.3), 0.3 / 60**0.5)):
        for w in Quadratic(60, 40, 30).init_params(KEY, scheme):
            assert np.max(np.abs(deviations(np.asarray(w), size))) < 5
    for w in par.init_params(KEY, Orthogonal(0.7)):
        np.testing.assert_allclose(w @ w.T, 0.49 * np.eye(w.shape[0]), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(par.init_params(KEY, Residual(0.0))[1], np.eye(40, 50))
    # Haar: entries of many draws have mean zero and variance 1 / d
    many = jax.vmap(lambda k: DeepMatrix((3, 3)).init_params(k, Orthogonal())[0])(jax.random.split(KEY, 2000))
    sample = np.asarray(many).reshape(2000, -1)
    assert np.max(np.abs(sample.mean(0))) < 5 * (1 / 3 / 2000) ** 0.5
    assert np.max(np.abs((sample**2).mean(0) - 1 / 3)) < 5 * (0.089 / 2000) ** 0.5  # var of u^2 on the sphere: 4/45


@pytest.mark.parametrize(
    ("par", "scheme"),
    [
        (DeepMatrix((3, 4, 3)), s)
        for s in (Gaussian(0.3), Small(), Orthogonal(), Residual(), Balanced(jnp.eye(3)), Flattest(jnp.eye(3)))
    ]
    + [(Hadamard((3, 2), 3), Gaussian(1)), (Quadratic(3, 2, 1), Small(0.2))],
)
def test_same_key_same_bits_other_key_other_bits(par, scheme):
    one, same, other = (tangible(par.init_params(jax.random.key(k), scheme)) for k in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    # a scheme's numbers are leaves: one compiled program serves a sweep over them
    jitted = eqx.filter_jit(par.init_params)(jax.random.key(1), scheme)
    for a, b in zip(one, tangible(jitted), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


def test_single_precision_targets_give_single_precision_factors():
    M = jnp.asarray(target((3, 4)), jnp.float32)
    for scheme in (Balanced(M), Flattest(M)):
        params = DeepMatrix((4, 3, 3)).init_params(KEY, scheme)
        assert {w.dtype for w in params} == {jnp.dtype(jnp.float32)}
        np.testing.assert_allclose(DeepMatrix((4, 3, 3)).matrix(params), M, rtol=0, atol=1e-5)


def test_deep_matrix_by_depth():
    assert deep_matrix((3, 4), 1).widths == (4, 3)
    assert deep_matrix((3, 4), 3).widths == (4, 4, 4, 3)
    assert deep_matrix((3, 4), 2, 7).widths == (4, 7, 3)
    assert deep_matrix((3, 4), 2, 3).layer_shapes == ((3, 4), (3, 3))
    assert deep_matrix((3, 4), 5).depth == 5


DEEP, HAD, QUAD = DeepMatrix((3, 3, 3)), Hadamard((2, 3), 2), Quadratic(3, 1, 1)
MISTAKES = {
    "one width": (
        lambda: DeepMatrix((3,)),
        r"widths: got a tuple of 1, expected a tuple or list of at",
    ),
    "zero width": (lambda: DeepMatrix((3, 0, 3)), r"widths: got 0, expected an integer >= 1"),
    "narrow start": (
        lambda: DeepMatrix((4, 2, 3)).init_params(KEY, Balanced(np.eye(3, 4))),
        r"matrix: has rank 3, expected at most 2, the smallest of the widths \(4, 2, 3\)",
    ),
    "depth": (lambda: deep_matrix((3, 3), 0), r"depth: got 0, expected an integer >= 1"),
    "width": (lambda: deep_matrix((3, 3), 2, 0), "0"),
    "hadamard depth": (lambda: Hadamard((2, 2), 0), r"depth: got 0, expected an integer >= 1"),
    "hadamard shape": (lambda: Hadamard((2, 0), 1), r"shape: got 0, expected an integer >= 1"),
    "quadratic none": (
        lambda: Quadratic(3, 0, 0),
        "got 3, 0, 0; expected a dimension of at least 1 and at least one unit",
    ),
    "quadratic negative": (lambda: Quadratic(3, -1, 2), r"positive: got \-1, expected an integer >= 0"),
    "quadratic dimension": (lambda: Quadratic(0, 1), r"dimension: got 0, expected an integer >= 1"),
    "gaussian": (lambda: Gaussian(0.0), r"scale: got 0\.0, expected a finite number > 0"),
    "gaussian nan": (lambda: Gaussian(float("nan")), r"scale: got nan, expected a finite number > 0"),
    "small": (lambda: Small(-1.0), r"scale: got \-1\.0, expected a finite number > 0"),
    "orthogonal": (lambda: Orthogonal(float("inf")), r"gain: got inf, expected a finite number > 0"),
    "balanced vector": (lambda: Balanced(np.ones(3)), r"matrix: got shape \(3,\), expected \(d1, d2\)"),
    "flattest nan": (lambda: Flattest(np.array([[np.nan]])), r"matrix: got 1 value\(s\) that are NaN"),
    "deep shape": (
        lambda: DEEP.init_params(KEY, Balanced(np.ones((2, 3)))),
        r"matrix: got shape \(2, 3\), expected \(3, 3\)",
    ),
    "hadamard matrix": (
        lambda: HAD.init_params(KEY, Balanced(np.ones((3, 2)))),
        r"got shape \(3, 2\), expected \(2, 3\)",
    ),
    "quadratic matrix": (
        lambda: QUAD.init_params(KEY, Balanced(np.ones((2, 2)))),
        r"got shape \(2, 2\), expected \(3, 3\)",
    ),
    "quadratic skew": (
        lambda: QUAD.init_params(KEY, Balanced(np.triu(np.ones((3, 3))))),
        r"matrix: got a matrix that is not symmetric; pass \(M \+ M.T\) / 2",
    ),
    "quadratic rank": (
        lambda: QUAD.init_params(KEY, Balanced(np.diag([1.0, 2.0, -1.0]))),
        r"matrix: has 2 positive eigenvalues but positive = 1 unit\(s\); raise positive to 2",
    ),
    "quadratic sign": (
        lambda: Quadratic(3, 3).init_params(KEY, Balanced(np.diag([1.0, 2.0, -1.0]))),
        r"matrix: has 1 negative eigenvalues but negative = 0 unit\(s\); raise negative to 1",
    ),
    "hadamard scheme": (
        lambda: HAD.init_params(KEY, Orthogonal()),
        "scheme: Orthogonal is not defined for Hadamard; use one of Gaussian, Small, Balanced",
    ),
    "quadratic scheme": (
        lambda: QUAD.init_params(KEY, Residual()),
        "scheme: Residual is not defined for Quadratic; use one of Gaussian, Small, Balanced",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_meets_its_sentence(name, unchecked):
    mistake, sentence = MISTAKES[name]
    with pytest.raises(UsageError, match=sentence):
        mistake()
