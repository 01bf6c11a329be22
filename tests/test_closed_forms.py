"""Closed forms and bounds of ours: derivatives, scales, precision, edges; random instances stand in the ledger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError
from flatmin.flatness import hessian_trace, sharpness
from flatmin.interpolators import induced_regulariser
from flatmin.measurements import dense, entries, gaussian
from flatmin.parameterizations import DeepMatrix
from flatmin.problems import RecoveryProblem, deep_linear_regression
from flatmin.theory import closed_forms, gatmiry2023, marion2024, smallest_sharpness


@pytest.fixture
def op():
    return gaussian(jax.random.key(3), 7, (3, 4))


U, V = jnp.asarray([0.3, -1.0, 2.0]), jnp.asarray([1.0, 0.5, -0.2, 0.1])


def covariance(seed=0, d=4):
    X = np.random.default_rng(seed).normal(size=(12, d)) * np.geomspace(1, 5, d)
    return jnp.asarray(X.T @ X / 12)


# --- rank one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [3, 4])
def test_rank_one_is_the_minimum_that_the_solver_finds(op, depth):
    found = induced_regulariser(op, jnp.outer(U, V), depth)
    assert found.value == pytest.approx(float(closed_forms.rank_one_regulariser(op, U, V, depth)), rel=1e-7)


def test_rank_one_contains_the_papers_forms(op):
    M = jnp.outer(U, V)
    two = closed_forms.rank_one_regulariser(op, U, V, 2)
    assert float(two) == pytest.approx(float(gatmiry2023.depth_two_regulariser(op, M)), rel=1e-12)
    one = dense(jax.random.normal(jax.random.key(4), (1, 3, 4)))
    five = closed_forms.rank_one_regulariser(one, U, V, 5)
    A = one.adjoint(jnp.ones(1))
    by_hand = 10 * (jnp.linalg.norm(A.T @ U) * jnp.linalg.norm(A @ V) * jnp.abs(U @ A @ V) ** 3) ** (2 / 5)
    assert float(five) == pytest.approx(float(by_hand), rel=1e-12)


def test_the_trace_at_the_explicit_factors_is_the_dense_hessians(op):
    W = closed_forms.rank_one_minimiser(op, U, V, 4)
    problem = RecoveryProblem(op, DeepMatrix((4, 3, 3, 3, 3)), jnp.zeros(7))
    frames = [jnp.eye(3)[:, :1]] * 3
    wide = (frames[0] @ W[0], *(f @ w @ f.T for f, w in zip(frames[1:], W[1:3], strict=True)), W[3] @ frames[-1].T)
    value = hessian_trace(problem, wide).value
    assert float(value) == pytest.approx(float(closed_forms.rank_one_regulariser(op, U, V, 4)), rel=1e-12)


def test_what_no_measurement_sees_costs_nothing():
    op = entries(jnp.asarray([0, 1]), jnp.asarray([0, 1]), (3, 3))
    unseen = jnp.asarray([0.0, 0.0, 1.0])
    assert float(closed_forms.rank_one_regulariser(op, unseen, jnp.ones(3), 20)) == 0
    # off the seen entries q vanishes, so that from depth 3 on the matrix is free
    across = closed_forms.rank_one_regulariser(op, jnp.asarray([1.0, 0, 0]), jnp.asarray([0, 1.0, 0]), 20)
    assert float(across) == 0
    turned = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (3, 3)))[0]
    mixed = dense(jnp.stack([turned @ A @ turned.T for A in (jnp.diag(jnp.eye(3)[0]), jnp.diag(jnp.eye(3)[1]))]))
    assert float(closed_forms.rank_one_regulariser(mixed, turned[:, 2], turned[:, 2], 20)) == 0


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_rank_one_at_any_scale(op, scale):
    plain = float(closed_forms.rank_one_regulariser(op, U, V, 3))
    assert float(closed_forms.rank_one_regulariser(op, scale * U, V, 3)) == pytest.approx(
        plain * scale ** (4 / 3), rel=1e-12
    )


def test_rank_one_in_single_precision(op):
    half = jax.tree.map(lambda x: x.astype(jnp.float32), op)
    value = closed_forms.rank_one_regulariser(half, U.astype(jnp.float32), V.astype(jnp.float32), 5)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(float(closed_forms.rank_one_regulariser(op, U, V, 5)), rel=1e-5)


# --- rectangles and whitening --------------------------------------------------------------------------


def test_one_block_is_lemma_four():
    M = jax.random.normal(jax.random.key(1), (3, 4))
    # all entries seen, mean over 12 of them: the identity over 12
    value = closed_forms.block_completion_regulariser([M], 12, 5)
    whole = gatmiry2023.population_regulariser(gatmiry2023.nuclear_norm(M), 5, (3, 4)) / 12
    assert float(value) == pytest.approx(float(whole), rel=1e-12)


def test_entries_apart_are_the_hadamard_formula():
    b = jnp.asarray([1.0, -2.0, 0.5])
    value = closed_forms.block_completion_regulariser([x.reshape(1, 1) for x in b], 3, 4)
    assert float(value) == pytest.approx(float(8 / 3 * jnp.sum(jnp.abs(b) ** 1.5)), rel=1e-12)


def test_the_solver_finds_no_less_than_disjoint_blocks_say():
    op = entries(jnp.asarray([0, 0, 1, 1, 2]), jnp.asarray([0, 1, 0, 1, 2]), (3, 3))
    block, corner = jnp.asarray([[2.0, 1.0], [-1.0, 0.5]]), jnp.asarray([[1.5]])
    M = jnp.zeros((3, 3)).at[:2, :2].set(block).at[2, 2].set(1.5)
    found = induced_regulariser(op, M, 3)
    value = float(closed_forms.block_completion_regulariser([block, corner], 5, 3))
    assert found.value == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize(
    ("blocks", "n", "depth", "argument"),
    [
        ([], 1, 3, "blocks"),
        ([jnp.ones(3)], 3, 3, "blocks"),
        ([jnp.ones((2, 2))], 5, 3, "num_measurements"),
        ([jnp.ones((2, 2))], 4, 1, "depth"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_blocks(blocks, n, depth, argument):
    for function in (closed_forms.block_completion_regulariser, closed_forms.rectangle_lower_bound):
        with pytest.raises(UsageError, match=f"^{argument}: got"):
            function(blocks, n, depth)


def test_fourth_moments_that_factor_have_ratio_one():
    a, b = (jax.random.normal(jax.random.key(k), (4, 3)) for k in (0, 1))
    op = dense(jnp.einsum("jr,kc->jkrc", a, b).reshape(16, 3, 3))
    assert float(closed_forms.fourth_moment_ratio(op, U, V[:3])) == pytest.approx(1, rel=1e-12)
    M = jax.random.normal(jax.random.key(2), (3, 3))
    low, high = (f(op, M, 4, 1.0) for f in (closed_forms.whitened_lower, closed_forms.whitened_upper))
    exact = closed_forms.whitened_regulariser(op, M, 4)
    assert float(low) == float(exact) == float(high)
    assert induced_regulariser(op, M, 3).value == pytest.approx(
        float(closed_forms.whitened_regulariser(op, M, 3)), rel=1e-6
    )


# --- the smallest sharpness ------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_the_smallest_sharpness_is_between_its_bounds(depth):
    Sigma, w = covariance(), jnp.asarray([1.0, -0.5, 0.3, 0.2])
    size = jnp.linalg.norm(w)
    a, top = w @ Sigma @ w / size**2, jnp.linalg.eigvalsh(Sigma)[-1]
    value = float(smallest_sharpness.smallest_sharpness(Sigma, w, depth))
    assert float(marion2024.minimiser_sharpness_lower_bound(Sigma, w, depth)) <= value * (1 + 1e-12)
    balanced = float(marion2024.balanced_rank_one_sharpness(Sigma, w, depth))
    assert value <= balanced * (1 + 1e-12)
    assert balanced <= float(smallest_sharpness.small_start_sharpness_upper_bound(a, top, size, depth)) * (1 + 1e-12)
    assert value <= float(smallest_sharpness.smallest_sharpness_upper_bound(a, top, size, depth)) * (1 + 1e-12)


def test_a_search_over_minimisers_finds_nothing_flatter():
    """Gradient descent on the sharpness over all minimisers of a problem at depth 3, from four starts."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(5)
    Sigma, w = np.asarray(covariance(1, 3)), np.asarray([0.7, -0.2, 0.4])
    values, vectors = np.linalg.eigh(Sigma)
    root = (vectors * np.sqrt(values)) @ vectors.T

    def height(x):
        W_1, W_2 = x[:9].reshape(3, 3), x[9:18].reshape(3, 3)
        Q = W_2 @ W_1
        W_3 = w @ np.linalg.pinv(Q)
        if not np.allclose(W_3 @ Q, w, rtol=1e-6, atol=1e-8):
            return 1e6
        P_1 = W_3 @ W_2
        T = P_1 @ P_1 * np.eye(3) + W_3 @ W_3 * W_1.T @ W_1 + Q.T @ Q
        return 2 * np.linalg.eigvalsh(root @ T @ root)[-1]

    value = float(smallest_sharpness.smallest_sharpness(jnp.asarray(Sigma), jnp.asarray(w), 3))
    flat = smallest_sharpness.smallest_sharpness_minimiser(jnp.asarray(Sigma), jnp.asarray(w), 3)
    first, second = np.pad(flat[0], ((0, 2), (0, 0))), np.pad(flat[1], ((0, 2), (0, 2)))
    best = np.inf
    for _ in range(4):
        start = np.concatenate([first.ravel(), second.ravel()]) + 0.3 * rng.normal(size=18)
        best = min(best, minimize(height, start, method="Nelder-Mead", options={"maxiter": 1500}).fun)
    assert value * (1 - 1e-9) <= best <= 1.5 * value


