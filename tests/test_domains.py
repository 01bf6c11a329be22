"""Domains of arguments: what each accepts, and the sentence for the rest."""

import datetime as dt
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pydantic
import pytest
from jaxtyping import Array, ArrayLike, Float, Key

from flatmin import UsageError
from flatmin._core import Foreign, Integer, Parameters, Real, RealArray, checked, domains_of
from flatmin._core.checks import as_real, check_at_least, check_positive

IDENTITY = np.eye(3)


@checked(weight=RealArray("d d", semidefinite=True))
def answer(
    depth: int,
    delta: ArrayLike,
    weight: ArrayLike,
    right: Float[Array, "d k"] | None = None,
    *,
    key: Key[Array, ""] | None = None,
    matrix_shape: tuple[int, int] = (4, 3),
):
    """Its arguments."""
    return depth, delta, weight, right, matrix_shape


@checked()
class Built(eqx.Module):
    depth: int = eqx.field(static=True)
    matrix: Float[Array, "d1 d2"]


@checked()
class WithConstructor(eqx.Module):
    matrix: Array

    def __init__(self, matrix: Float[Array, "d1 d2"]) -> None:
        self.matrix = matrix


class Same(WithConstructor):
    """A subclass with its parent's constructor."""


WRONG = {
    "depth: got 2.5, expected an integer >= 1": lambda: answer(2.5, 0.5, IDENTITY),
    "depth: got True": lambda: answer(True, 0.5, IDENTITY),
    "depth: got an integer of 133 bits": lambda: answer(10**40, 0.5, IDENTITY),
    "delta: got 1.0, expected a finite number >= 0 and < 1": lambda: answer(2, 1.0, IDENTITY),
    "delta: got 1j": lambda: answer(2, 1j, IDENTITY),
    "delta: got a value of type date": lambda: answer(2, dt.date(2024, 1, 1), IDENTITY),
    "delta: got 3 seconds .timedelta64": lambda: answer(2, np.timedelta64(3, "s"), IDENTITY),
    "weight: got a matrix that differs from its transpose by 1,": lambda: answer(2, 0.5, np.triu(np.ones((3, 3)))),
    "weight: got an eigenvalue -1,": lambda: answer(2, 0.5, -IDENTITY),
    "weight: got shape .2, 3., expected .d, 2.": lambda: answer(2, 0.5, np.ones((2, 3))),
    "weight: got a value of type generator": lambda: answer(2, 0.5, (x for x in IDENTITY)),
    "weight: got a list of 2, which is no array": lambda: answer(2, 0.5, [[1.0], [1.0, 2.0]]),
    "weight: got a masked array": lambda: answer(2, 0.5, np.ma.masked_equal(IDENTITY, 0)),
    "weight: got a list of 1": lambda: answer(2, 0.5, [np.ma.masked_equal([1.0], 0)]),
    "right: got shape .4, 1., expected .3, k., as `weight` has d = 3": lambda: answer(
        2, 0.5, IDENTITY, np.ones((4, 1))
    ),
    "right: got 1 value.s. that are NaN or infinite, the first at index .1, 0.": lambda: answer(
        2, 0.5, IDENTITY, [[0.0], [np.nan], [1.0]]
    ),
    "key: got 0, expected a random key": lambda: answer(2, 0.5, IDENTITY, key=0),
    "matrix_shape: got '43', expected a tuple": lambda: answer(2, 0.5, IDENTITY, matrix_shape="43"),
    "matrix_shape: got 0": lambda: answer(2, 0.5, IDENTITY, matrix_shape=(4, 0)),
    "depth: got 0": lambda: Built(0, IDENTITY),
    "matrix: got 'abc'": lambda: Same("abc"),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_value_meets_one_sentence(sentence, unchecked):
    with pytest.raises(UsageError, match=sentence):
        WRONG[sentence]()


def test_values_come_in_the_library_s_form(unchecked):
    depth, delta, weight, right, shape = answer(
        np.int64(2), np.float32(0.5), IDENTITY.astype(">f4"), [[1], [2], [3]], matrix_shape=np.array([5, 6])
    )
    assert (depth, delta, shape) == (2, 0.5, (5, 6))
    assert type(depth) is int
    assert weight.dtype == jnp.float32
    np.testing.assert_array_equal(weight, IDENTITY)
    np.testing.assert_array_equal(right, [[1.0], [2.0], [3.0]])
    assert Built(2, [[1, 2]]).matrix.shape == (1, 2)


def test_of_traced_values_type_and_shape_are_checked(unchecked):
    assert jax.jit(lambda d, w: answer(2, d, w)[2])(7.0, -jnp.eye(2)).shape == (2, 2)
    with pytest.raises(UsageError, match="weight: got shape"):
        jax.jit(lambda w: answer(2, 0.5, w)[2])(jnp.ones((2, 3)))
    with pytest.raises(UsageError, match="depth: got a traced value"):
        jax.jit(lambda d: answer(d, 0.5, jnp.eye(2))[2])(2)
    with pytest.raises(UsageError, match="weight: got a traced value of complex128"):
        jax.jit(lambda w: answer(2, 0.5, w)[2])(jnp.ones((2, 2), complex))


def test_signature_and_documentation_stay():
    assert list(inspect.signature(answer).parameters) == ["depth", "delta", "weight", "right", "key", "matrix_shape"]
    assert answer.__doc__ == "Its arguments."
    assert domains_of(answer)["depth"].expected() == "an integer >= 1"
    with pytest.raises(TypeError, match="missing"):
        answer(2)


def test_an_argument_without_domain_does_not_import():
    with pytest.raises(TypeError, match="declare a domain for the argument 'unheard_of'"):
        checked()(lambda unheard_of: None)
    with pytest.raises(TypeError, match="has no arguments"):
        checked(other=Real())(lambda: None)


def test_parameters_become_arrays():
    accepted = Parameters().accept("params", {"w": 2.0, "b": [np.ones(2, np.float32)]}, {})
    assert accepted["w"].dtype == jnp.float64
    assert accepted["b"][0].dtype == jnp.float32
    for wrong in (
        None,
        {},
        {"w": "relu"},
        {"w": jnp.ones(2, complex)},
        [object()],
        {"w": np.ma.masked_equal([1.0], 1)},
    ):
        with pytest.raises(UsageError, match="params: got"):
            Parameters().accept("params", wrong, {})


def test_the_checks_do_not_assume_what_they_check():
    for wrong in (None, "abc", b"1", dt.date(2024, 1, 1), {}, object(), 1j, {1}, np.nan, 10**400, [1, None]):
        with pytest.raises(UsageError, match="n: got"):
            check_at_least("n", wrong, 1)
        with pytest.raises(UsageError, match="n: got"):
            check_positive("n", -1 if wrong == 10**400 else wrong)
    with pytest.raises(UsageError, match="n: got a masked array"):
        as_real("n", np.ma.masked_equal([1.0], 1))
    assert Integer().accept("n", jnp.asarray(3), {}) == 3


def test_models_say_their_mistakes_in_a_sentence(unchecked):
    from flatmin._core.models import Model

    class Fit(Model):
        model_config = pydantic.ConfigDict(extra="forbid")

        seed: int = pydantic.Field(0, ge=0)
        ends: tuple[float, float] | None = None
        name: str = ""

    assert Fit(seed=np.int64(3), ends=[1, 2]).model_dump() == {"seed": 3, "ends": (1.0, 2.0), "name": ""}
    assert Fit.model_validate({"seed": "3"}).seed == 3  # what is read from a file is pydantic's
    for wrong, sentence in (
        ({"seed": True}, "seed: got True, expected an integer"),
        ({"seed": -1}, "seed: got -1, expected an integer >= 0"),
        ({"ends": (1.0, "2")}, "ends: got '2'"),
        ({"name": b"x"}, "name: got b'x', expected a text"),
        ({"sead": 1}, "sead: 'sead' is not known; did you mean 'seed'"),
    ):
        with pytest.raises(UsageError, match=sentence):
            Fit(**wrong)


def test_objects_of_other_packages_are_known_by_name():
    domain = Foreign("pandas.DataFrame")
    frame = pd.DataFrame({"a": [1.0]})
    assert domain.accept("table", frame, {}) is frame
    with pytest.raises(UsageError, match=r"table: got a value of type Series, expected a pandas\.DataFrame"):
        domain.accept("table", frame["a"], {})
