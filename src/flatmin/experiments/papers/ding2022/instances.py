"""The random instances of the paper's problems, and the two convex programmes of each.

The instances of a trial are nested: the same truth, seen through more and more of the same measurements. Random numbers
are drawn once for the largest, the others are cut from it on the host, so that no shape costs a compilation.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from flatmin.experiments.papers.ding2022.spec import Problem
from flatmin.measurements import AbstractMeasurements, DenseMeasurements, LowRankMeasurements, entries
from flatmin.parameterizations import Quadratic, deep_matrix
from flatmin.problems import PlantedProblem, RecoveryProblem, low_rank_matrix
from flatmin.solvers import (
    AbstractProgram,
    MinNuclearNorm,
    MinScaledNuclearNorm,
    MinSymmetricNuclearNorm,
    MinTrace,
)


def instances(
    problem: Problem, key: Key[Array, ""], dimension: int, rank: int, amounts: Sequence[float]
) -> Iterator[PlantedProblem]:
    """The nested planted instances of a trial, each with a truth of unit Frobenius norm.

    Args:
        problem: which.
        key: random key.
        dimension: d.
        rank: of the truth; a network has `rank - rank // 2` units of weight +1 and `rank // 2` of weight -1.
        amounts: numbers of measurements, or shares of seen entries, increasing.

    Yields:
        One instance an amount.
    """
    truth_key, measure_key = jax.random.split(key)
    truth = _truth(problem, truth_key, dimension, rank)
    square = (dimension, dimension)
    if problem in ("network", "covariance"):
        parameterization = Quadratic(dimension, dimension, 0 if problem == "covariance" else dimension)
    else:
        parameterization = deep_matrix(square, 2)
    for op, targets in _measured(problem, measure_key, truth, amounts):
        yield PlantedProblem(RecoveryProblem(op, parameterization, jnp.asarray(targets)), jnp.asarray(truth))


def _truth(problem: Problem, key: Key[Array, ""], dimension: int, rank: int) -> np.ndarray:
    if problem not in ("network", "covariance"):
        return np.asarray(low_rank_matrix(key, (dimension, dimension), rank))
    units = _drawn(jax.random.normal, key, (dimension, rank))
    signs = np.ones(rank)
    if problem == "network":
        signs[rank - rank // 2 :] = -1
    matrix = (units * signs) @ units.T
    return matrix / np.linalg.norm(matrix)


def _drawn(sample: Callable[..., Array], key: Key[Array, ""], shape: tuple[int, ...]) -> np.ndarray:
    """`sample(key, shape)`, cut from the next power of four: a few compilations for all sizes.

    Entry i of a draw depends on the key and i alone, so that these are the bits of the exact shape.
    """
    size = math.prod(shape)
    room = 4 ** max(5, math.ceil(math.log(size, 4)))
    return np.asarray(sample(key, (room,)))[:size].reshape(shape)


def _measured(
    problem: Problem, key: Key[Array, ""], truth: np.ndarray, amounts: Sequence[float]
) -> Iterator[tuple[AbstractMeasurements, np.ndarray]]:
    """Measurements and what they see, for each amount."""
    d, most = len(truth), round(max(amounts))
    if problem == "completion":
        draws = _drawn(jax.random.uniform, key, (d, d))
        for share in amounts:
            rows, cols = np.nonzero(draws < share)
            yield entries(jnp.asarray(rows), jnp.asarray(cols), (d, d)), truth[rows, cols]
    elif problem == "sensing":
        tensor = _drawn(jax.random.normal, key, (most, d, d))
        seen = tensor.reshape(most, -1) @ truth.reshape(-1)
        for count in map(round, amounts):
            yield DenseMeasurements(jnp.asarray(tensor[:count])), seen[:count]
    else:
        sides = _drawn(jax.random.normal, key, (2, most, d))
        left, right = sides[0], sides[1] if problem == "bilinear" else sides[0]
        seen = np.einsum("ia,ab,ib->i", left, truth, right, optimize=True)
        for count in map(round, amounts):
            yield LowRankMeasurements(*(jnp.asarray(side[:count, None]) for side in (left, right))), seen[:count]


def programmes(problem: Problem, planted: PlantedProblem) -> tuple[AbstractProgram, AbstractProgram]:
    """The programme of flat solutions [D, Thm 3.2] and its unweighted sister.

    Args:
        problem: which.
        planted: the instance.

    Returns:
        Flat, nuclear.

    Raises:
        UsageError: if a row, a column or a direction is seen by no measurement: no flat solution is defined.
    """
    op, targets = planted.problem.measurements, planted.problem.targets
    if problem == "network":
        return MinSymmetricNuclearNorm(op, targets, scaled=True), MinSymmetricNuclearNorm(op, targets)
    if problem == "covariance":
        return MinTrace(op, targets, scaled=True), MinTrace(op, targets)
    return MinScaledNuclearNorm(op, targets), MinNuclearNorm(op, targets)


def instance_key(seed: int, *labels: int) -> Key[Array, ""]:
    """A key for each cell and trial, whatever the grid around it.

    Args:
        seed: of the run.
        *labels: what tells instances apart.

    Returns:
        The key.
    """
    key = jax.random.key(seed)
    for label in labels:
        key = jax.random.fold_in(key, label)
    return key
