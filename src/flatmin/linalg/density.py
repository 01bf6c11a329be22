"""Spectral density by stochastic Lanczos quadrature."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from matfree import decomp

from flatmin._core import UsageError

Matvec = Callable[[Float[Array, " p"]], Float[Array, " p"]]


class SpectralDensity(eqx.Module):
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

    def smoothed(self, grid: Float[Array, " g"], width: float) -> tuple[Float[Array, " g"], Float[Array, " g"]]:
        """The density convolved with a Gaussian of standard deviation `width`, and its standard error.

        Args:
            grid: points, shape (g,).
            width: standard deviation of the kernel, in units of the eigenvalues.

        Returns:
            Mean over probes and its standard error, each shape (g,); the density integrates to 1.
        """
        scaled = (grid[:, None, None] - self.nodes[None]) / width
        bumps = jnp.exp(-(scaled**2) / 2) / (width * jnp.sqrt(2 * jnp.pi))
        per_probe = jnp.sum(bumps * self.weights[None], axis=2)
        return per_probe.mean(1), per_probe.std(1, ddof=1) / jnp.sqrt(per_probe.shape[1])

    def moment(self, order: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """`(1/p) tr H^order` and its standard error over the probes; exact quadrature for order < 2 * `order` nodes."""
        per_probe = jnp.sum(self.weights * self.nodes**order, axis=1)
        return per_probe.mean(), per_probe.std(ddof=1) / jnp.sqrt(per_probe.shape[0])


def lanczos_density(
    matvec: Matvec, size: int, dtype: jnp.dtype, *, order: int, num_probes: int, key: Key[Array, ""]
) -> SpectralDensity:
    """Stochastic Lanczos quadrature with full reorthogonalisation.

    Args:
        matvec: symmetric map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        order: Lanczos steps a probe, from 2 to p.
        num_probes: at least 2.
        key: random key.

    Returns:
        The density; `order * num_probes` matvecs, memory p * order.

    Raises:
        UsageError: for an order or number of probes out of range.
    """
    if not 2 <= order <= size:
        raise UsageError(f"order: got {order}, expected 2 <= order <= number of parameters = {size}")
    if num_probes < 2:
        raise UsageError(f"num_probes: got {num_probes}, expected at least 2, or there is no standard error")
    tridiagonalise = decomp.tridiag_sym(order, materialize=True, reortho="full")

    def probe(probe_key):
        start = jax.random.rademacher(probe_key, (size,), dtype) / jnp.sqrt(jnp.asarray(size, dtype))
        _, tridiagonal, *_ = tridiagonalise(matvec, start)
        nodes, vectors = jnp.linalg.eigh(tridiagonal)
        return nodes, vectors[0] ** 2

    nodes, weights = jax.jit(lambda keys: jax.lax.map(probe, keys))(jax.random.split(key, num_probes))
    return SpectralDensity(nodes, weights, size, order * num_probes)
