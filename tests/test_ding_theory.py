"""Ding et al.: flat factors are the flattest, their norm gap and imbalance stay below the bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ortho_group

from flatmin import UsageError, scaled_trace
from flatmin.diagnosis import diagnose
from flatmin.experiments.papers.ding2022.regularity import balanced_factors, regularity
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


def trace_of(op, left, right):
    problem = RecoveryProblem(op, deep_matrix(SHAPE, 2, left.shape[1]), op.forward(left @ right.T))
    return float(scaled_trace(problem, (right.T, left)).value)


@pytest.mark.parametrize("kind", KINDS)
def test_flat_factors_have_the_smallest_scaled_trace(kind):
    op, M = KINDS[kind], matrix()
    left, right = ding2022.flat_factors(op, M, 5)
    np.testing.assert_allclose(left @ right.T, M, atol=1e-12)
    least = trace_of(op, left, right)
    assert least == pytest.approx(float(ding2022.smallest_scaled_trace(op, M)), rel=1e-12)
    # in the programme's normalisation D_out = d2 D_1^2, D_in = d1 D_2^2
    programme = MinScaledNuclearNorm(op, op.forward(M))
    assert least == pytest.approx(4 * float(programme.norm(M)) / np.sqrt(SHAPE[0] * SHAPE[1]), rel=1e-12)
    rng = np.random.default_rng(2)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(10):
            mix = np.eye(5) + size * rng.normal(size=(5, 5))
            assert trace_of(op, left @ mix, right @ np.linalg.inv(mix).T) > least
    turn = ortho_group.rvs(5, random_state=3)
    assert trace_of(op, left @ turn, right @ turn) == pytest.approx(least, rel=1e-12)
    assert trace_of(op, *map(jnp.asarray, balanced_factors(M))) > least


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["sensing", "completion"])
def test_bounds_hold_at_flat_solutions_and_the_host_agrees_with_the_diagnosis(kind, seed):
    key = jax.random.key(seed)
    planted = matrix_sensing(key, (8, 8), 1, 40) if kind == "sensing" else matrix_completion(key, (8, 8), 1, 0.7)
    op, b = planted.problem.measurements, planted.problem.targets
    programme = MinScaledNuclearNorm(op, b)
    flat, nuclear = solve(programme), solve(MinNuclearNorm(op, b))
    found = diagnose(op, b, flat.matrix, nuclear=nuclear)
    assert 1e-6 < found.norm_gap < found.norm_gap_bound
    assert 1e-3 < found.imbalance < found.imbalance_bound
    host = regularity(programme, flat.matrix, nuclear.primal_value)
    for name in ("norm_gap", "imbalance", "norm_gap_bound"):
        assert getattr(host, name) == pytest.approx(getattr(found, name), rel=1e-6), name


def test_balanced_factors_are_norm_minimal_and_balanced():
    M = matrix()
    left, right = balanced_factors(M)
    np.testing.assert_allclose(left @ right.T, M, atol=1e-13)
    nuclear = np.linalg.svd(M, compute_uv=False).sum()
    assert np.sum(left**2) + np.sum(right**2) == pytest.approx(2 * nuclear)
    np.testing.assert_allclose(left.T @ left, right.T @ right, atol=1e-13)


def test_isotropic_measurements_leave_no_room():
    weights = ding2022.weight_matrices(identity((4, 4)))
    assert float(ding2022.norm_gap_bound(*weights)) == pytest.approx(0, abs=1e-14)
    assert float(ding2022.imbalance_bound(*weights)) == pytest.approx(0, abs=1e-13)


def test_an_unseen_row_is_said():
    op = entries(jnp.array([0, 0, 1]), jnp.array([0, 1, 1]), (3, 2))
    with pytest.raises(UsageError, match="measurements: got a singular D_1"):
        ding2022.flat_factors(op, jnp.ones((3, 2)), 2)
    with pytest.raises(UsageError, match="matrix: got shape"):
        ding2022.flat_factors(op, jnp.ones((2, 2)), 2)
