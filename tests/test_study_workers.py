"""Who computes does not matter: processes, devices, clusters; and what happens when they die."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from flatmin import JobError, UsageError
from flatmin.studies import find_store, run_study, study_spec
from flatmin.studies.store import content_hash

# little to compile, which is most of these tests' time
TRAINING = {
    "name": "descent",
    "seeds": 5,
    "problem": {"preset": "matrix_sensing", "matrix_shape": [3, 3], "rank": 1, "num_measurements": 8},
    "dynamics": {"rule": "gradient_descent"},
    "stopping": {"steps": 30},
    "measure": {"quantities": ["loss", "frobenius_norm"]},
    "axes": {"dynamics.learning_rate": [0.1, 0.3]},
    "batching": {"width": 4},
}
TESTS = pathlib.Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}


@pytest.fixture(autouse=True)
def _found_by_workers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])


def function(name, **settings):
    return {"call": f"study_cells:{name}", **settings}


def spec_of(call, count=8, seeds=2, **settings):
    axes = {"function.x": list(range(count))}
    return study_spec({"name": "w", "seeds": seeds, "function": function(call, **settings), "axes": axes})


def read(folder):
    store = find_store(pathlib.Path(folder))
    return store, store.read()


def hash_of(folder):
    store, content = read(folder)
    return content_hash(store.study, content)


@pytest.mark.parametrize("seeds", [2, pytest.param(9, marks=pytest.mark.long)])
def test_processes_give_the_same_bits(tmp_path, seeds):
    # two seeds are one block, for which one process is started; nine are five
    spec = study_spec(TRAINING | {"seeds": seeds})
    run_study(spec, tmp_path / "one")
    run_study(spec, tmp_path / "two", workers=2, batch_size=1)
    assert read(tmp_path / "two")[1].reasons == {}
    assert hash_of(tmp_path / "one") == hash_of(tmp_path / "two")


@pytest.mark.long
def test_several_devices_give_the_same_bits(tmp_path):
    """JAX sees two devices in this process; each block runs on one of them."""
    code = (
        "import sys, jax, json; from flatmin.studies import run_study, study_spec;"
        "from flatmin.studies import _batches;"
        "used = set(); original = _batches.compute_batch;"
        "_batches.compute_batch = lambda s, b: (used.add(jax.config.jax_default_device), original(s, b))[1];"
        f"run_study(study_spec({TRAINING!r}), sys.argv[1], batch_size=1);"
        "print(len(jax.devices()), len(used))"
    )
    environment = ENVIRONMENT | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", code, str(tmp_path / "devices")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "2"]
    assert read(tmp_path / "devices")[1].reasons == {}
    run_study(study_spec(TRAINING), tmp_path / "one")
    assert hash_of(tmp_path / "devices") == hash_of(tmp_path / "one")


def test_a_process_that_dies_costs_its_own_cells_only(tmp_path):
    """Nor do functions that print, or raise, confuse the pipe."""
    (tmp_path / "marks").mkdir()
    spec = spec_of("deadly", seeds=1, folder=str(tmp_path / "marks"))
    summary = run_study(spec, tmp_path / "s", workers=2, batch_size=3)
    _, content = read(tmp_path / "s")
    assert summary.failed == 2
    assert content.states.tolist() == [1, 1, 2, 1, 1, 2, 1, 1]
    died = "the process that computed it died (SIGKILL, perhaps for want of memory)"
    assert content.reasons == {2: died, 5: "RuntimeError: five"}
    assert content.values["value"][[0, 1, 3, 4]].tolist() == [0, 1, 3, 4]


def _text(path):
    """What a file of /proc says; nothing once its process is gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _is_running(pid):
    """A process that ended and was not waited for yet does not run."""
    return _text(pathlib.Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] not in ([], ["Z"], ["X"])


