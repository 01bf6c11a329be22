import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamics_cases import TRACES, Product, draws_of, numpy_loss_and_gradient, numpy_run, product, same_bits
from flatmin._core import AbstractObjective, FunctionObjective, JobError, Outcome, UsageError
from flatmin.dynamics import (
    AbstractDynamics,
    GradientDescent,
    LabelNoiseSGD,
    Piecewise,
    Record,
    StochasticGradientDescent,
    Until,
    log_spaced,
    train,
    train_ensemble,
)

SGD = StochasticGradientDescent


def close(got, expected, rtol=1e-12):
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(got[name]), value, rtol=rtol, atol=1e-13)


# --- update rules against the numpy loop ----------------------------------------------------------


@pytest.mark.parametrize(("momentum", "decay"), [(None, None), (0.9, None), (None, 0.3), (0.7, 0.2)])
@pytest.mark.parametrize("kind", ["gd", "sgd", "label noise"])
def test_rule_is_the_one_written_out(kind, momentum, decay, key):
    objective, params = product()
    options = {"momentum": momentum, "weight_decay": decay}
    dynamics = {
        "gd": GradientDescent(0.02, **options),
        "sgd": SGD(0.02, 3, **options),
        "label noise": LabelNoiseSGD(0.02, 3, 0.5, **options),
    }[kind]
    draws = draws_of(key, 3, objective.num_samples) if kind != "gd" else lambda _: (None, None)
    noise = (lambda _: 0.5) if kind == "label noise" else None
    expected, bad = numpy_run(objective, params, 40, draws, lambda _: 0.02, noise, momentum or 0.0, decay or 0.0)
    result = train(objective, dynamics, params, steps=40, key=key)
    assert bad == result.divergence_step == -1
    assert result.outcome is Outcome.completed
    assert result.step == int(result.state.step) == 40
    assert np.abs(expected["u"] - np.asarray(params["u"])).max() > 0.05
    close(result.params, expected)


def test_schedules_of_rate_and_noise(key):
    objective, params = product()
    dynamics = LabelNoiseSGD(Piecewise([5, 12], [0.01, 0.05, 0.002]), 3, Piecewise([7], [0.0, 2.0]))
    expected, _ = numpy_run(
        objective,
        params,
        20,
        draws_of(key, 3, objective.num_samples),
        lambda k: 0.01 if k < 5 else 0.05 if k < 12 else 0.002,
        lambda k: 0.0 if k < 7 else 2.0,
    )
    close(train(objective, dynamics, params, steps=20, key=key).params, expected)


def test_piecewise_changes_at_its_boundaries():
    rate = Piecewise([3, 4], [1.0, 2.0, 5.0])
    assert [float(rate(jnp.array(k))) for k in (0, 2, 3, 4, 100)] == [1.0, 1.0, 2.0, 5.0, 5.0]


def test_step_by_step_is_train(key):
    objective, params = product()
    dynamics = LabelNoiseSGD(0.02, 3, 0.5, momentum=0.5)
    state, losses = dynamics.init(params), []
    step = eqx.filter_jit(dynamics.step)
    for k in range(10):
        state, info = step(jax.random.fold_in(key, k), objective, state)
        losses.append(float(info.loss))
    result = train(objective, dynamics, params, steps=10, key=key)
    close(state.params, result.params, rtol=1e-14)  # compiled apart: equal to rounding
    close(state.buffers, result.state.buffers, rtol=1e-13)
    assert int(state.step) == 10
    indices, normals = draws_of(key, 3, objective.num_samples)(0)
    expected = objective.batch_loss(params, indices, 0.5 * normals)
    np.testing.assert_allclose(losses[0], float(expected), rtol=1e-14)
    np.testing.assert_allclose(float(info.learning_rate), 0.02, rtol=1e-15)


