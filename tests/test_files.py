"""Files that users name: what they are is looked at before they are read; each refusal is one sentence at once."""

import contextlib
import io
import json
import os
import socket
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from flatmin._core import UsageError, read_text, regular_file
from flatmin.datasets import ReadOptions, fingerprint, read_data
from flatmin.experiments import find_problems
from flatmin.studies import load_spec

SETTINGS = 'preset = "matrix_sensing"\nmatrix_shape = [4, 4]\nrank = 1\nnum_measurements = 12\n'
STUDY = f'name = "s"\nseeds = 2\n[problem]\n{SETTINGS}'
YAML = "name: s\nseeds: 2\nproblem: {preset: matrix_sensing}\n"


def fifo(folder, name):
    os.mkfifo(folder / name)


def a_socket(folder, name):
    # the path of a socket is limited to about 100 characters
    with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(name)


ODD = {
    "a pipe": fifo,
    "a device": lambda f, name: (f / name).symlink_to("/dev/zero"),
    "a socket": a_socket,
    "a folder": lambda f, name: (f / name).mkdir(),
    "leads in a circle": lambda f, name: (f / name).symlink_to(name),
    "where nothing is": lambda f, name: (f / name).symlink_to("gone"),
    "there is no file": lambda f, name: None,
}
READERS = {
    "csv": lambda path: read_data(str(path)),
    "npz": lambda path: read_data(str(path)),
    "parquet": lambda path: read_data(str(path)),
    "png": lambda path: read_data(str(path), ReadOptions(missing=0.5)),
    "toml": load_spec,
    "yaml": load_spec,
    "npy": lambda path: read_data(str(a_picture(path.parent)), ReadOptions(mask=path)),
    "tif": lambda path: read_data(str(a_picture(path.parent)), ReadOptions(mask=path)),
    "jpg": lambda path: fingerprint(str(path), "mask"),
}


def a_picture(folder):
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).save(folder / "picture.png")
    return folder / "picture.png"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", ODD)
