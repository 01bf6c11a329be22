"""The residual form: square layers read out through a fixed matrix."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from flatmin._core import UsageError, check_finite, checked
from flatmin.parameterizations._base import AbstractParameterization, unknown_scheme
from flatmin.parameterizations.deep_matrix import DeepMatrix, Layers
from flatmin.parameterizations.params import check_params, params_shape, shapes
from flatmin.parameterizations.schemes import AbstractScheme, Gaussian, Orthogonal, Residual, Small


@checked()
class ResidualChain(AbstractParameterization):
    """`X = P W_L ... W_1` with trained square layers and a fixed readout P; one output: `p^T W_L .. W_1` [M, Sec 4].

    Attributes:
        readout: P, shape (q, d); for one output a row of unit norm.
        depth: L.
    """

    readout: Float[Array, "q d"]
    depth: int = eqx.field(static=True)

    def __check_init__(self):
        if self.depth < 1 or self.readout.ndim != 2:
            raise UsageError(
                f"readout, depth: got shape {self.readout.shape} and {self.depth}, expected (q, d) and at least 1"
            )
        check_finite("readout", self.readout)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(q, d)`."""
        return self.readout.shape[0], self.readout.shape[1]

    def matrix(self, params: PyTree) -> Float[Array, "q d"]:
        """The product, multiplied from the readout; raises `UsageError` for params of another number, shape or type."""
        params = check_params(self, params)
        product = self.readout.astype(params[0].dtype)
        for layer in params[::-1]:
            product = product @ layer
        return product

    @checked()
    def init_params(self, key: Key[Array, ""], scheme: AbstractScheme) -> Layers:
        """Square layers by `Residual`, `Gaussian`, `Small` or `Orthogonal`.

        Args:
            key: random key.
            scheme: the scheme; the paper's is `Residual(s)`.

        Returns:
            The tuple of layers.

        Raises:
            UsageError: for another scheme.
        """
        if not isinstance(scheme, Residual | Gaussian | Small | Orthogonal):
            raise unknown_scheme(self, scheme, "Residual, Gaussian, Small, Orthogonal")
        d = self.readout.shape[1]
        return DeepMatrix((d,) * (self.depth + 1)).init_params(key, scheme)


@params_shape.register
def _(parameterization: ResidualChain):
    d = parameterization.readout.shape[1]
    return shapes(*((d, d),) * parameterization.depth)


@checked()
def residual_chain(
    matrix_shape: tuple[int, int], depth: int, readout: Float[Array, "..."] | None = None
) -> ResidualChain:
    """A residual chain.

    Args:
        matrix_shape: (q, d).
        depth: L >= 1.
        readout: P, shape (q, d), or p, shape (d,), for one output; default: rows of equal entries with unit norm for
            q = 1, the first q rows of the identity else.

    Returns:
        The parameterization.

    Raises:
        UsageError: for depth < 1, or a readout of the wrong shape.
    """
    q, d = matrix_shape
    if readout is None:
        P = jnp.full((1, d), d**-0.5) if q == 1 else jnp.eye(q, d)
    else:
        P = jnp.asarray(readout, dtype=float)
        P = P[None] if P.ndim == 1 else P
    if P.shape != (q, d):
        raise UsageError(f"readout: got shape {P.shape}, expected ({q}, {d})")
    return ResidualChain(P, depth)