def test_the_minimiser_has_that_sharpness_by_the_dense_hessian():
    X = jax.random.normal(jax.random.key(2), (12, 3)) @ jnp.diag(jnp.asarray([1.0, 2.0, 4.0]))
    y = jax.random.normal(jax.random.key(3), (12,))
    problem = deep_linear_regression(X, y, depth=3)
    constants = marion2024.regression_constants(X, y)
    narrow = smallest_sharpness.smallest_sharpness_minimiser(constants.covariance, constants.minimiser, 3)
    widths = problem.parameterization.widths
    frames = [jnp.eye(width)[:, :1] for width in widths[1:-1]]
    wide = (frames[0] @ narrow[0], frames[1] @ narrow[1] @ frames[0].T, narrow[2] @ frames[1].T)
    value = smallest_sharpness.smallest_sharpness(constants.covariance, constants.minimiser, 3)
    assert float(sharpness(problem, wide).value) == pytest.approx(float(value), rel=1e-9)


def test_derivatives_jit_and_vmap():
    Sigma, w = covariance(), jnp.asarray([1.0, -0.5, 0.3, 0.2])
    value = lambda v: smallest_sharpness.smallest_sharpness(Sigma, v, 4)  # noqa: E731
    slope = jax.grad(value)(w)
    step = 1e-6
    for i in range(4):
        moved = (value(w.at[i].add(step)) - value(w.at[i].add(-step))) / (2 * step)
        assert float(slope[i]) == pytest.approx(float(moved), rel=1e-5)
    many = jax.jit(jax.vmap(value))(jnp.stack([w, 2 * w]))
    assert float(many[1] / many[0]) == pytest.approx(2**1.5, rel=1e-12)
    assert float(value(jnp.zeros(4))) == 0


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_the_smallest_sharpness_scales_with_the_covariance(scale):
    Sigma, w = covariance(), jnp.asarray([1.0, -0.5, 0.3, 0.2])
    plain = float(smallest_sharpness.smallest_sharpness(Sigma, w, 5))
    assert float(smallest_sharpness.smallest_sharpness(scale * Sigma, w, 5)) == pytest.approx(scale * plain, rel=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_of_the_smallest_sharpness():
    with pytest.raises(UsageError, match=r"^w: got shape \(4,\), expected \(3,\)"):
        smallest_sharpness.smallest_sharpness(jnp.eye(3), jnp.ones(4), 2)
    with pytest.raises(UsageError, match=r"^depth: got 0"):
        smallest_sharpness.smallest_sharpness(jnp.eye(3), jnp.ones(3), 0)
    with pytest.raises(UsageError, match=r"^a: got -1"):
        smallest_sharpness.smallest_sharpness_upper_bound(-1.0, 1.0, 1.0, 2)
