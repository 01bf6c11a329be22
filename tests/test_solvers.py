"""Convex programmes: against a second solver, against planted truths, and under symmetries."""

import cvxpy as cp
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import JobError, Outcome, UsageError
from flatmin import measurements as ms
from flatmin import solvers as sv


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def seen_entries(seed, shape, share):
    mask = np.random.default_rng(seed).random(shape) < share
    mask[np.arange(max(shape)) % shape[0], np.arange(max(shape)) % shape[1]] = True
    return ms.entries(*map(jnp.asarray, np.nonzero(mask)), shape)


def operator(kind, shape, m, seed=0):
    if kind == "dense":
        return ms.gaussian(jax.random.key(seed), m, shape)
    if kind == "rank one":
        return ms.bilinear_gaussian(jax.random.key(seed), m, shape)
    return seen_entries(seed, shape, m / (shape[0] * shape[1]))


def planted(op, rank, seed=1):
    truth = normal(seed, op.matrix_shape[0], rank) @ normal(seed + 1, rank, op.matrix_shape[1])
    return truth, op.forward(truth)


def singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix), compute_uv=False)


def oracle(tensor, b, frobenius=False):
    """The optimal value by CVXPY and Clarabel, from the dense tensor typed plainly."""
    tensor = np.asarray(tensor)
    X = cp.Variable(tensor.shape[1:])
    constraints = [tensor.reshape(len(tensor), -1) @ cp.vec(X, order="C") == np.asarray(b)]
    objective = cp.norm(X, "fro") if frobenius else cp.normNuc(X)
    return cp.Problem(cp.Minimize(objective), constraints).solve(solver=cp.CLARABEL)


SHAPES = [((6, 6), 20), ((5, 8), 18), ((8, 4), 26), ((1, 7), 4)]


@pytest.mark.parametrize("kind", ["dense", "entries", "rank one"])
@pytest.mark.parametrize(("shape", "m"), SHAPES)
def test_nuclear_norm_against_clarabel_and_kkt(kind, shape, m):
    op = operator(kind, shape, m)
    b = normal(3, op.num_measurements)
    solution = sv.solve(sv.MinNuclearNorm(op, b))
    value = oracle(ms.materialise(op), b)
    assert value > 0.1
    assert solution.primal_value == pytest.approx(value, rel=1e-6)
    assert solution.outcome is Outcome.converged
    # the optimality conditions, with nothing of the solver's own
    X, M = solution.matrix, op.adjoint(solution.dual)
    np.testing.assert_allclose(op.forward(X), b, atol=1e-10 * float(jnp.linalg.norm(b)))
    assert singular_values(M)[0] <= 1 + 1e-12
    assert float(jnp.vdot(M, X)) == pytest.approx(singular_values(X).sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "shape", "m"), [("dense", (5, 6), 16), ("entries", (6, 4), 16), ("rank one", (4, 5), 12)]
)
def test_scaled_nuclear_norm_against_clarabel(kind, shape, m):
    op = operator(kind, shape, m, seed=4)
    b = normal(5, op.num_measurements)
    tensor = np.asarray(ms.materialise(op))

    def root(moment):
        values, vectors = np.linalg.eigh(moment / len(tensor))
        return (vectors * np.sqrt(values)) @ vectors.T

    left, right = (
        root(np.einsum("iab,icb->ac", tensor, tensor)),
        root(np.einsum("iab,iac->bc", tensor, tensor)),
    )
    inner = np.linalg.inv(left) @ tensor @ np.linalg.inv(right)
    solution = sv.solve(sv.MinScaledNuclearNorm(op, b))
    assert solution.primal_value == pytest.approx(oracle(inner, b), rel=1e-6)
    assert solution.primal_value == pytest.approx(singular_values(left @ solution.matrix @ right).sum(), rel=1e-9)
    assert solution.gap <= 1e-9
    # not the plain programme in disguise
    plain = sv.solve(sv.MinNuclearNorm(op, b))
    assert float(jnp.linalg.norm(plain.matrix - solution.matrix)) > 1e-3 * float(jnp.linalg.norm(plain.matrix))


