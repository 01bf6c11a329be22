"""The command: what it prints, what it refuses, and how it ends."""

import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flatmin import JobError
from flatmin.cli import main
from flatmin.cli._background import Interrupted, Tracker, fraction_done, in_background
from flatmin.experiments import Claim, Experiment, RunContent, RunSpec, obtain_run, papers, setting
from flatmin.experiments.cells import compute_cells
from flatmin.experiments.papers import Paper
from flatmin.studies.cells import Cell
from recovery_files import completion_csv, gaussian_npz, low_rank, write_csv

SOURCE = pathlib.Path(__file__).parent.parent / "src"


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch):
    monkeypatch.delenv("FLATMIN_DEBUG", raising=False)


def refused(capsys, arguments, code=2):
    """The one sentence of a refusal."""
    assert main([str(a) for a in arguments]) == code
    text = capsys.readouterr()
    lines = [line for line in text.err.strip().splitlines() if line[0] != "["]  # but for lines of progress
    assert len(lines) == 1, text.err
    assert "Traceback" not in text.err
    assert "mistake in flatmin" not in text.err
    return lines[0].removeprefix("flatmin: ")


# ---- wrong requests ------------------------------------------------------------------------------------------------


def csv(text):
    def make(folder):
        (folder / "t.csv").write_text(text)
        return [folder / "t.csv"]

    return make


def npz(**arrays):
    def make(folder):
        np.savez(folder / "t.npz", **arrays)
        return [folder / "t.npz"]

    return make