def test_without_noise_label_noise_is_sgd_bit_for_bit(key):
    objective, params = product()
    a = train(objective, LabelNoiseSGD(0.02, 3, 0.0), params, steps=50, key=key)
    b = train(objective, SGD(0.02, 3), params, steps=50, key=key)
    assert same_bits(a.state, b.state)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_type_of_params_is_kept(dtype, key):
    objective, params = product(dtype=dtype)
    dynamics = LabelNoiseSGD(Piecewise([3], [0.02, 0.01]), 3, 0.5, momentum=0.5, weight_decay=0.1)
    result = train(objective, dynamics, params, steps=8, key=key)
    assert {leaf.dtype for leaf in jax.tree.leaves(result.params)} == {np.dtype(dtype)}
    wide, wide_params = product()
    wide = Product(*(jnp.asarray(x, np.float64) for x in (objective.A, objective.b)))
    wide_params = {name: jnp.asarray(x, np.float64) for name, x in params.items()}
    if dtype is np.float64:
        close(result.params, train(wide, dynamics, wide_params, steps=8, key=key).params, rtol=0)


def test_params_may_hold_functions_and_integers(key):
    net = eqx.nn.MLP(3, "scalar", 4, 1, key=key)
    x = jax.random.normal(key, (5, 3))
    params = {"net": net, "count": jnp.array(7)}
    objective = FunctionObjective(lambda p: jnp.mean((jax.vmap(p["net"])(x) - 1.0) ** 2))
    result = train(objective, GradientDescent(0.1, momentum=0.5), params, steps=200, key=key)
    assert int(result.params["count"]) == 7
    assert float(objective.loss(result.params)) < 0.1 * float(objective.loss(params))


# --- statistics of the noise ----------------------------------------------------------------------


def updates(objective, dynamics, params, count, key):
    state = dynamics.init(params)

    def one(key):
        new, _ = dynamics.step(key, objective, state)
        return new.params["u"] - params["u"]

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, count)))


def test_mean_update_is_the_full_gradient_step(key):
    objective, params = product()
    got = updates(objective, LabelNoiseSGD(0.1, 4, 0.7), params, 20_000, key)
    expected = -0.1 * np.asarray(jax.grad(objective.loss)(params)["u"])
    sem = got.std(axis=0, ddof=1) / np.sqrt(len(got))
    assert np.all(np.abs(got.mean(axis=0) - expected) < 5 * sem)
    assert np.all(sem < 0.1 * np.abs(expected).max())


def test_covariance_of_the_update_at_an_interpolating_point(key):
    # zero residual: update (2 eta sigma / B) sum_j xi_j a_ij * v,
    # covariance (4 eta^2 sigma^2 / B) mean(a a^T) * v v^T
    objective, params = product()
    objective = Product(objective.A, objective.A @ (params["u"] * params["v"]))
    eta, sigma, B = 0.1, 0.7, 4
    got = updates(objective, LabelNoiseSGD(eta, B, sigma), params, 20_000, key)
    A, v = np.asarray(objective.A), np.asarray(params["v"])
    expected = 4 * eta**2 * sigma**2 / B * (A.T @ A / len(A)) * np.outer(v, v)
    squares = got[:, :, None] * got[:, None, :]
    sem = squares.std(axis=0, ddof=1) / np.sqrt(len(got))
    assert np.all(np.abs(squares.mean(axis=0) - expected) < 5 * sem)
    assert np.all(np.diag(sem) < 0.05 * np.diag(expected))
    assert np.all(np.abs(got.mean(axis=0)) < 5 * got.std(axis=0) / np.sqrt(len(got)))


def test_batches_are_uniform_with_replacement(key):
    objective, _ = product(n=10)
    draw = jax.jit(jax.vmap(lambda k: SGD(0.1, 3).draw(k, objective, jnp.dtype("float64"))))
    indices = np.asarray(draw(jax.random.split(key, 20_000)))
    counts = np.bincount(indices.ravel(), minlength=10)
    assert np.all(np.abs(counts - 6000) < 5 * np.sqrt(60_000 * 0.1 * 0.9))
    distinct = np.mean([len(set(row)) == 3 for row in indices.tolist()])
    assert abs(distinct - 0.9 * 0.8) < 5 * np.sqrt(0.72 * 0.28 / 20_000)


