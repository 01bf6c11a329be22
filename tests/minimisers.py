"""Points with zero gradient, for tests of what happens around them."""

import jax
import jax.numpy as jnp
import numpy as np

from flatmin.measurements import gaussian
from flatmin.parameterizations import Gaussian, deep_matrix
from flatmin.problems import RecoveryProblem, deep_linear_regression


def at_a_minimiser(seed, depth, n=12, d=4):
    """Regression whose least-squares minimiser, with a residual, is a random unbalanced point."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.geomspace(1, 2, d)
    parameterization = deep_matrix((1, d), depth)
    params = tuple(jnp.asarray(rng.normal(size=s) / np.sqrt(d) + np.eye(*s)) for s in parameterization.layer_shapes)
    noise = rng.normal(size=n)
    noise = noise - X @ np.linalg.lstsq(X, noise, rcond=None)[0]
    y = X @ np.asarray(parameterization.matrix(params))[0] + noise
    return deep_linear_regression(jnp.asarray(X), jnp.asarray(y), depth=depth), params


def interpolating(seed, n=8, shape=(3, 3)):
    """Two factors that interpolate Gaussian measurements exactly."""
    measurements = gaussian(jax.random.key(seed), n, shape)
    parameterization = deep_matrix(shape, 2)
    params = parameterization.init_params(jax.random.key(1000 + seed), Gaussian(0.8))
    problem = RecoveryProblem(measurements, parameterization, jnp.zeros(n))
    return RecoveryProblem(measurements, parameterization, problem.predict(params)), params
