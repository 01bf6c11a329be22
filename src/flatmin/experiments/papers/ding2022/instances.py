"""The random instances of the paper's problems, and the two convex programmes of each."""

import jax
from jaxtyping import Array, Key

from flatmin.problems import (
    PlantedProblem,
    bilinear_sensing,
    covariance_estimation,
    matrix_completion,
    matrix_sensing,
    quadratic_network,
)
from flatmin.solvers import (
    AbstractProgram,
    MinNuclearNorm,
    MinScaledNuclearNorm,
    MinSymmetricNuclearNorm,
    MinTrace,
)


def instance(problem: str, key: Key[Array, ""], dimension: int, rank: int, amount: float) -> PlantedProblem:
    """A planted instance with a truth of unit Frobenius norm.

    Args:
        problem: `sensing`, `bilinear`, `completion`, `network` or `covariance`.
        key: random key.
        dimension: d.
        rank: of the truth; a network has `rank - rank // 2` units of weight +1 and `rank // 2` of weight -1.
        amount: number of measurements, or the share of seen entries.

    Returns:
        The instance.
    """
    square = (dimension, dimension)
    if problem == "completion":
        return matrix_completion(key, square, rank, amount)
    count = round(amount)
    if problem == "sensing":
        return matrix_sensing(key, square, rank, count)
    if problem == "bilinear":
        return bilinear_sensing(key, square, rank, count)
    if problem == "covariance":
        return covariance_estimation(key, dimension, rank, count)
    return quadratic_network(key, dimension, count, positive=rank - rank // 2, negative=rank // 2)


def programmes(problem: str, planted: PlantedProblem) -> tuple[AbstractProgram, AbstractProgram]:
    """The programme of flat solutions [D, Thm 3.2] and its unweighted sister.

    Args:
        problem: as in `instance`.
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