# --- what gradient descent must do ----------------------------------------------------------------


def test_quadratic_contracts_at_the_known_rates(key):
    scales = jnp.array([0.5, 1.0, 3.0])
    objective = FunctionObjective(lambda w: 0.5 * jnp.sum(scales * w**2))
    result = train(
        objective,
        GradientDescent(0.3),
        jnp.ones(3),
        steps=25,
        key=key,
        records={"loss": Record(objective.loss, every=1)},
    )
    np.testing.assert_allclose(result.params, (1 - 0.3 * np.asarray(scales)) ** 25, rtol=1e-12)
    k = np.arange(26)[:, None]
    expected = 0.5 * np.sum(np.asarray(scales) * (1 - 0.3 * np.asarray(scales)) ** (2 * k), axis=1)
    np.testing.assert_allclose(result.records["loss"].values, expected, rtol=1e-12)
    assert np.all(np.diff(result.records["loss"].values) < 0)


def test_balancedness_drifts_with_the_first_power_of_the_step_size(key):
    objective, params = product()

    def drift(eta, steps):
        end = train(objective, GradientDescent(eta), params, steps=steps, key=key).params
        gap = lambda p: np.asarray(p["u"] ** 2 - p["v"] ** 2)  # noqa: E731
        return np.abs(gap(end) - gap(params)).max()

    coarse, fine = drift(2e-4, 2000), drift(1e-4, 4000)
    assert 1e-6 < fine < 1e-2
    assert abs(coarse / fine - 2) < 0.05


# --- bits and traces ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_do_not_depend_on_chunks_or_records(dtype, key):
    objective, params = product(dtype=dtype)
    dynamics = LabelNoiseSGD(0.02, 5, 0.5, momentum=0.3)
    plain = train(objective, dynamics, params, steps=300, key=key)
    for chunk, records in [
        (1, {}),
        (7, {}),
        (64, {"a": Record(objective.loss, at=[11, 64, 65])}),
        (1000, {}),
    ]:
        other = train(objective, dynamics, params, steps=300, key=key, chunk=chunk, records=records)
        assert same_bits(plain.state, other.state), chunk
    longer = train(objective, dynamics, params, steps=301, key=key)
    assert not same_bits(plain.params, longer.params)
    other_key = train(objective, dynamics, params, steps=300, key=jax.random.key(1))
    assert not same_bits(plain.params, other_key.params)


def test_one_trace_for_all_hyperparameters_and_record_times(key):
    objective, params = product(n=23)  # a shape of its own: nothing cached by other tests
    TRACES["batch"] = 0
    ends = []
    for rate, noise in [(0.01, 0.1), (0.02, 0.1), (0.02, 0.4)]:
        dynamics = LabelNoiseSGD(rate, 3, noise, weight_decay=rate)
        records = {
            "u": Record(lambda p: p["u"], at=[1, 5, 6, 40, 77]),
            "v": Record(lambda p: p["v"], every=13),
        }
        ends.append(train(objective, dynamics, params, steps=100, chunk=32, key=key, records=records).params["u"])
    assert TRACES["batch"] == 1
    assert len({np.asarray(end).tobytes() for end in ends}) == 3


def test_each_record_is_traced_once(key):
    objective, params = product(n=22)
    TRACES["full"] = 0
    train(objective, SGD(0.01, 3), params, steps=50, key=key, records={"loss": Record(objective.loss, every=7)})
    train(objective, SGD(0.02, 3), params, steps=50, key=key, records={"loss": Record(objective.loss, every=9)})
    assert TRACES["full"] == 1


# --- records --------------------------------------------------------------------------------------