@pytest.mark.parametrize("kind", ["dense", "entries", "rank one"])
def test_frobenius_against_least_squares(kind):
    op = operator(kind, (5, 7), 16)
    b = normal(6, op.num_measurements)
    solution = sv.solve(sv.MinFrobenius(op, b))
    flat = np.asarray(ms.materialise(op)).reshape(op.num_measurements, -1)
    np.testing.assert_allclose(solution.matrix.reshape(-1), np.linalg.lstsq(flat, np.asarray(b))[0], atol=1e-11)
    assert solution.primal_value == pytest.approx(oracle(ms.materialise(op), b, frobenius=True), rel=1e-6)
    assert solution.gap <= 1e-12
    assert solution.residual <= 1e-12
    # X lies in the range of A*, and the dual point is the multiplier that puts it there
    np.testing.assert_allclose(op.adjoint(solution.dual) * solution.primal_value, solution.matrix, atol=1e-11)


PLANTED = [("dense", (20, 20), 240, 2), ("rank one", (18, 14), 220, 2), ("entries", (30, 24), 500, 2)]


@pytest.mark.parametrize(("kind", "shape", "m", "rank"), PLANTED)
@pytest.mark.parametrize("newton", [True, False])
def test_planted_matrix_is_recovered(kind, shape, m, rank, newton):
    op = operator(kind, shape, m)
    truth, b = planted(op, rank)
    solution = sv.solve(sv.MinNuclearNorm(op, b), sv.DouglasRachford(newton=newton), tolerance=1e-10)
    assert float(jnp.linalg.norm(solution.matrix - truth) / jnp.linalg.norm(truth)) < 1e-7
    assert solution.primal_value == pytest.approx(singular_values(truth).sum(), rel=1e-9)
    assert solution.stats["rank"] == rank
    assert solution.stats["polished"] is newton
    assert solution.stats["singular_values"][rank] <= solution.stats["rank_tolerance"]
    assert solution.stats["rank_tolerance"] < 1e-6 * solution.stats["singular_values"][rank - 1]


def test_near_the_threshold_the_answer_is_not_the_truth_but_is_certified():
    op = operator("dense", (12, 12), 60)
    truth, b = planted(op, 3)
    solution = sv.solve(sv.MinNuclearNorm(op, b))
    assert solution.primal_value < singular_values(truth).sum() * 0.999
    assert solution.gap <= 1e-9
    assert solution.stats["rank"] > 3


BASE = operator("dense", (9, 7), 30)
BASE_TARGETS = normal(8, 30)


@pytest.fixture(scope="module")
def base():
    return sv.solve(sv.MinNuclearNorm(BASE, BASE_TARGETS))


@pytest.mark.parametrize("factor", [1e-8, 1e-6, -1.0, 1e6, 1e8])
def test_scaling_the_targets_scales_the_solution(base, factor):
    solution = sv.solve(sv.MinNuclearNorm(BASE, factor * BASE_TARGETS))
    np.testing.assert_allclose(solution.matrix / factor, base.matrix, atol=1e-9)
    assert solution.primal_value == pytest.approx(abs(factor) * base.primal_value, rel=1e-9)
    assert solution.iterations == base.iterations


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_scaling_the_measurements_shrinks_the_solution(base, factor):
    solution = sv.solve(sv.MinNuclearNorm(ms.scaled(BASE, factor), BASE_TARGETS))
    np.testing.assert_allclose(solution.matrix * factor, base.matrix, atol=1e-9)


