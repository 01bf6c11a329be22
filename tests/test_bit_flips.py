"""Each bit of each file that a study or a run reads back: a changed one is seen, or the file is not believed."""

import json
import os
import pathlib
import random
import shutil

import numpy as np
import pytest
import xarray as xr

from flatmin import JobError, UsageError
from flatmin.experiments.runs import RunContent, find_problems, load_run, obtain_run, rewrite_derived
from flatmin.experiments.specs import Experiment, RunSpec, setting
from flatmin.storage.folders import read_checksums, write_checksums
from flatmin.storage.sealed import DamagedError, seal_json, unseal_json
from flatmin.studies import find_store, run_study, study_spec
from flatmin.studies.cells import Cell, run_cells
from flatmin.studies.store import content_hash

FLIPS = 40
"""Bits of a file that the default suite flips; the long test takes every one."""


def study_of(values, name="s", seeds=1, **changes):
    raw = {"name": name, "seeds": seeds, "function": {"call": "study_cells:tiny"}, "axes": {"function.x": values}}
    return study_spec(raw | changes)


def seen_of_study(folder):
    """What a reader of the folder gets: the cells with their settings, the texts, and what is reported as damaged."""
    store = find_store(folder)
    content = store.read()
    cells = [store.study.values(i) for i in range(store.study.grid.size)]
    spec = store.study.spec.model_dump(mode="json")
    return cells, spec, store.study.width, content_hash(store.study, content), tuple(content.damaged)


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name not in ("running", "figures"))


def flips(data, sample):
    every = [(at, bit) for at in range(len(data)) for bit in range(8)]
    return every if sample is None else random.Random(0).sample(every, min(sample, len(every)))


def flip_all(path, sample, look, before):
    """The flips after which `look` gives the same as before."""
    good, unseen = path.read_bytes(), []
    for at, bit in flips(good, sample):
        bad = bytearray(good)
        bad[at] ^= 1 << bit
        path.write_bytes(bytes(bad))
        try:
            after = look()
        except (JobError, UsageError) as error:
            assert "\n" not in str(error)  # noqa: PT017 - which of the two it is does not matter
            continue
        if after == before:
            unseen.append((path.name, at, bit))
    path.write_bytes(good)
    assert look() == before
    return unseen


def edited_study(folder):
    """A folder with an earlier spec, whose cells are used."""
    run_study(study_of([0.1, 0.2], title="before"), folder, batch_size=1)
    run_study(study_of([0.1, 0.2, 0.4], title="after"), folder, batch_size=1)


@pytest.mark.parametrize("sample", [FLIPS, pytest.param(None, marks=pytest.mark.long)])
def test_every_bit_of_a_study_is_seen(tmp_path, sample):
    edited_study(tmp_path / "s")
    before = seen_of_study(tmp_path / "s")
    assert before[4] == ()
    names = {path.relative_to(tmp_path / "s").parts[0] for path in files_of(tmp_path / "s")}
    assert names == {"study.json", "SHA256SUMS", "specs", "segments"}
    for path in files_of(tmp_path / "s"):
        assert flip_all(path, sample, lambda: seen_of_study(tmp_path / "s"), before) == [], path


def toy_run(out, value=1.0, name="toy"):
    class Toy(RunSpec):
        value: float = setting(1.0, origin="ours", description="a number")

    def compute(spec):
        dataset = xr.Dataset({"y": ("x", np.arange(4.0) * spec.value)})
        return RunContent({"curves": dataset}, files={"matrix.npy": b"\x93NUMPY" + bytes(range(40))})

    def render(_run, folder):
        (folder / "figures").mkdir()
        (folder / "figures" / "a.pdf").write_bytes(b"%PDF")
        (folder / "report.html").write_text("<p>")

    return obtain_run(Experiment(name, 1, "Toy"), Toy(value=value), compute, out=out, render=render)[0]


def seen_of_run(path):
    run = load_run(path)
    data = {name: run.dataset(name).to_dict() for name in run.data_names}
    return run.spec, run.settings, run.provenance, run.claims, data, (path / "matrix.npy").read_bytes()