def test_records_hold_the_values_at_their_steps(key):
    objective, params = product()
    dynamics = SGD(0.02, 3)
    records = {
        "loss": Record(objective.loss, every=4),
        "parts": Record(lambda p: {"sum": jnp.sum(p["u"]), "v": p["v"]}, at=[9, 3]),
    }
    result = train(objective, dynamics, params, steps=10, key=key, records=records, chunk=6)
    loss, parts = result.records["loss"], result.records["parts"]
    assert loss.steps.tolist() == [0, 4, 8, 10]
    assert parts.steps.tolist() == [0, 3, 9, 10]
    assert parts.values["v"].shape == (4, 4)
    for step, value in zip(loss.steps, loss.values, strict=True):
        there = train(objective, dynamics, params, steps=int(step), key=key).params
        np.testing.assert_allclose(value, float(objective.loss(there)), rtol=1e-13)
    there = train(objective, dynamics, params, steps=9, key=key).params
    np.testing.assert_array_equal(parts.values["v"][2], there["v"])
    np.testing.assert_allclose(parts.values["sum"][2], np.sum(np.asarray(there["u"])), rtol=1e-13)


def test_no_steps_records_the_start(key):
    objective, params = product()
    result = train(objective, SGD(0.02, 3), params, steps=0, key=key, records={"l": Record(objective.loss, every=5)})
    assert result.outcome is Outcome.completed
    assert result.records["l"].steps.tolist() == [0]
    assert same_bits(result.params, params)


def test_log_spaced():
    assert log_spaced(1000, 4) == [1, 10, 100, 1000]
    assert log_spaced(5, 50) == [1, 2, 3, 4, 5]


# --- divergence and interruption ------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize("kind", ["gd", "label noise"])
def test_first_bad_step_is_exact(kind, chunk, key):
    objective, params = product()
    # calm at first, then far too large
    rate = Piecewise([150], [0.02, 1.5])
    dynamics = GradientDescent(rate) if kind == "gd" else LabelNoiseSGD(rate, 3, 0.5)
    draws = draws_of(key, 3, objective.num_samples) if kind != "gd" else lambda _: (None, None)
    noise = (lambda _: 0.5) if kind != "gd" else None
    with np.errstate(all="ignore"):
        expected, bad = numpy_run(objective, params, 400, draws, lambda k: 0.02 if k < 150 else 1.5, noise)
    assert 152 < bad < 200
    records = {"loss": Record(objective.loss, every=1)}
    result = train(objective, dynamics, params, steps=400, key=key, chunk=chunk, records=records)
    assert result.outcome is Outcome.diverged
    assert result.divergence_step == bad
    assert result.step == int(result.state.step) == bad - 1
    close(result.params, expected, rtol=1e-6)
    assert result.records["loss"].steps.tolist() == list(range(bad))


class Separate(AbstractObjective):
    """`l_i = sqrt(|w_i - c_i|)`: sample i moves w_i only, and makes it NaN if w_i = c_i, at a finite loss."""

    c: jax.Array

    @property
    def num_samples(self):
        return self.c.shape[0]

    def loss(self, params):
        return jnp.mean(jnp.sqrt(jnp.abs(params - self.c)))

    def batch_loss(self, params, indices, label_shift):
        return jnp.mean(jnp.sqrt(jnp.abs(params - self.c)[indices]))


def first_draw_of_sample_0(key, n):
    draws = draws_of(key, 2, n)
    return next(k for k in range(10_000) if 0 in draws(k)[0])


@pytest.mark.parametrize("chunk", [5, 64, 1000])
def test_params_lost_at_a_finite_loss_are_found(chunk):
    key, n = jax.random.key(3), 200
    objective, params = Separate(jnp.zeros(n)), jnp.ones(n).at[0].set(0.0)
    first = first_draw_of_sample_0(key, n)
    assert 30 < first < 900
    result = train(objective, SGD(1e-3, 2), params, steps=1000, key=key, chunk=chunk)
    assert result.outcome is Outcome.diverged
    assert result.divergence_step == first + 1
    assert np.isfinite(result.params).all()
    good = train(objective, SGD(1e-3, 2), params, steps=first, key=key)
    assert good.outcome is Outcome.completed
    assert same_bits(result.state, good.state)