def test_rotation_transposition_and_permutation(base):
    U = jnp.linalg.qr(normal(10, 9, 9))[0]
    V = jnp.linalg.qr(normal(11, 7, 7))[0]
    rotated = ms.dense(jnp.einsum("ab,ibc,dc->iad", U, BASE.tensor, V))
    np.testing.assert_allclose(
        sv.solve(sv.MinNuclearNorm(rotated, BASE_TARGETS)).matrix, U @ base.matrix @ V.T, atol=1e-9
    )
    transposed = ms.dense(BASE.tensor.transpose(0, 2, 1))
    np.testing.assert_allclose(sv.solve(sv.MinNuclearNorm(transposed, BASE_TARGETS)).matrix, base.matrix.T, atol=1e-9)
    order = jnp.asarray(np.random.default_rng(12).permutation(30))
    permuted = sv.solve(sv.MinNuclearNorm(ms.take(BASE, order), BASE_TARGETS[order]))
    np.testing.assert_allclose(permuted.matrix, base.matrix, atol=1e-9)
    assert float(jnp.linalg.norm(base.matrix)) > 0.1


def test_scaled_programme_does_not_depend_on_the_size_of_the_measurements():
    b = normal(8, 30)
    one = sv.solve(sv.MinScaledNuclearNorm(BASE, b))
    other = sv.solve(sv.MinScaledNuclearNorm(ms.scaled(BASE, 3.0), 3.0 * b))
    np.testing.assert_allclose(one.matrix, other.matrix, atol=1e-9)
    assert other.primal_value == pytest.approx(3.0**2 * one.primal_value, rel=1e-9)


@pytest.mark.parametrize("program", [sv.MinNuclearNorm, sv.MinFrobenius, sv.MinScaledNuclearNorm])
@pytest.mark.parametrize("size", [1e-8, 1e-4, 1e-1, 10.0])
def test_certificate_never_flatters(program, size):
    problem = program(BASE, BASE_TARGETS)
    best = sv.solve(problem, tolerance=1e-11)
    optimum = best.primal_value
    for seed in range(3):
        X = best.matrix + size * normal(seed, 9, 7)
        y = best.dual + size * normal(seed + 50, 30)
        certificate = sv.certify(problem, X, y)
        rounding = 1e-12 * abs(optimum)
        assert certificate.primal_value >= optimum - rounding
        assert certificate.dual_value <= optimum + rounding
        excess = (certificate.primal_value - optimum) / certificate.primal_value
        assert certificate.gap >= excess - 1e-12
        assert size < 0.1 or certificate.gap > 1e-3
        assert certificate.residual <= 1e-12
        assert float(problem.polar_norm(BASE.adjoint(certificate.dual))) <= 1 + 1e-12
    # the polar norm is the norm's polar: <Z, X> <= N(X) N°(Z), with equality somewhere
    Z = BASE.adjoint(best.dual)
    assert float(jnp.vdot(Z, best.matrix)) == pytest.approx(optimum * float(problem.polar_norm(Z)), rel=1e-9)


def test_certificate_knows_a_wrong_sign_and_no_dual_at_all(base):
    problem = sv.MinNuclearNorm(BASE, BASE_TARGETS)
    for dual in (-base.dual, jnp.zeros(30)):
        certificate = sv.certify(problem, base.matrix, dual)
        assert certificate.dual_value == 0
        assert certificate.gap == 1


def test_iteration_limit_is_said_and_the_gap_stays_honest(base):
    problem = sv.MinNuclearNorm(BASE, BASE_TARGETS)
    solution = sv.solve(problem, sv.DouglasRachford(newton=False), max_iterations=20, throw=False)
    assert solution.outcome is Outcome.max_iterations
    assert solution.iterations == 20
    assert 1e-9 < solution.gap < 0.5
    assert solution.dual_value <= base.primal_value <= solution.primal_value
    with pytest.raises(JobError, match=r"iteration limit was reached .* raise max_iterations .*reached gap .*after 20"):
        sv.solve(problem, sv.DouglasRachford(newton=False), max_iterations=20)


def test_duplicated_measurements_change_nothing(base):
    doubled = ms.stacked(BASE, BASE)
    for b in (jnp.tile(BASE_TARGETS, 2),):
        solution = sv.solve(sv.MinNuclearNorm(doubled, b))
        np.testing.assert_allclose(solution.matrix, base.matrix, atol=1e-9)
        frobenius = sv.solve(sv.MinFrobenius(doubled, b))
        np.testing.assert_allclose(frobenius.matrix, sv.solve(sv.MinFrobenius(BASE, BASE_TARGETS)).matrix, atol=1e-9)


