"""Questions asked of any pytree."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def floating_type(tree: PyTree) -> jnp.dtype:
    """The common type of the floating point arrays of a pytree; JAX's default type if it has none."""
    kinds = [leaf.dtype for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]
    return jnp.result_type(*kinds) if kinds else jnp.zeros(()).dtype
