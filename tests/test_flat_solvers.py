"""The programmes of flat recovery: against a second solver, planted truths, symmetries, and mistakes."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import JobError, Outcome, UsageError
from flatmin import measurements as ms
from flatmin import parameterizations as pz
from flatmin import problems as pb
from flatmin import solvers as sv
from flatmin.flatness import hessian_trace
from flatmin.solvers._reweighted import ReweightedMeasurements
from recovery_families import FAMILIES, PLANTED, instance

NAMES = sorted(FAMILIES)
# one of each programme and one of each misfit: every other pair compiles for seconds and is left to the long tests
FAST = [
    "bilinear flat",
    "completion flat ball",
    "quadratic nuclear",
    "quadratic flat trace",
    "robust masked penalty",
    "robust radius",
    "sensing flat l1 ball",
    "sensing flat square",
    "sparse depth 2",
    "sparse depth 3",
    "sparse depth 3 square",
    "sparse depth 5 ball",
]


def check_kkt(program, solution, gap=2e-9):
    """Feasibility and the two values, with nothing of the solver's own but the two points."""
    op, X, y = program.measurements, solution.matrix, solution.dual
    miss = op.forward(X) - program.targets
    assert float(program.misfit.violation(miss)) <= 1e-10 * float(jnp.linalg.norm(program.targets))
    assert float(program.polar_norm(op.adjoint(y))) <= 1 + 1e-12
    assert float(program.misfit.limit(y)) <= 1 + 1e-12
    primal = float(program.norm(X) + program.misfit.value(miss))
    dual = float(program.targets @ y - program.misfit.conjugate(y))
    assert primal == pytest.approx(solution.primal_value, rel=1e-12)
    assert dual == pytest.approx(solution.dual_value, rel=1e-9)
    assert primal - dual <= gap * primal


