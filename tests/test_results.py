"""What results show: the number first, in the terminal, in a notebook and inside jit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin._core import Estimate, JobError, Outcome, Result


def estimate(value, error, kind="rounding", **rest):
    return Estimate(jnp.asarray(value), jnp.asarray(error), kind, "closed form", **rest)


def numbers(text):
    return [float(t) for t in re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", text)]


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_an_estimate_prints_its_number_and_its_error(size):
    made = estimate(103.0055 * size, 2e-13 * size)
    assert numbers(str(made))[0] == pytest.approx(103.0055 * size, rel=1e-6)
    assert numbers(str(made))[-1] == pytest.approx(2e-13 * size)
    assert "closed form, rounding" in str(made)
    assert str(made) in repr(made)
    assert str(made) in made._repr_html_()


def test_digits_follow_the_error():
    assert str(estimate(100.123456, 2.0, "standard error")).startswith("100.1 +- 2 ")
    assert str(estimate(0.0, 0.0)).startswith("0 +- 0 ")
    assert str(estimate([1.0, 2.0], [0.1, 0.5], "standard error")).startswith("[1, 2] +- 0.5 at most")
    assert "1,000" not in str(estimate(np.arange(1000.0), np.ones(1000)))
    assert str(estimate(np.arange(1000.0), np.ones(1000))).startswith("1000 values from 0 to 999 +- 1 at most")


def test_no_error_is_said_to_be_none():
    text = str(estimate(3.0, jnp.nan, "none"))
    assert text == "3 (closed form, no known error)"
    assert not estimate(3.0, jnp.nan, "none").exact


def test_a_traced_estimate_says_so():
    seen = []

    @jax.jit
    def shown(x):
        made = estimate(x, 0 * x)
        seen.extend([str(made), made._repr_html_()])
        return made

    assert float(shown(jnp.asarray(2.0))) == 2
    shown(jnp.ones((3, 2)))
    assert seen[0].startswith("traced (closed form")
    assert seen[2].startswith("traced (3 x 2 values)")


def test_markup_in_a_method_is_text():
    made = Estimate(jnp.ones(()), jnp.ones(()), "rounding", "<b onload=x>")
    assert "<b onload" not in made._repr_html_()


def test_a_failed_outcome_raises_with_what_was_reached():
    made = estimate(2.0, 1.0, outcome=Outcome.max_iterations)
    assert estimate(2.0, 1.0).raise_if_failed().outcome is Outcome.completed
    assert isinstance(made, Result)
    with pytest.raises(JobError, match=r"closed form: the iteration limit.*\(2 \+- 1 "):
        made.raise_if_failed()
