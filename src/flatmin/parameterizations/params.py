"""Whether params belong to a parameterization: the one check of every verb that takes them.

Broadcasting, dot products and transposes would turn the params of another model into a number; so structure, shapes and
types are compared with what the parameterization declares, before anything is computed. All of it is static: it costs
nothing in a compiled function and works under jit, vmap and grad.
"""

import contextlib
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from flatmin._core import Free, UsageError, check_finite, checked
from flatmin.parameterizations._base import AbstractParameterization
from flatmin.parameterizations.schemes import Gaussian, Small

_ADVICE = "pass params as init_params returns them"


@checked()
@functools.singledispatch
def params_shape(parameterization: AbstractParameterization) -> PyTree[jax.ShapeDtypeStruct] | None:
    """The structure of the params and the shape of each leaf.

    A kind of your own may register what it knows, `@params_shape.register`; the default looks at what `init_params`
    returns for a `Gaussian` or `Small` scheme, without computing it (`jax.eval_shape`).

    Args:
        parameterization: the parameterization.

    Returns:
        A pytree of `jax.ShapeDtypeStruct` (only the shapes count); None where `init_params` knows neither scheme, and
        nothing is declared.

    Raises:
        UsageError: for something that is no parameterization.
    """
    if not isinstance(parameterization, AbstractParameterization):
        raise UsageError(
            f"parameterization: got {type(parameterization).__name__}, expected a parameterization such as "
            "deep_matrix((d1, d2), depth)"
        )
    for scheme in (Gaussian(1.0), Small(1.0)):
        draw = functools.partial(_draw, parameterization, scheme)
        with contextlib.suppress(Exception):  # a user's code, which may know other schemes only
            return jax.eval_shape(draw)
    return None


def _draw(parameterization: AbstractParameterization, scheme: Any) -> PyTree:
    return parameterization.init_params(jax.random.key(0), scheme)


