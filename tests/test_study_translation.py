"""Which finished cells an edited spec may use, and what later segments may change: never another result."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from flatmin.storage.folders import host_name, remove_leftovers
from flatmin.storage.sealed import SealedFolder
from flatmin.studies import find_store, run_study, study_spec
from flatmin.studies._segments import DONE, FAILED, Segment, encode
from flatmin.studies._translation import translate
from flatmin.studies.study import Study

TRAINING = {
    "name": "t",
    "seeds": 2,
    "problem": {"preset": "matrix_sensing", "matrix_shape": [3, 3], "rank": 1, "num_measurements": 8},
    "start": {"scheme": "gaussian", "scale": 0.1},
    "dynamics": {"rule": "gradient_descent"},
    "stopping": {"steps": 30},
    "measure": {"quantities": ["loss"], "threshold": 1e-3},
    "axes": {"dynamics.learning_rate": [0.1, 0.3]},
}
SOLVING = {k: v for k, v in TRAINING.items() if k not in ("dynamics", "start", "axes", "stopping", "measure")} | {
    "measure": {"quantities": ["relative_error"]},
    "solver": {"program": "flat"},
    "axes": {"problem.num_measurements": [8, 7]},
    "problem": {"preset": "matrix_sensing", "matrix_shape": [3, 3], "rank": 1},
}
FUNCTION = {
    "name": "f",
    "seeds": 2,
    "function": {"call": "study_cells:tiny", "outputs": ["value"], "y": 1},
    "axes": {"function.x": [1.0, 2.0]},
}
RANDOM = {
    "name": "r",
    "seeds": 1,
    "function": {"call": "study_cells:tiny"},
    "random": {
        "samples": 3,
        "seed": 0,
        "draw": {"function.x": {"distribution": "uniform", "low": 0.0, "high": 1.0}},
    },
}


def edited(raw, path, value):
    """The tables with one setting changed."""
    head, *rest = path
    return raw | {head: edited(raw.get(head, {}), rest, value) if rest else value}


def moved(before, after, width=1):
    source, target = Study(study_spec(before), width), Study(study_spec(after), width)
    return [translate(source, target, cell) for cell in range(source.grid.size)]


OTHER = [
    (TRAINING, ("measure", "quantities"), ["loss", "frobenius_norm"]),
    (TRAINING, ("measure", "quantities"), ["frobenius_norm"]),
    (TRAINING, ("measure", "threshold"), 1e-2),
    (TRAINING, ("measure",), {"quantities": ["loss"], "record": ["loss"], "every": 10}),
    (TRAINING, ("stopping", "steps"), 31),
    (TRAINING, ("stopping", "loss"), 1e-6),
    (TRAINING, ("stopping", "gradient"), 1e-6),
    (TRAINING, ("stopping", "tolerance"), 1e-8),
    (TRAINING, ("stopping", "max_iterations"), 4001),
    (TRAINING, ("precision",), "float32"),
    (TRAINING, ("problem", "rank"), 2),
    (TRAINING, ("problem", "num_measurements"), 9),
    (TRAINING, ("start", "scale"), 0.2),
    (TRAINING, ("dynamics", "momentum"), 0.5),
    (SOLVING, ("solver", "program"), "min_nuclear_norm"),
    (SOLVING, ("stopping", "tolerance"), 1e-8),
    (FUNCTION, ("function", "call"), "study_cells:slow"),
    (FUNCTION, ("function", "outputs"), ["value", "second"]),
    (FUNCTION, ("function", "y"), 2),
    (RANDOM, ("random", "seed"), 1),
    (RANDOM, ("random", "draw", "function.x", "high"), 2.0),
]


@pytest.mark.parametrize(("raw", "path", "value"), OTHER)
def test_no_cell_is_found_after_an_edit_of_what_decides_it(raw, path, value):
    after = edited(raw, path, value)
    assert set(moved(raw, raw)) == set(range(Study(study_spec(raw), 1).grid.size))
    assert set(moved(raw, after)) == {-1}
    assert set(moved(after, raw)) == {-1}


@pytest.mark.parametrize(
    ("raw", "path", "value", "expected"),
    [
        (TRAINING, ("title",), "another", [0, 1, 2, 3]),
        (TRAINING, ("seeds",), 3, [0, 1, 3, 4]),
        (TRAINING, ("seeds",), {"first": 1, "count": 2}, [-1, 0, -1, 2]),
        (TRAINING, ("axes", "dynamics.learning_rate"), [0.3, 0.2], [-1, -1, 0, 1]),
        (TRAINING, ("axes", "start.gain"), None, None),
        (FUNCTION, ("axes", "function.x"), [2.0, 3.0, 1.0], [4, 5, 0, 1]),
        (FUNCTION, ("axes",), {"function.y": [0, 1], "function.x": [2.0]}, None),
        (RANDOM, ("random", "samples"), 5, [0, 1, 2]),
    ],
)
def test_cells_are_found_where_nothing_that_decides_them_changed(raw, path, value, expected):
    after = edited(raw, path, value)
    if path == ("axes", "start.gain"):  # a fixed setting becomes an axis that has its value
        after = edited(raw, ("start",), {"scheme": "gaussian"})
        after = edited(after, ("axes", "start.scale"), [0.2, 0.1])
        expected = [2, 3, 6, 7]
    elif "function.y" in str(value):
        after = edited(after, ("function",), {"call": "study_cells:tiny", "outputs": ["value"]})
        expected = [-1, -1, 2, 3]
    assert moved(raw, after) == expected


def test_an_edit_of_the_outputs_computes_all_again(tmp_path):
    """The same through the store: what another spec computed is not shown under this one."""
    run_study(study_spec(FUNCTION), tmp_path / "s")
    after = study_spec(edited(FUNCTION, ("function", "y"), 2))
    summary = run_study(after, tmp_path / "s", accept_changes=True)
    assert (summary.found, summary.computed) == (0, 4)
    store = find_store(tmp_path / "s")
    values = store.read().values["value"]
    for cell in range(4):
        setting = store.study.values(cell)
        assert values[cell] == 2 * setting["function.x"] + 2 + setting["seed"]


# later segments -------------------------------------------------------------------------------------------------------


def put(store, cell, state, value, name):
    reasons = {cell: "no luck"} if state == FAILED else {}
    values = {"value": np.array([value])}
    data = encode(Segment(store.study.id, np.array([cell]), np.array([state], np.uint8), values, reasons))
    (store.folder / "segments" / f"{name}.seg").write_bytes(data)


@pytest.mark.parametrize("order", [("a", "z"), ("z", "a")])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_failure_never_takes_the_place_of_a_result(tmp_path, order, at_once):
    """Whichever of the two is read first: all at the beginning, or what another process adds while one computes."""
    run_study(study_spec(FUNCTION), tmp_path / "s", shard=(1, 4))
    store = find_store(tmp_path / "s")
    content = store.read()
    (open_cell,) = [cell for cell in (1,) if content.states[cell] == 0]
    put(store, open_cell, DONE, 7.0, order[0])
    if not at_once:
        store.refresh(content)
        time.sleep(0.01)
    put(store, open_cell, FAILED, np.nan, order[1])
    os.utime(store.folder / "segments")
    content = store.read() if at_once else (store.refresh(content), content)[1]
    assert content.states[open_cell] == DONE
    assert content.values["value"][open_cell] == 7.0
    assert content.reasons == {}
    put(store, 0, FAILED, np.nan, "zz")  # of the cell that the run itself has finished
    content = store.read()
    assert content.states[0] == DONE
    assert content.reasons == {}


def test_a_result_takes_the_place_of_a_failure(tmp_path):
    run_study(study_spec(FUNCTION), tmp_path / "s", shard=(1, 4))
    store = find_store(tmp_path / "s")
    put(store, 1, FAILED, np.nan, "a")
    content = store.read()
    assert content.states[1] == FAILED
    assert content.reasons == {1: "no luck"}
    put(store, 1, DONE, 7.0, "b")
    content = store.read()
    assert content.states[1] == DONE
    assert content.reasons == {}


# leftovers ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="asks for processes as POSIX does")
def test_only_leftovers_of_dead_processes_of_this_machine_are_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    here, dead, me = host_name(), process.pid, os.getpid()
    other = "x" if here != "x" else "y"
    gone = f".partial-run-{here}-{dead}-0123abcd"
    stay = [
        f".partial-run-{other}-{dead}-0123abcd",
        f".partial-run-{here}{other}-{dead}-0123abcd",
        f".partial-run-{other}-{here}-0123abcd",
        f".partial-run-{here}-{me}-0123abcd",
        f".partial-run-{here}-{dead}-xyz",
        ".partial-run",
        f"partial-run-{here}-{dead}-0123abcd",
    ]
    for name in (gone, *stay):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)

    folder = tmp_path / "sealed"
    folder.mkdir()
    gone = f".{here}-{dead}-abc123-a.seg"
    stay = [
        f".{other}-{dead}-abc123-a.seg",
        f".{here}-{me}-abc123-a.seg",
        f".{here}-none-abc123-a.seg",
        f"{here}-{dead}-abc123-a.seg",
        "a.seg",
    ]
    for name in (gone, *stay):
        (folder / name).write_bytes(b"")
    SealedFolder(folder).remove_leftovers()
    assert sorted(path.name for path in folder.iterdir()) == sorted(stay)
