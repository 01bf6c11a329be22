"""What is seen through `x_i x_i^T`: quadratic networks, covariances, phase retrieval."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, ScalarLike

from flatmin._core import Integer, Optional, SequenceOf, check_at_least, checked
from flatmin.measurements import symmetric_rank_one
from flatmin.parameterizations import Quadratic
from flatmin.problems.planted import PlantedProblem, planted


@checked(units=Optional(SequenceOf(Integer(0), 2)))
def quadratic_network(
    key: Key[Array, ""],
    dimension: int,
    num_samples: int,
    *,
    positive: int,
    negative: int,
    units: tuple[int, int] | None = None,
    noise: ScalarLike = 0.0,
    held_out: int = 0,
) -> PlantedProblem:
    """A one-hidden-layer quadratic network on Gaussian inputs, taught by a smaller one [D, Sec 4].

    Args:
        key: random key.
        dimension: d.
        num_samples: m.
        positive: units of weight +1 in the teacher.
        negative: units of weight -1 in the teacher.
        units: (k1, k2) of the student; default (d, d).
        noise: standard deviation of the target noise.
        held_out: number of further samples, kept back for a test loss.

    Returns:
        The planted problem; the teacher's matrix has unit Frobenius norm.

    Raises:
        UsageError: for sizes or noise out of range.
    """
    check_at_least("num_samples", num_samples, 1)
    input_key, plus_key, minus_key, noise_key = jax.random.split(key, 4)
    teacher = Quadratic(dimension, positive, negative)
    truth = teacher.matrix(
        (
            jax.random.normal(plus_key, (dimension, positive)),
            jax.random.normal(minus_key, (dimension, negative)),
        )
    )
    truth = truth / jnp.linalg.norm(truth)
    measurements = symmetric_rank_one(jax.random.normal(input_key, (num_samples, dimension)))
    student = Quadratic(dimension, *(units or (dimension, dimension)))
    check_at_least("held_out", held_out, 0)
    more = jax.random.normal(jax.random.fold_in(input_key, 1), (held_out, dimension))
    test = symmetric_rank_one(more) if held_out else None
    return planted(noise_key, measurements, student, truth, noise, held_out=test)


@checked()
def covariance_estimation(
    key: Key[Array, ""],
    dimension: int,
    rank: int,
    num_samples: int,
    *,
    units: int | None = None,
    noise: ScalarLike = 0.0,
    held_out: int = 0,
) -> PlantedProblem:
    """A rank-r covariance `U U^T` of unit norm from its quadratic forms `x_i^T M x_i` [D, Sec 4].

    A quadratic network with positive units only; the keywords, result and errors of `quadratic_network`.

    Args:
        key: random key.
        dimension: d.
        rank: r, from 1 to d.
        num_samples: m.
        units: columns of the factor; default d.
        noise: standard deviation of the target noise.
        held_out: number of further samples, kept back for a test loss.

    Returns:
        The planted problem.
    """
    student = (dimension if units is None else units, 0)
    return quadratic_network(
        key, dimension, num_samples, positive=rank, negative=0, units=student, noise=noise, held_out=held_out
    )


@checked()
def phase_retrieval(
    key: Key[Array, ""],
    dimension: int,
    num_samples: int,
    *,
    units: int | None = None,
    noise: ScalarLike = 0.0,
    held_out: int = 0,
) -> PlantedProblem:
    """A vector of unit norm from `(x_i^T u)^2`: `covariance_estimation` at rank one.

    Args:
        key: random key.
        dimension: d.
        num_samples: m.
        units: columns of the factor; default d, one is the vector itself.
        noise: standard deviation of the target noise.
        held_out: number of further samples, kept back for a test loss.

    Returns:
        The planted problem; its truth is `u u^T`.
    """
    return covariance_estimation(key, dimension, 1, num_samples, units=units, noise=noise, held_out=held_out)
