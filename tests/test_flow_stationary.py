"""A flow says `converged` only where a minimum is near: far starts, stiff problems, losses without a minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import JobError, Outcome
from flatmin.dynamics import _stationarity, gradient_flow

TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]


def flow(loss, start, **options):
    return gradient_flow(loss, jnp.asarray(start), **{"max_steps": 4000} | options)


def stiff(condition, dtype=float):
    first, second = (jnp.asarray(row, dtype) for row in TURN)
    return lambda x: 0.5 * (jnp.asarray(condition, dtype) * jnp.vdot(first, x) ** 2 + jnp.vdot(second, x) ** 2)


@pytest.mark.parametrize(
    ("loss", "start", "least"),
    [
        (lambda x: jnp.sum(jnp.exp(x) - x), [40.0, 0.5], 2.0),
        (lambda x: jnp.sum(jnp.cosh(x)), [60.0, 1.0], 2.0),
    ],
    ids=["exp", "cosh"],
)
def test_far_starts_arrive(loss, start, least):
    result = flow(loss, start)
    assert result.outcome is Outcome.converged
    assert result.loss - least < 1e-3


@pytest.mark.parametrize("condition", [1e6, 1e8, 1e12])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_stiff_problems_do_not_pretend(condition, dtype):
    result = flow(stiff(condition, dtype), jnp.ones(2, dtype))
    # the slow direction has hardly moved: whatever it is called, it is no success
    assert result.loss > 0.2
    assert not result.outcome.success


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_moderately_stiff_problems_arrive(dtype):
    result = flow(stiff(300.0, dtype), jnp.ones(2, dtype), max_steps=20_000)
    assert result.outcome is Outcome.converged
    assert result.loss < 1e-5


def test_stiff_problems_without_float64():
    """Where float64 is off, the same words are true: in a process of its own precision."""
    with jax.enable_x64(False) if hasattr(jax, "enable_x64") else jax.experimental.disable_x64():
        for condition in (1e6, 1e8):
            result = flow(stiff(condition, "float32"), jnp.ones(2, "float32"))
            assert not result.outcome.success or result.loss < 1e-3


@pytest.mark.parametrize(
    "loss",
    [lambda x: jnp.sum(jnp.exp(-x)), lambda x: jnp.sum(jnp.logaddexp(0.0, -x)), lambda x: -jnp.sum(jnp.log1p(x**2))],
)
def test_a_loss_without_a_minimum_never_converges(loss):
    assert not flow(loss, [0.5, 0.1], max_steps=2000).outcome.success


def test_flat_minima_are_reached_slowly():
    result = flow(lambda x: jnp.sum(x**4), [1.0, 1.0])
    assert result.outcome is Outcome.converged
    assert float(jnp.max(jnp.abs(result.params))) < 1e-3


@pytest.mark.parametrize("offset", [0.0, 1e-9, 1e-14])
def test_starts_at_the_minimum(offset):
    result = flow(lambda x: jnp.sum((x - 3) ** 2), [3 + offset, 3 - offset], max_steps=300)
    assert result.outcome is Outcome.converged


def test_a_loss_whose_curvature_cannot_be_had():
    result = flow(lambda x: jnp.sum(jnp.abs(x) ** 1.5), np.zeros(3))
    assert result.outcome is Outcome.stationary
    assert result.lowest_curvature is None
    np.testing.assert_array_equal(result.params, 0)
    with pytest.raises(JobError, match=r"gradient_flow: the gradient vanished, but the curvature there"):
        result.raise_if_failed()


def test_the_newton_step_is_that_of_numpy():
    rng = np.random.default_rng(3)
    G = rng.normal(size=(6, 6))
    H, x = G @ G.T + np.eye(6), rng.normal(size=6)
    expected = np.linalg.norm(x)
    loss = lambda v: 0.5 * jnp.vdot(v, jnp.asarray(H) @ v)  # noqa: E731
    for limit in (_stationarity.DENSE_LIMIT, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_stationarity, "DENSE_LIMIT", limit)
            ends = _stationarity.ends_of(loss, jnp.asarray(x))
        assert ends.step == pytest.approx(expected, rel=1e-6)
        assert float(ends.highest) == pytest.approx(np.linalg.eigvalsh(H)[-1], rel=1e-9)
        assert not ends.drowned
