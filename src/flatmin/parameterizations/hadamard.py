"""Entrywise products of several matrices (diagonal linear networks)."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from flatmin._core import UsageError, check_shape, checked
from flatmin.parameterizations._base import AbstractParameterization, unknown_scheme
from flatmin.parameterizations.params import check_params, params_shape, shapes
from flatmin.parameterizations.schemes import AbstractScheme, Balanced, Gaussian, Small

Factors = tuple[Float[Array, "d1 d2"], ...]


@checked()
class Hadamard(AbstractParameterization):
    """`X = v_1 o v_2 o ... o v_k`, entrywise; params are the tuple `(v_1, ..., v_k)` [D, Sec 5].

    A vector model `x = v_1 o ... o v_k` is `shape = (d, 1)` with measurements `a_i` as (d, 1) matrices.

    Attributes:
        shape: (d1, d2), the shape of X and of every factor.
        depth: k >= 1.
    """

    shape: tuple[int, int] = eqx.field(static=True)
    depth: int = eqx.field(static=True)

    def __check_init__(self):
        if self.depth < 1 or min(self.shape) < 1:
            raise UsageError(f"depth, shape: got {self.depth} and {self.shape}, expected values of at least 1")

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.shape

    def matrix(self, params: PyTree) -> Float[Array, "d1 d2"]:
        """The entrywise product; raises `UsageError` for params of another number, shape or type."""
        params = check_params(self, params)
        return functools.reduce(jnp.multiply, params)

    @checked()
    def init_params(self, key: Key[Array, ""], scheme: AbstractScheme) -> Factors:
        """Factors by `Gaussian`, `Small` (here the same as Gaussian) or `Balanced`.

        `Balanced` gives `|v_l| = |X|^{1/k}` with the sign in the first factor, the flattest choice.

        Args:
            key: random key.
            scheme: the scheme.

        Returns:
            The tuple of factors.

        Raises:
            UsageError: for an unknown scheme, or a matrix of the wrong shape.
        """
        match scheme:
            case Gaussian() | Small():
                return tuple(scheme.scale * jax.random.normal(k, self.shape) for k in jax.random.split(key, self.depth))
            case Balanced():
                check_shape("matrix", scheme.matrix, self.shape)
                size = jnp.abs(scheme.matrix) ** (1 / self.depth)
                return (jnp.sign(scheme.matrix) * size, *[size] * (self.depth - 1))
            case _:
                raise unknown_scheme(self, scheme, "Gaussian, Small, Balanced")


@params_shape.register
def _(parameterization: Hadamard):
    return shapes(*(parameterization.shape,) * parameterization.depth)
