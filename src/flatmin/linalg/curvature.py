"""Hessian-vector products of any scalar JAX function, on flat vectors."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from flatmin._core import UsageError


class FlatHessian(eqx.Module):
    """The Hessian of `fn` at `params` as a linear map on flat vectors; also dense, for small sizes.

    Attributes:
        fn: scalar function of a pytree of floats.
        params: the point.
    """

    fn: Callable[[PyTree], Array]
    params: PyTree

    @property
    def size(self) -> int:
        """p, the number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def dtype(self) -> jnp.dtype:
        """The floating type of the flat vectors."""
        return jnp.result_type(*jax.tree.leaves(self.params))

    @eqx.filter_jit
    def matvec(self, vector: Float[Array, " p"]) -> Float[Array, " p"]:
        """`H v` by forward over reverse; about four evaluations of `fn`."""
        flat, unravel = ravel_pytree(self.params)
        gradient = jax.grad(lambda x: self.fn(unravel(x)))
        return jax.jvp(gradient, (flat,), (vector,))[1]

    @eqx.filter_jit
    def dense(self) -> Float[Array, "p p"]:
        """The whole Hessian by autodiff, symmetrised; memory p^2."""
        flat, unravel = ravel_pytree(self.params)
        hessian = jax.hessian(lambda x: self.fn(unravel(x)))(flat)
        return (hessian + hessian.T) / 2


def flat_hessian(fn: Callable[[PyTree], Array], params: PyTree) -> FlatHessian:
    """The Hessian of a loss at a point.

    Args:
        fn: scalar JAX function of the parameters.
        params: pytree of floating point arrays.

    Returns:
        The Hessian as a matvec.

    Raises:
        UsageError: if `fn` is not scalar or the parameters are empty or not floating point.
    """
    params = jax.tree.map(jnp.asarray, params)
    leaves = jax.tree.leaves(params)
    if not leaves or any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        kinds = sorted({str(leaf.dtype) for leaf in leaves})
        raise UsageError(f"params: got leaves of type {kinds}, expected floating point arrays")
    out = jax.eval_shape(fn, params)
    if getattr(out, "shape", None) != ():
        raise UsageError(f"loss: got an output of shape {getattr(out, 'shape', type(out))}, expected a scalar")
    return FlatHessian(fn, params)
