"""`flatmin study`: what it prints, writes and refuses; the example studies; the report."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
import xarray as xr

from flatmin import UsageError
from flatmin.cli import main
from flatmin.experiments.figures import HeatmapPanel, Panel
from flatmin.experiments.study_report import report_study, study_figures
from flatmin.experiments.study_report.comparison import comparison_figure
from flatmin.experiments.study_report.fits import power_law
from flatmin.experiments.study_report.layout import layout_of
from flatmin.studies import find_store, load_spec, plan, run_study, study_spec
from flatmin.studies.view import study_dataset

TESTS = pathlib.Path(__file__).parent
EXAMPLES = sorted((TESTS.parent / "examples" / "studies").glob("*.toml"))
TINY = """\
name = "tiny"
seeds = 3
[function]
call = "study_cells:tiny"
[axes]
"function.x" = [0.0, 0.5, 1.0]
"function.y" = { from = 1, to = 10, step = 1 }
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.delenv("FLATMIN_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    pathlib.Path("tiny.toml").write_text(TINY)


def said(capsys, *arguments, code=0):
    assert main(["study", *map(str, arguments)]) == code, capsys.readouterr().err
    return capsys.readouterr().out


NOTE = "[function] may import modules of"


def refused(capsys, *arguments, code=2):
    assert main(["study", *map(str, arguments)]) == code
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line[0] != "[" and NOTE not in line]
    assert len(lines) == 1, lines
    assert "mistake in flatmin" not in lines[0]
    return lines[0].removeprefix("flatmin: ")


def test_from_the_template_to_the_report(capsys, tmp_path):
    assert "Wrote mine.toml" in said(capsys, "new", "mine")
    spec = load_spec("mine.toml")
    assert (spec.name, plan(spec).grid.size) == ("mine", 48)
    assert "exists; choose another name" in refused(capsys, "new", "mine")
    assert "lower-case words" in refused(capsys, "new", "My Study")
    text = said(capsys, "check", "tiny.toml")
    assert "90 cells one at a time" in text
    assert re.search(r"About [\d.]+ s with 1 process", text)
    assert "MB of memory" in text
    assert "90 cells computed, 0 found" in said(capsys, "run", "tiny.toml")
    assert "0 cells computed, 90 found" in said(capsys, "run", "tiny.toml")
    assert "90 of 90 cells finished (100%), 0 failed" in said(capsys, "status", "tiny")
    assert "To compute: 0 cells" in said(capsys, "check", "tiny.toml")
    assert "90 of 90 cells" in said(capsys, "export", "tiny.toml", "--to", "out/tiny.nc")
    assert xr.load_dataset("out/tiny.nc")["value"].sel(x=0.5, y=4, seed=2) == 7.0
    page = re.search(r"Report: (.*)", said(capsys, "report", "studies/tiny"))[1]
    html = pathlib.Path(page).read_text()
    assert "default-src 'none'" in html
    assert "function.x" in html


def test_without_a_verb_it_explains_itself(capsys):
    assert "Write a commented template" in said(capsys)


def test_check_says_what_an_edit_costs(capsys):
    said(capsys, "run", "tiny.toml")
    pathlib.Path("tiny.toml").write_text(TINY.replace("0.5, 1.0", "0.5, 2.0").replace("seeds = 3", "seeds = 4"))
    text = said(capsys, "check", "tiny.toml", "--no-probe")
    assert "60 cells are finished and valid" in text
    assert "30 of 90 finished cells are not in it any more" in text
    assert "To compute: 60 cells" in text
    assert "60 of 90 finished cells are still valid" in refused(capsys, "run", "tiny.toml")
    assert "60 cells computed, 60 found" in said(capsys, "run", "tiny.toml", "--accept-changes")


def test_failures_are_listed_and_the_exit_code_says_so(capsys):
    text = 'name = "f"\n[function]\ncall = "study_cells:fussy"\n[axes]\n"function.x" = [1, 2, 3]\n'
    pathlib.Path("f.toml").write_text(text)
    assert "1 cell failed" in refused(capsys, "run", "f.toml", code=1)
    text = said(capsys, "status", "f.toml")
    assert "2 of 3 cells finished (67%), 1 failed" in text
    assert "ValueError: x is three and that will not do" in text
    assert "1 cell failed" in refused(capsys, "run", "f.toml", "--retry-failed", code=1)
    pathlib.Path("g.toml").write_text(TINY.replace("tiny", "g", 1).replace("study_cells:tiny", "study_cells:nothing"))
    assert "Will fail: function.call: study_cells:nothing cannot be imported" in said(capsys, "check", "g.toml")


