"""What kind of run it was: curves made by hand, and real runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import Outcome, UsageError
from flatmin.dynamics import (
    GradientDescent,
    Record,
    classify_run,
    progressive_sharpening_rate,
    stability_report,
    train,
)
from flatmin.flatness import (
    curvature_range,
    hessian_ends,
)
from flatmin.parameterizations import Gaussian
from flatmin.problems import deep_linear_regression
from flatmin.theory import marion2024

# --- what kind of run: curves made by hand --------------------------------------------------------

ETA = 0.1  # 2/eta = 20
K = np.arange(400)
FLAT = np.full(400, 5.0)


def test_converged_at_the_first_loss_that_stays_low():
    verdict = classify_run(np.exp(-0.1 * K), FLAT, ETA, least_loss=0.0)
    assert (verdict.kind, verdict.step, verdict.edge_step) == ("converged", 139, -1)  # exp(-13.9) < 1e-6
    assert not verdict.started_beyond
    assert "from step 139 on" in verdict.reason
    verdict = classify_run(1 + np.exp(-0.1 * K), FLAT, ETA)  # within 2e-6 of each other
    assert (verdict.kind, verdict.step) == ("converged", 132)
    bumped = np.exp(-0.1 * K)
    bumped[200] = 1e-3
    assert classify_run(bumped, FLAT, ETA, least_loss=0.0).step == 201
    assert classify_run(np.exp(-0.1 * K), FLAT, ETA, steps=10 * K, least_loss=0.0).step == 1390


def test_diverged_at_the_first_loss_out_of_range():
    verdict = classify_run(2.0 ** np.arange(60), np.full(60, 30.0), ETA)
    assert (verdict.kind, verdict.step) == ("diverged", 20)  # 2^20 > 1e6
    assert verdict.started_beyond
    broken = np.exp(-0.1 * K)
    broken[7] = np.nan
    assert (classify_run(broken, FLAT, ETA).kind, classify_run(broken, FLAT, ETA).step) == ("diverged", 7)
    assert classify_run(np.exp(-0.1 * K[:50]), FLAT[:50], ETA, divergence_step=55).step == 55
    assert classify_run([0.0, 1e20], [1.0, 1.0], ETA).kind == "descending"  # from zero there is no scale but 1e30
    assert classify_run([0.0, 1e31], [1.0, 1.0], ETA).kind == "diverged"


def at_the_edge():
    """Sharpness climbs from 10 to 20 in 100 steps and stays; the loss falls with a ripple of period three."""
    ripple = 1 + 0.3 * (K % 3 == 0) * (K > 100)
    return np.exp(-0.005 * K) * ripple, np.minimum(10 + 0.1 * K, 20 + 0.5 * np.sin(K))


def test_edge_of_stability_from_the_first_step_in_the_band():
    losses, S = at_the_edge()
    verdict = classify_run(losses, S, ETA, least_loss=0.0)
    assert (verdict.kind, verdict.step, verdict.edge_step) == ("edge of stability", 60, 60)  # 16 = 0.8 * 20
    assert verdict.rises == pytest.approx(1 / 3, abs=0.01)
    narrow = classify_run(losses, S, ETA, band=0.05)
    assert (narrow.kind, narrow.step) == ("edge of stability", 90)
    sparse = np.where(K % 10 == 0, S, np.nan)
    assert classify_run(losses, sparse, ETA).step == 60
    assert classify_run(losses, 0.5 * S, ETA).kind == "oscillating"  # not at 2/eta
    assert classify_run(losses, np.full(400, np.nan), ETA).kind == "oscillating"


def test_oscillating_goes_nowhere():
    losses = np.where(K % 2 == 0, 1.0, 0.5)
    losses[:4] = [3.0, 2.0, 1.5, 0.4]
    for S in (30.0, 20.0):  # beyond 2/eta, or at it: without progress it is no edge of stability
        verdict = classify_run(losses, np.full(400, S), ETA, least_loss=0.0)
        assert (verdict.kind, verdict.step) == ("oscillating", 3)
        assert verdict.rises == pytest.approx(0.5, abs=0.01)
    odd = classify_run(losses[:399], np.full(399, 20.0), ETA, least_loss=0.0)
    assert odd.kind == "oscillating"


def test_descending_is_not_decided():
    verdict = classify_run(1 / (1 + K), FLAT, ETA, least_loss=0.0)
    assert (verdict.kind, verdict.step) == ("descending", 399)
    assert verdict.rises == 0


def test_sharpening_rate():
    S = at_the_edge()[1]
    rate = progressive_sharpening_rate(K, S, ETA, until=0.95)
    assert float(rate) == pytest.approx(1.0, rel=1e-9)  # 0.1 a step, a step is 0.1
    assert float(rate.error) < 1e-9
    noisy = 10 + 0.1 * K[:80] + np.random.default_rng(0).normal(size=80)
    fit, cov = np.polyfit(ETA * K[:80], noisy, 1, cov="unscaled")
    rate = progressive_sharpening_rate(K[:80], noisy, ETA, until=10)
    residual = noisy - np.polyval(fit, ETA * K[:80])
    assert float(rate.error) == pytest.approx(np.sqrt(cov[0, 0] * residual @ residual / 78), rel=1e-9)
    beyond = progressive_sharpening_rate(K, np.full(400, 21.0), ETA)
    assert np.isnan(float(beyond))
    assert float(beyond.error) == np.inf


# --- what kind of run: real ones ------------------------------------------------------------------


@functools.cache
def real():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3)) * np.geomspace(1, 2, 3)
    y = X @ rng.normal(size=3) + 0.5 * rng.normal(size=20)
    y = y / marion2024.regression_constants(X, y).w_norm
    return deep_linear_regression(jnp.asarray(X), y, depth=3), marion2024.regression_constants(X, y)


def report(rate, scale=0.1, steps=300, every=1):
    problem, c = real()
    params = problem.parameterization.init_params(jax.random.key(0), Gaussian(scale))
    result = train(
        problem,
        GradientDescent(rate),
        params,
        steps=steps,
        key=jax.random.key(0),
        records={
            "loss": Record(problem.loss, every=1),
            "sharpness": Record(functools.partial(hessian_ends, problem), every=every),
        },
    )
    return result, stability_report(result, rate, highest=lambda v: v[:, 1], least_loss=float(c.least_loss))


def test_real_run_below_the_critical_rate_converges():
    _, c = real()
    rate = 0.6 * float(marion2024.critical_learning_rate(c.a, c.w_norm, 3))
    result, seen = report(rate)
    assert seen.verdict.kind == "converged"
    assert seen.verdict.edge_step == -1
    assert seen.threshold == 2 / rate
    assert float(seen.sharpening) > 5 * float(seen.sharpening.error)  # from a small start the sharpness rises
    excess = np.asarray(result.records["loss"].values) - float(c.least_loss)
    step = seen.verdict.step
    assert np.all(excess[step:] <= 1e-6 * excess[0])
    assert excess[step - 1] > 1e-6 * excess[0]
    assert seen.sharpness[-1] < seen.threshold
    _, sparse = report(rate, every=50)
    assert sparse.verdict.step == step
    np.testing.assert_array_equal(sparse.steps, np.arange(0, 301, 50))
    np.testing.assert_allclose(sparse.losses, result.records["loss"].values[::50], rtol=1e-12)


def test_real_run_beyond_the_critical_rate_does_not_converge():
    _, c = real()
    _, seen = report(1.05 * float(marion2024.critical_learning_rate(c.a, c.w_norm, 3)), steps=1000)
    assert seen.verdict.kind in ("oscillating", "edge of stability")
    assert seen.losses[-1] > 1.001 * float(c.least_loss)


def test_real_run_between_flow_and_flattest_ends_flatter_than_the_flow():
    """The balanced minimiser, where the flow ends, is too sharp for this rate: training goes to the edge first."""
    _, c = real()
    balanced = float(marion2024.balanced_rank_one_sharpness(c.covariance, c.minimiser, 3))
    _, seen = report(2 / (1.02 * balanced))
    assert seen.verdict.kind == "converged"
    assert 0 <= seen.verdict.edge_step < seen.verdict.step
    _, early = report(2 / (0.995 * balanced), steps=2000)
    assert early.verdict.kind == "edge of stability"
    assert np.abs(early.sharpness[1000:] / early.threshold - 1).max() < 0.2


def test_initialisation_beyond_two_over_eta():
    """It starts where descent is unstable: a moderate excess leads to a flatter place, a large one to divergence."""
    problem, _ = real()
    params = problem.parameterization.init_params(jax.random.key(0), Gaussian(1.2))
    S = float(curvature_range(problem, params).highest)
    _, moderate = report(2.4 / S, scale=1.2)
    assert moderate.verdict.started_beyond
    assert moderate.verdict.kind == "converged"
    assert np.isnan(float(moderate.sharpening))
    result, far = report(12 / S, scale=1.2)
    assert far.verdict.started_beyond
    assert (far.verdict.kind, result.outcome) == ("diverged", Outcome.diverged)
    assert far.verdict.step <= result.divergence_step


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: classify_run([1.0, 2.0], [1.0], 0.1), r"sharpness: got shape \(1,\), expected \(2,\), as `losses`"),
        (lambda: classify_run([], [], 0.1), "losses: got a list of 0, which is empty"),
        (lambda: classify_run([1.0, 2.0], [1.0, 1.0], 0.1, steps=[3, 3]), "steps: expected increasing steps"),
        (lambda: classify_run([1.0], [1.0], -0.1), "learning_rate: got -0.1"),
        (lambda: progressive_sharpening_rate([1, 2], [1.0], 0.1), r"sharpness: got shape \(1,\), expected \(2,\)"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()


def test_reports_need_their_records():
    problem, _ = real()
    params = problem.parameterization.init_params(jax.random.key(0), Gaussian(0.1))
    result = train(problem, GradientDescent(0.01), params, steps=3, key=jax.random.key(0))
    with pytest.raises(UsageError, match=r"result: has the records \[\], expected one named 'loss'"):
        stability_report(result, 0.01)
