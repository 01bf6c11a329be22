"""Recovery by value: planted matrices come back, certificates hold, diagnoses agree with the theory."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import JobError, UsageError
from flatmin.cli import main
from flatmin.datasets import read_data
from flatmin.experiments import Experiment, RunContent, load_run, obtain_run
from flatmin.experiments.recovery import RecoveryResult, Source, prepare, recovery_spec
from flatmin.experiments.recovery.diagnosis import predicted_minimum
from flatmin.experiments.specs import setting
from flatmin.measurements import entries
from flatmin.theory.gatmiry2023 import depth_two_regulariser
from recovery_files import completion_csv, gaussian_npz, low_rank, write_csv


@pytest.fixture
def draw_nothing(monkeypatch):
    """Drawing is most of the time of a small recovery; the tests that look at pages do without this."""

    def render(run, folder):
        (folder / "report.html").write_text(run.id)

    monkeypatch.setattr("flatmin.report.render_run", render)


@pytest.fixture
def recover_and_draw(tmp_path, capsys):
    """Run the command; gives exit code, the run's folder, its result and the recovered matrix."""

    def run(*arguments):
        code = main(["recover", *map(str, arguments), "--out", str(tmp_path / "runs")])
        text = capsys.readouterr()
        line = next((t for t in text.out.splitlines() if t.startswith("Report: ")), None)
        assert line, text.err
        folder = (tmp_path / "runs" / line.removeprefix("Report: ")).parent
        result = json.loads((folder / "result.json").read_text())
        return code, folder, result, np.load(folder / "matrix.npy"), text

    return run


@pytest.fixture
def recover(recover_and_draw, draw_nothing):
    return recover_and_draw


def test_planted_completion_comes_back(tmp_path, recover_and_draw):
    path, matrix, seen = completion_csv(tmp_path)
    code, folder, result, found, text = recover_and_draw(path)
    assert code == 0
    assert np.linalg.norm(found - matrix) <= 1e-6 * np.linalg.norm(matrix)
    assert result["rank"] == 1
    assert result["measurements_fitted"] == seen.sum()
    assert result["certificate"]["gap"] <= 1e-8
    assert result["certificate"]["dual_value"] <= np.linalg.svd(matrix, compute_uv=False).sum() * (1 + 1e-9)
    assert "computed in" in text.out
    assert (folder / "report.html").stat().st_size > 10_000
    assert {p.name for p in (folder / "figures").glob("*.png")} == {"recovered.png", "singular-values.png"}


def test_the_second_call_finds_the_run_wherever_the_file_lies(tmp_path, recover):
    path, _, _ = completion_csv(tmp_path)
    _, folder, _, _, _ = recover(path)
    moved = tmp_path / "other name.csv"
    path.rename(moved)
    code, again, _, _, text = recover(moved)
    assert code == 0
    assert again == folder
    assert "found, not recomputed" in text.out
    _, other, _, _, _ = recover(moved, "--method", "frobenius")
    assert other != folder


def test_labels_come_back_in_the_matrix(tmp_path, recover):
    matrix = low_rank(9, 8, 1, seed=3)
    seen = np.random.default_rng(0).random(matrix.shape) < 0.75
    seen[0] = seen[:, 0] = True
    rows, columns = [f"r {i}, x" for i in range(9)], [f"c{j}" for j in range(8)]
    path = write_csv(tmp_path / "t.csv", matrix, seen, [f'"{r}"' for r in rows], columns)
    _, folder, _, found, _ = recover(path)
    import pandas as pd

    table = pd.read_csv(folder / "matrix.csv", index_col=0)
    assert list(table.index) == rows
    assert list(table.columns) == columns
    np.testing.assert_array_equal(table.to_numpy(), found)
    np.testing.assert_allclose(found, matrix, atol=1e-6)


def test_gaussian_measurements_and_hold_out(tmp_path, recover):
    path, matrix = gaussian_npz(tmp_path)
    code, _, result, found, _ = recover(path, "--holdout", "0.1")
    assert code == 0
    np.testing.assert_allclose(found, matrix, atol=1e-6)
    held = result["errors"]["held_out"]
    assert held["count"] == 6
    assert held["relative"] < 1e-6 < held["baseline_relative"]
    assert result["errors"]["matrix"]["rmse"] < 1e-6


