"""What a misfit means in whitened coordinates: `h(A(X) - b)` as a function of `u = Q(X)`, with its proximal map.

With `r = gains^{1/2} (u - c)` an l2 misfit of `A(X) - b` is the same misfit of r (but for the part of b that no X
reaches), and an l1 misfit is so where the Gram matrix is diagonal.
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

Seen = Float[Array, " k"]

NEWTON_STEPS = 40
"""Most Newton steps for the multiplier of a ball; they increase it monotonically, about ten suffice."""


@functools.singledispatch
def pull(misfit: AbstractMisfit, seen: Seen, targets: Seen, gains: Seen, step: Float[Array, ""]) -> Seen:
    """`argmin_u step h(gains^{1/2} (u - c)) + ||u - seen||^2 / 2`."""
    raise UsageError(
        f"misfit: got {type(misfit).__name__}, which has no proximal map; use Exact, SquaredLoss, L2Ball, L1Loss, "
        "L1Ball or HuberLoss"
    )


@pull.register
def _(misfit: Exact, seen, targets, gains, step):
    del misfit, gains, step
    return jnp.broadcast_to(targets, seen.shape)


@pull.register
def _(misfit: SquaredLoss, seen, targets, gains, step):
    weight = step * gains / misfit.penalty
    return (seen + weight * targets) / (1 + weight)


@pull.register
def _(misfit: L1Loss, seen, targets, gains, step):
    return targets + _soft(seen - targets, step * misfit.weight * jnp.sqrt(gains))


@pull.register
def _(misfit: HuberLoss, seen, targets, gains, step):
    away, weight = seen - targets, step * gains / misfit.penalty
    limit = step * misfit.weight * jnp.sqrt(gains)
    return seen - jnp.clip(away * weight / (1 + weight), -limit, limit)


@pull.register
def _(misfit: L2Ball, seen, targets, gains, step):
    del step
    away = seen - targets
    radius = misfit.radius

    def size(multiplier):
        return jnp.linalg.norm(jnp.sqrt(gains) * away / (1 + multiplier * gains))

    def newton(carry):
        multiplier, _, count = carry
        shrunk = jnp.sqrt(gains) * away / (1 + multiplier * gains)
        norm = jnp.linalg.norm(shrunk)
        slope = jnp.sum(shrunk**2 * gains / (1 + multiplier * gains)) / norm
        # Newton's method on 1/size - 1/radius, which is concave and increasing
        return multiplier + (norm / radius - 1) * norm / slope, norm, count + 1

    def outside(carry):
        _, norm, count = carry
        return (norm > radius * (1 + 1e-14)) & (count < NEWTON_STEPS)

    zero = jnp.zeros((), seen.dtype)
    multiplier, _, _ = jax.lax.while_loop(outside, newton, (zero, size(zero), jnp.asarray(0)))
    return targets + away / (1 + multiplier * gains)


@pull.register
def _(misfit: L1Ball, seen, targets, gains, step):
    del step
    away, scale = seen - targets, jnp.sqrt(gains)
    radius = misfit.radius

    def newton(carry):
        threshold, _, count = carry
        left = jnp.abs(away) - threshold * scale
        alive = left > 0
        total = jnp.sum(jnp.where(alive, scale * left, 0))
        slope = jnp.sum(jnp.where(alive, gains, 0))
        return threshold + (total - radius) / jnp.maximum(slope, jnp.finfo(slope.dtype).tiny), total, count + 1

    def outside(carry):
        _, total, count = carry
        return (total > radius * (1 + 1e-14)) & (count < NEWTON_STEPS)

    zero = jnp.zeros((), seen.dtype)
    threshold, _, _ = jax.lax.while_loop(outside, newton, (zero, jnp.sum(scale * jnp.abs(away)), jnp.asarray(0)))
    return targets + _soft(away, threshold * scale)


def _soft(values: Array, threshold: Array) -> Array:
    return jnp.sign(values) * jnp.maximum(jnp.abs(values) - threshold, 0)


@functools.singledispatch
def project(misfit: AbstractMisfit, seen: Seen, targets: Seen, gains: Seen) -> Seen:
    """The nearest u inside the domain of the misfit; u itself where that is everything."""
    del misfit, targets, gains
    return seen


def _by_pulling(misfit: AbstractMisfit, seen: Seen, targets: Seen, gains: Seen) -> Seen:
    return pull(misfit, seen, targets, gains, jnp.ones((), seen.dtype))


for _kind in (Exact, L2Ball, L1Ball):
    project.register(_kind, _by_pulling)


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
    """A plain programme in whitened coordinates: `min N(X) + h(gains^{1/2} (Q(X) - c))`.

    Attributes:
        white: Q, c and the gains.
        misfit: h, in the units of c.
        gauge: N.
    """

    white: Whitened
    misfit: AbstractMisfit
    gauge: Gauge

    def pull(self, seen: Seen, step: Float[Array, ""]) -> Seen:
        """The proximal map of the misfit, as a function of `u = Q(X)`."""
        return pull(self.misfit, seen, self.white.targets, self.white.gains, step)

    def feasible(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, "d1 d2"]:
        """The nearest X inside the domain of the misfit."""
        seen = self.white.forward(matrix)
        return matrix - self.white.adjoint(seen - project(self.misfit, seen, self.white.targets, self.white.gains))

    def charge(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`h` at X."""
        return self.misfit.value(jnp.sqrt(self.white.gains) * (self.white.forward(matrix) - self.white.targets))

    def feasible_multipliers(self, weights: Seen) -> Seen:
        """Multipliers u of Q scaled to feasibility."""
        polar = self.gauge.polar(self.white.adjoint(weights))
        limit = self.misfit.limit(weights / jnp.sqrt(self.white.gains))
        return weights / jnp.maximum(1.0, jnp.maximum(polar, limit))

    def bound(self, weights: Seen) -> Float[Array, ""]:
        """The lower bound `c.u - h*(gains^{-1/2} u)`."""
        return self.white.targets @ weights - self.misfit.conjugate(weights / jnp.sqrt(self.white.gains))
