"""The zero-loss set, and the trace flow on it beside a dense integrator and label-noise SGD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

from flatmin import follow_trace
from flatmin._core import JobError, Outcome, UsageError
from flatmin.dynamics import LabelNoiseSGD, Record, trace_flow, train_ensemble
from flatmin.dynamics._chebyshev import MOST_STAGES, coefficients, stable_radius, stages_for
from flatmin.dynamics.zero_loss import formed_kernel, kernel_inverse, project, retract
from flatmin.flatness import hessian_trace, tangent_kernel
from flatmin.interpolators import label_noise_time
from flatmin.interpolators.flow import TraceOf
from flatmin.measurements import dense, gaussian
from flatmin.parameterizations import Gaussian, deep_matrix
from flatmin.problems import RecoveryProblem

LIMIT = 1e-16


def problem_of(depth: int = 2, *, twice: bool = False) -> tuple[RecoveryProblem, tuple]:
    """Six measurements of a 4 x 3 matrix (each of them twice, if asked for), and a start."""
    op = gaussian(jax.random.key(0), 6, (4, 3))
    if twice:
        op = dense(jnp.concatenate([op.tensor, op.tensor]))
    network = deep_matrix((4, 3), depth)
    truth = jax.random.normal(jax.random.key(1), (4, 1)) @ jax.random.normal(jax.random.key(2), (1, 3)) / 3
    start = network.init_params(jax.random.key(3), Gaussian(0.5))
    return RecoveryProblem(op, network, op.forward(truth)), start


def dense_parts(problem, params):
    """Gradient of the trace and the Jacobian of the residuals, both by automatic differentiation."""
    flat, restore = ravel_pytree(params)
    gradient = jax.grad(lambda v: TraceOf(problem)(restore(v)))(flat)
    return np.asarray(gradient), np.asarray(jax.jacobian(lambda v: problem.residual(restore(v)))(flat))


@pytest.mark.parametrize("stages", [2, 5, 17])
def test_chebyshev_stages_are_of_order_two_and_stable_as_far_as_promised(stages):
    def amplification(z):
        table = coefficients(stages)
        before, last = 1.0, 1 + table[0, 2] * z
        for mu, nu, mu_tilde, gamma, _ in table[1:]:
            before, last = last, (1 - mu - nu) + mu * last + nu * before + mu_tilde * z * last + gamma * z
        return last

    errors = [abs(amplification(z) - np.exp(z)) for z in (-0.02, -0.01)]
    assert 6 < errors[0] / errors[1] < 10  # of order h^3 a step
    assert all(abs(amplification(-z)) <= 1 + 1e-9 for z in np.linspace(0, stable_radius(stages), 200))
    assert abs(amplification(-1.4 * stable_radius(stages))) > 1
    assert stages_for(stable_radius(stages) * 0.99) == min(stages, MOST_STAGES)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("use_inverse", [False, True])
def test_projection_is_that_of_the_dense_jacobian(twice, use_inverse):
    problem, params = problem_of(twice=twice)
    gradient, J = dense_parts(problem, params)
    inverse = kernel_inverse(formed_kernel(problem.residual, params)) if use_inverse else None
    _, restore = ravel_pytree(params)
    split = project(problem.residual, params, restore(jnp.asarray(gradient)), inverse=inverse, tolerance=1e-9)
    expected = gradient - np.linalg.pinv(J) @ (J @ gradient)
    np.testing.assert_allclose(ravel_pytree(split.tangent)[0], expected, atol=1e-7 * np.linalg.norm(gradient))
    assert np.linalg.norm(expected) > 0.1 * np.linalg.norm(gradient)
    assert float(split.error) < 1e-9
    assert int(split.iterations) <= (3 if use_inverse else 12)


def test_formed_kernel_is_the_tangent_kernel():
    problem, params = problem_of()
    np.testing.assert_allclose(formed_kernel(problem.residual, params), tangent_kernel(problem, params), rtol=1e-12)


@pytest.mark.parametrize("twice", [False, True])
def test_retraction_reaches_zero_loss_without_moving_along_the_set(twice):
    problem, params = problem_of(twice=twice)
    back = retract(problem.residual, params)
    assert float(back.loss) < LIMIT < float(problem.loss(params))
    # from a point beside the set it comes back to within the square of the distance
    _, J = dense_parts(problem, back.params)
    flat, restore = ravel_pytree(back.params)
    normal = J.T @ np.ones(len(J))
    beside = flat + 1e-4 * normal / np.linalg.norm(normal)
    again = ravel_pytree(retract(problem.residual, restore(beside)).params)[0]
    assert float(jnp.linalg.norm(again - flat)) < 1e-6


@pytest.fixture(scope="module")
def dense_flow():
    """The flow at depth 3 at two times, by an explicit projector and SciPy's integrator."""
    problem, params = problem_of(3)
    flat, restore = ravel_pytree(retract(problem.residual, params).params)
    slope = jax.jit(jax.grad(lambda u: TraceOf(problem)(restore(u))))
    jacobian = jax.jit(jax.jacobian(lambda v: problem.residual(restore(v))))

    def field(_, v):
        g, J = np.asarray(slope(v)), np.asarray(jacobian(v))
        return -(g - np.linalg.pinv(J) @ (J @ g))

    exact = solve_ivp(field, (0, 0.05), np.asarray(flat), t_eval=[0.01, 0.05], rtol=1e-8, atol=1e-9)
    return np.asarray(flat), exact.y.T


