"""What a misfit means in whitened coordinates: `h(A(X) - b)` as a function of `u = Q(X)`, with its proximal map.

With `r = squared_singular_values^{1/2} (u - c)`, those of A, an l2 misfit of `A(X) - b` is the same misfit of r (but
for the part of b that no X reaches), and an l1 misfit is so where the Gram matrix is diagonal.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import UsageError
from flatmin.solvers._gauges import Gauge
from flatmin.solvers._whiten import Whitened
from flatmin.solvers.misfits import AbstractMisfit, Exact, HuberLoss, L1Ball, L1Loss, L2Ball, SquaredLoss

Observed = Float[Array, " k"]

BLOCK = 10
"""Iterations between two looks at the gap and the step."""

SETTLE = 20.0
"""Blocks after which the step's freedom to move has halved, so that convergence is that of a fixed step."""

RELAXATION, FIRST_STEP = 1.6, 0.3
"""Over-relaxation, of (0, 2), and the first threshold, where the largest singular value of the minimum-Frobenius point
is 1. Chosen, not derived."""

SMALLEST_STEP = 1e-3
"""Smallest step, in the same units: below, singular value thresholding by the Gram matrix loses its digits."""

SEPARATED = 1e-10
"""Largest polar of multipliers worth 1 that counts as a proof of infeasibility."""

NEWTON_STEPS = 40
"""Most Newton steps for the multiplier of a ball; they increase it monotonically, about ten suffice."""


@functools.singledispatch
def prox(
    misfit: AbstractMisfit,
    observed: Observed,
    targets: Observed,
    squared_singular_values: Observed,
    step: Float[Array, ""],
) -> Observed:
    """`argmin_u step h(squared_singular_values^{1/2} (u - c)) + ||u - observed||^2 / 2`."""
    raise UsageError(
        f"misfit: got {type(misfit).__name__}, which has no proximal map; use Exact, SquaredLoss, L2Ball, L1Loss, "
        "L1Ball or HuberLoss"
    )


@prox.register
def _(misfit: Exact, observed, targets, squared_singular_values, step):
    del misfit, squared_singular_values, step
    return jnp.broadcast_to(targets, observed.shape)


@prox.register
def _(misfit: SquaredLoss, observed, targets, squared_singular_values, step):
    weight = step * squared_singular_values / misfit.penalty
    return (observed + weight * targets) / (1 + weight)


@prox.register
def _(misfit: L1Loss, observed, targets, squared_singular_values, step):
    return targets + _soft(observed - targets, step * misfit.weight * jnp.sqrt(squared_singular_values))


@prox.register
def _(misfit: HuberLoss, observed, targets, squared_singular_values, step):
    away, weight = observed - targets, step * squared_singular_values / misfit.penalty
    limit = step * misfit.weight * jnp.sqrt(squared_singular_values)
    return observed - jnp.clip(away * weight / (1 + weight), -limit, limit)


@prox.register
def _(misfit: L2Ball, observed, targets, squared_singular_values, step):
    del step
    away = observed - targets
    radius = misfit.radius

    def size(multiplier):
        return jnp.linalg.norm(jnp.sqrt(squared_singular_values) * away / (1 + multiplier * squared_singular_values))

    def newton(carry):
        multiplier, _, count = carry
        shrunk = jnp.sqrt(squared_singular_values) * away / (1 + multiplier * squared_singular_values)
        norm = jnp.linalg.norm(shrunk)
        slope = jnp.sum(shrunk**2 * squared_singular_values / (1 + multiplier * squared_singular_values)) / norm
        # Newton's method on 1/size - 1/radius, which is concave and increasing
        return multiplier + (norm / radius - 1) * norm / slope, norm, count + 1

    def outside(carry):
        _, norm, count = carry
        return (norm > radius * (1 + 1e-14)) & (count < NEWTON_STEPS)

    zero = jnp.zeros((), observed.dtype)
    multiplier, _, _ = jax.lax.while_loop(outside, newton, (zero, size(zero), jnp.asarray(0)))
    return targets + away / (1 + multiplier * squared_singular_values)


@prox.register
def _(misfit: L1Ball, observed, targets, squared_singular_values, step):
    del step
    away, scale = observed - targets, jnp.sqrt(squared_singular_values)
    radius = misfit.radius

    def newton(carry):
        threshold, _, count = carry
        left = jnp.abs(away) - threshold * scale
        alive = left > 0
        total = jnp.sum(jnp.where(alive, scale * left, 0))
        slope = jnp.sum(jnp.where(alive, squared_singular_values, 0))
        return threshold + (total - radius) / jnp.maximum(slope, jnp.finfo(slope.dtype).tiny), total, count + 1

    def outside(carry):
        _, total, count = carry
        return (total > radius * (1 + 1e-14)) & (count < NEWTON_STEPS)

    zero = jnp.zeros((), observed.dtype)
    threshold, _, _ = jax.lax.while_loop(outside, newton, (zero, jnp.sum(scale * jnp.abs(away)), jnp.asarray(0)))
    return targets + _soft(away, threshold * scale)


