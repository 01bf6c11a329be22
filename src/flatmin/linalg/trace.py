"""Traces of a linear map from its products: whole, or by random probes with a calibrated error."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from flatmin._core import Estimate, FloatType, Integer, RealArray, UsageError, checked
from flatmin.linalg.programs import compiled
from flatmin.linalg.scale import applied, exponent_of, shifted
from flatmin.linalg.student import NORMAL_QUANTILE, student_quantile

Matvec = Callable[[Float[Array, " p"]], Float[Array, " p"]]

SKETCHED = 1 / 3
"""Share of the products that Hutch++ spends on the range of the map, and again on the map there [Meyer et al. 2021]."""

CALIBRATED_FROM = 16
"""Independent values from which the interval is one: with fewer, a map with few large eigenvalues (three equal ones,
or 100, 50, 20 above many of size one) is covered in less than 93% of the cases, whatever the quantile."""

SKEW = 0.5
"""Widening by the skewness of the values: with it intervals of 16 and more values hold 93 to 96% on sums of squares of
normal variables with equal, geometric, 1/k and spiked weights, where Student's t alone holds 91 to 95%."""

CHUNK_ENTRIES = 1 << 16
"""Entries of the probes that are taken at once: one probe for many parameters, 32 for few."""


@checked(dtype=FloatType())
def exact_trace(matvec: Matvec, size: int, dtype: DTypeLike) -> Estimate:
    """`tr H = sum_i e_i^T H e_i`, all p products, a few at a time.

    Args:
        matvec: linear map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.

    Returns:
        The trace with the rounding of its sum, `eps (8 + log2 p) sum_i |H_ii|`; p products, a few vectors of memory.
    """
    diagonal = _diagonal(matvec, size, dtype)
    return Estimate(jnp.sum(diagonal), jnp.sum(_rounding(diagonal, size)), "rounding", "dense", size)


@checked(dtype=FloatType(), num_probes=Integer(2))
def hutchinson(matvec: Matvec, size: int, dtype: DTypeLike, *, num_probes: int, key: Key[Array, ""]) -> Estimate:
    """Hutchinson's estimator: mean of `z^T H z` over probes of random signs.

    Args:
        matvec: linear map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        num_probes: number of probes, at least 2.
        key: random key.

    Returns:
        Mean and standard error, see `calibrated` (none below 16 probes); `num_probes` products and a few
        vectors of memory. With as many probes as parameters, `exact_trace`.

    Raises:
        UsageError: for fewer than 2 probes.
    """
    if num_probes >= size:
        return exact_trace(matvec, size, dtype)
    samples, sizes = _quadratic_forms(matvec, size, dtype, num_probes, None, key)
    value, error = calibrated(samples)
    return _stochastic(value, error + jnp.mean(_rounding(sizes, size)), num_probes, "hutchinson", num_probes)


