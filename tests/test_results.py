"""What results show: the number first, in the terminal, in a notebook and inside jit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import measurements as ms
from flatmin import solvers as sv
from flatmin._core import Certificate, Estimate, JobError, Outcome, Result, UsageError, programs
from flatmin.solvers import large
from flatmin.theory.marion2024 import regression_constants


def estimate(value, error, kind="rounding", **rest):
    return Estimate(jnp.asarray(value), jnp.asarray(error), kind, "closed form", **rest)


def numbers(text):
    return [float(t) for t in re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", text)]


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_an_estimate_prints_its_number_and_its_error(size):
    made = estimate(103.0055 * size, 2e-13 * size)
    assert numbers(str(made))[0] == pytest.approx(103.0055 * size, rel=1e-6)
    assert numbers(str(made))[-1] == pytest.approx(2e-13 * size)
    assert "closed form, rounding" in str(made)
    assert str(made) in repr(made)
    assert str(made) in made._repr_html_()


def test_digits_follow_the_error():
    assert str(estimate(100.123456, 2.0, "standard error")).startswith("100.1 +- 2 ")
    assert str(estimate(0.0, 0.0)).startswith("0 +- 0 ")
    assert str(estimate([1.0, 2.0], [0.1, 0.5], "standard error")).startswith("[1, 2] +- 0.5 at most")
    assert "1,000" not in str(estimate(np.arange(1000.0), np.ones(1000)))
    assert str(estimate(np.arange(1000.0), np.ones(1000))).startswith("1000 values from 0 to 999 +- 1 at most")


def test_no_error_is_said_to_be_none():
    text = str(estimate(3.0, jnp.nan, "none"))
    assert text == "3 (closed form, no known error)"
    assert not estimate(3.0, jnp.nan, "none").exact


def test_a_traced_estimate_says_so():
    seen = []

    @jax.jit
    def shown(x):
        made = estimate(x, 0 * x)
        seen.extend([str(made), made._repr_html_()])
        return made

    assert float(shown(jnp.asarray(2.0))) == 2
    shown(jnp.ones((3, 2)))
    assert seen[0].startswith("traced (closed form")
    assert seen[2].startswith("traced (3 x 2 values)")


def test_markup_in_a_method_is_text():
    made = Estimate(jnp.ones(()), jnp.ones(()), "rounding", "<b onload=x>")
    assert "<b onload" not in made._repr_html_()


def test_a_failed_outcome_raises_with_what_was_reached():
    made = estimate(2.0, 1.0, outcome=Outcome.max_iterations)
    assert estimate(2.0, 1.0).raise_if_failed().outcome is Outcome.completed
    assert isinstance(made, Result)
    with pytest.raises(JobError, match=r"closed form: the iteration limit.*\(2 \+- 1 "):
        made.raise_if_failed()


def low_rank(seed, shape=(6, 5), rank=1, count=24):
    rng = np.random.default_rng(seed)
    op = ms.dense(jnp.asarray(rng.normal(size=(count, *shape))))
    return op, op.forward(jnp.asarray(rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))))


@pytest.fixture(scope="module")
def solved():
    return sv.solve(sv.MinNuclearNorm(*low_rank(0)))


def test_a_solution_prints_norm_gap_and_rank(solved):
    assert str(solved).startswith(f"nuclear norm {solved.primal_value:.7g}, certified gap ")
    assert str(solved).endswith("rank 1")
    assert "f64[" not in repr(solved) + solved._repr_html_()
    assert solved.certificate == Certificate(solved.primal_value, solved.dual_value, solved.gap, solved.residual)
    assert (solved.rank, solved.rank_tolerance) == (solved.stats["rank"], solved.stats["rank_tolerance"])
    assert isinstance(solved, Result)


def test_a_start_is_used_or_refused(solved):
    program = sv.MinNuclearNorm(*low_rank(0))
    with pytest.raises(UsageError, match="start: got a solution, expected None: InteriorPoint has no use"):
        sv.solve(program, sv.InteriorPoint(), start=solved)
    with pytest.raises(UsageError, match="start: got a solution, expected None: ClosedForm"):
        sv.solve(sv.MinFrobenius(*low_rank(0)), start=solved)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_an_answer_of_rounding_has_rank_zero(size):
    rng = np.random.default_rng(0)
    sparse = np.zeros((8, 8))
    sparse[np.arange(8), rng.permutation(8)] = (rng.normal(size=8) + 5) * size
    for settings in ({"penalty": 8**-0.5}, {"radius": 1.01 * np.abs(sparse).sum()}):
        found = sv.solve(sv.RobustPCA(sparse, **settings), tolerance=1e-6)
        assert found.rank == 0
        assert found.rank_tolerance < 1e-3 * size


def test_what_is_certified_is_converged():
    rng = np.random.default_rng(5)
    for _ in range(3):
        x, X, noise = rng.normal(size=6), rng.normal(size=(24, 6)), 0.5 * rng.normal(size=24)
        op = ms.symmetric_rank_one(jnp.asarray(X))
        program = sv.MinTrace(op, jnp.asarray((X @ x) ** 2 + noise), sv.L2Ball(float(np.linalg.norm(noise))))
        found = sv.solve(program, tolerance=1e-6, max_iterations=5000, throw=False)
        assert found.outcome is Outcome.converged
        assert found.gap <= 1e-6
        miss = np.einsum("ia,ab,ib->i", X, found.matrix, X) - program.targets
        assert np.linalg.norm(miss) <= np.linalg.norm(noise) * (1 + 1e-9)


def test_a_held_rank_is_the_number_of_directions_there_are():
    rng = np.random.default_rng(0)
    mask = rng.random((30, 20)) < 0.7
    rows, cols = np.nonzero(mask)
    Y = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 20)) + 0.5 * rng.normal(size=(30, 20))
    problem = large.large_completion(rows, cols, Y[rows, cols], (30, 20), penalty=0.5, weighting="plain")
    for held in (1, 3):
        found = large.complete(problem, max_rank=held, max_sweeps=100, throw=False)
        assert found.rank == held
        assert not found.outcome.success
        assert found.gap > 1e-2
        assert str(found).startswith(f"{found.outcome.name}: 30 x 20 matrix in factors, objective ")


@pytest.mark.parametrize("door", ["solve", "certify"])
@pytest.mark.parametrize("program", [None, 3, "nuclear"])
def test_anything_but_a_programme_is_refused(door, program, unchecked):
    with pytest.raises(UsageError, match=f"^program: got {program!r}, expected a Program"):
        sv.solve(program) if door == "solve" else sv.certify(program, jnp.eye(2), jnp.ones(2))


def test_programs_are_let_go_once_many_are_mapped(monkeypatch, tmp_path):
    cleared = []
    monkeypatch.setattr(programs.jax, "clear_caches", lambda: cleared.append(1))
    assert not any(programs.let_go_of_programs() for _ in range(2 * programs.EVERY))
    (tmp_path / "limit").write_text("100\n")
    monkeypatch.setattr(programs, "LIMIT", tmp_path / "limit")
    assert sum(programs.let_go_of_programs() for _ in range(2 * programs.EVERY)) == 2
    assert cleared == [1, 1]
    monkeypatch.setattr(programs, "LIMIT", tmp_path / "none")
    assert not any(programs.let_go_of_programs() for _ in range(programs.EVERY))


def test_other_results_show_numbers():
    op, _ = low_rank(1)
    assert repr(op) == "<DenseMeasurements: 24 measurements of a 6 x 5 matrix>"
    certificate = Certificate.between(2.0, 1.5, 0.0, 1e-10)
    assert str(certificate) == "optimum in [1.5, 2], gap 0.2, wrong with probability at most 1e-10"
    assert (certificate.primal_value, certificate.dual_value, certificate.gap) == (2.0, 1.5, 0.25)
    assert np.isnan(Certificate.between(np.inf, np.inf).gap)
    constants = regression_constants(np.diag([3.0, 5.0]), np.asarray([3.0, 5.0]))
    assert 12.5 in numbers(str(constants))
