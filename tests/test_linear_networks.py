"""The batched engine against plain loops, autodiff and dense Hessians, run by run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import ks_2samp

from flatmin import UsageError
from flatmin.linear_networks import (
    Network,
    _compiled,
    curvature,
    descend,
    hessian_ends,
    lanczos_ends,
    minimiser_sharpness,
    regression_data,
)
from flatmin.linear_networks._compiled import advance, compiler_options

NETWORKS = {
    "deep": Network(5, 10),
    "depth 1": Network(4, 1),
    "depth 2": Network(3, 2),
    "wide": Network(3, 4, width=6),
    "residual": Network(4, 5, form="residual"),
    "residual, other p": Network(3, 2, form="residual", output_vector=[3.0, 0.0, -4.0]),
    "gelu": Network(4, 4, activation="gelu"),
    "wide tanh": Network(3, 3, width=5, activation="tanh"),
    "relu": Network(5, 3, activation="relu"),
}
ACTIVATIONS = {"identity": lambda z: z, "gelu": jax.nn.gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}
RUNS = 5


def data_for(network, samples=12, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(samples, network.dimension))
    return regression_data(X, X @ rng.normal(size=network.dimension) + rng.normal(size=samples))


def plain_loss(network, data):
    """The loss of one run's layers, typed plainly."""
    act = ACTIVATIONS[network.activation]

    def loss(layers):
        h = jnp.asarray(data.inputs.T)
        for i, W in enumerate(layers):
            h = W @ h
            if i < len(layers) - 1:
                h = act(h)
        if network.output_vector is not None:
            h = jnp.asarray(network.output_vector)[None] @ h
        return jnp.mean((h[0] - jnp.asarray(data.outputs)) ** 2)

    return loss