@checked(dtype=FloatType(), num_matvecs=Integer(4))
def hutch_plus_plus(matvec: Matvec, size: int, dtype: DTypeLike, *, num_matvecs: int, key: Key[Array, ""]) -> Estimate:
    """Hutch++: the trace on a random range of the map is computed, the rest is estimated [Meyer et al. 2021].

    `tr H = tr Q^T H Q + E z^T (I - Q Q^T) H (I - Q Q^T) z`, Q an orthonormal basis of `H S` for k random sign vectors S
    and n further ones z. Given Q the n values are independent, so their spread is a standard error of the whole.

    Args:
        matvec: symmetric map on (p,) vectors.
        size: p.
        dtype: floating type of the vectors.
        num_matvecs: budget of products, `2 k + n`, at least 4.
        key: random key.

    Returns:
        Trace and standard error, see `calibrated` (none below 16 products); memory about 4 k vectors. With as
        many products as parameters,
        `exact_trace`.

    Raises:
        UsageError: for a budget below 4.
    """
    if num_matvecs >= size:
        return exact_trace(matvec, size, dtype)
    sketched = min(int(num_matvecs * SKETCHED), (num_matvecs - CALIBRATED_FROM) // 2)
    if sketched < 1:
        return hutchinson(matvec, size, dtype, num_probes=num_matvecs, key=key)
    first, second = jax.random.split(key)
    basis, known = _range(matvec, size, dtype, sketched, first)
    samples, sizes = _quadratic_forms(matvec, size, dtype, num_matvecs - 2 * sketched, basis, second)
    value, error = calibrated(samples)
    floor = jnp.sum(_rounding(known, size)) + jnp.mean(_rounding(sizes, size))
    return _stochastic(jnp.sum(known) + value, error + floor, len(samples), "hutch++", num_matvecs)


@checked(dtype=FloatType(), num_matvecs=Integer(4))
def xtrace(matvec: Matvec, size: int, dtype: DTypeLike, *, num_matvecs: int, key: Key[Array, ""]) -> Estimate:
    """The name until 0.1: `hutch_plus_plus`; the spread of XTrace's leave-one-out values is no standard error."""
    if num_matvecs % 2:
        raise UsageError(f"num_matvecs: got {num_matvecs}, expected an even number of at least 4")
    if num_matvecs >= 2 * size:
        raise UsageError(f"num_matvecs: got {num_matvecs} for {size} parameters; use Dense() at this size")
    return hutch_plus_plus(matvec, size, dtype, num_matvecs=num_matvecs, key=key)


def _stochastic(value: Array, error: Array, values: int, method: str, matvecs: int) -> Estimate:
    if values < CALIBRATED_FROM:
        return Estimate(value, jnp.full_like(error, jnp.nan), "none", method, matvecs)
    return Estimate(value, error, "standard error", method, matvecs)


@checked(samples=RealArray("n ...", finite=False))
def calibrated(samples: Float[Array, "n *rest"]) -> tuple[Float[Array, "*rest"], Float[Array, "*rest"]]:
    """Mean of independent values and an error such that `mean +- 1.96 error` holds the truth in 95% of the cases.

    The error is `s / sqrt(n)`, s^2 the unbiased variance, times `t / 1.96` with Student's quantile t of n - 1 degrees,
    and times a factor for the skewness of few probes of a map with few large eigenvalues, see `SKEW`.

    Args:
        samples: n >= 2 values, along the first axis.

    Returns:
        Mean and error.
    """
    n = samples.shape[0]
    if n < 2:
        raise UsageError(f"samples: got {n} value(s), expected at least 2, or there is no spread")
    mean = jnp.mean(samples, axis=0, keepdims=True)
    away = samples - mean
    unit = jnp.max(jnp.abs(away), axis=0, keepdims=True)  # squares of 1e-30 leave the range of float32
    away = away / jnp.where(unit > 0, unit, 1)
    deviation = jnp.sqrt(jnp.sum(away**2, axis=0) / (n - 1))
    skewness = jnp.mean(away**3, axis=0) / jnp.where(deviation > 0, deviation, 1) ** 3
    widened = student_quantile(n - 1) / NORMAL_QUANTILE * (1 + SKEW * jnp.abs(skewness) / n**0.5)
    return mean[0], unit[0] * deviation / n**0.5 * widened


def _rounding(parts: Float[Array, "..."], size: int) -> Float[Array, "..."]:
    """Of a sum over p = `size` entries whose absolute values are, or sum up to, the parts; to first order."""
    return (8 + size.bit_length()) * jnp.finfo(parts.dtype).eps * jnp.abs(parts)


def chunk(size: int) -> int:
    """How many vectors of p entries are mapped at once."""
    return min(32, max(1, CHUNK_ENTRIES // size))


@compiled
def _diagonal(matvec: Matvec, size: int, dtype: DTypeLike) -> Float[Array, " p"]:
    def entry(i):
        return applied(matvec, jnp.zeros(size, dtype).at[i].set(1))[i]

    return jax.lax.map(entry, jnp.arange(size), batch_size=chunk(size))


@compiled
def _range(matvec: Matvec, size: int, dtype: DTypeLike, sketched: int, key: Key[Array, ""]):
    """An orthonormal basis Q (p, k) of the range of the map, found by random signs, and `q^T H q` for each column."""

    def image(key):
        return applied(matvec, jax.random.rademacher(key, (size,), dtype))

    images = jax.lax.map(image, jax.random.split(key, sketched), batch_size=chunk(size))
    # any orthonormal basis will do, so its derivative is not needed, and small or large maps are brought to order one
    images = jax.lax.stop_gradient(images)
    basis = jnp.linalg.qr(shifted(images, -exponent_of(images)).T)[0]
    known = jax.lax.map(lambda q: jnp.vdot(q, matvec(q)), basis.T, batch_size=chunk(size))
    return basis, known


@compiled
def _quadratic_forms(
    matvec: Matvec,
    size: int,
    dtype: DTypeLike,
    num_probes: int,
    basis: Float[Array, "p k"] | None,
    key: Key[Array, ""],
):
    """`z^T H z` of each probe, with the sum of the absolute values of its p products."""

    def form(key):
        z = jax.random.rademacher(key, (size,), dtype)
        if basis is not None:
            for _ in range(2):  # once leaves rounding of the size of H along Q
                z = z - basis @ (basis.T @ z)
        products = z * applied(matvec, z)
        return jnp.sum(products), jnp.sum(jnp.abs(products))

    return jax.lax.map(form, jax.random.split(key, num_probes), batch_size=chunk(size))
