"""How the factors of a deep matrix lie to each other: balance, stable rank, alignment of singular vectors.

All functions take the tuple `(W_1, ..., W_L)`, raise `UsageError` for anything but matrices that can be multiplied in
this order, work under jit and vmap, and can be recorded:
`Record(alignment, every=100)`.
"""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from flatmin._core import checked
from flatmin.parameterizations.params import check_factors

Grams = tuple[Float[Array, "_ _"], ...]


@checked()
def balance_sides(params: PyTree) -> tuple[Grams, Grams]:
    """`W_{l+1}^T W_{l+1}` and `W_l W_l^T`, l = 1..L-1: their difference is conserved by gradient flow.

    Args:
        params: the factors.

    Returns:
        The two sides, L-1 matrices `(d_l, d_l)` each. What `gradient_flow(..., invariant=balance_sides)` takes: with
        both sides it knows what a drift is small against.
    """

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    params = check_factors(params)
    return tuple(product(W.T, W) for W in params[1:]), tuple(product(W, W.T) for W in params[:-1])


@checked()
def balancedness(params: PyTree) -> Grams:
    """`W_{l+1}^T W_{l+1} - W_l W_l^T`, l = 1..L-1; all zero for balanced factors.

    Args:
        params: the factors.

    Returns:
        L-1 matrices `(d_l, d_l)`; none for depth 1.
    """
    upper, lower = balance_sides(params)
    return tuple(a - b for a, b in zip(upper, lower, strict=True))


@checked()
def stable_ranks(params: PyTree) -> Float[Array, " L"]:
    """`||W_l||_F^2 / ||W_l||_2^2` of every factor: 1 for rank one, at most the rank.

    Args:
        params: the factors.

    Returns:
        One value a factor, NaN for a factor that is zero.
    """
    return jnp.stack([_stable_rank(jnp.linalg.svd(W, compute_uv=False)) for W in check_factors(params)])


@checked()
def rank_one_distances(params: PyTree) -> Float[Array, " L"]:
    """`min { ||W_l - R||_F : rank R <= 1 } / ||W_l||_F`, that is `(sum_{j>1} s_j^2 / sum_j s_j^2)^{1/2}`.

    Args:
        params: the factors.

    Returns:
        One value in [0, 1) a factor, 0 for rank one, NaN for a factor that is zero.
    """
    return jnp.stack([_rank_one_distance(jnp.linalg.svd(W, compute_uv=False)) for W in check_factors(params)])


@checked()
def neighbour_cosines(params: PyTree) -> Float[Array, " pairs"]:
    """`|<u_l, v_{l+1}>|`: top left singular vector of `W_l` against top right singular vector of `W_{l+1}`.

    Args:
        params: the factors.

    Returns:
        L-1 values in [0, 1]; 1 means that the layers hand on their strongest direction. Arbitrary where the top
        singular value of a factor is not simple (an identity, say), NaN beside a factor that is zero.
    """
    return alignment(params)["neighbour_cosines"]


@checked()
def alignment(params: PyTree) -> dict[str, Array]:
    """All three measures by one singular value decomposition a factor.

    Args:
        params: the factors.

    Returns:
        `stable_ranks` (L), `rank_one_distances` (L), `neighbour_cosines` (L-1).
    """
    params = check_factors(params)
    decompositions = [jnp.linalg.svd(W, full_matrices=False) for W in params]
    cosines = [
        jnp.where((s[0] > 0) & (t[0] > 0), jnp.abs(jnp.vdot(U[:, 0], Vt[0])), jnp.nan)
        for (U, s, _), (_, t, Vt) in itertools.pairwise(decompositions)
    ]
    return {
        "stable_ranks": jnp.stack([_stable_rank(s) for _, s, _ in decompositions]),
        "rank_one_distances": jnp.stack([_rank_one_distance(s) for _, s, _ in decompositions]),
        "neighbour_cosines": jnp.stack(cosines) if cosines else jnp.zeros((0,), params[0].dtype),
    }


def _ratios(s: Float[Array, " r"]) -> Float[Array, " r"]:
    """Singular values over the largest, so that no square leaves the range."""
    return jnp.where(s[0] > 0, s / jnp.where(s[0] > 0, s[0], 1), jnp.nan)


def _stable_rank(s: Float[Array, " r"]) -> Float[Array, ""]:
    return jnp.sum(_ratios(s) ** 2)


def _rank_one_distance(s: Float[Array, " r"]) -> Float[Array, ""]:
    ratios = _ratios(s)
    return jnp.sqrt(jnp.sum(ratios[1:] ** 2) / jnp.sum(ratios**2))