@pytest.mark.parametrize("name", FAST)
def test_against_clarabel_and_kkt(name):
    made = instance(name, 0)
    solution = sv.solve(made.program)
    assert solution.outcome is Outcome.converged
    value = made.oracle()
    assert value > 1e-3
    assert solution.primal_value == pytest.approx(value, rel=1e-6)
    check_kkt(made.program, solution)
    if isinstance(made.program, sv.MinTrace):
        assert np.linalg.eigvalsh(solution.matrix)[0] >= -1e-12 * float(jnp.trace(solution.matrix))


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_two_hundred_instances_against_clarabel(name):
    for seed in range(1, 11):
        made = instance(name, seed)
        solution = sv.solve(made.program, tolerance=1e-8)
        assert solution.primal_value == pytest.approx(made.oracle(), rel=1e-6), seed
        check_kkt(made.program, solution, gap=1e-8)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_truths_come_back(name):
    for seed in (0, 1):
        planted = PLANTED[name].draw(jax.random.key(seed))
        solution = sv.solve(PLANTED[name].program(planted))
        assert float(planted.relative_error(solution.matrix)) < 1e-7
        assert solution.stats["rank"] == np.linalg.matrix_rank(np.asarray(planted.truth), tol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("name", PLANTED)
def test_planted_truths_come_back_for_five_hundred_seeds(name):
    unsolved, unrecovered = [], []
    for seed in range(500):
        planted = PLANTED[name].draw(jax.random.key(seed))
        program = PLANTED[name].program(planted)
        if isinstance(program, sv.RobustPCA | sv.MinWeightedLp):
            solution = sv.solve(program, throw=False, tolerance=1e-8)
        else:
            # the same steps without a compilation for every number of entries
            solution = sv.solve_batch([program], tolerance=1e-8)[0]
        if not solution.outcome.success:
            unsolved.append(seed)
        elif not float(planted.relative_error(solution.matrix)) < 1e-6:
            unrecovered.append(seed)
    print(f"{name}: {len(unsolved)} unsolved {unsolved}, {len(unrecovered)} unrecovered {unrecovered} of 500")
    assert len(unsolved) + len(unrecovered) <= 5


X6 = np.random.default_rng(1).normal(size=(14, 6))
U6 = np.random.default_rng(2).normal(size=(6, 2))
FORMS = ms.symmetric_rank_one(jnp.asarray(X6))
FORM_TARGETS = FORMS.forward(jnp.asarray(U6 @ U6.T))
DENSE = ms.dense(jnp.asarray(np.random.default_rng(3).normal(size=(18, 5, 6))))
DENSE_TARGETS = jnp.asarray(np.random.default_rng(4).normal(size=18))
NOISY = np.random.default_rng(5).normal(size=(7, 1)) @ np.random.default_rng(6).normal(size=(1, 6))
NOISY[2, 3] += 4
NOISY[5, 1] -= 3


def test_rotating_the_inputs_rotates_a_quadratic_network():
    turn = np.linalg.qr(np.random.default_rng(7).normal(size=(8, 8)))[0]
    planted = pb.quadratic_network(jax.random.key(5), 8, 33, positive=1, negative=1)
    x = planted.problem.measurements.left[:, 0]
    programs = [
        sv.MinSymmetricNuclearNorm(ms.symmetric_rank_one(inputs), planted.problem.targets, scaled=True)
        for inputs in (x, x @ turn.T)
    ]
    one, other = map(sv.solve, programs)
    np.testing.assert_allclose(other.matrix, turn @ one.matrix @ turn.T, atol=1e-8)
    assert one.primal_value == pytest.approx(other.primal_value, rel=1e-9)
    assert one.primal_value > 0.1


def test_transposing_and_scaling_robust_pca():
    one = sv.solve(sv.RobustPCA(NOISY, penalty=0.4))
    np.testing.assert_allclose(sv.solve(sv.RobustPCA(NOISY.T, penalty=0.4)).matrix, one.matrix.T, atol=1e-7)
    np.testing.assert_allclose(sv.solve(sv.RobustPCA(-1e3 * NOISY, penalty=0.4)).matrix / -1e3, one.matrix, atol=1e-7)
    # the radius of the penalised solution gives the same solution
    radius = float(jnp.sum(jnp.abs(one.matrix - NOISY)))
    ball = sv.solve(sv.RobustPCA(NOISY, radius=radius))
    assert ball.primal_value == pytest.approx(float(sv.MinNuclearNorm(DENSE, DENSE_TARGETS).norm(one.matrix)), rel=1e-7)


@pytest.mark.long
def test_noisy_forms_tend_to_the_exact_one_and_to_zero():
    exact = sv.solve(sv.MinNuclearNorm(DENSE, DENSE_TARGETS))
    loose = sv.solve(sv.MinNuclearNorm(DENSE, DENSE_TARGETS, sv.SquaredLoss(1e-6)))
    assert loose.primal_value == pytest.approx(exact.primal_value, rel=1e-4)
    assert loose.primal_value < exact.primal_value
    # above ||A*(b)||_op / lambda = 1 nothing is worth its norm
    penalty = 1.01 * float(jnp.linalg.norm(DENSE.adjoint(DENSE_TARGETS), 2))
    nothing = sv.solve(sv.MinNuclearNorm(DENSE, DENSE_TARGETS, sv.SquaredLoss(penalty)))
    assert float(jnp.linalg.norm(nothing.matrix)) < 1e-8
    # a squared loss and the ball of its residual are the same problem
    square = sv.solve(sv.MinNuclearNorm(DENSE, DENSE_TARGETS, sv.SquaredLoss(0.3)), tolerance=1e-10)
    radius = float(jnp.linalg.norm(DENSE.forward(square.matrix) - DENSE_TARGETS))
    ball = sv.solve(sv.MinNuclearNorm(DENSE, DENSE_TARGETS, sv.L2Ball(radius)), tolerance=1e-10)
    np.testing.assert_allclose(ball.matrix, square.matrix, atol=1e-4)
    assert ball.primal_value + radius**2 / 0.6 == pytest.approx(square.primal_value, rel=1e-9)


@pytest.mark.parametrize("size", [1e-6, 1e-1, 10.0])
@pytest.mark.parametrize("name", ["sensing nuclear square", "quadratic flat trace", "robust penalty", "sparse depth 3"])
def test_certificate_never_flatters(name, size):
    program = instance(name, 3).program
    best = sv.solve(program)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        X = best.matrix + size * rng.normal(size=best.matrix.shape)
        y = best.dual + size * rng.normal(size=best.dual.shape)
        found = sv.certify(program, X, y)
        if found.residual < 1e-10:
            assert found.primal_value >= best.dual_value * (1 - 1e-12)
        assert found.dual_value <= best.primal_value * (1 + 1e-12)
        assert size < 0.1 or found.gap > 1e-3
        assert float(program.polar_norm(program.measurements.adjoint(found.dual))) <= 1 + 1e-12


def test_a_warm_start_is_shorter_and_ends_at_the_same_point():
    method = sv.DouglasRachford(newton=False)
    program = sv.MinNuclearNorm(DENSE, DENSE_TARGETS)
    cold = sv.solve(program, method)
    near = sv.MinNuclearNorm(DENSE, DENSE_TARGETS * (1 + 1e-6 * jnp.arange(18)))
    warm, again = sv.solve(near, method, start=cold), sv.solve(near, method)
    np.testing.assert_allclose(warm.matrix, again.matrix, atol=1e-7)
    assert warm.iterations < again.iterations
    with pytest.raises(UsageError, match=r"start.matrix: got shape \(7, 6\), expected \(5, 6\)"):
        sv.solve(near, start=sv.solve(sv.RobustPCA(NOISY, penalty=0.4)))


def test_pursuit_and_splitting_agree_where_both_solve():
    planted = PLANTED["quadratic network flat"].draw(jax.random.key(3))
    program = PLANTED["quadratic network flat"].program(planted)
    pursued, split = sv.solve(program), sv.solve(program, sv.DouglasRachford())
    assert pursued.stats["pursued"]
    assert (pursued.method, split.method) == ("Pursuit", "DouglasRachford")
    np.testing.assert_allclose(pursued.matrix, split.matrix, atol=1e-8)
    # where no low-rank matrix is optimal the pursuit says so and the splitting answers
    program = sv.MinNuclearNorm(DENSE, DENSE_TARGETS)
    fallen = sv.solve(program)
    assert not fallen.stats["pursued"]
    assert fallen.primal_value == pytest.approx(sv.solve(program, sv.DouglasRachford()).primal_value, rel=1e-8)


def test_robust_pursuit_finds_the_errors():
    planted = pb.robust_pca(jax.random.key(2), (60, 50), 2, 0.05)
    Y = planted.truth + planted.outliers
    solution = sv.solve(sv.RobustPCA(Y, penalty=sv.default_penalty((60, 50))))
    assert solution.stats["pursued"]
    np.testing.assert_allclose(solution.stats["outliers"], planted.outliers, atol=1e-12)
    assert solution.gap < 1e-12


@pytest.mark.long
@pytest.mark.parametrize("name", ["trace", "nuclear"])
def test_gross_errors_in_measurements_are_found(name):
    rng = np.random.default_rng(1)
    if name == "trace":
        planted = pb.covariance_estimation(jax.random.key(0), 8, 1, 40)
        make = sv.MinTrace
    else:
        planted = pb.matrix_sensing(jax.random.key(0), (8, 7), 1, 50)
        make = sv.MinNuclearNorm
    op, clean = planted.problem.measurements, np.asarray(planted.problem.targets)
    wrong = rng.permutation(clean.size)[:4]
    b = clean.copy()
    b[wrong] += 3.0
    for misfit in (sv.L1Ball(12.0), sv.L1Loss(0.1 if name == "nuclear" else 0.5)):
        solution = sv.solve(make(op, b, misfit))
        assert solution.method == "InteriorPoint"
        assert float(planted.relative_error(solution.matrix)) < 1e-10
        assert solution.gap < 1e-9
        errors = b - np.asarray(op.forward(solution.matrix))
        np.testing.assert_allclose(errors[wrong], 3.0, atol=1e-9)
    # one measurement, given three times with different values: a ball too small for their spread holds no matrix
    thrice = ms.stacked(op, op, op)
    refused = sv.solve(make(thrice, np.concatenate([clean, clean + 1, clean - 1]), sv.L1Ball(1.0)), throw=False)
    assert refused.outcome is Outcome.infeasible
    y = refused.stats["proof"]
    assert float(jnp.concatenate([clean, clean + 1, clean - 1]) @ y - jnp.abs(y).max()) == pytest.approx(1.0)
    assert refused.stats["proof_error"] < 1e-9


def test_hadamard_objective_is_the_hessian_trace():
    for depth in (2, 3, 5):
        planted = pb.sparse_recovery(jax.random.key(4), 12, 3, 8, depth=depth)
        problem = planted.problem
        program = sv.flat_program(problem.parameterization, problem.measurements, problem.targets)
        solution = sv.solve(program)
        params = problem.parameterization.init_params(jax.random.key(0), pz.Balanced(solution.matrix))
        trace = float(hessian_trace(problem, params).value)
        assert trace == pytest.approx(2 * depth * solution.primal_value**program.power, rel=1e-9)
        # and no interpolating perturbation of x is flatter
        null = np.linalg.svd(np.asarray(ms.materialise(problem.measurements))[:, :, 0])[2][8:]
        for seed in range(5):
            x = solution.matrix + 0.01 * (np.random.default_rng(seed).normal(size=4) @ null)[:, None]
            moved = problem.parameterization.init_params(jax.random.key(0), pz.Balanced(x))
            assert float(hessian_trace(problem, moved).value) > trace


def test_the_hadamard_objective_is_the_least_trace_over_all_factors_and_convex():
    rng = np.random.default_rng(0)
    D, x, y = rng.uniform(0.1, 2, 30), rng.normal(size=30), rng.normal(size=30)

    def least(x, k):
        return 2 * k * D @ np.abs(x) ** (2 - 2 / k)

    for k in (2, 3, 5):
        sizes = np.exp(rng.normal(size=(200, k, 30)))
        factors = sizes * (np.abs(x) / sizes.prod(1)).reshape(200, 1, 30) ** (1 / k)
        np.testing.assert_allclose(factors.prod(1), np.broadcast_to(np.abs(x), (200, 30)))
        others = (factors.prod(1, keepdims=True) / factors) ** 2
        assert (2 * others.sum(1) @ D).min() > least(x, k)
        assert least((x + y) / 2, k) < (least(x, k) + least(y, k)) / 2
    # the least squared norm of three factors is another thing, 3 sum |x|^{2/3}: larger half-way than at both ends
    ends = np.eye(2)
    assert np.sum(ends.mean(0) ** (2 / 3)) > np.sum(ends[0] ** (2 / 3)) == 1


def test_noisy_hadamard_forms_are_one_path():
    rng = np.random.default_rng(2)
    A, b = rng.normal(size=(9, 20)), rng.normal(size=9)
    op = ms.dense(jnp.asarray(A)[:, :, None])
    exact = sv.solve(sv.MinWeightedLp(op, b, depth=3)).primal_value
    near = sv.solve(sv.MinWeightedLp(op, b, sv.SquaredLoss(1e-6), depth=3))
    assert exact * (1 - 1e-4) < near.primal_value < exact
    square = sv.solve(sv.MinWeightedLp(op, b, sv.SquaredLoss(0.4), depth=3))
    radius = float(np.linalg.norm(A @ np.asarray(square.matrix)[:, 0] - b))
    ball = sv.solve(sv.MinWeightedLp(op, b, sv.L2Ball(radius), depth=3))
    np.testing.assert_allclose(ball.matrix, square.matrix, atol=1e-10)
    assert ball.primal_value + radius**2 / 0.8 == pytest.approx(square.primal_value, rel=1e-12)
    # above the polar of A*(b), and inside a ball around b, nothing is worth its norm
    program = sv.MinWeightedLp(op, b, depth=3)
    limit = float(program.polar_norm(op.adjoint(jnp.asarray(b))))
    assert not np.any(sv.solve(sv.MinWeightedLp(op, b, sv.SquaredLoss(1.001 * limit), depth=3)).matrix)
    assert np.any(sv.solve(sv.MinWeightedLp(op, b, sv.SquaredLoss(0.999 * limit), depth=3)).matrix)
    assert sv.solve(sv.MinWeightedLp(op, b, sv.L2Ball(1.001 * np.linalg.norm(b)), depth=3)).primal_value == 0
    # measurements that contradict each other by more than the radius
    doubled = ms.dense(jnp.asarray(np.concatenate([A, A]))[:, :, None])
    targets = np.concatenate([b, b + np.eye(9)[0]])
    for misfit, room in ((sv.L2Ball(0.7), 0.7), (sv.Exact(), 0.0)):
        refused = sv.solve(sv.MinWeightedLp(doubled, targets, misfit, depth=3), throw=False)
        assert refused.outcome is Outcome.infeasible
        y = refused.stats["proof"]
        assert float(targets @ y - room * jnp.linalg.norm(y)) == pytest.approx(1.0)
        assert refused.stats["proof_error"] < 1e-10
    assert sv.solve(sv.MinWeightedLp(doubled, targets, sv.L2Ball(0.71), depth=3)).gap < 1e-9


def test_flat_quadratic_network_is_the_hessian_trace():
    planted = pb.quadratic_network(jax.random.key(1), 5, 11, positive=2, negative=1)
    problem = planted.problem
    solution = sv.solve(sv.flat_program(problem.parameterization, problem.measurements, problem.targets))
    values, vectors = np.linalg.eigh(solution.matrix)
    del values, vectors
    moment = np.asarray(ms.row_gram(problem.measurements)) / 11
    w, v = np.linalg.eigh(moment)
    D, inverse = (v * np.sqrt(w)) @ v.T, (v / np.sqrt(w)) @ v.T
    s, Q = np.linalg.eigh(D @ np.asarray(solution.matrix) @ D)
    units = inverse @ Q * np.sqrt(np.abs(s))
    params = (jnp.asarray(units[:, s > 0]), jnp.asarray(units[:, s < 0]))
    network = pz.Quadratic(5, int((s > 0).sum()), int((s < 0).sum()))
    trace = hessian_trace(pb.RecoveryProblem(problem.measurements, network, problem.targets), params)
    assert float(trace.value) == pytest.approx(8 * solution.primal_value, rel=1e-8)


def test_batches_are_their_instances():
    keys = jax.random.split(jax.random.key(0), 3)
    made = [pb.matrix_completion(key, (14, 12), 1, 0.6) for key in keys]
    made += [pb.quadratic_network(key, 8, 33, positive=1, negative=1) for key in keys]
    made += [pb.covariance_estimation(key, 8, 1, 25) for key in keys]
    programs = [PLANTED["sensing flat"].program(planted) for planted in made]
    for program, solution in zip(programs, sv.solve_batch(programs), strict=True):
        alone = sv.solve(program)
        assert solution.outcome is Outcome.converged
        assert solution.primal_value == pytest.approx(alone.primal_value, rel=1e-8)
        check_kkt(program, solution)
        # the certificate on the host is the certificate
        again = sv.certify(program, solution.matrix, solution.dual)
        assert again.gap == pytest.approx(solution.gap, abs=1e-12)


def test_a_batch_without_low_rank_answers_is_split():
    programs = [
        sv.MinNuclearNorm(DENSE, DENSE_TARGETS),
        sv.MinScaledNuclearNorm(DENSE, DENSE_TARGETS),
        sv.MinSymmetricNuclearNorm(FORMS, FORM_TARGETS - 2.0),
        sv.MinNuclearNorm(ms.stacked(DENSE, DENSE), jnp.tile(DENSE_TARGETS, 2)),
    ]
    solutions = sv.solve_batch(programs)
    for program, solution in zip(programs, solutions, strict=True):
        assert solution.outcome is Outcome.converged
        assert not solution.stats.get("pursued", False)
        check_kkt(program, solution)
    value = solutions[0].primal_value
    refuted, kept = sv.solve_batch([programs[0]] * 2, below=[1.5 * value, float("-inf")])
    assert refuted.outcome is Outcome.undercut
    assert refuted.primal_value < 1.5 * value
    assert refuted.residual < 1e-10
    assert kept.outcome is Outcome.converged
    limited = sv.solve_batch(programs[:1], max_iterations=10)[0]
    assert limited.outcome is Outcome.max_iterations
    assert limited.dual_value < value < limited.primal_value


def test_infeasible_programmes_come_with_proofs():
    # no covariance has negative quadratic forms
    solution = sv.solve(sv.MinTrace(FORMS, FORM_TARGETS.at[0].set(-1.0)), throw=False)
    assert solution.outcome is Outcome.infeasible
    proof = solution.stats["proof"]
    assert float(FORM_TARGETS.at[0].set(-1.0) @ proof) == pytest.approx(1.0)
    assert float(jnp.linalg.eigvalsh(FORMS.adjoint(proof))[-1]) < 1e-9
    # a ball around targets that contradict each other by more than it
    doubled, b = ms.stacked(DENSE, DENSE), jnp.tile(DENSE_TARGETS, 2).at[20].add(1.0)
    distance = 1 / 2**0.5
    solution = sv.solve(sv.MinNuclearNorm(doubled, b, sv.L2Ball(0.9 * distance)), throw=False)
    assert solution.outcome is Outcome.infeasible
    y = solution.stats["proof"]
    assert float(b @ y - 0.9 * distance * jnp.linalg.norm(y)) == pytest.approx(1.0)
    assert float(jnp.linalg.norm(doubled.adjoint(y))) < 1e-10
    assert sv.solve(sv.MinNuclearNorm(doubled, b, sv.L2Ball(1.1 * distance))).outcome is Outcome.converged
    with pytest.raises(JobError, match="constraints contradict each other"):
        sv.solve(sv.MinSymmetricNuclearNorm(ms.stacked(FORMS, FORMS), jnp.tile(FORM_TARGETS, 2).at[3].add(1.0)))


def test_extreme_entries():
    rows, cols = map(jnp.asarray, np.nonzero(np.ones((6, 5))))
    sizes = jnp.asarray(10.0 ** np.random.default_rng(0).uniform(-12, 12, 30))
    wild = sv.solve(sv.MinNuclearNorm(ms.entries(rows, cols, (6, 5)), sizes))
    np.testing.assert_allclose(wild.matrix.reshape(-1), sizes, atol=1e-3)
    mask = np.random.default_rng(1).random((12, 10)) < 0.6
    mask[np.arange(12), np.arange(12) % 10] = True
    op = ms.entries(*map(jnp.asarray, np.nonzero(mask)), (12, 10))
    for program in (sv.MinNuclearNorm, sv.MinScaledNuclearNorm):
        equal = sv.solve(program(op, jnp.full(int(mask.sum()), 2.5)))
        np.testing.assert_allclose(equal.matrix, 2.5, atol=1e-7)
    row = ms.entries(jnp.zeros(4, int), jnp.arange(4), (1, 4))
    np.testing.assert_allclose(
        sv.solve(sv.MinScaledNuclearNorm(row, jnp.arange(4.0))).matrix, [[0, 1, 2, 3]], atol=1e-10
    )
    huge = sv.solve(sv.RobustPCA(1e12 * NOISY, penalty=0.4)).matrix
    np.testing.assert_allclose(huge / 1e12, sv.solve(sv.RobustPCA(NOISY, penalty=0.4)).matrix, atol=1e-7)


BALL = sv.L2Ball(1.0)
MISTAKES = {
    "negative radius": (lambda: sv.L2Ball(-1.0), r"radius: got \-1\.0, expected a finite number >= 0"),
    "zero radius": (lambda: sv.L1Ball(0.0), r"radius: got 0.0, expected a positive finite value; for an exact fit use"),
    "negative penalty": (lambda: sv.SquaredLoss(-0.1), r"penalty: got \-0\.1, expected a finite number > 0"),
    "nan weight": (lambda: sv.L1Loss(float("nan")), r"weight: got nan, expected a finite number > 0"),
    "neither": (
        lambda: sv.RobustPCA(NOISY),
        r"radius, penalty: got neither, expected one of them; .* 1/sqrt\(max\(d1, d2\)\) = 0.378",
    ),
    "both": (lambda: sv.RobustPCA(NOISY, radius=1.0, penalty=1.0), "radius, penalty: got both, expected one of them"),
    "robust radius": (lambda: sv.RobustPCA(NOISY, radius=-2.0), "radius: got -2.0"),
    "robust penalty": (lambda: sv.RobustPCA(NOISY, penalty=-2.0), r"penalty: got \-2\.0, expected a finite number > 0"),
    "robust vector": (
        lambda: sv.RobustPCA(np.ones(3), penalty=1.0),
        r"observed: got shape \(3,\), expected \(d1, d2\)",
    ),
    "robust nan": (
        lambda: sv.RobustPCA(np.full((2, 2), np.nan), penalty=1.0),
        r"targets: got 4 value\(s\) that are NaN or infinite",
    ),
    "mask shape": (
        lambda: sv.RobustPCA(NOISY, penalty=1.0, mask=np.ones((6, 7))),
        r"mask: got shape \(6, 7\), expected \(7, 6\)",
    ),
    "mask values": (
        lambda: sv.RobustPCA(NOISY, penalty=1.0, mask=np.full((7, 6), 2)),
        "mask: got values other than 0 and 1, expected True where an entry is seen",
    ),
    "nothing seen": (
        lambda: sv.RobustPCA(NOISY, penalty=1.0, mask=np.zeros((7, 6))),
        r"rows: got no entries \(m = 0\)",
    ),
    "float32": (lambda: sv.RobustPCA(NOISY.astype(np.float32), penalty=1.0), "RobustPCA: needs float64, got float32"),
    "not square": (lambda: sv.MinTrace(DENSE, DENSE_TARGETS), r"got matrix_shape \(5, 6\), expected a square one"),
    "singular D": (
        lambda: sv.MinTrace(ms.symmetric_rank_one(jnp.eye(3)[:2]), jnp.ones(2), scaled=True),
        r"the first is row 2, expected an invertible D\^2; drop it, add measurements, or use scaled=False",
    ),
    "depth": (lambda: sv.MinWeightedLp(DENSE, DENSE_TARGETS, depth=1), r"depth: got 1, expected an integer >= 2"),
    "unseen entry": (
        lambda: sv.MinWeightedLp(ms.entries(jnp.array([0]), jnp.array([0]), (1, 2)), jnp.ones(1)),
        r"got an entry that no measurement sees, \(0, 1\), expected a positive D_c",
    ),
    "noisy depth": (
        lambda: sv.solve(sv.MinWeightedLp(DENSE, DENSE_TARGETS, sv.L1Loss(1.0), depth=3)),
        r"misfit: got L1Loss for more than two factors, expected Exact\(\), SquaredLoss or L2Ball; an l1 misfit is",
    ),
    "noisy Frobenius": (
        lambda: sv.solve(sv.MinFrobenius(DENSE, DENSE_TARGETS, BALL)),
        r"misfit: got L2Ball for MinFrobenius, expected Exact\(\)",
    ),
    "l1 of dense by splitting": (
        lambda: sv.solve(sv.MinNuclearNorm(DENSE, DENSE_TARGETS, sv.L1Loss(1.0)), sv.DouglasRachford()),
        "misfit: got L1Loss for DenseMeasurements, expected measurements of single entries",
    ),
    "l1 of many dense": (
        lambda: sv.solve(sv.MinNuclearNorm(ms.dense(np.ones((2, 4000, 40))), np.ones(2), sv.L1Loss(1.0))),
        r"got L1Loss for DenseMeasurements that would form an array of 3.3e\+07 entries, expected at most 3e\+07 where",
    ),
    "batch misfit": (
        lambda: sv.solve_batch([sv.MinNuclearNorm(DENSE, DENSE_TARGETS, BALL)]),
        r"programs: got MinNuclearNorm with L2Ball, expected a nuclear norm or a trace with Exact\(\); use solve",
    ),
    "batch lengths": (
        lambda: sv.solve_batch([sv.MinNuclearNorm(DENSE, DENSE_TARGETS)], below=[1.0, 2.0]),
        "below: got 2 values for 1 programmes, expected one for each",
    ),
    "batch tolerance": (
        lambda: sv.solve_batch([], tolerance=0.0),
        r"tolerance: got 0\.0, expected a finite number > 0",
    ),
    "newton": (
        lambda: sv.solve(sv.MinNuclearNorm(DENSE, DENSE_TARGETS), sv.DualNewton()),
        "method: got DualNewton for MinNuclearNorm with Exact, expected MinWeightedLp with three factors",
    ),
    "robust method": (
        lambda: sv.solve(sv.MinNuclearNorm(DENSE, DENSE_TARGETS), sv.RobustPursuit()),
        "method: got RobustPursuit for MinNuclearNorm, expected RobustPCA; use Auto",
    ),
    "splitting of a power": (
        lambda: sv.solve(sv.MinWeightedLp(DENSE, DENSE_TARGETS, depth=3), sv.DouglasRachford()),
        r"method: got DouglasRachford for a power of 1.33333, expected 1 \(two factors\); use Auto",
    ),
    "deep flat": (
        lambda: sv.flat_program(pz.deep_matrix((5, 6), 3), DENSE, DENSE_TARGETS),
        "parameterization: got a deep matrix of depth 3, expected 2; other depths have no closed form",
    ),
    "flat sum": (
        lambda: sv.flat_program(pz.Sum((pz.deep_matrix((5, 6), 2),)), DENSE, DENSE_TARGETS),
        "no convex programme is known for the flat solutions of Sum",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_meets_its_sentence(name, unchecked):
    mistake, sentence = MISTAKES[name]
    with pytest.raises(UsageError, match=sentence):
        mistake()


def test_l1_ball_projection_against_clarabel():
    # the proximal map of a weighted l1 ball, one programme of its own
    from flatmin.solvers._splitting import prox

    rng = np.random.default_rng(8)
    seen, centre, gains = rng.normal(size=(3, 15))
    gains = gains**2 + 0.1
    found = prox(sv.L1Ball(2.0), jnp.asarray(seen), jnp.asarray(centre), jnp.asarray(gains), jnp.ones(()))
    u = cp.Variable(15)
    cp.Problem(cp.Minimize(cp.sum_squares(u - seen)), [cp.norm1(cp.multiply(np.sqrt(gains), u - centre)) <= 2]).solve(
        solver=cp.CLARABEL
    )
    np.testing.assert_allclose(found, u.value, atol=1e-5)
    assert float(jnp.sum(jnp.sqrt(gains) * jnp.abs(found - centre))) == pytest.approx(2.0, rel=1e-12)


def test_a_batch_of_scaled_entries_is_that_of_the_entries():
    planted = pb.matrix_completion(jax.random.key(5), (9, 8), 1, 0.7)
    op, b = planted.problem.measurements, planted.problem.targets
    programs = [sv.MinNuclearNorm(op, b), sv.MinNuclearNorm(ms.scaled(op, -3.0), -3.0 * b)]
    few = pb.matrix_completion(jax.random.key(6), (9, 8), 3, 0.5)
    op, b = few.problem.measurements, few.problem.targets
    programs += [sv.MinNuclearNorm(op, b), sv.MinNuclearNorm(ms.scaled(op, -3.0), -3.0 * b)]
    one, same, split, same_split = sv.solve_batch(programs, tolerance=1e-7)
    assert one.stats["pursued"]
    assert not split.stats["pursued"]
    np.testing.assert_allclose(same.matrix, one.matrix, atol=1e-9)
    assert same_split.primal_value == pytest.approx(split.primal_value, rel=2e-7)
    check_kkt(programs[3], same_split, gap=1e-7)


def test_kernel_form_of_reweighted_measurements():
    rng = np.random.default_rng(0)
    left, S, T = (M + M.T for M in (rng.normal(size=(5, 5)), rng.normal(size=(5, 5)), rng.normal(size=(6, 6))))
    right = jnp.asarray(rng.normal(size=6))
    op = ReweightedMeasurements(DENSE, jnp.asarray(left), right)
    A = np.einsum("ab,ibc,c->iac", left, np.asarray(DENSE.tensor), np.asarray(right))
    for s, t in ((None, None), (S, None), (None, T), (S, T)):
        inner = A if s is None else np.einsum("ab,ibc->iac", s, A)
        inner = inner if t is None else inner @ t
        given = [None if M is None else jnp.asarray(M) for M in (s, t)]
        np.testing.assert_allclose(
            ms.kernel_form(op, *given), np.einsum("iab,jab->ij", A, inner), rtol=1e-10, atol=1e-9
        )


@pytest.mark.parametrize("masked", [False, True])
def test_huber_loss_agrees_with_a_second_solver(masked):
    rng = np.random.default_rng(3)
    observed = np.outer(rng.normal(size=7), rng.normal(size=5)) + 0.05 * rng.normal(size=(7, 5))
    observed[2, 3] += 4.0
    seen = (rng.random((7, 5)) < 0.8) if masked else np.ones((7, 5), bool)
    program = sv.RobustPCA(observed, penalty=0.4, noise=0.05, mask=seen if masked else None)
    assert isinstance(program.misfit, sv.HuberLoss)
    solution = sv.solve(program, tolerance=1e-8)
    mu = 0.05 * sv.noise_norm((7, 5), float(seen.mean()))
    X, S = cp.Variable((7, 5)), cp.Variable((7, 5))
    cost = cp.normNuc(X) + 0.4 * cp.sum(cp.abs(cp.multiply(seen, S)))
    cost += cp.sum_squares(cp.multiply(seen, observed - X - S)) / (2 * mu)
    expected = cp.Problem(cp.Minimize(cost)).solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(solution.primal_value, expected, rtol=1e-6)
    errors = solution.stats["outliers"]
    assert np.abs(errors[2, 3]) > 1 or not seen[2, 3]
    assert np.sum(errors != 0) < seen.sum() / 2


def test_huber_loss_wants_single_entries():
    op = ms.gaussian(jax.random.key(0), 9, (4, 3))
    with pytest.raises(UsageError, match="expected measurements of single entries"):
        sv.solve(sv.MinNuclearNorm(op, jnp.ones(9), sv.HuberLoss(1.0, 0.1)))


def test_a_family_member_is_its_named_programme():
    op = ms.gaussian(jax.random.key(0), 9, (4, 4))
    targets = op.forward(jnp.asarray(np.outer([1.0, 2, 0, -1], [1.0, 2, 0, -1])))
    for named, options in (
        (sv.MinNuclearNorm(op, targets), {}),
        (sv.MinScaledNuclearNorm(op, targets), {"weights": "flat"}),
        (sv.MinSymmetricNuclearNorm(op, targets, scaled=True), {"domain": "symmetric", "weights": "flat"}),
        (sv.MinTrace(op, targets), {"domain": "psd"}),
        (sv.MinFrobenius(op, targets), {"norm": "frobenius"}),
    ):
        general = sv.MinNorm(op, targets, **options)
        first, second = sv.solve(named, tolerance=1e-8), sv.solve(general, tolerance=1e-8)
        np.testing.assert_allclose(second.primal_value, first.primal_value, rtol=1e-9)


def test_given_weights_are_a_change_of_variables():
    op = ms.gaussian(jax.random.key(1), 9, (4, 3))
    targets = op.forward(jnp.asarray(np.outer([1.0, 2, 0, -1], [1.0, -1, 0.5])))
    left, right = np.diag([1.0, 2, 3, 4]) + 0.1, np.asarray([1.0, 0.5, 2.0])
    solution = sv.solve(sv.MinNorm(op, targets, weights=(left, right)), tolerance=1e-9)
    X = cp.Variable((4, 3))
    tensor, b = np.asarray(ms.materialise(op)), np.asarray(targets)
    fits = [cp.sum(cp.multiply(A, X)) == value for A, value in zip(tensor, b, strict=True)]
    expected = cp.Problem(cp.Minimize(cp.normNuc(left @ X @ np.diag(right))), fits).solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(solution.primal_value, expected, rtol=1e-6)
    with pytest.raises(UsageError, match="weights: got two that differ"):
        sv.MinNorm(ms.gaussian(jax.random.key(1), 9, (3, 3)), jnp.ones(9), domain="psd", weights=(right, 2 * right))
    with pytest.raises(UsageError, match="weights: got sizes"):
        sv.MinNorm(op, targets, weights=(right, right))
