"""Rules of one's own, optax's, epochs without replacement; what a record of every step costs and holds."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynamics_cases import product, same_bits
from flatmin import Objective, Outcome, UsageError
from flatmin.dynamics import (
    AbstractRule,
    Checkpoint,
    GradientDescent,
    LabelNoiseSGD,
    OptaxRule,
    Record,
    StochasticGradientDescent,
    Until,
    step_loss,
    train,
    train_ensemble,
)
from flatmin.testing import rule_laws

SGD = StochasticGradientDescent


class SignDescent(AbstractRule):
    full_loss = True

    def direction(self, draws, objective, state):
        loss, gradient = eqx.filter_value_and_grad(objective.loss)(state.params)
        return loss, jax.tree.map(jnp.sign, gradient)


TRANSFORMATIONS = {
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(1e-2, 10)),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.02, momentum=0.9, nesterov=True)),
    "lbfgs": optax.lbfgs,
}
LAWFUL = {
    "own": lambda: SignDescent(0.01, momentum=0.5),
    "epochs": lambda: LabelNoiseSGD(0.01, 3, 0.5, replacement=False),
    "optax": lambda: OptaxRule(TRANSFORMATIONS["schedule"]()),
    "optax by name": lambda: OptaxRule(optax.adamw, learning_rate=0.01, batch_size=3, noise=0.1, replacement=False),
    "line search": lambda: OptaxRule(optax.lbfgs()),
}


@pytest.mark.parametrize(
    "rule", [pytest.param(k, marks=() if k == "optax by name" else pytest.mark.long) for k in LAWFUL]
)
def test_laws(rule, key):
    rule_laws(LAWFUL[rule](), *product(), key)


@pytest.mark.long
@pytest.mark.parametrize("rule", LAWFUL)
def test_laws_in_single_precision(rule, key):
    rule_laws(LAWFUL[rule](), *product(dtype=np.float32), key)


class Forgetful(SignDescent):
    def direction(self, draws, objective, state):
        loss, gradient = eqx.filter_value_and_grad(objective.loss)(state.params)
        return 2 * loss, gradient


def test_laws_tell_a_broken_rule(key):
    with pytest.raises(AssertionError, match="full_loss"):
        rule_laws(Forgetful(0.01), *product(), key)


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=() if k == "chain" else pytest.mark.long) for k in TRANSFORMATIONS]
)
def test_optax_is_optax(name, key):
    objective, params = product()
    transformation = optax.with_extra_args_support(TRANSFORMATIONS[name]())
    point, state = params, transformation.init(params)
    for _ in range(8):
        value, gradient = jax.value_and_grad(objective.loss)(point)
        updates, state = transformation.update(
            gradient, state, point, value=value, grad=gradient, value_fn=objective.loss
        )
        point = optax.apply_updates(point, updates)
    got = train(objective, OptaxRule(TRANSFORMATIONS[name]()), params, steps=8, key=key)
    np.testing.assert_allclose(got.params["u"], point["u"], rtol=1e-10)
    assert np.abs(np.asarray(point["u"] - params["u"])).max() > 1e-3


def test_optax_hyperparameters_sweep_in_one_compilation(key):
    objective, params = product()
    rates = [1e-2, 3e-3]
    rule = OptaxRule(optax.adam, learning_rate=jnp.array(rates), batch_size=3)
    keys = jax.random.split(key, 2)
    both = train_ensemble(objective, rule, params, steps=10, keys=keys, batched_params=False)
    for r, rate in enumerate(rates):
        single = train(objective, OptaxRule(optax.adam(rate), batch_size=3), params, steps=10, key=keys[r])
        np.testing.assert_allclose(both.params["u"][r], single.params["u"], rtol=1e-11)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: OptaxRule(3), "transformation: got 3, expected an optax transformation"),
        (lambda: OptaxRule(optax.adam), "transformation: adam does not take"),
        (lambda: OptaxRule(optax.adam, lr=0.1), r"transformation: adam does not take \['lr'\]"),
        (lambda: OptaxRule(optax.adam(0.1), learning_rate=0.1), "transformation: got a ready transformation"),
        (lambda: OptaxRule(lambda: 3), "transformation: got a function that returns int"),
        (lambda: OptaxRule(optax.adam, learning_rate=float("nan")), "learning_rate: got nan"),
        (lambda: OptaxRule(optax.adam(0.1), noise=0.1), "noise: got it without mini-batches"),
        (lambda: OptaxRule(optax.adam(0.1), batch_size=0), "batch_size: got 0"),
        (lambda: SGD(0.1, 3, replacement="no"), "replacement: got 'no', expected True or False"),
    ],
)
def test_arguments_are_checked(build, text, unchecked):
    with pytest.raises(UsageError, match=text):
        build()


# --- epochs ---------------------------------------------------------------------------------------


def seen(n, size, steps, key, **options):
    """Which samples each step took: their coordinate moves by one."""
    objective = Objective(lambda w, rows: -w[rows] * size, np.arange(n))
    found = train(
        objective, SGD(1.0, size, replacement=False), jnp.zeros(n), steps=steps, key=key,
        records={"w": Record(lambda w: w, every=1)}, **options,
    )  # fmt: skip
    return np.diff(found.records["w"].values, axis=0), found


@pytest.mark.parametrize(
    ("n", "size"), [(13, 4), pytest.param(7, 1, marks=pytest.mark.long), pytest.param(5, 5, marks=pytest.mark.long)]
)
def test_an_epoch_takes_each_sample_once(n, size, key):
    length = n // size
    moves, _ = seen(n, size, 4 * length, key)
    assert np.all(moves.sum(axis=1) == size)
    epochs = moves.reshape(4, length, n).sum(axis=1)
    assert np.all(epochs <= 1)
    assert np.all(epochs.sum(axis=1) == length * size)
    if n >= 7:
        orders = moves.reshape(4, length, n)
        assert not np.array_equal(orders[0], orders[1])
    again, _ = seen(n, size, 4 * length, key, chunk=2)
    np.testing.assert_array_equal(moves, again)
    other, _ = seen(n, size, 4 * length, jax.random.fold_in(key, 1))
    assert n == size or not np.array_equal(moves, other)


def test_resumes_in_the_middle_of_an_epoch(key, tmp_path):
    whole, end = seen(12, 2, 15, key)
    file = Checkpoint(tmp_path / "run")
    first, _ = seen(12, 2, 8, key, checkpoint=file)
    rest, resumed = seen(12, 2, 15, key, checkpoint=file)
    assert len(first) == 8
    np.testing.assert_array_equal(rest, whole)
    assert same_bits(end.state, resumed.state)


def test_orders_are_uniform(key):
    objective, _ = product(n=4)
    rule = SGD(0.1, 2, replacement=False)
    steps = jnp.arange(2 * 6000, dtype=jnp.int32)
    draws = np.asarray(jax.jit(lambda k: rule.draw_steps(k, steps, objective, jnp.dtype("float64")))(key))
    orders, counts = np.unique(draws.reshape(6000, 4), axis=0, return_counts=True)
    assert len(orders) == 24
    assert np.all(np.abs(counts - 250) < 5 * np.sqrt(250))


def test_a_batch_larger_than_the_data_is_refused(key):
    objective, params = product(n=5)
    with pytest.raises(UsageError, match="batch_size: got 6, expected at most the 5 samples without replacement"):
        train(objective, SGD(0.1, 6, replacement=False), params, steps=2, key=key)
    with pytest.raises(UsageError, match="draw: got the key of one step"):
        SGD(0.1, 3, replacement=False).draw(key, objective, jnp.dtype("float64"))


# --- records of every step ------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [GradientDescent(0.02), LabelNoiseSGD(0.02, 3, 0.5)], ids=["full", "batches"])
def test_many_records_hold_what_few_hold(rule, key, tmp_path):
    objective, params = product()
    norm = lambda p: {"u": jnp.sum(p["u"] ** 2)}  # noqa: E731
    many = {
        "loss": Record(objective.loss, every=1),
        "norm": Record(norm, every=1),
        "third": Record(norm, every=3),
        "step": Record(step_loss, every=1),
    }
    plain = train(objective, rule, params, steps=200, key=key)
    got = train(objective, rule, params, steps=200, key=key, records=many, chunk=70)
    assert same_bits(plain.state, got.state)
    few = {name: Record(many[name].fn, at=[0, 1, 69, 70, 71, 140, 199, 200]) for name in ("loss", "norm")}
    expected = train(objective, rule, params, steps=200, key=key, records=few)
    at = expected.records["loss"].steps
    np.testing.assert_allclose(got.records["loss"].values[at], expected.records["loss"].values, rtol=1e-13)
    np.testing.assert_allclose(got.records["norm"].values["u"][at], expected.records["norm"].values["u"], rtol=1e-13)
    np.testing.assert_array_equal(got.records["third"].steps, [*range(0, 200, 3), 200])
    np.testing.assert_array_equal(
        got.records["third"].values["u"], got.records["norm"].values["u"][got.records["third"].steps]
    )
    assert got.records["step"].steps.tolist() == list(range(200))
    if rule.full_loss:
        np.testing.assert_array_equal(got.records["step"].values[1:], got.records["loss"].values[1:-1])

    def stop(done, steps):
        if done >= 140:
            raise KeyboardInterrupt

    file = Checkpoint(tmp_path / "run")
    train(objective, rule, params, steps=200, key=key, records=many, chunk=70, checkpoint=file, progress=stop)
    again = train(objective, rule, params, steps=200, key=key, records=many, chunk=70, checkpoint=file)
    for name, history in got.records.items():
        np.testing.assert_array_equal(again.records[name].steps, history.steps)
        assert same_bits(
            jax.tree.map(jnp.asarray, again.records[name].values), jax.tree.map(jnp.asarray, history.values)
        )


def test_an_ensemble_records_every_step(key):
    objective, params = product()
    rates = jnp.array([0.01, 0.9, 0.05])
    until = Until(loss=float(objective.loss(params)) / 5, every=16)
    records = {
        "loss": Record(objective.loss, every=1),
        "u": Record(lambda p: p["u"], every=1),
        "step": Record(step_loss, every=1),
    }
    options = {"steps": 150, "records": records, "until": until}
    both = train_ensemble(
        objective, GradientDescent(rates), params, keys=jax.random.split(key, 3), batched_params=False, **options
    )
    assert both.outcome[1] is Outcome.diverged
    assert both.outcome[2] is Outcome.converged
    for r in range(3):
        single = train(objective, GradientDescent(rates[r]), params, key=key, **options)
        assert both.step[r] == single.step
        for name in ("loss", "u"):
            values = both.records[name].values[r][: len(single.records[name].steps)]
            np.testing.assert_allclose(values, single.records[name].values, rtol=1e-6)
    late = both.records["step"].steps >= both.step[2]
    assert 0 < late.sum() < len(late)
    assert np.all(np.isnan(both.records["step"].values[2]) == late)


def test_recording_the_loss_of_every_step_is_a_store(key):
    objective, params = product(n=400, d=40)
    rule = GradientDescent(1e-3)

    def seconds(records):
        began = time.process_time()
        jax.block_until_ready(train(objective, rule, params, steps=4000, key=key, records=records).params)
        return time.process_time() - began

    records = {"loss": Record(objective.loss, every=1)}
    seconds({}), seconds(records)
    bare, recorded = (min(seconds(r) for _ in range(5)) for r in ({}, records))
    assert recorded < 1.3 * bare


def test_records_are_checked(key, unchecked):
    objective, params = product()
    request = {"steps": 2, "key": key}
    with pytest.raises(UsageError, match="records: 'a' cannot be traced by JAX"):
        train(objective, SGD(0.1, 3), params, records={"a": Record(lambda p: float(p["u"][0]), every=1)}, **request)
    with pytest.raises(UsageError, match="records: got a list of 1, expected a mapping"):
        train(objective, SGD(0.1, 3), params, records=[Record(jnp.sum, every=1)], **request)
    with pytest.raises(UsageError, match=r"until: got 0\.001, expected an Until"):
        train(objective, SGD(0.1, 3), params, until=1e-3, **request)
    with pytest.raises(UsageError, match="step_loss: got a call"):
        step_loss(params)