def test_throw_raises_what_the_outcome_says(key):
    objective, params = product()
    with pytest.raises(JobError, match=r"train: the iterates left .* lower the step size \(after \d+ good steps\)"):
        train(objective, GradientDescent(0.9), params, steps=400, key=key, throw=True)
    dynamics = GradientDescent(jnp.array([0.01, 0.9]))
    keys = jax.random.split(key, 2)
    with pytest.raises(JobError, match=r"run 1 \(1 of 2 failed\): the iterates left"):
        train_ensemble(objective, dynamics, params, steps=400, keys=keys, batched_params=False, throw=True)


def test_interrupt_returns_what_was_done(key):
    objective, params = product()
    calls = []

    def progress(done, steps):
        calls.append((done, steps))
        if done >= 20:
            raise KeyboardInterrupt

    records = {"loss": Record(objective.loss, every=6)}
    result = train(objective, SGD(0.02, 3), params, steps=100, key=key, chunk=10, progress=progress, records=records)
    assert result.outcome is Outcome.interrupted
    assert calls == [(6, 100), (10, 100), (12, 100), (18, 100), (20, 100)]
    assert result.step == 20
    assert result.records["loss"].steps.tolist() == [0, 6, 12, 18]
    assert same_bits(result.state, train(objective, SGD(0.02, 3), params, steps=20, key=key).state)


# --- ensembles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_ensemble_is_a_loop_of_single_runs(momentum, key):
    objective, _ = product()
    starts = [product(seed)[1] for seed in range(4)]
    params = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    keys, rates = jax.random.split(key, 4), [0.01, 0.02, 0.005, 0.015]
    TRACES["batch"] = 0
    result = train_ensemble(
        objective,
        LabelNoiseSGD(jnp.array(rates), 3, 0.5, momentum=momentum),
        params,
        steps=60,
        keys=keys,
        records={"loss": Record(objective.loss, every=25)},
    )
    assert TRACES["batch"] == 1
    assert result.outcome == (Outcome.completed,) * 4
    assert result.records["loss"].values.shape == (4, 4)
    for r in range(4):
        single = train(
            objective,
            LabelNoiseSGD(rates[r], 3, 0.5, momentum=momentum),
            starts[r],
            steps=60,
            key=keys[r],
            records={"loss": Record(objective.loss, every=25)},
        )
        close({name: x[r] for name, x in result.params.items()}, single.params)
        np.testing.assert_allclose(result.records["loss"].values[r], single.records["loss"].values, rtol=1e-11)


def test_ensemble_of_schedules_and_of_data(key):
    objectives, starts = zip(*[product(seed) for seed in range(3)], strict=True)
    stacked = Product(objectives[0].A, jnp.stack([o.b for o in objectives]))
    values = [[0.01, 0.03], [0.02, 0.001], [0.015, 0.015]]
    keys = jax.random.split(key, 3)
    result = train_ensemble(
        stacked,
        SGD(Piecewise([10], values), 3),
        starts[0],
        steps=30,
        keys=keys,
        batched_params=False,
        batched_objective=Product(False, True),
        records={"loss": Record(stacked.loss, every=30)},
    )
    for r in range(3):
        objective = Product(objectives[0].A, objectives[r].b)
        single = train(objective, SGD(Piecewise([10], values[r]), 3), starts[0], steps=30, key=keys[r])
        close({name: x[r] for name, x in result.params.items()}, single.params)
        np.testing.assert_allclose(result.records["loss"].values[r, -1], objective.loss(single.params), rtol=1e-11)