def _soft(values: Array, threshold: Array) -> Array:
    return jnp.sign(values) * jnp.maximum(jnp.abs(values) - threshold, 0)


@functools.singledispatch
def project(
    misfit: AbstractMisfit, observed: Observed, targets: Observed, squared_singular_values: Observed
) -> Observed:
    """The nearest u inside the domain of the misfit; u itself where that is everything."""
    del misfit, targets, squared_singular_values
    return observed


def _by_prox(
    misfit: AbstractMisfit, observed: Observed, targets: Observed, squared_singular_values: Observed
) -> Observed:
    return prox(misfit, observed, targets, squared_singular_values, jnp.ones((), observed.dtype))


for _kind in (Exact, L2Ball, L1Ball):
    project.register(_kind, _by_prox)


@functools.singledispatch
def rescaled(misfit: AbstractMisfit, scale: Float[Array, ""], unreached: Float[Array, ""]) -> AbstractMisfit:
    """The misfit for `X = scale X'`, the objective divided by scale; `unreached = ||b||^2` off the range of A."""
    del scale, unreached
    return misfit


@rescaled.register
def _(misfit: SquaredLoss, scale, unreached):
    del unreached
    return SquaredLoss(misfit.penalty / scale)


@rescaled.register
def _(misfit: HuberLoss, scale, unreached):
    del unreached
    return HuberLoss(misfit.weight, misfit.penalty / scale)


@rescaled.register
def _(misfit: L2Ball, scale, unreached):
    return L2Ball(jnp.sqrt(misfit.radius**2 - unreached) / scale)


@rescaled.register
def _(misfit: L1Ball, scale, unreached):
    del unreached
    return L1Ball(misfit.radius / scale)


@functools.singledispatch
def off_range(misfit: AbstractMisfit, dual: Float[Array, " m"], unreached: Float[Array, " m"]) -> Float[Array, " m"]:
    """The best multipliers with the part `dual` in the range of A, given the part of b that no X reaches."""
    del misfit, unreached
    return dual


@off_range.register
def _(misfit: SquaredLoss, dual, unreached):
    return dual + unreached / misfit.penalty


@off_range.register
def _(misfit: L2Ball, dual, unreached):
    reach = jnp.sqrt(jnp.maximum(misfit.radius**2 - jnp.sum(unreached**2), 0))
    factor = jnp.linalg.norm(dual) / jnp.maximum(reach, jnp.finfo(dual.dtype).tiny)
    return dual + factor * unreached


class Working(eqx.Module):
    """A plain programme in whitened coordinates: `min N(X) + h(squared_singular_values^{1/2} (Q(X) - c))`.

    Attributes:
        white: Q, c and the squared_singular_values.
        misfit: h, in the units of c.
        gauge: N.
    """

    white: Whitened
    misfit: AbstractMisfit
    gauge: Gauge

    def prox(self, observed: Observed, step: Float[Array, ""]) -> Observed:
        """The proximal map of the misfit, as a function of `u = Q(X)`."""
        return prox(self.misfit, observed, self.white.targets, self.white.squared_singular_values, step)

    def feasible(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, "d1 d2"]:
        """The nearest X inside the domain of the misfit."""
        observed = self.white.forward(matrix)
        return matrix - self.white.adjoint(
            observed - project(self.misfit, observed, self.white.targets, self.white.squared_singular_values)
        )

    def loss(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`h` at X."""
        return self.misfit.value(
            jnp.sqrt(self.white.squared_singular_values) * (self.white.forward(matrix) - self.white.targets)
        )

    def feasible_multipliers(self, weights: Observed) -> Observed:
        """Multipliers u of Q scaled to feasibility."""
        polar = self.gauge.polar(self.white.adjoint(weights))
        limit = self.misfit.limit(weights / jnp.sqrt(self.white.squared_singular_values))
        return weights / jnp.maximum(1.0, jnp.maximum(polar, limit))

    def bound(self, weights: Observed) -> Float[Array, ""]:
        """The lower bound `c.u - h*(squared_singular_values^{-1/2} u)`."""
        return self.white.targets @ weights - self.misfit.conjugate(
            weights / jnp.sqrt(self.white.squared_singular_values)
        )