def test_held_out_error_is_that_of_the_targets_held_back(tmp_path, recover):
    """Minimum Frobenius fills completions with zeros: its error on what was held back is known exactly."""
    path, _, seen = completion_csv(tmp_path)
    _, _, result, found, _ = recover(path, "--method", "frobenius", "--holdout", "0.25", "--seed", "3")
    data = read_data(str(path))
    held = result["errors"]["held_out"]
    zero = found[np.asarray(data.measurements.rows), np.asarray(data.measurements.cols)] == 0
    assert zero.sum() == held["count"] == round(0.25 * seen.sum())
    actual, fitted = data.targets[zero], data.targets[~zero]
    np.testing.assert_allclose(held["rmse"], np.sqrt(np.mean(actual**2)), rtol=1e-12)
    np.testing.assert_allclose(held["relative"], 1.0, rtol=1e-12)
    np.testing.assert_allclose(held["baseline_rmse"], np.sqrt(np.mean((actual - fitted.mean()) ** 2)), rtol=1e-12)


def test_flatness_of_the_balanced_factors(tmp_path, recover):
    """Trace and sharpness beside autodiff, the prediction beside the theory's function."""
    path, matrix, seen = completion_csv(tmp_path)
    _, _, result, found, _ = recover(path)
    rows, columns = np.nonzero(seen)
    op = entries(jnp.asarray(rows), jnp.asarray(columns), seen.shape)
    flat = result["flatness"]
    np.testing.assert_allclose(flat["predicted_minimum"], depth_two_regulariser(op, jnp.asarray(found)), rtol=1e-10)
    U, s, Vt = np.linalg.svd(found)
    L, R = U[:, :1] * np.sqrt(s[:1]), Vt[:1].T * np.sqrt(s[:1])
    flat_params = jnp.concatenate([jnp.ravel(L), jnp.ravel(R)])

    def loss(params):
        left, right = params[: L.size].reshape(L.shape), params[L.size :].reshape(R.shape)
        return jnp.mean(((left @ right.T)[rows, columns] - matrix[rows, columns]) ** 2)

    # more columns in the factors add curvature in their own directions only, of the same diagonal: count them
    hessian = np.asarray(jax.hessian(loss)(flat_params))
    np.testing.assert_allclose(flat["trace"], np.trace(hessian), rtol=1e-5)
    np.testing.assert_allclose(flat["sharpness"], np.linalg.eigvalsh(hessian)[-1], rtol=1e-5)
    assert flat["ratio"] >= 1
    np.testing.assert_allclose(flat["ratio"], flat["trace"] / flat["predicted_minimum"], rtol=1e-12)


def test_predicted_minimum_of_dense_measurements(tmp_path):
    path, matrix = gaussian_npz(tmp_path)
    op = read_data(str(path)).measurements
    np.testing.assert_allclose(
        predicted_minimum(op, matrix), depth_two_regulariser(op, jnp.asarray(matrix)), rtol=1e-12
    )


def test_a_solve_cut_short_is_stored_with_its_gap(tmp_path, recover):
    path, _, _ = completion_csv(tmp_path, rows=16, columns=14, rank=6, fraction=0.4)
    code, folder, result, _, text = recover(path, "--max-iterations", "1", "--tolerance", "1e-12")
    assert code == 1
    assert not result["success"]
    assert 1e-12 < result["certificate"]["gap"] < 1
    assert result["certificate"]["outcome"] == "max_iterations"
    assert "raise max_iterations or loosen tolerance" in text.err
    assert "Traceback" not in text.err
    claim = next(c for c in load_run(folder).claims if c.name == "certified")
    assert claim.verdict == "does not hold"
    assert "the iteration limit was reached" in claim.note
    code, *_ = recover(path, "--max-iterations", "1", "--tolerance", "1e-12")
    assert code == 1  # found again, and still not what was asked for


