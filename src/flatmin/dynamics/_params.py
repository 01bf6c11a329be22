"""Initial params at the door of training and flows."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from flatmin._core import Descended, Domain, Function, Mapped, Optional, UsageError, check_finite
from flatmin._core.domains import Sizes
from flatmin._core.values import described


class Start(Domain):
    """Initial params: any tree with real floating point arrays in it, see `moving`."""

    def __init__(self, *, moves: bool = True) -> None:
        self.moves = moves

    def expected(self) -> str:
        """The set in words."""
        return "a tree with real floating point arrays to move"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> PyTree:
        """The tree, its arrays those of JAX."""
        return moving(value) if self.moves else strong(value)


RECORDS = Optional(Mapped(Function()))
"""Functions of the params by name."""

FOLLOWED: dict[str, Domain] = {"objective": Descended(), "params": Start(), "records": RECORDS}
"""What is followed, from where, and what is looked at on the way."""


def moving(params: PyTree) -> PyTree:
    """Initial params as JAX arrays of a definite type, at least one of which moves.

    Args:
        params: a pytree; its real floating point arrays move.

    Returns:
        The same tree, see `strong`.

    Raises:
        UsageError: if nothing moves, or for arrays that are complex, not finite, or no numbers.
    """
    params = strong(params)
    floats = jax.tree_util.tree_leaves_with_path(eqx.filter(params, eqx.is_inexact_array))
    if not floats:
        raise UsageError("params: got no floating point array, expected at least one to move; write 1.0 for 1")
    for path, leaf in floats:
        name = f"params{jax.tree_util.keystr(path)}"
        if jnp.iscomplexobj(leaf):  # JAX's gradient is the conjugate of the direction that a complex number has to go
            raise UsageError(
                f"{name}: got {leaf.dtype}, expected real numbers; write it as two real arrays, re and im, and build "
                "re + 1j * im inside the loss"
            )
        check_finite(name, leaf)
    return params


def strong(tree: PyTree) -> PyTree:
    """Arrays of `tree` as JAX arrays of a definite type, so that the loop is traced once.

    Args:
        tree: a pytree with JAX or numpy arrays among its leaves.

    Returns:
        The same tree; other leaves unchanged.

    Raises:
        UsageError: for arrays that hold no numbers.
    """

    def definite(leaf: Any) -> Any:
        if isinstance(leaf, np.ma.MaskedArray):
            raise UsageError(f"params: got {described(leaf)}, expected arrays of real numbers; fill it first")
        if not (eqx.is_array(leaf) or isinstance(leaf, np.ndarray)):
            return leaf
        try:
            return jnp.asarray(leaf, dtype=leaf.dtype)
        except TypeError as error:  # dates, objects, text
            raise UsageError(f"params: got an array of {leaf.dtype}, expected arrays of real numbers") from error

    return jax.tree.map(definite, tree)
