"""Transitions: the logistic fit against its theory, and adaptive studies against full grids."""

import numpy as np
import pytest

from flatmin.studies import find_store, run_study, study_spec
from flatmin.studies.adaptive import lines
from flatmin.studies.store import content_hash
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


def middles(folder):
    store = find_store(folder)
    content = store.read()
    fits = [line.fit() for line in lines(store.study, content, "function.x", "recovered")]
    return np.array([fit.middle for fit in fits]), np.array([fit.half_width for fit in fits])


def test_an_adaptive_study_needs_a_third_of_the_trials_for_the_same_error(tmp_path):
    rows = 40
    full = run_study(coin_spec("full", 4, rows=rows), tmp_path / "full")
    wanted = middles(tmp_path / "full")[1].mean() * 40  # in steps of the axis
    adaptive = {"axis": "function.x", "half_width": float(wanted), "first": 4}
    summary = run_study(coin_spec("adaptive", 60, adaptive, rows=rows), tmp_path / "adaptive")
    assert full.computed == rows * 41 * 4
    found, width = middles(tmp_path / "adaptive")
    assert full.computed >= 3 * summary.computed
    error, full_error = (np.sqrt(np.mean((m - 0.43) ** 2)) for m in (found, middles(tmp_path / "full")[0]))
    # the same error within the noise of a mean square over 40 lines (five standard errors of its ratio are 0.8)
    assert error <= 1.8 * full_error
    assert (width <= wanted / 40 * 1.0001).all()
    # and the interval is true
    assert np.mean(np.abs(found - 0.43) <= width) >= 0.95 - 5 * np.sqrt(0.95 * 0.05 / rows)


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


def test_a_line_without_a_transition_is_left_after_its_ends(tmp_path):
    adaptive = {"axis": "function.x", "half_width": 1.0, "first": 5}
    function = {"call": "study_cells:coin", "outputs": ["recovered"], "scale": 0.01, "middle": 9.0}
    summary = run_study(coin_spec("never", 40, adaptive, function=function), tmp_path / "s")
    assert summary.computed == 6 * 2 * 2