def test_a_diverging_run_leaves_the_others_alone(key):
    objective, params = product()
    rates, keys = jnp.array([0.01, 0.9, 0.02, 0.6]), jax.random.split(key, 4)
    records = {"loss": Record(objective.loss, every=2), "n": Record(lambda p: jnp.argmax(p["u"]), every=50)}
    result = train_ensemble(
        objective,
        GradientDescent(rates),
        params,
        steps=100,
        keys=keys,
        batched_params=False,
        records=records,
        chunk=33,
    )
    singles = [train(objective, GradientDescent(rate), params, steps=100, key=key) for rate in rates]
    assert result.outcome == tuple(s.outcome for s in singles)
    assert [o is Outcome.diverged for o in result.outcome] == [False, True, False, True]
    assert result.divergence_step.tolist() == [s.divergence_step for s in singles]
    assert result.step.tolist() == [s.step for s in singles]
    for r, single in enumerate(singles):
        close({name: x[r] for name, x in result.params.items()}, single.params, rtol=1e-6)
        history = result.records["loss"]
        measured = ~np.isnan(history.values[r])  # the last good point may have a loss beyond all numbers
        expected = history.steps < single.divergence_step if single.divergence_step >= 0 else np.full(51, True)
        assert measured.tolist() == expected.tolist()
    assert np.isnan(result.records["n"].values[1, 1:]).all()


def test_nothing_is_recorded_after_all_runs_diverged(key):
    objective, params = product()
    result = train_ensemble(
        objective,
        GradientDescent(jnp.array([0.9, 0.8])),
        params,
        steps=1000,
        keys=jax.random.split(key, 2),
        batched_params=False,
        records={"loss": Record(objective.loss, every=1)},
        chunk=8,
    )
    steps = result.records["loss"].steps
    assert steps[-1] < result.divergence_step.max() <= steps[-1] + 1


def test_sweep_in_one_trace_for_other_values(key):
    objective, params = product(n=24)
    TRACES["batch"] = 0
    for scale in (1.0, 2.0, 3.0):
        dynamics = LabelNoiseSGD(scale * jnp.array([0.01, 0.02]), 3, 0.1)
        keys = jax.random.split(key, 2)
        train_ensemble(objective, dynamics, params, steps=20, keys=keys, batched_params=False)
    assert TRACES["batch"] == 1


# --- the user's own rule --------------------------------------------------------------------------


class SignDescent(AbstractDynamics):
    inner: GradientDescent

    def init(self, params):
        return self.inner.init(params)

    def draw(self, key, objective, dtype):
        return jax.random.bernoulli(key, 0.5)

    def update(self, draws, objective, state):
        new, info = self.inner.update((), objective, state)
        params = jax.tree.map(lambda a, b: jnp.where(draws, a, b), new.params, state.params)
        return dataclasses.replace(new, params=params), info


def test_a_rule_of_ones_own(key):
    objective, params = product()
    result = train(objective, SignDescent(GradientDescent(0.02)), params, steps=30, key=key, chunk=7)
    taken = sum(bool(jax.random.bernoulli(jax.random.fold_in(key, k), 0.5)) for k in range(30))
    assert 5 < taken < 25
    expected, _ = numpy_run(objective, params, taken, lambda _: (None, None), lambda _: 0.02)
    close(result.params, expected)