def test_shares_and_the_job_script(capsys):
    assert "45 cells were not computed here: in other shares" in said(capsys, "run", "tiny.toml", "--shard", "1/2")
    assert "45 cells computed, 45 found" in said(capsys, "run", "tiny.toml", "--shard", "2/2")
    main(["study", "check", "tiny.toml", "--no-probe"])
    assert f"{NOTE} {pathlib.Path.cwd()}, the working directory, after all others" in capsys.readouterr().err
    assert "sbatch tiny.sbatch" in said(capsys, "run", "tiny.toml", "--slurm", "5", "--workers", "3")
    script = pathlib.Path("tiny.sbatch").read_text()
    assert "#SBATCH --array=1-5" in script
    assert "#SBATCH --cpus-per-task=3" in script
    subprocess.run(["bash", "-n", "tiny.sbatch"], check=True)
    # what a job would run
    line = script.splitlines()[-1].replace("$SLURM_ARRAY_TASK_ID", "2").replace('"', "")
    assert line == "flatmin study run --out=studies --shard=2/5 --workers=3 -- tiny.toml"
    assert main(line.replace("--workers=3", "").split()[1:]) == 0


@pytest.mark.skipif(os.name == "nt", reason="runs a shell script")
@pytest.mark.parametrize("name", ["-x.toml", "a b.toml", "$(touch m);`touch m`.toml", 'it\'s "so" \\%a.toml'])
@pytest.mark.parametrize("out", ["-o", "ev il; touch m", "#c", "50% \\ \"q\" 'r'"])
def test_the_job_script_quotes(capsys, tmp_path, monkeypatch, name, out):
    (tmp_path / "it's a folder").mkdir()
    monkeypatch.chdir(tmp_path / "it's a folder")
    pathlib.Path(name).write_text(TINY)
    said(capsys, "run", f"--out={out}", "--slurm", "1", "--", name)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "flatmin"
    fake.write_text('#!/bin/sh\npwd\nfor a in "$@"; do printf "%s\\n" "$a"; done\n')
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1"}
    script = pathlib.Path("tiny.sbatch")
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=True)
    here, *given = done.stdout.splitlines()
    assert here == str(tmp_path / "it's a folder")
    assert given == ["study", "run", f"--out={out}", "--shard=1/1", "--workers=1", "--", name]
    assert sorted(path.name for path in pathlib.Path().iterdir()) == sorted([name, out, "tiny.sbatch"])
    (line,) = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH --output=")]
    value = line.removeprefix("#SBATCH --output=")
    if value.startswith('"'):
        value = value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    assert value == f"{out.replace('%', '%%')}/tiny/logs/%a.log"


@pytest.mark.parametrize(("name", "out"), [("a.toml", "ev\ntouch m\n#"), ("a\rb.toml", "o"), ("a.toml", "o\x1b[2J")])
def test_no_line_break_gets_into_a_job_script(capsys, name, out):
    pathlib.Path(name).write_text(TINY)
    assert "expected no line breaks" in refused(capsys, "run", name, "--slurm", "1", "--out", out)
    assert not pathlib.Path("tiny.sbatch").exists()
    assert not pathlib.Path(out).exists()


def test_the_job_script_runs_as_an_array(capsys, tmp_path, monkeypatch):
    """A stand-in for `sbatch` that reads the script's array and starts it once a task, as SLURM does."""
    (tmp_path / "a folder").mkdir()
    monkeypatch.chdir(tmp_path / "a folder")
    pathlib.Path("tiny.toml").write_text(TINY)
    said(capsys, "run", "tiny.toml", "--slurm", "2")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "flatmin").write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; from flatmin.cli import main; sys.exit(main())" "$@"\n'
    )
    (programs / "sbatch").write_text(
        "#!/bin/bash\nset -e\nhead -1 \"$1\" | grep -q '^#!/bin/bash'\n"
        "last=$(sed -n 's/^#SBATCH --array=1-//p' \"$1\")\nlog=$(sed -n 's/^#SBATCH --output=//p' \"$1\")\n"
        'for i in $(seq "$last"); do (cd / && SLURM_ARRAY_TASK_ID=$i bash "$OLDPWD/$1" > "$OLDPWD/$(eval echo '
        '"${log/\\%a/$i}")" 2>&1); done\n'
    )
    for path in programs.iterdir():
        path.chmod(0o755)
    search = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": search}
    done = subprocess.run(["sbatch", "tiny.sbatch"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logs = sorted(pathlib.Path("studies/tiny/logs").iterdir())
    assert [path.name for path in logs] == ["1.log", "2.log"]
    assert "45 cells computed, 45 found" in logs[1].read_text()
    content = find_store(pathlib.Path("studies/tiny")).read()
    assert content.count(1) == 90


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check", "none.toml"], "there is no file none.toml"),
        (["run", "tiny.toml", "--shard", "3/2"], "shard: got '3/2', expected i/n"),
        (["run", "tiny.toml", "--workers", "0"], "workers: got 0"),
        (["run", "tiny.toml", "--batch-size", "0"], "batch_size: got 0"),
        (["run", "tiny.toml", "--slurm", "0"], "slurm: got 0"),
        (["status", "tiny"], "studies holds no study"),
        (["status", "tiny.toml"], "studies/tiny does not exist"),
        (["status", "."], "holds no study"),
        (["export", "tiny.toml", "--to", "a.nc"], "does not exist"),
        (["check", "bad.toml"], "function.x (bad.toml, line 6): got no values"),
        (["report", "tiny", "--against", "other"], "studies holds no study"),
    ],
)
def test_wrong_requests(capsys, arguments, sentence):
    pathlib.Path("bad.toml").write_text(TINY.replace("[0.0, 0.5, 1.0]", "[]"))
    assert sentence in refused(capsys, *arguments)