def test_what_is_no_file_is_named_and_never_opened(what, reader, tmp_path):
    path = tmp_path / f"odd.{reader}"
    ODD[what](tmp_path, path.name)
    with pytest.raises(UsageError, match=what) as caught:
        READERS[reader](path)
    assert "did you mean" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_no_file_can_have(tmp_path, unchecked):
    for name in ("a\0b.csv", "x" * 5000 + ".csv", str(tmp_path / "file.csv" / "inner.csv")):
        (tmp_path / "file.csv").write_text("")
        with pytest.raises(UsageError) as caught:
            regular_file(name)
        assert len(str(caught.value)) < 500
    with pytest.raises(UsageError, match="got int, expected the path"):
        regular_file(3)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_an_unreadable_file(tmp_path):
    (tmp_path / "x.csv").write_text("i,j,x\n0,0,1\n")
    (tmp_path / "x.csv").chmod(0)
    with pytest.raises(UsageError, match="may not be read"):
        read_data(str(tmp_path / "x.csv"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_of_encodings_are_skipped(encoding, tmp_path):
    (tmp_path / "s.toml").write_bytes((STUDY + "# ü\n").encode(encoding))
    assert load_spec(tmp_path / "s.toml").name == "s"
    assert read_text(tmp_path / "s.toml") == STUDY + "# ü\n"


@pytest.mark.parametrize("content", [b"name = '\xe4'", b"\x00\x01\x02name", b"\xff\xfe\x00"])
def test_settings_that_are_no_text(content, tmp_path):
    (tmp_path / "s.toml").write_bytes(content)
    with pytest.raises(UsageError, match="UTF-8"):
        load_spec(tmp_path / "s.toml")


DEEP = {
    "lists.toml": "name = " + "[" * 5000 + "]" * 5000,
    "tables.toml": STUDY + "x = " + "{a = " * 600 + "1" + "}" * 600,
    "key.toml": STUDY + ".".join(["a"] * 3000) + " = 1",
    "headers.toml": STUDY + "[" + ".".join(["a"] * 3000) + "]\n",
    "below.toml": STUDY + "x = " + "[" * 60 + "]" * 60,
    "lists.yaml": YAML + "x: " + "[" * 5000 + "]" * 5000,
    "tables.yaml": YAML + "x: " + "{a: " * 3000 + "1" + "}" * 3000,
    "blocks.yaml": YAML + "".join(" " * i + "a:\n" for i in range(1500)),
    "below.yaml": YAML + "x: " + "[" * 60 + "]" * 60,
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting_is_one_sentence(name, tmp_path):
    (tmp_path / name).write_text(DEEP[name])
    with pytest.raises(UsageError, match=rf"{name} nests more than"):
        load_spec(tmp_path / name)


def aliases(width, depth, opening="[", closing="]"):
    lines = [f"a0: &a0 {opening}{', '.join(['x'] * width)}{closing}"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return YAML + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (aliases(9, 9), r"\(\*\) written out \(line \d+\)"),
        (aliases(2, 200), r"\(\*\) written out"),
        (YAML + "x: &p\n  y: *p\n", r"inside of what it stands for \(line"),
        (YAML + "x: &p [1, [*p]]\n", r"inside of what it stands for"),
        (YAML + "x: 2020-99-99\n", "not YAML: month"),
        (YAML + "x: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        (YAML + "3: 4\n", "name is no text"),
        (YAML + "x: [1\n", "not YAML"),
        (YAML + "x: " + "1" * 5000, "is not"),
        ("", "holds NoneType"),
        ("- 1\n", "holds list"),
    ],
)
def test_odd_yaml(text, sentence, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        load_spec(tmp_path / "s.yaml")


def test_an_alias_that_is_used_as_it_is_meant(tmp_path):
    text = "name: s\nproblem: {preset: matrix_sensing, matrix_shape: &d [4, 4], rank: 1, num_measurements: 12}\n"
    (tmp_path / "s.yaml").write_text(text + "start: {scheme: gaussian}\naxes: {problem.noise: &n [0.0, 0.1]}\n")
    assert load_spec(tmp_path / "s.yaml").problem["matrix_shape"] == (4, 4)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("{from = 0.0, to = 1.0, count = 1000000000}", "1,000,000,000 values are more than an axis has"),
        ("{from = 0.0, to = 1.0, step = 1e-12}", "1,000,000,000,000 values are more"),
        ("{from = 0.0, to = 1.0, step = 1e-320}", "values are more"),
        ("{from = 0.0, to = inf, step = 1.0}", "finite"),
    ],
)
def test_an_axis_is_counted_before_it_is_walked(given, sentence, tmp_path):
    (tmp_path / "s.toml").write_text(f'{STUDY}[axes]\n"problem.noise" = {given}\n')
    with pytest.raises(UsageError, match=sentence):
        load_spec(tmp_path / "s.toml")


def npy_header(shape, kind="<f8"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path, size, **shapes):
    """An archive whose arrays declare these shapes; `size` bytes of zeros stand behind each header."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, shape in shapes.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
                stream.write(npy_header(shape))
                for _ in range(size // 10**7):
                    stream.write(bytes(10**7))
                stream.write(bytes(size % 10**7))
    return path


def test_names_and_shapes_come_before_values(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("values were read"))
    monkeypatch.setattr("flatmin.datasets.limits.room", lambda: 10**8)
    big = (30_000_000,)
    for shapes, sentence in (
        ({"junk": big}, "an array named 'junk'"),
        ({"A": (30_000_000, 1, 1), "b": big}, "holds 0.5 GB of numbers, expected at most 0.1 GB"),
    ):
        path = archive(tmp_path / "bomb.npz", 8 * 30_000_000, **shapes)
        assert path.stat().st_size < 3_000_000
        with pytest.raises(UsageError, match=sentence):
            read_data(str(path))
    for shape in ((10**18,), (2**62, 2**62), (-1,), (0, 10**18)):
        with pytest.raises(UsageError, match=r"declares|holds|got shape|cannot be read"):
            read_data(str(archive(tmp_path / "lie.npz", 800, A=shape, b=(3,))))
    np.savez(tmp_path / "shapes.npz", A=np.ones((3, 2, 2)), b=np.ones(4))
    with pytest.raises(UsageError, match=r"b: got shape \(4,\), expected \(3,\)"):
        read_data(str(tmp_path / "shapes.npz"))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", npy_header((10**15,)) + bytes(80), npy_header("((" * 3000)])
def test_masks_that_lie(content, tmp_path):
    (tmp_path / "mask.npy").write_bytes(content)
    with pytest.raises(UsageError, match=r"mask: mask\.npy.*cannot be read as an array"):
        read_data(str(a_picture(tmp_path)), ReadOptions(mask=tmp_path / "mask.npy"))


def test_no_pickle_is_read_and_none_is_advised(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", A=np.array([{}], dtype=object), b=np.ones(1))
    for source, options in (("picture.png", ReadOptions(mask=tmp_path / "mask.npy")), ("x.npz", ReadOptions())):
        a_picture(tmp_path)
        with pytest.raises(UsageError, match="pickled objects, which could run code") as caught:
            read_data(str(tmp_path / source), options)
        assert "allow_pickle" not in str(caught.value)


def test_a_picture_is_measured_before_it_is_unpacked(tmp_path, monkeypatch):
    stream = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(stream, "PNG")
    (tmp_path / "bomb.png").write_bytes(stream.getvalue())
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("unpacked"))
    for call in (ReadOptions(missing=0.5), ReadOptions(whole=True)):
        with pytest.raises(UsageError, match=r"30000 × 30000 pixels|more than 40,000,000 pixels"):
            read_data(str(tmp_path / "bomb.png"), call)


def test_a_picture_in_a_format_that_runs_programs_is_not_opened(tmp_path):
    (tmp_path / "p.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(UsageError, match="is not an image"):
        read_data(str(tmp_path / "p.png"), ReadOptions(missing=0.5))


def test_stored_json_that_nests_is_named(tmp_path):
    folder = tmp_path / "recover-x"
    folder.mkdir()
    (folder / "SHA256SUMS").write_text("")
    (folder / "spec.json").write_text("[" * 100_000)
    (folder / "claims.json").write_text(json.dumps({}))
    (tmp_path / "recover-y.failed.json").write_text('{"a":' * 100_000)
    assert all("damaged" in said or "not a readable" in said for said in find_problems(tmp_path))
    assert len(find_problems(tmp_path)) == 2


ENTRIES = "a,x,1.5\na,y,2\nb,x,3\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (ENTRIES.encode(), "the header is missing"),
        (b"1,1,5\n1,2,3\n", "the header is missing"),
        (b"# export\n# of nothing\n", "comment"),
        (b"t,row,column,value\n1,a,x,2\n", "--row, --column and --value"),
        (b"w1,w2,w3,w4,w5\n1,2,3,4,5\n", "--wide"),
        (b"PK\x03\x04abc", "a ZIP or Excel file"),
        (b"<html><table></table>", "HTML"),
        (b'{"a": 1}', "JSON"),
        (b"\x80\x04K\x01.", "pickled objects"),
        (b"row,column\x00,value\n", "NUL bytes"),
    ],
)
def test_tables_that_would_be_guessed_wrongly_are_refused(content, sentence, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        read_data(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_encodings(separator, encoding, tmp_path):
    text = ("row,column,value\n" + ENTRIES).replace(",", separator)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    data = read_data(str(tmp_path / "t.csv"))
    assert data.targets.tolist() == [1.5, 2, 3]
    assert data.notes == ("Read as 3 entries of 2 rows and 2 columns: row, column and value.",)


def test_a_matrix_is_counted_before_it_is_made(tmp_path):
    (tmp_path / "t.csv").write_text("row,column,value\n0,0,1\n")
    with pytest.raises(UsageError, match="shape: got 10000000000, expected an integer"):
        read_data(str(tmp_path / "t.csv"), ReadOptions(shape=(10**10, 10**10)))
    with pytest.raises(UsageError, match="too many entries"):
        read_data(str(tmp_path / "t.csv"), ReadOptions(shape=(10**9, 10**9)))