# --- error texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: GradientDescent(0.0), r"learning_rate: got 0.0, expected a finite number > 0"),
        (lambda: GradientDescent(float("nan")), r"learning_rate: got nan"),
        (lambda: GradientDescent(float("inf")), r"learning_rate: got inf"),
        (
            lambda: GradientDescent(jnp.array([0.1, -1.0])),
            r"learning_rate: got an entry -1, expected a finite number > 0",
        ),
        (lambda: SGD(Piecewise([3], [0.1, -1.0]), 3), r"learning_rate: got an entry -1, expected a finite number > 0"),
        (lambda: GradientDescent(0.1, momentum=1.0), r"momentum: got 1.0, expected a finite number >= 0 and < 1"),
        (lambda: GradientDescent(0.1, momentum=-0.1), r"momentum: got -0.1"),
        (lambda: GradientDescent(0.1, weight_decay=-1.0), r"weight_decay: got -1.0, expected a finite number >= 0"),
        (lambda: SGD(0.1, 0), r"batch_size: got 0, expected an integer >= 1"),
        (lambda: LabelNoiseSGD(0.1, 3, -1.0), r"noise: got -1.0, expected a finite number >= 0"),
        (lambda: Piecewise([3, 3], [1.0, 2.0, 3.0]), r"boundaries: got \[3, 3\], expected increasing"),
        (lambda: Piecewise([0], [1.0, 2.0]), r"boundaries: got 0, expected an array of integers >= 1"),
        (lambda: Piecewise([3], [1.0]), r"values: got shape \(1,\), expected 2 value\(s\)"),
        (lambda: Record(jnp.sum), r"Record: got neither of every and at, expected one"),
        (lambda: Record(jnp.sum, every=3, at=[1]), r"Record: got both of every and at"),
        (lambda: Record(jnp.sum, every=0), r"every: got 0, expected an integer >= 1"),
        (lambda: Record(jnp.sum, every=2.5), r"every: got 2.5, expected an integer"),
        (lambda: Record(jnp.sum, at=[3, -1]), r"at: got -1, expected an integer >= 0"),
        (lambda: Record(jnp.sum, at=[11]).times(10), r"at: got step 11, expected steps <= 10"),
        (lambda: Record(3, every=1), r"fn: got 3, expected a function"),
        (lambda: log_spaced(0, 5), r"steps: got 0, expected an integer >= 1"),
        (lambda: log_spaced(10, 1), r"count: got 1, expected an integer >= 2"),
    ],
)
def test_arguments_are_checked(build, text):
    with pytest.raises(UsageError, match=text):
        build()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": -1}, r"steps: got -1, expected an integer >= 0"),
        (
            {"steps": 2**31},
            r"steps: got 2147483648, expected an integer <= 2147483647",
        ),
        ({"chunk": 0}, r"chunk: got 0, expected an integer >= 1"),
        (
            {"key": jax.random.PRNGKey(0)},
            r"key: got an array of uint32 and shape .2,., expected a random key such as jax.random.key",
        ),
        ({"params": {"u": jnp.array([1.0, jnp.nan])}}, r"params\['u'\]: got 1 value\(s\) that are NaN"),
        ({"params": {"u": jnp.arange(3)}}, r"params: got no floating point array"),
        ({"records": {"a": jnp.sum}}, r"records\['a'\]: got .*, expected a Record"),
        ({"records": {"a": Record(jnp.sum, at=[9])}}, r"at: got step 9, expected steps <= 5"),
        (
            {"dynamics": SGD(jnp.array([0.1, 0.2]), 3)},
            r"dynamics: learning_rate has one value per run; use train_ensemble",
        ),
        (
            {"dynamics": SGD(Piecewise([2], [[0.1, 0.2]]), 3)},
            r"dynamics: learning_rate.values has one value per run",
        ),
    ],
)
def test_requests_are_checked(change, text, key):
    objective, params = product()
    request = {"dynamics": SGD(0.1, 3), "params": params, "steps": 5, "key": key} | change
    with pytest.raises(UsageError, match=text):
        train(objective, **request)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"keys": jax.random.key(0)}, r"keys: got an array of .*, expected random keys of shape \(runs,\)"),
        (
            {"batched_params": True},
            r"params: \['u'\] has shape \(4,\), expected a leading run axis of length 3",
        ),
        ({"dynamics": SGD(jnp.array([0.1, 0.2]), 3)}, r"dynamics: learning_rate has shape \(2,\), expected"),
        ({"batched_objective": True}, r"objective: A has shape \(20, 4\), expected a leading run axis"),
    ],
)
def test_run_axes_are_checked(change, text, key):
    objective, params = product()
    request = {
        "dynamics": SGD(0.1, 3),
        "params": params,
        "keys": jax.random.split(key, 3),
        "batched_params": False,
    }
    with pytest.raises(UsageError, match=text):
        train_ensemble(objective, steps=5, **(request | change))


def test_a_function_has_no_batches(key):
    with pytest.raises(ValueError, match=r"objective: a bare function has no samples"):
        train(FunctionObjective(jnp.sum), SGD(0.1, 3), jnp.ones(2), steps=5, key=key)


