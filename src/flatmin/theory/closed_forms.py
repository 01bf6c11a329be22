"""Induced regularisers with a closed form beyond the papers' (rank one, disjoint blocks), and bounds of the rest.

Ours; the proofs are in `docs/closed-forms.md`. Normalisation: `f(W) = (1/n) sum (<A_i, W_L..W_1> - b_i)^2`,
`F(M) = min { tr H : W_L..W_1 = M }`, `D_out = (1/n) sum A_i A_i^T`, `D_in = (1/n) sum A_i^T A_i`,
`q(u, v) = (1/n) sum (u^T A_i v)^2`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from flatmin._core import Integer, Numbers, Real, UsageError, checked
from flatmin.measurements import AbstractMeasurements, col_gram, gram_form, row_gram
from flatmin.theory._statements import statement
from flatmin.theory.gatmiry2023 import nuclear_norm

ROUNDING = 4
"""A Gram form of unit vectors is a sum of d1 + d2 products at most: this many units of rounding for each, with room."""


def _rank_one_terms(
    measurements: AbstractMeasurements, left: Float[Array, " d1"], right: Float[Array, " d2"]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""], Float[Array, ""], Array, Array]:
    """`u^T D_out u`, `v^T D_in v`, `q(u, v)`, `s` and the unit vectors u, v of `left right^T = s u v^T`."""
    d1, d2 = measurements.matrix_shape
    if left.shape != (d1,) or right.shape != (d2,):
        raise UsageError(
            f"left, right: got shapes {left.shape} and {right.shape}, expected ({d1},) and ({d2},), the two vectors of "
            "M = left right^T"
        )
    n = measurements.num_measurements
    sizes = jnp.linalg.norm(left), jnp.linalg.norm(right)
    u, v = (x / jnp.where(size > 0, size, 1) for x, size in zip((left, right), sizes, strict=True))
    uu, vv = jnp.outer(u, u), jnp.outer(v, v)
    terms = jnp.stack(
        [gram_form(measurements, uu, None), gram_form(measurements, None, vv), gram_form(measurements, uu, vv)]
    )
    # what is rounding against the energy of all measurements is nothing: a power 1/L would make it something
    energy = gram_form(measurements, None, None)
    seen = terms > ROUNDING * (d1 + d2) * jnp.finfo(terms.dtype).eps * energy
    above, below, inner = jnp.where(seen, terms, 0) / n
    return above, below, inner, sizes[0] * sizes[1], u, v


@statement("value", "ours", "M of rank one; any measurements, any depth >= 2 and any widths")
@checked(depth=Integer(2))
def rank_one_regulariser(
    measurements: AbstractMeasurements, left: Float[Array, " d1"], right: Float[Array, " d2"], depth: int
) -> Float[Array, ""]:
    """`F(s u v^T) = 2 L [ (u^T D_out u) (v^T D_in v) q(u, v)^{L-2} ]^{1/L} s^{2-2/L}`, u and v unit vectors.

    On the fibre of a matrix of rank one the L terms of the trace have a fixed product, and the inequality of the means
    is attained. F is no function of `D_out^{1/2} M D_in^{1/2}` alone: q enters from depth 3 on.

    Args:
        measurements: the operator.
        left: shape (d1,); M = left right^T.
        right: shape (d2,).
        depth: L >= 2.

    Returns:
        The smallest trace of the Hessian over all factors of M; 0 where no measurement sees it. Cost: three Gram
        forms.

    Raises:
        UsageError: for a depth below 2 or vectors of another shape.
    """
    above, below, inner, size, _, _ = _rank_one_terms(measurements, left, right)
    # each factor to its power: the product itself may leave the range of numbers at great depth
    powers = above ** (1 / depth) * below ** (1 / depth)
    if depth > 2:
        powers = powers * inner ** ((depth - 2) / depth)
    return 2 * depth * powers * size ** (2 - 2 / depth)


@statement("minimiser", "ours", "M of rank one that the measurements see: u^T D_out u, v^T D_in v and q(u, v) positive")
@checked(depth=Integer(2))
def rank_one_minimiser(
    measurements: AbstractMeasurements, left: Float[Array, " d1"], right: Float[Array, " d2"], depth: int
) -> tuple[Float[Array, "..."], ...]:
    """Factors `(W_1, ..., W_L)` of `left right^T` that attain `rank_one_regulariser`, all hidden widths 1.

    `W_1 = c_1 v^T`, `W_l = c_l`, `W_L = c_L u` with `c_l^2` proportional to the l-th of
    `(u^T D_out u, q, ..., q, v^T D_in v)` and `prod c_l = s`. Wider layers: multiply by unit vectors between them.

    Args:
        measurements: the operator.
        left: shape (d1,); M = left right^T.
        right: shape (d2,).
        depth: L >= 2.

    Returns:
        The factors, shapes (1, d2), (1, 1), ..., (d1, 1).

    Raises:
        UsageError: for a depth below 2 or vectors of another shape.
    """
    above, below, inner, size, u, v = _rank_one_terms(measurements, left, right)
    logs = jnp.log(jnp.stack([above, *[inner] * (depth - 2), below]))
    c = jnp.exp((logs - jnp.mean(logs)) / 2) * size ** (1 / depth)
    middle = tuple(c[layer].reshape(1, 1) for layer in range(1, depth - 1))
    return (c[0] * v[None, :], *middle, c[-1] * u[:, None])


def _check_blocks(blocks: Sequence[Float[Array, "_ _"]], num_measurements: int, depth: int) -> list[Array]:
    if not len(blocks):
        raise UsageError("blocks: got none, expected the submatrices of the entries that are seen")
    arrays = [jnp.asarray(block) for block in blocks]
    for array in arrays:
        if array.ndim != 2 or 0 in array.shape:
            raise UsageError(f"blocks: got one of shape {array.shape}, expected matrices (rows, columns)")
    entries = sum(array.size for array in arrays)
    if entries != num_measurements:
        raise UsageError(
            f"num_measurements: got {num_measurements} for blocks of {entries} entries, expected one per entry"
        )
    return arrays


def _block_sum(blocks: Sequence[Array], num_measurements: int, depth: int) -> Float[Array, ""]:
    terms = [block.size ** (1 / depth) * nuclear_norm(block) ** (2 - 2 / depth) for block in blocks]
    return 2 * depth / num_measurements * jnp.sum(jnp.stack(terms))


@statement(
    "value", "ours", "entries seen: a union of rectangles with disjoint rows and disjoint columns; M zero elsewhere"
)
@checked(depth=Integer(2))
def block_completion_regulariser(
    blocks: Sequence[Float[Array, "_ _"]], num_measurements: int, depth: int
) -> Float[Array, ""]:
    """`F(M) = (2L/n) sum_k (|R_k| |C_k|)^{1/L} ||M_k||_*^{2-2/L}` for completion on disjoint blocks `R_k x C_k`.

    One block is [G, Lemma 4]; 1 x 1 blocks are the Hadamard formula of [D, Sec 5]. From depth 3 on this is no power of
    a Schatten norm of `D_1 M D_2` with fixed `D_1`, `D_2`.

    Args:
        blocks: the matrices `M_k` on the blocks.
        num_measurements: n, the number of entries seen: the sum of the sizes of the blocks.
        depth: L >= 2.

    Returns:
        The smallest trace of the Hessian over all factors of M (hidden widths at least the rank of M).

    Raises:
        UsageError: for a depth below 2, no blocks, or another number of entries.
    """
    return _block_sum(_check_blocks(blocks, num_measurements, depth), num_measurements, depth)


@statement("lower", "ours", "completion; any partition of the entries seen into fully seen rectangles; any depth >= 2")
@checked(depth=Integer(2))
def rectangle_lower_bound(blocks: Sequence[Float[Array, "_ _"]], num_measurements: int, depth: int) -> Float[Array, ""]:
    """`tr H >= (2L/n) sum (|R| |C|)^{1/L} ||Y_RC||_*^{2-2/L}` at every interpolating parameter.

    The trace is the sum of those of the groups of measurements, each at least its own minimum over the matrices that
    have these entries there: [G, Lemma 4] on the rectangle. Attained where rows and columns of the rectangles are
    disjoint and the matrix is zero elsewhere; for 1 x 1 rectangles it is then `(2L/n) sum |b_i|^{2-2/L}`.

    Args:
        blocks: the values seen in each rectangle, shape (|R|, |C|).
        num_measurements: n, the number of entries seen.
        depth: L >= 2.

    Returns:
        The bound.

    Raises:
        UsageError: for a depth below 2, no blocks, or another number of entries.
    """
    return _block_sum(_check_blocks(blocks, num_measurements, depth), num_measurements, depth)


@checked()
def whitened_nuclear_norm(measurements: AbstractMeasurements, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
    """`||M||_w = ||D_out^{1/2} M D_in^{1/2}||_*`; two symmetric eigenproblems and one singular value decomposition."""
    n = measurements.num_measurements
    return nuclear_norm(_psd_root(row_gram(measurements) / n) @ matrix @ _psd_root(col_gram(measurements) / n))


def _psd_root(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]) @ vectors.T


@statement("value", "ours", "q(u, v) tr D_out = (u^T D_out u)(v^T D_in v) for all u, v; at depth 2 any measurements")
@checked(depth=Integer(2))
def whitened_regulariser(
    measurements: AbstractMeasurements, matrix: Float[Array, "d1 d2"], depth: int
) -> Float[Array, ""]:
    """`F_w(M) = 2 L (tr D_out)^{(2-L)/L} ||D_out^{1/2} M D_in^{1/2}||_*^{2-2/L}`, exact where fourth moments factor.

    Contains [G, Lemma 4] (isotropic measurements) and [G, Thm 5] (depth 2). Elsewhere `whitened_lower` and
    `whitened_upper` hold it to F.

    Args:
        measurements: the operator.
        matrix: M, shape (d1, d2).
        depth: L >= 2.

    Returns:
        F_w(M).

    Raises:
        UsageError: for a depth below 2.
    """
    energy = jnp.trace(row_gram(measurements)) / measurements.num_measurements
    return 2 * depth * energy ** (2 / depth - 1) * whitened_nuclear_norm(measurements, matrix) ** (2 - 2 / depth)


@checked()
def fourth_moment_ratio(
    measurements: AbstractMeasurements, left: Float[Array, " d1"], right: Float[Array, " d2"]
) -> Float[Array, ""]:
    """`kappa(u, v) = tr(D_out) q(u, v) / ((u^T D_out u) (v^T D_in v))`: 1 where fourth moments factor.

    Its least and largest values over u, v are `kappa_-` and `kappa_+` of the whitened sandwich. To find them is as hard
    as a restricted isometry constant: what a search finds is an estimate, from inside.

    Args:
        measurements: the operator.
        left: u, shape (d1,), not zero.
        right: v, shape (d2,), not zero.

    Returns:
        The ratio.

    Raises:
        UsageError: for vectors of another shape.
    """
    above, below, inner, _, _, _ = _rank_one_terms(measurements, left, right)
    return jnp.trace(row_gram(measurements)) / measurements.num_measurements * inner / (above * below)


@statement("lower", "ours", "kappa_- is at most kappa(u, v) for all u, v; any measurements, depth >= 2")
@checked(depth=Integer(2), kappa=Numbers(Real(0)))
def whitened_lower(
    measurements: AbstractMeasurements, matrix: Float[Array, "d1 d2"], depth: int, kappa: ArrayLike
) -> Float[Array, ""]:
    """`kappa_-^{(L-2)/L} F_w(M) <= F(M)`; arguments as `whitened_regulariser`, and kappa_- of `fourth_moment_ratio`.

    Exact at depth 2, for all measurements: it contains [G, Thm 5].

    Raises:
        UsageError: for a depth below 2 or a negative kappa.
    """
    return jnp.asarray(kappa) ** ((depth - 2) / depth) * whitened_regulariser(measurements, matrix, depth)


@statement("upper", "ours", "kappa_+ is at least kappa(u, v) for all u, v; any measurements, depth >= 2")
@checked(depth=Integer(2), kappa=Numbers(Real(0)))
def whitened_upper(
    measurements: AbstractMeasurements, matrix: Float[Array, "d1 d2"], depth: int, kappa: ArrayLike
) -> Float[Array, ""]:
    """`F(M) <= kappa_+^{(L-2)/L} F_w(M)`; arguments as `whitened_regulariser`, and kappa_+ of `fourth_moment_ratio`.

    Raises:
        UsageError: for a depth below 2 or a negative kappa.
    """
    return jnp.asarray(kappa) ** ((depth - 2) / depth) * whitened_regulariser(measurements, matrix, depth)


@statement("upper", "ours", "kappa_-, kappa_+ hold for all u, v; any measurements, depth >= 2")
@checked(depth=Integer(2), kappa_low=Numbers(Real(0, above=True)), kappa_high=Numbers(Real(0)))
def whitened_norm_ratio(depth: int, kappa_low: ArrayLike, kappa_high: ArrayLike) -> Float[Array, ""]:
    """`||M_flat||_w / min{||M||_w : A(M) = b} <= (kappa_+ / kappa_-)^{(L-2)/(2(L-1))}`; 1 at depth 2.

    Args:
        depth: L >= 2.
        kappa_low: kappa_-, positive.
        kappa_high: kappa_+.

    Returns:
        The largest possible ratio.

    Raises:
        UsageError: for a depth below 2 or a negative kappa.
    """
    return (jnp.asarray(kappa_high) / jnp.asarray(kappa_low)) ** ((depth - 2) / (2 * (depth - 1)))
