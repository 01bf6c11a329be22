"""Ding et al.: flat factors are the flattest, their norm gap and imbalance stay below the bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ortho_group

from flatmin import UsageError, scaled_trace
from flatmin.measurements import bilinear_gaussian, entries, gaussian, identity
from flatmin.parameterizations import deep_matrix
from flatmin.problems import RecoveryProblem, matrix_completion, matrix_sensing
from flatmin.solvers import MinNuclearNorm, MinScaledNuclearNorm, solve
from flatmin.theory import ding2022

SHAPE = (5, 7)
ROWS, COLS = np.nonzero(np.random.default_rng(1).random(SHAPE) < 0.7)
KINDS = {
    "gaussian": gaussian(jax.random.key(0), 24, SHAPE),
    "bilinear": bilinear_gaussian(jax.random.key(1), 30, SHAPE),
    "entries": entries(jnp.asarray(ROWS), jnp.asarray(COLS), SHAPE),
}


def matrix(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=SHAPE))


def trace_of(op, factors):
    problem = RecoveryProblem(
        op, deep_matrix(SHAPE, 2, factors.left.shape[1]), op.forward(factors.left @ factors.right.T)
    )
    return float(scaled_trace(problem, (factors.right.T, factors.left)).value)


@pytest.mark.parametrize("kind", KINDS)
def test_flat_factors_have_the_smallest_scaled_trace(kind):
    op, M = KINDS[kind], matrix()
    flat = ding2022.flat_factors(op, M)
    np.testing.assert_allclose(flat.left @ flat.right.T, M, atol=1e-12)
    least = trace_of(op, flat)
    programme = MinScaledNuclearNorm(op, op.forward(M))
    # in the programme's normalisation D_out = d2 D_1^2, D_in = d1 D_2^2
    assert least == pytest.approx(4 * float(programme.norm(M)) / np.sqrt(SHAPE[0] * SHAPE[1]), rel=1e-12)
    rng = np.random.default_rng(2)
    k = flat.left.shape[1]
    for size in (1e-3, 0.1, 1.0):
        for _ in range(10):
            mix = np.eye(k) + size * rng.normal(size=(k, k))
            other = ding2022.Factors(flat.left @ mix, flat.right @ np.linalg.inv(mix).T)
            assert trace_of(op, other) > least
    turn = ortho_group.rvs(k, random_state=3)
    turned = ding2022.Factors(flat.left @ turn, flat.right @ turn)
    assert trace_of(op, turned) == pytest.approx(least, rel=1e-12)
    assert trace_of(op, ding2022.balanced_factors(M)) > least


def test_balanced_factors_are_norm_minimal_and_balanced():
    M = matrix()
    factors = ding2022.balanced_factors(M)
    nuclear = np.linalg.svd(M, compute_uv=False).sum()
    assert ding2022.norm_gap(*factors, nuclear) == pytest.approx(0, abs=1e-14)
    assert ding2022.imbalance(*factors) == pytest.approx(0, abs=1e-14)
    uneven = ding2022.Factors(3 * factors.left, factors.right / 3)
    assert ding2022.norm_gap(*uneven, nuclear) == pytest.approx((9 + 1 / 9) / 2 - 1)
    assert ding2022.imbalance(*uneven) > 1
    assert np.isnan(ding2022.imbalance(0 * factors.left, factors.right))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["sensing", "completion"])
def test_bounds_hold_at_flat_solutions(kind, seed):
    key = jax.random.key(seed)
    planted = matrix_sensing(key, (8, 8), 1, 30) if kind == "sensing" else matrix_completion(key, (8, 8), 1, 0.6)
    op, b = planted.problem.measurements, planted.problem.targets
    flat, nuclear = solve(MinScaledNuclearNorm(op, b)), solve(MinNuclearNorm(op, b))
    factors = ding2022.flat_factors(op, flat.matrix)
    gap, imbalance = ding2022.norm_gap(*factors, nuclear.primal_value), ding2022.imbalance(*factors)
    assert 1e-4 < gap < ding2022.norm_gap_bound(op)
    assert 1e-3 < imbalance < ding2022.imbalance_bound(op)


def test_isotropic_measurements_leave_no_room():
    op = identity((4, 4))
    assert ding2022.norm_gap_bound(op) == pytest.approx(0, abs=1e-14)
    assert ding2022.imbalance_bound(op) == pytest.approx(0, abs=1e-13)
    (low, high), _ = ding2022.scale_ranges(op)
    assert low == pytest.approx(high)


def test_an_unseen_row_is_said():
    op = entries(jnp.array([0, 0, 1]), jnp.array([0, 1, 1]), (3, 2))
    with pytest.raises(UsageError, match="measurements: got a singular D_1"):
        ding2022.flat_factors(op, jnp.ones((3, 2)))
    assert ding2022.norm_gap_bound(op) == ding2022.imbalance_bound(op) == np.inf
    with pytest.raises(UsageError, match="matrix: got shape"):
        ding2022.flat_factors(op, jnp.ones((2, 2)))