def test_label_noise_fits_and_is_flatter_than_the_balanced_start(tmp_path, recover):
    path, matrix, _ = completion_csv(tmp_path, rows=10, columns=10, rank=1, fraction=0.7)
    # the same problem in other units gives the same answer in those units
    scaled = write_csv(tmp_path / "scaled.csv", 1e6 * matrix, read_seen(path, matrix.shape))
    options = ("--method", "label-noise", "--depth", "2", "--steps", "12000", "--tolerance", "1e-2")
    code, folder, result, found, _ = recover(path, *options)
    _, _, scaled_result, scaled_found, _ = recover(scaled, *options)
    assert code == 0, result["training"]
    training = result["training"]
    data = read_data(str(path))
    miss = found[np.asarray(data.measurements.rows), np.asarray(data.measurements.cols)] - data.targets
    np.testing.assert_allclose(training["loss"], np.mean(miss**2), rtol=1e-6)
    np.testing.assert_allclose(training["residual"], np.linalg.norm(miss) / np.linalg.norm(data.targets), rtol=1e-6)
    # two factors: never below the least trace of that matrix, and near it after label noise
    least = result["flatness"]["predicted_minimum"]
    assert 1 - 1e-9 <= training["trace"] / least < 1.2
    np.testing.assert_allclose(np.linalg.norm(found - matrix), 0, atol=0.2 * np.linalg.norm(matrix))
    np.testing.assert_allclose(scaled_found, 1e6 * found, rtol=1e-3, atol=1e3 * np.abs(found).max())
    np.testing.assert_allclose(scaled_result["training"]["trace"], 1e6 * training["trace"], rtol=1e-2)
    assert "figure-03-training" in load_run(folder).data_names


def test_label_noise_ends_on_the_targets_where_descent_is_slow(tmp_path, recover):
    """Few steps: descent without noise is still far above the tolerance, Gauss-Newton steps bring it there."""
    path, *_ = completion_csv(tmp_path, rows=8, columns=8, rank=1, fraction=0.7)
    code, _, result, _, _ = recover(path, "--method", "label-noise", "--depth", "2", "--steps", "1500")
    training = result["training"]
    assert code == 0, training
    assert training["residual"] <= training["tolerance"] == 1e-3
    assert 1e-4 < training["correction"] < 0.2


def read_seen(path, shape):
    data = read_data(str(path))
    seen = np.zeros(shape, dtype=bool)
    seen[np.asarray(data.measurements.rows), np.asarray(data.measurements.cols)] = True
    return seen


def test_camera_crop(tmp_path, recover):
    pytest.importorskip("skimage")
    from PIL import Image

    from flatmin.datasets import load_packaged

    crop = load_packaged("camera")[100:140, 200:240]
    Image.fromarray(np.uint8(np.rint(crop * 255))).save(tmp_path / "crop.png")
    code, folder, result, found, _ = recover(tmp_path / "crop.png", "--missing", "0.4", "--tolerance", "1e-3")
    assert code == 0
    assert found.shape == (40, 40)
    unseen = result["errors"]["unseen"]
    assert abs(unseen["count"] / 1600 - 0.4) < 0.05
    assert 0.005 < unseen["rmse"] < 0.6 * unseen["baseline_rmse"]
    assert result["certificate"]["primal_value"] <= np.linalg.svd(crop, compute_uv=False).sum()
    assert not (folder / "matrix.csv").exists()


def test_digits(recover):
    pytest.importorskip("sklearn")
    code, _, result, found, _ = recover("digits", "--missing", "0.3", "--tolerance", "1e-2")
    assert code == 0
    assert found.shape == (1797, 64)
    assert 1 < result["errors"]["unseen"]["rmse"] < 0.6 * result["errors"]["unseen"]["baseline_rmse"]
    # balanced factors of a long matrix are not the flattest: (d1 + d2) / (2 sqrt(d1 d2)) times the least trace
    np.testing.assert_allclose(result["flatness"]["ratio"], (1797 + 64) / (2 * np.sqrt(1797 * 64)), rtol=0.05)


def test_unseen_lines_are_zero_and_said_so(tmp_path, recover):
    path, _, _ = completion_csv(tmp_path)
    code, _, result, found, text = recover(path, "--shape", "18,14")
    assert code == 0
    np.testing.assert_allclose(found[16:], 0, atol=1e-12)
    assert "2 row(s) have no entry to fit (16, 17)" in " ".join(result["notes"])
    assert "Note: 2 row(s)" in text.out