def shapes(*sizes: tuple[int, ...]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """A tuple of leaves of these shapes, for `params_shape`."""
    return tuple(jax.ShapeDtypeStruct(size, jnp.result_type(float)) for size in sizes)


@checked(params=Free("the body looks at them"))
def check_params(parameterization: AbstractParameterization, params: PyTree, *, finite: bool = False) -> PyTree:
    """Return `params` if they belong to the parameterization: number of factors, structure, shapes, real type.

    Static, so that it works under jit, vmap and grad, at no cost once compiled. Lists stand for tuples, NumPy arrays
    become JAX arrays; integers, booleans, complex numbers and text are refused.

    Args:
        parameterization: what declares them, see `params_shape`.
        params: what was given.
        finite: also refuse NaN and infinities, where the values can be seen (not under jit).

    Returns:
        The params, with JAX arrays as leaves and the declared containers.

    Raises:
        UsageError: naming the factor, its shape or type, and what was expected.
    """
    expected = params_shape(parameterization)
    if expected is None:
        fitted = jax.tree.map(lambda leaf: _leaf("params", leaf, None), params)
        _check_matrix(parameterization, fitted)
    else:
        fitted = _fit("params", params, expected)
    if finite:
        for path, leaf in jax.tree_util.tree_flatten_with_path(fitted)[0]:
            check_finite("params" + jax.tree_util.keystr(path), leaf)
    return fitted


@checked(params=Free("the body looks at them"))
def check_factors(params: PyTree) -> tuple[Float[Array, "_ _"], ...]:
    """Return the factors `(W_1, ..., W_L)` of some product `W_L ... W_1`, checked to fit each other.

    Args:
        params: the factors.

    Returns:
        The factors as a tuple of JAX arrays.

    Raises:
        UsageError: unless they are one or more real matrices, each with as many columns as the one before has rows.
    """
    if not isinstance(params, tuple | list) or not params:
        raise UsageError(f"params: got {_words(params)}, expected a tuple of factors (W_1, ..., W_L)")
    factors = tuple(_leaf(f"params[{i}]", W, ("d_out", "d_in")) for i, W in enumerate(params))
    for i, (lower, upper) in enumerate(itertools.pairwise(factors)):
        if upper.shape[1] != lower.shape[0]:
            raise UsageError(
                f"params[{i + 1}]: got shape {upper.shape} after a factor of shape {lower.shape}, expected "
                f"{lower.shape[0]} columns; give the factors as (W_1, ..., W_L), first applied first"
            )
    return factors


def _fit(name: str, got: Any, expected: Any) -> Any:
    """`got` with the containers of `expected`, every leaf checked."""
    if isinstance(expected, jax.ShapeDtypeStruct):
        return _leaf(name, got, expected.shape)
    if type(expected) in (tuple, list):
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            count = f"{len(expected)} {'factor' if len(expected) == 1 else 'factors'}"
            raise UsageError(f"{name}: got {_words(got)}, expected {count} of shapes {_shapes(expected)}; {_ADVICE}")
        return type(expected)(_fit(f"{name}[{i}]", g, e) for i, (g, e) in enumerate(zip(got, expected, strict=True)))
    if type(expected) is dict:
        if not isinstance(got, dict) or set(got) != set(expected):
            raise UsageError(f"{name}: got {_words(got)}, expected a dictionary of {sorted(expected)}; {_ADVICE}")
        return {key: _fit(f"{name}[{key!r}]", got[key], value) for key, value in expected.items()}
    wanted = jax.tree.structure(expected)
    if jax.tree.structure(got) != wanted:
        raise UsageError(f"{name}: got {_words(got)}, expected the structure {wanted}; {_ADVICE}")
    paths = [name + jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(expected)[0]]
    leaves = [
        _leaf(path, g, e.shape)
        for path, g, e in zip(paths, jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    ]
    return jax.tree.unflatten(wanted, leaves)


def _leaf(name: str, got: Any, shape: tuple[int | str, ...] | None) -> Array:
    """An array of real floating numbers of this shape (None: of any; strings are free axes)."""
    if not isinstance(got, jax.Array | np.ndarray | np.generic | float) or np.ma.isMaskedArray(got):
        wanted = "an array of real numbers" if shape is None else f"an array of shape {_shape(shape)}"
        raise UsageError(f"{name}: got {_words(got)}, expected {wanted}; {_ADVICE}")
    dtype = jnp.result_type(float) if isinstance(got, float) and not isinstance(got, np.generic) else got.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UsageError(f"{name}: got {dtype}, expected real floating point numbers; convert with .astype(float)")
    size = np.shape(got)
    fits = shape is None or (
        len(size) == len(shape) and all(isinstance(e, str) or e == s for s, e in zip(size, shape, strict=True))
    )
    if not fits:
        raise UsageError(f"{name}: got shape {_shape(size)}, expected {_shape(shape or ())}; {_ADVICE}")
    return jnp.asarray(got)


def _check_matrix(parameterization: AbstractParameterization, params: PyTree) -> None:
    """What can be said where nothing is declared: the matrix comes out in its shape."""
    try:
        came = jax.eval_shape(parameterization.matrix, params).shape
    except Exception as error:  # a user's code
        raise UsageError(
            f"params: {type(parameterization).__name__}.matrix cannot read them "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}); {_ADVICE}"
        ) from error
    if came != parameterization.matrix_shape:
        raise UsageError(
            f"params: give a matrix of shape {came}, expected matrix_shape {parameterization.matrix_shape}; {_ADVICE}"
        )


def _words(got: Any) -> str:
    if isinstance(got, tuple | list):
        return f"{len(got)} {'factor' if len(got) == 1 else 'factors'}"
    if isinstance(got, jax.Array | np.ndarray):
        return f"one array of shape {_shape(got.shape)}"
    return f"a {type(got).__name__}"


def _shape(size: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(map(str, size)) + ("," if len(size) == 1 else "") + ")"


def _shapes(expected: Any) -> str:
    return ", ".join(_shape(leaf.shape) for leaf in jax.tree.leaves(expected)) or "none"
