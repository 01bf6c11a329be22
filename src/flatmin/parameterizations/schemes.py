"""Initialisation schemes: values that say how parameters start. Each parameterization reads those it knows."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from flatmin._core import Real, UsageError, check_finite, check_positive, checked


class AbstractScheme(eqx.Module):
    """How parameters start."""


def _number(value: ScalarLike) -> Float[Array, ""]:
    return jnp.asarray(value, dtype=jnp.result_type(float))


@checked(scale=Real(0, above=True))
class Gaussian(AbstractScheme):
    """Independent entries `N(0, scale^2)`; [G, Sec 7] has scale `d^{-1/2}`, [M, Sec 5] scale s.

    Attributes:
        scale: the standard deviation.
    """

    scale: Float[Array, ""] = eqx.field(converter=_number)

    def __check_init__(self):
        check_positive("scale", self.scale)


@checked(scale=Real(0, above=True))
class Small(AbstractScheme):
    """`scale` times the fan-in normalised Gaussian `N(0, 1/d_in)`: each factor has spectral norm of order `scale`.

    Attributes:
        scale: the overall size of each factor.
    """

    scale: Float[Array, ""] = eqx.field(converter=_number, default=1e-2)

    def __check_init__(self):
        check_positive("scale", self.scale)


@checked(gain=Real(0, above=True))
class Orthogonal(AbstractScheme):
    """Factors with orthonormal rows or columns (Haar), times `gain`.

    Attributes:
        gain: the common singular value.
    """

    gain: Float[Array, ""] = eqx.field(converter=_number, default=1.0)

    def __check_init__(self):
        check_positive("gain", self.gain)


@checked(scale=Real(0))
class Residual(AbstractScheme):
    """`W_l = I + (scale / sqrt(L d)) N_l`, d the fan-in [M, Sec 4]; rectangular layers take the rectangular identity.

    Attributes:
        scale: s; 0 gives the identity.
    """

    scale: Float[Array, ""] = eqx.field(converter=_number, default=0.25)


def _checked_matrix(matrix: Float[Array, "d1 d2"]) -> Float[Array, "d1 d2"]:
    matrix = jnp.asarray(matrix, dtype=jnp.result_type(jnp.asarray(matrix), jnp.float32))
    if matrix.ndim != 2:
        raise UsageError(f"matrix: got shape {matrix.shape}, expected a matrix (d1, d2)")
    check_finite("matrix", matrix)
    return matrix


@checked()
class Balanced(AbstractScheme):
    """The balanced factors of a given matrix: equal singular values `s_j^{1/L}` in every factor.

    Attributes:
        matrix: the matrix that the factors multiply to.
    """

    matrix: Float[Array, "d1 d2"] = eqx.field(converter=_checked_matrix)


@checked()
class Flattest(AbstractScheme):
    """The factors of a given matrix with the smallest population Hessian trace [G, Lemma 4].

    They attain `F(M) = 2 L (d_0 d_L)^{1/L} ||M||_*^{2(L-1)/L}` when `(1/n) sum <A_i, X>^2 = ||X||_F^2`.

    Attributes:
        matrix: the matrix that the factors multiply to.
    """

    matrix: Float[Array, "d1 d2"] = eqx.field(converter=_checked_matrix)