def test_zero_targets(tmp_path, recover):
    path = write_csv(tmp_path / "zero.csv", np.zeros((3, 3)), np.ones((3, 3), dtype=bool))
    code, _, result, found, _ = recover(path)
    assert code == 0
    assert not found.any()
    assert "All targets are zero" in " ".join(result["notes"])


def test_one_entry(tmp_path, recover):
    (tmp_path / "one.csv").write_text("i,j,x\n0,0,-2.5\n")
    code, _, _, found, _ = recover(tmp_path / "one.csv")
    assert code == 0
    np.testing.assert_allclose(found, [[-2.5]])


def test_contradictory_targets_fail_with_a_sentence(tmp_path, capsys):
    A = np.ones((2, 3, 3))
    np.savez(tmp_path / "no.npz", A=A, b=np.array([1.0, 2.0]))
    assert main(["recover", str(tmp_path / "no.npz"), "--out", str(tmp_path / "runs")]) == 1
    assert "contradict each other" in capsys.readouterr().err
    assert len(list((tmp_path / "runs").glob("*.failed.json"))) == 1


@pytest.mark.parametrize("name", ["spec.json", "../evil", "data", "", "a/b", ".hidden", "SHA256SUMS"])
def test_files_of_a_run_have_safe_names(tmp_path, name):
    with pytest.raises(UsageError, match="files: got the name"):
        obtain_run(Experiment("x", 1, "x"), spec_of(), lambda _: RunContent({}, files={name: b"1"}), out=tmp_path)


def test_files_of_a_run_are_stored_and_guarded(tmp_path):
    content = RunContent({}, files={"matrix.npy": b"123", "notes.txt": b"\x00\xff"})
    run, _ = obtain_run(Experiment("x", 1, "x"), spec_of(), lambda _: content, out=tmp_path)
    assert (run.path / "notes.txt").read_bytes() == b"\x00\xff"
    load_run(run.path)
    (run.path / "matrix.npy").write_bytes(b"124")
    with pytest.raises(JobError, match=r"matrix\.npy missing or different"):
        load_run(run.path)


def spec_of():
    return recovery_spec(Source(sha256="0", kind="table"), size=4)


def test_specs_know_their_defaults():
    source = Source(sha256="0", kind="table")
    assert recovery_spec(source, size=100).tolerance == 1e-8
    assert recovery_spec(source, size=512 * 512).tolerance == 1e-3
    noisy = recovery_spec(source, size=100, method="label-noise")
    assert (noisy.depth, noisy.noise, noisy.steps, noisy.max_iterations) == (3, 1.0, 40_000, None)
    plain = recovery_spec(source, size=100, method="frobenius")
    assert (plain.depth, plain.max_iterations) == (None, None)


def test_hold_out_is_a_partition(tmp_path):
    path, _ = gaussian_npz(tmp_path)
    data = read_data(str(path))
    prepared = prepare(data, recovery_spec(Source(sha256="0", kind="npz"), size=56, holdout=0.3, seed=5))
    together = np.concatenate([prepared.targets, prepared.held_targets])
    np.testing.assert_array_equal(np.sort(together), np.sort(data.targets))
    assert len(prepared.held_targets) == 18
    np.testing.assert_allclose(prepared.held.forward(jnp.asarray(data.truth)), prepared.held_targets, atol=1e-12)


def test_an_option_is_one_line(monkeypatch):
    """Every field of the settings is an option, with its default and its text, and there is no other list."""
    import typer

    from flatmin.cli._app import app
    from flatmin.experiments.recovery.spec import ReadSettings, Settings

    class More(Settings):
        damping: float | None = setting(None, origin="ours", description="A new one.", gt=0)

    monkeypatch.setattr("flatmin.experiments.recovery.spec.Settings", More)
    command = typer.main.get_command(app).commands["recover"]
    made = {option.name: option for option in command.params}
    fields = {**More.model_fields, **ReadSettings.model_fields}
    assert set(made) == set(fields) | {"file", "mask", "out"}
    for name, field in fields.items():
        assert made[name].default == field.default
        assert made[name].help == field.description
    context = command.make_context("recover", ["x.csv", "--damping", "0.5", "--no-header", "--task", "sensing"])
    assert (context.params["damping"], context.params["header"], context.params["task"]) == (0.5, False, "sensing")
    with pytest.raises(UsageError, match=r"damping: got -1\.0, expected a finite number > 0"):
        More(damping=-1.0)


