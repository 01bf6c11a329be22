"""The documents are held to the code: examples run, links lead somewhere, targets have rules, nothing stands twice."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_python_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 18
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102
    printed = capsys.readouterr().out
    gap = float(re.search(r"certified gap (\S+)", printed)[1])
    assert gap <= 1e-8
    flat, sharp = (float(v) for v in re.search(r"trace (\S+) at a random point (\S+)", printed).groups())
    assert flat < sharp / 3


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_links_exist(path):
    assert (pathlib.Path(__file__).parent.parent / path).exists()


def test_command_examples_are_real():
    from typer.main import get_command

    from flatmin.cli._app import app

    (block,) = re.findall(r"```\n(flatmin .*?)```", README, flags=re.DOTALL)
    commands = get_command(app).commands
    for line in block.strip().splitlines():
        words = line.split("#")[0].split()
        command = commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {w for w in words if w.startswith("--")} <= known


def test_targets_have_rules():
    makefile = (ROOT / "Makefile").read_text()
    (declared,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    ruled = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    assert sorted(declared.split()) == sorted(ruled)
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text() + README))
    assert named <= set(ruled)


def test_changelog_says_nothing_twice():
    lines = [line.strip() for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if len(line.strip()) > 40]
    assert [a for i, a in enumerate(lines) for j, b in enumerate(lines) if i != j and a in b] == []
