"""Runs are complete or absent, found again by what they are, and say what is wrong with them."""

import errno
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

from flatmin import JobError, UsageError
from flatmin.experiments import (
    Certificate,
    Claim,
    Experiment,
    RunContent,
    RunSpec,
    claims_from_json,
    claims_table,
    claims_to_json,
    find_problems,
    find_runs,
    format_number,
    is_complete,
    load_run,
    obtain_run,
    rewrite_derived,
    run_id,
    setting,
    settings_of,
)
from flatmin.storage import folders as storage

EXPERIMENT = Experiment(name="toy", version=1, title="Toy")


class Inner(RunSpec):
    rate: float = setting(0.1, origin="paper", description="rate")


class Spec(RunSpec):
    d: int = setting(5, origin="paper", description="dimension", gt=0)
    seeds: tuple[int, ...] = setting((0, 1), origin="ours", description="seeds")
    inner: Inner = Inner()


class Count:
    def __init__(self):
        self.calls = 0

    def __call__(self, spec):
        self.calls += 1
        values = np.arange(spec.d, dtype=float)
        values[-1] = np.nan
        data = xr.Dataset({"loss": ("step", values, {"units": "seconds"})}, {"step": np.arange(spec.d)})
        claim = Claim.at_most(2.0, name="small", statement="s", source="t", predicted="p", measured=1.0)
        return RunContent({"curves": data}, (claim,))


def render(_run, folder):
    (folder / "figures").mkdir()
    (folder / "figures" / "a.pdf").write_bytes(b"pdf")
    (folder / "report.html").write_text("page")


@pytest.fixture
def finished(tmp_path):
    run, fresh = obtain_run(EXPERIMENT, Spec(), Count(), out=tmp_path, render=render)
    assert fresh
    return run


# identity -------------------------------------------------------------------------------------------------


def test_id_is_stable_under_key_order_and_pinned():
    a = run_id("toy", 1, {"d": 5, "inner": {"rate": 0.1, "z": 1}})
    b = run_id("toy", 1, {"inner": {"z": 1, "rate": 0.1}, "d": 5})
    assert a == b
    assert run_id("toy", 1, Spec()) == "5c04051e4c83"  # a change here orphans every stored run


def test_id_follows_experiment_version_and_every_setting():
    ids = {
        run_id("toy", 1, Spec()),
        run_id("toy", 2, Spec()),
        run_id("other", 1, Spec()),
        run_id("toy", 1, Spec(d=6)),
        run_id("toy", 1, Spec(inner=Inner(rate=0.2))),
    }
    assert len(ids) == 5
    assert run_id("toy", 1, Spec(inner=Inner(rate=1))) == run_id("toy", 1, Spec(inner=Inner(rate=1.0)))


def test_id_does_not_depend_on_library_versions(monkeypatch):
    before = run_id("toy", 1, Spec())
    monkeypatch.setattr("flatmin.__version__", "99")
    monkeypatch.setattr("platform.python_version", lambda: "4.0")
    assert run_id("toy", 1, Spec()) == before


def test_id_refuses_what_has_no_stable_form():
    class WithSet(RunSpec):
        names: frozenset[str] = frozenset({"a"})

    with pytest.raises(UsageError, match="got a set, expected a tuple"):
        run_id("toy", 1, WithSet())
    with pytest.raises(UsageError, match="NaN or an infinite setting"):
        run_id("toy", 1, {"d": float("nan")})
    with pytest.raises(UsageError, match="expected lower-case words"):
        Experiment(name="../evil", version=1, title="")


def test_settings_tell_the_paper_from_ours():
    rows = {s.name: (s.value, s.origin) for s in settings_of(Spec(d=7))}
    assert rows == {"d": (7, "ours"), "seeds": ([0, 1], "ours"), "inner.rate": (0.1, "paper")}
    assert {s.name: s.origin for s in settings_of(Spec())}["d"] == "paper"


# storing and finding --------------------------------------------------------------------------------------


