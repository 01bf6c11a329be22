"""Studies: what a spec means, what it refuses, and that nothing but the spec decides the bits."""

import json
import pathlib
import re
import time
import tracemalloc

import numpy as np
import pytest
import xarray as xr

from flatmin import JobError, UsageError
from flatmin.storage.sealed import DamagedError
from flatmin.studies import StudySpec, find_store, load_spec, plan, run_study, study_spec
from flatmin.studies._segments import DONE, FAILED, Segment, decode, encode
from flatmin.studies.axes import Range, Values
from flatmin.studies.engine import share_of
from flatmin.studies.grid import Axis, Blocks, Grid, draw
from flatmin.studies.store import content_hash
from flatmin.studies.view import export_study, study_dataset, study_table


def tiny(**changes):
    raw = {
        "name": "tiny",
        "seeds": 3,
        "function": {"call": "study_cells:tiny"},
        "axes": {"function.x": [0.0, 0.5], "function.y": {"from": 1, "to": 5, "step": 2}},
    }
    return study_spec(raw | changes)


TRAINING = {
    "name": "noise",
    "seeds": 3,
    "problem": {"preset": "matrix_sensing", "matrix_shape": [4, 3], "rank": 1, "num_measurements": 9},
    "dynamics": {"rule": "label_noise_sgd", "batch_size": 3},
    "stopping": {"steps": 40},
    "measure": {"quantities": ["loss", "trace", "recovered"], "record": ["loss"], "every": 20},
    "axes": {"dynamics.learning_rate": [0.01, 0.02], "dynamics.noise": [0.0, 0.1]},
    "batching": {"width": 4},
}


STUDY_ID = "f65f809aea5e"
"""Of `TRAINING`, before there were conditions for an early end."""


def content_of(folder):
    store = find_store(pathlib.Path(folder))
    return store, store.read()


def hash_of(folder):
    store, content = content_of(folder)
    return content_hash(store.study, content)


# grids ----------------------------------------------------------------------------------------------------------------


def test_cells_have_the_labels_of_the_product():
    study = plan(tiny())
    cells = [study.values(cell) for cell in range(study.grid.size)]
    expected = [{"function.x": x, "function.y": y, "seed": s} for x in (0.0, 0.5) for y in (1, 3, 5) for s in (0, 1, 2)]
    assert cells == expected
    for cell in range(study.grid.size):
        assert study.grid.cell(study.grid.positions(cell)) == cell


@pytest.mark.parametrize("leaves", [(), (1,), (0, 2), (0, 1, 2), (1, 3)])
@pytest.mark.parametrize("width", [1, 2, 5, 64])
def test_blocks_partition_the_cells(leaves, width):
    sizes = (3, 4, 2, 5)
    grid = Grid(tuple(Axis(f"a.{k}", f"{k}", Values(range(n)), k in leaves) for k, n in enumerate(sizes)))
    blocks = Blocks(grid, width)
    seen = [blocks.cells(block) for block in range(len(blocks))]
    assert sorted(np.concatenate(seen).tolist()) == list(range(grid.size))
    for block, cells in enumerate(seen):
        assert cells.size <= width
        # cells of a block differ in leaves only
        static = {tuple(p for k, p in enumerate(grid.positions(int(c))) if k not in leaves) for c in cells}
        assert len(static) == 1
        assert all(blocks.block_of(int(c)) == block for c in cells)


def test_ranges():
    assert list(Values(Range.model_validate({"from": 1.0, "to": 100.0, "count": 3, "spacing": "log"}))) == [1, 10, 100]
    assert list(Values(Range.model_validate({"from": 0.0, "to": 1.0, "step": 0.1})))[3] == 0.3
    assert len(Values(Range.model_validate({"from": 0.0, "to": 1.0, "step": 0.1}))) == 11
    assert list(Values(Range.model_validate({"from": 5.0, "to": 1.0, "step": -2.0}))) == [5, 3, 1]
    whole = tiny().values_of("function.y")
    assert list(whole) == [1, 3, 5]
    assert all(isinstance(v, int) for v in whole)


