"""The user's own linear function."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import UsageError, checked
from flatmin.measurements._base import AbstractMeasurements, check_matrix, check_weights
from flatmin.measurements._generic import default_dtype


@checked()
class FunctionMeasurements(AbstractMeasurements):
    """`A(X) = fn(X)` for a linear JAX function; the adjoint is its transpose.

    Attributes:
        fn: linear map from (d1, d2) arrays to (m,) arrays.
        shape: (d1, d2).
        count: m.
    """

    fn: Callable[[Array], Array]
    shape: tuple[int, int] = eqx.field(static=True)
    count: int = eqx.field(static=True)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.shape

    @property
    def num_measurements(self) -> int:
        """`m`."""
        return self.count

    def forward(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, " m"]:
        """`fn(X)`."""
        matrix = check_matrix(self, matrix)
        return self.fn(matrix)

    def adjoint(self, weights: Float[Array, " m"]) -> Float[Array, "d1 d2"]:
        """`fn^T(y)`, at about the cost of `fn`."""
        weights = check_weights(self, weights)
        example = jax.ShapeDtypeStruct(self.shape, weights.dtype)
        return jax.linear_transpose(self.fn, example)(weights)[0]


@checked()
def from_function(fn: Callable[[Array], Array], matrix_shape: tuple[int, int]) -> FunctionMeasurements:
    """Measurements by a linear function that JAX can trace.

    Args:
        fn: linear map from (d1, d2) arrays to (m,) arrays. Linearity is probed on random matrices.
        matrix_shape: (d1, d2).

    Returns:
        The measurements.

    Raises:
        UsageError: if the output is not one vector, m = 0, the function is not linear, or JAX cannot transpose it.
    """
    shape = matrix_shape
    try:
        out = jax.eval_shape(fn, jax.ShapeDtypeStruct(shape, default_dtype()))
    except Exception as error:  # a user's code
        raise UsageError(
            f"fn: JAX cannot evaluate it on a matrix of shape {shape} ({type(error).__name__}: "
            f"{(str(error).splitlines() or ['no reason given'])[0]}); write a linear function of one matrix"
        ) from error
    if not isinstance(out, jax.ShapeDtypeStruct) or len(out.shape) != 1 or out.shape[0] == 0:
        got = getattr(out, "shape", type(out).__name__)
        raise UsageError(f"fn: got output {got}, expected one non-empty vector of shape (m,)")
    X, Y = jax.random.normal(jax.random.key(0), (2, *shape), default_dtype())
    together, apart = fn(2 * X + Y), 2 * fn(X) + fn(Y)  # coefficients that do not sum to 1: sees an offset too
    scale = jnp.max(jnp.abs(apart)) + jnp.max(jnp.abs(together))
    if not bool(jnp.max(jnp.abs(together - apart)) <= 1e-3 * scale):
        raise UsageError("fn: fn(2X + Y) differs from 2 fn(X) + fn(Y); measurements must be linear, without offset")
    measurements = FunctionMeasurements(fn, shape, out.shape[0])
    try:  # linear in value is not enough: JAX transposes operation by operation
        jax.eval_shape(measurements.adjoint, out)
    except Exception as error:
        raise UsageError(
            f"fn: JAX cannot transpose it ({type(error).__name__}), so it has no adjoint; keep each step linear in X"
        ) from error
    return measurements