@pytest.mark.parametrize(
    "options", [{"precision": "float32"}, pytest.param({"kernel_solve": "cg"}, marks=pytest.mark.long)]
)
def test_flow_agrees_with_a_dense_integrator_and_keeps_the_loss_at_zero(options, dense_flow):
    problem, params = problem_of(3)
    start = retract(problem.residual, params).params
    times = [0.01, 0.05]
    result = follow_trace(
        problem,
        start,
        max_time=0.05,
        save_at=[0.01],
        tolerance=1e-9,
        rtol=1e-5,
        records={"flat": lambda p: ravel_pytree(p)[0]},
        **options,
    )
    flat, exact = dense_flow
    assert result.outcome is Outcome.completed
    assert result.records["flat"].times.tolist() == [0.0, *times]
    moved = np.linalg.norm(exact[-1] - flat)
    for measured, expected in zip(result.records["flat"].values[1:], exact, strict=True):
        assert np.linalg.norm(measured - expected) < 2e-3 * moved
    assert np.all(result.losses < LIMIT)
    assert np.all(np.diff(result.trace) < 0)
    assert result.trace[-1] < 0.6 * result.trace[0]
    assert result.trace[-1] == pytest.approx(float(hessian_trace(problem, result.params).value), rel=1e-12)
    assert result.kernel_solve == ("cg" if options.get("kernel_solve") == "cg" else "preconditioned")
    assert not result.projected_start


def test_label_noise_sgd_follows_the_flow_at_its_time():
    """The mean trace lies on the flow's at `steps eta^2 sigma^2 / (2B)`, and not at twice or half of that."""
    problem, params = problem_of(2)
    start = retract(problem.residual, params).params
    eta, sigma, batch, runs = 2e-3, 1.0, 3, 24
    steps = [6_000, 20_000]
    dynamics = LabelNoiseSGD(jnp.full(runs, eta), batch, sigma)
    stacked = jax.tree.map(lambda w: jnp.broadcast_to(w, (runs, *w.shape)), start)
    record = Record(TraceOf(problem), at=tuple(steps))
    noisy = train_ensemble(
        problem,
        dynamics,
        stacked,
        steps=steps[-1],
        keys=jax.random.split(jax.random.key(7), runs),
        records={"trace": record},
    )
    curves = np.asarray(noisy.records["trace"].values)[:, 1:]
    mean, error = curves.mean(0), curves.std(0, ddof=1) / runs**0.5
    at = [label_noise_time(n, eta, sigma, batch) for n in steps]

    def flow_at(factor):
        saved = [factor * t for t in at]
        out = follow_trace(
            problem, start, max_time=saved[-1], save_at=saved, tolerance=1e-9, records={"trace": TraceOf(problem)}
        )
        return out.records["trace"].values[1:]

    flow = flow_at(1.0)
    bias = 0.03 * (flow[0] - flow[1])  # of first order in eta
    assert np.all(np.abs(mean - flow) < 4 * error + bias), (mean, flow, error)
    for wrong in (0.5, 2.0):
        assert np.any(np.abs(mean - flow_at(wrong)) > 8 * error + bias)