@pytest.mark.parametrize("program", [sv.MinNuclearNorm, sv.MinFrobenius])
def test_contradictory_targets_come_with_a_proof(program):
    op = ms.stacked(BASE, BASE)
    b = jnp.tile(BASE_TARGETS, 2).at[33].add(0.01)
    solution = sv.solve(program(op, b), throw=False)
    assert solution.outcome is Outcome.infeasible
    proof = solution.stats["proof"]
    assert float(b @ proof) == pytest.approx(1.0)
    assert float(jnp.linalg.norm(op.adjoint(proof))) < 1e-10
    assert solution.stats["proof_error"] < 1e-10
    # the point returned is the least-squares one
    flat = np.asarray(ms.materialise(op)).reshape(60, -1)
    fitted = flat @ np.linalg.lstsq(flat, np.asarray(b))[0]
    np.testing.assert_allclose(op.forward(solution.matrix), fitted, atol=1e-9)
    with pytest.raises(JobError, match="constraints contradict each other"):
        sv.solve(program(op, b))


def test_more_measurements_than_entries():
    op = operator("dense", (3, 4), 20)
    truth, b = planted(op, 2)
    for program in (sv.MinNuclearNorm, sv.MinFrobenius):
        np.testing.assert_allclose(sv.solve(program(op, b)).matrix, truth, atol=1e-9)
    assert sv.solve(sv.MinNuclearNorm(op, b.at[0].add(1.0)), throw=False).outcome is Outcome.infeasible


def test_ill_conditioned_measurements():
    rows = BASE.tensor * jnp.logspace(-6, 6, 30)[:, None, None]
    close = rows.at[1].set(rows[0] * (rows[1, 0, 0] / rows[0, 0, 0]) + 1e-4 * rows[1])
    op = ms.dense(close)
    truth = normal(2, 9, 1) @ normal(3, 1, 7)
    solution = sv.solve(sv.MinNuclearNorm(op, op.forward(truth)))
    assert solution.gap <= 1e-9
    assert solution.residual <= 1e-10
    assert solution.primal_value > 0.1


def test_one_measurement_has_a_closed_form():
    # min ||X||_* s.t. <A, X> = b is |b| / ||A||_op, at the leading singular pair
    A = normal(0, 4, 6)
    op, b = ms.dense(A[None]), jnp.asarray([-2.5])
    U, s, Vt = np.linalg.svd(np.asarray(A))
    solution = sv.solve(sv.MinNuclearNorm(op, b))
    assert solution.primal_value == pytest.approx(2.5 / s[0], rel=1e-9)
    np.testing.assert_allclose(solution.matrix, -2.5 / s[0] * np.outer(U[:, 0], Vt[0]), atol=1e-9)
    assert solution.stats["rank"] == 1
    frobenius = sv.solve(sv.MinFrobenius(op, b))
    np.testing.assert_allclose(frobenius.matrix, -2.5 * A / np.sum(s**2), atol=1e-12)


def test_one_row_is_the_euclidean_norm():
    # a 1 x n matrix: nuclear norm = Euclidean norm, so both programmes agree
    op, b = operator("dense", (1, 9), 4), normal(2, 4)
    nuclear, frobenius = (sv.solve(p(op, b)) for p in (sv.MinNuclearNorm, sv.MinFrobenius))
    np.testing.assert_allclose(nuclear.matrix, frobenius.matrix, atol=1e-9)
    assert nuclear.primal_value == pytest.approx(float(jnp.linalg.norm(frobenius.matrix)), rel=1e-9)


def test_everything_seen():
    truth = normal(2, 5, 4)
    op = ms.identity((5, 4))
    solution = sv.solve(sv.MinNuclearNorm(op, op.forward(truth)))
    np.testing.assert_allclose(solution.matrix, truth, atol=1e-12)
    assert solution.gap <= 1e-9
    assert solution.stats["rank"] == 4


