"""Every form in which people keep a partly known matrix is read as the same data, and says what it was taken for."""

import gzip
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from scipy import io as scipy_io
from scipy import sparse

from flatmin import UsageError
from flatmin.datasets import ReadOptions, read_data
from flatmin.datasets.reading import ENDINGS, kind_of

RNG = np.random.default_rng(5)
MATRIX = np.round(RNG.normal(size=(6, 5)), 3)
SEEN = RNG.random(MATRIX.shape) < 0.7
SEEN[0], SEEN[:, 0] = True, True
HOLES = np.where(SEEN, MATRIX, np.nan)
SPARSE = sparse.coo_matrix((MATRIX[SEEN], np.nonzero(SEEN)), shape=MATRIX.shape)
ROWS, COLUMNS = [f"r{i}" for i in range(6)], [f"c{j}" for j in range(5)]


def triples(separator=",", decimal=".", header=True):
    lines = [separator.join(("row", "column", "value"))] if header else []
    lines += [
        separator.join((ROWS[i], COLUMNS[j], repr(float(MATRIX[i, j])).replace(".", decimal)))
        for i, j in np.argwhere(SEEN)
    ]
    return ("\n".join(lines) + "\n").encode()


def wide(separator=",", decimal=".", *, named=True, header=True):
    cells = [["" if np.isnan(x) else repr(float(x)).replace(".", decimal) for x in row] for row in HOLES]
    lines = [separator.join([*(["id"] if named else []), *COLUMNS])] if header else []
    lines += [separator.join([*([ROWS[i]] if named else []), *row]) for i, row in enumerate(cells)]
    return ("\n".join(lines) + "\n").encode()


