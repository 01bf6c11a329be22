"""The first paper at reduced size: the claims hold, and would not hold if the dynamics were exchanged."""

import dataclasses
import math

import numpy as np
import pytest
import xarray as xr

from flatmin import JobError
from flatmin.experiments import obtain_run
from flatmin.experiments.cells import Context, compute_cells
from flatmin.experiments.papers import gatmiry2023, paper
from flatmin.experiments.papers.gatmiry2023 import compute
from flatmin.experiments.papers.gatmiry2023.claims import claims
from flatmin.experiments.papers.gatmiry2023.figures import figures
from flatmin.experiments.papers.gatmiry2023.results import Results
from flatmin.experiments.papers.gatmiry2023.spec import SIZES, Phase, Training
from flatmin.studies.cells import Cell
from paper_runs import quick_run


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return quick_run(gatmiry2023, Results, tmp_path_factory.mktemp("cells"))


def test_every_claim_holds_at_reduced_size(quick):
    verdicts = {claim.name: claim.verdict for claim in quick["content"].claims}
    open_ones = {name for name, verdict in verdicts.items() if verdict == "not measured"}
    assert open_ones <= {name for name in verdicts if name.startswith("spikes-improve")}  # where there is no spike
    assert set(verdicts.values()) <= {"holds", "not measured"}, verdicts
    assert {"theorem-1", "theorem-4", "convex-baseline-certified", "trace-falls-depth-3"} <= set(verdicts)


def test_claims_fail_when_the_label_noise_is_taken_away(quick):
    results = quick["results"]
    exchanged = dataclasses.replace(
        results,
        runs={(depth, seed, name): results.runs[depth, seed, "plain"] for depth, seed, name in results.runs},
    )
    verdicts = {claim.name: claim.holds for claim in claims(exchanged)}
    for name in ("trace-falls", "nuclear-norm-minimal", "test-loss-falls", "plain-sgd-stays"):
        assert not verdicts[f"{name}-depth-3"], name


def test_theorems_fail_on_wrong_numbers(quick):
    results = quick["results"]
    doubled = results.frobenius.assign(error=2 * results.frobenius.error)
    far = results.sandwich.assign(ratio=1 + 3 * results.sandwich.delta + 0 * results.sandwich.ratio)
    verdicts = {c.name: c.holds for c in claims(dataclasses.replace(results, frobenius=doubled, sandwich=far))}
    assert not verdicts["theorem-4"]
    assert not verdicts["theorem-1"]


def test_predicted_trace_is_the_closed_form(quick):
    run = quick["results"].runs[3, 0, "label noise"]
    expected = 6 * (12 * 12) ** (1 / 3) * float(run.final_nuclear_norm) ** (4 / 3)
    assert float(run.final_predicted_trace) == pytest.approx(expected, rel=1e-12)
    assert float(run.final_true_nuclear_norm) == pytest.approx(1.0)  # rank one, unit Frobenius norm


def test_figures_have_the_curves_lines_and_units(quick):
    drawn = {figure.key: figure for figure in figures(quick["results"])}
    assert list(drawn) == ["figure-1-depth-3", "figure-2-depth-3", "theorem-4", "theorem-1"]
    trace, nuclear = drawn["figure-2-depth-3"].panels
    assert [s.label for s in trace.series] == ["label-noise SGD", "mini-batch SGD"]
    assert nuclear.lines[0].value == pytest.approx(1.0, abs=1e-6)
    run = quick["results"].runs[3, 0, "label noise"]
    np.testing.assert_allclose(trace.series[0].y[-1], run.trace.values[-1])
    assert trace.y.log
    assert "SGD steps" in trace.x.text


def test_same_spec_is_found_again_and_cells_are_reused(quick, tmp_path):
    spec = SIZES["quick"](0)
    started = []
    context = Context(quick["folder"], workers=1, progress=lambda name, done, total: started.append((name, done)))
    run, computed = obtain_run(paper("gatmiry2023").experiment, spec, lambda s: compute(s, context), out=tmp_path)
    assert computed
    assert all(done in (0, 1) for _, done in started), "a finished cell was trained again"
    again, computed = obtain_run(
        paper("gatmiry2023").experiment, spec, lambda _: pytest.fail("recomputed"), out=tmp_path
    )
    assert not computed
    assert again.id == run.id
    assert {c.name for c in again.claims} == {c.name for c in quick["content"].claims}


def test_other_seed_other_numbers_and_id(quick, tmp_path):
    del tmp_path
    assert SIZES["quick"](1) != SIZES["quick"](0)
    assert SIZES["full"](0).training.depths == (2, 3, 5)
    assert SIZES["demo"](0).training.dimension == 60


def test_divergence_is_a_job_error_with_the_step(tmp_path):
    wild = {3: (Phase(steps=200, learning_rate=5.0, noise=1.0),)}
    training = SIZES["quick"](0).training.model_copy(update={"schedules": wild})
    spec = SIZES["quick"](0).model_copy(update={"training": training})
    with pytest.raises(JobError, match=r"diverged at step \d+; lower the step sizes"):
        compute(spec, Context(tmp_path, workers=1))


def test_schedules_must_cover_the_depths():
    with pytest.raises(ValueError, match="no phases for depth 4"):
        Training(depths=(4,), schedules=SIZES["quick"](0).training.schedules)


def numbers(value):
    return lambda *_: xr.Dataset({"value": float(value)})


def test_cells_are_kept_when_a_later_one_fails(tmp_path):
    def fail(*_):
        raise JobError("no luck")

    good = Cell("good", {"n": 1}, numbers(3))
    with pytest.raises(JobError, match="no luck"):
        compute_cells({"good": good, "bad": Cell("bad", {"n": 2}, fail)}, Context(tmp_path, workers=1))
    never = Cell("good", {"n": 1}, lambda *_: pytest.fail("computed again"))
    done = compute_cells({"good": never, "bad": Cell("bad", {"n": 2}, numbers(4))}, Context(tmp_path))
    assert float(done["good"].value) == 3
    assert float(done["bad"].value) == 4


def test_a_damaged_cell_is_computed_again(tmp_path):
    cell = Cell("c", {"n": 1}, numbers(3))
    compute_cells({0: cell}, Context(tmp_path))
    (file,) = tmp_path.glob("*.cell")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    done = compute_cells({0: Cell("c", {"n": 1}, numbers(5))}, Context(tmp_path))
    assert float(done[0].value) == 5


def test_interrupt_stops_the_other_cells(tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    def patient(_checkpoint, progress):
        for i in range(10_000_000):
            progress(i, 10_000_000)
        return numbers(math.nan)()

    with pytest.raises(KeyboardInterrupt):
        compute_cells({0: Cell("a", {"n": 1}, interrupted), 1: Cell("b", {"n": 2}, patient)}, Context(tmp_path))
    assert not list(tmp_path.glob("*.cell"))


def test_cells_folder_that_cannot_be_made(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(JobError, match="out: cannot write to"):
        compute_cells({0: Cell("a", {"n": 1}, numbers(1))}, Context(blocked / "cells"))
