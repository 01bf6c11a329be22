import errno
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamics_cases import Product, product, same_bits
from flatmin._core import FunctionObjective, JobError, Outcome, UsageError
from flatmin.dynamics import (
    Checkpoint,
    GradientDescent,
    LabelNoiseSGD,
    Record,
    StochasticGradientDescent,
    train,
    train_ensemble,
)

RULE = LabelNoiseSGD(0.02, 3, 0.5, momentum=0.4)


def stop_at(step):
    def progress(done, steps):
        if done >= step:
            raise KeyboardInterrupt

    return progress


def records(objective):
    return {
        "loss": Record(objective.loss, every=13),
        "parts": Record(lambda p: {"u": p["u"], "big": p["v"] > 0}, at=[2, 31, 47, 80]),
    }


def same_records(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name].steps, b[name].steps)
        assert same_bits(jax.tree.map(jnp.asarray, a[name].values), jax.tree.map(jnp.asarray, b[name].values))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.ckpt"


@pytest.fixture
def saved(path, key):
    """A finished run of 20 steps."""
    objective, params = product()
    train(objective, RULE, params, steps=20, key=key, checkpoint=path)
    return path


@pytest.mark.parametrize("chunk", [32, 17])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_resume_gives_the_same_bits(dtype, chunk, path, key):
    objective, params = product(dtype=dtype)
    whole = train(objective, RULE, params, steps=100, key=key, records=records(objective))
    options = {"steps": 100, "key": key, "checkpoint": path, "records": records(objective)}
    first = train(objective, RULE, params, chunk=32, progress=stop_at(39), **options)
    assert first.outcome is Outcome.interrupted
    assert 39 <= first.step < 64
    seen = []
    second = train(objective, RULE, params, chunk=chunk, progress=lambda done, _: seen.append(done), **options)
    assert min(seen) > first.step
    assert second.outcome is Outcome.completed
    assert same_bits(second.state, whole.state)
    same_records(second.records, whole.records)
    assert second.records["parts"].values["big"].dtype == bool


def test_many_interruptions(path, key):
    objective, params = product()
    options = {"steps": 100, "key": key, "records": records(objective), "chunk": 9}
    whole = train(objective, RULE, params, **options)
    for step in (1, 2, 30, 31, 60, 99):
        train(objective, RULE, params, checkpoint=path, progress=stop_at(step), **options)
    end = train(objective, RULE, params, checkpoint=path, **options)
    assert same_bits(end.state, whole.state)
    same_records(end.records, whole.records)


def test_a_finished_run_can_go_on(path, key):
    objective, params = product()
    for steps in (50, 100):
        end = train(
            objective,
            RULE,
            params,
            steps=steps,
            key=key,
            checkpoint=path,
            records={"l": Record(objective.loss, every=20)},
        )
    whole = train(objective, RULE, params, steps=100, key=key, records={"l": Record(objective.loss, every=20)})
    assert same_bits(end.state, whole.state)
    same_records(end.records, whole.records)  # without the value at 50, which only the shorter run wanted
    again = train(
        objective,
        RULE,
        params,
        steps=100,
        key=key,
        checkpoint=path,
        records={"l": Record(objective.loss, every=20)},
    )
    assert again.outcome is Outcome.completed
    same_records(again.records, whole.records)


def test_divergence_is_remembered(path, key):
    objective, params = product()
    options = {"steps": 400, "key": key, "records": {"l": Record(objective.loss, every=1)}}
    first = train(objective, GradientDescent(0.9), params, checkpoint=path, **options)
    again = train(objective, GradientDescent(0.9), params, checkpoint=path, **options)
    assert first.outcome is again.outcome is Outcome.diverged
    assert again.divergence_step == first.divergence_step > 3
    assert same_bits(first.state, again.state)
    same_records(first.records, again.records)


def test_ensemble_resumes(path, key):
    objective, params = product()
    dynamics = LabelNoiseSGD(jnp.array([0.01, 0.9, 0.02]), 3, 0.1)
    options = {
        "steps": 60,
        "keys": jax.random.split(key, 3),
        "batched_params": False,
        "records": {"l": Record(objective.loss, every=7)},
    }
    whole = train_ensemble(objective, dynamics, params, **options)
    train_ensemble(objective, dynamics, params, checkpoint=path, progress=stop_at(28), chunk=10, **options)
    end = train_ensemble(objective, dynamics, params, checkpoint=path, **options)
    assert [o.name for o in end.outcome] == ["completed", "diverged", "completed"]
    assert end.divergence_step.tolist() == whole.divergence_step.tolist()
    assert same_bits(end.state, whole.state)
    same_records(end.records, whole.records)


def test_types_that_numpy_does_not_know(path, key):
    params = jnp.ones(3, jnp.bfloat16)
    objective = FunctionObjective(lambda w: jnp.sum(w**2))
    options = {"steps": 40, "key": key, "records": {"w": Record(lambda w: w, every=10)}}
    whole = train(objective, GradientDescent(0.01), params, **options)
    train(objective, GradientDescent(0.01), params, checkpoint=path, progress=stop_at(20), **options)
    end = train(objective, GradientDescent(0.01), params, checkpoint=path, **options)
    assert end.params.dtype == jnp.bfloat16
    assert same_bits(end.state, whole.state)
    same_records(end.records, whole.records)