def stored(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


FRAME = pd.DataFrame([(ROWS[i], COLUMNS[j], MATRIX[i, j]) for i, j in np.argwhere(SEEN)], columns=["u", "f", "stars"])
WIDE = pd.DataFrame(HOLES, index=ROWS, columns=COLUMNS)
NAMED, PLAIN = (tuple(ROWS), tuple(COLUMNS)), (None, None)
FORMS = {
    "a.csv": (triples(), {}, NAMED),
    "semicolons.csv": (triples(";"), {}, NAMED),
    "decimals.csv": (triples(";", ","), {}, NAMED),
    "bars.txt": (triples("|"), {}, NAMED),
    "tabs.tsv": (triples("\t"), {}, NAMED),
    "packed.csv.gz": (gzip.compress(triples()), {}, NAMED),
    "packed.tsv.gz": (gzip.compress(triples("\t", ",")), {}, NAMED),
    "comments.csv": (b"# export\n# of 2024\n" + triples(), {}, NAMED),
    "headless.csv": (triples(header=False), {"header": False}, NAMED),
    "wide.csv": (wide(), {"wide": True}, NAMED),
    "wide-decimals.csv": (wide(";", ","), {"wide": True}, NAMED),
    "wide-plain.csv": (wide(named=False), {"wide": True}, (None, tuple(COLUMNS))),
    "wide-headless.csv": (wide(named=False, header=False), {"wide": True, "header": False}, PLAIN),
    "utf16.csv": (triples().decode().encode("utf-16"), {}, NAMED),
    "a.parquet": (stored(FRAME.to_parquet), {}, NAMED),
    "index.parquet": (stored(FRAME.set_index(["u", "f"]).to_parquet), {}, NAMED),
    "wide.parquet": (stored(WIDE.to_parquet), {"wide": True}, NAMED),
    "holes.npy": (stored(lambda s: np.save(s, HOLES)), {}, PLAIN),
    "one.npz": (stored(lambda s: np.savez(s, X=HOLES)), {}, PLAIN),
    "csr.npz": (stored(lambda s: sparse.save_npz(s, SPARSE.tocsr())), {}, PLAIN),
    "coo.npz": (stored(lambda s: sparse.save_npz(s, SPARSE)), {}, PLAIN),
    "list.mtx": (stored(lambda s: scipy_io.mmwrite(s, SPARSE)), {}, PLAIN),
    "list.mtx.gz": (gzip.compress(stored(lambda s: scipy_io.mmwrite(s, SPARSE))), {}, PLAIN),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_same_data(name, tmp_path):
    content, options, labels = FORMS[name]
    (tmp_path / name).write_bytes(content)
    data = read_data(tmp_path / name, ReadOptions(**options))
    assert data.measurements.matrix_shape == MATRIX.shape
    got = np.full(MATRIX.shape, np.nan)
    got[np.asarray(data.measurements.rows), np.asarray(data.measurements.cols)] = data.targets
    np.testing.assert_array_equal(got, HOLES)
    assert (data.row_labels, data.column_labels) == labels
    assert data.notes[0].startswith("Read as ")
    for word, kind in (("comment line", "comments"), ("commas", "decimals"), ("index", "index")):
        also = {"commas": "packed.tsv.gz", "index": "wide.parquet"}.get(word)
        assert any(word in note for note in data.notes) == (kind in name or name == also)


def test_labels_stay_as_they_are(tmp_path):
    (tmp_path / "t.csv").write_text(
        "row,column,value\n" + "".join(f"{a},c,1.5\n" for a in ("007", "7", "NA", "nan", "1e3"))
    )
    assert set(read_data(tmp_path / "t.csv").row_labels) == {"007", "7", "NA", "nan", "1e3"}
    (tmp_path / "t.csv").write_text("row,column,value\n" + "".join(f"{a},c,1.5\n" for a in (10, 9, 100)))
    assert read_data(tmp_path / "t.csv").row_labels == ("9", "10", "100")
    (tmp_path / "t.csv").write_text("row,column,value\na,c,1\n ,c,2\n")
    with pytest.raises(UsageError, match=r"t\.csv, row: line 3 is empty"):
        read_data(tmp_path / "t.csv")


@pytest.mark.parametrize(("duplicates", "value"), [("mean", 4.0), ("last", 5.0)])
def test_one_rule_for_entries_given_twice(duplicates, value, tmp_path):
    (tmp_path / "t.csv").write_text("row,column,value\na,x,3\nb,x,1\na,x,5\n")
    twice = sparse.coo_matrix(([3.0, 1.0, 5.0], ([0, 1, 0], [0, 0, 0])), shape=(2, 1))
    (tmp_path / "t.mtx").write_text("%%MatrixMarket matrix coordinate real general\n2 1 3\n1 1 3\n2 1 1\n1 1 5\n")
    for name in ("t.csv", "t.mtx"):
        data = read_data(tmp_path / name, ReadOptions(duplicates=duplicates))
        np.testing.assert_array_equal(data.targets, [value, 1.0])
        assert any("more than once" in note for note in data.notes)
        with pytest.raises(UsageError, match=r"2 times.*--duplicates mean or last"):
            read_data(tmp_path / name)
    sparse.save_npz(tmp_path / "t.npz", twice)
    with pytest.raises(UsageError, match="2 times"):
        read_data(tmp_path / "t.npz")


def bomb(size):
    return gzip.compress(b"row,column,value\n" + b"a,b,1\n" * size, compresslevel=1)


def archive(**arrays):
    return stored(lambda s: np.savez(s, **arrays))


REFUSED = {
    "known.npy": (stored(lambda s: np.save(s, MATRIX)), "completely known.*--missing"),
    "known.npz": (archive(X=MATRIX), "completely known"),
    "cube.npy": (stored(lambda s: np.save(s, np.zeros((2, 2, 2)))), "expected a matrix"),
    "none.npy": (stored(lambda s: np.save(s, np.full((2, 2), np.nan))), "at least one must be known"),
    "infinite.npy": (stored(lambda s: np.save(s, np.array([[1, np.nan], [np.inf, 2]]))), "NaN or infinite"),
    "complex.npy": (stored(lambda s: np.save(s, np.ones((2, 2), complex))), "complex numbers"),
    "text.npy": (stored(lambda s: np.save(s, np.array([["a", "b"]]))), "expected real numbers"),
    "cut.csv.gz": (gzip.compress(triples())[:-9], "cannot be unpacked"),
    "plain.csv.gz": (triples(), "cannot be unpacked"),
    "pattern.mtx": (b"%%MatrixMarket matrix coordinate pattern general\n2 2 1\n1 1\n", "without values"),
    "complex.mtx": (b"%%MatrixMarket matrix coordinate complex general\n2 2 1\n1 1 1 2\n", "complex"),
    "huge.mtx": (b"%%MatrixMarket matrix coordinate real general\n9000000 9000000 1\n1 1 1\n", "too many entries"),
    "long.mtx": (b"%%MatrixMarket matrix coordinate real general\n2 2 99999999999\n1 1 1\n", "expected at most"),
    "outside.mtx": (b"%%MatrixMarket matrix coordinate real general\n2 2 1\n3 1 1\n", "cannot be read"),
    "word.mtx": (b"hello", "cannot be read as a Matrix Market file"),
    "outside.npz": (
        archive(format=b"coo", shape=np.array([2, 2]), data=np.ones(1), row=np.array([7]), col=np.array([0])),
        "cannot be read as a sparse matrix",
    ),
    "pointers.npz": (
        archive(format=b"csr", shape=[2, 2], data=np.ones(1), indices=[9], indptr=[0, 1, 1]),
        "cannot be read as a sparse matrix",
    ),
    "sheet.xlsx": (b"PK", "save the sheet as CSV"),
    "m.mat": (b"x", r"write the matrix as \.npy"),
    "m.pickle": (b"x", "never loaded"),
    "m.unknown": (b"x", "expected a table"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_cause(name, tmp_path):
    content, sentence = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=sentence) as error:
        read_data(tmp_path / name)
    assert "\n" not in str(error.value)


def test_what_a_packed_file_holds_is_counted_while_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("flatmin.datasets.limits.LEAST_ROOM", 1_000_000)
    monkeypatch.setattr("flatmin.datasets.limits.SHARE", 10**9)
    (tmp_path / "bomb.csv.gz").write_bytes(bomb(2_000_000))
    with pytest.raises(UsageError, match="expected at most"):
        read_data(tmp_path / "bomb.csv.gz")


def test_options_of_other_kinds_and_of_both_layouts(tmp_path):
    for name, options, sentence in (
        ("holes.npy", {"wide": True}, "wide: applies to table sources"),
        ("holes.npy", {"row": "u"}, "row: applies to table sources"),
        ("wide.csv", {"wide": True, "row": "u"}, "wide: got --row"),
        ("list.mtx", {"missing": 0.5}, "missing: .* --holdout"),
    ):
        (tmp_path / name).write_bytes(FORMS[name][0])
        with pytest.raises(UsageError, match=sentence):
            read_data(tmp_path / name, ReadOptions(**options))


def test_a_known_matrix_is_hidden_in_part(tmp_path):
    np.save(tmp_path / "m.npy", MATRIX)
    data = read_data(tmp_path / "m.npy", ReadOptions(missing=0.4, seed=3))
    np.testing.assert_array_equal(data.truth, MATRIX)
    assert 0 < len(data.targets) < MATRIX.size
    whole = read_data(tmp_path / "m.npy", ReadOptions(whole=True))
    assert len(whole.targets) == MATRIX.size


def test_every_ending_has_a_kind():
    assert all(kind_of(f"x{ending}") in {"table", "matrix", "image", "npz archive"} for ending in ENDINGS)
    assert kind_of("X.CSV.GZ") == "table"
    with zipfile.ZipFile(io.BytesIO(archive(X=MATRIX))) as held:
        assert held.namelist() == ["X.npy"]
