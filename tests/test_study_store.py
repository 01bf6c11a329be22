"""The store of a study: nothing finished is lost, nothing damaged is believed, whatever happens."""

import contextlib
import errno
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flatmin import JobError, UsageError
from flatmin.studies import find_store, run_study, study_spec
from flatmin.studies._segments import DONE, FAILED, MISSING, Segment
from flatmin.studies._translation import translate
from flatmin.studies.store import content_hash
from flatmin.studies.study import plan

TESTS = pathlib.Path(__file__).parent


def spec_of(**changes):
    raw = {
        "name": "grid",
        "seeds": 4,
        "function": {"call": "study_cells:tiny"},
        "axes": {"function.x": [0.0, 0.5, 1.0], "function.y": [1, 2]},
    }
    return study_spec(raw | changes)


def counted(folder, **changes):
    folder.mkdir(exist_ok=True)
    function = {"call": "study_cells:counted", "folder": str(folder)}
    return study_spec({"name": "c", "seeds": 3, "function": function, "axes": {"function.x": [1, 2, 3, 4]}} | changes)


def read(folder):
    store = find_store(folder)
    return store, store.read()


def hash_of(folder):
    store, content = read(folder)
    return content_hash(store.study, content)


def segments(folder):
    return sorted((folder / "segments").glob("*.seg"))


# resuming -------------------------------------------------------------------------------------------------------------


def test_an_interrupted_study_goes_on_and_computes_nothing_twice(tmp_path):
    spec = counted(tmp_path / "calls")

    def stop(progress):
        if progress.done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(spec, tmp_path / "s", batch_size=1, progress=stop)
    assert len(list((tmp_path / "calls").iterdir())) == 5
    summary = run_study(spec, tmp_path / "s")
    assert (summary.found, summary.computed) == (5, 7)
    assert len(list((tmp_path / "calls").iterdir())) == 12
    run_study(counted(tmp_path / "calls"), tmp_path / "whole")
    assert hash_of(tmp_path / "s") == hash_of(tmp_path / "whole")


def test_the_hash_sees_every_change(tmp_path):
    run_study(spec_of(), tmp_path / "s")
    store, content = read(tmp_path / "s")
    before = content_hash(store.study, content)
    for change in ("state", "value"):
        store, content = read(tmp_path / "s")
        if change == "state":
            content.states[3] = MISSING
        else:
            content.values["value"][3] = np.nextafter(content.values["value"][3], 10)
        assert content_hash(store.study, content) != before


