"""The induced regulariser over one fibre, and the direct solver, beside closed forms, dense twins and other solvers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from flatmin import flattest, follow_trace, induced_regulariser
from flatmin._core import JobError, Outcome, UsageError
from flatmin.flatness import hessian_trace
from flatmin.flatness.deep_products import deep_layer_traces
from flatmin.interpolators import _newton, regulariser, rip_estimate, single_measurement_flattest
from flatmin.interpolators._chain import Chain, _dense_hessian, _Point, gap_bound, minimise_chain
from flatmin.interpolators._lanczos import smallest_eigenvalue
from flatmin.interpolators._model import At, Model, flatten, product, unflatten
from flatmin.interpolators._newton import _best_side, escape, minimise_at_width
from flatmin.interpolators.bounds import attainable, lower_bound
from flatmin.measurements import bilinear_gaussian, dense, entries, gaussian, identity, regression, scaled
from flatmin.parameterizations import DeepMatrix, Gaussian, Hadamard, deep_matrix
from flatmin.problems import RecoveryProblem, matrix_sensing
from flatmin.solvers import MinScaledNuclearNorm, solve
from flatmin.theory import gatmiry2023 as theory

KEY = jax.random.key
DEPTHS = [2, 3, 5, 8]


def matrix(seed: int, shape: tuple[int, int], rank: int | None = None) -> jax.Array:
    rank = min(shape) if rank is None else rank
    left, right = jax.random.split(KEY(seed))
    return jax.random.normal(left, (shape[0], rank)) @ jax.random.normal(right, (rank, shape[1]))


def value(op, M, depth):
    found = induced_regulariser(op, M, depth)
    assert found.outcome is Outcome.converged
    assert 0 <= found.gap < 1e-9
    return found.value


# the fibre: closed forms


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_depth_two_is_theorem_5(rank):
    op, M = gaussian(KEY(0), 9, (4, 5)), matrix(1, (4, 5), rank)
    assert value(op, M, 2) == pytest.approx(float(theory.depth_two_regulariser(op, M)), rel=1e-12)


@pytest.mark.parametrize("depth", DEPTHS)
def test_one_measurement_is_theorem_7(depth):
    op, M = gaussian(KEY(2), 1, (4, 4)), matrix(3, (4, 4))
    exact = theory.single_measurement_regulariser(op.tensor[0], M, depth)
    assert value(op, M, depth) == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize("depth", DEPTHS)
def test_all_entries_are_lemma_4(depth):
    op, M = identity((4, 3)), matrix(4, (4, 3), 2)
    exact = theory.population_regulariser(theory.nuclear_norm(M), depth, (4, 3)) / op.num_measurements
    assert value(op, M, depth) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("depth", DEPTHS)
def test_moments_that_are_products_weigh_the_nuclear_norm(depth):
    """If the fourth moment is D_out (x) D_in / tr D: `2 L (tr D)^{(2-L)/L} ||D_out^{1/2} M D_in^{1/2}||_*^{2-2/L}`."""
    out, into = matrix(31, (4, 4)), matrix(32, (3, 3))
    op = dense(jnp.einsum("ab,ibc,cd->iad", out, jnp.eye(12).reshape(12, 4, 3), into))
    M = matrix(33, (4, 3), 2)
    weighted = float(theory.depth_two_regulariser(op, M)) / 4
    moment = float(jnp.sum(op.tensor**2)) / 12
    expected = 2 * depth * moment ** ((2 - depth) / depth) * weighted ** (2 - 2 / depth)
    assert value(op, M, depth) == pytest.approx(expected, rel=1e-10)


def test_depth_one_and_zero_matrices_are_trivial():
    op = gaussian(KEY(0), 5, (3, 4))
    assert value(op, jnp.ones((3, 4)), 1) == pytest.approx(2 / 5 * float(jnp.sum(op.tensor**2)))
    nothing = induced_regulariser(op, jnp.zeros((3, 4)), 3)
    assert (nothing.value, nothing.rank) == (0.0, 0)
    params = nothing.at_widths(deep_matrix((3, 4), 3), KEY(0))
    assert [w.shape for w in params] == [(4, 4), (4, 4), (3, 4)]


# the fibre: what is proven of it


KINDS = {
    "few": lambda: gaussian(KEY(5), 3, (4, 5)),
    "many": lambda: gaussian(KEY(5), 60, (4, 5)),
    "entries": lambda: entries(jnp.arange(12) % 4, (jnp.arange(12) * 7) % 5, (4, 5)),
    "bilinear": lambda: bilinear_gaussian(KEY(6), 7, (4, 5)),
    "twice": lambda: dense(jnp.concatenate([gaussian(KEY(5), 3, (4, 5)).tensor] * 2)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [3, 4])
def test_factors_attain_the_value_and_no_other_factors_do_better(kind, depth):
    op, M = KINDS[kind](), matrix(7, (4, 5), 3)
    found = induced_regulariser(op, M, depth)
    assert found.attained
    assert found.gap < 1e-10
    network = DeepMatrix((5, *[6] * (depth - 1), 4))
    params = found.at_widths(network, KEY(8))
    problem = RecoveryProblem(op, network, op.forward(M))
    np.testing.assert_allclose(network.matrix(params), M, atol=1e-10)
    assert float(hessian_trace(problem, params).value) == pytest.approx(found.value, rel=1e-10)
    rng = np.random.default_rng(0)
    for size in (1e-3, 0.3):  # other factors of M: any invertible matrices between the layers
        gauges = [np.eye(6) + size * rng.standard_normal((6, 6)) for _ in range(depth - 1)]
        moved = [np.asarray(w) for w in params]
        for j, g in enumerate(gauges):
            moved[j], moved[j + 1] = g @ moved[j], np.linalg.solve(g.T, moved[j + 1].T).T
        trace = float(hessian_trace(problem, tuple(map(jnp.asarray, moved))).value)
        assert trace > found.lower
        assert trace > found.value * (1 + 1e-8)


@pytest.mark.long
def test_a_general_minimiser_over_the_gauges_finds_the_same_value():
    """Twin: quasi-Newton on arbitrary invertible matrices between full-width layers."""
    op, M = gaussian(KEY(9), 5, (3, 3)), matrix(10, (3, 3))
    found = induced_regulariser(op, M, 3)

    @jax.jit
    @jax.value_and_grad
    def trace(v):
        first, second = v.reshape(2, 3, 3)
        layers = (first @ M, second @ jnp.linalg.inv(first), jnp.linalg.inv(second))
        return jnp.sum(deep_layer_traces(DeepMatrix((3, 3, 3, 3)), op, layers))

    best = min(
        minimize(lambda v: tuple(np.asarray(x) for x in trace(v)), start, jac=True, options={"gtol": 1e-9}).fun
        for start in (
            np.tile(np.eye(3).ravel(), 2) + 0.3 * np.random.default_rng(s).standard_normal(18) for s in range(3)
        )
    )
    assert best == pytest.approx(found.value, rel=1e-7)


def test_phi_is_convex_along_geodesics_and_its_hessian_is_the_derived_one():
    rng = np.random.default_rng(0)
    psd = [x @ x.T for x in rng.standard_normal((2, 3, 3))]
    point = _Point(psd[0], [rng.standard_normal((4, 3, 3)) for _ in range(2)], psd[1])
    for _ in range(20):
        H = [(x + x.T) / 2 for x in rng.standard_normal((3, 3, 3))]
        at = [point.moved([t * h for h in H]).value for t in (-1, 0, 1)]
        assert at[0] + at[2] > 2 * at[1]
        h = 1e-4
        near = [point.moved([t * x for x in H]).value for t in (-h, 0, h)]
        second = sum(float(np.vdot(x, y)) for x, y in zip(H, point.hessian(H), strict=True))
        assert (near[0] - 2 * near[1] + near[2]) / h**2 == pytest.approx(second, rel=1e-5)
        slope = sum(float(np.vdot(x, y)) for x, y in zip(H, point.gradient, strict=True))
        assert (near[2] - near[0]) / (2 * h) == pytest.approx(slope, rel=1e-5)
    assert np.linalg.eigvalsh(_dense_hessian(point))[0] > 0


def test_the_gap_is_a_bound_before_convergence():
    """Stopped early, the distance to the minimum is within the proven one, and not a thousandth of it."""
    rng = np.random.default_rng(1)
    chain = Chain(np.eye(3), rng.standard_normal((5, 3, 3)), 2 * np.eye(3), 4)
    start = [np.eye(3)] * 3
    best = minimise_chain(chain, start).value
    tight = 0
    for sweeps in (4, 8, 16, 24):
        early = minimise_chain(chain, start, max_iterations=0, sweeps=sweeps)
        distance, bound = early.value - best, gap_bound(early)
        assert distance <= bound * (1 + 1e-6)
        tight += distance > 1e-3 * bound
    assert tight >= 2


@pytest.mark.parametrize("depth", [3, 8])
@pytest.mark.parametrize("kind", ["few", "bilinear"])
def test_metamorphic_relations(kind, depth):
    op, M = KINDS[kind](), matrix(11, (4, 5), 2)
    F = value(op, M, depth)
    tensor = jax.vmap(op.adjoint)(jnp.eye(op.num_measurements))
    out, into = (jax.random.orthogonal(KEY(s), n) for s, n in ((12, 4), (13, 5)))
    rotated = dense(jnp.einsum("ab,ibc,cd->iad", out, tensor, into))
    assert value(rotated, out @ M @ into, depth) == pytest.approx(F, rel=1e-9)
    assert value(dense(tensor.transpose(0, 2, 1)), M.T, depth) == pytest.approx(F, rel=1e-9)
    assert value(op, -3.0 * M, depth) == pytest.approx(3 ** (2 - 2 / depth) * F, rel=1e-9)
    assert value(scaled(op, 5.0), M, depth) == pytest.approx(25 * F, rel=1e-9)
    mixed = dense(jnp.einsum("ij,jab->iab", jax.random.orthogonal(KEY(14), op.num_measurements), tensor))
    assert value(mixed, M, depth) == pytest.approx(F, rel=1e-9)
    assert value(dense(jnp.concatenate([tensor, tensor])), M, depth) == pytest.approx(F, rel=1e-9)
    # what is added to the sum of squares adds to the trace
    assert value(dense(tensor[1:]), M, depth) * (op.num_measurements - 1) < F * op.num_measurements


def test_rank_deficient_matrices_are_limits_of_full_ones():
    op, M, N = gaussian(KEY(15), 4, (4, 4)), matrix(16, (4, 4), 2), matrix(17, (4, 4))
    at_zero = value(op, M, 3)
    near = [value(op, M + t * N, 3) - at_zero for t in (1e-4, 1e-6)]
    assert abs(near[1]) < 0.02 * abs(near[0])
    assert abs(near[0]) < 1e-2 * at_zero


def test_what_no_measurement_sees_costs_nothing():
    op = entries(jnp.asarray([0, 1, 1]), jnp.asarray([0, 0, 1]), (3, 3))
    M = matrix(18, (3, 3))
    found = induced_regulariser(op, M, 3)
    assert not found.attained
    assert found.rank == 2
    assert found.value == pytest.approx(
        value(entries(jnp.asarray([0, 1, 1]), jnp.asarray([0, 0, 1]), (2, 2)), M[:2, :2], 3), rel=1e-10
    )
    # and is approached by factors of M itself: those of M with ever less weight on what is not seen
    network = deep_matrix((3, 3), 3)
    problem = RecoveryProblem(op, network, op.forward(M))
    eye = np.eye(9).reshape(9, 3, 3)
    traces = []
    for weight in (1e-2, 1e-4, 1e-6):
        also = dense(jnp.concatenate([jax.vmap(op.adjoint)(jnp.eye(3)), weight * jnp.asarray(eye)]))
        near = induced_regulariser(also, M, 3)
        assert near.attained
        traces.append(float(hessian_trace(problem, near.at_widths(network, KEY(0))).value))
    assert traces[0] > traces[1] > traces[2] > found.value * (1 - 1e-12)
    assert traces[0] > found.value * (1 + 1e-8)
    assert traces[2] < found.value * (1 + 1e-3)


def test_ill_conditioned_matrices_keep_their_digits():
    frame = jax.random.orthogonal(KEY(19), 4)
    M = frame @ jnp.diag(10.0 ** -jnp.arange(0.0, 12, 3))
    op = gaussian(KEY(20), 6, (4, 4))
    found = induced_regulariser(op, M, 4)
    assert found.rank == 4
    assert found.gap < 1e-9
    assert value(op, 1e80 * M, 4) == pytest.approx(1e80**1.5 * found.value, rel=1e-9)


def test_a_proof_that_fails_is_said():
    """The predictions of M vanish, its rows and columns are seen: the infimum is 0, not attained, and not proven."""
    op = entries(jnp.asarray([0, 1]), jnp.asarray([0, 1]), (2, 2))
    found = induced_regulariser(op, jnp.asarray([[0.0, 1.0], [0.0, 0.0]]), 3)
    assert found.outcome is not Outcome.converged
    assert found.lower_kind in ("single measurements", "none")
    assert found.lower <= found.value
    with pytest.raises(JobError, match=r"induced_regulariser: .*the value lies between"):
        found.raise_if_failed()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((jnp.ones((3, 4)), 3), r"matrix: got shape \(3, 4\), expected \(4, 5\)"),
        ((jnp.ones((4, 5), jnp.float32), 3), "induced_regulariser: needs float64, got float32"),
        ((jnp.full((4, 5), jnp.nan), 3), "matrix: got 20 value.s. that are NaN"),
        ((jnp.ones((4, 5)), 0), "depth: got 0, expected an integer >= 1"),
    ],
)
def test_bad_matrices_are_refused(arguments, sentence, unchecked):
    with pytest.raises(UsageError, match=sentence):
        induced_regulariser(KINDS["few"](), *arguments)
    with pytest.raises(UsageError, match=r"parameterization: got widths .*, expected depth 3 from 5 to 4"):
        induced_regulariser(KINDS["few"](), jnp.ones((4, 5)), 3).at_widths(deep_matrix((4, 5), 2), KEY(0))


# the direct solver: parts


def test_derivatives_of_the_model_are_those_of_automatic_differentiation():
    depth, count = 3, 25
    op = gaussian(KEY(0), count, (3, 4))
    targets = op.forward(jnp.ones((3, 4)))
    widths = (4, *[2] * (depth - 1), 3)
    factors = tuple(jax.random.normal(KEY(s), (b, a)) for s, (a, b) in enumerate(itertools.pairwise(widths)))
    flat, restore = ravel_pytree(factors)
    model = Model(op, np.asarray(targets))
    at = At(model, tuple(np.asarray(w) for w in factors))
    y = np.arange(1.0, 1 + len(model.targets))

    def trace(v):
        return jnp.sum(deep_layer_traces(DeepMatrix((1, 1)), op, restore(v)))

    def residuals(v):
        layers = restore(v)
        M = layers[0]
        for w in layers[1:]:
            M = w @ M
        return jnp.asarray(model.rows) @ M.ravel() - jnp.asarray(model.targets)

    @jax.jit
    def everything(v):  # one compilation
        hessian = jax.hessian(lambda u: trace(u) - y @ residuals(u))(v)
        return *jax.value_and_grad(trace)(v), jax.jacobian(residuals)(v), hessian

    value, gradient, jacobian, H = (np.asarray(x) for x in everything(flat))
    assert at.trace == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(at.gradient, gradient, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(at.jacobian, jacobian, atol=1e-9)
    np.testing.assert_allclose(at.hessian(y, np.eye(len(flat))), H, atol=1e-10 * np.abs(H).max())
    loss = float(jnp.sum((op.forward(jnp.asarray(product(at.factors))) - targets) ** 2))
    assert np.sum(model.residuals(at.factors) ** 2) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_array_equal(flatten(unflatten(np.asarray(flat), [w.shape for w in factors])), np.asarray(flat))


def test_newton_converges_quadratically_and_leaves_saddles():
    planted = matrix_sensing(KEY(3), (5, 5), 1, 8, depth=3)
    model = Model(planted.problem.measurements, np.asarray(planted.problem.targets))
    rng = np.random.default_rng(0)
    factors = tuple(rng.standard_normal(s) for s in ((2, 5), (2, 2), (5, 2)))
    result = minimise_at_width(model, factors, tolerance=1e-12)
    assert result.outcome is Outcome.converged
    assert result.stationarity < 1e-12
    assert result.loss < 1e-18
    assert result.curvature > 0
    assert result.zero_modes >= result.gauge_modes == 2
    # first order, densely: the gradient is in the range of J^T
    at = At(model, result.factors)
    np.testing.assert_allclose(at.jacobian.T @ result.multipliers, at.gradient, atol=1e-9 * np.linalg.norm(at.gradient))
    moved = [w + 1e-4 * rng.standard_normal(w.shape) for w in result.factors]
    again = minimise_at_width(model, tuple(moved), tolerance=1e-12)
    assert again.iterations <= 3
    assert again.trace == pytest.approx(result.trace, rel=1e-12)


@pytest.mark.parametrize("rank", [2, 4])
def test_newton_by_products_alone_is_that_with_formed_matrices(rank, monkeypatch):
    planted = matrix_sensing(KEY(3), (5, 5), 1, 8, depth=3)
    model = Model(planted.problem.measurements, np.asarray(planted.problem.targets))
    start = tuple(np.random.default_rng(0).standard_normal(s) for s in ((rank, 5), (rank, rank), (5, rank)))
    formed = minimise_at_width(model, start, tolerance=1e-11)
    beside = tuple(W + 0.02 * np.random.default_rng(1).standard_normal(W.shape) for W in formed.factors)
    monkeypatch.setattr(_newton, "DENSE_LIMIT", 0)
    free = minimise_at_width(model, beside, tolerance=1e-11)
    assert free.outcome is formed.outcome is Outcome.converged
    assert free.trace == pytest.approx(formed.trace, rel=1e-12)
    assert free.kernel_rank == formed.kernel_rank == 8
    assert free.gauge_modes == formed.gauge_modes <= free.zero_modes <= formed.zero_modes
    if formed.zero_modes == formed.gauge_modes:
        assert 0 <= free.curvature - formed.curvature <= free.curvature_error + 1e-9
        assert free.curvature_error < 0.02 * free.curvature
    else:
        assert abs(free.curvature) < 1e-8
        assert free.curvature_error < 1e-8
    # at a maximum along a direction the sign is seen, and left
    lifted = At(model, free.factors)
    turned = _newton._FreeSplit(lifted)
    turned.multipliers = turned.multipliers + 50 * np.linalg.norm(turned.multipliers) * np.ones(8)
    dense_split = _newton._DenseSplit(lifted)
    dense_split.multipliers = turned.multipliers
    assert turned.curvature().saddle
    assert turned.curvature().lowest == pytest.approx(dense_split.curvature().lowest, rel=0.02)


def test_smallest_eigenvalue_has_its_sign_and_residual():
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    for values in (np.linspace(-0.2, 3, 60), np.geomspace(1e-3, 10, 60), np.repeat([-1.0, 2.0], 30)):
        H = (frame * values) @ frame.T
        found = smallest_eigenvalue(lambda x, H=H: H @ x, rng.standard_normal(60), dimension=60, share=1e-4)
        assert found.value == pytest.approx(values[0], rel=1e-4)
        assert np.linalg.norm(H @ found.vector - found.value * found.vector) == pytest.approx(found.residual, abs=1e-12)
        assert np.abs(values - found.value).min() <= found.residual + 1e-12
        assert found.largest == pytest.approx(np.abs(values).max(), rel=0.05)
    with pytest.raises(UsageError, match="start: got zeros"):
        smallest_eigenvalue(lambda x: x, np.zeros(3), dimension=3)


def test_a_stall_is_no_lack_of_iterations():
    planted = matrix_sensing(KEY(3), (5, 5), 1, 8, depth=3)
    model = Model(planted.problem.measurements, np.asarray(planted.problem.targets))
    start = tuple(np.random.default_rng(0).standard_normal(s) for s in ((2, 5), (2, 2), (5, 2)))
    assert minimise_at_width(model, start, tolerance=1e-30).outcome is Outcome.stalled
    assert minimise_at_width(model, start, tolerance=1e-12, max_iterations=3).outcome is Outcome.max_iterations


def test_a_width_that_is_too_small_is_infeasible():
    planted = matrix_sensing(KEY(3), (4, 4), 3, 15, depth=3)
    model = Model(planted.problem.measurements, np.asarray(planted.problem.targets))
    factors = tuple(np.ones(s) for s in ((1, 4), (1, 1), (4, 1)))
    assert minimise_at_width(model, factors, tolerance=1e-9).outcome is Outcome.infeasible


def test_escape_is_dual_feasibility_at_depth_two():
    planted = matrix_sensing(KEY(21), (5, 5), 1, 6, depth=2)
    op, targets = planted.problem.measurements, planted.problem.targets
    model = Model(op, np.asarray(targets))
    rng = np.random.default_rng(0)
    narrow = minimise_at_width(model, (rng.standard_normal((1, 5)), rng.standard_normal((5, 1))), tolerance=1e-11)
    ratio, grown = escape(model, narrow, rng)
    program = MinScaledNuclearNorm(op, targets)
    pull = op.adjoint(jnp.asarray(narrow.multipliers))
    assert ratio == pytest.approx(float(program.polar_norm(pull)) / 4, rel=1e-6)
    assert ratio > 1 + 1e-3
    wider = min(minimise_at_width(model, f, tolerance=1e-11).trace for f in grown)
    assert wider < narrow.trace * (1 - 1e-6)
    assert wider > 4 * solve(program).dual_value * (1 - 1e-9)


# the direct solver: whole


def test_depth_two_is_the_convex_programme():
    problem = matrix_sensing(KEY(22), (5, 4), 1, 9, depth=2).problem
    found = flattest(problem, key=KEY(0), starts=("random",))  # that of nuclear norms has its test at depth 3
    exact = solve(MinScaledNuclearNorm(problem.measurements, problem.targets))
    assert found.outcome is Outcome.converged
    assert found.lower_kind == "convex programme"
    assert -1e-8 < found.gap < 1e-8
    assert found.trace == pytest.approx(4 * exact.primal_value, rel=1e-8)
    np.testing.assert_allclose(found.matrix, exact.matrix, atol=1e-5)


@pytest.fixture(scope="module")
def deep():
    problem = matrix_sensing(KEY(23), (5, 5), 1, 9, depth=3).problem
    return problem, flattest(problem, key=KEY(0), rip=True)


def test_the_flattest_satisfies_both_orders_in_the_problems_own_widths(deep):
    problem, found = deep
    # the lower end beyond depth 2 is not sharp: a minimum, but not proven to be the lowest
    assert found.outcome is Outcome.local_minimum
    assert found.gap > 1e-3
    assert "certified" not in found.outcome.value
    assert found.raise_if_failed() is found
    assert found.loss < 1e-16
    assert found.stationarity < 1e-10
    assert found.curvature > 0
    assert found.zero_modes >= 0
    assert found.escape_ratio < 1 + 1e-6
    assert found.fibre_gap < 1e-9
    assert found.spread < 1e-8
    assert float(hessian_trace(problem, found.params).value) == pytest.approx(found.trace, rel=1e-10)
    assert float(problem.loss(found.params)) < 1e-16
    flat, restore = ravel_pytree(found.params)
    gradient = np.asarray(jax.grad(lambda v: hessian_trace(problem, restore(v)).value)(flat))
    J = np.asarray(jax.jacobian(lambda v: problem.residual(restore(v)))(flat))
    tangent = gradient - np.linalg.pinv(J, rcond=1e-9) @ (J @ gradient)
    assert np.linalg.norm(tangent) < 1e-9 * np.linalg.norm(gradient)


@pytest.mark.long
def test_flow_and_solver_end_at_the_same_level(deep):
    problem, found = deep
    start = problem.parameterization.init_params(KEY(5), Gaussian(0.4))
    flow = follow_trace(problem, start, tolerance=1e-3)
    assert flow.outcome is Outcome.converged
    assert found.trace * (1 - 1e-9) < flow.trace[-1] < found.trace * (1 + 1e-3)


def test_bounds_lie_below_and_say_what_they_are(deep):
    found = deep[1]
    assert found.lower_kind == "single measurements"
    assert 0 < found.lower < found.trace
    assert found.rip is not None
    assert not found.rip.value > found.trace  # may be NaN: the estimated constant is above 1 here
    many = matrix_sensing(KEY(24), (4, 4), 1, 2000, depth=3).problem
    estimate = rip_estimate(many.measurements, many.targets, 3, KEY(0))
    level = float(
        theory.population_regulariser(theory.nuclear_norm(matrix_sensing(KEY(24), (4, 4), 1, 2000).truth), 3, (4, 4))
    )
    assert 0.7 * level < estimate.value < level


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_one_measurement_has_a_closed_minimum(depth):
    A = matrix(25, (3, 3))
    floor = float(single_measurement_flattest(A, 2.0, depth))
    rng = np.random.default_rng(0)
    U, s, Vt = np.linalg.svd(np.asarray(A))
    if depth > 2:
        g = s ** (-2 / (depth - 2))
        best = U @ np.diag(2.0 * g / g.sum() / s) @ Vt
    else:
        best = np.outer(U[:, -1], Vt[-1]) * 2 / s[-1]
    assert float(theory.single_measurement_regulariser(A, jnp.asarray(best), depth)) == pytest.approx(floor, rel=1e-9)
    for _ in range(50):
        M = rng.standard_normal((3, 3))
        M *= 2.0 / np.vdot(np.asarray(A), M)
        assert float(theory.single_measurement_regulariser(A, jnp.asarray(M), depth)) > floor


@pytest.mark.long
def test_one_measurement_is_solved_to_its_closed_minimum():
    op = gaussian(KEY(26), 1, (3, 3))
    problem = RecoveryProblem(op, deep_matrix((3, 3), 4), jnp.ones(1))
    found = flattest(problem, key=KEY(1), starts=("random", "random"))
    assert found.lower_kind == "closed form"
    assert abs(found.gap) < 1e-8


# bad input


def test_targets_that_nothing_fits_are_refused_and_their_projection_is_offered():
    op = gaussian(KEY(27), 14, (3, 3))
    targets = jax.random.normal(KEY(28), (14,))
    problem = RecoveryProblem(op, deep_matrix((3, 3), 2), targets)
    with pytest.raises(UsageError, match=r"no 3 x 3 matrix fits these 14 measurements .* pass fit='least-squares'"):
        flattest(problem, key=KEY(0))


@pytest.mark.long
def test_least_squares_takes_the_nearest_attainable_targets():
    op = gaussian(KEY(27), 14, (3, 3))
    targets = jax.random.normal(KEY(28), (14,))
    problem = RecoveryProblem(op, deep_matrix((3, 3), 2), targets)
    found = flattest(problem, key=KEY(0), starts=("random",), fit="least-squares")
    A = np.asarray(op.tensor).reshape(14, 9)
    best = np.linalg.lstsq(A, np.asarray(targets), rcond=None)[0].reshape(3, 3)
    np.testing.assert_allclose(found.matrix, best, atol=1e-7)
    expected = np.linalg.norm(A @ best.ravel() - np.asarray(targets)) / np.linalg.norm(targets)
    assert found.misfit == pytest.approx(expected, rel=1e-6)
    assert found.trace == pytest.approx(float(theory.depth_two_regulariser(op, jnp.asarray(best))), rel=1e-7)


@pytest.mark.long
def test_duplicate_measurements_are_counted_and_do_no_harm():
    tensor = gaussian(KEY(29), 4, (3, 3)).tensor
    single, double = dense(tensor), dense(jnp.concatenate([tensor, tensor[:2]]))
    network, M = deep_matrix((3, 3), 2), matrix(30, (3, 3), 1)
    found = flattest(RecoveryProblem(double, network, double.forward(M)), key=KEY(0), starts=("random",))
    assert found.dependent_measurements == 2
    assert found.outcome is Outcome.converged
    assert found.gap == pytest.approx(0, abs=1e-7)
    assert attainable(single, single.forward(M))[2] == 0


def test_a_given_start_that_does_not_interpolate_is_marked():
    problem = matrix_sensing(KEY(22), (5, 4), 1, 9, depth=2).problem
    start = problem.parameterization.init_params(KEY(0), Gaussian(0.4))
    found = flattest(problem, key=KEY(0), starts=(start,))
    assert [(s.name, s.projected) for s in found.starts] == [("given", True)]


def test_wrong_requests_are_refused():
    problem = matrix_sensing(KEY(22), (5, 4), 1, 9, depth=2).problem
    with pytest.raises(UsageError, match=r"starts: got 'nuclaer', expected one of nuclear, .* did you mean 'nuclear'"):
        flattest(problem, key=KEY(0), starts=("nuclaer",))
    with pytest.raises(UsageError, match="starts: got a tuple of 0, expected a tuple or list of at least 1"):
        flattest(problem, key=KEY(0), starts=())
    with pytest.raises(UsageError, match="problem: got depth 1, expected a deep matrix of depth 2 or more"):
        flattest(RecoveryProblem(problem.measurements, deep_matrix((5, 4), 1), problem.targets), key=KEY(0))
    sparse = RecoveryProblem(regression(jnp.eye(3)), Hadamard((1, 3), 2), jnp.ones(3))
    with pytest.raises(
        UsageError, match=r"got Hadamard, expected a deep matrix .* solve\s+flatmin.solvers.flat_program"
    ):
        flattest(sparse, key=KEY(0))
    narrow = RecoveryProblem(gaussian(KEY(1), 6, (5, 4)), DeepMatrix((4, 2, 5)), jnp.ones(6))
    with pytest.raises(UsageError, match=r"got widths \(4, 2, 5\), expected hidden widths of at least 4"):
        flattest(narrow, key=KEY(0))


def test_measurements_of_small_size_are_independent_and_attained():
    """Sizes from 1 to 1e-5: all count; a multiple of one of them does not."""
    A = np.asarray(matrix(0, (4, 9))).reshape(4, 3, 3) * np.array([1, 1e-2, 1e-4, 1e-5])[:, None, None]
    op = dense(jnp.asarray(np.concatenate([A, 3 * A[3:]])))
    b = op.forward(matrix(1, (3, 3)))
    fitted, distance, dependent = attainable(op, b)
    assert dependent == 1
    assert distance < 1e-9
    np.testing.assert_allclose(fitted[:4] / b[:4], 1, rtol=1e-4)


@pytest.mark.parametrize("spread", [1.0, 0.01])
def test_the_lower_bound_of_single_measurements_is_proven(spread):
    """All entries are measured: one matrix interpolates, and its smallest trace lies above."""
    M = jnp.asarray([[10.0, spread], [spread, -spread]])
    op = identity((2, 2))
    bound = lower_bound(op, op.forward(M), 3)
    assert bound.kind == "single measurements"
    assert 0 < bound.value <= float(induced_regulariser(op, M, 3).value)
    pairs = zip(jnp.eye(4), op.forward(M), strict=True)
    alone = [float(single_measurement_flattest(op.adjoint(unit), b, 3)) for unit, b in pairs]
    assert bound.value >= np.mean(alone) * (1 - 1e-8)


def test_slack_lowers_single_measurement_values():
    op, M = gaussian(jax.random.key(4), 5, (3, 4)), np.asarray(matrix(2, (3, 4)))
    plain = regulariser.single_measurement_values(op, M, 3)
    for slack in (10.0, 1e6):
        lowered = regulariser.single_measurement_values(op, M, 3, slack=slack)
        assert np.all(lowered < plain)
        assert np.all(lowered > plain * (1 - 1e-6 * slack))


def test_an_interval_wider_than_asked_for_is_no_convergence():
    op, M = gaussian(jax.random.key(4), 5, (3, 4)), matrix(2, (3, 4))
    assert induced_regulariser(op, M, 3).outcome is Outcome.converged
    assert induced_regulariser(op, M, 3, tolerance=1e-18).outcome is Outcome.stalled


@pytest.mark.parametrize("seed", [2, 3])
def test_one_measurement_of_a_flat_matrix_reaches_its_closed_form(seed):
    """Gram matrices of a side that no measurement sees are singular; the closed form is met, and that proves it."""
    rng = np.random.default_rng(seed)
    A, b = rng.standard_normal((2, 3)), rng.standard_normal(1)
    problem = RecoveryProblem(dense(jnp.asarray(A[None])), deep_matrix((2, 3), 3), jnp.asarray(b))
    calls = []
    found = flattest(problem, key=KEY(0), starts=("nuclear", "random"), progress=lambda *at: calls.append(at))
    assert found.trace == pytest.approx(float(single_measurement_flattest(jnp.asarray(A), b[0], 3)), rel=1e-6)
    assert found.outcome is Outcome.converged
    assert calls == [(0, 2), (1, 2), (2, 2)]


def test_a_side_that_nothing_sees_stays_as_it_is():
    before = np.array([0.6, 0.8])
    np.testing.assert_array_equal(_best_side(np.ones(2), np.zeros((3, 2, 2)), np.ones(3), before), before)
    flat = np.stack([np.diag([1.0, 0.0])] * 3)
    found = _best_side(np.array([1.0, 0.0]), flat, np.ones(3), before)
    np.testing.assert_allclose(np.abs(found), [1, 0], atol=1e-12)
