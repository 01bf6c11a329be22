"""Sensing: dense and bilinear measurements of a low-rank matrix."""

import jax
from jaxtyping import Array, Key, ScalarLike

from flatmin._core import check_at_least, checked, choose
from flatmin.measurements import bernoulli, bilinear_gaussian, gaussian
from flatmin.parameterizations import deep_matrix
from flatmin.problems.planted import PlantedProblem, low_rank_matrix, planted


@checked()
def matrix_sensing(
    key: Key[Array, ""],
    matrix_shape: tuple[int, int],
    rank: int,
    num_measurements: int,
    *,
    depth: int = 2,
    width: int | None = None,
    ensemble: str = "gaussian",
    noise: ScalarLike = 0.0,
    held_out: int = 0,
) -> PlantedProblem:
    """Deep matrix factorisation from random linear measurements of a rank-r matrix of unit norm [G, Sec 7].

    Args:
        key: random key.
        matrix_shape: (d1, d2).
        rank: r of the truth.
        num_measurements: m.
        depth: L of the factorisation.
        width: hidden width; default max(d1, d2).
        ensemble: "gaussian", "bernoulli" or "bilinear".
        noise: standard deviation of the target noise.
        held_out: number of further measurements, kept back for a test loss.

    Returns:
        The planted problem.

    Raises:
        UsageError: for sizes, ranks, noise or names out of range.
    """
    draw = {"gaussian": gaussian, "bernoulli": bernoulli, "bilinear": bilinear_gaussian}
    choose("ensemble", ensemble, draw)
    measure_key, truth_key, noise_key = jax.random.split(key, 3)
    truth = low_rank_matrix(truth_key, matrix_shape, rank)
    measurements = draw[ensemble](measure_key, num_measurements, matrix_shape)
    check_at_least("held_out", held_out, 0)
    test = draw[ensemble](jax.random.fold_in(measure_key, 1), held_out, matrix_shape) if held_out else None
    return planted(noise_key, measurements, deep_matrix(matrix_shape, depth, width), truth, noise, held_out=test)


@checked()
def bilinear_sensing(
    key: Key[Array, ""],
    matrix_shape: tuple[int, int],
    rank: int,
    num_measurements: int,
    *,
    depth: int = 2,
    noise: ScalarLike = 0.0,
    held_out: int = 0,
) -> PlantedProblem:
    """`matrix_sensing` with `A_i = a_i b_i^T`; the same arguments, result and errors.

    Args:
        key: random key.
        matrix_shape: (d1, d2).
        rank: r of the truth.
        num_measurements: m.
        depth: L of the factorisation.
        noise: standard deviation of the target noise.
        held_out: number of further measurements, kept back for a test loss.

    Returns:
        The planted problem.
    """
    return matrix_sensing(
        key, matrix_shape, rank, num_measurements, depth=depth, ensemble="bilinear", noise=noise, held_out=held_out
    )
