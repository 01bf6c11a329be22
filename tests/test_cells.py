"""Named cells on the engine of studies: who computes them does not matter, nor what happens meanwhile."""

import functools
import os
import pathlib

import pytest

import study_cells
from flatmin import JobError, UsageError
from flatmin.experiments.cells import Context, compute_cells
from flatmin.studies.cells import Cell, OtherSharesError

TESTS = pathlib.Path(__file__).parent


@pytest.fixture(autouse=True)
def _found_by_workers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]))


def grid(folder, count=4):
    folder.mkdir(exist_ok=True)
    work = [functools.partial(study_cells.dataset_cell, x, str(folder)) for x in range(count)]
    return {x: Cell(f"cell {x}", {"x": x}, work[x]) for x in range(count)}


def calls(folder):
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


def payloads(folder):
    """What the files hold, but for when and where they were made."""
    from flatmin.storage.sealed import unseal

    found = {path.name: unseal(path.read_bytes()) for path in sorted(folder.glob("*.cell"))}
    return {name: (header["key"], bytes(payload)) for name, (header, payload) in found.items()}


def test_threads_and_processes_give_the_same_bytes(tmp_path):
    told = []
    context = Context(tmp_path / "a", workers=2, progress=lambda *what: told.append(what))
    threads = compute_cells(grid(tmp_path / "calls"), context)
    assert {what[0] for what in told} == {f"cell {x}" for x in range(4)}
    assert told[:4] == [(f"cell {x}", 0, 0) for x in range(4)]
    assert ("cell 2", 1, 2) in told
    told.clear()
    context = Context(tmp_path / "b", workers=2, progress=lambda *what: told.append(what))
    processes = compute_cells(grid(tmp_path / "calls"), context, spread="processes")
    assert ("cell 2", 1, 1) in told
    assert payloads(tmp_path / "a") == payloads(tmp_path / "b")
    assert len(payloads(tmp_path / "a")) == 4
    for x, data in processes.items():
        assert data.identical(threads[x])
        assert data.attrs["who"] == f"cell {x}"
    # the first in this process, the second not
    assert calls(tmp_path / "calls") == sorted(2 * list("0123"))
    assert sum(f"-{os.getpid()}-" in path.name for path in (tmp_path / "calls").iterdir()) == 4


def test_shares_meet_in_one_folder(tmp_path):
    cells = grid(tmp_path / "calls", 5)
    with pytest.raises(OtherSharesError) as caught:
        compute_cells(cells, Context(tmp_path / "s", shard=(2, 2)))
    assert (caught.value.finished, caught.value.total) == (2, 5)
    found = compute_cells(cells, Context(tmp_path / "s", shard=(1, 2)))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert calls(tmp_path / "calls") == list("01234")
    with pytest.raises(UsageError, match="shard: got 3/2"):
        compute_cells(cells, Context(tmp_path / "s", shard=(3, 2)))


def test_a_cell_that_another_process_finished_meanwhile_is_not_computed(tmp_path):
    cells = grid(tmp_path / "calls")
    compute_cells(cells, Context(tmp_path / "ready"))
    before = len(calls(tmp_path / "calls"))

    def copy(name, done, _total):
        if (name, done) == ("cell 0", 1):
            for path in (tmp_path / "ready").glob("*.cell"):
                (tmp_path / "s" / path.name).write_bytes(path.read_bytes())

    compute_cells(cells, Context(tmp_path / "s", workers=1, progress=copy))
    assert len(calls(tmp_path / "calls")) == before + 1


def test_a_failure_in_a_process_is_the_same_sentence(tmp_path):
    cells = grid(tmp_path / "calls", 1) | {"bad": Cell("bad", {"bad": 1}, study_cells.failing_cell)}
    for workers in (1, 2):
        with pytest.raises(JobError, match=r"^cells: no luck; try again$"):
            compute_cells(cells, Context(tmp_path / "s", workers=workers), spread="processes")


def test_a_process_that_is_told_to_stop_keeps_what_it_has(tmp_path):
    cells = {i: Cell(f"patient {i}", {"i": i}, study_cells.patient_cell) for i in range(2)}

    def stop(_name, done, _total):
        if done > 20:
            raise KeyboardInterrupt

    context = Context(tmp_path / "s", workers=2, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        compute_cells(cells, context, spread="processes")
    left = [int(path.read_text()) for path in (tmp_path / "s").glob("*.checkpoint")]
    assert max(left) > 0
    found = compute_cells(cells, Context(tmp_path / "s", workers=1))
    assert sorted(float(data.start) for data in found.values() if data.start) == sorted(n for n in left if n)
    assert not list((tmp_path / "s").glob("*.checkpoint"))


@pytest.mark.long
def test_a_process_that_dies_costs_its_own_cell_only(tmp_path):
    dying = Cell("dying", {"dying": 1}, functools.partial(study_cells.dying_cell, str(tmp_path)))
    found = compute_cells({"dying": dying}, Context(tmp_path / "s", workers=2), spread="processes")
    assert found["dying"].attrs["who"] == "cell 7"


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_bytes(tmp_path):
    pytest.importorskip("distributed")
    compute_cells(grid(tmp_path / "calls"), Context(tmp_path / "a"))
    compute_cells(grid(tmp_path / "calls"), Context(tmp_path / "b", scheduler="local"))
    assert payloads(tmp_path / "a") == payloads(tmp_path / "b")


def test_work_that_cannot_be_sent_is_refused(tmp_path):
    cells = {0: Cell("closure", {}, lambda *_: None)}
    with pytest.raises(JobError, match="cannot be sent to another process"):
        compute_cells(cells, Context(tmp_path / "s", workers=2), spread="processes")