@pytest.mark.parametrize("program", [sv.MinNuclearNorm, sv.MinFrobenius, sv.MinScaledNuclearNorm])
def test_zero_targets(program):
    solution = sv.solve(program(BASE, jnp.zeros(30)))
    assert solution.outcome is Outcome.converged
    assert float(jnp.abs(solution.matrix).max()) == 0
    assert (solution.primal_value, solution.dual_value, solution.gap, solution.stats["rank"]) == (0, 0, 0, 0)


class Hidden(ms.AbstractMeasurements):
    """Measurements of no known kind, to reach the general path."""

    inner: ms.AbstractMeasurements

    @property
    def matrix_shape(self):
        return self.inner.matrix_shape

    @property
    def num_measurements(self):
        return self.inner.num_measurements

    def forward(self, matrix):
        return self.inner.forward(matrix)

    def adjoint(self, weights):
        return self.inner.adjoint(weights)


@pytest.mark.parametrize("stored", [True, False])
def test_unknown_kinds_of_measurement(base, stored, monkeypatch):
    if not stored:
        monkeypatch.setattr("flatmin.solvers._whiten.STORED_ENTRIES", 0)
    solution = sv.solve(sv.MinNuclearNorm(Hidden(BASE), BASE_TARGETS))
    np.testing.assert_allclose(solution.matrix, base.matrix, atol=1e-9)


def test_completion_forms_nothing_of_size_m_squared(monkeypatch):
    def refuse(*args):
        raise AssertionError("a Gram matrix was formed")

    monkeypatch.setattr("flatmin.solvers._whiten.kernel_form", refuse)
    op = seen_entries(0, (20, 16), 0.7)
    truth, b = planted(op, 1)
    for program, measurements, targets in (
        (sv.MinScaledNuclearNorm, op, b),
        (sv.MinNuclearNorm, ms.scaled(ms.with_moments(op), 2.0), 2 * b),
    ):
        np.testing.assert_allclose(sv.solve(program(measurements, targets)).matrix, truth, atol=1e-8)


def test_same_input_same_bits():
    problem = sv.MinNuclearNorm(BASE, BASE_TARGETS)
    assert np.array_equal(sv.solve(problem).matrix, sv.solve(problem).matrix)


def test_automatic_choice_can_be_asked_for():
    assert isinstance(sv.select_method(sv.MinNuclearNorm(BASE, BASE_TARGETS)), sv.Pursuit)
    assert isinstance(sv.select_method(sv.MinScaledNuclearNorm(BASE, BASE_TARGETS)), sv.Pursuit)
    assert isinstance(sv.select_method(sv.MinFrobenius(BASE, BASE_TARGETS)), sv.ClosedForm)
    assert sv.solve(sv.MinFrobenius(BASE, BASE_TARGETS)).method == "ClosedForm"


@pytest.mark.parametrize("program", [sv.MinNuclearNorm, sv.MinFrobenius, sv.MinScaledNuclearNorm])
def test_targets_are_checked(program):
    with pytest.raises(
        UsageError, match=r"targets: got 1 value\(s\) that are NaN or infinite, the first at index \(2,\)"
    ):
        program(BASE, BASE_TARGETS.at[2].set(jnp.nan))
    with pytest.raises(UsageError, match=f"{program.__name__}: needs float64, got float32; call jax.config.update"):
        program(BASE, BASE_TARGETS.astype(jnp.float32))
    with pytest.raises(UsageError, match=r"targets: got shape \(29,\), expected \(30,\)"):
        program(BASE, BASE_TARGETS[1:])
    with pytest.raises(UsageError, match="needs float64, got float32"):
        program(ms.dense(BASE.tensor.astype(jnp.float32)), BASE_TARGETS)


def test_traced_targets_are_refused():
    with pytest.raises(UsageError, match=r"got traced values, expected arrays; .* call it outside jit"):
        jax.jit(lambda b: sv.solve(sv.MinNuclearNorm(BASE, b)).matrix)(BASE_TARGETS)