def test_a_name_that_is_nearly_right(capsys):
    said(capsys, "run", "tiny.toml")
    assert "did you mean 'tiny'" in refused(capsys, "status", "tny")


def test_interrupting_loses_nothing(tmp_path):
    text = (
        'name = "slow"\nseeds = 40\n[function]\ncall = "study_cells:slow"\nseconds = 0.1\n[axes]\n'
        '"function.x" = { from = 1, to = 20, step = 1 }\n'
    )
    pathlib.Path("slow.toml").write_text(text)
    path = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    code = "import sys; from flatmin.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "study", "run", "slow.toml", "--workers", "2"]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not list(pathlib.Path("studies").glob("slow/segments/[!.]*.seg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert err.strip().splitlines()[-1].startswith("flatmin: interrupted; finished pieces are kept")
    assert "Traceback" not in err
    content = find_store(pathlib.Path("studies/slow")).read()
    assert 0 < content.count(1) < 800
    assert not list(pathlib.Path("studies/slow/running").iterdir())


def test_commands_in_the_documentation_are_real():
    from typer.main import get_command

    from flatmin.cli._app import app

    commands = get_command(app).commands["study"].commands
    text = (TESTS.parent / "docs" / "studies.md").read_text()
    lines = [line.split("#")[0].split() for line in text.splitlines() if line.startswith("flatmin study")]
    assert len(lines) >= 10
    for words in lines:
        known = {option for parameter in commands[words[2]].params for option in parameter.opts}
        assert {w for w in words if w.startswith("--")} <= known
    (block,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    assert plan(study_spec(tomllib.loads(block))).grid.size == 2560


# examples -------------------------------------------------------------------------------------------------------------

SLOW = ("depth-sweep", "label-noise")
SMALL = {
    "depth-sweep": {"seeds": 2, "axes": {"problem.depth": [2], "problem.num_measurements": [20]}},
    "label-noise": {"seeds": 2, "stopping": {"steps": 100}, "measure": {"quantities": ["loss"]}},
    "phase-diagram": {
        "seeds": 2,
        "axes": {"solver.program": ["flat"], "problem.rank": [1], "problem.num_measurements": [10, 40, 100]},
    },
    "transition": {"seeds": 4, "axes": {"problem.rank": [1], "problem.num_measurements": [10, 40, 100]}},
}


def example(path):
    return pytest.param(path, id=path.stem, marks=[pytest.mark.long] if path.stem in SLOW else [])


@pytest.mark.parametrize("path", [example(path) for path in EXAMPLES])
def test_examples_are_right_and_run(path, tmp_path):
    spec = load_spec(path)
    assert spec.name == path.stem
    assert plan(spec).grid.size > 40
    small = study_spec(tomllib.loads(path.read_text()) | SMALL[path.stem])
    summary = run_study(small, tmp_path / "s")
    assert summary.failed == 0
    assert summary.computed > 0
    store = find_store(tmp_path / "s")
    values = store.read().values
    assert all(np.isfinite(v[store.read().states == 1]).all() for v in values.values())
    if path.stem == "phase-diagram":
        shares = study_dataset(store.study, store.read())["recovered"].mean("seed").values.ravel()
        assert shares[0] == 0
        assert shares[-1] == 1
    assert study_figures(store.study, store.read())


# reports --------------------------------------------------------------------------------------------------------------


def dataset(**sizes):
    shape = tuple(sizes.values())
    return xr.Dataset({"v": (tuple(sizes), np.zeros(shape))}, {k: np.arange(n) for k, n in sizes.items()})


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"a": 1}, (None, None, False, ())),
        ({"a": 5}, ("a", None, False, ())),
        ({"a": 3, "b": 20}, ("b", "a", False, ())),
        ({"a": 10, "b": 20}, ("b", "a", True, ())),
        ({"a": 10, "b": 20, "c": 2}, ("b", "a", True, ("c",))),
        ({"a": 2, "b": 3, "c": 4, "d": 1}, ("c", "b", False, ("a",))),
    ],
)
def test_layouts(sizes, expected):
    found = layout_of(dataset(**sizes), list(sizes))
    assert (found.x, found.second, found.grid, found.multiples) == expected