@pytest.mark.parametrize("sample", [FLIPS, pytest.param(None, marks=pytest.mark.long)])
def test_every_bit_of_a_run_is_seen(tmp_path, sample):
    path = toy_run(tmp_path).path
    before = seen_of_run(path)
    read_back = [p for p in files_of(path) if p.name != "report.html"]
    assert {p.name for p in read_back} == {"spec.json", "claims.json", "curves.nc", "matrix.npy", "SHA256SUMS"}
    for file in read_back:
        assert flip_all(file, sample, lambda: seen_of_run(path), before) == [], file


def test_a_list_of_runs_believes_no_damaged_description(tmp_path):
    path = toy_run(tmp_path).path
    for name in ("spec.json", "claims.json"):
        good = (path / name).read_bytes()
        (path / name).write_bytes(good.replace(b'"', b'"', 1) + b" ")
        assert [problem for problem in find_problems(tmp_path) if f"{name} missing or different" in problem]
        (path / name).write_bytes(good)
    assert find_problems(tmp_path) == []


@pytest.mark.parametrize("sample", [FLIPS, pytest.param(None, marks=pytest.mark.long)])
def test_every_bit_of_a_kept_cell_is_seen(tmp_path, sample):
    def compute(value, _checkpoint, _progress):
        return xr.Dataset({"v": float(value)})

    import functools

    def results():
        cells = [Cell(f"c{i}", {"i": i}, functools.partial(compute, i)) for i in range(2)]
        run_cells(cells, tmp_path / "cells", progress=lambda *_: None)
        return sorted(p.name for p in (tmp_path / "cells").glob("*.damaged"))

    assert results() == []
    file = next((tmp_path / "cells").glob("*.cell"))
    good = file.read_bytes()
    for at, bit in flips(good, 10 if sample else 400):
        bad = bytearray(good)
        bad[at] ^= 1 << bit
        file.write_bytes(bytes(bad))
        assert results() == [f"{file.name}.damaged"]
        (tmp_path / "cells" / f"{file.name}.damaged").unlink()
    one, other = sorted((tmp_path / "cells").glob("*.cell"))
    shutil.copy(one, other)  # whole, but of another cell
    assert results() == [f"{other.name}.damaged"]


def test_json_with_its_checksum():
    plain = {"a": [1, 2.5, "ü"], "b": None}
    data = seal_json(plain)
    assert unseal_json(data) == plain
    for at, bit in flips(data, None):
        bad = bytearray(data)
        bad[at] ^= 1 << bit
        with pytest.raises(DamagedError):
            unseal_json(bytes(bad), unsealed=("a", "b"))
    assert unseal_json(b'{"a": 1, "b": 2}', unsealed=("a", "b")) == {"a": 1, "b": 2}
    for text in (b"[1]", b"3", b"null", b"{", b"[" * 5000, b'{"a": 1}', b"\xff"):
        with pytest.raises(DamagedError):
            unseal_json(text, unsealed=("a", "b"))


# truncation, exchange, links ------------------------------------------------------------------------------------------


