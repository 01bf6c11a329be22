"""Transitions: the logistic fit against its theory, and adaptive studies against full grids."""

import numpy as np
import pytest

from flatmin.studies import find_store, plan, run_study, study_spec
from flatmin.studies._segments import DONE
from flatmin.studies.adaptive import rounds, transitions
from flatmin.studies.posterior import likelihood, posteriors, transition_of
from flatmin.studies.store import Content, content_hash
from flatmin.studies.transition import fit_logistic, half_point

X = np.linspace(0, 1, 21)


def trials(rng, middle, scale, count):
    p = 1 / (1 + np.exp(-(X - middle) / scale))
    return rng.binomial(count, p)


def test_the_fit_finds_the_curve_and_says_how_well():
    rng = np.random.default_rng(0)
    inside, errors = 0, []
    for _ in range(300):
        middle, scale = rng.uniform(0.3, 0.7), rng.choice([-1, 1]) * rng.uniform(0.03, 0.1)
        fit = fit_logistic(X, trials(rng, middle, scale, 20), np.full(21, 20))
        inside += abs(fit.middle - middle) <= fit.half_width
        errors.append((fit.middle - middle) / fit.middle_error)
        assert np.sign(fit.scale) == np.sign(scale)
    # 95% nominal; five standard errors of a share of 300
    assert abs(inside / 300 - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 300)
    assert abs(np.mean(errors)) < 5 / np.sqrt(300)
    assert 0.8 < np.std(errors) < 1.25


def test_the_fit_is_that_of_the_penalised_likelihood():
    """Firth's estimate by brute force."""
    from scipy.optimize import minimize

    hits, counts = np.array([0, 1, 1, 4, 5]), np.array([5, 5, 4, 5, 5])
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    design = np.stack([np.ones(5), x], 1)

    def loss(beta):
        z = design @ beta
        p = 1 / (1 + np.exp(-z))
        fisher = (design * (counts * p * (1 - p))[:, None]).T @ design
        return -(hits @ z - counts @ np.logaddexp(0, z) + 0.5 * np.linalg.slogdet(fisher)[1])

    best = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 5000}).x
    fit = fit_logistic(x, hits, counts)
    assert fit.middle == pytest.approx(-best[0] / best[1], rel=1e-5)
    assert fit.scale == pytest.approx(1 / best[1], rel=1e-5)


def test_separated_trials_still_have_an_interval():
    hits = np.where(X < 0.52, 0, 5)
    fit = fit_logistic(X, hits, np.full(21, 5))
    assert 0.45 < fit.middle < 0.6
    assert 0 < fit.half_width < 0.2


@pytest.mark.parametrize("hits", [np.zeros(21), np.full(21, 4)])
def test_no_transition_no_number(hits):
    fit = fit_logistic(X, hits, np.full(21, 4))
    assert np.isnan(fit.middle)
    assert np.isnan(half_point(X, hits / 4))


def coin_spec(name, trials, adaptive=None, rows=6, **changes):
    raw = {
        "name": name,
        "seeds": trials,
        "function": {"call": "study_cells:coin", "outputs": ["recovered"], "scale": 0.04, "middle": 0.43},
        "axes": {"function.row": list(range(rows)), "function.x": {"from": 0.0, "to": 1.0, "count": 41}},
    }
    return study_spec(raw | ({"adaptive": adaptive} if adaptive else {}) | changes)


def coins(rng, rows, trials, scale):
    """Middles, and trials by row, position and number: a study's content without a store."""
    middle = rng.uniform(0.35, 0.65, rows)
    p = 1 / (1 + np.exp(-(np.linspace(0, 1, 41) - middle[:, None]) / scale))
    return middle, (rng.random((rows, 41, trials)) < p[:, :, None]).astype(float)


def played(table, adaptive=None):
    """The transitions that a study finds whose cells yield the table; and how many it asks for."""
    study = plan(coin_spec("played", table.shape[2], adaptive, rows=table.shape[0]))
    outcomes = table.ravel()
    content = Content(np.zeros(outcomes.size, np.uint8), {"recovered": np.full(outcomes.size, np.nan)}, {})
    asked = [np.arange(outcomes.size)] if adaptive is None else rounds(study, content, study.spec.adaptive)
    for cells in asked:
        content.states[cells], content.values["recovered"][cells] = DONE, outcomes[cells]
    found = [curve for _, curve in transitions(study, content, "function.x", "recovered")]
    return np.array([c.middle for c in found]), np.array([c.half_width for c in found]), content.count(DONE)


def against_the_full_grid(rows, seed):
    """Trials saved, ratio of the errors with its 95% interval, and the true coverage of the adaptive intervals."""
    rng = np.random.default_rng(seed)
    middle, table = coins(rng, rows, 150, 0.04)
    full, _, count = played(table[:, :, :4])
    chosen, half, spent = played(table[:, :, 4:], {"axis": "function.x", "half_width": 1.35, "first": 2})
    errors = np.stack([chosen - middle, full - middle])
    drawn = rng.integers(0, rows, (4000, rows))
    ratios = np.sqrt(np.divide(*(errors[:, drawn] ** 2).mean(2)))
    ratio = np.sqrt(np.divide(*(errors**2).mean(1)))
    return count / spent, ratio, np.quantile(ratios, (0.025, 0.975)), np.mean(np.abs(errors[0]) <= half)