@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_is_gradient_descent(name):
    network = NETWORKS[name]
    data = data_for(network)
    start = network.initial(jax.random.key(1), np.linspace(0.3, 0.5, RUNS), "float64")
    rates = np.linspace(0.001, 0.01, RUNS)
    # block 2: three blocks, the last one padded, on two threads
    result = descend(
        network, data, start, learning_rate=rates, steps=6, record_at=range(7), snapshots=True, block=2, threads=2
    )
    assert not result.diverged.any()
    loss = plain_loss(network, data)
    gradient = jax.jit(jax.value_and_grad(loss))
    for run in range(RUNS):
        layers = start.of_run(run)
        for step in range(7):
            value, slope = gradient(layers)
            assert result.loss[run, step] == pytest.approx(float(value), rel=1e-10)
            for got, want in zip(result.snapshots[step].of_run(run), layers, strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
            layers = jax.tree.map(lambda W, g, rate=rates[run]: W - rate * g, layers, slope)
    assert result.loss[0, 0] != result.loss[0, 6]


def test_distance_is_to_the_least_squares_solution():
    network = NETWORKS["wide"]
    data = data_for(network)
    start = network.initial(jax.random.key(0), [0.5, 0.7], "float64")
    result = descend(network, data, start, learning_rate=0.01, steps=0)
    W1, W2, W3, W4 = (np.asarray(W) for W in start.of_run(1))
    expected = np.mean(((W4 @ W3 @ W2 @ W1)[0] - np.linalg.pinv(data.inputs) @ data.outputs) ** 2)
    assert result.distance[1, 0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_curvature_is_that_of_the_dense_hessian_with_its_sign(name):
    network = NETWORKS[name]
    data = data_for(network)
    points = network.initial(jax.random.key(3), np.linspace(0.2, 0.7, RUNS), "float64")
    loss = plain_loss(network, data)
    back = ravel_pytree(points.of_run(0))[1]
    hessian = jax.jit(jax.hessian(lambda v: loss(back(v))))
    spectra = np.array([np.linalg.eigvalsh(hessian(ravel_pytree(points.of_run(run))[0])) for run in range(RUNS)])
    ends = hessian_ends(network, data, points)
    np.testing.assert_allclose(ends.highest, spectra[:, -1], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(ends.lowest, spectra[:, 0], rtol=1e-9, atol=1e-10)
    if name not in ("deep", "residual", "gelu", "depth 1"):
        return  # the rest would only test the compiler again
    found = lanczos_ends(network, data, points, key=jax.random.key(0), matvecs=40)
    scale = np.abs(spectra).max(axis=1)
    for value, residual in ((found.highest, found.residual[0]), (found.lowest, found.residual[1])):
        # some eigenvalue lies within the residual
        away = np.abs(spectra - value[:, None]).min(axis=1)
        assert np.all(away <= residual + 1e-10 * scale)
    np.testing.assert_allclose(found.highest, spectra[:, -1], rtol=1e-6, atol=1e-8)


def test_negative_curvature_is_never_called_sharpness():
    """Where the largest |lambda| is negative, both ends are reported with their signs."""
    network = Network(5, 10)
    data = data_for(network, samples=50)
    points = network.initial(jax.random.key(0), np.full(40, 0.3), "float64")
    for ends in (hessian_ends(network, data, points), lanczos_ends(network, data, points, key=jax.random.key(1))):
        negative = -ends.lowest > ends.highest
        assert 3 < negative.sum() < 37
        assert np.all(ends.highest > 0)
        assert np.all(ends.lowest < 0)


@pytest.mark.parametrize("name", ["deep", "depth 2", "wide", "residual"])
@pytest.mark.parametrize("samples", [30, 3])
def test_minimiser_sharpness_is_exact_where_descent_ends(name, samples):
    network = NETWORKS[name]
    data = data_for(network, samples)
    data = regression_data(data.inputs, data.outputs / data.solution_norm)
    start = network.initial(jax.random.key(0), np.full(3, 0.5), "float64")
    end = descend(network, data, start, learning_rate=0.02, steps=40_000)
    assert np.all(end.loss[:, -1] - data.least_loss < 1e-12)
    sharpness = minimiser_sharpness(network, data, end.weights)
    np.testing.assert_allclose(sharpness, hessian_ends(network, data, end.weights).highest, rtol=1e-5)
    bound = 2 * network.depth * data.alignment
    assert np.all(sharpness >= bound * (1 - 1e-6))


def test_divergence_has_its_step_and_stops_nobody_else():
    network, wild = Network(3, 4), 3.0
    data = data_for(network)
    start = network.initial(jax.random.key(0), np.full(4, 0.6), "float64")
    rates = np.array([0.01, wild, 0.01, wild])
    result = descend(network, data, start, learning_rate=rates, steps=60, record_at=range(61), loss_bound=1e6)
    loss, layers, step = plain_loss(network, data), start.of_run(1), 0
    while float(loss(layers)) <= 1e6:
        layers = jax.tree.map(lambda W, g: W - wild * g, layers, jax.grad(loss)(layers))
        step += 1
    assert result.diverged_at[1] == step
    assert list(result.diverged) == [False, True, False, True]
    assert np.isfinite(result.loss[1, :step]).all()
    assert np.isnan(result.loss[1, step:]).all()
    alone = descend(network, data, start, learning_rate=0.01, steps=60)
    np.testing.assert_allclose(result.loss[0, -1], alone.loss[0, -1], rtol=1e-12)
    assert all(np.isnan(W).all() for W in result.weights.of_run(3))
    assert np.isnan(minimiser_sharpness(network, data, result.weights)[[1, 3]]).all()


def test_runs_of_different_length_and_blocks_agree():
    network = Network(4, 3)
    data = data_for(network)
    start = network.initial(jax.random.key(0), np.linspace(0.3, 0.8, 7), "float64")
    steps = np.array([5, 50, 20, 50, 0, 5, 300])
    whole = descend(network, data, start, learning_rate=0.01, steps=steps, block=7, threads=1)
    cut = descend(network, data, start, learning_rate=0.01, steps=steps, block=2, threads=3)
    np.testing.assert_allclose(whole.loss, cut.loss, rtol=1e-11)
    single = descend(network, data, start, learning_rate=0.01, steps=20)
    assert whole.loss[2, list(whole.steps).index(20)] == pytest.approx(single.loss[2, -1], rel=1e-11)
    assert np.isnan(whole.loss[0, -1])


def test_one_compilation_a_shape():
    network = Network(3, 7)
    start = network.initial(jax.random.key(0), np.full(4, 0.4), "float64")
    before = advance.cache_size()
    for seed, rate, steps in ((0, 0.01, 7), (1, 0.3, 1000), (2, 0.05, 3)):
        descend(network, data_for(network, seed=seed), start, learning_rate=rate, steps=steps, block=4)
    assert advance.cache_size() == before + 1


def test_initial_weights_do_not_depend_on_the_other_runs():
    network = Network(4, 3, form="residual")
    many = network.initial(jax.random.key(0), [0.0, 0.5, 1.0])
    one = network.initial(jax.random.key(0), [0.0, 0.5])
    np.testing.assert_array_equal(many.inner[..., :2], one.inner)
    np.testing.assert_array_equal(many.inner[..., 0], np.broadcast_to(np.eye(4), (3, 4, 4)))
    noise = (np.asarray(many.inner[..., 2]) - np.eye(4)) * (3 * 4) ** 0.5
    assert 0.6 < noise.std() < 1.4


def test_single_precision_has_the_distribution_of_double_at_the_edge_of_stability():
    """Chaotic runs differ step by step; where they end is a distribution, and that is compared."""
    network = Network(5, 10)
    data = data_for(network, samples=50, seed=3)
    data = regression_data(data.inputs, data.outputs / data.solution_norm)
    rate = 1.15 / (10 * data.alignment)
    scales = np.full(256, 0.35)
    ends = {}
    for dtype in ("float32", "float64"):
        start = network.initial(jax.random.key(7 if dtype == "float32" else 8), scales, dtype)
        result = descend(network, data, start, learning_rate=rate, steps=1500)
        assert result.diverged.mean() < 0.2
        ends[dtype] = np.log(result.loss[~result.diverged, -1])
    assert ks_2samp(ends["float32"], ends["float64"]).pvalue > 0.01
    assert ks_2samp(ends["float32"], ends["float64"] + 1).pvalue < 1e-6


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Network(3, 2, width=5, form="residual"), "the residual form has width d = 3"),
        (lambda: Network(3, 2, output_vector=[1, 0, 0]), "an MLP trains its last layer"),
        (lambda: Network(3, 2, form="residual", output_vector=[0, 0, 0]), "a norm above zero"),
        (lambda: Network(3, 2, activation="glue"), "did you mean 'gelu'"),
        (lambda: Network(3, 0), "depth: got 0"),
        (lambda: regression_data(np.ones((3, 2)), np.ones(4)), "outputs: got shape \\(4,\\), expected \\(3,\\)"),
        (lambda: regression_data(np.ones((3, 2)), [1.0, np.nan, 0.0]), "outputs: got 1 value"),
    ],
)
def test_mistakes_are_told(make, sentence, unchecked):
    with pytest.raises(UsageError, match=sentence):
        make()


