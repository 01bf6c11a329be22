"""Spectral density by stochastic Lanczos quadrature."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from flatmin._core import FloatType, Integer, Real, RealArray, Shown, UsageError, checked
from flatmin.linalg.programs import compiled
from flatmin.linalg.scale import applied, exponent_of, safe_norm, shifted
from flatmin.linalg.trace import calibrated

Matvec = Callable[[Float[Array, " p"]], Float[Array, " p"]]


class SpectralDensity(Shown, eqx.Module):
    """The density of eigenvalues `(1/p) sum_i delta(x - lambda_i)` as weighted nodes, one set a probe.

    Attributes:
        nodes: Ritz values, shape (probes, order).
        weights: Gauss quadrature weights, each row sums to 1, shape (probes, order).
        size: p, the number of eigenvalues.
        matvecs: number of products spent.
    """

    nodes: Float[Array, "probes order"]
    weights: Float[Array, "probes order"]
    size: int = eqx.field(static=True)
    matvecs: int = eqx.field(static=True)

    @checked(grid=RealArray("g"), width=Real(0, above=True))
    def smoothed(self, grid: Float[Array, " g"], width: float) -> tuple[Float[Array, " g"], Float[Array, " g"]]:
        """The density convolved with a Gaussian of standard deviation `width`, and its error (see `calibrated`).

        Args:
            grid: points, shape (g,).
            width: standard deviation of the kernel, in units of the eigenvalues.

        Returns:
            Mean over probes and its error, each shape (g,); the density integrates to 1.
        """
        scaled = (grid[:, None, None] - self.nodes[None]) / width
        bumps = jnp.exp(-(scaled**2) / 2) / (width * jnp.sqrt(2 * jnp.pi))
        per_probe = jnp.sum(bumps * self.weights[None], axis=2)
        return calibrated(per_probe.T)

    @checked(order=Integer(0))
    def moment(self, order: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """`(1/p) tr H^order` and its standard error over the probes; exact quadrature for order < 2 * `order` nodes."""
        per_probe = jnp.sum(self.weights * self.nodes**order, axis=1)
        return calibrated(per_probe)


@checked(dtype=FloatType(), num_probes=Integer(2))
def lanczos_density(
    matvec: Matvec, size: int, dtype: DTypeLike, *, order: int, num_probes: int, key: Key[Array, ""]
) -> SpectralDensity:
    """Stochastic Lanczos quadrature with full reorthogonalisation.

    Args:
        matvec: symmetric map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        order: Lanczos steps a probe, from 2 (1 for one parameter) to p.
        num_probes: at least 2.
        key: random key.

    Returns:
        The density; `order * num_probes` matvecs, memory p * order.

    Raises:
        UsageError: for an order or number of probes out of range.
    """
    if not min(2, size) <= order <= size:
        raise UsageError(f"order: got {order}, expected {min(2, size)} <= order <= number of parameters = {size}")
    nodes, weights = _quadrature(matvec, jax.random.split(key, num_probes), size, dtype, order)
    return SpectralDensity(nodes, weights, size, order * num_probes)


@compiled
def _quadrature(matvec: Matvec, keys: Key[Array, " probes"], size: int, dtype: DTypeLike, order: int):
    """Nodes and weights of each probe, one probe at a time."""

    def probe(probe_key):
        start = jax.random.rademacher(probe_key, (size,), dtype) / jnp.sqrt(jnp.asarray(size, dtype))
        matrix, exponent = _tridiagonalise(matvec, start, order)
        nodes, vectors = jnp.linalg.eigh(matrix)
        return shifted(nodes, exponent), vectors[0] ** 2

    return jax.lax.map(probe, keys)


def _tridiagonalise(matvec: Matvec, start: Float[Array, " p"], order: int) -> tuple[Float[Array, "order order"], Array]:
    """The Lanczos matrix of a unit vector for `2^-e` times the map, and e.

    Every vector is orthogonalised twice against all before it.

    Where the Krylov space is exhausted (the next vector is rounding) the quadrature is already exact: the rest of
    the matrix is zero, decoupled from the first vector, so its nodes have weight zero.
    """
    rounding = 10 * jnp.sqrt(jnp.asarray(start.size, start.dtype)) * jnp.finfo(start.dtype).eps

    def step(carry, j):
        basis, vector, size, exponent = carry
        basis = basis.at[j].set(vector)
        image = applied(matvec, vector)
        exponent = jnp.where(j == 0, exponent_of(image), exponent)  # maps of any size come to order one
        image = shifted(image, -exponent)
        diagonal = jnp.vdot(vector, image)
        size = jnp.maximum(size, safe_norm(image))
        for _ in range(2):
            image = image - basis.T @ (basis @ image)
        length = jnp.linalg.norm(image)
        alive = length > rounding * size
        following = jnp.where(alive, image / jnp.where(alive, length, 1), 0)
        return (basis, following, size, exponent), (diagonal, jnp.where(alive, length, 0))

    first = (jnp.zeros((order, start.size), start.dtype), start, jnp.zeros((), start.dtype), jnp.zeros((), jnp.int32))
    (_, _, _, exponent), (diagonal, beside) = jax.lax.scan(step, first, jnp.arange(order))
    return jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1), exponent
