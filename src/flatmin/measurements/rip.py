"""The restricted isometry constant, estimated from below: certifying it is NP-hard."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flatmin._core import check_at_least
from flatmin.measurements._base import AbstractMeasurements
from flatmin.measurements._generic import left_vector, right_vector


class RipEstimate(NamedTuple):
    """A lower estimate of the (1, delta)-RIP constant `delta = sup |(1/n) sum <A_i, X>^2 - 1|`.

    Attributes:
        delta: the largest deviation found; the true constant is at least this.
        largest: the largest `(1/n) sum <A_i, X>^2` found over unit rank-one X.
        smallest: the smallest found.
        agreement: fraction of restarts whose result lies within 1% of the best, of both searches.
        restarts: number of starts of each search.
    """

    delta: Float[Array, ""]
    largest: Float[Array, ""]
    smallest: Float[Array, ""]
    agreement: Float[Array, ""]
    restarts: int


@eqx.filter_jit
def _search(
    op: AbstractMeasurements, starts: Float[Array, "restarts d2"], sign: int, sweeps: int
) -> Float[Array, " restarts"]:
    """Alternating eigenproblems from many starts; `sign` +1 looks for the largest energy, -1 for the smallest."""
    n = op.num_measurements
    pick = -1 if sign > 0 else 0

    def one(v):
        def sweep(_, state):
            v, _ = state
            # (1/n) sum <A_i, u v^T>^2 = u^T [(1/n) sum A_i v v^T A_i^T] u, and the same for v
            rows = right_vector(op, v)
            u = jnp.linalg.eigh(rows.T @ rows / n)[1][:, pick]
            cols = left_vector(op, u)
            values, vectors = jnp.linalg.eigh(cols.T @ cols / n)
            return vectors[:, pick], values[pick]

        return jax.lax.fori_loop(0, sweeps, sweep, (v, jnp.zeros((), v.dtype)))[1]

    return jax.lax.map(one, starts)


def rip_lower_estimate(
    op: AbstractMeasurements, key: Key[Array, ""], *, restarts: int = 16, sweeps: int = 20
) -> RipEstimate:
    """Estimate the (1, delta)-RIP constant of [G, Def. 3] from below, by alternating eigenproblems.

    Args:
        op: the measurements, normalised so that `(1/n) sum <A_i, X>^2` is near `||X||_F^2`.
        key: random key of the starts.
        restarts: number of random starts for each end.
        sweeps: alternations a start; each reads the measurements twice and solves two small eigenproblems.

    Returns:
        The estimate; call it an estimate, never "the" constant.

    Raises:
        UsageError: for fewer than one restart or sweep.
    """
    check_at_least("restarts", restarts, 1)
    check_at_least("sweeps", sweeps, 1)
    starts = jax.random.normal(key, (restarts, op.matrix_shape[1]))
    starts = starts / jnp.linalg.norm(starts, axis=1, keepdims=True)
    high, low = _search(op, starts, 1, sweeps), _search(op, starts, -1, sweeps)
    largest, smallest = jnp.max(high), jnp.min(low)
    near = jnp.concatenate([high >= 0.99 * largest, low <= smallest + 0.01 * jnp.abs(1 - smallest)])
    delta = jnp.maximum(largest - 1, 1 - smallest)
    return RipEstimate(delta, largest, smallest, jnp.mean(near), restarts)