def test_second_run_is_found_at_once(tmp_path):
    count = Count()
    first, fresh = obtain_run(EXPERIMENT, Spec(), count, out=tmp_path)
    second, again = obtain_run(EXPERIMENT, Spec(), count, out=tmp_path)
    assert (fresh, again, count.calls) == (True, False, 1)
    assert first.path == second.path == tmp_path / f"toy-{run_id('toy', 1, Spec())}"
    _, other = obtain_run(EXPERIMENT, Spec(d=6), count, out=tmp_path)
    assert other
    assert len(find_runs(tmp_path)) == 2


def test_a_run_keeps_everything(finished):
    run = load_run(finished.path)
    assert Spec.model_validate(run.spec) == Spec()
    assert run.claims[0].holds
    assert run.data_names == ("curves",)
    data = run.dataset("curves")
    np.testing.assert_array_equal(data["loss"].values, [0, 1, 2, 3, np.nan])
    assert data["loss"].dtype == float
    assert data["loss"].attrs["units"] == "seconds"
    assert run.provenance["versions"]["jax"]
    assert str(pathlib.Path.home()) not in run.provenance["command"]
    names = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
    assert names == {
        "SHA256SUMS",
        "spec.json",
        "claims.json",
        "data/curves.nc",
        "figures/a.pdf",
        "report.html",
    }
    command = ["sha256sum", "-c", "--quiet", "SHA256SUMS"]
    listed = subprocess.run(command, cwd=run.path, capture_output=True, check=False)
    assert listed.returncode == 0, listed.stderr


