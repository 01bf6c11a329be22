"""Standard streams that are closed, cannot spell, or that nobody reads; texts of others on a terminal."""

import csv
import io
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from flatmin._core.text import printable, spreadsheet_cell, spreadsheet_label
from flatmin.cli import main
from flatmin.cli._streams import prepare_streams
from flatmin.experiments import Claim
from flatmin.experiments.claims import claims_table

TOLD = "202.3×10⁻⁸ ≤ λ, −1 ✓ ü 中"


def shell(redirection, folder, *arguments, **variables):
    command = shlex.join([sys.executable, "-m", "flatmin", *arguments])
    environment = {**os.environ, **variables}
    return subprocess.run(
        ["/bin/sh", "-c", f"{command} {redirection}"],
        cwd=folder, capture_output=True, timeout=100, check=False, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("ascii", rb"202.3x10^-8 <= lambda, -1 + \xfc \u4e2d"),
        ("latin-1", b"202.3\xd710^-8 <= lambda, -1 + \xfc \\u4e2d"),
        ("cp1252", b"202.3\xd710^-8 <= lambda, -1 + \xfc \\u4e2d"),
        ("utf-8", TOLD.encode()),
    ],
)
def test_characters_that_an_encoding_lacks_are_spelt(encoding, text, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    prepare_streams()
    print(TOLD, flush=True)
    assert raw.getvalue() == text + b"\n"


def test_names_that_are_no_unicode_are_printed():
    script = (
        "import sys; from flatmin.cli._streams import prepare_streams, say; prepare_streams();"
        "print('x\\udce9'); say('\\udce9 × \\x1b[31m'); say('×', error=True)"
    )
    for encoding, cross in (("utf-8", "×"), ("ascii", "x")):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True, timeout=60, check=True, env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.stdout.decode(encoding) == f"x\\udce9\n\\udce9 {cross} \\x1b[31m\n"
        assert done.stderr.decode(encoding) == f"{cross}\n"


@pytest.mark.parametrize("closed", ["2>&-", "<&-", ">&-"])
def test_one_closed_stream(closed, tmp_path):
    done = shell(closed, tmp_path, "--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"flatmin ") or closed == ">&-"


def test_closed_streams_do_not_lead_into_files(tmp_path):
    assert shell("<&- >&- 2>&-", tmp_path, "study", "new", "grid").returncode == 0
    text = (tmp_path / "grid.toml").read_text()
    assert text.startswith("#")
    assert "Wrote" not in text


def test_a_reader_that_goes_away_and_a_full_disk(tmp_path):
    script = (
        "import os, sys; from flatmin.cli import main\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "sys.exit(main(['study', 'new', 'other']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "other.toml").is_file()
    if os.path.exists("/dev/full"):  # noqa: PTH110
        done = shell("> /dev/full", tmp_path, "--version")
        assert done.returncode == 1
        assert b"No space left" in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_plain_environment(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb", "NO_COLOR": "1"}
    done = shell("", tmp_path, "naïve", **plain)
    assert done.returncode == 2
    assert b"o such command" in done.stderr
    assert b"\x1b" not in done.stderr


def test_what_steers_a_terminal_is_shown():
    assert printable("a\x1b[31mb\r\x07\u202ec\u200b\x9b") == "a\\x1b[31mb\\r\\x07\\u202ec\\u200b\\x9b"
    assert printable("naïve 中 × 1\u00a0000") == "naïve 中 × 1\u00a0000"


def test_texts_of_others_are_neither_markup_nor_escapes(capsys):
    from rich.console import Console

    from flatmin.cli._tables import print_claims, print_lines, print_table, print_values

    evil = "[bold]x[/bold] \x1b]0;title\x07 [link=http://x]y[/link]"
    claim = Claim.at_most(1.0, name=evil, statement=evil, source=evil, predicted=evil, measured=0.5, note=evil)
    print_table((evil,), [(evil,)])
    print_values([(evil, evil)])
    print_claims([claim])
    print_lines([evil])
    console = Console(file=sys.stdout, width=200)
    console.print(claims_table([claim], title=evil))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert out.count("[bold]x[/bold]") >= 9
    assert main(["report", f"{evil}", "--out", "nowhere\x1b[31m"]) == 2
    assert "\x1b" not in capsys.readouterr().err


FORMULAS = ["=1+1", "@SUM(A1)", "+cmd|x!A0", "-2+3", "\t=1", " =1", "\r=1", "＝1", "'=1", "''@x", "\nx"]
PLAIN = ["a", "", "-3", "+5", "-1.5e-3", "'quoted'", "x=1", "007", "a-b", ".5", "'", "-.5"]


@pytest.mark.parametrize("text", FORMULAS + PLAIN)
def test_cells_that_a_spreadsheet_would_compute_are_marked(text):
    cell = spreadsheet_cell(text)
    assert spreadsheet_label(cell) == text
    assert cell == ("'" + text if text in FORMULAS else text)


def test_no_formula_in_a_recovered_matrix():
    import jax.numpy as jnp

    from flatmin.datasets import RecoveryData
    from flatmin.experiments.recovery.outputs import output_files
    from flatmin.measurements import entries

    rows, columns = ("=1+1", "-3"), ("@x", "c", "+2")
    op = entries(jnp.array([0, 1]), jnp.array([0, 2]), (2, 3))
    data = RecoveryData("x", op, np.ones(2), row_labels=rows, column_labels=columns)
    matrix = -np.arange(6.0).reshape(2, 3)
    written = list(csv.reader(io.StringIO(output_files(data, matrix, {})["matrix.csv"].decode())))
    assert [spreadsheet_label(cell) for cell in written[0][1:]] == list(columns)
    assert [spreadsheet_label(line[0]) for line in written[1:]] == list(rows)
    assert [[float(cell) for cell in line[1:]] for line in written[1:]] == matrix.tolist()
    assert written[0][1] == "'@x"
    assert written[1][0] == "'=1+1"
