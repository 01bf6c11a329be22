"""Completion: single entries of a low-rank matrix, uniformly or by the popularity of rows and columns."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, ScalarLike

from flatmin._core import Optional, Real, RealArray, UsageError, check_at_least, check_positive, check_shape, checked
from flatmin.measurements import AbstractMeasurements, entries
from flatmin.parameterizations import deep_matrix
from flatmin.problems.planted import PlantedProblem, low_rank_matrix, planted


@checked(row_weights=Optional(RealArray("d1", low=0)), col_weights=Optional(RealArray("d2", low=0)))
def matrix_completion(
    key: Key[Array, ""],
    matrix_shape: tuple[int, int],
    rank: int,
    fraction: float,
    *,
    depth: int = 2,
    noise: ScalarLike = 0.0,
    row_weights: Float[Array, " d1"] | None = None,
    col_weights: Float[Array, " d2"] | None = None,
    held_out: int = 0,
) -> PlantedProblem:
    """Completion of a rank-r matrix of unit norm, each entry seen with probability `fraction` [D, Sec 3].

    With weights, entry (i, j) is seen with probability `min(1, c row_weights[i] col_weights[j])`, c such that the mean
    is `fraction`; every row and every column that was missed is then given one entry, so that flat solutions exist.

    Args:
        key: random key.
        matrix_shape: (d1, d2).
        rank: r of the truth.
        fraction: probability that an entry is seen, in (0, 1].
        depth: L of the factorisation.
        noise: standard deviation of the target noise.
        row_weights: positive weights of the rows; default equal.
        col_weights: positive weights of the columns; default equal.
        held_out: number of unseen entries, drawn without repeats, kept back for a test loss.

    Returns:
        The planted problem; the number of entries is random.

    Raises:
        UsageError: for values out of range, weights that are not positive or do not fit, no entry seen, or fewer
            unseen entries than are to be held out.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"fraction: got {fraction}, expected a probability in (0, 1]")
    mask_key, truth_key, noise_key = jax.random.split(key, 3)
    truth = low_rank_matrix(truth_key, matrix_shape, rank)
    if row_weights is None and col_weights is None:
        mask = np.asarray(jax.random.bernoulli(mask_key, fraction, matrix_shape))
    else:
        chance = _chances(matrix_shape, fraction, row_weights, col_weights)
        draws = np.asarray(jax.random.uniform(mask_key, matrix_shape))
        mask = draws < chance
        # the likeliest entry of a missed line
        odds = draws / chance
        missed = np.flatnonzero(~mask.any(1))
        mask[missed, odds[missed].argmin(1)] = True
        missed = np.flatnonzero(~mask.any(0))
        mask[odds[:, missed].argmin(0), missed] = True
    rows, cols = np.nonzero(mask)
    op = entries(jnp.asarray(rows), jnp.asarray(cols), matrix_shape)
    test = unseen_entries(jax.random.fold_in(mask_key, 1), mask, held_out)
    return planted(noise_key, op, deep_matrix(matrix_shape, depth), truth, noise, held_out=test)


@checked(exponent=Real())
def power_law(size: int, exponent: float) -> Float[Array, " d"]:
    """Popularities `1, 2^-a, 3^-a, ...`: weights for `matrix_completion`.

    Args:
        size: d >= 1.
        exponent: a >= 0; 0 is uniform.

    Returns:
        Shape (d,).

    Raises:
        UsageError: for values out of range.
    """
    check_at_least("size", size, 1)
    check_at_least("exponent", exponent, 0)
    return jnp.arange(1, size + 1) ** (-float(exponent))


def _chances(shape: tuple[int, int], fraction: float, row_weights, col_weights) -> np.ndarray:
    weights = []
    for name, given, size in (("row_weights", row_weights, shape[0]), ("col_weights", col_weights, shape[1])):
        values = np.ones(size) if given is None else np.asarray(given, float)
        check_shape(name, values, (size,))
        check_positive(name, values)
        weights.append(values)
    odds = np.outer(*weights)
    low, high = 0.0, 1 / odds.min()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * odds).mean() < fraction else (low, middle)
    return np.minimum(1, high * odds)


def unseen_entries(key: Key[Array, ""], seen: np.ndarray, count: int) -> AbstractMeasurements | None:
    """`count` entries outside the mask `seen`, drawn without repeats; None for a count of 0.

    Raises:
        UsageError: for a negative count or one above the number of unseen entries.
    """
    check_at_least("held_out", count, 0)
    if count == 0:
        return None
    rows, cols = np.nonzero(~seen)
    if count > rows.size:
        raise UsageError(f"held_out: got {count}, but {rows.size} entries are unseen; lower held_out or the fraction")
    chosen = np.sort(np.asarray(jax.random.permutation(key, rows.size))[:count])
    return entries(jnp.asarray(rows[chosen]), jnp.asarray(cols[chosen]), (seen.shape[0], seen.shape[1]))