def test_a_file_that_is_no_netcdf_is_named(finished):
    (finished.path / "data" / "curves.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(JobError, match=r"curves\.nc cannot be read as NetCDF"):
        finished.dataset("curves")


def test_what_netcdf_cannot_hold_is_refused(tmp_path):
    content = RunContent({"odd": xr.Dataset({"z": ("i", np.array([object()], dtype=object))})})
    with pytest.raises(UsageError, match=r"odd\.nc cannot be written as NetCDF"):
        obtain_run(EXPERIMENT, Spec(), lambda _: content, out=tmp_path)
    assert list(tmp_path.glob("toy-*[0-9a-f]")) == []


# damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spec.json", "claims.json", "data/curves.nc"])
@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_damage_is_named(finished, name, how):
    file = finished.path / name
    content = bytearray(file.read_bytes())
    if how == "delete":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content if how == "flip" else content[: len(content) // 2])
    expected = (
        (UsageError, "without spec.json") if (name, how) == ("spec.json", "delete") else (JobError, f"damaged, {name}")
    )
    with pytest.raises(expected[0], match=expected[1]):
        load_run(finished.path)
    assert not is_complete(finished.path)
    count = Count()
    with pytest.raises((UsageError, JobError)):  # before computing for hours, not after
        obtain_run(EXPERIMENT, Spec(), count, out=finished.path.parent)
    assert count.calls == 0


def test_a_changed_page_is_no_damage_to_the_evidence(finished):
    (finished.path / "report.html").write_text("edited")
    assert is_complete(finished.path)
    rewrite_derived(finished, render)
    assert (finished.path / "report.html").read_text() == "page"
    assert "report.html" in storage.read_checksums(finished.path)
    assert [p.name for p in finished.path.parent.iterdir()] == [finished.path.name]


def test_rewriting_does_not_bless_damage(finished):
    before = (finished.path / "SHA256SUMS").read_text()
    (finished.path / "claims.json").write_text("{}")
    with pytest.raises(JobError, match=r"damaged, claims\.json"):
        rewrite_derived(finished, render)
    assert (finished.path / "SHA256SUMS").read_text() == before


def test_rewriting_refuses_to_touch_evidence(finished):
    with pytest.raises(UsageError, match=r"got spec\.json, expected figures/"):
        rewrite_derived(finished, lambda _run, folder: (folder / "spec.json").write_text("{}"))
    assert is_complete(finished.path)


def test_a_spec_edited_with_its_checksum_is_noticed(finished):
    file = finished.path / "spec.json"
    plain = json.loads(file.read_text())
    plain["spec"]["d"] = 6
    file.write_text(json.dumps(plain))
    storage.write_checksums(finished.path)
    with pytest.raises(JobError, match="does not belong to its id"):
        load_run(finished.path)


def test_foreign_folders_are_told_apart(tmp_path, finished):
    (tmp_path / "photos").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "spec.json").write_text("{")
    (tmp_path / "broken" / "SHA256SUMS").write_text("00  ../../etc/passwd\n")
    assert [r.path for r in find_runs(tmp_path)] == [finished.path]
    problems = "\n".join(find_problems(tmp_path))
    assert "photos (a folder without spec.json and SHA256SUMS), expected a finished run" in problems
    assert "broken is damaged, SHA256SUMS missing or different" in problems
    with pytest.raises(UsageError, match="no such folder"):
        load_run(tmp_path / "nothing")
    assert find_runs(tmp_path / "nothing") == []


# failures -------------------------------------------------------------------------------------------------


def test_failures_are_recorded_and_not_cached(tmp_path):
    def fails(_spec):
        raise ZeroDivisionError("step size")

    with pytest.raises(ZeroDivisionError):
        obtain_run(EXPERIMENT, Spec(), fails, out=tmp_path)
    assert find_runs(tmp_path) == []
    assert "ZeroDivisionError: step size); start it again" in find_problems(tmp_path)[0]
    _, fresh = obtain_run(EXPERIMENT, Spec(), Count(), out=tmp_path)
    assert fresh
    assert find_problems(tmp_path) == []


@pytest.mark.parametrize("where", ["mkdir", "data", "fsync", "rename", "render"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, where):
    def full(*_arguments, **_keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rendering = full if where == "render" else render
    with monkeypatch.context() as patch:
        if where == "mkdir":
            patch.setattr(pathlib.Path, "mkdir", full)
        if where == "data":
            patch.setattr("xarray.Dataset.to_netcdf", full)
        if where == "fsync":
            patch.setattr(os, "fsync", full)
        if where == "rename":
            patch.setattr(pathlib.Path, "replace", full)
        with pytest.raises(JobError, match=r"No space left on device.*--out.*Nothing was left behind"):
            obtain_run(EXPERIMENT, Spec(), Count(), out=tmp_path, render=rendering)
    assert list(tmp_path.iterdir()) == []
    assert obtain_run(EXPERIMENT, Spec(), Count(), out=tmp_path, render=render)[1]


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    def stopped(_run, _folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain_run(EXPERIMENT, Spec(), Count(), out=tmp_path, render=stopped)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_no_run(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        import numpy as np, xarray as xr
        from flatmin.experiments import Experiment, RunContent, RunSpec, obtain_run

        class Spec(RunSpec):
            d: int = 5

        def compute(spec):
            return RunContent({"curves": xr.Dataset({"loss": ("step", np.zeros(5))})})

        def render(run, folder):
            print("half way", flush=True)
            time.sleep(60)

        obtain_run(Experiment("toy", 1, "Toy"), Spec(), compute, out=sys.argv[1], render=render)
    """)
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1] / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    with process:
        assert process.stdout.readline() == "half way\n"
        living = list(tmp_path.glob(".partial-*"))
        assert len(living) == 1
        storage.remove_leftovers(tmp_path)
        assert living[0].exists()  # its process is alive
        process.send_signal(signal.SIGKILL)
    assert living[0].exists()
    assert find_runs(tmp_path) == []
    assert find_problems(tmp_path) == []
    _, fresh = obtain_run(EXPERIMENT, Spec(), Count(), out=tmp_path)
    assert fresh
    assert list(tmp_path.glob(".partial-*")) == []  # the next writer tidies up


def test_the_first_complete_writer_wins(tmp_path):
    first = Count()

    def meanwhile(run, folder):
        render(run, folder)
        assert obtain_run(EXPERIMENT, Spec(), first, out=tmp_path)[1]  # another process, in the middle of ours

    second = Count()
    run, _ = obtain_run(EXPERIMENT, Spec(), second, out=tmp_path, render=meanwhile)
    assert (first.calls, second.calls) == (1, 1)
    assert not (run.path / "report.html").exists()  # the other one's folder
    assert is_complete(run.path)
    assert [p.name for p in tmp_path.iterdir()] == [run.path.name]


# claims ---------------------------------------------------------------------------------------------------

FIELDS = {"name": "n", "statement": "s", "source": "t", "predicted": "p"}


def test_claims_are_decided_by_the_worst_end():
    assert Claim.at_most(2.0, measured=1.0, interval=(0.5, 1.5), **FIELDS).margin == 0.5
    worse = Claim.at_most(2.0, measured=1.0, interval=(0.5, 2.5), **FIELDS)
    assert (worse.holds, worse.margin, worse.verdict) == (False, -0.5, "does not hold")
    assert Claim.at_least(1.0, measured=(3.0, 1.25), **FIELDS).margin == 0.25
    assert not Claim.within(1.0, 2.0, measured=2.5, **FIELDS).holds
    assert Claim.within(1.0, 2.0, measured=2.0, **FIELDS).holds
    unknown = Claim.at_most(2.0, measured=float("nan"), **FIELDS)
    assert (unknown.holds, unknown.verdict) == (False, "not measured")


def test_claims_refuse_a_verdict_that_contradicts_the_numbers():
    with pytest.raises(ValueError, match="holds but was not measured"):
        Claim(measured=float("nan"), holds=True, **FIELDS)
    with pytest.raises(ValueError, match="negative margin"):
        Claim(measured=1.0, margin=-1.0, holds=True, **FIELDS)


def test_claims_survive_json():
    claims = (
        Claim.at_most(float("inf"), measured=(1.0, 0.1 + 0.2), interval=(0.0, 1e300), **FIELDS),
        Claim.at_least(1.0, measured=float("nan"), note="ü <b>", **FIELDS),
    )
    text = claims_to_json(claims)
    json.loads(text, parse_constant=pytest.fail)  # strict JSON: no bare NaN
    back = claims_from_json(text)
    assert claims_to_json(back) == text
    assert back[0] == claims[0]
    assert np.isnan(back[1].measured)
    with pytest.raises(JobError, match="not a list of claims"):
        claims_from_json('[{"name": 3}]')


def test_claims_need_unique_names(tmp_path):
    claim = Claim.at_most(2.0, measured=1.0, **FIELDS)
    with pytest.raises(UsageError, match="got n more than once"):
        obtain_run(EXPERIMENT, Spec(), lambda _: RunContent({}, (claim, claim)), out=tmp_path)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(width):
    from rich.console import Console

    claims = [
        Claim.at_most(250.0, name="trace-falls", statement="The trace falls. " * 6, source="Theorem 3.1",
                      predicted="≤ 250", measured=202.3, interval=(188.0, 216.5)),
        Claim.at_most(1.0, name="fails", statement="s", source="t", predicted="p", measured=3.0),
    ]  # fmt: skip
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(claims_table(claims))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for word in ("holds", "fails", "trace-falls", "202.3 [188, 216.5]", "margin −2", "Theorem 3.1"):
        assert word in text


def test_certificates_come_from_solutions():
    import jax.numpy as jnp

    from flatmin import Outcome, Solution

    solution = Solution(jnp.eye(2), jnp.ones(3), 2.0, 1.5, 0.25, 1e-9, 7, Outcome.max_iterations, "ADMM")
    certificate = Certificate.from_solution("nuclear norm", solution)
    assert (certificate.primal_value, certificate.dual_value, certificate.success) == (2.0, 1.5, False)


@pytest.mark.parametrize(
    ("value", "text"),
    [(13400.0, "13,400"), (0.31415926, "0.3142"), (-1.2e-9, "−1.2×10⁻⁹"), (1e9, "10⁹"), (0, "0"),
     (float("nan"), "not measured"), (float("-inf"), "−∞"), (1234567.0, "1,235,000"),
     (9.99996, "10"), (0.000123456, "0.0001235")],
)  # fmt: skip
def test_numbers_read_well(value, text):
    assert format_number(value) == text


def test_leftovers_of_other_machines_stay(tmp_path):
    """Their processes cannot be asked from here; those of this machine go when their process is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, alive, elsewhere = (
        tmp_path / f".partial-run-{host}-{pid}-0123abcd"
        for host, pid in ((storage.host_name(), gone.pid), (storage.host_name(), os.getpid()), ("elsewhere", gone.pid))
    )
    for folder in (here, alive, elsewhere):
        folder.mkdir()
    storage.remove_leftovers(tmp_path)
    assert [folder.exists() for folder in (here, alive, elsewhere)] == [False, True, True]
