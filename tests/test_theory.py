"""The theorems of Gatmiry et al. against brute force: minimisation over all factors of a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError
from flatmin.flatness import hessian_trace
from flatmin.measurements import dense, gaussian, identity, scaled
from flatmin.parameterizations import Balanced, deep_matrix
from flatmin.problems import RecoveryProblem
from flatmin.solvers import MinScaledNuclearNorm, solve
from flatmin.theory import STATEMENTS
from flatmin.theory import gatmiry2023 as theory


def trace_over_fibre(problem, params, gauges):
    """The trace at `W_l -> G_l W_l G_{l-1}^{-1}`, `G = exp(gauge)`: every invertible change of hidden coordinates."""
    transforms = [jax.scipy.linalg.expm(g) for g in gauges]
    inverses = [jax.scipy.linalg.expm(-g) for g in gauges]
    moved = []
    for layer, W in enumerate(params):
        out = W if layer == len(params) - 1 else transforms[layer] @ W
        moved.append(out if layer == 0 else out @ inverses[layer - 1])
    return hessian_trace(problem, tuple(moved)).value


def minimise_over_fibre(problem, matrix, steps=400):
    """Gradient descent with backtracking over the gauges, from the balanced factors."""
    params = problem.parameterization.init_params(jax.random.key(5), Balanced(matrix))
    gauges = [jnp.zeros((w, w)) for w in problem.parameterization.widths[1:-1]]
    value_and_grad = jax.jit(jax.value_and_grad(lambda g: trace_over_fibre(problem, params, g)))
    step, (value, grad) = 1e-2, value_and_grad(gauges)
    for _ in range(steps):
        moved = [g - step * d for g, d in zip(gauges, grad, strict=True)]
        new_value, new_grad = value_and_grad(moved)
        if new_value < value:
            gauges, value, grad, step = moved, new_value, new_grad, step * 1.3
        else:
            step /= 2
    return float(value)


def random_matrices(count, *shape, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, *shape))


@pytest.mark.parametrize("depth", [2, 3])
def test_population_regulariser_is_the_minimum_over_the_fibre(depth):
    shape = (3, 4)
    measurements = scaled(identity(shape), 12**0.5)  # (1/n) sum <A_i, X>^2 = ||X||_F^2
    (M,) = random_matrices(1, *shape)
    problem = RecoveryProblem(measurements, deep_matrix(shape, depth), measurements.forward(M))
    predicted = float(theory.population_regulariser(theory.nuclear_norm(M), depth, shape))
    found = minimise_over_fibre(problem, M)
    assert found >= predicted * (1 - 1e-12)
    assert found == pytest.approx(predicted, rel=1e-3)


def test_depth_two_regulariser_is_the_minimum_over_the_fibre():
    shape = (3, 4)
    measurements = gaussian(jax.random.key(1), 5, shape)
    (M,) = random_matrices(1, *shape, seed=2)
    problem = RecoveryProblem(measurements, deep_matrix(shape, 2), measurements.forward(M))
    predicted = float(theory.depth_two_regulariser(measurements, M))
    found = minimise_over_fibre(problem, M)
    assert found >= predicted * (1 - 1e-12)
    assert found == pytest.approx(predicted, rel=1e-3)


def test_depth_two_regulariser_is_four_times_the_scaled_nuclear_programme():
    """Theory and solvers are each other's oracles: the flattest interpolator of two factors."""
    measurements = gaussian(jax.random.key(3), 14, (4, 5))
    truth = jnp.outer(
        *[jax.random.normal(k, (n,)) for k, n in zip(jax.random.split(jax.random.key(4)), (4, 5), strict=True)]
    )
    program = MinScaledNuclearNorm(measurements, measurements.forward(truth))
    solution = solve(program)
    assert float(theory.depth_two_regulariser(measurements, solution.matrix)) == pytest.approx(
        4 * solution.primal_value, rel=1e-9
    )


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_single_measurement_minimiser_attains_the_minimum(depth):
    A, M = random_matrices(2, 4, 4, seed=6)
    measurements = dense(A[None])
    problem = RecoveryProblem(measurements, deep_matrix((4, 4), depth), measurements.forward(M))
    layers = theory.single_measurement_minimiser(A, M, depth)
    predicted = float(theory.single_measurement_regulariser(A, M, depth))
    np.testing.assert_allclose(problem.matrix(layers), M, atol=1e-11)
    assert float(hessian_trace(problem, layers).value) == pytest.approx(predicted, rel=1e-11)
    for seed in range(5):  # no gauge goes lower
        gauges = 0.1 * random_matrices(depth - 1, 4, 4, seed=seed)
        assert float(trace_over_fibre(problem, layers, list(gauges))) > predicted


def test_single_measurement_with_identity_tends_to_the_squared_frobenius_norm():
    """A = I, M psd: 2 L sum lambda^{2(L-1)/L}, so F / 2L goes to ||M||_F^2 with depth and not to a nuclear norm."""
    values = jnp.array([1.0, 1.1, 1.3, 1.4])
    frame = jax.random.orthogonal(jax.random.key(7), 4)
    M = (frame * values[None, :]) @ frame.T
    for depth in (1, 2, 4, 50):
        F = theory.single_measurement_regulariser(jnp.eye(4), M, depth)
        assert float(F) == pytest.approx(float(2 * depth * jnp.sum(values ** (2 - 2 / depth))), rel=1e-9)


def test_bounds_bracket_and_scale():
    args = (3.0, 4, (5, 7))
    value = float(theory.population_regulariser(*args))
    assert value == pytest.approx(8 * 35**0.25 * 3**1.5)
    assert float(theory.rip_regulariser_lower(*args, 0.25)) == pytest.approx(0.75 * value)
    assert float(theory.rip_regulariser_upper(*args, 0.25)) == pytest.approx(1.25 * value)
    assert float(theory.rip_nuclear_ratio(2, 0.5)) == pytest.approx(3.0)
    assert float(theory.rip_recovery_error(2.0, 1.0, 0.1)) == pytest.approx(0.9)
    assert float(theory.min_frobenius_error(9, (4, 6))) == pytest.approx(1 - 9 / 24)
    assert float(theory.min_frobenius_error(30, (4, 6))) == 0
    assert float(theory.schatten(jnp.diag(jnp.array([3.0, 4.0])), 2)) == pytest.approx(5)


def test_statements_are_indexed():
    assert {"population_regulariser", "depth_two_regulariser", "single_measurement_minimiser"} <= set(STATEMENTS)
    for entry in STATEMENTS.values():
        assert entry.reference.startswith(("[", "ours"))
        assert entry.assumptions


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: theory.population_regulariser(1.0, 0, (2, 2)), "depth: got 0"),
        (lambda: theory.rip_nuclear_ratio(1, 0.1), "depth: got 1"),
        (
            lambda: theory.single_measurement_minimiser(jnp.eye(2), jnp.eye(3), 2),
            "matrix: got shape .3, 3., expected .2, 2.",
        ),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()
