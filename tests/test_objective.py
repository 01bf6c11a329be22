"""A user's own loss: bare, with data, with labels; and what is refused at the door of training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatmin as fm
from dynamics_cases import product, same_bits
from flatmin import Objective, UsageError
from flatmin.dynamics import GradientDescent, LabelNoiseSGD, StochasticGradientDescent, train, train_ensemble
from flatmin.problems import matrix_sensing

RULES = {
    "full": GradientDescent(0.02),
    "batches": StochasticGradientDescent(0.02, 3),
    "label noise": LabelNoiseSGD(0.02, 3, 0.5),
}


def squares(params, batch):
    return (batch["x"] @ (params["u"] * params["v"]) - batch["y"]) ** 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reduce", [lambda x: x, jnp.mean], ids=["per sample", "mean"])
def test_a_loss_with_data_is_the_class_written_out(rule, reduce, key):
    whole, params = product()
    data = {"x": np.asarray(whole.A), "y": np.asarray(whole.b), "count": np.arange(20)}
    own = Objective(lambda p, batch: reduce(squares(p, batch)), data, labels=lambda batch: batch["y"])
    assert own.num_samples == 20
    np.testing.assert_allclose(own.loss(params), whole.loss(params), rtol=1e-14)
    got = train(own, RULES[rule], params, steps=20, key=key).params
    expected = train(whole, RULES[rule], params, steps=20, key=key).params
    np.testing.assert_allclose(got["u"], expected["u"], rtol=1e-12)
    assert not same_bits(got, params)


def test_a_plain_function_is_descended(key):
    runs = [fm.train(lambda w: jnp.sum((w - 1) ** 2), GradientDescent(0.1), np.zeros(3), steps=5, key=key)]
    both = fm.train_ensemble(
        lambda w: jnp.sum((w - 1) ** 2), GradientDescent(jnp.array([0.1, 0.1])), jnp.zeros(3), steps=5,
        keys=jax.random.split(key, 2), batched_params=False,
    )  # fmt: skip
    for params in (runs[0].params, both.params[0], both.params[1]):
        np.testing.assert_allclose(params, 1 - 0.8**5, rtol=1e-14)


@pytest.mark.parametrize("size", [1e31, 1e-31])
def test_the_size_of_the_loss_is_no_divergence(size, key):
    run = train(lambda p: size * (10 + jnp.sum(p**2)), GradientDescent(0.1 / size), jnp.ones(2), steps=5, key=key)
    assert run.outcome is fm.Outcome.completed
    np.testing.assert_allclose(run.params, 0.8**5, rtol=1e-12)


@pytest.mark.parametrize("params", [jnp.zeros(1, complex), {"a": jnp.zeros(2), "b": (jnp.ones(3, jnp.complex64),)}])
def test_complex_params_are_refused_everywhere(params, key):
    loss = lambda p: sum(jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(p))  # noqa: E731
    for rule in (GradientDescent(0.1), fm.dynamics.NormalisedGradientDescent(0.1)):
        with pytest.raises(UsageError, match=r"params.*: got complex\d+, expected real numbers; write it as two real"):
            train(loss, rule, params, steps=3, key=key)
    with pytest.raises(UsageError, match=r"params.*: got complex\d+"):
        train_ensemble(loss, GradientDescent(0.1), params, steps=3, keys=jax.random.split(key, 2), batched_params=False)


BARE = Objective(lambda w: jnp.sum(w**2))
ONES = jnp.ones((4, 2))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda k: train(3.0, RULES["full"], ONES, steps=1, key=k), "objective: got 3.0, expected a function of the"),
        (lambda k: train(eqx.Module, RULES["full"], ONES, steps=1, key=k), "objective: got .*expected a function"),
        (
            lambda k: train(matrix_sensing(k, (2, 2), 1, 3), RULES["full"], ONES, steps=1, key=k),
            "objective: got a PlantedProblem, .* pass its .problem",
        ),
        (lambda k: train(lambda w: w, RULES["full"], ONES, steps=1, key=k), r"returned float64 of shape \(4, 2\), exp"),
        (lambda k: train(lambda w: "a", RULES["full"], ONES, steps=1, key=k), "objective: the function returned str"),
        (
            lambda k: train(lambda w: jnp.sum(w) * 1j, RULES["full"], ONES, steps=1, key=k),
            "the function returned complex128 of shape",
        ),
        (
            lambda k: train(lambda w: float(jnp.sum(w)), RULES["full"], ONES, steps=1, key=k),
            "objective: the function cannot be traced by JAX",
        ),
        (lambda k: train(BARE, RULES["batches"], ONES, steps=1, key=k), "objective: a bare function has no samples"),
        (
            lambda k: train(Objective(lambda w, b: b @ w[0], ONES), RULES["label noise"], ONES, steps=1, key=k),
            "objective: got label noise, but it does not know its labels",
        ),
        (
            lambda k: train(
                Objective(lambda w, b: b @ w[0], ONES, labels=lambda b: b), RULES["label noise"], ONES, steps=1, key=k
            ),
            r"labels: got float64 of shape \(3, 2\), expected one real number per sample, shape \(3,\)",
        ),
        (
            lambda k: train(BARE, GradientDescent, ONES, steps=1, key=k),
            "dynamics: got the class GradientDescent, expected a rule",
        ),
        (lambda k: train(BARE, None, ONES, steps=1, key=k), "dynamics: got None, expected a rule"),
        (
            lambda k: train(BARE, RULES["full"], ONES, steps=1, key=jax.random.split(k)),
            r"key: got shape \(2,\), expected \(\)",
        ),
        (lambda _: Objective(3), "fn: got 3, expected a function"),
        (lambda _: Objective(jnp.sum, {"a": ONES, "b": jnp.ones(3)}), r"data: got arrays of shapes \[\(4, 2\), \(3,\)"),
        (lambda _: Objective(jnp.sum, {"a": "text"}), "data: got 'text', expected a tree"),
        (lambda _: Objective(jnp.sum, labels=jnp.sum), "labels: got a function but no data"),
        (
            lambda _: train(BARE, RULES["full"], np.array(["2020-01-01"], "datetime64[D]"), steps=1, key=0),
            r"params: got an array of datetime64\[D\], expected arrays of real numbers",
        ),
    ],
)
def test_what_is_no_objective_gets_a_sentence(call, text, key, unchecked):
    with pytest.raises(UsageError, match=text):
        call(key)
