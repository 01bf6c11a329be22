"""Both ends of the curvature, with their signs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from flatmin import UsageError
from flatmin.flatness import (
    Dense,
    Lanczos,
    XTrace,
    curvature_range,
)
from flatmin.parameterizations import Gaussian
from flatmin.problems import deep_linear_regression
from minimisers import at_a_minimiser


@pytest.mark.parametrize("method", [None, Dense(), Lanczos()])
def test_both_ends_with_their_signs(method):
    """At random starts the eigenvalue of largest size is often negative; it is never called the sharpness."""
    rng = np.random.default_rng(0)
    X, y = jnp.asarray(rng.normal(size=(20, 4))), jnp.asarray(3 * rng.normal(size=20))
    problem, seen = deep_linear_regression(X, y, depth=4), set()
    for seed in (0, 2, 6, 7):
        params = problem.parameterization.init_params(jax.random.key(seed), Gaussian(0.2))
        flat, unravel = ravel_pytree(params)
        values = np.linalg.eigvalsh(jax.hessian(lambda x, u=unravel: problem.loss(u(x)))(flat))
        lowest, highest = ends = curvature_range(problem, params, method)
        assert float(lowest) == pytest.approx(values[0], rel=1e-8)
        assert float(highest) == pytest.approx(values[-1], rel=1e-8)
        assert abs(float(lowest) - values[0]) <= float(lowest.error) + 1e-12
        assert ends.dominated_by_negative is bool(-values[0] > values[-1])
        assert ("the largest in size is negative" in str(ends)) is ends.dominated_by_negative
        assert f"{values[0]:.4g}"[:4] in str(ends)
        seen.add(ends.dominated_by_negative)
    assert seen == {True, False}


def test_lowest_end_of_a_minimiser_by_lanczos_is_zero():
    problem, params = at_a_minimiser(0, 3)
    lowest, highest = curvature_range(problem, params, Lanczos())
    dense = curvature_range(problem, params, Dense())
    assert float(highest) == pytest.approx(float(dense.highest), rel=1e-10)
    assert abs(float(lowest)) < 1e-7 * float(highest)


def test_a_wholly_negative_curvature(unchecked):
    lowest, highest = ends = curvature_range(lambda x: -jnp.sum(jnp.array([1.0, 2.0, 5.0]) * x**2) / 2, jnp.ones(3))
    assert (float(lowest), float(highest)) == (pytest.approx(-5), pytest.approx(-1))
    assert ends.dominated_by_negative
    with pytest.raises(UsageError, match="XTrace does not give both ends"):
        curvature_range(lambda x: jnp.sum(x**2), jnp.ones(2), XTrace())