def test_processes_share_a_study(tmp_path):
    """Two processes at once on one folder: both end well, and the cells are those of one."""
    raw = counted(tmp_path / "calls", seeds=30).model_dump(mode="json", by_alias=True, exclude_unset=True)
    code = (
        "import sys; from flatmin.studies import run_study, study_spec;"
        f"run_study(study_spec({raw!r}), sys.argv[1], batch_size=1)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], env=environment) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    run_study(counted(tmp_path / "calls", seeds=30), tmp_path / "alone")
    assert hash_of(tmp_path / "s") == hash_of(tmp_path / "alone")
    assert not list((tmp_path / "s" / "running").iterdir())


def test_what_another_process_has_finished_is_not_computed_again(tmp_path):
    spec = counted(tmp_path / "calls")
    whole = counted(tmp_path / "other")
    run_study(whole, tmp_path / "source", batch_size=1)
    assert whole.id != spec.id  # the folder is a setting
    run_study(spec, tmp_path / "ready", batch_size=1)
    for path in (tmp_path / "calls").iterdir():
        path.unlink()

    def copy(progress):
        if progress.done == 1:
            for path in segments(tmp_path / "ready"):
                shutil.copy(path, tmp_path / "s" / "segments")

    run_study(spec, tmp_path / "s", batch_size=1, progress=copy)
    # the first, and the second, which was found finished after it had begun
    assert len(list((tmp_path / "calls").iterdir())) <= 2


# kills ----------------------------------------------------------------------------------------------------------------


def kill(folder, kills, seed):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    command = [sys.executable, str(TESTS / "study_killer.py"), str(folder), str(kills), str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=590, check=False)
    assert done.returncode == 0, done.stderr
    hit, _, last, *digests = done.stdout.split()
    return int(hit), int(last), digests


def reference(tmp_path):
    from study_killer import SPEC

    run_study(study_spec(SPEC), tmp_path / "reference")
    return hash_of(tmp_path / "reference")


def test_kills(tmp_path):
    hit, last, digests = kill(tmp_path / "s", 8, 0)
    assert hit == 8
    assert last > 0
    assert digests == [reference(tmp_path)]


@pytest.mark.long
def test_many_kills(tmp_path):
    """200 random moments of 500-cell studies that were not finished then, from their first cells to their last."""
    hit, last, digests = kill(tmp_path / "s", 200, 0)
    assert hit == 200
    assert last > 400
    assert digests == [reference(tmp_path)]


def test_what_a_kill_leaves_is_not_read(tmp_path):
    """A file that was being written: hidden, cut off, and of nobody who lives."""
    run_study(spec_of(), tmp_path / "s", shard=(1, 2), batch_size=1)
    whole = segments(tmp_path / "s")[0]
    from flatmin.storage.folders import host_name

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = whole.with_name(f".{host_name()}-{process.pid}-abc123-{whole.name}")
    left.write_bytes(whole.read_bytes()[:100])
    content = read(tmp_path / "s")[1]
    assert not content.damaged
    assert content.count(DONE) == 12
    assert run_study(spec_of(), tmp_path / "s").damaged == 0
    assert not left.exists()


# disks ----------------------------------------------------------------------------------------------------------------


def fails_after(monkeypatch, name, count, code):
    """Let a function of `os` refuse from its `count`-th call on."""
    original, calls = getattr(os, name), []

    def refuse(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) > count:
            raise OSError(code, os.strerror(code))
        return original(*arguments, **keywords)

    monkeypatch.setattr(os, name, refuse)


@pytest.mark.parametrize("calls", range(0, 30, 3))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_or_broken_disk_loses_nothing(tmp_path, monkeypatch, calls, code):
    expected = None
    with monkeypatch.context() as patch:
        fails_after(patch, "fsync", calls, code)
        with pytest.raises(JobError, match=os.strerror(code)) as caught:
            run_study(spec_of(), tmp_path / "s", batch_size=1)
    assert "\n" not in str(caught.value)
    if (tmp_path / "s" / "study.json").is_file():
        _, content = read(tmp_path / "s")
        assert not content.damaged
        expected = content.count(DONE)
        # each segment takes two: itself and its folder; the folder's own files come first
        assert expected >= (calls - 4) // 2
    summary = run_study(spec_of(), tmp_path / "s")
    assert summary.found == (expected or 0)
    assert summary.found + summary.computed == 24
    assert not list((tmp_path / "s" / "segments").glob(".*"))


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="cannot write to"):
        run_study(spec_of(), tmp_path / "file" / "s")
    run_study(spec_of(seeds=2), tmp_path / "s")

    def refuse(*_arguments, **_keywords):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_text", refuse)
        with pytest.raises(JobError, match="Read-only file system"):
            run_study(spec_of(seeds=2), tmp_path / "s")


NOBODY = 65534
READ_ONLY = """
import os, pathlib, sys
from flatmin import JobError
from flatmin.studies import find_store, run_study, study_spec
import study_cells
home, spec = pathlib.Path(sys.argv[1]), study_spec(%r)
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(%d); os.setuid(%d)
for name in ("half", "new/s"):
    try:
        run_study(spec, home / name)
    except JobError as error:
        print(error)
print(find_store(home / "half").read().count(1))
"""


@pytest.mark.skipif(os.name == "nt", reason="users and modes of POSIX")
def test_a_real_folder_that_is_read_only(tmp_path):
    """Root may write everywhere: a process of a user who may not runs the study, and looks at it."""
    run_study(spec_of(), tmp_path / "half", shard=(1, 2))
    (tmp_path / "new").mkdir(mode=0o755)
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    above = [folder for folder in tmp_path.parents if folder.stat().st_uid == os.geteuid() and folder != folder.parent]
    modes = {folder: folder.stat().st_mode for folder in above}
    for folder in above:
        folder.chmod(modes[folder] | 0o011)
    code = READ_ONLY % (spec_of().model_dump(mode="json", by_alias=True, exclude_unset=True), NOBODY, NOBODY)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    try:
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    first, second, count = done.stdout.splitlines()
    for line in (first, second):
        assert "cannot write to" in line
        assert "Permission denied" in line
    assert count == "12"
    assert run_study(spec_of(), tmp_path / "half").found == 12


@pytest.mark.parametrize("seed", range(6))
def test_damaged_segments_are_seen_set_aside_and_computed_again(tmp_path, seed):
    run_study(spec_of(), tmp_path / "whole")
    run_study(spec_of(), tmp_path / "s", batch_size=2)
    rng = random.Random(seed)
    victims = rng.sample(segments(tmp_path / "s"), 4)
    for how, path in enumerate(victims):
        data = bytearray(path.read_bytes())
        if how % 2:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(bytes(data))
        else:
            path.write_bytes(bytes(data[: rng.randrange(len(data))]))
    _, content = read(tmp_path / "s")
    assert sorted(content.damaged) == sorted(path.name for path in victims)
    assert content.count(MISSING) == 8
    summary = run_study(spec_of(), tmp_path / "s")
    assert (summary.damaged, summary.computed) == (4, 8)
    assert hash_of(tmp_path / "s") == hash_of(tmp_path / "whole")
    assert len(list((tmp_path / "s" / "segments").glob("*.damaged"))) == 4
    assert not read(tmp_path / "s")[1].damaged