def test_random_axes_depend_on_name_seed_and_sample_only():
    spec = {"distribution": "log_uniform", "low": 0.1, "high": 10.0}
    values = [draw(spec, "function.x", 0, s) for s in range(2000)]
    assert draw(spec, "function.x", 0, 5) == values[5]
    assert draw(spec, "function.z", 0, 5) != values[5]
    assert draw(spec, "function.x", 1, 5) != values[5]
    logs = np.log10(values)
    # uniform on [-1, 1]: mean 0, variance 1/3
    assert abs(logs.mean()) < 5 * np.sqrt(1 / 3 / 2000)
    assert abs(logs.var() - 1 / 3) < 5 * np.sqrt(4 / 45 / 2000)
    study = plan(
        tiny(axes={"function.y": [1, 2]}, random={"samples": 3, "draw": {"function.x": spec}}),
    )
    assert study.grid.shape == (2, 3, 3)
    assert study.values(4)["function.x"] == values[1]


def test_a_million_cells_take_no_memory():
    began = time.process_time()
    tracemalloc.start()
    spec = tiny(
        seeds=10_000,
        axes={"function.x": {"from": 0, "to": 1, "count": 100}, "function.y": {"from": 1, "to": 100, "step": 1}},
    )
    study = plan(spec)
    assert study.grid.size == 10**8
    assert study.values(10**8 - 1) == {"function.x": 1.0, "function.y": 100, "seed": 9999}
    assert study.blocks.cells(len(study.blocks) - 1).tolist() == [10**8 - 1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert time.process_time() - began < 5  # what else runs does not count


# what a spec refuses --------------------------------------------------------------------------------------------------

GOOD = """\
name = "noise"
seeds = 2

[problem]
preset = "matrix_sensing"
matrix_shape = [4, 3]
rank = 1
num_measurements = 9

[dynamics]
rule = "sgd"
batch_size = 3
learning_rate = 0.1

[measure]
quantities = ["loss"]

[axes]
"problem.depth" = [2, 3]
"""

WRONG = [
    ('name = "noise"', 'name = "Noise 1"', 1, "lower-case words"),
    ("seeds = 2", "sedes = 2", 2, "'sedes' is not known; did you mean 'seeds'"),
    ("seeds = 2", "seeds = 0", 2, "greater than or equal to 1"),
    ("seeds = 2", 'seeds = "many"', 2, "got 'many'"),
    ("rank = 1", "rnak = 1", 7, "'rnak' is not known; did you mean 'rank'"),
    ("rank = 1", 'rank = "one"', 7, "got 'one', input should be a valid integer"),
    ("rank = 1", "rank = 1.5", 7, "got 1.5"),
    ("rank = 1\n", "", 4, "rank is missing"),
    ('preset = "matrix_sensing"', 'preset = "matrix_sensig"', 5, "did you mean 'matrix_sensing'"),
    ('preset = "matrix_sensing"\n', "", 4, "has no preset"),
    ('rule = "sgd"', 'rule = "adam"', 11, "'adam' is not known"),
    ("learning_rate = 0.1", "learning_rate = -0.1", 13, "greater than 0"),
    ("learning_rate = 0.1", "learning_rate = nan", 13, "finite"),
    ("learning_rate = 0.1", "learningrate = 0.1", 13, "did you mean 'learning_rate'"),
    ('quantities = ["loss"]', 'quantities = ["los"]', 16, "did you mean 'loss'"),
    ('quantities = ["loss"]', 'quantities = ["gap"]', 16, "not measured by a study without a solver"),
    ('quantities = ["loss"]', "quantities = []", 16, "at least 1"),
    ('quantities = ["loss"]', 'quantities = ["loss"]\nrecord = ["loss"]', 17, "say how often"),
    ('"problem.depth" = [2, 3]', '"problem.dpeth" = [2, 3]', 19, "did you mean 'problem.depth'"),
    ('"problem.depth" = [2, 3]', '"problem.rank" = [1, 2]', 19, "rank is given in \\[problem\\] too"),
    ('"problem.depth" = [2, 3]', '"problem.depth" = []', 19, "the grid would be empty"),
    ('"problem.depth" = [2, 3]', '"problem.depth" = [2, 2]', 19, "2 more than once"),
    ('"problem.depth" = [2, 3]', '"problem.depth" = [2, 2.5]', 19, "the value 2.5"),
    ('"problem.depth" = [2, 3]', '"problem.depth" = { from = 2, to = 4 }', 19, "either count or step"),
    ('"problem.depth" = [2, 3]', '"problem.depth" = { from = 2, to = 4, stop = 3 }', 19, "stop"),
    ('"problem.depth" = [2, 3]', '"problem.depth" = { from = 2, to = 4, step = -1 }', 19, "does not lead"),
    ('"problem.depth" = [2, 3]', '"start.scale" = [0.1, -1.0]', 19, "the value -1.0"),
    ('"problem.depth" = [2, 3]', '"seed" = [1, 2]', 19, "seeds are an axis of their own"),
    ("[measure]", '[solver]\nprogram = "flat"\n[measure]', 15, "either \\[dynamics\\] or \\[solver\\]"),
    ("[measure]", '[function]\ncall = "study_cells:tiny"\n[measure]', None, "either a \\[problem\\] or a \\[function\\]"),  # noqa: E501
    ("[measure]", "[adaptive]\naxis = 'problem.depth'\n[measure]", 15, "'recovered' is not measured"),
    ("[measure]", "[measre]", 15, "did you mean 'measure'"),
    ("[measure]", '[parameterization]\nkind = "deep"\n[measure]', 16, "did you mean 'deep_matrix'"),
    ("[measure]", '[random]\nsamples = 2\n[random.draw]\n"start.scale" = { distribution = "uniform" }\n[measure]', 18, "low < high"),  # noqa: E501
    ("[measure]", '[random]\nsamples = 2\n[measure]', 15, "draw is missing"),
    ('seeds = 2', 'seeds = 2\nprecision = "half"', 3, "got 'half'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "sentence"), WRONG)
def test_a_mistake_is_named_with_its_line(tmp_path, old, new, line, sentence):
    path = tmp_path / "s.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UsageError, match=sentence) as caught:
        load_spec(path)
    text = str(caught.value)
    assert "\n" not in text
    assert "pydantic" not in text
    if line is not None:
        assert re.search(r"\(s\.toml, line (\d+)\)", text)[1] == str(line), text


def test_the_good_spec_is_good_in_both_formats(tmp_path):
    import tomllib

    import yaml

    (tmp_path / "s.toml").write_text(GOOD)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(tomllib.loads(GOOD), sort_keys=False))
    assert load_spec(tmp_path / "s.toml").id == load_spec(tmp_path / "s.yaml").id
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(tomllib.loads(GOOD), sort_keys=False).replace("rank", "rnak"))
    with pytest.raises(UsageError, match=r"problem.rnak \(t.yaml, line \d+\): 'rnak' is not known"):
        load_spec(tmp_path / "t.yaml")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.toml", b"name = ", "is not TOML"),
        ("a.yaml", b"name: [", "is not YAML"),
        ("a.yaml", b"- 1\n- 2\n", "holds list"),
        ("a.yaml", b"", "holds NoneType"),
        ("a.toml", b"name = '\xe9'", "UTF-8"),
        ("a.json", b"{}", "expected a .toml or .yaml file"),
        ("a.toml", b"", "name"),
    ],
)
def test_files_that_are_no_spec(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        load_spec(tmp_path / name)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        load_spec(tmp_path / "a.toml")
    with pytest.raises(UsageError, match="is a folder"):
        load_spec(tmp_path)


def test_the_id_follows_what_decides_the_results():
    base = StudySpec.model_validate(TRAINING)
    same = [{"title": "T"}, {"name": "other"}, {"adaptive": {"axis": "dynamics.noise"}}]
    other = [
        {"seeds": 4},
        {"precision": "float32"},
        {"stopping": {"steps": 41}},
        {"axes": dict(reversed(TRAINING["axes"].items()))},
        {"measure": {"quantities": ["loss"]}},
    ]
    assert {study_spec(TRAINING | change).id for change in same} == {base.id}
    assert len({study_spec(TRAINING | change).id for change in other} | {base.id}) == 6


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "3", "1/0", "-1/2"])
def test_shares_that_are_none(text):
    with pytest.raises(UsageError, match="expected i/n"):
        share_of(text)


