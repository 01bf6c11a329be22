"""Quadratic networks between flat, norm-minimal and orthogonal: closed forms, bounds, mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError, diagnose_quadratic
from flatmin import measurements as ms
from flatmin import problems as pb
from flatmin import solvers as sv
from flatmin.flatness import hessian_trace
from flatmin.theory import ding2022 as theory

# few samples of unequal directions, so that flat and smallest differ
X = np.random.default_rng(0).normal(size=(16, 6)) * np.linspace(1, 3, 6)
OP = ms.symmetric_rank_one(jnp.asarray(X))
U = np.random.default_rng(1).normal(size=(6, 3))
TRUTH = jnp.asarray((U * [1, 1, -1]) @ U.T)
B = OP.forward(TRUTH)


@pytest.fixture(scope="module")
def flat():
    return sv.solve(sv.MinSymmetricNuclearNorm(OP, B, scaled=True))


@pytest.fixture(scope="module")
def smallest():
    return sv.solve(sv.MinSymmetricNuclearNorm(OP, B))


def weight_typed_plainly():
    values, vectors = np.linalg.eigh(np.mean([np.dot(x, x) * np.outer(x, x) for x in X], 0))
    return (vectors * np.sqrt(values)) @ vectors.T


def test_a_flat_solution_is_diagnosed(flat, smallest):
    found = diagnose_quadratic(OP, B, flat.matrix, nuclear=smallest)
    assert found.trace == pytest.approx(8 * flat.primal_value, rel=1e-9)
    assert abs(found.excess_trace) < 1e-9
    assert found.condition == pytest.approx(np.linalg.cond(weight_typed_plainly()), rel=1e-9)
    assert 1e-4 < found.norm_gap <= found.norm_gap_bound
    assert 1e-4 < found.overlap <= found.overlap_bound
    assert found.residual < 1e-9
    assert found.distance == pytest.approx(
        np.linalg.norm(flat.matrix - smallest.matrix) / np.linalg.norm(smallest.matrix)
    )


def test_the_trace_is_the_hessians(flat):
    plus, minus = theory.flat_units(OP, flat.matrix)
    made = pb.quadratic_network(jax.random.key(0), 6, 16, positive=plus.shape[1], negative=minus.shape[1])
    units = dataclasses.replace(made.problem.parameterization, positive=plus.shape[1], negative=minus.shape[1])
    problem = pb.RecoveryProblem(OP, units, B)
    found = diagnose_quadratic(OP, B, flat.matrix)
    assert float(hessian_trace(problem, (plus, minus)).value) == pytest.approx(found.trace, rel=1e-8)


def test_a_smallest_solution_has_orthogonal_units_and_is_not_flat(flat, smallest):
    values, vectors = np.linalg.eigh(np.asarray(smallest.matrix))
    units = tuple(
        jnp.asarray(vectors[:, sign * values > 1e-9] * np.sqrt(np.abs(values[sign * values > 1e-9])))
        for sign in (1, -1)
    )
    found = diagnose_quadratic(OP, B, smallest.matrix, units=units, nuclear=smallest)
    assert abs(found.norm_gap) < 1e-8
    assert found.overlap < 1e-8
    assert found.distance == 0
    assert found.excess_trace > 1e-4
    assert found.trace > 8 * flat.primal_value * (1 + 1e-4)


def test_no_units_of_the_same_matrix_are_flatter(flat):
    plus, minus = theory.flat_units(OP, flat.matrix)
    D, least = weight_typed_plainly(), float(theory.smallest_quadratic_trace(OP, flat.matrix))
    for seed in range(20):
        # hyperbolic moves keep U_1 U_1^T - U_2 U_2^T
        skew = 0.3 * np.random.default_rng(seed).normal(size=(plus.shape[1], minus.shape[1]))
        generator = np.block([[np.zeros((len(skew),) * 2), skew], [skew.T, np.zeros((skew.shape[1],) * 2)]])
        moved = np.hstack([plus, minus]) @ jax.scipy.linalg.expm(generator)
        one, other = moved[:, : len(skew)], moved[:, len(skew) :]
        np.testing.assert_allclose(one @ one.T - other @ other.T, flat.matrix, atol=1e-8)
        assert 8 * (np.sum((D @ one) ** 2) + np.sum((D @ other) ** 2)) > least


@pytest.mark.parametrize("seed", range(5))
def test_bounds_hold_for_ill_conditioned_weights(seed):
    rng = np.random.default_rng(seed)
    op = ms.symmetric_rank_one(jnp.asarray(rng.normal(size=(14, 5)) * np.geomspace(1, 10, 5)))
    b = jnp.asarray(rng.normal(size=14))
    found = diagnose_quadratic(op, b, sv.solve(sv.MinSymmetricNuclearNorm(op, b, scaled=True)).matrix)
    assert 0 <= found.norm_gap <= found.norm_gap_bound
    assert 0 < found.overlap <= found.overlap_bound
    assert float(theory.quadratic_norm_gap_bound(jnp.eye(4))) == 0
    assert float(theory.overlap_bound(jnp.diag(jnp.asarray([1.0, 2.0])))) == pytest.approx(3 / 8**0.5)


def test_a_covariance_is_compared_with_the_smallest_one():
    planted = pb.covariance_estimation(jax.random.key(0), 6, 2, 24)
    problem = planted.problem
    found = diagnose_quadratic(problem.measurements, problem.targets, planted.truth, semidefinite=True)
    assert found.nuclear.method != ""
    assert found.overlap == 0
    assert found.distance < 1e-7
    assert abs(found.excess_trace) < 1e-9
    assert found.effective_rank < 2.0001


MISTAKES = {
    "not symmetric": (
        lambda: diagnose_quadratic(OP, B, TRUTH.at[0, 1].add(1.0)),
        r"matrix: got a matrix that differs from its transpose by 1,",
    ),
    "shape": (lambda: diagnose_quadratic(OP, B, TRUTH[:5, :5]), r"matrix: got shape \(5, 5\), expected \(6, 6\)"),
    "zero": (lambda: diagnose_quadratic(OP, B, 0 * TRUTH), "matrix: got a zero matrix, expected a solution"),
    "units": (
        lambda: diagnose_quadratic(OP, B, TRUTH, units=(jnp.ones((6, 2)), jnp.ones((6, 1)))),
        "units: got U_1 U_1\\^T - U_2 U_2\\^T that is not the matrix",
    ),
    "singular": (
        lambda: theory.flat_units(ms.symmetric_rank_one(jnp.ones((3, 2))), jnp.ones((2, 2))),
        "measurements: got a singular D, expected an invertible one",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_meets_its_sentence(name, unchecked):
    mistake, sentence = MISTAKES[name]
    with pytest.raises(UsageError, match=sentence):
        mistake()