# folders that do not fit ----------------------------------------------------------------------------------------------


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="is not empty and holds no study"):
        run_study(spec_of(), tmp_path / "s")
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="holds no study"):
        find_store(tmp_path / "s")
    with pytest.raises(UsageError, match="does not exist"):
        find_store(tmp_path / "t")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 1}', '{"format": 9, "spec": {}}', '{"format": 1, "spec": {"name": 3}}']
)
def test_a_damaged_description_is_named(tmp_path, content):
    run_study(spec_of(), tmp_path / "s")
    (tmp_path / "s" / "study.json").write_text(content)
    with pytest.raises(JobError, match=r"study\.json"):
        find_store(tmp_path / "s")


def test_an_extended_spec_keeps_what_is_finished(tmp_path):
    spec = counted(tmp_path / "calls")
    run_study(spec, tmp_path / "s")
    longer = counted(tmp_path / "calls", seeds=5, axes={"function.x": [0, 1, 2, 3, 4]})
    summary = run_study(longer, tmp_path / "s")
    assert (summary.found, summary.computed) == (12, 13)
    run_study(longer, tmp_path / "fresh")
    assert hash_of(tmp_path / "s") == hash_of(tmp_path / "fresh")
    # and back: the cells of the first are all there
    assert run_study(spec, tmp_path / "s", accept_changes=True).computed == 0


def test_an_edited_spec_says_which_cells_are_still_valid(tmp_path):
    run_study(spec_of(), tmp_path / "s")
    edited = spec_of(axes={"function.x": [0.0, 0.25, 0.5], "function.y": [2, 1]})
    with pytest.raises(UsageError, match="16 of 24 finished cells are still valid, 8 would not be used") as caught:
        run_study(edited, tmp_path / "s")
    assert "--accept-changes" in str(caught.value)
    summary = run_study(edited, tmp_path / "s", accept_changes=True)
    assert (summary.found, summary.computed) == (16, 8)
    run_study(edited, tmp_path / "fresh")
    assert hash_of(tmp_path / "s") == hash_of(tmp_path / "fresh")
    other = spec_of(function={"call": "study_cells:slow", "seconds": 0.0}, axes={"function.x": [0.0, 0.5]})
    with pytest.raises(UsageError, match="0 of 24 finished cells"):
        run_study(other, tmp_path / "s")


def test_another_version_is_refused(tmp_path, monkeypatch):
    run_study(spec_of(seeds=2), tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr("flatmin.__version__", "9.9.9")
        with pytest.raises(UsageError, match=r"computed by flatmin .*, this is 9\.9\.9"):
            run_study(spec_of(), tmp_path / "s")
        assert run_study(spec_of(), tmp_path / "s", accept_changes=True).found == 12


def test_a_folder_in_use_with_another_spec_is_locked(tmp_path):
    run_study(spec_of(), tmp_path / "s")
    store = find_store(tmp_path / "s")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    from flatmin.storage.folders import host_name

    mark = {"host": host_name(), "pid": process.pid, "study": store.study.id}
    (tmp_path / "s" / "running" / "other.json").write_text(json.dumps(mark))
    try:
        with pytest.raises(JobError, match=f"in use by process {process.pid}"):
            run_study(spec_of(seeds=9), tmp_path / "s")
        assert run_study(spec_of(), tmp_path / "s").computed == 0  # the same spec may be run by several
    finally:
        process.communicate(b"\n")
    run_study(spec_of(seeds=9), tmp_path / "s")
    assert not list((tmp_path / "s" / "running").iterdir())


def test_a_study_that_is_too_large_is_refused_at_once(tmp_path):
    axes = {"function.x": {"from": 0, "to": 1, "count": 10**4}, "function.y": {"from": 1, "to": 100, "step": 1}}
    with pytest.raises(UsageError, match=r"1,000,000,000,000 cells take [\d,.]+ GB, and .* free"):
        run_study(spec_of(seeds=10**6, axes=axes), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"workers": 0}, "workers: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"shard": (3, 2)}, "shard: got 3/2"),
        ({"shard": (0, 2)}, "shard: got 0/2"),
    ],
)
def test_wrong_arguments(tmp_path, keywords, sentence):
    with pytest.raises(UsageError, match=sentence):
        run_study(spec_of(), tmp_path / "s", **keywords)
    assert not (tmp_path / "s").exists()