def test_unseen_rows_and_columns_are_named():
    rows, cols = map(jnp.asarray, np.nonzero(np.ones((5, 4))))
    keep = rows != 3
    op = ms.entries(rows[keep], cols[keep], (5, 4))
    with pytest.raises(UsageError, match=r"no measurement sees, the first is row 3, expected an invertible D_out"):
        sv.MinScaledNuclearNorm(op, jnp.ones(16))
    keep = cols != 2
    op = ms.entries(rows[keep], cols[keep], (5, 4))
    with pytest.raises(UsageError, match=r"the first is column 2, expected an invertible D_in; drop it"):
        sv.MinScaledNuclearNorm(op, jnp.ones(15))
    with pytest.raises(UsageError, match=r"got a singular D_out .* a combination of rows"):
        sv.MinScaledNuclearNorm(operator("rank one", (6, 5), 3), jnp.ones(3))


def test_methods_refuse_what_they_cannot_solve():
    nuclear, frobenius = sv.MinNuclearNorm(BASE, BASE_TARGETS), sv.MinFrobenius(BASE, BASE_TARGETS)
    with pytest.raises(UsageError, match=r"got DouglasRachford for MinFrobenius, expected MinNuclearNorm or"):
        sv.solve(frobenius, sv.DouglasRachford())
    with pytest.raises(UsageError, match=r"got ClosedForm for MinNuclearNorm, expected MinFrobenius; use Auto"):
        sv.solve(nuclear, sv.ClosedForm())
    with pytest.raises(UsageError, match=r"tolerance: got -1.0, expected a finite number > 0"):
        sv.solve(nuclear, tolerance=-1.0)
    with pytest.raises(UsageError, match="max_iterations: got 0, expected an integer >= 1"):
        sv.solve(nuclear, max_iterations=0)
    with pytest.raises(UsageError, match=r"relaxation: got 2.0, expected a finite number > 0 and < 2"):
        sv.DouglasRachford(relaxation=2.0)
    with pytest.raises(UsageError, match=r"first_step: got 0.0, expected a finite number > 0"):
        sv.DouglasRachford(first_step=0.0)

    class Other(sv.AbstractProgram):
        measurements: ms.AbstractMeasurements
        targets: jax.Array
        misfit: sv.AbstractMisfit = sv.Exact()

        def norm(self, matrix):
            return jnp.abs(matrix).max()

        def polar_norm(self, matrix):
            return jnp.abs(matrix).sum()

    with pytest.raises(UsageError, match="no method is known for Other; register one"):
        sv.solve(Other(BASE, BASE_TARGETS))


def test_too_many_measurements_are_refused(monkeypatch):
    monkeypatch.setattr("flatmin.solvers._whiten.MAX_GRAM", 29)
    with pytest.raises(UsageError, match=r"measurements: got m = 30, expected m <= 29 for DenseMeasurements"):
        sv.solve(sv.MinNuclearNorm(BASE, BASE_TARGETS), sv.DouglasRachford())


def test_certificate_checks_its_input(base):
    problem = sv.MinNuclearNorm(BASE, BASE_TARGETS)
    with pytest.raises(UsageError, match=r"matrix: got shape \(7, 9\), expected \(9, 7\)"):
        sv.certify(problem, base.matrix.T, base.dual)
    with pytest.raises(UsageError, match=r"dual: got shape \(29,\)"):
        sv.certify(problem, base.matrix, base.dual[1:])
    with pytest.raises(UsageError, match="certify: needs float64, got float32"):
        sv.certify(problem, base.matrix.astype(jnp.float32), base.dual)
    with pytest.raises(UsageError, match=r"matrix: got 1 value\(s\) that are NaN"):
        sv.certify(problem, base.matrix.at[0, 0].set(jnp.nan), base.dual)


def test_solutions_are_pytrees(base):
    leaves, tree = jax.tree.flatten(base)
    again = jax.tree.unflatten(tree, leaves)
    assert again.outcome is base.outcome
    assert eqx.tree_equal(again.matrix, base.matrix)
