"""Sparse vectors as entrywise products: depth need not help."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, ScalarLike

from flatmin._core import UsageError, check_at_least, checked
from flatmin.measurements import gaussian
from flatmin.parameterizations import Hadamard
from flatmin.problems.planted import PlantedProblem, planted


@checked()
def sparse_recovery(
    key: Key[Array, ""],
    dimension: int,
    sparsity: int,
    num_measurements: int,
    *,
    depth: int = 2,
    noise: ScalarLike = 0.0,
    held_out: int = 0,
) -> PlantedProblem:
    """A sparse vector of unit norm from Gaussian measurements, as k Hadamard factors [D, Sec 5].

    Args:
        key: random key.
        dimension: d; the vector is a (d, 1) matrix.
        sparsity: number of non-zero entries, from 1 to d; they are N(0, 1) before scaling.
        num_measurements: m.
        depth: k, the number of factors.
        noise: standard deviation of the target noise.
        held_out: number of further measurements, kept back for a test loss.

    Returns:
        The planted problem.

    Raises:
        UsageError: for values out of range.
    """
    if not 1 <= sparsity <= dimension:
        raise UsageError(f"sparsity: got {sparsity}, expected 1 <= sparsity <= dimension = {dimension}")
    check_at_least("held_out", held_out, 0)
    measure_key, place_key, value_key, noise_key = jax.random.split(key, 4)
    places = jax.random.permutation(place_key, dimension)[:sparsity]
    truth = jnp.zeros((dimension, 1)).at[places, 0].set(jax.random.normal(value_key, (sparsity,)))
    truth = truth / jnp.linalg.norm(truth)
    shape = (dimension, 1)
    test = gaussian(jax.random.fold_in(measure_key, 1), held_out, shape) if held_out else None
    measurements = gaussian(measure_key, num_measurements, shape)
    return planted(noise_key, measurements, Hadamard(shape, depth), truth, noise, held_out=test)