@pytest.mark.long
def test_flow_of_duplicate_measurements_is_that_of_single_ones():
    """Twice the measurements, each two times, make the same mean of squares; the kernel is singular."""
    ends = []
    for twice in (False, True):
        problem, params = problem_of(twice=twice)
        ends.append(follow_trace(problem, retract(problem.residual, params).params, max_time=0.05, tolerance=1e-9))
    assert ends[0].trace[-1] == pytest.approx(ends[1].trace[-1], rel=1e-3)
    assert np.all(ends[1].losses < LIMIT)


def test_a_start_that_does_not_interpolate_is_brought_to_the_set_and_the_result_says_so():
    problem, params = problem_of()
    result = follow_trace(problem, params, max_time=1e-3)
    assert result.projected_start
    assert result.start_loss == pytest.approx(float(problem.loss(params)))
    assert result.losses[0] < LIMIT


def test_flow_stops_where_it_is_stationary_and_when_it_is_told():
    problem, params = problem_of()
    done = follow_trace(problem, params, tolerance=1e-2)
    assert done.outcome is Outcome.converged
    assert done.stationarity <= 1e-2
    goal = 0.5 * (done.trace[0] + done.trace[-1])
    early = follow_trace(problem, params, until=lambda trace: trace < goal)
    assert early.outcome is Outcome.completed
    assert early.trace[-1] < goal < early.trace[-2]
    short = follow_trace(problem, params, tolerance=1e-9, max_steps=3)
    assert short.outcome is Outcome.max_iterations
    with pytest.raises(JobError, match="trace_flow: the iteration limit was reached"):
        short.raise_if_failed()


def test_flow_of_a_circle_goes_to_its_lowest_point():
    """Any functions will do: lower `y` on the unit circle."""
    result = trace_flow(
        lambda p: p[1], lambda p: jnp.sum(p**2, keepdims=True) - 1, jnp.asarray([1.0, 0.5]), tolerance=1e-6
    )
    np.testing.assert_allclose(result.params, [0, -1], atol=1e-5)


def test_a_flow_that_no_longer_falls_has_stalled():
    """Single precision keeps no more than seven digits of the slope."""
    result = trace_flow(
        lambda p: p[1],
        lambda p: jnp.sum(p**2, keepdims=True) - 1,
        jnp.asarray([1.0, 0.5]),
        tolerance=1e-14,
        precision="float32",
    )
    assert result.outcome is Outcome.stalled
    assert result.accepted < 1000
    assert 1e-14 < result.stationarity < 1e-5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rtol": 0.0}, "rtol: got 0.0, expected a finite number > 0"),
        ({"max_time": -1.0}, "max_time: got -1.0, expected a number > 0"),
        ({"save_at": [2.0, 1.0]}, "save_at: got .*, expected increasing positive times"),
        ({"kernel_solve": "gc"}, "kernel_solve: 'gc' is not known; did you mean 'cg'"),
        ({"max_steps": 0}, "max_steps: got 0, expected an integer >= 1"),
    ],
)
def test_bad_settings_are_refused(options, sentence, unchecked):
    problem, params = problem_of()
    with pytest.raises(UsageError, match=sentence):
        follow_trace(problem, params, **options)


def test_bad_starts_are_refused(unchecked):
    problem, params = problem_of()
    with pytest.raises(UsageError, match="params: got float32, expected float64"):
        follow_trace(problem, tuple(w.astype(jnp.float32) for w in params))
    with pytest.raises(UsageError, match="problem: got a value of type function, expected a RecoveryProblem"):
        follow_trace(lambda p: p, params)
    contradictory = dense(jnp.ones((2, 4, 3)))
    wrong = RecoveryProblem(contradictory, problem.parameterization, jnp.asarray([1.0, 2.0]))
    with pytest.raises(UsageError, match=r"no point of zero loss was found near them .* make the targets attainable"):
        follow_trace(wrong, params)
