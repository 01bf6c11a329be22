"""The identity of functions and data: what computes the same is the same, what does not is not."""

import dataclasses
import functools
import io
import subprocess
import sys
import textwrap
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flatmin import UsageError
from flatmin._core import FunctionObjective
from flatmin._core.identity import identity
from flatmin.dynamics import Checkpoint, GradientDescent, Record, train
from flatmin.problems import matrix_sensing


def of(thing):
    return identity(thing, "thing")


def closure(a):
    return lambda p: a * jnp.sum((p - a) ** 2)


def defaults(a):
    def loss(p, *, weight=a):
        return weight * jnp.sum(p)

    return loss


class Held:
    def __init__(self, a):
        self.a = a

    def loss(self, p):
        return self.a * jnp.sum(p**2)

    def __call__(self, p):
        return self.loss(p)


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


@dataclasses.dataclass
class Data:
    a: object


class Module(eqx.Module):
    a: object
    kind: str = eqx.field(static=True, default="x")

    def __call__(self, p):
        return self.a * p


def nested(a):
    def outer(p):
        def inner(q):
            return q * a

        return inner(p)

    return outer


def through_a_list(a):
    held = [np.full(2, a)]
    return lambda p: jnp.sum(p * held[0])


MAKERS = {
    "closure": closure,
    "default": defaults,
    "nested": nested,
    "array in a list": through_a_list,
    "partial": lambda a: functools.partial(closure(1.0), p=a),
    "partial of positions": lambda a: functools.partial(jnp.add, a),
    "bound method": lambda a: Held(a).loss,
    "callable object": Held,
    "slots": Slotted,
    "dataclass": Data,
    "module": Module,
    "module's method": lambda a: Module(a).__call__,
    "static field": lambda a: Module(1.0, kind=str(a)),
    "jit": lambda a: jax.jit(closure(a)),
    "filter_jit": lambda a: eqx.filter_jit(closure(a)),
    "grad": lambda a: jax.grad(closure(a)),
    "optax": optax.adam,
    "optax schedule": lambda a: optax.sgd(optax.exponential_decay(a, 10, 0.5)),
    "problem": lambda a: matrix_sensing(jax.random.key(int(a)), (3, 3), rank=1, num_measurements=4, depth=2).problem,
    "loss of a problem": lambda a: (
        matrix_sensing(jax.random.key(int(a)), (3, 3), rank=1, num_measurements=4, depth=2).problem.loss
    ),
    "array": lambda a: np.full(2, a),
    "jax array": lambda a: jnp.full(2, a),
    "key": lambda a: jax.random.key(int(a)),
    "set": lambda a: {a, "b", (1, 2)},
    "dict": lambda a: {"x": [a, None]},
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_and_not_the_same(name):
    make = MAKERS[name]
    assert of(make(1.0)) == of(make(1.0))
    assert of(make(1.0)) != of(make(2.0))


def test_code_and_not_names_decides():
    first, second = lambda p: jnp.sum(p**2), lambda q: jnp.sum(q**3)
    again = lambda p: jnp.sum(p**2)  # noqa: E731
    assert of(first) == of(again)
    assert of(first) != of(second)
    assert len({of(v) for v in (1, 1.0, True, "1", b"1", (1,), [1], np.float32(1), np.float64(1))}) == 9
    assert of(np.zeros((2, 3))) != of(np.zeros((3, 2)))
    assert of(0.0) != of(-0.0)


WEIGHT = 1.0


def uses_a_global(p):
    return WEIGHT * p


def test_globals_count(monkeypatch):
    before = of(uses_a_global)
    monkeypatch.setitem(globals(), "WEIGHT", 2.0)
    assert of(uses_a_global) != before


def test_methods_of_the_class_count():
    def loss(self, p):
        return 3 * jnp.sum(p)

    other = type("Held", (Held,), {"loss": loss, "__module__": Held.__module__, "__qualname__": Held.__qualname__})
    assert of(other(1.0)) != of(Held(1.0))


def test_circles_end():
    first, second = Held(1.0), Held(2.0)
    first.a, second.a = second, first
    assert of(first) == of(first)


@pytest.mark.parametrize(
    "thing",
    [(i for i in ()), threading.Lock(), io.StringIO("a"), iter([1]), object(), np.random.default_rng(0)],
    ids=lambda thing: type(thing).__name__,
)
def test_what_has_no_identity_is_refused(thing):
    with pytest.raises(UsageError, match=r"^thing: got a .* inside, which has no identity: .*; pass arrays"):
        of(lambda p: (p, thing))


def test_the_same_in_another_process():
    code = textwrap.dedent(
        """
        import jax, jax.numpy as jnp
        from flatmin._core.identity import identity
        def make(a):
            return lambda p: a * jnp.sum(jax.nn.relu(p - a) ** 2) in {1, "x", None}
        print(identity({"loss": make(2.0), "set": {"a", "b", "c"}}, "x"))
        """
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=None, timeout=120
        ).stdout
        for _ in range(2)
    ]
    assert len(runs[0].strip()) == 64
    assert runs[0] == runs[1]


# --- checkpoints ---------------------------------------------------------------------------------------


def run(loss, path, steps, **options):
    rule, key = GradientDescent(0.01), jax.random.key(0)
    return train(FunctionObjective(loss), rule, jnp.ones(2), steps=steps, key=key, checkpoint=path, **options)


@pytest.mark.parametrize("name", ["closure", "default", "array in a list", "callable object", "bound method", "jit"])
def test_a_checkpoint_belongs_to_its_function(name, tmp_path):
    make = MAKERS[name]
    path = tmp_path / "run"
    run(make(1.0), path, 5)
    straight = run(make(1.0), tmp_path / "other", 10)
    np.testing.assert_array_equal(run(make(1.0), path, 10).params, straight.params)
    with pytest.raises(UsageError, match=r"checkpoint: .* belongs to another run \(objective differ\)"):
        run(make(2.0), path, 10)


def test_a_checkpoint_belongs_to_its_records(tmp_path):
    path, loss = tmp_path / "run", closure(1.0)
    run(loss, path, 4, records={"x": Record(lambda p: p[0], every=2)})
    with pytest.raises(UsageError, match=r"belongs to another run \(records\['x'\] differ\)"):
        run(loss, path, 8, records={"x": Record(lambda p: p[1], every=2)})


def test_a_checkpoint_refuses_what_it_cannot_tell_apart(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match=r"^checkpoint: objective: got a Generator inside"):
        run(lambda p: jnp.sum(p) + rng.normal(), Checkpoint(tmp_path / "run"), 3)
    assert not list(tmp_path.iterdir())
