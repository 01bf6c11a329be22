"""The triangle flat / norm-minimal / balanced, the theorems behind it, and its mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError, diagnose, scaled_trace
from flatmin import measurements as ms
from flatmin import problems as pb
from flatmin import solvers as sv
from flatmin.theory import STATEMENTS
from flatmin.theory import ding2022 as theory

PLANTED = pb.matrix_sensing(jax.random.key(0), (7, 6), 2, 30, width=7)
OP, B = PLANTED.problem.measurements, PLANTED.problem.targets


@pytest.fixture(scope="module")
def flat():
    return sv.solve(sv.MinScaledNuclearNorm(OP, B))


@pytest.fixture(scope="module")
def nuclear():
    return sv.solve(sv.MinNuclearNorm(OP, B))


def weights_typed_plainly():
    tensor = np.asarray(ms.materialise(OP))
    roots = []
    for moment in (
        np.einsum("iab,icb->ac", tensor, tensor) / (30 * 6),
        np.einsum("iab,iac->bc", tensor, tensor) / (30 * 7),
    ):
        values, vectors = np.linalg.eigh(moment)
        roots.append((vectors * np.sqrt(values)) @ vectors.T)
    return roots


def test_a_flat_solution_is_diagnosed(flat, nuclear):
    found = diagnose(OP, B, flat.matrix, nuclear=nuclear)
    left, right = weights_typed_plainly()
    # the flattest factors: four times the norm of the programme, whose weights differ by sqrt(d1 d2)
    assert found.scaled_trace == pytest.approx(4 * flat.primal_value / 42**0.5, rel=1e-9)
    assert found.smallest_scaled_trace == pytest.approx(found.scaled_trace, rel=1e-9)
    assert abs(found.excess_trace) < 1e-9
    assert found.conditions == pytest.approx((np.linalg.cond(left), np.linalg.cond(right)), rel=1e-9)
    assert 1e-4 < found.norm_gap <= found.norm_gap_bound
    assert 1e-4 < found.imbalance <= found.imbalance_bound
    assert found.residual < 1e-10
    distance = np.linalg.norm(flat.matrix - nuclear.matrix) / np.linalg.norm(nuclear.matrix)
    assert found.distance == pytest.approx(distance, rel=1e-9)
    s = np.linalg.svd(flat.matrix, compute_uv=False)
    p = s / s.sum()
    p = p[p > 1e-15]
    assert found.effective_rank == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-6)
    # the same matrix by the closed form of the flatness room, at the factors that the theorem gives
    L, R = theory.flat_factors(OP, flat.matrix, 7)
    estimate = scaled_trace(PLANTED.problem, (R.T, L))
    assert float(estimate.value) == pytest.approx(found.scaled_trace, rel=1e-9)


def test_a_nuclear_solution_is_norm_minimal_but_not_flat(flat, nuclear):
    U, s, Vt = np.linalg.svd(np.asarray(nuclear.matrix))
    rank = int((s > 1e-9).sum())
    balanced = (jnp.asarray(U[:, :rank] * np.sqrt(s[:rank])), jnp.asarray(Vt[:rank].T * np.sqrt(s[:rank])))
    found = diagnose(OP, B, nuclear.matrix, factors=balanced)
    assert abs(found.norm_gap) < 1e-8
    assert found.imbalance < 1e-8
    assert found.distance < 1e-6
    assert found.excess_trace > 1e-4
    assert found.scaled_trace > diagnose(OP, B, flat.matrix, nuclear=nuclear).scaled_trace * (1 + 1e-4)


def test_flattest_factors_are_the_flattest(flat):
    L, R = theory.flat_factors(OP, flat.matrix, 7)
    np.testing.assert_allclose(L @ R.T, flat.matrix, atol=1e-9)
    left, right = weights_typed_plainly()

    def trace(L, R):
        return 2 * np.sum((left @ L) ** 2) + 2 * np.sum((right @ R) ** 2)

    least = float(theory.smallest_scaled_trace(OP, flat.matrix))
    assert trace(L, R) == pytest.approx(least, rel=1e-9)
    for seed in range(20):
        G = np.eye(7) + 0.1 * np.random.default_rng(seed).normal(size=(7, 7))
        assert trace(L @ G, R @ np.linalg.inv(G).T) > least
    # what the weights are: the same for every size of measurement
    one, other = theory.weight_matrices(OP), theory.weight_matrices(ms.scaled(OP, 3.0))
    np.testing.assert_allclose(other[0], 3 * one[0], atol=1e-12)
    np.testing.assert_allclose(one[1], right, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_and_vanish_at_identical_weights(seed):
    # ill-conditioned measurements, where the bounds have something to say
    stretch = np.diag(np.linspace(1, 3, 5))
    tensor = stretch @ np.random.default_rng(seed).normal(size=(16, 5, 4))
    op = ms.dense(jnp.asarray(tensor))
    b = jnp.asarray(np.random.default_rng(seed + 50).normal(size=16))
    found = diagnose(op, b, sv.solve(sv.MinScaledNuclearNorm(op, b)).matrix)
    assert 0 <= found.norm_gap <= found.norm_gap_bound
    assert 0 < found.imbalance <= found.imbalance_bound
    eye = jnp.eye(4)
    assert float(theory.norm_gap_bound(eye, eye)) == pytest.approx(0, abs=1e-12)
    assert float(theory.imbalance_bound(eye, eye)) == pytest.approx(0, abs=1e-12)
    D = jnp.diag(jnp.asarray([1.0, 2.0]))
    assert float(theory.norm_gap_bound(D, D)) == pytest.approx(3)  # kappa^2 - 1
    assert float(theory.imbalance_bound(D, D)) == pytest.approx(3)


def test_the_ledger_has_the_theorems():
    names = {"smallest_scaled_trace", "flat_factors", "norm_gap_bound", "imbalance_bound", "smallest_hadamard_trace"}
    assert names <= set(STATEMENTS)
    assert STATEMENTS["norm_gap_bound"].kind == "upper"
    x, D = jnp.asarray([1.0, -2.0, 0.0]), jnp.asarray([1.0, 0.5, 3.0])
    assert float(theory.smallest_hadamard_trace(D, x, 2)) == pytest.approx(4 * (1 + 1))
    assert float(theory.smallest_hadamard_trace(D, x, 4)) == pytest.approx(8 * (1 + 0.5 * 2**1.5))


MISTAKES = {
    "width": (
        lambda: theory.flat_factors(OP, PLANTED.truth, 1),
        r"width: got k = 1, below the rank 2 of the matrix; its factors need k >= 2: raise it",
    ),
    "shape": (lambda: diagnose(OP, B, PLANTED.truth.T), r"matrix: got shape \(6, 7\), expected \(7, 6\)"),
    "zero": (lambda: diagnose(OP, B, jnp.zeros((7, 6))), "matrix: got a zero matrix, expected a solution"),
    "nan": (lambda: diagnose(OP, B, jnp.full((7, 6), jnp.nan)), r"matrix: got 42 value\(s\) that are NaN"),
    "float32": (lambda: diagnose(OP, B, PLANTED.truth.astype(jnp.float32)), "diagnose: needs float64, got float32"),
    "factors": (
        lambda: diagnose(OP, B, PLANTED.truth, factors=(jnp.ones((7, 2)), jnp.ones((6, 2)))),
        "factors: got L R\\^T that is not the matrix",
    ),
    "unseen": (
        lambda: theory.flat_factors(ms.entries(jnp.array([0]), jnp.array([0]), (2, 2)), jnp.ones((2, 2)), 2),
        "measurements: got a singular D_1, expected an invertible one",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_meets_its_sentence(name, unchecked):
    mistake, sentence = MISTAKES[name]
    with pytest.raises(UsageError, match=sentence):
        mistake()
