"""The worked examples of CONTRIBUTING.md run, stay short, and name what the code has."""

import importlib
import pathlib
import re
import sys

import pytest

from flatmin import UsageError
from flatmin.cli import main
from flatmin.dynamics import AbstractDynamics, AbstractRule
from flatmin.measurements import AbstractMeasurements
from flatmin.parameterizations import AbstractParameterization

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
MOST_LINES = {
    "measurement": 45,
    "parameterization": 45,
    "dynamics": 15,
    "statement to the ledger": 40,
    "figure": 30,
    "paper": 150,
}
"""Lines of the example without blank ones: what it costs to add one."""


def part(name):
    return re.search(rf"^## How to add an? {name}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[1]


def example(name):
    return re.search(r"```python\n(.*?)```", part(name), re.DOTALL)[1]


@pytest.mark.parametrize("name", MOST_LINES)
def test_examples_run_and_stay_short(name):
    code = example(name)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= MOST_LINES[name]
    if name == "statement to the ledger":
        from flatmin.experiments.ledger import ENTRIES, decide, measure_entry
        from flatmin.experiments.ledger._verdict import mutation_of
    made = {"__name__": "example"}
    try:
        exec(compile(code, f"CONTRIBUTING.md: {name}", "exec"), made)  # noqa: S102
        if name == "statement to the ledger":
            table = measure_entry(made["line"], seed=1, quick=True)
            assert not decide(made["line"], table, mutation_of(made["line"])).holds
    finally:
        if name == "statement to the ledger":
            ENTRIES.pop("example-product-norm", None)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("measurement", AbstractMeasurements),
        ("parameterization", AbstractParameterization),
        ("dynamics", AbstractDynamics),
        ("dynamics", AbstractRule),
    ],
)
def test_recipes_name_what_the_base_class_asks_for(name, base):
    named = set(re.findall(r"`(\w+)`", part(name)))
    assert set(base.__abstractmethods__) | {base.__name__} <= named


def test_files_and_targets_that_are_named_exist():
    named = re.findall(r"`((?:tests|docs|benchmarks|scripts|src)/[\w./]+)`", TEXT)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
    targets = re.findall(r"`make ([\w-]+)`", TEXT)
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
    rooms = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert sorted(rooms) == sorted(p.name for p in (ROOT / "src/flatmin").iterdir() if any(p.rglob("*.py")))


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Another package that adds a page: a module and the entry points that its installation leaves."""
    (tmp_path / "frobenius_page.py").write_text(example("paper"))
    info = tmp_path / "frobenius_page-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: frobenius-page\nVersion: 1.0\n")
    points = "[flatmin.papers]\nfrobenius = frobenius_page\nbroken = no_such_module\nempty = this\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("frobenius_page", None)


def test_another_package_adds_a_page(page, capsys):
    assert main(["reproduce", "frobenius", "--quick", "--strict", "--out", str(page / "runs")]) == 0
    assert "1 of 1 claims hold." in capsys.readouterr().out
    (report,) = (page / "runs").glob("frobenius-*/report.html")
    assert "What the least Frobenius norm recovers" in report.read_text()


def test_pages_that_cannot_be_had_are_one_sentence(page, capsys):
    from flatmin.experiments.papers import paper

    with pytest.raises(UsageError, match=r"key: broken is entered as no_such_module, which cannot be imported"):
        paper("broken")
    with pytest.raises(UsageError, match=r"key: empty is entered as this, which has no PAPER"):
        paper("empty")
    assert main(["reproduce"]) == 2
    assert "paper: got none, expected one of" in capsys.readouterr().err


def test_the_list_of_papers(capsys):
    assert main(["reproduce", "--list"]) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in ("gatmiry2023", "ding2022", "marion2024"))
