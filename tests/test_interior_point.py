"""The interior-point method: against Clarabel and the splitting, where others stall, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import measurements as ms
from flatmin import solvers as sv
from flatmin._core import Outcome, UsageError
from recovery_families import instance

SOLVED = (
    "sensing nuclear",
    "sensing flat square",
    "bilinear flat",
    "completion nuclear square",
    "quadratic nuclear",
    "quadratic flat",
    "quadratic trace",
    "quadratic flat trace",
    "quadratic trace square",
    "sensing nuclear l1",
    "quadratic trace l1",
)


@pytest.mark.parametrize("name", SOLVED)
def test_against_clarabel(name):
    for seed in (4, 5):
        made = instance(name, seed)
        found = sv.solve(made.program, sv.InteriorPoint())
        assert found.primal_value == pytest.approx(made.oracle(), rel=1e-6)
        assert found.gap <= 1e-9
        assert found.iterations <= 40
        again = sv.certify(made.program, found.matrix, found.dual)
        assert again.gap <= 1e-9


@pytest.mark.parametrize("name", ["completion nuclear", "completion flat"])
def test_degenerate_multipliers_do_not_matter(name):
    # twenty thousand iterations of the splitting leave a gap of 1e-6 here
    program = instance(name, 10).program
    found = sv.solve(program)
    assert found.method == "InteriorPoint"
    assert found.gap <= 1e-13
    assert found.stats["rank"] == 5
    assert not found.stats["pursued"]
    assert sv.solve(program, sv.DouglasRachford(), max_iterations=300, throw=False).gap > 1e-7
    batch = sv.solve_batch([program])[0]
    assert batch.outcome.success
    assert batch.primal_value == pytest.approx(found.primal_value, rel=1e-12)


def test_squared_loss_has_an_exact_rank():
    program = instance("sensing nuclear square", 10).program
    found = sv.solve(program)
    split = sv.solve(program, sv.DouglasRachford(), tolerance=1e-11)
    assert found.gap <= 1e-10
    assert found.stats["rank"] == split.stats["rank"] < 5
    # a relative gap g leaves the point uncertain by the order of sqrt(g)
    np.testing.assert_allclose(found.matrix, split.matrix, atol=3e-6)


def test_dependent_measurements():
    tensor = np.random.default_rng(0).normal(size=(12, 4, 5))
    tensor = np.concatenate([tensor, tensor[:3] + tensor[3:6]])
    truth = np.random.default_rng(1).normal(size=(4, 5))
    op = ms.dense(jnp.asarray(tensor))
    found = sv.solve(sv.MinNuclearNorm(op, op.forward(jnp.asarray(truth))), sv.InteriorPoint())
    assert found.gap <= 1e-9
    contradicting = op.forward(jnp.asarray(truth)).at[-1].add(1.0)
    assert sv.solve(sv.MinNuclearNorm(op, contradicting), sv.InteriorPoint(), throw=False).outcome is Outcome.infeasible


def test_limit_and_outcome():
    program = instance("sensing nuclear", 3).program
    found = sv.solve(program, sv.InteriorPoint(), max_iterations=2, throw=False)
    assert found.outcome is Outcome.max_iterations
    assert found.iterations == 2
    assert found.gap > 1e-9
    # what it did find is still proved
    best = sv.solve(program)
    assert found.dual_value <= best.primal_value * (1 + 1e-12)
    assert found.primal_value >= best.dual_value * (1 - 1e-12)


def test_zero_targets():
    op = ms.dense(jnp.ones((3, 4, 5)))
    found = sv.solve(sv.MinNuclearNorm(op, jnp.zeros(op.num_measurements)), sv.InteriorPoint())
    assert not np.any(found.matrix)


def test_a_cone_without_a_fit_is_left_to_the_splitting():
    # x^T M x = -1 for no positive semidefinite M
    op = ms.symmetric_rank_one(jnp.asarray(np.random.default_rng(0).normal(size=(4, 3))))
    found = sv.solve(sv.MinTrace(op, jnp.asarray([1.0, -1.0, 2.0, 0.5])), throw=False)
    assert found.outcome is Outcome.infeasible


def test_what_it_does_not_solve():
    op = ms.dense(jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5))))
    ball = sv.MinNuclearNorm(op, jnp.ones(3), sv.L2Ball(0.1))
    with pytest.raises(UsageError, match="got InteriorPoint for MinNuclearNorm with L2Ball, expected"):
        sv.solve(ball, sv.InteriorPoint())
    wide = ms.entries(jnp.arange(3000) // 60, jnp.arange(3000) % 60, (50, 60))
    with pytest.raises(UsageError, match="InteriorPoint would form an array"):
        sv.solve(sv.MinNuclearNorm(wide, jnp.ones(3000)), sv.InteriorPoint())
