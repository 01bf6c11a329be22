"""Hessian-vector products of any scalar JAX function, on flat vectors, and what their rounding is."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from flatmin._core import Data, Free, JobError, Optional, Parameters, SequenceOf, UsageError, checked, is_traced
from flatmin._core.values import UNREADABLE, kind_of
from flatmin.linalg.programs import compiled
from flatmin.linalg.scale import safe_norm

_NO_BATCH = ()


@checked(batch=SequenceOf(Data()))
class FlatHessian(eqx.Module):
    """The Hessian of `fn` at `params` as a linear map on flat vectors; also dense, for small sizes.

    Attributes:
        fn: scalar function of a pytree of floats, and of the batch if there is one.
        params: the point.
        batch: `()`, or `(batch,)`.
    """

    fn: Callable[..., Array]
    params: PyTree
    batch: tuple[PyTree, ...] = _NO_BATCH

    @property
    def size(self) -> int:
        """p, the number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def dtype(self) -> jnp.dtype:
        """The floating type of the flat vectors."""
        return jnp.result_type(*jax.tree.leaves(self.params))

    def value(self) -> Float[Array, ""]:
        """The loss at the point."""
        return _value(self.fn, self.params, self.batch)

    def matvec(self, vector: Float[Array, " p"]) -> Float[Array, " p"]:
        """`H v` by forward over reverse; about four evaluations of `fn`."""
        return _product(self.fn, self.params, self.batch, vector)

    def dense(self) -> Float[Array, "p p"]:
        """The whole Hessian by autodiff, symmetrised; memory p^2."""
        return _dense(self.fn, self.params, self.batch)

    def twin(self) -> "FlatHessian | None":
        """The same Hessian rounded otherwise: their difference measures the rounding of both, inside `fn` too.

        Single precision is repeated in double precision; double precision at parameters that differ in their last
        bit, so that every sum and difference inside of `fn` rounds anew.

        Returns:
            The twin, whose vectors are float64; None where single precision cannot be repeated: `fn` does not accept
            float64, or it is traced while JAX is limited to 32 bits.
        """
        leaves = jax.tree.leaves(self.params)
        if all(leaf.dtype == jnp.float64 for leaf in leaves):
            return FlatHessian(self.fn, jax.tree.map(_last_bit, self.params), self.batch)
        if is_traced(*leaves, *jax.tree.leaves(self.batch)) and not jax.config.read("jax_enable_x64"):
            return None
        with jax.enable_x64(True):
            wide = FlatHessian(*(jax.tree.map(_widened, tree) for tree in (self.fn, self.params, self.batch)))
            try:
                out = jax.eval_shape(wide.fn, wide.params, *wide.batch)
                jax.eval_shape(jax.grad(wide.fn), wide.params, *wide.batch)
            except (TypeError, ValueError):
                return None
        return wide if out.dtype == jnp.float64 else None

    def twin_difference(self, vector: Float[Array, " p"]) -> Float[Array, ""]:
        """`2 ||H' v - H v||` with the twin H', the measured rounding of a product; NaN where there is no twin."""
        twin = self.twin()
        if twin is None:
            return jnp.full((), jnp.nan, vector.dtype)
        with jax.enable_x64(True):
            there = twin.matvec(vector.astype(jnp.float64))
            found = 2 * safe_norm(there - self.matvec(vector).astype(jnp.float64))
        return found.astype(vector.dtype)

    def rounding(self) -> Float[Array, ""]:
        """An estimate of twice `||H' - H||_F`, from one random sign vector, the same at every call; NaN if unknown."""
        signs = jax.random.rademacher(jax.random.key(0), (self.size,), self.dtype)
        return self.twin_difference(signs)


def _last_bit(leaf: Array) -> Array:
    signs = 1 - 2 * (jnp.arange(leaf.size) * 0.6180339887498949 % 1 > 0.5).reshape(leaf.shape)
    return leaf * (1 + signs * float(jnp.finfo(leaf.dtype).eps))


def _widened(leaf: Any) -> Any:
    floating = isinstance(leaf, jax.Array | np.ndarray) and leaf.dtype == np.float32
    return leaf.astype(np.float64) if floating else leaf


@compiled
def _value(fn: Callable[..., Array], params: PyTree, batch: tuple[PyTree, ...]) -> Array:
    return fn(params, *batch)


@compiled
def _product(fn: Callable[..., Array], params: PyTree, batch: tuple[PyTree, ...], vector: Array) -> Array:
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda x: fn(unravel(x), *batch))
    return jax.jvp(gradient, (flat,), (vector,))[1]


@compiled
def _dense(fn: Callable[..., Array], params: PyTree, batch: tuple[PyTree, ...]) -> Array:
    flat, unravel = ravel_pytree(params)
    hessian = jax.hessian(lambda x: fn(unravel(x), *batch))(flat)
    return (hessian + hessian.T) / 2


def check_point(params: PyTree) -> PyTree:
    """The parameters as a tree of float32 or float64 arrays.

    Args:
        params: what was given; Python numbers become arrays.

    Returns:
        The tree.

    Raises:
        UsageError: for an empty tree, or leaves that are complex, integers, text or of half precision.
    """
    try:
        leaves = jax.tree.leaves(params)
    except UNREADABLE as error:
        raise Parameters().refuse("params", params) from error
    for leaf in leaves:
        whole = isinstance(leaf, np.ndarray | np.generic | jax.Array) and kind_of(leaf.dtype) in "ib"
        if whole or isinstance(leaf, bool | int):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise UsageError(f"params: got leaves of type {kind}, expected floating point arrays; write 1.0 for 1")
    params = Parameters().accept("params", params, {})
    leaves = jax.tree.leaves(params)
    if not sum(leaf.size for leaf in leaves):
        raise UsageError("params: got arrays without entries, expected at least one parameter; pass the point")
    for leaf in leaves:
        if leaf.dtype not in (jnp.float32, jnp.float64):
            raise UsageError(
                f"params: got {leaf.dtype} numbers, expected float32 or float64; second derivatives of a half "
                "precision loss are rounding, so convert the parameters with .astype(jnp.float32)"
            )
    return params


@checked(batch=Optional(Data()), params=Free("`check_point` looks at them"))
def flat_hessian(fn: Callable[..., Array], params: PyTree, batch: PyTree = None) -> FlatHessian:
    """The Hessian of a loss at a point.

    Args:
        fn: scalar JAX function of the parameters, `fn(params)`, or `fn(params, batch)`.
        params: pytree of floating point arrays.
        batch: the second argument of `fn`, a pytree of arrays; None for a function of the parameters alone. Another
            batch of the same shapes costs no compilation.

    Returns:
        The Hessian as a matvec.

    Raises:
        UsageError: if `fn` is no function or not a real scalar, or for parameters that `check_point` refuses.
    """
    params = check_point(params)
    given = _NO_BATCH if batch is None else (batch,)
    try:
        out = jax.eval_shape(fn, params, *given)
    except (UsageError, JobError):
        raise
    except Exception as error:  # a user's code
        what = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UsageError(
            f"loss: JAX cannot evaluate it at these params ({type(error).__name__}: {what}); write a function of the "
            "parameters (and the batch, if one is given) with jax.numpy"
        ) from error
    if getattr(out, "shape", None) != ():
        raise UsageError(f"loss: got an output of shape {getattr(out, 'shape', type(out))}, expected a scalar")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise UsageError(f"loss: got an output of type {out.dtype}, expected a real scalar; take its real part inside")
    return FlatHessian(fn, params, given)