# segments -------------------------------------------------------------------------------------------------------------


def segment():
    cells = np.array([4, 7, 2])
    values = {"a": np.array([1.0, np.nan, -0.0]), "b": np.arange(6.0).reshape(3, 2)}
    return Segment("id", cells, np.array([DONE, FAILED, DONE], np.uint8), values, {7: "why ±"}, {"seconds": 0.5})


def test_segments_survive():
    found = decode(encode(segment()))
    assert found.study == "id"
    assert found.cells.tolist() == [4, 7, 2]
    assert found.states.tolist() == [DONE, FAILED, DONE]
    assert found.reasons == {7: "why ±"}
    for name, values in segment().values.items():
        assert found.values[name].tobytes() == values.tobytes()


def test_every_cut_and_every_flipped_bit_is_seen():
    data = encode(segment())
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            decode(data[:length])
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        with pytest.raises(DamagedError):
            decode(bytes(flipped))
    with pytest.raises(DamagedError):
        decode(data + b"\0")


# running --------------------------------------------------------------------------------------------------------------


def test_a_study_computes_every_cell_once_and_is_an_array(tmp_path):
    spec = tiny()
    assert run_study(spec, tmp_path / "s").computed == 18
    again = run_study(spec, tmp_path / "s")
    assert (again.found, again.computed) == (18, 0)
    store, content = content_of(tmp_path / "s")
    data = study_dataset(store.study, content)
    assert data["value"].dims == ("x", "y", "seed")
    for x in (0.0, 0.5):
        for y in (1, 3, 5):
            for seed in range(3):
                assert data["value"].sel(x=x, y=y, seed=seed) == 2 * x + y + seed