def test_the_result_that_is_stored_is_the_result(tmp_path, recover):
    """Read back it equals itself, null for NaN included, and the second call prints what the first did."""
    path, _, _ = completion_csv(tmp_path)
    _, folder, plain, _, first = recover(path)
    result = RecoveryResult.of_run(folder)
    assert (result.rank, result.success, list(result.shape)) == (plain["rank"], plain["success"], plain["shape"])
    assert json.loads(result.model_dump_json()) == plain
    assert result.certificate.gap == plain["certificate"]["gap"]
    _, _, _, _, second = recover(path)
    assert first.out.split("Report")[0].split("computed")[0] == second.out.split("Report")[0].split("found")[0]
    unmeasured = result.model_copy(update={"flatness": type(result.flatness)()})
    assert np.isnan(type(result).model_validate_json(unmeasured.model_dump_json()).flatness.trace)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"depth": 3}, "depth: applies to --method label-noise, got nuclear; leave it out"),
        ({"centre": True, "task": "sensing"}, "centre: applies to --task completion, got sensing; leave it out"),
        ({"reduce": True, "method": "flat"}, "reduce: applies to --method flat with --penalty or --radius"),
        ({"tolerance": 1.0}, "tolerance: got 1.0, expected a finite number > 0 and < 1"),
        ({"method": "flatt"}, "method: 'flatt' is not known; did you mean 'flat'"),
        ({"penalti": 1.0}, "penalti: 'penalti' is not known; did you mean 'penalty'"),
    ],
)
def test_settings_are_refused_by_the_model_alone(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        recovery_spec(Source(sha256="0", kind="table"), size=12, **settings)


def test_observed_entries_of_every_kind():
    from flatmin.measurements import gaussian, identity, observed_entries, take

    op = entries(jnp.asarray([0, 2, 1]), jnp.asarray([1, 0, 1]), (3, 2))
    matrix = np.arange(6.0).reshape(3, 2)
    for seen in (op, take(op, jnp.asarray([2, 0])), identity((3, 2)), take(identity((3, 2)), jnp.asarray([4, 1]))):
        rows, cols = observed_entries(seen)
        np.testing.assert_array_equal(matrix[rows, cols], seen.forward(jnp.asarray(matrix)))
    assert observed_entries(gaussian(jax.random.key(0), 4, (3, 2))) is None


def test_groups_that_no_entry_links_are_said(tmp_path, recover):
    """Two blocks: any scale between them fits with the same rank, and a reader must know."""
    (tmp_path / "two.csv").write_text("i,j,x\na,p,1\na,q,2\nb,p,2\nb,q,4\nc,r,3\nd,r,5\n")
    _, _, result, _, text = recover(tmp_path / "two.csv")
    assert "fall into 2 groups of rows and columns" in " ".join(result["notes"])
    assert "Note: The known entries fall into 2 groups" in text.out
    from flatmin.measurements import unlinked

    assert unlinked(np.array([0, 0, 1]), np.array([0, 1, 1]), (3, 3)) is None  # what is not seen at all is another note
    assert "into 3 groups" in unlinked(np.arange(3), np.arange(3), (3, 3))


def test_an_exact_fit_that_follows_noise_is_told(tmp_path, recover):
    rng = np.random.default_rng(4)
    clean = rng.normal(size=(16, 1)) @ rng.normal(size=(1, 12))
    seen = np.argwhere(rng.random(clean.shape) < 0.7)
    for noise, told in ((0.0, False), (0.3, True)):
        values = clean + noise * rng.normal(size=clean.shape)
        rows = "".join(f"r{i},c{j},{values[i, j]!r}\n".replace("np.float64(", "").replace(")", "") for i, j in seen)
        (tmp_path / "t.csv").write_text("row,column,value\n" + rows)
        result = recover(tmp_path / "t.csv")[2]
        assert any("noise or rounding" in note for note in result["notes"]) == told
