"""Laws of parameterizations: shapes, transformations, and block traces against a dense Hessian."""

import contextlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from flatmin._core import Key, Optional, Parameters, checked
from flatmin.flatness import block_traces
from flatmin.measurements import dense
from flatmin.parameterizations import AbstractParameterization, Gaussian, Small, check_params
from flatmin.problems import RecoveryProblem
from flatmin.testing._errors import law, near

SAMPLES = 5  # measurements of the problem whose Hessian is compared
ROUNDING = 1e3
"""Machine epsilons, times the number of parameters, relative to the sum of absolute values."""


@checked(params=Optional(Parameters()), key=Key())
def parameterization_laws(parameterization: AbstractParameterization, params: PyTree = None, *, key: Any) -> None:
    """What every verb relies on, checked at one point; for few parameters, since the Hessian is dense.

    The matrix has `matrix_shape` and keeps the precision of the params; compiled it is the eager one, a batch by
    `vmap` is a loop; the gradient of a recovery loss is finite and, like the trace of each factor's block (the closed
    form of `register_block_traces`, or products), that of the loss typed plainly, at a point that interpolates and at
    one that does not; the same key starts from the same bits; the pytree can be taken apart and put together.

    Args:
        parameterization: the parameterization.
        params: the point; default: drawn by `init_params` with a `Gaussian` or `Small` scheme.
        key: random key.

    Raises:
        AssertionError: naming the law.
    """
    start, draw, noise = jax.random.split(key, 3)
    if params is None:
        params = _start(parameterization, start)
    with law("params"):
        params = check_params(parameterization, params)
    shape, leaves = parameterization.matrix_shape, jax.tree.leaves(params)
    dtype = jnp.result_type(*leaves)
    eps = float(jnp.finfo(dtype).eps)
    with law("matrix"):
        X = parameterization.matrix(params)
    if X.shape != shape:
        raise AssertionError(f"shape: the matrix has shape {X.shape}, expected matrix_shape {shape}")
    if X.dtype != dtype:
        raise AssertionError(f"dtype: the matrix of {dtype} params is {X.dtype}")
    _transformed(parameterization, params, X, eps)
    tensor = jax.random.normal(draw, (SAMPLES, *shape), dtype)
    op = dense(tensor)
    for targets in (op.forward(X), jax.random.normal(noise, (SAMPLES,), dtype)):
        _curved(RecoveryProblem(op, parameterization, targets), params, tensor, eps)
    pieces, structure = jax.tree.flatten(parameterization)
    if not eqx.tree_equal(jax.tree.unflatten(structure, pieces), parameterization):
        raise AssertionError("pytree: taken apart and put together it is another parameterization")


def _start(parameterization: AbstractParameterization, key: Any) -> PyTree:
    for scheme in (Gaussian(0.5), Small(0.5)):
        with contextlib.suppress(Exception):  # a user's code, which may know other schemes only
            params = parameterization.init_params(key, scheme)
            again = parameterization.init_params(key, scheme)
            if eqx.tree_equal(params, again):
                return params
    raise AssertionError(
        "init: init_params gives nothing for Gaussian or Small, or other params for the same key; pass params"
    )


def _transformed(parameterization: AbstractParameterization, params: PyTree, X: jax.Array, eps: float) -> None:
    size = float(jnp.max(jnp.abs(X), initial=0))
    tolerance = ROUNDING * eps * size
    with law("jit"):
        near("jit: the compiled matrix", jax.jit(parameterization.matrix)(params), X, tolerance)
    halves = jax.tree.map(lambda x: x / 2, params)
    with law("vmap"):
        both = jax.vmap(parameterization.matrix)(jax.tree.map(lambda *x: jnp.stack(x), params, halves))
        near("vmap: a batch", both, np.stack([X, parameterization.matrix(halves)]), tolerance)


def _curved(problem: RecoveryProblem, params: PyTree, tensor: jax.Array, eps: float) -> None:
    """Gradient and block traces against autodiff of the loss typed plainly; knows nothing of the measurements' code."""
    flat, back = ravel_pytree(params)

    def loss(x: jax.Array) -> jax.Array:
        predictions = jnp.einsum("iab,ab->i", tensor, problem.parameterization.matrix(back(x)))
        return jnp.mean((predictions - problem.targets) ** 2)

    with law("gradient"):
        gradient = ravel_pytree(jax.jit(jax.grad(problem.loss))(params))[0]
    if not bool(jnp.all(jnp.isfinite(gradient))):
        raise AssertionError("gradient: not finite")
    with law("block traces"):
        hessian = np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64)
        blocks = jax.jit(lambda p: block_traces(problem, p))(params)
    diagonal = np.diagonal(hessian)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    expected = [part.sum() for part in np.split(diagonal, np.cumsum(sizes)[:-1])]
    near(
        "block traces: against the dense Hessian", blocks, expected, ROUNDING * eps * flat.size * np.abs(hessian).sum()
    )