def test_processes_end_with_who_started_them(tmp_path):
    code = (
        "import sys; from flatmin.studies import run_study, study_spec;"
        f"run_study(study_spec({spec_of('slow', 50, seconds=0.2).model_dump(mode='json', exclude_unset=True)!r}),"
        " sys.argv[1], workers=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], env=ENVIRONMENT)
    if not pathlib.Path("/proc/self/task").exists():
        process.kill()
        pytest.skip("no /proc: the children of a process cannot be listed here")
    # both workers are there, and something is stored, whenever that is on a busy machine
    children = []
    # (a hidden name is a file that is still being written)
    while len(children) < 2 or not list((tmp_path / "s").glob("segments/[!.]*.seg")):
        assert process.poll() is None, "the study ended before it was killed"
        children = [
            child
            for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir()
            for child in _text(task / "children").split()
            if "flatmin.studies" in _text(pathlib.Path(f"/proc/{child}/cmdline"))
        ]
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(children) == 2
    # without a deadline: a worker that does not end runs into the time limit of the test
    while any(_is_running(child) for child in children):
        time.sleep(0.05)
    assert read(tmp_path / "s")[1].count(1) > 0


def test_a_function_that_cannot_be_imported(tmp_path):
    spec = study_spec({"name": "w", "function": {"call": "no_such_module:f"}})
    run_study(spec, tmp_path / "s")
    assert "no_such_module:f cannot be imported" in next(iter(read(tmp_path / "s")[1].reasons.values()))


# clusters -------------------------------------------------------------------------------------------------------------


def test_a_scheduler_that_does_not_answer(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("flatmin.studies.cluster.PATIENCE", 0.5)
    with pytest.raises(JobError, match=r"no answer from tcp://127\.0\.0\.1:9"):
        run_study(spec_of("tiny"), tmp_path / "s", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(JobError, match="no answer from nonsense"):
        run_study(spec_of("tiny"), tmp_path / "s", scheduler="nonsense")


def test_without_dask(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'flatmin\[cluster\]'"):
        run_study(spec_of("tiny"), tmp_path / "s", scheduler="local")


@pytest.mark.filterwarnings("ignore")  # of Dask's own threads and sockets while workers die
def test_a_cluster_whose_workers_die_and_join(tmp_path):
    distributed = pytest.importorskip("distributed")
    spec = spec_of("slow", 30, seconds=0.05)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50, processes=True
    ) as cluster:
        killed = []

        def disturb(progress):
            if progress.done >= 4 and not killed:
                process = next(iter(cluster.workers.values())).process.process
                killed.append(process.pid)
                os.kill(process.pid, 9)
                cluster.scale(2)

        summary = run_study(spec, tmp_path / "s", scheduler=cluster.scheduler_address, batch_size=2, progress=disturb)
    assert killed
    assert (summary.computed, summary.failed) == (60, 0)
    run_study(spec, tmp_path / "one", workers=1)
    assert hash_of(tmp_path / "s") == hash_of(tmp_path / "one")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_goes_away_keeps_what_is_finished(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("flatmin.studies.cluster.PATIENCE", 3.0)
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50)
    done = []

    def leave(progress):
        done.append(progress.done)
        if progress.done >= 6 and len(done) < 100:
            done.extend([0] * 100)
            threading.Thread(target=cluster.close, daemon=True).start()

    spec = spec_of("slow", 40, seconds=0.1)
    with pytest.raises(JobError, match="it went away; finished cells are kept"):
        run_study(spec, tmp_path / "s", scheduler=cluster.scheduler_address, batch_size=1, progress=leave)
    summary = run_study(spec, tmp_path / "s")
    assert summary.found >= 6
    assert summary.found + summary.computed == 80


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_is_nearly_as_fast_as_its_workers(tmp_path):
    """200 cells of one second on two workers: at least 85% of ideal."""
    pytest.importorskip("distributed")
    spec = spec_of("slow", 100, seconds=1.0)
    times = []

    def note(progress):
        times.append((time.monotonic(), progress.done))

    run_study(spec, tmp_path / "s", scheduler="local", workers=2, progress=note)
    seconds = times[-1][0] - times[0][0]
    assert times[-1][1] == 200
    assert 100 / seconds >= 0.85, seconds


@pytest.mark.long
def test_overhead_of_ten_thousand_cells(tmp_path):
    spec = spec_of("tiny", 100, seeds=100)
    began = time.perf_counter()
    run_study(spec, tmp_path / "s")
    assert (time.perf_counter() - began) / 10_000 < 2e-3
    assert np.isfinite(read(tmp_path / "s")[1].values["value"]).all()
