"""The ledger: every theorem has a line, every line holds, and no line would hold if its theorem said something else."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError
from flatmin.cli import main
from flatmin.experiments import find_runs, ledger
from flatmin.experiments.cells import Context
from flatmin.experiments.figure_data import from_dataset, is_figure
from flatmin.experiments.ledger import ENTRIES, Batch, Entry, Family, _deep, _draw, decide, measure_entry, rebuild
from flatmin.experiments.ledger._entry import make_batch
from flatmin.experiments.ledger._verdict import failures, mutation_of
from flatmin.measurements import dense, gaussian, rip_exact, rip_lower_estimate
from flatmin.theory import STATEMENTS, ding2022

# compilations of seconds each; they run with the long tests
SLOW = {
    "ding-theorem-3-2-bound",
    "ding-theorem-3-2-convex",
    "ding-robust-pca-flat",
    "ding-robust-recovery",
    "gatmiry-definition-1",
    "mulayoff-threshold",
    "kamber-sharpness",
} | {key for key in ENTRIES if key.startswith("drift-") and key != "drift-full-batch-sam"}
KEYS = [pytest.param(key, marks=pytest.mark.long if key in SLOW else ()) for key in ENTRIES]


@functools.cache
def table(key):
    return measure_entry(ENTRIES[key], seed=0, quick=True)


def test_every_theorem_has_a_line():
    tested = {name for entry in ENTRIES.values() for name in entry.functions}
    assert set(STATEMENTS) <= tested, f"no line of the ledger for {sorted(set(STATEMENTS) - tested)}"
    assert tested <= set(STATEMENTS), f"no theory function {sorted(tested - set(STATEMENTS))}"


@pytest.mark.parametrize("key", KEYS)
def test_a_line_holds_and_a_falsified_one_does_not(key):
    entry = ENTRIES[key]
    claim = decide(entry, table(key))
    assert claim.holds, f"{claim.measured_text}; {claim.note}"
    assert not decide(entry, table(key), mutation_of(entry)).holds
    assert not failures(entry, table(key)).size
    assert table(key).sizes["instance"] >= 2
    # equalities and tight bounds feel 5%, means two and a half margins, loose bounds and shares the turned inequality
    expected = "shift" if entry.kind in ("value", "mean") or entry.tight else "swap"
    assert mutation_of(entry) == expected


def test_lines_are_complete_and_adversarial():
    for entry in ENTRIES.values():
        assert entry.statement.endswith((".", ")"))
        assert entry.source.startswith(("[", "ours", "first order"))
        assert any(f.instances(quick=True) for f in entry.families), f"{entry.key}: nothing at the quick size"
        assert all(f.instances(quick=True) <= max(f.count, f.quick or 0) for f in entry.families)
        assert (entry.margin > 0) == (entry.kind == "mean")
        labels = [f.label for f in entry.families]
        assert len(set(labels)) == len(labels)
    full = sum(f.count for entry in ENTRIES.values() for f in entry.families)
    assert full > 50_000
    settings = [f.settings for entry in ENTRIES.values() for f in entry.families]
    assert {"ill", "deficient", "spread", "huge"} <= {s.get("kind") for s in settings}
    assert max(len(s.get("widths", ())) for s in settings) > 10  # depth
    assert any(len(set(s.get("widths", ()))) > 3 for s in settings)  # unequal widths


def test_instances_are_made_again_bit_for_bit():
    for key in ("gatmiry-lemma-1", "ding-theorem-3-2-convex", "marion-theorem-1"):
        rows = table(key)
        at = rows.sizes["instance"] - 1
        address = ledger.address(ENTRIES[key], rows, at)
        found = rebuild(address, quick=True)
        assert found.address == address
        assert found.predicted == float(rows.predicted[at])
        assert found.measured == float(rows.measured[at])
        assert found.data
        assert found.family == ENTRIES[key].families[int(rows.family[at])].label
    other = make_batch(ENTRIES["gatmiry-lemma-1"], 0, seed=1, quick=True)
    assert not np.any(other.measured == make_batch(ENTRIES["gatmiry-lemma-1"], 0, seed=0, quick=True).measured)
    X, Y = (rebuild("gatmiry-lemma-1:0:3").data[name] for name in ("X", "Y"))
    nuclear = np.linalg.svd(X @ Y, compute_uv=False).sum()
    assert rebuild("gatmiry-lemma-1:0:3").measured == pytest.approx(nuclear, rel=1e-14)


# --- verdicts -------------------------------------------------------------------------------------


def line(kind, make, **fields):
    families = (Family("first", 40, 40, {}), Family("second", 30, 30, {}))
    return Entry("made-up", "[here]", "A statement.", "none", kind, families, make, **fields)


def verdict(kind, make, **fields):
    entry = line(kind, make, **fields)
    rows = measure_entry(entry, seed=0, quick=True)
    return decide(entry, rows), failures(entry, rows)


def test_a_failing_statement_shows_its_worst_instance():
    def make(rng, count):
        measured = np.full(count, 0.9)
        if count == 30:
            measured[[4, 17]] = 1.1, 1.3
        return Batch(np.ones(count), measured)

    claim, bad = verdict("upper", make)
    assert not claim.holds
    assert claim.margin == pytest.approx(-0.3)
    assert [int(b) for b in bad] == [57, 44]
    assert "FAILS on 2, worst made-up:1:17 (predicted 1, measured 1.3)" in claim.note
    assert "flatmin verify-theory --instance made-up:1:17" in claim.note
    assert verdict("lower", make)[1].size == 68


@pytest.mark.parametrize("kind", ["value", "upper", "lower"])
def test_rounding_is_taken_off_in_favour_of_the_statement(kind):
    off = {"value": 1e-9, "upper": 1e-9, "lower": -1e-9}[kind]
    batch = lambda tolerance: lambda rng, count: Batch(np.ones(count), np.full(count, 1 + off), tolerance)  # noqa: E731
    assert verdict(kind, batch(2e-9))[0].holds
    assert not verdict(kind, batch(5e-10))[0].holds


@pytest.mark.parametrize("kind", ["value", "upper", "lower", "mean", "probability"])
def test_what_was_not_measured_does_not_hold(kind):
    def make(rng, count):
        measured = np.ones(count)
        measured[0] = np.nan
        return Batch(np.ones(count), measured, 1.0)

    assert not verdict(kind, make, margin=0.5)[0].holds
    nothing = lambda rng, count: Batch(np.ones(count), np.ones(count), 1.0, applies=np.zeros(count, bool))  # noqa: E731
    assert verdict(kind, nothing, margin=0.5)[0].verdict == "not measured"


def test_instances_beyond_the_assumptions_are_counted_apart():
    def make(rng, count):
        applies = np.arange(count) % 2 == 0
        return Batch(np.ones(count), np.where(applies, 0.5, 2.0), applies=applies)

    claim, _ = verdict("upper", make)
    assert claim.holds
    assert "70 instances of 2 families, the assumptions known to hold on 35" in claim.note
    assert "beyond the assumptions it holds on 0 of 35" in claim.note


def test_means_need_their_whole_interval_inside_of_the_margin():
    def make(spread, middle=1.0):
        return lambda rng, count: Batch(np.full(count, 2.0), 2 * (middle + spread * rng.normal(size=count)))

    assert verdict("mean", make(0.01), margin=0.05)[0].holds
    assert not verdict("mean", make(0.5), margin=0.05)[0].holds  # too noisy to say
    assert not verdict("mean", make(0.01, 1.06), margin=0.05)[0].holds
    assert len(verdict("mean", make(0.01), margin=0.05)[0].values) == 2


def test_shares_need_their_lower_end_above_the_prediction():
    def make(misses):
        return lambda rng, count: Batch(np.full(count, 0.9), np.arange(count) >= misses)

    assert not verdict("probability", make(0))[0].holds  # 30 of 30 still allow 88.6%
    assert verdict("probability", lambda rng, count: Batch(np.full(count, 0.8), np.ones(count)))[0].holds
    assert not verdict("probability", lambda rng, count: Batch(np.full(count, 0.8), np.arange(count) >= 5))[0].holds


# --- instances ------------------------------------------------------------------------------------


def test_closed_form_rip_constants_are_those_of_the_measurements():
    rng = np.random.default_rng(0)
    for rank in (1, 3):
        A, N, delta = _draw.without_one_direction(rng, 2, (3, 4), (1.0, 0.6, 0.3), rank)
        assert np.linalg.norm(np.einsum("kiab,kab->ki", A, N)) < 1e-12
        op = dense(jnp.asarray(A[0]))
        found = rip_exact(op) if rank == 3 else rip_lower_estimate(op, jax.random.key(0), rank)
        assert float(found.delta) == pytest.approx(delta[0], rel=1e-6)
    A = np.asarray(gaussian(jax.random.key(1), 30, (3, 4)).tensor)[None]
    assert _draw.full_rank_delta(A)[0] == pytest.approx(float(rip_exact(dense(jnp.asarray(A[0]))).delta), rel=1e-12)


def test_golden_section_finds_the_minimum():
    rng = np.random.default_rng(0)
    start, direction = rng.normal(size=(2, 5, 3, 3))
    t = _draw.least_on_lines(start, direction, lambda X: np.sum(X**2, axis=(1, 2)), np.full(5, 50.0))
    exact = -np.sum(start * direction, axis=(1, 2)) / np.sum(direction**2, axis=(1, 2))
    np.testing.assert_allclose(t, exact, atol=1e-6)


def test_plain_trace_is_that_of_the_jacobian():
    rng = np.random.default_rng(0)
    A, W = _draw.measurements(rng, 3, 4, (2, 3)), _draw.layers(rng, 3, (3, 4, 2, 2))
    np.testing.assert_allclose(_deep.trace(A, W), 2 / 4 * np.sum(_deep.jacobian(A, W) ** 2, axis=(1, 2)), rtol=1e-13)
    step = [factor.copy() for factor in W]
    step[1][:, 0, 1] += 1e-6
    slope = np.einsum("kiab,kab->ki", A, _deep.end_to_end(step) - _deep.end_to_end(W)) / 1e-6
    np.testing.assert_allclose(_deep.jacobian(A, W)[:, :, 12 + 1], slope, rtol=1e-6)
    moved = _deep.regauged(rng, W, 0.3)
    np.testing.assert_allclose(_deep.end_to_end(moved), _deep.end_to_end(W), atol=1e-12)


def test_flat_factors_keep_what_the_weights_hide():
    """A finding of the ledger: a part of M that is 1e-10 of the whole in weighted coordinates was dropped."""
    op = dense(jnp.asarray(_draw.measurements(np.random.default_rng(0), 1, 15, (5, 5), "correlated")[0]))
    (s, U), (t, V) = (np.linalg.eigh(np.asarray(D)) for D in ding2022.weight_matrices(op))
    M = np.outer(U[:, -1], V[:, -1]) / (s[-1] * t[-1]) + 1e-10 * np.outer(U[:, 0], V[:, 0]) / (s[0] * t[0])
    left, right = ding2022.flat_factors(op, jnp.asarray(M), 5)
    hidden = 1e-10 / (s[0] * t[0])
    assert hidden * s[-1] * t[-1] > 1e-6  # it is a visible part of M
    np.testing.assert_allclose(left @ right.T, M, atol=1e-3 * hidden)


# --- the run and the command ----------------------------------------------------------------------

SHORT = ("gatmiry-lemma-1", "gatmiry-theorem-4", "gatmiry-theorem-6", "marion-theorem-1")


@pytest.fixture
def short(monkeypatch):
    """A ledger of few lines."""
    spec = lambda seed: ledger.Ledger(entries=SHORT, quick=True, seed=seed)  # noqa: E731
    monkeypatch.setattr(ledger, "SIZES", {"quick": spec, "demo": spec})


def test_figures_are_drawn_from_whatever_lines_there_are(tmp_path):
    quick = ledger.SIZES["quick"](0)
    assert sorted(quick.entries) == sorted(ENTRIES)
    assert quick.entries[0].startswith("gatmiry")
    content = ledger.compute(quick.model_copy(update={"entries": SHORT}), Context(tmp_path, workers=2))
    drawn = {name: from_dataset(data) for name, data in content.datasets.items() if is_figure(data)}
    assert [figure.key for figure in drawn.values()] == ["bounds", "random-measurements"]
    assert [claim.name for claim in content.claims] == list(SHORT)
    assert json.loads(content.files["findings.json"]) == []
    assert content.datasets["instances-gatmiry-lemma-1"].sizes["instance"] == 9 * 20


def test_the_command_writes_a_run_that_the_others_read(short, tmp_path, capsys):
    arguments = ["--out", str(tmp_path)]
    assert main(["verify-theory", "--quick", "--strict", *arguments]) == 0
    text = capsys.readouterr().out
    assert "4 of 4 claims hold" in text
    (run,) = find_runs(tmp_path)
    assert {p.name for p in run.path.iterdir()} >= {"claims.json", "spec.json", "report.html", "findings.json", "data"}
    assert all(claim.holds for claim in run.claims)
    assert main(["runs", *arguments]) == 0
    assert "4/4" in capsys.readouterr().out
    assert main(["report", run.id[:6], *arguments]) == 0
    assert main(["verify-theory", "--quick", *arguments]) == 0
    assert "found, not recomputed" in capsys.readouterr().out


def test_strict_tells_and_the_findings_are_stored(short, tmp_path, capsys, monkeypatch):
    wrong = dataclasses.replace(ENTRIES["gatmiry-lemma-1"], kind="lower")  # the inequality turned around
    monkeypatch.setitem(ENTRIES, "gatmiry-lemma-1", wrong)
    assert main(["verify-theory", "--quick", "--strict", "--out", str(tmp_path)]) == 1
    assert "1 statement(s) do not hold: gatmiry-lemma-1" in capsys.readouterr().err
    (run,) = find_runs(tmp_path)
    findings = json.loads((run.path / "findings.json").read_text())
    assert len(findings) == 20
    found = rebuild(findings[0]["instance"], quick=True)
    assert found.measured == findings[0]["measured"] < found.predicted


def test_an_instance_is_shown(capsys):
    assert main(["verify-theory", "--instance", "gatmiry-lemma-1:2:5"]) == 0
    text = capsys.readouterr().out
    assert "deficient" in text
    assert "X, shape (5, 4):" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--instance", "gatmiry-lemma-1"], "address: got 'gatmiry-lemma-1', expected ENTRY:FAMILY:INDEX"),
        (["--instance", "gatmiry-lemma-0:0:1"], "address: 'gatmiry-lemma-0' is not known; did you mean"),
        (["--instance", "gatmiry-lemma-1:99:1"], "address: gatmiry-lemma-1 has the families 0 to 8, got 99"),
        (["--instance", "gatmiry-lemma-1:0:400"], "has 400 instance(s) at the full size, got index 400"),
        (["--instance", "gatmiry-lemma-1:0:20", "--quick"], "has 20 instance(s) at the quick size, got index 20"),
        (["--seed", "-1"], "seed: got -1, expected a value >= 0"),
        (["--workers", "0"], "workers: got 0"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, sentence, capsys):
    assert main(["verify-theory", *arguments]) == 2
    text = capsys.readouterr().err
    assert sentence in text
    assert "Traceback" not in text


def test_specs_and_entries_are_checked():
    with pytest.raises(ValueError, match="no such line of the ledger: nonsense"):
        ledger.Ledger(entries=("nonsense",))
    fields = {"source": "", "statement": "", "assumptions": "", "kind": "value", "families": ()}
    with pytest.raises(UsageError, match="key: 'gatmiry-lemma-1' is taken"):
        ledger.entry("gatmiry-lemma-1", **fields)
    with pytest.raises(UsageError, match="key: got 'Lemma 1'"):
        ledger.entry("Lemma 1", **fields)


def test_the_documentation_has_every_line():
    text = (pathlib.Path(__file__).parent.parent / "docs" / "ledger.md").read_text()
    missing = [key for key in ENTRIES if f"`{key}`" not in text]
    assert not missing, f"docs/ledger.md: no row for {missing}; see scripts/ledger_table.py"