def damage(how, file, other, tmp_path):
    if how == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "line":
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "longer":
        file.write_bytes(file.read_bytes() + b"\n")
    elif how == "exchange":
        mine, theirs = file.read_bytes(), other.read_bytes()
        assert mine != theirs
        file.write_bytes(theirs)
        other.write_bytes(mine)
    elif how == "link":
        shutil.move(file, tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif how == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif how == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.unlink()


HOW = ["truncate", "line", "empty", "longer", "exchange", "link", "pipe", "folder", "delete"]


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["study.json", "SHA256SUMS", "specs", "segments"])
def test_files_of_a_study_that_are_not_what_was_written(tmp_path, name, how):
    edited_study(tmp_path / "s")
    run_study(study_of([0.1, 0.3], title="other"), tmp_path / "t", batch_size=1)
    shutil.copytree(tmp_path / "s", tmp_path / "kept")
    before = seen_of_study(tmp_path / "s")
    inner = {"specs": "*.json", "segments": "*.seg"}
    file, other = (
        next((tmp_path / home / name).glob(inner[name])) if name in inner else tmp_path / home / name for home in "st"
    )
    damage(how, file, other, tmp_path)
    try:
        after = seen_of_study(tmp_path / "s")
    except (JobError, UsageError) as error:
        assert str(tmp_path / "s") in str(error)  # noqa: PT017
        if isinstance(error, JobError):
            assert "are kept" in str(error) or "run its file again" in str(error)  # noqa: PT017
    else:
        assert after != before
        assert after[:3] == before[:3]  # the study is what it was; cells are missing, or said to be damaged
    # and the advice works: without description and list, what is finished is found again
    if file.is_dir():
        file.rmdir()
    for left in ("study.json", "SHA256SUMS"):
        (tmp_path / "s" / left).unlink(missing_ok=True)
    final = study_of([0.1, 0.2, 0.4], title="after")
    run_study(final, tmp_path / "s")
    assert seen_of_study(tmp_path / "s")[3] == before[3]
    if name in ("study.json", "SHA256SUMS"):
        assert run_study(final, tmp_path / "s").computed == 0


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["spec.json", "claims.json", "data/curves.nc", "matrix.npy", "SHA256SUMS"])
def test_files_of_a_run_that_are_not_what_was_written(tmp_path, name, how):
    one, two = toy_run(tmp_path / "a").path, toy_run(tmp_path / "b", 2.0).path
    (two / "matrix.npy").write_bytes(b"another")
    if (how, name) == ("exchange", "claims.json"):
        (two / "claims.json").write_text(json.dumps({"claims": [], "certificates": [], "x": 1}))
    damage(how, one / name, two / name, tmp_path)
    with pytest.raises((JobError, UsageError)):
        load_run(one)


def test_links_above_the_files_of_a_run(tmp_path):
    path = toy_run(tmp_path / "a").path
    shutil.move(path / "data", tmp_path / "data")
    (path / "data").symlink_to(tmp_path / "data")
    with pytest.raises(JobError, match=r"data/curves\.nc"):
        load_run(path)


def test_a_page_is_not_written_where_a_link_leads(tmp_path):
    """The folder of figures of a run from elsewhere is a link to a folder of the user."""
    run = toy_run(tmp_path / "a")
    (tmp_path / "mine").mkdir()
    shutil.rmtree(run.path / "figures")
    (run.path / "figures").symlink_to(tmp_path / "mine")

    def render(_run, folder):
        (folder / "figures").mkdir()
        (folder / "figures" / "a.pdf").write_bytes(b"new")

    rewrite_derived(run, render)
    assert list((tmp_path / "mine").iterdir()) == []
    assert (run.path / "figures" / "a.pdf").read_bytes() == b"new"


def test_a_run_under_the_name_of_another_is_not_taken_for_it(tmp_path):
    one, two = toy_run(tmp_path / "a").path, toy_run(tmp_path / "b", 2.0).path
    shutil.rmtree(one)
    shutil.move(two, one)
    with pytest.raises(JobError, match="holds the run toy-"):
        toy_run(tmp_path / "a")


