"""Sharpness-aware, normalised and penalised descent: their rules written out, and the laws of all dynamics."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamics_cases import TRACES, draws_of, numpy_loss_and_gradient, product, same_bits
from flatmin import UsageError, hessian_trace
from flatmin._core import FunctionObjective
from flatmin.dynamics import (
    Checkpoint,
    GradientDescent,
    LabelNoiseSGD,
    NormalisedGradientDescent,
    PenalisedGradientDescent,
    Piecewise,
    SharpnessAwareDescent,
    StochasticGradientDescent,
    StochasticSharpnessAware,
    train,
    train_ensemble,
)
from flatmin.parameterizations import Gaussian
from flatmin.problems import matrix_sensing


class Ridge(eqx.Module):
    """A penalty with an array of its own."""

    weight: jax.Array

    def __call__(self, params):
        return jnp.sum(self.weight * (params["u"] ** 2 + 3 * params["v"] ** 2))


RIDGE = Ridge(jnp.array([1.0, 0.5, 2.0, 0.1]))
RATE, SECOND = 0.01, 0.02
# one factory a rule, called with the step size; the other hyperparameters follow from it, so that all are leaves
RULES = {
    "gd": lambda r: GradientDescent(r, momentum=0.4, weight_decay=r),
    "sgd": lambda r: StochasticGradientDescent(r, 3, momentum=0.4),
    "label noise": lambda r: LabelNoiseSGD(r, 3, 50 * r),
    "sam": lambda r: SharpnessAwareDescent(r, 5 * r, momentum=0.4, weight_decay=r),
    "stochastic sam": lambda r: StochasticSharpnessAware(r, 3, 5 * r),
    "normalised": lambda r: NormalisedGradientDescent(r, momentum=0.4, weight_decay=r),
    "penalised": lambda r: PenalisedGradientDescent(r, RIDGE, 3 * r, momentum=0.4),
}
LAWS = [pytest.param(k, marks=() if k not in ("gd", "sgd", "label noise") else pytest.mark.long) for k in RULES]
FAST = [pytest.param(k, marks=() if k in ("sam", "penalised") else pytest.mark.long) for k in RULES]
NEW = ("sam", "stochastic sam", "normalised", "penalised")
STOCHASTIC = ("sgd", "label noise", "stochastic sam")


def direction(kind, objective, u, v, indices, rate):
    """g_k of a rule, typed plainly."""
    shift = 0.0

    def gradient(u, v):
        _, gu, gv = numpy_loss_and_gradient(objective, u, v, indices, shift)
        return gu, gv

    gu, gv = gradient(u, v)
    norm = np.sqrt(np.sum(gu**2) + np.sum(gv**2))
    if kind in ("sam", "stochastic sam"):
        return gradient(u + 5 * rate * gu / norm, v + 5 * rate * gv / norm)
    if kind == "normalised":
        return gu / norm, gv / norm
    weight = 3 * rate * np.asarray(RIDGE.weight)
    return gu + weight * 2 * u, gv + weight * 6 * v


@pytest.mark.parametrize("kind", NEW)
def test_rule_is_the_one_written_out(kind, key):
    objective, params = product()
    rule = RULES[kind](RATE)
    mu, decay = float(rule.momentum or 0), float(rule.weight_decay or 0)
    draws = draws_of(key, 3, objective.num_samples) if kind in STOCHASTIC else lambda _: (None, None)
    u, v = np.array(params["u"]), np.array(params["v"])
    mu_u, mu_v = np.zeros_like(u), np.zeros_like(v)
    for k in range(40):
        gu, gv = direction(kind, objective, u, v, draws(k)[0], RATE)
        mu_u, mu_v = mu * mu_u + gu + decay * u, mu * mu_v + gv + decay * v
        u, v = u - RATE * mu_u, v - RATE * mu_v
    result = train(objective, rule, params, steps=40, key=key)
    np.testing.assert_allclose(result.params["u"], u, rtol=1e-11)
    np.testing.assert_allclose(result.params["v"], v, rtol=1e-11)
    assert np.abs(u - np.asarray(params["u"])).max() > 0.02


@pytest.mark.parametrize("kind", LAWS)
def test_chunks_resumption_and_keys(kind, key, tmp_path):
    objective, params = product()
    rule = RULES[kind](RATE)
    whole = train(objective, rule, params, steps=50, key=key)
    assert same_bits(whole.state, train(objective, rule, params, steps=50, key=key, chunk=7).state)
    assert np.isfinite(np.asarray(whole.params["u"])).all()
    path = tmp_path / "run"

    def stop(done, total):
        if done >= 21:
            raise KeyboardInterrupt

    first = train(objective, rule, params, steps=50, key=key, chunk=7, checkpoint=Checkpoint(path), progress=stop)
    assert first.step == 21
    assert same_bits(whole.state, train(objective, rule, params, steps=50, key=key, checkpoint=Checkpoint(path)).state)
    other = train(objective, rule, params, steps=50, key=jax.random.key(9))
    assert same_bits(whole.params, other.params) == (kind not in STOCHASTIC)


@pytest.mark.parametrize("kind", FAST)
def test_compiled_is_eager(kind, key):
    objective, params = product()
    rule = RULES[kind](RATE)
    state = rule.init(params)
    for k in range(3):
        state, info = rule.step(jax.random.fold_in(key, k), objective, state)
        assert float(info.learning_rate) == RATE
    result = train(objective, rule, params, steps=3, key=key)
    np.testing.assert_allclose(state.params["u"], result.params["u"], rtol=1e-13)
    np.testing.assert_allclose(state.params["v"], result.params["v"], rtol=1e-13)


@pytest.mark.parametrize("kind", FAST)
def test_a_sweep_is_a_loop_in_one_trace(kind, key):
    objective, params = product(n=30 + list(RULES).index(kind))  # shapes of its own: nothing cached by other tests
    TRACES["full"] = TRACES["batch"] = 0
    rules = [RULES[kind](rate) for rate in (RATE, SECOND)]
    keys = jax.random.split(key, 2)
    single = [train(objective, rule, params, steps=20, key=k) for rule, k in zip(rules, keys, strict=True)]
    # the two gradients of a sharpness-aware step are two traces of the loss
    assert TRACES["batch" if kind in STOCHASTIC else "full"] == (2 if "sam" in kind else 1)
    swept = RULES[kind](jnp.array([RATE, SECOND]))
    both = train_ensemble(objective, swept, params, steps=20, keys=keys, batched_params=False)
    for r in range(2):
        np.testing.assert_allclose(both.params["u"][r], single[r].params["u"], rtol=1e-12)
    assert not same_bits(single[0].params, single[1].params)


@pytest.mark.parametrize("kind", NEW)
def test_type_of_params_is_kept_and_schedules_are_taken(kind, key):
    objective, params = product(dtype=np.float32)
    rate, other = Piecewise([3], [0.02, 0.01]), Piecewise([2], [0.0, 0.1])
    rule = {
        "sam": SharpnessAwareDescent(rate, other),
        "stochastic sam": StochasticSharpnessAware(rate, 3, other),
        "normalised": NormalisedGradientDescent(rate, momentum=0.1),
        "penalised": PenalisedGradientDescent(rate, lambda p: jnp.sum(p["u"] ** 2), other),
    }[kind]
    result = train(objective, rule, params, steps=8, key=key)
    assert {leaf.dtype for leaf in jax.tree.leaves(result.params)} == {np.dtype(np.float32)}
    assert np.isfinite(np.asarray(result.params["u"])).all()


@pytest.mark.long
def test_without_radius_or_coefficient_it_is_plain_descent(key):
    objective, params = product()
    plain = train(objective, GradientDescent(0.02), params, steps=30, key=key)
    batches = train(objective, StochasticGradientDescent(0.02, 3), params, steps=30, key=key)
    for rule, expected in [
        (SharpnessAwareDescent(0.02, 0.0), plain),
        (PenalisedGradientDescent(0.02, RIDGE, 0.0), plain),
        (StochasticSharpnessAware(0.02, 3, 0.0), batches),
    ]:
        got = train(objective, rule, params, steps=30, key=key)
        np.testing.assert_allclose(got.params["u"], expected.params["u"], rtol=1e-12)


def test_where_the_gradient_vanishes_nothing_breaks(key):
    objective = FunctionObjective(lambda w: jnp.sum(w**2) / 2)
    for rule in (NormalisedGradientDescent(0.1), SharpnessAwareDescent(0.1, 0.5)):
        assert np.all(np.asarray(train(objective, rule, jnp.zeros(3), steps=5, key=key).params) == 0)
    tiny = train(objective, NormalisedGradientDescent(0.1), jnp.full(3, 1e-200), steps=1, key=key).params
    np.testing.assert_allclose(np.linalg.norm(tiny), 0.1, rtol=1e-12)  # no square leaves the range


def test_normalised_steps_have_their_length(key):
    objective, params = product()
    moved = train(objective, NormalisedGradientDescent(0.03), params, steps=1, key=key).params
    length = np.sqrt(sum(float(jnp.sum((moved[k] - params[k]) ** 2)) for k in ("u", "v")))
    assert length == pytest.approx(0.03, rel=1e-12)


class TracePenalty(eqx.Module):
    problem: eqx.Module

    def __call__(self, params):
        return hessian_trace(self.problem, params).value


@pytest.mark.long
def test_trace_penalty_of_a_recovery_problem_lowers_the_trace(key):
    problem = matrix_sensing(key, (3, 3), 1, 4, depth=2).problem
    params = problem.parameterization.init_params(key, Gaussian(0.8))
    rule = PenalisedGradientDescent(0.01, TracePenalty(problem), 1e-3)
    plain = train(problem, GradientDescent(0.01), params, steps=3000, key=key).params
    flat = train(problem, rule, params, steps=3000, key=key).params
    assert float(problem.loss(plain)) < 1e-6
    assert float(hessian_trace(problem, flat).value) < 0.9 * float(hessian_trace(problem, plain).value)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: SharpnessAwareDescent(0.1, -0.5), r"radius: got -0.5, expected a finite number >= 0"),
        (lambda: SharpnessAwareDescent(0.0, 0.5), r"learning_rate: got 0.0"),
        (lambda: StochasticSharpnessAware(0.1, 3, float("nan")), r"radius: got nan"),
        (lambda: StochasticSharpnessAware(0.1, 0, 0.1), r"batch_size: got 0, expected an integer >= 1"),
        (lambda: NormalisedGradientDescent(-1.0), r"learning_rate: got -1.0"),
        (lambda: NormalisedGradientDescent(0.1, momentum=1.0), r"momentum: got 1.0"),
        (lambda: PenalisedGradientDescent(0.1, RIDGE, -1.0), r"coefficient: got -1.0"),
        (lambda: PenalisedGradientDescent(0.1, 3.0, 1.0), r"penalty: got 3.0, expected a function"),
    ],
)
def test_arguments_are_checked(build, text, unchecked):
    with pytest.raises(UsageError, match=text):
        build()


def test_a_bare_function_has_no_samples(key):
    with pytest.raises(ValueError, match="a bare function has no samples"):
        train(FunctionObjective(jnp.sum), StochasticSharpnessAware(0.1, 1, 0.1), jnp.ones(2), steps=2, key=key)
