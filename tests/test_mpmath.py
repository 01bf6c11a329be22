"""Closed forms against dense computations in 50-digit arithmetic; bar: relative error <= 50 n eps, n parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import flatmin.measurements as fm
from flatmin import flatness
from flatmin.parameterizations import DeepMatrix, Hadamard, Quadratic
from flatmin.problems import RecoveryProblem

mpmath.mp.dps = 50
EPS = float(np.finfo(np.float64).eps)
M = 4  # measurements, so that compiled programs are shared

_trace = eqx.filter_jit(lambda problem, params: flatness.hessian_trace(problem, params).value)
_scaled = eqx.filter_jit(lambda problem, params: flatness.scaled_trace(problem, params).value)


def exact(array) -> np.ndarray:
    """The float64 numbers as mpmath numbers, in an object array (`@` and sums then run in 50 digits)."""
    return np.vectorize(mpmath.mpf, otypes=[object])(np.asarray(array, np.float64))


def jacobian_of_products(A, W):
    """J[i, theta] = d<A_i, W_L .. W_1>/d theta, one parameter at a time: the layer replaced by a unit matrix."""
    columns, layer_of = [], []
    for layer, (rows, cols) in enumerate(w.shape for w in W):
        left = exact(np.eye(W[-1].shape[0]))
        for w in W[:layer:-1]:
            left = left @ w
        right = exact(np.eye(W[0].shape[1]))
        for w in W[:layer]:
            right = w @ right
        for a in range(rows):
            for b in range(cols):
                derivative = np.outer(left[:, a], right[b, :])
                columns.append([(derivative * Ai).sum() for Ai in A])
                layer_of.append(layer)
    return np.array(columns, dtype=object).T, np.array(layer_of)


def relative(got, truth) -> float:
    return float(abs(mpmath.mpf(float(got)) - truth) / abs(truth))


def ill_conditioned(rng, shape, log_condition):
    """A random matrix of norm 1 with singular values spread over `10^log_condition`."""
    U, _, Vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return (U * np.logspace(0, -log_condition, U.shape[1])) @ Vt


def deep_case(seed, depth):
    """Problem and factors; sizes are equal for equal depth, conditioning and scales vary."""
    rng = np.random.default_rng(1000 * depth + seed)
    par = DeepMatrix({1: (3, 2), 2: (3, 3, 2), 3: (3, 3, 3, 2), 4: (3, 3, 3, 3, 2)}[depth])
    W = [ill_conditioned(rng, s, rng.choice([0, 3, 12])) for s in par.layer_shapes]
    tensor = rng.standard_normal((M, *par.matrix_shape)) * 10.0 ** rng.choice([-8, 0, 0, 8])
    scale = rng.choice([0, 0, 100, 150])
    if scale and depth > 1:
        # the trace is a sum over layers of products of all the others: 10^(2 * (+-scale)) is still representable
        powers = np.zeros(depth)
        powers[rng.integers(depth)] = rng.choice([-1, 1]) * (scale - 10)
        if depth > 2:
            powers[rng.integers(depth)] += rng.choice([-1, 1]) * 10
        W = [w * 10.0**p for w, p in zip(W, powers, strict=True)]
        tensor = tensor / np.abs(tensor).max()
    elif scale:
        tensor = tensor / np.abs(tensor).max() * 10.0 ** (rng.choice([-1, 1]) * scale)
    params = tuple(jnp.asarray(w) for w in W)
    op = fm.dense(jnp.asarray(tensor))
    return RecoveryProblem(op, par, jnp.asarray(rng.standard_normal(M))), params, tensor


def deep_errors(seed, depth):
    """Relative errors of the trace, of the scaled trace and of the kernel's spectrum, over n eps."""
    problem, params, tensor = deep_case(seed, depth)
    J, layer_of = jacobian_of_products(exact(tensor), [exact(w) for w in params])
    n = J.shape[1]
    two_over_m = mpmath.mpf(2) / M
    squares = (J**2).sum(0) * two_over_m
    errors = {"trace": relative(_trace(problem, params), squares.sum())}
    if depth == 2:
        d1, d2 = problem.measurements.matrix_shape
        truth = squares[layer_of == 1].sum() / d1 + squares[layer_of == 0].sum() / d2
        errors["scaled trace"] = relative(_scaled(problem, params), truth)
    kernel = mpmath.matrix((J @ J.T * two_over_m).tolist())
    truth = sorted(mpmath.eigsy(kernel, eigvals_only=True))
    got = np.asarray(flatness.gauss_newton_spectrum(problem, params))
    errors["kernel sharpness"] = relative(got[-1], truth[-1])
    errors["kernel spectrum"] = max(
        float(abs(mpmath.mpf(float(g)) - t) / truth[-1]) for g, t in zip(got, truth, strict=True)
    )
    return {k: e / (n * EPS) for k, e in errors.items()}


