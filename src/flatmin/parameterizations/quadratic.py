"""One-hidden-layer networks with quadratic activation."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from flatmin._core import UsageError, check_shape, checked
from flatmin.parameterizations._base import AbstractParameterization, unknown_scheme
from flatmin.parameterizations.params import check_params, params_shape, shapes
from flatmin.parameterizations.schemes import AbstractScheme, Balanced, Gaussian, Small

Units = tuple[Float[Array, "d k1"], Float[Array, "d k2"]]


@checked()
class Quadratic(AbstractParameterization):
    """`M = U_1 U_1^T - U_2 U_2^T`; params are `(U_1, U_2)` of shapes (d, k1), (d, k2) [D, Sec 3].

    Seen through `x x^T` it is the network `sum_{j<=k1} (u_j^T x)^2 - sum_{j>k1} (u_j^T x)^2`.

    Attributes:
        dimension: d.
        positive: k1 >= 0, number of units with weight +1.
        negative: k2 >= 0, number of units with weight -1.
    """

    dimension: int = eqx.field(static=True)
    positive: int = eqx.field(static=True)
    negative: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        if self.dimension < 1 or self.positive < 0 or self.negative < 0 or self.positive + self.negative < 1:
            raise UsageError(
                f"dimension, positive, negative: got {self.dimension}, {self.positive}, {self.negative}; expected a "
                "dimension of at least 1 and at least one unit"
            )

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d, d)`."""
        return self.dimension, self.dimension

    def matrix(self, params: PyTree) -> Float[Array, "d d"]:
        """`U_1 U_1^T - U_2 U_2^T`; raises `UsageError` for params of another number, shape or type."""
        plus, minus = check_params(self, params)
        return plus @ plus.T - minus @ minus.T

    @checked()
    def init_params(self, key: Key[Array, ""], scheme: AbstractScheme) -> Units:
        """Units by `Gaussian`, `Small` (fan-in normalised) or `Balanced` (from the eigenvalues of a symmetric matrix).

        Args:
            key: random key.
            scheme: the scheme.

        Returns:
            The pair `(U_1, U_2)`.

        Raises:
            UsageError: for an unknown scheme, a matrix that is not symmetric, or one with more positive (negative)
                eigenvalues than there are units of that sign.
        """
        d, k1, k2 = self.dimension, self.positive, self.negative
        first, second = jax.random.split(key)
        match scheme:
            case Gaussian() | Small():
                scale = scheme.scale / (d**0.5 if isinstance(scheme, Small) else 1)
                return scale * jax.random.normal(first, (d, k1)), scale * jax.random.normal(second, (d, k2))
            case Balanced():
                return self._from_eigenvalues(scheme.matrix)
            case _:
                raise unknown_scheme(self, scheme, "Gaussian, Small, Balanced")

    def _from_eigenvalues(self, matrix: Float[Array, "d d"]) -> Units:
        check_shape("matrix", matrix, self.matrix_shape)
        scale = jnp.max(jnp.abs(matrix))
        if not bool(jnp.max(jnp.abs(matrix - matrix.T)) <= 1e-6 * scale):
            raise UsageError("matrix: got a matrix that is not symmetric; pass (M + M.T) / 2")
        values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
        tolerance = self.dimension * jnp.finfo(matrix.dtype).eps * scale
        for sign, units, name in ((1, self.positive, "positive"), (-1, self.negative, "negative")):
            needed = int(jnp.sum(sign * values > tolerance))
            if needed > units:
                raise UsageError(
                    f"matrix: has {needed} {name} eigenvalues but {name} = {units} unit(s); raise {name} to {needed}"
                )

        def units_of(sign: int, count: int) -> Array:
            order = jnp.argsort(-sign * values)[:count]
            columns = vectors[:, order] * jnp.sqrt(jnp.maximum(sign * values[order], 0))[None, :]
            return jnp.pad(columns, ((0, 0), (0, count - columns.shape[1])))

        return units_of(1, self.positive), units_of(-1, self.negative)


@params_shape.register
def _(parameterization: Quadratic):
    d = parameterization.dimension
    return shapes((d, parameterization.positive), (d, parameterization.negative))