def test_mistakes_of_descend_are_told(unchecked):
    network = Network(3, 2)
    data = data_for(network)
    start = network.initial(jax.random.key(0), [0.5, 0.5])
    with pytest.raises(UsageError, match="learning_rate: got shape \\(3,\\)"):
        descend(network, data, start, learning_rate=[0.1, 0.1, 0.1], steps=3)
    with pytest.raises(UsageError, match="learning_rate: got"):
        descend(network, data, start, learning_rate=-1.0, steps=3)
    with pytest.raises(UsageError, match="has 4 features"):
        descend(network, data_for(Network(4, 2)), start, learning_rate=0.1, steps=3)
    with pytest.raises(UsageError, match="same number of steps"):
        descend(network, data, start, learning_rate=0.1, steps=[1, 2], snapshots=True)
    with pytest.raises(UsageError, match="needs a linear network"):
        minimiser_sharpness(Network(3, 2, activation="tanh"), data, start)


def test_the_options_of_the_compiler_are_asked_one_by_one_and_said(monkeypatch):
    """One that this XLA does not know costs no other; the result says which were used."""
    data, start = data_for(Network(3, 2)), Network(3, 2).initial(jax.random.key(0), np.full(2, 0.3))
    assert descend(Network(3, 2), data, start, learning_rate=0.01, steps=1).compiler_options == compiler_options()
    assert _compiled._known({"xla_cpu_prefer_vector_width": 512})
    assert not _compiled._known({"xla_cpu_no_such_option": 1})
    monkeypatch.setattr(_compiled, "_EMITTERS", {"xla_cpu_enable_fast_math": False})
    monkeypatch.setattr(_compiled, "_WIDTH", {"xla_cpu_no_such_option": 1})
    assert compiler_options.__wrapped__() == {"xla_cpu_enable_fast_math": False}
    monkeypatch.setattr(_compiled, "_EMITTERS", {"xla_cpu_no_such_option": 1})
    assert compiler_options.__wrapped__() == {}


def test_residuals_of_tridiagonal_matrices_hold_rounding():
    """At an exhausted Krylov space the residual is rounding alone, and bounds the error: float32 beside float64."""
    rng = np.random.default_rng(0)
    alphas, betas = rng.normal(size=(8, 300)).astype(np.float32), np.abs(rng.normal(size=(8, 300))).astype(np.float32)
    betas[-1] = 0
    theta, residual = curvature._tridiagonal_top(jnp.asarray(alphas), jnp.asarray(betas))
    sides = [np.diag(b, 1) + np.diag(b, -1) for b in np.float64(betas[:-1].T)]
    full = np.array([np.diag(a) + side for a, side in zip(np.float64(alphas.T), sides, strict=True)])
    away = np.abs(np.linalg.eigvalsh(full)[:, -1] - np.float64(theta))
    assert np.all(away <= np.float64(residual))
    assert np.all(residual <= 100 * np.finfo(np.float32).eps * np.abs(full).sum(axis=2).max(axis=1))
