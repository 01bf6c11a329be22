"""Robust PCA: a low-rank matrix with gross errors in few entries."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, ScalarLike

from flatmin._core import Real, UsageError, check_positive, checked
from flatmin.measurements import entries, identity
from flatmin.parameterizations import Hadamard, Sum, deep_matrix
from flatmin.problems.completion import unseen_entries
from flatmin.problems.planted import PlantedProblem, low_rank_matrix, planted


@checked(outliers=Real(0, 1))
def robust_pca(
    key: Key[Array, ""],
    matrix_shape: tuple[int, int],
    rank: int,
    outliers: float,
    *,
    outlier_size: float = 10.0,
    fraction: float = 1.0,
    noise: ScalarLike = 0.0,
    held_out: int = 0,
) -> PlantedProblem:
    """`Y = M* + S*`: a rank-r matrix of unit norm and gross errors in a share of the entries [D, Sec 4].

    The parameters are two factors and one free matrix, `X = W_2 W_1 + S`.

    Args:
        key: random key.
        matrix_shape: (d1, d2).
        rank: r of the truth.
        outliers: probability that an entry is grossly wrong, in [0, 1).
        outlier_size: the errors are uniform in `[-a, a]`, a this many times the root mean square entry of M*.
        fraction: probability that an entry is seen, in (0, 1].
        noise: standard deviation of the noise in all seen entries.
        held_out: number of unseen entries, kept back for a test loss.

    Returns:
        The planted problem, with `truth` M* and `outliers` S*; `sum |S*|` is the radius that makes M* flat.

    Raises:
        UsageError: for values out of range, no entry seen, or fewer unseen entries than are to be held out.
    """
    if not 0 <= outliers < 1:
        raise UsageError(
            f"outliers: got {outliers}, expected a probability in [0, 1); with every entry wrong nothing is "
            "left to recover"
        )
    if not 0 < fraction <= 1:
        raise UsageError(f"fraction: got {fraction}, expected a probability in (0, 1]")
    check_positive("outlier_size", outlier_size)
    mask_key, truth_key, noise_key, place_key, size_key = jax.random.split(key, 5)
    truth = low_rank_matrix(truth_key, matrix_shape, rank)
    bound = outlier_size * jnp.linalg.norm(truth) / truth.size**0.5
    sizes = jax.random.uniform(size_key, matrix_shape, minval=-bound, maxval=bound)
    errors = jnp.where(jax.random.bernoulli(place_key, outliers, matrix_shape), sizes, 0.0)
    seen = np.asarray(jax.random.bernoulli(mask_key, fraction, matrix_shape))
    everything = bool(seen.all())
    rows, cols = np.nonzero(seen)
    op = identity(matrix_shape) if everything else entries(jnp.asarray(rows), jnp.asarray(cols), matrix_shape)
    test = unseen_entries(jax.random.fold_in(mask_key, 1), seen, held_out)
    parameterization = Sum((deep_matrix(matrix_shape, 2), Hadamard(matrix_shape, 1)))
    return planted(noise_key, op, parameterization, truth, noise, outliers=errors, held_out=test)