def chain_errors(seed, depth=60):
    """Depth 60, layers of sizes 1e+-100 whose partial products leave the range of float64."""
    rng = np.random.default_rng(seed)
    par = DeepMatrix((2,) * (depth + 1))
    powers = rng.uniform(-100, 100, depth)
    powers[rng.permutation(depth)[: depth // 2]] *= -1
    powers -= powers.mean()
    W = [rng.standard_normal(s) * 10.0**p for s, p in zip(par.layer_shapes, powers, strict=True)]
    largest = powers.sum() - powers.min()
    if largest > 140:  # the largest block is (product of all other layers)^2
        W[int(np.argmax(powers))] *= 10.0 ** (140 - largest)
    tensor = rng.standard_normal((M, 2, 2))
    params = tuple(jnp.asarray(w) for w in W)
    problem = RecoveryProblem(fm.dense(jnp.asarray(tensor)), par, jnp.ones(M))
    J, _ = jacobian_of_products(exact(tensor), [exact(w) for w in params])
    truth = (J**2).sum() * mpmath.mpf(2) / M
    with jax.disable_jit():  # a program of sixty unrolled layers takes longer to compile than to run
        got = flatness.hessian_trace(problem, params).value
    return {"deep chain": relative(got, truth) / (J.shape[1] * EPS)}


def hadamard_errors(seed, depth, wild=False):
    rng = np.random.default_rng(seed + 7 * depth)
    shape = (3, 2)
    V = [rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 6, shape) for _ in range(depth)]
    if wild:  # partial products overflow, and underflow; all products of all but one factor stay in range
        powers = rng.permutation(np.repeat([90.0, -90.0], depth // 2))
        V = [rng.uniform(0.5, 2, shape) * 10.0**p for p in powers]
    tensor = rng.standard_normal((M, *shape)) * 10.0 ** rng.choice([-20, 0, 20])
    params = tuple(jnp.asarray(v) for v in V)
    problem = RecoveryProblem(fm.dense(jnp.asarray(tensor)), Hadamard(shape, depth), jnp.ones(M))
    A, total = exact(tensor), mpmath.mpf(0)
    for j in range(depth):
        others = exact(np.ones(shape))
        for v in (*V[:j], *V[j + 1 :]):
            others = others * exact(v)
        total += sum(((Ai * others) ** 2).sum() for Ai in A)
    return {"hadamard": relative(_trace(problem, params), 2 * total / M) / (depth * 6 * EPS)}


def quadratic_errors(seed):
    """Every diagonal second derivative of (1/m) sum (x^T (U1 U1' - U2 U2') x - b)^2, symmetric or general A."""
    rng = np.random.default_rng(seed)
    d, k1, k2 = 3, 2, 1
    scale = 10.0 ** rng.choice([0, 0, 60, -60])
    U = [ill_conditioned(rng, (d, k), rng.choice([0, 12])) * scale for k in (k1, k2)]
    tensor = rng.standard_normal((M, d, d)) * 10.0 ** rng.choice([0, 10, -10])
    Ue, A = [exact(u) for u in U], exact(tensor)
    matrix = Ue[0] @ Ue[0].T - Ue[1] @ Ue[1].T
    predictions = np.array([(Ai * matrix).sum() for Ai in A], dtype=object)
    interpolates = seed % 2 == 0
    b = (
        exact([float(p) for p in predictions])
        if interpolates
        else exact(rng.standard_normal(M) * float(max(abs(predictions))))
    )
    residual = predictions - b
    total = size = mpmath.mpf(0)
    for sign, u in ((1, Ue[0]), (-1, Ue[1])):
        for Ai, r in zip(A, residual, strict=True):
            first = ((Ai + Ai.T) @ u) ** 2  # squared first derivatives
            second = sign * 2 * u.shape[1] * sum(Ai[j, j] for j in range(d)) * r  # r times second derivatives
            total += first.sum() + second
            size += first.sum() + abs(second)
    problem = RecoveryProblem(
        fm.dense(jnp.asarray(tensor)), Quadratic(d, k1, k2), jnp.asarray(np.array([float(x) for x in b]))
    )
    got = _trace(problem, tuple(jnp.asarray(u) for u in U))
    # the two parts can cancel: the error is measured against the sum of their sizes
    error = float(abs(mpmath.mpf(float(got)) - 2 * total / M) / (2 * size / M))
    return {"quadratic": error / (d * (k1 + k2) * EPS)}


def worst(cases) -> dict[str, float]:
    out: dict[str, float] = {}
    for case in cases:
        for name, value in case.items():
            assert np.isfinite(value), f"{name}: not finite"
            out[name] = max(out.get(name, 0.0), value)
    return out


def check(cases):
    figures = worst(cases)
    print({k: round(v, 3) for k, v in figures.items()})
    assert figures
    for name, value in figures.items():
        assert value <= 50, f"{name}: relative error is {value:.1f} n eps"
    return figures


def wide(small: int, large: int):
    return pytest.mark.parametrize("count", [small, pytest.param(large, marks=pytest.mark.long)])


@wide(9, 150)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_deep_traces_scaled_traces_and_kernel_spectra(depth, count):
    check(deep_errors(seed, depth) for seed in range(count))


@wide(2, 20)
def test_a_chain_of_sixty_layers_whose_partial_products_overflow(count):
    check(chain_errors(seed) for seed in range(count))


@wide(4, 80)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_hadamard(depth, count):
    check(hadamard_errors(seed, depth) for seed in range(count))


@wide(3, 40)
def test_hadamard_whose_partial_products_overflow(count):
    check(hadamard_errors(seed, 8, wild=True) for seed in range(count))


@wide(10, 150)
def test_quadratic(count):
    check(quadratic_errors(seed) for seed in range(count))


def test_the_mpmath_twins_agree_with_a_dense_autodiff_hessian():
    # so that the two are not wrong together: one moderate case of each, by a third way
    problem, params, tensor = deep_case(3, 3)
    problem = eqx.tree_at(lambda p: p.measurements.tensor, problem, jnp.asarray(tensor / np.abs(tensor).max()))
    params = tuple(w / jnp.linalg.norm(w) for w in params)
    J, _ = jacobian_of_products(exact(problem.measurements.tensor), [exact(w) for w in params])
    dense = flatness.hessian_trace(problem, params, flatness.Dense()).value
    np.testing.assert_allclose(float((J**2).sum() * 2 / M), dense, rtol=1e-11)
    assert jax.tree.leaves(params)[0].dtype == jnp.float64