def raw(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return [folder / name]

    return make


def picture(*options, shape=(6, 5)):
    def make(folder):
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(folder / "p.png")
        return [folder / "p.png", *options]

    return make


def with_mask(mask, name="mask.npy"):
    def make(folder):
        if name.endswith(".npy"):
            np.save(folder / name, mask)
        else:
            (folder / name).write_bytes(mask)
        return [*picture()(folder), "--mask", folder / name]

    return make


def good(*options):
    return lambda folder: [completion_csv(folder)[0], *options]


def good_npz(*options):
    return lambda folder: [gaussian_npz(folder)[0], *options]


def parquet(table):
    def make(folder):
        table.to_parquet(folder / "t.parquet")
        return [folder / "t.parquet"]

    return make


def truncated_npz(folder):
    path, _ = gaussian_npz(folder)
    path.write_bytes(path.read_bytes()[:3000])
    return [path]


def single_npz(folder):
    np.save(folder / "t.npy", np.ones(3))
    return [(folder / "t.npy").rename(folder / "t.npz")]


def flipped_npz(folder):
    path, _ = gaussian_npz(folder)
    content = bytearray(path.read_bytes())
    content[400:420] = bytes(20)
    path.write_bytes(content)
    return [path]


def truncated_png(folder):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(folder / "p.png")
    (folder / "p.png").write_bytes((folder / "p.png").read_bytes()[:700])
    return [folder / "p.png", "--missing", "0.5"]


def truncated_parquet(folder):
    parquet(pd.DataFrame({"i": [0], "j": [0], "x": [1.0]}))(folder)
    (folder / "t.parquet").write_bytes((folder / "t.parquet").read_bytes()[:100])
    return [folder / "t.parquet"]


A, B = np.ones((3, 2, 2)) * np.arange(1.0, 4)[:, None, None], np.arange(3.0)
NAN = np.array([0.0, np.nan, 1.0])

REFUSALS = {
    # tables
    "empty file": (csv(""), "t.csv: the file is empty"),
    "only a header": (csv("i,j,x\n"), "m = 0"),
    "two columns": (csv("i,x\n0,1\n"), r"got 2 column\(s\) \(i, x\), expected three"),
    "text in numbers": (csv("i,j,x\n0,0,1\n0,1,two\n"), "x: line 3 holds 'two', expected a finite number"),
    "empty value": (csv("i,j,x\n0,0,\n0,1,2\n"), "x: line 2 holds an empty cell"),
    "nan value": (csv("i,j,x\n0,0,1\n1,1,nan\n"), "x: line 3 holds"),
    "infinite value": (csv("i,j,x\n0,0,1\n1,1,-inf\n"), "x: line 3 holds"),
    "empty label": (csv("i,j,x\na,b,1\n,b,2\n"), "i: line 3 is empty, expected a label"),
    "duplicates": (csv("i,j,x\n0,0,1\n1,0,2\n0,0,3\n"), r"\(0, 0\) is given 2 times, first in lines 2 and 4.*mean"),
    "ragged lines": (csv("i,j,x\n0,0,1\n0,1,2,3,4\n"), "cannot be read as CSV .*line 3"),
    "huge values": (csv("i,j,x\n0,0,1e300\n0,1,2\n"), "leave the range of floating point; rescale"),
    "not text": (raw("t.csv", b"\xff\xfe\x00\x01" * 50), "t.csv: .*(UTF-8|CSV|column)"),
    "missing column": (good("--value", "valeu"), "no column 'valeu'; did you mean 'value'"),
    "missing row name": (good("--row", "rwo"), "no column 'rwo'; did you mean 'row'"),
    "one column twice": (good("--column", "row"), "expected three columns"),
    "outside of shape": (good("--shape", "10,14"), r"holds 10, outside \[0, 10\), the rows of --shape"),
    "labels with shape": (lambda f: [*csv("i,j,x\na,b,1\n")(f), "--shape", "2,2"], "leave --shape out"),
    "fractions with shape": (lambda f: [*csv("i,j,x\n0.5,0,1\n")(f), "--shape", "2,2"], "expected a whole number"),
    "negative index": (lambda f: [*csv("i,j,x\n-1,0,1\n")(f), "--shape", "2,2"], r"holds -1, outside \[0, 2\)"),
    "bad shape": (good("--shape", "3"), "shape: got '3', expected two whole numbers"),
    "zero shape": (good("--shape", "0,5"), "shape: got '0,5', expected two whole numbers >= 1"),
    "unknown duplicates": (good("--duplicates", "maen"), "duplicates: 'maen' is not known; did you mean 'mean'"),
    "parquet garbage": (raw("t.parquet", b"PAR1 no"), "t.parquet: cannot be read as Parquet"),
    "parquet truncated": (truncated_parquet, "cannot be read as Parquet"),
    "parquet empty": (raw("t.parquet", b""), "cannot be read as Parquet"),
    "parquet of lists": (parquet(pd.DataFrame({"i": [0], "j": [0], "x": [[1, 2]]})), "t.parquet, x: .*expected"),
    # archives
    "npz truncated": (truncated_npz, "sensing.npz: cannot be read as an .npz archive"),
    "npz damaged": (flipped_npz, "sensing.npz: cannot be read"),
    "npz garbage": (raw("t.npz", b"hello"), "t.npz: cannot be read as an .npz archive"),
    "npz of one array": (single_npz, "t.npz: got a single array, expected an .npz archive"),
    "npz empty": (raw("t.npz", b""), "t.npz: cannot be read as an .npz archive"),
    "npz pickled": (npz(A=A, b=np.array([1, "a", None], dtype=object)), "pickled objects, which could run code"),
    "npz complex": (npz(A=A + 1j, b=B), "A: got complex numbers"),
    "npz texts": (npz(A=A, b=np.array(["a", "b", "c"])), "b: got values of type <U1"),
    "npz nan": (npz(A=A, b=NAN), r"b: got 1 value\(s\) that are NaN or infinite, the first at index \(1,\)"),
    "npz infinite": (npz(A=np.where(A == 1, np.inf, A), b=B), "A: got 4 value"),
    "npz without b": (npz(A=A), "expected b too|expected b"),
    "npz without right": (npz(left=np.ones((3, 2)), b=B), "expected right too"),
    "npz two forms": (npz(A=A, x=np.ones((3, 2)), b=B), "exactly one of A, left with right, or x"),
    "npz unknown name": (npz(A=A, b=B, turth=np.ones((2, 2))), "an array named 'turth'; did you mean 'truth'"),
    "npz lengths": (npz(A=A, b=np.arange(4.0)), r"b: got shape \(4,\), expected \(3,\)"),
    "npz shape of A": (npz(A=np.ones((3, 4)), b=B), r"A: got shape \(3, 4\), expected \(m, d1, d2\)"),
    "npz lengths of factors": (npz(left=np.ones((3, 2)), right=np.ones((4, 2)), b=B), r"right: got shape \(4, 2\)"),
    "npz shape of truth": (npz(A=A, b=B, truth=np.ones((3, 2))), r"truth: got shape \(3, 2\), expected \(2, 2\)"),
    "npz no measurements": (npz(A=np.ones((0, 2, 2)), b=np.ones(0)), "got no values"),
    "npz all zero": (npz(A=0 * A, b=B), "all measurements are zero"),
    "npz with missing": (
        good_npz("--missing", "0.5"),
        "missing: applies to matrix and image .*--holdout",
    ),
    "npz with column": (good_npz("--value", "x"), "value: applies to table sources, got a npz archive"),
    # pictures
    "picture of no image": (raw("p.png", b"no image at all"), "p.png: is not an image"),
    "picture truncated": (truncated_png, "p.png: cannot be read as an image"),
    "picture empty": (raw("p.jpg", b""), "p.jpg: is not an image"),
    "picture without mask": (picture(), "mask, missing: got neither .*--missing or --mask"),
    "missing of one": (picture("--missing", "1"), "missing: got 1.0, expected a finite number > 0 and < 1"),
    "missing of zero": (picture("--missing", "0"), "missing: got 0.0"),
    "missing negative": (picture("--missing", "-0.5"), "missing: got -0.5"),
    "missing nan": (picture("--missing", "nan"), "missing: got nan"),
    "missing all": (picture("--missing", "0.9999", shape=(2, 2)), "hides all 4 entries"),
    "mask of other size": (with_mask(np.ones((5, 6), dtype=bool)), r"mask: got shape \(5, 6\).*expected \(6, 5\)"),
    "mask hides all": (with_mask(np.zeros((6, 5), dtype=bool)), "hides every pixel"),
    "mask hides none": (with_mask(np.ones((6, 5), dtype=bool)), "hides no pixel"),
    "mask of floats": (with_mask(np.ones((6, 5))), "mask: got float64"),
    "mask garbage": (with_mask(b"nothing", "mask.png"), "mask.png: is not an image"),
    "mask absent": (picture("--mask", "nowhere.png"), "nowhere.png"),
    # sources
    "no such file": (lambda f: [completion_csv(f)[0].with_name("rating.csv")], "did you mean 'ratings.csv'"),
    "a folder": (lambda f: [(f / "x.csv").mkdir() or f / "x.csv"], "is a folder, expected a file"),
    "unknown ending": (raw("t.cvs", b"1"), "got the ending '.cvs' .*did you mean '.csv'"),
    "unknown name": (lambda f: ["camra"], "did you mean 'camera'"),
    "packaged without missing": (lambda f: ["camera"], "camera is completely known; hide a fraction"),
    "packaged with column": (lambda f: ["camera", "--row", "a"], "row: applies to table sources"),
    # options
    "unknown method": (good("--method", "nuclaer"), "method: 'nuclaer' is not known; did you mean 'nuclear'"),
    "hold-out of one": (good("--holdout", "1"), "holdout: got 1.0, expected a finite number > 0 and < 1"),
    "hold-out negative": (good("--holdout", "-0.1"), "holdout: got -0.1"),
    "hold-out too small": (good("--holdout", "1e-6"), "holdout: got 1e-06 of m = .*both need at least one"),
    "tolerance zero": (good("--tolerance", "0"), "tolerance: got 0.0"),
    "tolerance nan": (good("--tolerance", "nan"), "tolerance: got nan"),
    "no iterations": (good("--max-iterations", "0"), "max_iterations: got 0, expected an integer >= 1"),
    "negative noise": (
        good("--method", "label-noise", "--noise", "-1"),
        "noise: got -1.0, expected a finite number",
    ),
    "infinite noise": (good("--method", "label-noise", "--noise", "inf"), "noise: got inf"),
    "depth one": (good("--method", "label-noise", "--depth", "1"), "depth: got 1, expected an integer >= 2"),
    "few steps": (good("--method", "label-noise", "--steps", "3"), "steps: got 3"),
    "learning rate": (good("--method", "label-noise", "--learning-rate", "0"), "learning_rate: got 0.0"),
    "noise for nuclear": (good("--noise", "0.1"), "noise: applies to --method label-noise, got nuclear"),
    "depth for frobenius": (good("--method", "frobenius", "--depth", "3"), "depth: applies to --method label-noise"),
    "iterations for label noise": (good("--method", "label-noise", "--max-iterations", "5"), "takes --steps"),
    "iterations for frobenius": (good("--method", "frobenius", "--max-iterations", "5"), "closed form, leave it out"),
    "negative seed": (good("--seed", "-1"), "seed: got -1"),
    "seed of text": (good("--seed", "one"), "valid int"),
    "unknown option": (good("--tolerence", "1"), "[Nn]o such option"),
    "unseen rows": (good("--method", "label-noise", "--shape", "18,14"), r"2 row\(s\) have no entry to fit \(16, 17\)"),
    "all zero": (lambda f: [*csv("i,j,x\n0,0,0\n")(f), "--method", "label-noise"], "targets: all are zero"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_requests_are_one_sentence(case, tmp_path, capsys):
    make, text = REFUSALS[case]
    sentence = refused(capsys, ["recover", *make(tmp_path), "--out", tmp_path / "runs"])
    assert re.search(text, sentence), sentence
    assert not (tmp_path / "runs").exists()  # refused before anything was written


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["reproduce", "gatmiry2032"], "paper: 'gatmiry2032' is not known; did you mean 'gatmiry2023'"),
        (["reproduce", "gatmiry2023", "--quick", "--full"], "quick, full: got both"),
        (["reproduce", "gatmiry2023", "--workers", "0"], "workers: got 0"),
        (["reproduce", "gatmiry2023", "--seed", "-1"], "seed: got -1"),
        (["reproduce"], "paper: got none, expected one of gatmiry2023, ding2022, marion2024"),
        (["repruduce"], "No such command 'repruduce'"),
        (["runs", "--out", "no-such-folder"], "out: no-such-folder does not exist"),
        (["report", "abc", "--out", "no-such-folder"], "run: 'abc' is not known, no-such-folder holds no"),
        (["report", "", "--out", "no-such-folder"], "run: '' is not known"),
    ],
)
def test_other_wrong_requests(arguments, text, capsys):
    assert text in refused(capsys, arguments)