def test_a_run_ends_where_its_loss_or_its_gradient_is_small(key):
    objective, params = product()
    rule = GradientDescent(0.05)
    path = train(objective, rule, params, steps=400, key=key, records={"p": Record(lambda p: p, every=10)})
    points = [jax.tree.map(lambda x, i=i: x[i], path.records["p"].values) for i in range(41)]
    norms, losses = [], []
    for point in points:
        losses.append(float(objective.loss(point)))
        _, gv, gu = numpy_loss_and_gradient(objective, np.asarray(point["u"]), np.asarray(point["v"]), None, None)
        norms.append(float(np.sqrt(np.sum(gv**2) + np.sum(gu**2))))
    limit = losses[12] * 1.0001
    expected = next(i for i, value in enumerate(losses) if value <= limit)
    records = {"loss": Record(objective.loss, every=30)}
    found = train(objective, rule, params, steps=400, key=key, until=Until(loss=limit, every=10), records=records)
    assert (found.step, found.outcome) == (10 * expected, Outcome.converged)
    np.testing.assert_array_equal(found.params["u"], points[expected]["u"])
    # later records repeat what was measured where it ended
    assert found.records["loss"].steps.tolist() == [*range(0, 400, 30), 400]
    assert found.records["loss"].values[-1] == found.records["loss"].values[-2] == pytest.approx(losses[expected])
    limit = norms[20] * 1.0001
    expected = next(i for i, value in enumerate(norms) if value <= limit)
    found = train(objective, rule, params, steps=400, key=key, until=Until(gradient=limit, every=10))
    assert found.step == 10 * expected
    # already there: no step at all
    assert train(objective, rule, params, steps=9, key=key, until=Until(loss=1e9)).step == 0
    whole = train(objective, rule, params, steps=400, key=key, until=Until(loss=1e-300))
    assert (whole.step, whole.outcome) == (400, Outcome.completed)


def test_members_of_an_ensemble_end_by_themselves_and_stay_as_they_are(key, tmp_path):
    objective, params = product()
    until, rates = Until(loss=float(objective.loss(params)) / 20, every=8), np.array([0.002, 0.02, 0.05, 9.0])
    keys = jax.random.split(key, 4)

    def ends(chosen, **more):
        rule = GradientDescent(jnp.asarray(rates[chosen]))
        return train_ensemble(
            objective, rule, params, steps=200, keys=keys[: len(chosen)], batched_params=False, until=until, **more
        )

    together = ends([0, 1, 2, 3])
    assert together.outcome == (Outcome.completed, Outcome.converged, Outcome.converged, Outcome.diverged)
    assert together.step[2] < together.step[1] < together.step[0] == 200
    other = ends([3, 2, 2, 1])
    for name in ("u", "v"):
        assert together.params[name][1].tobytes() == other.params[name][3].tobytes()
        assert together.params[name][2].tobytes() == other.params[name][1].tobytes()
    # interrupted and gone on with: the same
    calls = []

    def stop(done, _steps):
        calls.append(done)
        if done >= 40 and len(calls) < 1000:
            calls.extend([0] * 1000)
            raise KeyboardInterrupt

    file = tmp_path / "c"
    ends([0, 1, 2, 3], checkpoint=file, progress=stop)
    again = ends([0, 1, 2, 3], checkpoint=file)
    assert again.step.tolist() == together.step.tolist()
    assert again.params["u"].tobytes() == together.params["u"].tobytes()
    assert ends([0, 1, 2, 3], checkpoint=file).outcome == together.outcome
    with pytest.raises(UsageError, match="was begun with another condition"):
        train_ensemble(
            objective, GradientDescent(jnp.asarray(rates)), params, steps=200, keys=keys, batched_params=False,
            checkpoint=file,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({}, "neither loss nor gradient"), ({"loss": 0.0}, "loss: got 0.0"), ({"loss": 1.0, "every": 0}, "every: got 0")],
)
def test_conditions_are_checked(arguments, text):
    with pytest.raises(UsageError, match=text):
        Until(**arguments)
