"""The second paper at reduced size: the claims hold, and fail when data are exchanged; its presets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError, hessian_trace, sharpness
from flatmin._core.intervals import geometric, wilson
from flatmin.experiments import settings_of
from flatmin.experiments.papers import marion2024
from flatmin.experiments.papers.marion2024.claims import claims, measured_critical_rate
from flatmin.experiments.papers.marion2024.figures import figures
from flatmin.experiments.papers.marion2024.results import Results
from flatmin.experiments.papers.marion2024.spec import SIZES, Sweep
from flatmin.parameterizations import Gaussian, Residual
from flatmin.problems import activated_regression, deep_linear_regression
from paper_runs import quick_run


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return quick_run(marion2024, Results, tmp_path_factory.mktemp("cells"))


def verdicts(results):
    return {claim.name: claim.holds for claim in claims(results)}


def test_a_value_is_the_papers_only_where_it_is():
    origins = {size: {s.name: s.origin for s in settings_of(SIZES[size](0))} for size in ("full", "quick")}
    for name in ("mlp.scales", "mlp.regression.dimension", "gelu.steps", "depths.repeats"):
        assert (origins["full"][name], origins["quick"][name]) == ("paper", "ours"), name
    for name in ("underdetermined.regression.noise", "residual.scales", "rank_one.depth", "precision"):
        assert origins["full"][name] == "ours", name
    assert {origins[size]["gelu.activation"] for size in origins} == {"paper"}


def test_every_claim_holds_at_reduced_size(quick):
    found = {claim.name: claim.verdict for claim in quick["content"].claims}
    assert set(found.values()) == {"holds"}, found


def test_claims_fail_on_exchanged_data(quick):
    results = quick["results"]
    mlp = results.mlp
    flat = dataclasses.replace(results, mlp=mlp.assign(minimiser_sharpness=mlp.minimiser_sharpness / 4))
    assert not verdicts(flat)["lower-bound-mlp"]
    sharp = dataclasses.replace(results, mlp=mlp.assign(minimiser_sharpness=mlp.minimiser_sharpness * 50))
    assert not verdicts(sharp)["flow-bound-mlp"]
    assert not verdicts(sharp)["edge-of-stability-mlp"]
    reversed_scales = mlp.assign(scale=mlp.scale.max() + mlp.scale.min() - mlp.scale)
    assert not verdicts(dataclasses.replace(results, mlp=reversed_scales))["divergence-grows-mlp"]
    first, last = min(results.depths), max(results.depths)
    crossed = {first: results.depths[last].assign_attrs(results.depths[first].attrs), last: results.depths[last]}
    assert not verdicts(dataclasses.replace(results, depths=crossed))["critical-learning-rate"]
    under = results.underdetermined
    inverse = dataclasses.replace(results, underdetermined=under.assign(gap=1 / under.gap))
    assert not verdicts(inverse)["gap-grows-with-sharpness"]
    ranks = results.rank_one.assign(final_stable_rank=results.rank_one.initial_stable_rank)
    after = verdicts(dataclasses.replace(results, rank_one=ranks))
    assert not after["near-rank-one"]
    assert not after["rank-one-rate"]
    unmeasured = dataclasses.replace(results, mlp=mlp.assign(final_loss=mlp.final_loss * np.nan))
    assert not verdicts(unmeasured)["lower-bound-mlp"]


def test_sharpness_has_a_small_residual_and_agrees_with_the_closed_form(quick):
    runs = quick["results"].mlp
    fine = (runs.final_loss - runs.least_loss < 1e-10).values
    assert fine.sum() > 50
    np.testing.assert_allclose(runs.final_sharpness.values[fine], runs.minimiser_sharpness.values[fine], rtol=1e-3)
    assert float((runs.curvature_residual / runs.initial_sharpness).max()) < 1e-3


def test_figures_have_every_plot(quick):
    drawn = {figure.key: figure for figure in figures(quick["results"])}
    assert len(drawn) == 11
    lines = {line.label for line in drawn["mlp-scales"].panels[1].lines}
    assert lines == {"2/η", "lower bound 2La", "flow's upper line 8LΛ"}
    assert len(drawn["depths"].panels) == 2 * len(quick["results"].depths)
    assert "figure-01-mlp-scales" in quick["content"].datasets


def test_full_size_is_the_papers():
    full = SIZES["full"](0)

    def total(sweep: Sweep) -> tuple[int, int]:
        runs = len(sweep.scales) * sum(sweep.repeats)
        return runs, len(sweep.scales) * sum(n * r for n, r in zip(sweep.steps, sweep.repeats, strict=True))

    assert total(full.mlp) == (1600, 13_200_000)
    assert total(full.gelu) == (480, 34_560_000)
    assert full.depths.learning_rates[[0, -1]] == pytest.approx([1e-2, 10**-0.3])
    with pytest.raises(ValueError, match="give one each"):
        Sweep.model_validate(full.mlp.model_dump() | {"steps": (1,)})


def test_intervals():
    assert wilson(0, 20)[0] == 0
    assert wilson(0, 20)[2] == pytest.approx(0.1611, abs=1e-4)
    assert wilson(20, 20)[1] == pytest.approx(0.8389, abs=1e-4)
    values = np.array([1.0, 4.0, np.nan, 0.0])
    assert geometric(values)[0] == pytest.approx(2)
    assert np.isnan(geometric(values[2:])[0])


def test_critical_rate_is_not_measured_when_nothing_fails(quick):
    runs = next(iter(quick["results"].depths.values()))
    assert np.isnan(
        measured_critical_rate(
            runs.assign(
                final_loss=("run", np.full(runs.sizes["run"], runs.least_loss)), diverged_at=0 * runs.diverged_at - 1
            )
        )
    )


def regression_example():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(9, 3))), jnp.asarray(rng.normal(size=(9,)))


@pytest.mark.parametrize("outputs", [1, 2])
def test_residual_preset_is_a_product_with_a_fixed_readout(outputs):
    X, _ = regression_example()
    Y = jnp.asarray(np.random.default_rng(1).normal(size=(9, outputs)))
    problem = deep_linear_regression(X, Y, depth=4, form="residual")
    params = problem.parameterization.init_params(jax.random.key(0), Residual(0.5))
    P = problem.parameterization.readout
    W1, W2, W3, W4 = params
    expected = jnp.mean((X @ (P @ W4 @ W3 @ W2 @ W1).T - Y) ** 2)
    assert float(problem.loss(params)) == pytest.approx(float(expected), rel=1e-12)
    flat, back = jax.flatten_util.ravel_pytree(params)
    H = jax.hessian(lambda v: problem.loss(back(v)))(flat)
    assert float(hessian_trace(problem, params)) == pytest.approx(float(jnp.trace(H)), rel=1e-10)
    assert float(sharpness(problem, params)) == pytest.approx(float(jnp.linalg.eigvalsh(H)[-1]), rel=1e-8)


@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh"])
def test_activated_preset(activation):
    X, y = regression_example()
    problem = activated_regression(X, y, depth=3, activation=activation, width=4)
    W1, W2, W3 = params = problem.init_params(jax.random.key(0), Gaussian(0.7))
    act = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}[activation]
    residual = (W3 @ act(W2 @ act(W1 @ X.T)))[0] - y
    assert float(problem.loss(params)) == pytest.approx(float(jnp.mean(residual**2)), rel=1e-12)
    some = jnp.array([2, 2, 5])
    assert float(problem.batch_loss(params, some, None)) == pytest.approx(
        float(jnp.mean(residual[some] ** 2)), rel=1e-12
    )


def test_presets_tell_mistakes(unchecked):
    X, y = regression_example()
    assert deep_linear_regression(X, y, depth=3, widths=(4, 6)).parameterization.widths == (3, 4, 6, 1)
    with pytest.raises(UsageError, match="expected 2 hidden widths"):
        deep_linear_regression(X, y, depth=3, widths=(4,))
    with pytest.raises(UsageError, match="an MLP trains its last layer"):
        deep_linear_regression(X, y, depth=3, readout=jnp.ones(3))
    with pytest.raises(UsageError, match="leave width"):
        deep_linear_regression(X, y, depth=3, width=3, form="residual")
    with pytest.raises(UsageError, match="activation"):
        activated_regression(X, y, depth=3, activation="glue")
    with pytest.raises(UsageError, match="readout: got shape"):
        deep_linear_regression(X, y, depth=3, form="residual", readout=jnp.ones(4))