# anything in any order ------------------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Runs, interruptions, full disks and damage in any order; a dictionary says which cells must be there."""

    @initialize()
    def start(self):
        self.home = pathlib.Path(tempfile.mkdtemp())
        self.folder = self.home / "s"
        self.good = {}  # segment -> cells that it holds

    def teardown(self):
        if not hasattr(self, "home"):
            return
        run_study(spec_of(), self.folder)
        run_study(spec_of(), self.home / "whole")
        assert hash_of(self.folder) == hash_of(self.home / "whole")
        shutil.rmtree(self.home)

    def learn(self):
        if (self.folder / "study.json").is_file():
            from flatmin.studies._segments import decode

            for path in segments(self.folder):
                if path.name not in self.good:
                    self.good[path.name] = set(decode(path.read_bytes()).cells.tolist())

    @rule(size=st.integers(1, 5), part=st.integers(1, 3), parts=st.just(3))
    def run_share(self, size, part, parts):
        run_study(spec_of(), self.folder, shard=(part, parts), batch_size=size)
        self.forget_damaged()
        self.learn()

    @rule(size=st.integers(1, 5), after=st.integers(0, 8))
    def interrupted(self, size, after):
        calls = []

        def stop(_progress):
            calls.append(1)
            if len(calls) > after:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            run_study(spec_of(), self.folder, batch_size=size, progress=stop)
        self.forget_damaged()
        self.learn()

    @rule(size=st.integers(1, 3), after=st.integers(0, 12))
    def full_disk(self, size, after):
        with pytest.MonkeyPatch.context() as patch:
            fails_after(patch, "fsync", after, errno.ENOSPC)
            with contextlib.suppress(JobError):
                run_study(spec_of(), self.folder, batch_size=size)
        self.forget_damaged()
        self.learn()

    @precondition(lambda self: getattr(self, "good", {}))
    @rule(which=st.integers(0, 1000), share=st.integers(0, 999), cut=st.booleans(), bit=st.integers(0, 7))
    def damage(self, which, share, cut, bit):
        # names and lengths of files differ from run to run
        name = sorted(self.good, key=lambda n: sorted(self.good[n]))[which % len(self.good)]
        path = self.folder / "segments" / name
        content = bytearray(path.read_bytes())
        where = len(content) * share // 1000
        if cut:
            path.write_bytes(bytes(content[:where]))
        else:
            content[where] ^= 1 << bit
            path.write_bytes(bytes(content))
        del self.good[name]

    def forget_damaged(self):
        """A run sets them aside."""
        if (self.folder / "study.json").is_file():
            for name in read(self.folder)[1].damaged:
                (self.folder / "segments" / name).unlink()

    @invariant()
    def finished_cells_are_there_and_right(self):
        if not (getattr(self, "folder", None) and (self.folder / "study.json").is_file()):
            return
        store, content = read(self.folder)
        expected = set().union(*self.good.values()) if self.good else set()
        assert set(np.flatnonzero(content.states == DONE).tolist()) == expected
        assert content.count(FAILED) == 0
        for cell in expected:
            values = store.study.values(cell)
            assert content.values["value"][cell] == 2 * values["function.x"] + values["function.y"] + values["seed"]


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=12,
    stateful_step_count=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.long
class TestMachineLong(Machine.TestCase):
    """The same, ten thousand steps."""

    settings = settings(
        max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"name": "other"}, True),
        ({"precision": "float32"}, False),
        ({"function": {"call": "study_cells:tiny", "z": 2.0}}, False),
        ({"function": {"call": "study_cells:slow"}}, False),
    ],
)
def test_a_cell_of_an_edited_spec_is_the_same_only_where_all_settings_are(changes, same):
    source, target = plan(spec_of()), plan(spec_of(**changes))
    for cell in range(source.grid.size):
        assert translate(source, target, cell) == (cell if same else -1)


def test_what_is_finished_stays_finished(tmp_path):
    """A later segment that says that a finished cell failed, or another value, changes nothing."""
    run_study(spec_of(), tmp_path / "s")
    store, content = read(tmp_path / "s")
    before, values = content.states.copy(), content.values["value"].copy()
    content.states[0], content.reasons[0] = FAILED, "no memory"
    late = {"value": np.array([9.0, np.nan, 7.0])}
    segment = Segment(store.study.id, np.array([0, 3, 5]), np.array([DONE, FAILED, DONE], np.uint8), late, {3: "late"})
    store.merge(content, segment, segment.cells, np.ones(3, bool))
    np.testing.assert_array_equal(content.states, before)  # the failed one was computed again, the others stay
    assert content.reasons == {}
    values[0] = 9.0
    np.testing.assert_array_equal(content.values["value"], values)
