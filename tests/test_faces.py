"""Positive semidefinite programmes whose dual has no maximiser: faces, their proofs, and solutions over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import measurements as ms
from flatmin import solvers as sv
from flatmin.problems import covariance_estimation
from flatmin.solvers._faces import exposed_face, on_exposed_face


def without_interior(seed, d=6, rank=1):
    """Forms that add up to one which a low-rank truth does not see: all that fits has the truth's range."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    seen, unseen = basis[:, :rank], basis[:, rank:]
    # the sum of the first d - rank forms is positive definite off the range of the truth, and 0 on it
    tensor = [np.outer(u, u) for u in unseen.T]
    tensor += [(B + B.T) / 2 for B in rng.normal(size=(rank * d, d, d))]
    mix = rng.normal(size=(len(tensor), len(tensor)))
    tensor = np.tensordot(mix, np.array(tensor), 1)
    truth = seen @ np.diag(rng.uniform(1, 2, rank)) @ seen.T
    return tensor, np.tensordot(tensor, truth, 2), truth


@pytest.mark.parametrize("rank", [1, 2])
def test_a_face_is_found_and_proved(rank):
    tensor, b, truth = without_interior(0, rank=rank)
    found = on_exposed_face(tensor, b, [np.eye(6), truth], 1e-9)
    np.testing.assert_allclose(found.matrix, truth, atol=1e-10)
    assert found.gap < 1e-9
    face = found.face
    assert face.basis.shape == (6, rank)
    # the proof, by itself: A*(y) >= 0, b.y = 0, and no direction off the face is free
    form = np.tensordot(face.proof, tensor, 1)
    values = np.linalg.eigvalsh(form)
    assert abs(b @ face.proof) < 1e-10
    assert values[0] > -1e-12
    np.testing.assert_allclose(values[rank], face.smallest, rtol=1e-6)
    assert face.error < 1e-10
    # all that fits and is positive semidefinite: what the face leaves out has no weight
    dual = np.tensordot(found.dual, tensor, 1)
    assert np.linalg.eigvalsh(face.basis.T @ dual @ face.basis)[-1] <= 1 + 1e-9


def test_a_range_that_does_not_hold_all_that_fits_is_refused():
    planted = covariance_estimation(jax.random.key(0), 6, 2, 8)
    op, b = planted.problem.measurements, np.asarray(planted.problem.targets)
    tensor = np.asarray(ms.materialise(op))
    vectors = np.linalg.eigh(planted.truth)[1]
    assert exposed_face(tensor, b, vectors[:, -2:]) is None
    assert on_exposed_face(tensor, b, [np.asarray(planted.truth)], 1e-9) is None
    assert on_exposed_face(tensor, b, [], 1e-9) is None


@pytest.mark.parametrize("scaled", [False, pytest.param(True, marks=pytest.mark.long)])
def test_solvers_end_on_the_face(scaled):
    tensor, b, truth = without_interior(3)
    program = sv.MinTrace(ms.dense(jnp.asarray(tensor)), jnp.asarray(b), scaled=scaled)
    for solution in (sv.solve_batch([program], max_iterations=400)[0], sv.solve(program, throw=False)):
        assert solution.outcome.success
        assert solution.gap < 1e-9
        assert solution.residual < 1e-10
        np.testing.assert_allclose(solution.matrix, truth, atol=1e-6)


def test_an_instance_that_was_left_undecided_is_solved():
    # d = 20, m = 73, no positive definite matrix fits; the splitting ends at a gap of 3e-3
    from flatmin.experiments.papers.ding2022.instances import instance_key, instances, programmes
    from flatmin.studies.recovery import decide

    *_, planted = instances("covariance", instance_key(0, 5, 20, 8), 20, 2, (20, 38, 56, 73))
    verdict = decide(programmes("covariance", planted)[1], planted, 1e-6)
    assert verdict.recovered == 1
    assert verdict.error < 1e-9
    assert verdict.solution.method == "FacialReduction"
    face = verdict.solution.stats["face"]
    assert face["dimension"] == 2
    assert face["error"] < 1e-12
    assert face["smallest"] > 1e-5
