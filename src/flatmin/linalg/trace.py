"""Stochastic trace estimators with their standard errors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from flatmin._core import Estimate, UsageError

Matvec = Callable[[Float[Array, " p"]], Float[Array, " p"]]


def hutchinson(matvec: Matvec, size: int, dtype: DTypeLike, *, num_probes: int, key: Key[Array, ""]) -> Estimate:
    """Hutchinson's estimator: mean of `z^T H z` over probes of random signs.

    Args:
        matvec: linear map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        num_probes: number of probes, at least 2.
        key: random key.

    Returns:
        Mean and standard error (one sigma, unbiased variance); `num_probes` matvecs.

    Raises:
        UsageError: for fewer than 2 probes.
    """
    if num_probes < 2:
        raise UsageError(f"num_probes: got {num_probes}, expected at least 2, or there is no standard error")
    from matfree import stochtrace

    sampler = stochtrace.sampler_signs(jnp.zeros(size, dtype), num=num_probes)
    estimate = stochtrace.estimator_monte_carlo_mean_and_sem(stochtrace.monte_carlo_trace(), sampler)
    mean, sem = estimate(matvec, key)
    # the library divides by num_probes; the unbiased variance divides by num_probes - 1
    return Estimate(mean, sem * (num_probes / (num_probes - 1)) ** 0.5, "standard error", "hutchinson", num_probes)


def xtrace(matvec: Matvec, size: int, dtype: DTypeLike, *, num_matvecs: int, key: Key[Array, ""]) -> Estimate:
    """XTrace (Epperly, Tropp & Webber 2024): leave-one-out low-rank approximation plus correction.

    Args:
        matvec: linear map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        num_matvecs: an even number of at least 4.
        key: random key.

    Returns:
        Mean and standard error of the exchangeable estimates.

    Raises:
        UsageError: for a budget that is odd or below 4, or of more than p / 2 probes.
    """
    if num_matvecs < 4 or num_matvecs % 2:
        raise UsageError(f"num_matvecs: got {num_matvecs}, expected an even number of at least 4")
    probes = num_matvecs // 2
    if probes >= size:
        raise UsageError(f"num_matvecs: got {num_matvecs} for {size} parameters; use Dense() at this size")
    from matfree import stochtrace

    sampler = stochtrace.sampler_signs(jnp.zeros(size, dtype), num=probes)
    estimate = stochtrace.estimator_leave_one_out_mean_and_sem(stochtrace.leave_one_out_xtrace(), sampler)
    with jax.numpy_rank_promotion("allow"):  # the library promotes ranks inside
        mean, sem = estimate(matvec, key)
    return Estimate(mean, sem * (probes / (probes - 1)) ** 0.5, "standard error", "xtrace", num_matvecs)