# ---- failing jobs --------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    path, _, _ = completion_csv(tmp_path)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "choose another folder" in refused(capsys, ["recover", path, "--out", out], code=1)
        assert "choose another folder" in refused(capsys, ["reproduce", "gatmiry2023", "--out", out], code=1)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, capsys, monkeypatch):
    path, _, _ = completion_csv(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flatmin.experiments.runs._write_content", full)
    sentence = refused(capsys, ["recover", path, "--method", "frobenius", "--out", tmp_path / "runs"], code=1)
    assert "No space left on device" in sentence
    assert not list((tmp_path / "runs").glob("recover-*"))


def test_memory_and_unforeseen_errors_are_one_sentence(tmp_path, capsys, monkeypatch):
    path, _, _ = completion_csv(tmp_path)
    for error, text in (
        (MemoryError(), "not enough memory"),
        (ZeroDivisionError("x"), "unexpected ZeroDivisionError: x; this is a mistake in flatmin"),
        (JobError("a\nb"), "a b"),
        (KeyboardInterrupt(), "interrupted; finished pieces are kept"),
    ):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr("flatmin.datasets.read_data", fail)
        code = main(["recover", str(path), "--out", str(tmp_path / "runs")])
        text_got = capsys.readouterr().err
        assert text in text_got
        assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATMIN_DEBUG", "1")
    with pytest.raises(ValueError, match="camera"):
        main(["recover", "camra", "--out", str(tmp_path)])


def test_a_diverging_step_size(tmp_path, capsys):
    matrix = low_rank(6, 6, 1)
    path = write_csv(tmp_path / "t.csv", matrix, np.ones((6, 6), dtype=bool))
    options = ["--method", "label-noise", "--steps", "400", "--learning-rate", "5"]
    main(["recover", str(path), *options, "--out", str(tmp_path / "runs")])
    text = capsys.readouterr().err
    assert "learning_rate: label-noise SGD diverged at 5.0e+00, step" in text
    assert "lower it, or leave it out" in text
    assert main(["runs", "--out", str(tmp_path / "runs")]) == 0
    assert "start it again to retry" in capsys.readouterr().out


# ---- a paper, played by a small one --------------------------------------------------------------------------------


class ToySpec(RunSpec):
    size: str = setting("demo", origin="ours", description="size")
    seed: int = setting(0, origin="ours", description="seed")


@pytest.fixture
def toy(monkeypatch):
    """A paper of three cells, of which each counts how often it is computed."""
    import xarray as xr

    calls = []

    def compute(spec, context):
        def cell(number):
            def work(checkpoint, progress):
                calls.append(number)
                for step in range(3):
                    progress(step, 3)
                return xr.Dataset({"x": float(number)})

            return Cell(f"cell {number}", {"number": number, **spec.model_dump()}, work)

        done = compute_cells({i: cell(i) for i in range(3)}, context)
        total = sum(float(d.x) for d in done.values())
        claims = (
            Claim.at_most(5.0, name="small", statement="s", source="t", predicted="≤ 5", measured=total),
            Claim.at_most(1.0, name="tiny", statement="s", source="t", predicted="≤ 1", measured=total),
        )
        return RunContent({}, claims)

    sizes = {name: (lambda seed, name=name: ToySpec(size=name, seed=seed)) for name in ("demo", "quick", "full")}
    found = Paper(Experiment("toy", 1, "A toy"), sizes, compute)
    monkeypatch.setattr("flatmin.experiments.papers.paper", lambda key: found)
    monkeypatch.setitem(papers.MODULES, "toy", "toy")
    return calls


def test_reproduce_computes_once_and_prints_the_claims(tmp_path, toy, capsys):
    out = ["--out", str(tmp_path / "runs")]
    assert main(["reproduce", "toy", *out]) == 0
    text = capsys.readouterr()
    assert sorted(toy) == [0, 1, 2]
    assert re.search(r"✓ holds +small +≤ 5 +3 +2", text.out)
    assert re.search(r"✗ fails +tiny +≤ 1 +3 +−2", text.out)
    assert "1 of 2 claims hold." in text.out
    report = pathlib.Path(re.search("Report: (.*)", text.out)[1])
    assert report.is_file()
    assert len(text.err.splitlines()) == 3  # one line a cell, not one a step
    assert not list((tmp_path / "runs" / ".cells").iterdir())
    assert main(["reproduce", "toy", *out]) == 0
    assert "found, not recomputed" in capsys.readouterr().out
    assert len(toy) == 3
    assert main(["reproduce", "toy", "--quick", "--seed", "4", *out]) == 0
    assert len(toy) == 6
    capsys.readouterr()
    assert main(["reproduce", "toy", "--strict", *out]) == 1
    assert "1 claim(s) do not hold: tiny" in capsys.readouterr().err


def test_reproduce_in_shares(tmp_path, toy, capsys):
    out = ["--out", str(tmp_path / "runs")]
    assert main(["reproduce", "toy", "--shard", "2/2", *out]) == 0
    assert "1 of 3 pieces are finished" in capsys.readouterr().out
    assert main(["runs", *out]) == 0
    assert "failed" not in capsys.readouterr().out
    assert main(["reproduce", "toy", "--shard", "1/2", *out]) == 0
    assert "1 of 2 claims hold." in capsys.readouterr().out
    assert sorted(toy) == [0, 1, 2]
    assert "expected i/n" in refused(capsys, ["reproduce", "toy", "--shard", "3/2", *out])


def test_runs_and_report(tmp_path, toy, capsys):
    out = ["--out", str(tmp_path)]
    for size in ([], ["--quick"]):
        main(["reproduce", "toy", *size, *out])
    folders = sorted(p for p in tmp_path.iterdir() if p.name.startswith("toy-"))
    (tmp_path / "notes").mkdir()
    capsys.readouterr()
    assert main(["runs", *out]) == 0
    text = capsys.readouterr().out
    for folder in folders:
        assert folder.name.removeprefix("toy-") in text
    assert text.count("A toy") == 2
    assert text.count("1/2") == 2
    assert "notes" in text
    identity = folders[0].name.removeprefix("toy-")
    for name in (str(folders[0]), folders[0].name, identity, identity[:6]):
        (folders[0] / "report.html").unlink()
        assert main(["report", name, *out]) == 0
        assert (folders[0] / "report.html").is_file()
    assert "fits 2 runs" in refused(capsys, ["report", "toy", *out])
    assert f"did you mean '{folders[0].name}'" in refused(capsys, ["report", folders[0].name[:-1] + "zz", *out])
    (folders[0] / "spec.json").write_text("{}")
    assert "damaged" in refused(capsys, ["report", folders[0], *out], code=1)


def test_an_empty_folder_of_runs(tmp_path, capsys):
    assert main(["runs", "--out", str(tmp_path)]) == 0
    assert "No finished runs" in capsys.readouterr().out


# ---- progress and interrupts ---------------------------------------------------------------------------------------


def test_fractions_weigh_pieces_by_their_steps():
    assert fraction_done({}) == 0
    assert fraction_done({"a": (50, 100)}) == 0.5
    assert fraction_done({"a": (100, 100), "b": (0, 300)}) == pytest.approx(0.25)
    assert fraction_done({"a": (100, 100), "b": (0, 0)}) == pytest.approx(0.5)
    assert fraction_done({"a": (100, 100), "b": (1, 1)}) == pytest.approx(1.0)
    assert fraction_done({"a": (0, 100), "b": (1, 1)}) < 0.02


def test_a_finished_piece_keeps_its_size():
    tracker = Tracker()
    for done, total in ((0, 0), (0, 1), (5, 10), (1, 1)):
        tracker("a", done, total)
    assert tracker.pieces() == {"a": (10, 10)}


def test_errors_of_the_thread_arrive():
    def work():
        raise JobError("no")

    with pytest.raises(JobError, match="no"):
        in_background(work, Tracker())
    assert in_background(lambda: 3, Tracker()) == 3


def test_an_interrupt_stops_the_computation_at_its_next_report():
    tracker, ended = Tracker(), []

    def work():
        try:
            for step in range(10**6):
                tracker("a", step, 10**6)
                if step % 20 == 3:  # one that falls into a destructor is lost: a person presses again, too
                    os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        except KeyboardInterrupt:
            ended.append(True)
            raise

    with pytest.raises(Interrupted) as caught:
        in_background(work, tracker)
    assert ended == [True]
    assert not caught.value.abandoned


def command(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "FLATMIN_CACHE": "off"}
    environment.pop("FLATMIN_DEBUG", None)
    line = [sys.executable, "-m", "flatmin", *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options)


def test_interrupted_and_started_again(tmp_path):
    """SIGINT in the middle of training: one sentence, code 130, a checkpoint; the next start goes on from it."""
    matrix = low_rank(8, 8, 1)
    path = write_csv(tmp_path / "t.csv", matrix, np.ones((8, 8), dtype=bool))
    out = tmp_path / "runs"
    line = ["recover", path, "--method", "label-noise", "--steps", "3000000", "--out", out]
    process = command(*line)
    deadline = time.monotonic() + 240
    while not list(out.glob(".cells/*/phase-0-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
        # a checkpoint is written now and then; the interrupt writes one too
        if list(out.glob(".cells/recover-*")):
            time.sleep(4)
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "interrupted; finished pieces are kept, start the same command again to go on" in err
    assert "Traceback" not in err
    assert not list(out.glob("recover-*"))


def test_help_is_fast_and_version():
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = command("--help")
        out, err = process.communicate(timeout=240)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert process.returncode == 0, err
    assert "reproduce" in out
    assert "recover" in out
    assert min(times) < 1.0  # seconds of a processor, 0.2 on an idle machine: what else runs does not count
    out, _ = command("--version").communicate(timeout=240)
    assert re.fullmatch(r"flatmin \d+\.\d+\.\d+\n", out)


def test_help_loads_neither_jax_nor_numpy():
    look = "print(sorted({'jax', 'numpy', 'pydantic'} & set(sys.modules)))"
    code = f"import sys, flatmin.cli as c; c.main(['--help']); {look}"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert out.stdout.strip().endswith("[]")


def test_a_refusal_from_the_shell():
    process = command("recover", "camra")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert err.startswith("flatmin: file: got 'camra'")
    assert out == ""


def test_the_toy_is_stored_like_any_run(tmp_path):
    run, is_new = obtain_run(Experiment("toy", 1, "A toy"), ToySpec(), lambda _: RunContent({}), out=tmp_path)
    assert is_new
    assert run.spec == {"size": "demo", "seed": 0}


COMMANDS = [[], ["reproduce"], ["recover"], ["explore-regulariser"], ["runs"], ["report"], ["verify-theory"], ["study"]]
VERBS = [["study", name] for name in ("new", "check", "run", "status", "report", "export")]


@pytest.mark.parametrize("command", COMMANDS + VERBS, ids=" ".join)
def test_help_is_whole_and_its_examples_are_commands(command, capsys, monkeypatch):
    import typer

    from flatmin.cli._app import app

    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "..." not in text.replace("[ARGS]...", "")
    examples = re.findall(r"^ +(flatmin .*)$", text, flags=re.MULTILINE)
    examples = [line for line in examples if not line.startswith("flatmin [")]
    if command in ([], ["study"]):
        assert not examples
        return
    assert "Exit codes: 0 done" in text
    assert examples
    assert all(line.split()[1 : len(command) + 1] == command for line in examples)
    group = typer.main.get_command(app)
    for line in examples:  # parsed as the shell would hand it over; nothing is run
        parts, chosen = line.split()[1:], group
        while hasattr(chosen, "commands"):
            chosen, parts = chosen.commands[parts[0]], parts[1:]
        context = chosen.make_context(line, parts, resilient_parsing=False)
        assert not context.args
