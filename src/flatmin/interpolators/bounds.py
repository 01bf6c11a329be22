"""Lower ends of the smallest trace over all interpolating parameters, proven or marked as an estimate."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from flatmin._core import Integer, Real, RealArray, UsageError, check_at_least, checked, shown_tuple
from flatmin.measurements import (
    AbstractMeasurements,
    col_gram,
    kernel_form,
    moment_matrix,
    rip_lower_estimate,
    scaled,
)
from flatmin.solvers import MinNuclearNorm, MinScaledNuclearNorm, solve
from flatmin.theory.gatmiry2023 import rip_regulariser_lower

BoundKind = Literal["convex programme", "closed form", "single measurements", "none"]


@shown_tuple
class LowerBound(NamedTuple):
    """A proven lower end.

    Attributes:
        value: no interpolating parameters have a smaller trace.
        kind: `"convex programme"` (depth 2: the dual of the scaled nuclear norm, sharp), `"closed form"` (one
            measurement, sharp), `"single measurements"` (several, depth above 2: valid, far from sharp) or `"none"`.
    """

    value: float
    kind: BoundKind


@shown_tuple
class RipEstimate(NamedTuple):
    """What the restricted isometry property would say; an estimate, not a bound, since delta is one.

    Attributes:
        value: `(1 - delta) 2 L (d_0 d_L)^{1/L} min{||M||_* : A(M) = b}^{2(L-1)/L}` in the units of the measurements;
            NaN where delta is 1 or more.
        delta: the estimated (1, delta)-RIP constant, from below.
    """

    value: float
    delta: float


@checked(measurement=RealArray("d1 d2", nonempty=True), target=Real())
def single_measurement_flattest(measurement: Float[Array, "d1 d2"], target: ArrayLike, depth: int) -> Float[Array, ""]:
    """`min { tr H : <A, W_L ... W_1> = b } = 2 L |b|^{2-2/L} (sum_j s_j^{-2/(L-2)})^{-(L-2)/L}`, s_j > 0 those of A.

    At depth 2 the bracket is `min_j s_j`. With `G = A^T M`: `|b| = |tr G|` is at most the sum of the moduli of the
    eigenvalues of G, which by Weyl is at most `||G^{L-1}||_{S_{1/(L-1)}}^{1/(L-1)}`, and by Hölder
    `||G^{L-1}||_{S_{1/(L-1)}} <= ||G^{L-1} A^T||_{S_{2/L}} ||A^+||_{S_{2/(L-2)}}`; the rest is [G, Thm 7]. Attained
    by an M with the singular vectors of A.

    Args:
        measurement: the only A, not zero.
        target: b.
        depth: L >= 2.

    Returns:
        The smallest trace over all interpolating factors.

    Raises:
        UsageError: for a depth below 2.
    """
    check_at_least("depth", depth, 2)
    s = jnp.linalg.svd(measurement, compute_uv=False)
    top = jnp.max(s)
    kept = s > max(measurement.shape) * jnp.finfo(s.dtype).eps * top
    if depth == 2:
        weight = jnp.min(jnp.where(kept, s, jnp.inf))
    else:
        power = jnp.where(kept, (jnp.where(kept, s, top) / top) ** (-2 / (depth - 2)), 0)
        weight = top ** (2 / depth) * jnp.sum(power) ** (-(depth - 2) / depth)
    return 2 * depth * jnp.abs(jnp.asarray(target)) ** (2 - 2 / depth) * weight


@checked(depth=Integer(2))
def lower_bound(measurements: AbstractMeasurements, targets: Float[Array, " m"], depth: int) -> LowerBound:
    """The best proven lower end of the smallest trace at zero loss.

    Args:
        measurements: the operator.
        targets: b, attainable.
        depth: L >= 2.

    Returns:
        The bound with its kind.
    """
    m = measurements.num_measurements
    if m == 1:
        value = single_measurement_flattest(measurements.adjoint(jnp.ones(1)), targets[0], depth)
        return LowerBound(float(value) * (1 - 1e-12), "closed form")
    if depth == 2:
        try:
            solution = solve(MinScaledNuclearNorm(measurements, targets), throw=False)
        except UsageError:  # a row or a column that no measurement sees
            return LowerBound(0.0, "none")
        return LowerBound(4 * solution.dual_value, "convex programme")
    # any orthonormal mixture of the measurements gives the same trace; one of it alone gives no more
    norm = float(jnp.linalg.norm(targets))
    if norm == 0:
        return LowerBound(0.0, "none")
    mixed = measurements.adjoint(targets / norm)
    along = float(single_measurement_flattest(mixed, norm, depth)) / m
    each = jax.lax.map(
        lambda pair: single_measurement_flattest(measurements.adjoint(pair[0]), pair[1], depth),
        (jnp.eye(m), targets),
    )
    each = jnp.where(jnp.isfinite(each), each, 0)
    value = max(along, float(jnp.mean(each))) * (1 - 1e-9)
    return LowerBound(value, "single measurements") if value > 0 else LowerBound(0.0, "none")


@checked()
def rip_estimate(
    measurements: AbstractMeasurements, targets: Float[Array, " m"], depth: int, key: Key[Array, ""]
) -> RipEstimate:
    """`(1 - delta) F_pop` at the smallest nuclear norm [G, Thm 1], with an estimated delta.

    Args:
        measurements: the operator; taken in units where the mean energy of a unit entry is 1.
        targets: b.
        depth: L.
        key: random key of the search for delta.

    Returns:
        The estimate.
    """
    d1, d2 = measurements.matrix_shape
    m = measurements.num_measurements
    energy = float(jnp.trace(col_gram(measurements))) / (m * d1 * d2)
    found = rip_lower_estimate(scaled(measurements, energy**-0.5), key)
    delta = float(found.delta)
    nuclear = solve(MinNuclearNorm(measurements, targets), throw=False).dual_value
    if delta >= 1:
        return RipEstimate(float("nan"), delta)
    return RipEstimate(energy * float(rip_regulariser_lower(nuclear, depth, (d1, d2), delta)), delta)


def attainable(
    measurements: AbstractMeasurements, targets: Float[Array, " m"]
) -> tuple[Float[np.ndarray, " m"], float, int]:
    """The projection of the targets on what the measurements can produce.

    Args:
        measurements: the operator.
        targets: b.

    Returns:
        `A A^+ b`, the relative distance `||b - A A^+ b|| / ||b||`, and the number of measurements that depend linearly
        on others.
    """
    m, b = measurements.num_measurements, np.asarray(targets)
    d1, d2 = measurements.matrix_shape
    small = np.asarray(kernel_form(measurements) if m <= d1 * d2 else moment_matrix(measurements))
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    kept = values > 1e-12 * values[-1]
    if m <= d1 * d2:
        basis = vectors[:, kept]
        fitted = basis @ (basis.T @ b)
    else:
        pulled = np.asarray(measurements.adjoint(jnp.asarray(b))).ravel()
        V = vectors[:, kept]
        X = (V @ ((V.T @ pulled) / values[kept])).reshape(d1, d2)
        fitted = np.asarray(measurements.forward(jnp.asarray(X)))
    distance = float(np.linalg.norm(b - fitted) / max(np.linalg.norm(b), np.finfo(float).tiny))
    return fitted, distance, m - int(kept.sum())
