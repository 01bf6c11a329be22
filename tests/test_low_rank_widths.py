"""Hidden widths below the sides of the matrix: low-rank models, measured like any other."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import flatmin as fm
from flatmin._core import UsageError
from flatmin.interpolators import induced_regulariser, single_measurement_values
from flatmin.measurements import dense
from flatmin.parameterizations import Balanced, DeepMatrix, Flattest, Gaussian, Residual
from flatmin.problems import RecoveryProblem
from flatmin.solvers import flat_program
from flatmin.theory.gatmiry2023 import schatten, single_measurement_regulariser
from registry import numbers

pytestmark = pytest.mark.usefixtures("unchecked")

KEY = jax.random.key(0)


@pytest.mark.parametrize("widths", [(4, 2, 4), (4, 3, 1, 3)])
def test_trace_and_sharpness_are_those_of_the_dense_hessian(widths):
    network = DeepMatrix(widths)
    problem = RecoveryProblem(dense(numbers(1, 9, widths[-1], widths[0])), network, numbers(2, 9))
    for scheme in (Gaussian(0.5), Residual(0.5)):
        params = network.init_params(KEY, scheme)
        flat, back = ravel_pytree(params)
        H = np.asarray(jax.hessian(lambda x, back=back: problem.loss(back(x)))(flat))
        np.testing.assert_allclose(float(fm.hessian_trace(problem, params).value), np.trace(H), rtol=1e-10)
        np.testing.assert_allclose(float(fm.sharpness(problem, params).value), np.linalg.eigvalsh(H)[-1], rtol=1e-9)


@pytest.mark.parametrize("scheme", [Balanced, Flattest])
def test_starts_of_a_matrix_want_its_rank(scheme, unchecked):
    M = jnp.asarray(numbers(3, 4, 2) @ numbers(4, 2, 5))
    wide, narrow = DeepMatrix((5, 6, 6, 4)), DeepMatrix((5, 2, 3, 4))
    assert narrow.max_rank == 2
    W = narrow.init_params(KEY, scheme(M))
    np.testing.assert_allclose(narrow.matrix(W), M, atol=1e-12)
    for a, b in zip(W, wide.init_params(KEY, scheme(M)), strict=True):  # the same balance at every width
        np.testing.assert_allclose(jnp.linalg.norm(a), jnp.linalg.norm(b), rtol=1e-9)
    with pytest.raises(UsageError, match="matrix: has rank 2, expected at most 1"):
        DeepMatrix((5, 1, 3, 4)).init_params(KEY, scheme(M))
    with pytest.raises(Exception, match="rank above 1"):
        jax.block_until_ready(jax.jit(lambda M: DeepMatrix((5, 1, 3, 4)).init_params(KEY, scheme(M)))(M))


def test_deep_balanced_starts_of_low_rank_matrices_have_that_rank():
    M = jnp.asarray(np.outer(numbers(5, 4), numbers(6, 4)))
    for W in DeepMatrix((4,) * 21).init_params(KEY, Balanced(M)):
        s = np.linalg.svd(np.asarray(W), compute_uv=False)
        assert s[1] < 1e-12 * s[0]  # rounding to the power 1/20 would be a seventh


def test_theorems_that_need_every_matrix_say_so():
    problem = RecoveryProblem(dense(numbers(1, 5, 4, 4)), DeepMatrix((4, 2, 4)), numbers(2, 5))
    with pytest.raises(UsageError, match=r"widths \(4, 2, 4\), expected hidden widths of at least 4"):
        fm.flattest(problem, key=KEY)
    with pytest.raises(UsageError, match=r"widths \(4, 2, 4\), expected a hidden width of at least 4"):
        flat_program(problem.parameterization, problem.measurements, problem.targets)
    M = numbers(3, 4, 3) @ numbers(4, 3, 4)
    with pytest.raises(UsageError, match="at least the rank 3"):
        induced_regulariser(problem.measurements, M, 2).at_widths(problem.parameterization, KEY)


def exact_regulariser(A, M, depth, rank):
    """`2 L sum_j s_j^{2/L}` at 50 digits, over the given rank."""
    with mpmath.workdps(50):
        left, right = mpmath.matrix(A.T.tolist()), mpmath.matrix(A.T.tolist()) * mpmath.matrix(M.tolist())
        for _ in range(depth - 1):
            left = right * left
        s = sorted(mpmath.svd_r(left, compute_uv=False), reverse=True)
        return float(2 * depth * mpmath.fsum(x ** (mpmath.mpf(2) / depth) for x in s[:rank]))


@pytest.mark.parametrize("depth", [1, 3, 20])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_powers_of_products_never_see_computed_zeros(rank, depth):
    rng = np.random.default_rng(10 * depth + rank)
    # well-conditioned on the range: the powers of A^T M stay within reach of double precision
    A = np.linalg.qr(rng.normal(size=(4, 4)))[0] @ np.diag([1.1, 1.0, 0.9, 0.8])
    M = A @ (np.eye(4)[:, :rank] @ np.eye(4)[:rank] + 0.05 * rng.normal(size=(4, rank)) @ rng.normal(size=(rank, 4)))
    M = M @ np.diag(np.arange(4) < rank)
    right = exact_regulariser(A, M, depth, rank if depth > 1 else 4)
    assert float(single_measurement_regulariser(jnp.asarray(A), jnp.asarray(M), depth)) == pytest.approx(
        right, rel=1e-9
    )
    assert single_measurement_values(dense(A[None]), M, depth)[0] == pytest.approx(right, rel=1e-9)
    if depth > 2:
        assert single_measurement_values(dense(A[None]), M, depth, slack=10.0)[0] <= right * (1 + 1e-12)


def test_nilpotent_products_have_a_smaller_rank_than_the_matrix():
    A, M = np.eye(3), np.diag([1.0, 2.0], 1) + 0.0  # M^2 has rank one, M^3 = 0
    Q = np.linalg.qr(numbers(9, 3, 3))[0]
    M = Q @ M @ Q.T
    assert float(single_measurement_regulariser(jnp.asarray(A), jnp.asarray(M), 3)) == pytest.approx(
        6 * 2 ** (2 / 3), rel=1e-9
    )
    assert float(single_measurement_regulariser(jnp.asarray(A), jnp.asarray(M), 4)) == 0
    assert single_measurement_values(dense(A[None]), M, 4)[0] == 0


@pytest.mark.parametrize("p", [0.1, 0.3, 1, 2])
def test_schatten_norms_of_low_rank_matrices(p):
    for rank in (1, 2, 3):
        U, V = np.linalg.qr(numbers(rank, 6, rank))[0], np.linalg.qr(numbers(rank + 9, 5, rank))[0]
        s = np.linspace(3, 1, rank)
        right = float(mpmath.fsum(mpmath.mpf(x) ** p for x in s) ** (1 / mpmath.mpf(p)))
        assert float(schatten(jnp.asarray(U * s @ V.T), p)) == pytest.approx(right, rel=1e-11)
    assert float(schatten(jnp.zeros((3, 2)), p)) == pytest.approx(0, abs=1e-300)
