"""The smallest sharpness of all minimisers of deep linear regression, exactly, and what bounds it.

Ours, completing [M, Thm 1]; the proofs are in `docs/closed-forms.md`. Normalisation as in `marion2024`: one output,
`Sigma = X^T X / n`, `a = w^T Sigma w / ||w||^2`, `Lambda = lambda_max(Sigma)`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from flatmin._core import UsageError, as_real, check_at_least, checked
from flatmin.theory._statements import statement

HIGHEST = jax.lax.Precision.HIGHEST
GOLDEN = (5**0.5 - 1) / 2
SECTIONS = 90
"""Golden sections: the bracket shrinks by 1.5e-19, to the rounding of log t."""


def _best_scale(
    covariance: Float[Array, "d d"], w: Float[Array, " d"], depth: int
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """`(tau, S / (2 ||w||^{2-2/L}), ||w||)`: the minimiser of `lambda_max(tau Sigma + (L-1) tau^{-1/(L-1)} z z^T)`."""
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1] or w.shape != covariance.shape[:1]:
        raise UsageError(f"covariance, w: got shapes {covariance.shape} and {w.shape}, expected (d, d) and (d,)")
    w_norm = jnp.linalg.norm(w)
    unit = w / jnp.where(w_norm > 0, w_norm, 1)
    values, vectors = jnp.linalg.eigh((covariance + covariance.T) / 2)
    values = jnp.maximum(values, 0)
    top = jnp.where(values[-1] > 0, values[-1], 1)
    values = values / top
    z = jnp.sqrt(values) * jnp.matmul(vectors.T, unit, precision=HIGHEST)
    if depth == 1:
        return jnp.ones_like(top), values[-1] * top, w_norm

    def height(log_scale: Array) -> Array:
        pulled = (depth - 1) * jnp.exp(-log_scale / (depth - 1))
        return jnp.linalg.eigvalsh(jnp.diag(jnp.exp(log_scale) * values) + pulled * jnp.outer(z, z))[-1]

    # lambda_max is at least tau and at least (L-1) tau^{-1/(L-1)} a; at tau = 1 it is at most 1 + (L-1) a (Weyl)
    a = jnp.sum(z**2)
    most = 1 + (depth - 1) * a
    floor = jnp.finfo(values.dtype).tiny
    low = (depth - 1) * jnp.log(jnp.maximum((depth - 1) * a / most, floor))
    high = jnp.log(most)

    def shrink(_: Int[Array, ""], ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        first, second = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left = height(first) < height(second)
        return jnp.where(left, low, first), jnp.where(left, second, high)

    low, high = jax.lax.fori_loop(0, SECTIONS, shrink, (low, high))
    # at the minimum the value depends on tau to second order only: its derivatives are those at fixed tau
    best = jax.lax.stop_gradient((low + high) / 2)
    return jnp.exp(best), height(best) * top, w_norm


@statement("value", "ours, completing [M, Thm 1]", "one output; w the end-to-end vector of the minimisers; any widths")
@checked()
def smallest_sharpness(covariance: Float[Array, "d d"], w: Float[Array, " d"], depth: int) -> Float[Array, ""]:
    """`S_min = 2 min_{t>0} lambda_max( t Sigma + (L-1) t^{-1/(L-1)} Sigma^{1/2} w w^T Sigma^{1/2} )`.

    The smallest sharpness of all minimisers with the end-to-end vector w (all minimisers, where Sigma is invertible).
    `Q_{l+1}^T Q_{l+1} >= w w^T / ||P_l||^2` in the Loewner order, and the inequality of the means over the ratios
    `||P_l||^2 / ||P_{l-1}||^2`. The function of `log t` is convex; 90 golden sections, one d x d
    eigenproblem each.

    Args:
        covariance: Sigma, shape (d, d), positive semidefinite.
        w: the least-squares solution, shape (d,).
        depth: L >= 1.

    Returns:
        The smallest sharpness; 0 for w = 0 and L > 1. Works under jit, vmap and grad.

    Raises:
        UsageError: for depth < 1 or other shapes.
    """
    check_at_least("depth", depth, 1)
    _, height, w_norm = _best_scale(covariance, w, depth)
    return 2 * w_norm ** (2 - 2 / depth) * height


@statement("minimiser", "ours, completing [M, Thm 1]", "as smallest_sharpness; w not zero")
@checked()
def smallest_sharpness_minimiser(
    covariance: Float[Array, "d d"], w: Float[Array, " d"], depth: int
) -> tuple[Float[Array, "..."], ...]:
    """Factors `(W_1, ..., W_L)` of `w^T` that attain `smallest_sharpness`, all hidden widths 1.

    Aligned layers of rank one: `W_1 = ||w|| t^{-1/2} u^T` and `W_l = t^{1/(2(L-1))}`, `u = w / ||w||`: not balanced
    ones, unless Sigma is a multiple of the identity. Wider layers: multiply by unit vectors between them.

    Args:
        covariance: Sigma, shape (d, d).
        w: the end-to-end vector, shape (d,).
        depth: L >= 1.

    Returns:
        The factors, shapes (1, d), (1, 1), ...

    Raises:
        UsageError: for depth < 1 or other shapes.
    """
    check_at_least("depth", depth, 1)
    if depth == 1:
        return (w[None, :],)
    scale, _, w_norm = _best_scale(covariance, w, depth)
    # t = tau ||w||^{2-2/L}
    first = w_norm ** (1 / depth) * scale**-0.5
    other = w_norm ** (1 / depth) * scale ** (1 / (2 * (depth - 1)))
    unit = w / jnp.where(w_norm > 0, w_norm, 1)
    return (first * unit[None, :], *[other.reshape(1, 1)] * (depth - 1))


@statement("upper", "[M, Thm 1], recalled", "one output; some minimiser is as flat as this")
@checked()
def smallest_sharpness_upper_bound(
    a: ArrayLike, lambda_max: ArrayLike, w_norm: ArrayLike, depth: int
) -> Float[Array, "..."]:
    """`S_min <= 2 ||w||^{2-2/L} sqrt((2L-1) Lambda^2 + (L-1)^2 a^2)`, with equality where Sigma is a multiple of I.

    Args:
        a: `w^T Sigma w / ||w||^2`.
        lambda_max: Lambda.
        w_norm: `||w||`.
        depth: L >= 1.

    Returns:
        The bound.

    Raises:
        UsageError: for depth < 1 or negative arguments.
    """
    a, lambda_max, w_norm = _numbers(depth, a=a, lambda_max=lambda_max, w_norm=w_norm)
    return 2 * w_norm ** (2 - 2 / depth) * jnp.sqrt((2 * depth - 1) * lambda_max**2 + (depth - 1) ** 2 * a**2)


@statement("upper", "ours", "the balanced minimiser of rank one, where gradient flow ends as its start shrinks to zero")
@checked()
def small_start_sharpness_upper_bound(
    a: ArrayLike, lambda_max: ArrayLike, w_norm: ArrayLike, depth: int
) -> Float[Array, "..."]:
    """`S <= 2 (Lambda + (L-1) a) ||w||^{2-2/L}` (Weyl), so that `S / S_min <= 1 + (Lambda / a - 1) / L`.

    At least four times below the line `8 L Lambda` that the paper plots; equality where Sigma is a multiple of I.

    Args:
        a: `w^T Sigma w / ||w||^2`.
        lambda_max: Lambda.
        w_norm: `||w||`.
        depth: L >= 1.

    Returns:
        The bound.

    Raises:
        UsageError: for depth < 1 or negative arguments.
    """
    a, lambda_max, w_norm = _numbers(depth, a=a, lambda_max=lambda_max, w_norm=w_norm)
    return 2 * (lambda_max + (depth - 1) * a) * w_norm ** (2 - 2 / depth)


def _numbers(depth: int, **numbers: ArrayLike) -> list[Array]:
    check_at_least("depth", depth, 1)
    for name, value in numbers.items():
        check_at_least(name, value, 0)
    return [as_real(name, value) for name, value in numbers.items()]