def test_half_a_study_is_an_array_too(tmp_path):
    run_study(tiny(), tmp_path / "s", shard=(1, 2))
    store, content = content_of(tmp_path / "s")
    data = study_dataset(store.study, content)
    assert int((data["state"] == DONE).sum()) == 9
    assert int(np.isnan(data["value"]).sum()) == 9
    assert len(study_table(store.study, content)) == 9


def test_shares_make_the_whole(tmp_path):
    run_study(tiny(), tmp_path / "whole")
    found = [run_study(tiny(), tmp_path / "parts", shard=(i, 4)) for i in (3, 1, 4, 2)]
    assert sum(summary.computed for summary in found) == 18
    assert hash_of(tmp_path / "parts") == hash_of(tmp_path / "whole")


def test_export_in_three_formats(tmp_path):
    import pandas as pd

    run_study(tiny(), tmp_path / "s")
    store, content = content_of(tmp_path / "s")
    array = xr.load_dataset(export_study(store.study, content, tmp_path / "s.nc"))
    tables = [
        pd.read_csv(export_study(store.study, content, tmp_path / "s.csv")),
        pd.read_parquet(export_study(store.study, content, tmp_path / "s.parquet")),
    ]
    assert json.loads(array.attrs["spec"])["name"] == "tiny"
    for table in tables:
        assert len(table) == 18
        row = table[(table.x == 0.5) & (table.y == 3) & (table.seed == 2)]
        assert row["value"].item() == 6.0 == array["value"].sel(x=0.5, y=3, seed=2).item()
    with pytest.raises(UsageError, match=r"ends in \.nc"):
        export_study(store.study, content, tmp_path / "s.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="choose another place"):
        export_study(store.study, content, tmp_path / "file" / "s.csv")


def test_a_failure_is_recorded_with_its_reason_and_retried_on_demand(tmp_path):
    spec = study_spec(
        {"name": "f", "function": {"call": "study_cells:fussy"}, "axes": {"function.x": [1, 2, 3, 4]}, "seeds": 2}
    )
    assert run_study(spec, tmp_path / "s").failed == 2
    store, content = content_of(tmp_path / "s")
    assert content.states.tolist() == [1, 1, 1, 1, 2, 2, 1, 1]
    assert set(content.reasons.values()) == {"ValueError: x is three and that will not do"}
    assert run_study(spec, tmp_path / "s").computed == 0
    assert run_study(spec, tmp_path / "s", retry_failed=True).computed == 2
    assert set(study_table(store.study, content)["state"]) == {"done", "failed"}


def test_training_cells_give_the_same_bits_in_every_batch_and_share(tmp_path):
    spec = study_spec(TRAINING)
    run_study(spec, tmp_path / "a", batch_size=1)
    run_study(spec, tmp_path / "b", batch_size=100)
    for i in (3, 2, 1):
        run_study(spec, tmp_path / "c", shard=(i, 3))
    assert hash_of(tmp_path / "a") == hash_of(tmp_path / "b") == hash_of(tmp_path / "c")
    assert content_of(tmp_path / "a")[1].reasons == {}
    store, content = content_of(tmp_path / "a")
    assert store.study.blocks.lanes == 12
    # the numbers are the library's: one cell by hand
    import jax

    import flatmin as fm
    from flatmin.dynamics import LabelNoiseSGD
    from flatmin.parameterizations import Gaussian

    cell = store.study.grid.cell((1, 1, 2))
    problem_key, start_key, training_key = jax.random.split(jax.random.key(2), 3)
    instance = fm.problems.matrix_sensing(problem_key, (4, 3), 1, 9)
    params = instance.problem.parameterization.init_params(start_key, Gaussian(0.3))
    end = fm.train(instance.problem, LabelNoiseSGD(0.02, 3, 0.1), params, steps=40, key=training_key)
    assert content.values["loss"][cell] == pytest.approx(float(instance.problem.loss(end.params)), rel=1e-9)
    trace = fm.hessian_trace(instance.problem, end.params)
    assert content.values["trace"][cell] == pytest.approx(float(trace.value), rel=1e-9)
    assert content.values["loss_along"].shape == (12, 3)
    assert content.values["loss_along"][cell, 2] == pytest.approx(content.values["loss"][cell], rel=1e-12)
    # where a cell stands among its neighbours does not matter, nor who they are
    alone = store.study.compute_alone(store.study.blocks.block_of(cell), 2)
    block = store.study.blocks.cells(store.study.blocks.block_of(cell))
    other = int(block[2])
    assert alone["loss"] == content.values["loss"][other]


def test_cells_that_are_done_early_keep_their_bits(tmp_path):
    """Early or late, beside whom, and wholly diverged: what a cell yields is its own."""
    base = TRAINING | {
        "dynamics": {"rule": "gradient_descent"},
        "stopping": {"steps": 600, "loss": 1e-3, "check_every": 50},
        "measure": {"quantities": ["loss", "frobenius_norm"], "record": ["loss"], "every": 200},
        "axes": {"dynamics.learning_rate": [0.01, 0.1, 0.3, 30.0]},
    }
    run_study(study_spec(base), tmp_path / "a")
    store, content = content_of(tmp_path / "a")
    assert content.reasons == {}
    steps, outcome = (content.values[name].reshape(4, 3) for name in ("steps", "outcome"))
    assert (outcome[3] == 1).all()
    early = outcome[:3] == 2
    assert early.any()
    assert (steps[:3][early] < 600).all()
    assert (steps[:3][early] % 50 == 0).all()
    loss, along = content.values["loss"].reshape(4, 3), content.values["loss_along"].reshape(4, 3, 4)
    assert (loss[:3][early] <= 1e-3).all()
    assert (loss[:3][~early] > 1e-3).all()
    np.testing.assert_array_equal(along[:3, :, 3], loss[:3])
    # the last block is one that has diverged throughout
    assert np.isnan(along[3, :, 1:]).all()
    # in other company the same bits: one value of the step size, and its seeds beside copies of each other
    alone = store.study.compute_alone(store.study.blocks.block_of(7), 3)
    assert alone["loss"] == content.values["loss"][store.study.blocks.cells(1)[3]]
    alone = study_spec(base | {"axes": {"dynamics.learning_rate": [0.3]}})
    run_study(alone, tmp_path / "b")
    np.testing.assert_array_equal(content_of(tmp_path / "b")[1].values["loss"], loss[2])


def test_conditions_that_are_not_given_leave_the_id_as_it_was():
    assert study_spec(TRAINING).id == STUDY_ID
    given = study_spec(TRAINING | {"stopping": {"steps": 40, "loss": 1e-3}})
    assert given.id != STUDY_ID
    with pytest.raises(UsageError, match="there is nothing to look at"):
        study_spec(TRAINING | {"stopping": {"check_every": 5}})
    with pytest.raises(UsageError, match=r"stopping.loss: only \[dynamics\] can be done early"):
        study_spec({k: v for k, v in TRAINING.items() if k != "dynamics"} | {"solver": {"program": "flat"}, "axes": {},
                   "measure": {"quantities": ["gap"]}, "stopping": {"loss": 1e-3}})  # fmt: skip


@pytest.mark.long
def test_sharpness_of_many_parameters_is_that_of_the_dense_hessian(tmp_path):
    import jax

    import flatmin as fm
    from flatmin.parameterizations import Gaussian

    raw = {
        "name": "wide",
        "seeds": 2,
        "problem": {"preset": "matrix_sensing", "matrix_shape": [15, 15], "rank": 1, "num_measurements": 60},
        "measure": {"quantities": ["sharpness", "trace"]},
    }
    run_study(study_spec(raw), tmp_path / "s")
    _, content = content_of(tmp_path / "s")
    assert content.reasons == {}
    problem_key, start_key, _ = jax.random.split(jax.random.key(1), 3)
    problem = fm.problems.matrix_sensing(problem_key, (15, 15), 1, 60).problem
    point = problem.parameterization.init_params(start_key, Gaussian(0.3))
    dense = fm.sharpness(problem, point, fm.flatness.Dense())
    assert sum(leaf.size for leaf in jax.tree.leaves(point)) == 450
    assert content.values["sharpness"][1] == pytest.approx(float(dense.value), rel=1e-8)
    assert 0 <= content.values["sharpness_error"][1] < 1e-6 * float(dense.value)


DOCUMENT = """# head
name = "x"
a.b = 1
a."c d" = '''
[a]
b = 2
'''

# note
[t.u]  # c
k = [
  1,
  [2, 3],
]
[[t.list]]
z = {q = 1, r = {s = 2}}
[[t.list]]

z = 5
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("name", 2), ("a.b", 3), ("a.c d", 4), ("t.u", 10), ("t.u.k", 11), ("t.u.k.1", 11), ("t.u.nothing", 10),
        ("t.list.0.z.r.s", 16), ("t.list.1", 17), ("t.list.1.z", 19), ("t.tag.list.1.z", 19), ("no", None),
    ],
)  # fmt: skip
def test_lines_are_those_where_settings_begin(path, line):
    from flatmin.studies._lines import line_of, toml_lines

    for text in (DOCUMENT, DOCUMENT.replace("\n", "\r\n")):
        assert line_of(tuple(path.split(".")), toml_lines(text)) == line


def test_lines_are_toml_s_own():
    from flatmin.studies._lines import toml_lines

    text = 'a = "\u2028"\n# \x85\nb = [[1],\n [2, "]"], # ]\n]\n[[x]]\n[x.y]\nz = 1\n[[x]]\n[x.y]\nz = 2\n'
    lines = toml_lines(text)
    settings = [("a",), ("b",), ("b", "1", "0"), ("x", "0", "y", "z"), ("x", "1", "y", "z")]
    assert [lines[path] for path in settings] == [1, 3, 3, 8, 11]
    flat = "".join(f"k{i} = {i}\n" for i in range(3000)) + "many = [\n" + "1,\n" * 3000 + "]\nlast = 1\n"
    assert toml_lines(flat)["last",] == 6003


def test_check_says_what_cannot_run(tmp_path, capsys):
    from flatmin.cli import main

    text = (
        'name = "s"\nseeds = 2\n[problem]\npreset = "{preset}"\nmatrix_shape = {shape}\n{rank}\n{more}\n'
        '[measure]\nquantities = ["loss"]\n{axes}'
    )
    plain = {
        "preset": "matrix_sensing",
        "shape": "[4, 4]",
        "rank": "rank = 1",
        "more": "num_measurements = 12",
        "axes": "",
    }
    completion = {"preset": "matrix_completion", "more": "fraction = 0.5"}
    cases = [
        ({}, 0, ""),
        ({"rank": "rank = 9"}, 2, "rank"),
        (completion, 0, ""),
        (completion | {"rank": "rank = 9"}, 2, "rank"),
        ({"shape": "[100000, 100000]"}, 2, "GB of memory"),
        ({"rank": "", "axes": '[axes]\n"problem.rank" = [1, 9]\n'}, 0, "1 of 2 kinds of cells cannot run"),
    ]
    for changes, code, words in cases:
        (tmp_path / "s.toml").write_text(text.format(**plain | changes))
        assert main(["study", "check", str(tmp_path / "s.toml"), "--no-probe", "--out", str(tmp_path)]) == code, changes
        shown = capsys.readouterr()
        assert words in (shown.err if code else shown.out), changes