def test_the_list_of_checksums_does_not_leave_its_folder(tmp_path):
    """A file outside, with its right checksum: it is not looked at, and the list is not believed."""
    path = toy_run(tmp_path).path
    (tmp_path / "outside").write_bytes(b"x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    for name in ("../outside", str(tmp_path / "outside"), "data/../../outside", "./spec.json", ".", "a//b", ""):
        lines = [f"{d}  {n}\n" for n, d in read_checksums(path).items()]
        good = (path / "SHA256SUMS").read_bytes()
        (path / "SHA256SUMS").write_text("".join([*lines, f"{digest}  {name}\n"]))
        with pytest.raises(DamagedError):
            read_checksums(path)
        with pytest.raises(JobError, match="SHA256SUMS missing or different"):
            load_run(path)
        (path / "SHA256SUMS").write_bytes(good)
    load_run(path)


# what 0.1 wrote -------------------------------------------------------------------------------------------------------


def as_written_by_01(folder):
    """A study's folder in format 1: no list of checksums."""
    (folder / "SHA256SUMS").unlink()
    for path in (folder / "study.json", *(folder / "specs").glob("*.json")):
        plain = json.loads(path.read_text())
        assert plain["format"] == 2
        path.write_text(json.dumps(plain | {"format": 1}, indent=2, ensure_ascii=False))


def test_a_study_of_the_first_format_is_read_and_goes_on(tmp_path):
    edited_study(tmp_path / "s")
    before = seen_of_study(tmp_path / "s")
    as_written_by_01(tmp_path / "s")
    assert seen_of_study(tmp_path / "s") == before
    # of its spec every change is refused already: it is what the id says
    for text in ("0.2", "0.4", "study_cells", '"count": 1'):
        good = (tmp_path / "s" / "study.json").read_text()
        assert text in good
        changed = {"0.2": "0.3", "0.4": "0.6", "study_cells": "study_cellr", '"count": 1': '"count": 3'}[text]
        (tmp_path / "s" / "study.json").write_text(good.replace(text, changed))
        with pytest.raises(JobError, match=r"it is damaged, or .* finished cells are kept"):
            find_store(tmp_path / "s")
        (tmp_path / "s" / "study.json").write_text(good)
    assert run_study(study_of([0.1, 0.2, 0.4], title="after"), tmp_path / "s").computed == 0
    assert json.loads((tmp_path / "s" / "study.json").read_text())["format"] == 2
    assert set(read_checksums(tmp_path / "s")) >= {"study.json"}
    assert seen_of_study(tmp_path / "s") == before


def test_an_earlier_spec_of_the_first_format_is_known_by_its_id(tmp_path):
    edited_study(tmp_path / "s")
    as_written_by_01(tmp_path / "s")
    (kept,) = [p for p in (tmp_path / "s" / "specs").glob("*.json") if "before" in p.read_text()]
    kept.write_text(kept.read_text().replace("0.2", "0.3"))
    run_study(study_of([0.1, 0.3, 0.4]), tmp_path / "s", accept_changes=True)
    store = find_store(tmp_path / "s")
    values = store.read().values["value"]
    assert [(store.study.values(i)["function.x"], float(v)) for i, v in enumerate(values)] == [
        (x, pytest.approx(2 * x)) for x in (0.1, 0.3, 0.4)
    ]


def test_a_run_of_the_first_format_is_read(tmp_path):
    path = toy_run(tmp_path).path
    before = seen_of_run(path)
    plain = json.loads((path / "spec.json").read_text())
    del plain["files"]
    (path / "spec.json").write_text(json.dumps(plain | {"format": 1}))
    write_checksums(path)
    lines = (path / "SHA256SUMS").read_text().splitlines(keepends=True)
    (path / "SHA256SUMS").write_text("".join(lines[:-1]))
    assert seen_of_run(path) == before
    (path / "spec.json").write_text(json.dumps(plain | {"format": 7}))
    write_checksums(path)
    with pytest.raises(JobError, match="format 7, expected 1 or 2; read it with the flatmin that wrote it"):
        load_run(path)


def test_two_writers_put_descriptions_in_place(tmp_path, monkeypatch):
    """A stop between any two of the files that describe a study leaves one that is read, the old or the new."""
    from flatmin.studies import _manifest

    edited_study(tmp_path / "s")
    before = seen_of_study(tmp_path / "s")
    longer = study_of([0.1, 0.2, 0.4, 0.8])
    original = _manifest.replace_file
    for stop in range(4):
        shutil.copytree(tmp_path / "s", tmp_path / f"s{stop}")
        calls = []

        def refuse(path, content, calls=calls, stop=stop):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(path)
            original(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(_manifest, "replace_file", refuse)
            with pytest.raises(KeyboardInterrupt):
                run_study(longer, tmp_path / f"s{stop}")
        found = seen_of_study(tmp_path / f"s{stop}")
        assert found[4] == ()
        assert found == before or len(found[0]) == 4
        assert run_study(longer, tmp_path / f"s{stop}").computed == 1
        assert seen_of_study(tmp_path / f"s{stop}")[4] == ()


def test_paths_are_those_of_posix(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c d.txt").write_text("x")
    write_checksums(tmp_path)
    assert list(read_checksums(tmp_path)) == [str(pathlib.PurePosixPath("a/b/c d.txt"))]