def test_written_when_due(path, key):
    objective, params = product()
    changes = []

    def progress(done, steps):
        changes.append(path.exists() and path.read_bytes())

    often = Checkpoint(path, seconds=0)
    train(objective, RULE, params, steps=30, chunk=10, key=key, checkpoint=often, progress=progress)
    assert len(set(changes)) == 3
    path.unlink()
    changes.clear()
    seldom = Checkpoint(path, seconds=1000)
    train(objective, RULE, params, steps=30, chunk=10, key=key, checkpoint=seldom, progress=progress)
    assert changes == [False, False, False]
    assert path.exists()


# --- files that must be refused -------------------------------------------------------------------


def run(path, **change):
    objective, params = product()
    request = {
        "objective": objective,
        "dynamics": RULE,
        "params": params,
        "steps": 20,
        "key": jax.random.key(0),
    }
    return train(**(request | change), checkpoint=path)


def test_an_untouched_file_is_accepted(saved):
    assert run(saved).step == 20


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.1])
def test_truncated(saved, keep):
    raw = saved.read_bytes()
    saved.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(UsageError, match=r"checkpoint: .*run.ckpt is damaged \(checksum mismatch\); delete it"):
        run(saved)


def test_any_flipped_bit_is_noticed(saved):
    raw = saved.read_bytes()
    for position in range(0, len(raw), 97):
        saved.write_bytes(raw[:position] + bytes([raw[position] ^ 4]) + raw[position + 1 :])
        with pytest.raises(UsageError, match=r"checkpoint: .*(damaged|not a flatmin checkpoint)"):
            run(saved)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100)])
def test_not_a_checkpoint(path, content):
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"checkpoint: .* is not a flatmin checkpoint; choose another path"):
        run(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"dynamics": LabelNoiseSGD(0.03, 3, 0.5, momentum=0.4)}, "dynamics"),
        ({"dynamics": LabelNoiseSGD(0.02, 4, 0.5, momentum=0.4)}, "dynamics"),
        ({"dynamics": StochasticGradientDescent(0.02, 3, momentum=0.4)}, "dynamics"),
        ({"objective": Product(product()[0].A, product()[0].b + 1e-9)}, "objective"),
        ({"params": {"u": jnp.ones(4), "v": jnp.ones(4)}}, "params"),
        ({"key": jax.random.key(1)}, "key"),
    ],
)
def test_the_file_of_another_run(saved, change, part):
    before = saved.read_bytes()
    with pytest.raises(UsageError, match=rf"run.ckpt belongs to another run \({part} differ\); choose another"):
        run(saved, **change)
    assert saved.read_bytes() == before


def test_the_file_of_another_version(saved, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    with pytest.raises(UsageError, match=r"belongs to another run \(versions differ\)"):
        run(saved)


def test_requests_that_the_file_cannot_serve(saved, path, key):
    with pytest.raises(UsageError, match=r"steps: got 10, but .*run.ckpt has already done 20; ask for at least"):
        run(saved, steps=10)
    with pytest.raises(UsageError, match=r"records: got \['a'\], but .* holds \[\]; keep the names"):
        run(saved, records={"a": Record(lambda p: p["u"], every=5)})
    path.unlink()
    run(path, records={"a": Record(lambda p: p["u"], every=5)})
    with pytest.raises(UsageError, match=r"records: 'a' is wanted at step 4, but .* has passed it without; keep"):
        run(path, records={"a": Record(lambda p: p["u"], every=4)})


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda tmp: Checkpoint(tmp / "no" / "a"),
            r"checkpoint: the folder .*no does not exist; create it first",
        ),
        (Checkpoint, r"checkpoint: .* is a folder, expected a file name"),
        (lambda tmp: Checkpoint(tmp / "a", seconds=-1), r"seconds: got -1, expected a number >= 0"),
    ],
)
def test_paths_are_checked(build, text, tmp_path):
    with pytest.raises(UsageError, match=text):
        build(tmp_path)


# --- disks that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "tempfile.mkstemp"])
def test_full_disk_leaves_the_previous_checkpoint(saved, call, monkeypatch):
    before = saved.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(
            JobError,
            match=r"writing .*run.ckpt failed \(No space left on device\); the previous checkpoint is intact",
        ):
            run(saved, steps=40)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == ["run.ckpt"]
    assert same_bits(run(saved, steps=40).state, run(None, steps=40).state)


def test_a_kill_while_writing_leaves_the_previous_checkpoint(saved, monkeypatch):
    before = saved.read_bytes()

    def killed(*args):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(SystemExit):
            run(saved, steps=40)
    assert saved.read_bytes() == before


def test_a_file_that_cannot_be_read(saved, monkeypatch):
    def broken(self):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(JobError, match=r"checkpoint: reading .*run.ckpt failed \(Input/output error\)"):
        run(saved)