def test_power_laws_have_true_intervals():
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 100, 8)
    inside = 0
    for _ in range(400):
        y = 3 * x[:, None] ** -1.5 * np.exp(rng.normal(0, 0.2, (8, 4)))
        fit = power_law(x, y)
        inside += fit.low <= -1.5 <= fit.high
    assert abs(inside / 400 - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 400)
    assert fit.at(np.array([1.0]))[0] == pytest.approx(3, rel=0.3)
    assert power_law(x, np.zeros((8, 1))) is None
    assert power_law(x[:2], x[:2, None]) is None


def run_of(tmp_path, name, **changes):
    raw = {
        "name": name,
        "seeds": 4,
        "function": {"call": "study_cells:tiny"},
        "axes": {"function.x": [0.0, 0.5], "function.y": list(range(1, 6))},
    }
    run_study(study_spec(raw | changes), tmp_path / name)
    return find_store(tmp_path / name)


def test_figures_hold_the_numbers(tmp_path):
    store = run_of(tmp_path, "s")
    (figure,) = study_figures(store.study, store.read())
    (panel,) = figure.panels
    assert isinstance(panel, Panel)
    assert [s.label for s in panel.series] == ["x = 0", "x = 0.5"]
    # the median of seeds 0..3 is 1.5
    assert panel.series[1].y.tolist() == [1 + y + 1.5 for y in range(1, 6)]
    assert panel.series[1].low.tolist() == [1 + y for y in range(1, 6)]
    assert "over 4 runs" in figure.intervals


def test_a_phase_diagram_and_its_transition(tmp_path):
    function = {"call": "study_cells:coin", "outputs": ["recovered"], "scale": 0.05, "middle": 0.4}
    axes = {"function.row": list(range(8)), "function.x": {"from": 0, "to": 1, "count": 21}}
    store = run_of(tmp_path, "s", function=function, axes=axes, seeds=12)
    first, second = study_figures(store.study, store.read())
    (grid,) = first.panels
    assert isinstance(grid, HeatmapPanel)
    assert grid.values.shape == (8, 21)
    assert set(np.unique(grid.values[:, 0])) == {0.0}
    assert set(np.unique(grid.values[:, -1])) == {1.0}
    (series,) = second.panels[0].series
    assert abs(np.mean(series.y) - 0.4) < 0.02
    assert (series.high > series.low).all()


def test_comparisons(tmp_path):
    one, two = run_of(tmp_path, "one"), run_of(tmp_path, "two", seeds=6)
    three = run_of(tmp_path, "three", function={"call": "study_cells:slow", "seconds": 0.0}, axes={"function.x": [1]})
    data = {store.study.spec.name: study_dataset(store.study, store.read()) for store in (one, two, three)}
    figure = comparison_figure(data["one"], data["two"], ("one", "two"))
    assert "40 of 40 equal to the last bit" in figure.caption
    with pytest.raises(UsageError, match="three has the axes"):
        comparison_figure(data["one"], data["three"], ("one", "three"))


def test_a_report_is_made_again_when_there_is_more(tmp_path):
    def render(_run, folder):
        (folder / "report.html").write_text("page")

    raw = {"name": "s", "seeds": 4, "function": {"call": "study_cells:tiny"}, "axes": {"function.x": [0.0, 0.5]}}
    run_study(study_spec(raw), tmp_path / "s", shard=(1, 2))
    first = report_study(find_store(tmp_path / "s"), render)
    assert first.spec["done"] == 4
    run_study(study_spec(raw), tmp_path / "s")
    second = report_study(find_store(tmp_path / "s"), render)
    assert second.spec["done"] == 8
    assert [p.name for p in (tmp_path / "s" / "report").iterdir()] == [second.path.name]
    assert json.loads((second.path / "spec.json").read_text())["spec"]["axis function.x"] == "0.0, 0.5"
