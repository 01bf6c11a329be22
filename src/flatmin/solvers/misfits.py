"""Misfits: what a programme charges for `A(X) - b`.

Every programme is `min N(X) + h(A(X) - b)` with a gauge N and one of the misfits h below. Its dual is
`max b.y - h*(y) s.t. N°(A*(y)) <= 1`, so a certificate needs of h: its value, how far its domain is violated, its
conjugate h*, and how far y lies outside the domain of h*.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flatmin._core import Real, UsageError, check_at_least, check_positive, checked


class AbstractMisfit(eqx.Module):
    """An even convex function h of the residual `r = A(X) - b`, with `h(0) = 0`."""

    @abc.abstractmethod
    def value(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """`h(r)` inside its domain; 0 for a constraint."""

    @abc.abstractmethod
    def violation(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """How far r lies outside the domain of h, in the norm that bounds it; 0 for a finite h."""

    @abc.abstractmethod
    def conjugate(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """`h*(y) = max_r y.r - h(r)` inside its domain."""

    @abc.abstractmethod
    def limit(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """The gauge of the domain of h*: y is inside where this is at most 1; 0 where h* is finite everywhere."""


class Exact(AbstractMisfit):
    """`A(X) = b`."""

    def value(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), residual.dtype)

    def violation(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """`||r||_2`."""
        return jnp.linalg.norm(residual)

    def conjugate(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), dual.dtype)

    def limit(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), dual.dtype)


def _number(value: ArrayLike) -> Float[Array, ""]:
    return jnp.asarray(value, dtype=jnp.result_type(float))


def _check_radius(radius: Array, instead: str) -> None:
    check_at_least("radius", radius, 0)
    if not bool(jnp.isfinite(radius) & (radius > 0)):
        raise UsageError(f"radius: got {radius}, expected a positive finite value; {instead}")


@checked(penalty=Real(0, above=True))
class SquaredLoss(AbstractMisfit):
    """`(1 / (2 penalty)) ||A(X) - b||_2^2`.

    Attributes:
        penalty: lambda > 0; to 0 the fit becomes exact.

    Raises:
        UsageError: for a penalty that is not positive and finite.
    """

    penalty: Float[Array, ""] = eqx.field(converter=_number)

    def __check_init__(self):
        check_positive("penalty", self.penalty)

    def value(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """`||r||^2 / (2 lambda)`."""
        return jnp.sum(residual**2) / (2 * self.penalty)

    def violation(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), residual.dtype)

    def conjugate(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """`lambda ||y||^2 / 2`."""
        return self.penalty * jnp.sum(dual**2) / 2

    def limit(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), dual.dtype)


@checked(radius=Real(0))
class L2Ball(AbstractMisfit):
    """`||A(X) - b||_2 <= radius`.

    Attributes:
        radius: rho > 0; with noise of deviation s, about `s sqrt(m)`.

    Raises:
        UsageError: for a radius that is not positive and finite.
    """

    radius: Float[Array, ""] = eqx.field(converter=_number)

    def __check_init__(self):
        _check_radius(self.radius, "for an exact fit use Exact()")

    def value(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), residual.dtype)

    def violation(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """`max(||r||_2 - rho, 0)`."""
        return jnp.maximum(jnp.linalg.norm(residual) - self.radius, 0)

    def conjugate(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """`rho ||y||_2`."""
        return self.radius * jnp.linalg.norm(dual)

    def limit(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), dual.dtype)


@checked(weight=Real(0, above=True))
class L1Loss(AbstractMisfit):
    """`weight ||A(X) - b||_1`: gross errors in few measurements.

    Attributes:
        weight: lambda > 0; `1/sqrt(max(d1, d2))` where entries are seen (robust PCA).

    Raises:
        UsageError: for a weight that is not positive and finite.
    """

    weight: Float[Array, ""] = eqx.field(converter=_number)

    def __check_init__(self):
        check_positive("weight", self.weight)

    def value(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """`lambda ||r||_1`."""
        return self.weight * jnp.sum(jnp.abs(residual))

    def violation(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), residual.dtype)

    def conjugate(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """0 where `||y||_inf <= lambda`."""
        return jnp.zeros((), dual.dtype)

    def limit(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """`||y||_inf / lambda`."""
        return jnp.max(jnp.abs(dual)) / self.weight


@checked(radius=Real(0))
class L1Ball(AbstractMisfit):
    """`||A(X) - b||_1 <= radius`.

    Attributes:
        radius: tau > 0, the sum of the sizes of all errors.

    Raises:
        UsageError: for a radius that is not positive and finite.
    """

    radius: Float[Array, ""] = eqx.field(converter=_number)

    def __check_init__(self):
        _check_radius(self.radius, "for an exact fit use Exact()")

    def value(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), residual.dtype)

    def violation(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """`max(||r||_1 - tau, 0)`."""
        return jnp.maximum(jnp.sum(jnp.abs(residual)) - self.radius, 0)

    def conjugate(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """`tau ||y||_inf`."""
        return self.radius * jnp.max(jnp.abs(dual))

    def limit(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), dual.dtype)


@checked(weight=Real(0, above=True), penalty=Real(0, above=True))
class HuberLoss(AbstractMisfit):
    """`min_S weight ||S||_1 + ||A(X) - b - S||_2^2 / (2 penalty)`: gross errors in few measurements, noise in all.

    A residual r counts `r^2 / (2 penalty)` up to `weight penalty`, and `weight |r| - weight^2 penalty / 2` beyond, so
    that the errors found are `S = r - clip(r, -weight penalty, weight penalty)` (stable principal component pursuit,
    Zhou et al. 2010). For measurements of single entries.

    Attributes:
        weight: lambda > 0, the price of a gross error.
        penalty: mu > 0; to 0 the loss becomes `L1Loss(weight)`.

    Raises:
        UsageError: for a weight or a penalty that is not positive and finite.
    """

    weight: Float[Array, ""] = eqx.field(converter=_number)
    penalty: Float[Array, ""] = eqx.field(converter=_number)

    def __check_init__(self):
        check_positive("weight", self.weight)
        check_positive("penalty", self.penalty)

    def value(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """The sum of Huber's function."""
        size, limit = jnp.abs(residual), self.weight * self.penalty
        small = size**2 / (2 * self.penalty)
        return jnp.sum(jnp.where(size <= limit, small, self.weight * (size - limit / 2)))

    def violation(self, residual: Float[Array, " m"]) -> Float[Array, ""]:
        """0."""
        return jnp.zeros((), residual.dtype)

    def conjugate(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """`mu ||y||^2 / 2` where `||y||_inf <= lambda`."""
        return self.penalty * jnp.sum(dual**2) / 2

    def limit(self, dual: Float[Array, " m"]) -> Float[Array, ""]:
        """`||y||_inf / lambda`."""
        return jnp.max(jnp.abs(dual)) / self.weight

    def errors(self, residual: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """S, the gross errors in `b - A(X)` or its negative."""
        limit = self.weight * self.penalty
        return residual - jnp.clip(residual, -limit, limit)
