"""Changes of the problem under which every flatness moves by a known law; 1000 random cases each."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import flatmin.measurements as fm
from flatmin import flatness
from flatmin.parameterizations import DeepMatrix, Hadamard, Quadratic
from flatmin.problems import RecoveryProblem

CASES, M = 1000, 5
WIDTHS = (4, 3, 3, 2)
EPS = float(np.finfo(np.float64).eps)


def answers(widths, tensor, targets, params):
    """Loss, trace of each block, kernel eigenvalues and full Hessian eigenvalues of one deep problem."""
    problem = RecoveryProblem(fm.DenseMeasurements(tensor), DeepMatrix(widths), targets)
    flat, unravel = ravel_pytree(params)
    hessian = jax.hessian(lambda x: problem.loss(unravel(x)))(flat)
    return {
        "loss": problem.loss(params),
        "blocks": flatness.hessian_trace(problem, params, per_layer=True).value,
        "trace": flatness.hessian_trace(problem, params).value,
        "kernel": flatness.gauss_newton_spectrum(problem, params),
        "curvatures": jnp.linalg.eigvalsh((hessian + hessian.T) / 2),
    }


_answers = jax.jit(jax.vmap(answers, in_axes=(None, 0, 0, 0)), static_argnums=0)


@pytest.fixture(scope="module")
def base():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((CASES, M, WIDTHS[-1], WIDTHS[0]))
    b = rng.standard_normal((CASES, M))
    W = tuple(rng.standard_normal((CASES, o, i)) for i, o in itertools.pairwise(WIDTHS))
    return A, b, W, ask(A, b, W)


def ask(A, b, W, widths=WIDTHS):
    out = _answers(widths, jnp.asarray(A), jnp.asarray(b), tuple(jnp.asarray(w) for w in W))
    return {k: np.asarray(v) for k, v in out.items()}


def same(got, expected, *, tolerance=1e-11):
    """Equal to 1e-11 of the largest entry of each case (n eps times the spread of random conditioning)."""
    for name, value in expected.items():
        size = np.abs(value).reshape(CASES, -1).max(1).reshape((CASES,) + (1,) * (value.ndim - 1))
        assert (size > 0).all()
        worst = np.max(np.abs(got[name] - value) / size)
        assert worst <= tolerance, f"{name}: {worst:.1e}"


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((CASES, n, n)))[0]


def transpose(x):
    return np.swapaxes(x, -1, -2)


def test_rotations_of_rows_columns_and_hidden_units_change_nothing(base):
    A, b, W, before = base
    rng = np.random.default_rng(1)
    U = [orthogonal(rng, n) for n in WIDTHS]
    turned = tuple(U[i + 1] @ w @ transpose(U[i]) for i, w in enumerate(W))
    after = ask(U[-1][:, None] @ A @ transpose(U[0])[:, None], b, turned)
    same(after, before)


def test_rescaling_two_layers_moves_their_blocks_by_the_square(base):
    A, b, W, before = base
    c = np.random.default_rng(2).uniform(0.2, 5, CASES)
    scaled = (W[0] * c[:, None, None], W[1], W[2] / c[:, None, None])
    after = ask(A, b, scaled)
    blocks = before["blocks"] * np.stack([c**-2, np.ones(CASES), c**2], axis=1)
    same(after, {"loss": before["loss"], "blocks": blocks, "trace": blocks.sum(1)})
    assert np.median(np.abs(after["trace"] / before["trace"] - 1)) > 0.1  # the law is not that nothing happens


def test_order_and_repetition_of_measurements_do_not_matter(base):
    A, b, W, before = base
    order = np.array([3, 0, 4, 1, 2])
    same(ask(A[:, order], b[:, order], W), before)
    twice = ask(np.concatenate([A, A], axis=1), np.concatenate([b, b], axis=1), W)
    # two copies of m = 5 exceed d1 d2 = 8: the kernel is read from its small side, of 8 eigenvalues
    same(twice, {k: v for k, v in before.items() if k != "kernel"})
    same({"kernel": twice["kernel"][:, -M:]}, {"kernel": before["kernel"]})


def test_the_transposed_problem_has_its_layers_reversed(base):
    A, b, W, before = base
    after = ask(transpose(A), b, tuple(transpose(w) for w in W[::-1]), WIDTHS[::-1])
    same(after, before | {"blocks": before["blocks"][:, ::-1]})


def test_scaling_measurements_and_targets_scales_every_curvature_by_the_square(base):
    A, b, W, before = base
    c = np.exp(np.random.default_rng(3).uniform(-5, 5, CASES))
    after = ask(A * c[:, None, None, None], b * c[:, None], W)
    same(after, {k: v * (c**2).reshape((CASES,) + (1,) * (v.ndim - 1)) for k, v in before.items()})


def test_scaling_the_truth_scales_by_the_depths_power(base):
    # b -> c b and W -> c^(1/L) W: the loss goes with c^2, every curvature with c^(2 (L - 1) / L)
    A, b, W, before = base
    c = np.exp(np.random.default_rng(4).uniform(-3, 3, CASES))
    after = ask(A, b * c[:, None], tuple(w * c[:, None, None] ** (1 / 3) for w in W))
    power = {"loss": c**2}
    same(
        after,
        {k: v * power.get(k, c ** (4 / 3)).reshape((CASES,) + (1,) * (v.ndim - 1)) for k, v in before.items()},
    )


def test_sharpness_itself_follows_rotation_and_scale(base):
    # the verb (Lanczos on the kernel, Rayleigh quotient with the true Hessian), on a few interpolating cases
    A, _, W, _ = base
    rng = np.random.default_rng(5)
    U = np.linalg.qr(rng.standard_normal((WIDTHS[-1],) * 2))[0]
    for case in range(4):
        tensor, params = jnp.asarray(A[case]), tuple(jnp.asarray(w[case]) for w in W)
        par = DeepMatrix(WIDTHS)
        found = []
        for measurements, point in (
            (tensor, params),
            (jnp.asarray(U)[None] @ tensor, (*params[:-1], jnp.asarray(U) @ params[-1])),
            (3 * tensor, params),
        ):
            op = fm.dense(measurements)
            found.append(flatness.sharpness(RecoveryProblem(op, par, op.forward(par.matrix(point))), point))
        assert {e.method for e in found} == {"tangent kernel"}
        plain, rotated, scaled = (float(e) for e in found)
        np.testing.assert_allclose([rotated, scaled], [plain, 9 * plain], rtol=1e-12)


def _value(problem, params):
    return flatness.hessian_trace(problem, params, per_layer=True).value


def test_hadamard_laws():
    rng = np.random.default_rng(6)
    A, b = rng.standard_normal((CASES, M, 3, 2)), rng.standard_normal((CASES, M))
    V = tuple(rng.standard_normal((CASES, 3, 2)) for _ in range(3))
    run = jax.jit(jax.vmap(lambda A, b, V: _value(RecoveryProblem(fm.DenseMeasurements(A), Hadamard((3, 2), 3), b), V)))
    before = {"blocks": np.asarray(run(A, b, V))}
    same({"blocks": np.asarray(run(A, b, (V[2], V[0], V[1])))}, {"blocks": before["blocks"][:, [2, 0, 1]]})
    signs, rows = rng.choice([-1.0, 1.0], (CASES, 3, 2)), np.array([2, 0, 1])
    same({"blocks": np.asarray(run(A[:, :, rows], b, tuple((v * signs)[:, rows] for v in V)))}, before)
    c = np.exp(rng.uniform(-2, 2, (CASES, 1, 1)))
    moved = np.asarray(run(A, b, (V[0] * c, V[1] / c, V[2])))
    same({"blocks": moved}, {"blocks": before["blocks"] * np.concatenate([c**-2, c**2, c**0], axis=1)[:, :, 0]})


def test_quadratic_laws():
    rng = np.random.default_rng(7)
    x, b = rng.standard_normal((CASES, M, 3)), rng.standard_normal((CASES, M))
    U = (rng.standard_normal((CASES, 3, 2)), rng.standard_normal((CASES, 3, 1)))

    def one(x, b, U):
        op = fm.LowRankMeasurements(x[:, None], x[:, None])
        return _value(RecoveryProblem(op, Quadratic(3, U[0].shape[1], U[1].shape[1]), b), U)

    run = jax.jit(jax.vmap(one))
    before = {"blocks": np.asarray(run(x, b, U))}
    R = orthogonal(rng, 3)
    units = orthogonal(rng, 2)
    turned = (R @ U[0] @ units, R @ U[1])
    same({"blocks": np.asarray(run(x @ transpose(R), b, turned))}, before, tolerance=1e-10)
    # exchanging the signs of the units and of the targets exchanges the blocks
    same({"blocks": np.asarray(run(x, -b, U[::-1]))}, {"blocks": before["blocks"][:, ::-1]}, tolerance=1e-10)
    # x -> c x scales predictions by c^2: with b -> c^2 b every curvature goes with c^4
    c = np.exp(rng.uniform(-2, 2, (CASES, 1)))
    after = np.asarray(run(x * c[:, :, None], b * c**2, U))
    same({"blocks": after}, {"blocks": before["blocks"] * c**4}, tolerance=1e-10)