def test_an_adaptive_study_needs_a_third_of_the_trials_for_the_same_error():
    saved, ratio, _, covered = against_the_full_grid(80, 0)
    assert saved >= 3
    assert ratio <= 1
    assert covered >= 0.95 - 5 * np.sqrt(0.95 * 0.05 / 80)


@pytest.mark.long
def test_over_many_lines_it_is_more_exact_with_a_third_of_the_trials():
    saved, ratio, (low, high), covered = against_the_full_grid(2000, 1)
    print(
        f"{saved:.2f} times fewer trials; error {ratio:.3f} ({low:.3f} to {high:.3f}) of the full grid's; {covered:.3f}"
    )
    assert saved >= 3
    assert high < 1
    assert abs(covered - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 2000)


def test_the_posterior_is_bayes_rule_by_brute_force():
    """One line, the expected variance after one more trial, by summing over both outcomes."""
    x = np.linspace(0, 1, 9)
    hits, counts = np.array([0, 0, 0, 1, 1, 0, 2, 0, 2]), np.array([2, 0, 0, 2, 1, 0, 2, 0, 2])
    (posterior,) = posteriors([likelihood(x, hits, counts)])
    # before any trial: a typical width of any size, and each line's about it
    logs = np.log(posterior.scales)
    apart = np.exp(-0.5 * ((logs[:, None] - logs) / 0.5) ** 2)
    prior = (apart / apart.sum(0)).sum(1)

    def variance(hits, counts):
        weights = np.zeros((len(posterior.middles), len(posterior.scales)))
        for i, middle in enumerate(posterior.middles):
            for j, scale in enumerate(posterior.scales):
                p = 1 / (1 + np.exp(-(x - middle) / scale))
                weights[i, j] = prior[j] * np.prod(p**hits * (1 - p) ** (counts - hits))
        whole = weights.sum()
        mean = (weights.sum(1) @ posterior.middles) / whole
        return (weights.sum(1) @ (posterior.middles - mean) ** 2) / whole, whole

    now, evidence = variance(hits, counts)
    assert posterior.sign == 1
    assert posterior.moments()[1] == pytest.approx(np.sqrt(now), rel=1e-9)
    for k in (0, 3, 5):
        one = np.eye(9, dtype=int)[k]
        after = [variance(hits + hit * one, counts + one) for hit in (0, 1)]
        assert sum(v * w for v, w in after) / evidence == pytest.approx(posterior.spread_after(x[[k]])[0], rel=1e-9)


def test_lines_of_a_study_learn_the_width_from_each_other():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 21)
    sharp = [likelihood(x, trials(rng, 0.5, 0.02, 20), np.full(21, 20)) for _ in range(5)]
    few = likelihood(x, np.eye(21)[20] * 2, 2 * (np.eye(21)[0] + np.eye(21)[20]))
    alone, together = posteriors([few])[0], posteriors([*sharp, few])[-1]
    widths = [transition_of(p, 4).scale for p in (alone, together)]
    assert widths[1] < 0.04 < widths[0]
    falling = likelihood(x, np.array([4, *[0] * 20]), np.array([4, *[0] * 19, 4]))
    assert falling.sign == -1
    assert likelihood(x, np.zeros(21), np.full(21, 3)) is None


def test_an_interrupted_adaptive_study_goes_on_the_same_way(tmp_path):
    adaptive = {"axis": "function.x", "half_width": 1.0, "first": 4}
    spec = coin_spec("a", 40, adaptive)
    run_study(spec, tmp_path / "whole")

    calls = []

    def stop(_progress):
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(spec, tmp_path / "s", progress=stop, batch_size=3)
    run_study(spec, tmp_path / "s", workers=1, batch_size=5)
    hashes = []
    for name in ("whole", "s"):
        store = find_store(tmp_path / name)
        hashes.append(content_hash(store.study, store.read()))
    assert hashes[0] == hashes[1]
    assert run_study(spec, tmp_path / "s").computed == 0
    store = find_store(tmp_path / "s")
    middles = [curve.middle for _, curve in transitions(store.study, store.read(), "function.x", "recovered")]
    assert np.abs(np.array(middles) - 0.43).max() < 0.08


def test_a_line_without_a_transition_is_left_after_its_ends(tmp_path):
    adaptive = {"axis": "function.x", "half_width": 1.0, "first": 5}
    function = {"call": "study_cells:coin", "outputs": ["recovered"], "scale": 0.01, "middle": 9.0}
    summary = run_study(coin_spec("never", 40, adaptive, function=function), tmp_path / "s")
    assert summary.computed == 6 * 2 * 2
