"""Gatmiry, Li, Chuang, Reddi, Ma, Jegelka 2023: the inductive bias of flatness for deep matrix factorisation.

Normalisation: `f(W) = (1/n) sum (<A_i, W_L..W_1> - b_i)^2`, `F(M) = min { tr H : E(W) = M }`.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from flatmin._core import Integer, Numbers, Real, RealArray, checked
from flatmin.measurements import AbstractMeasurements, col_gram, row_gram
from flatmin.theory._statements import statement


@checked()
def nuclear_norm(matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
    """`||M||_* = sum_j s_j`."""
    return jnp.sum(jnp.linalg.svd(matrix, compute_uv=False))


@checked()
@statement("value", "[G, Lemma 4]", "(1/n) sum <A_i, X>^2 = ||X||_F^2 for every X; hidden widths >= min(d_0, d_L)")
def population_regulariser(nuclear: ArrayLike, depth: int, matrix_shape: tuple[int, int]) -> Float[Array, ""]:
    """`F(M) = 2 L (d_0 d_L)^{1/L} ||M||_*^{2(L-1)/L}`, the induced regulariser in the population limit.

    Args:
        nuclear: `||M||_*`.
        depth: L >= 1.
        matrix_shape: (d_L, d_0).

    Returns:
        The smallest trace of the Hessian over all factors of M.

    Raises:
        UsageError: for depth < 1.
    """
    return 2 * depth * (matrix_shape[0] * matrix_shape[1]) ** (1 / depth) * jnp.asarray(nuclear) ** (2 - 2 / depth)


@checked()
@statement("lower", "[G, Thm 1.1]", "(1, delta)-RIP")
def rip_regulariser_lower(
    nuclear: ArrayLike, depth: int, matrix_shape: tuple[int, int], delta: ArrayLike
) -> Float[Array, ""]:
    """`(1 - delta) F_pop(M) <= F(M)`; arguments as `population_regulariser`, and the RIP constant delta."""
    return (1 - jnp.asarray(delta)) * population_regulariser(nuclear, depth, matrix_shape)


@checked()
@statement("upper", "[G, Thm 1.1]", "(1, delta)-RIP")
def rip_regulariser_upper(
    nuclear: ArrayLike, depth: int, matrix_shape: tuple[int, int], delta: ArrayLike
) -> Float[Array, ""]:
    """`F(M) <= (1 + delta) F_pop(M)`; arguments as `population_regulariser`, and the RIP constant delta."""
    return (1 + jnp.asarray(delta)) * population_regulariser(nuclear, depth, matrix_shape)


@checked(depth=Integer(2))
@statement("upper", "[G, Thm 1.2]", "(1, delta)-RIP with delta < 1, L >= 2")
def rip_nuclear_ratio(depth: int, delta: ArrayLike) -> Float[Array, ""]:
    """`||M_flat||_* / min{||M||_* : A(M) = b} <= ((1+delta)/(1-delta))^{L/(2(L-1))}`.

    Args:
        depth: L >= 2.
        delta: the (1, delta)-RIP constant, below 1.

    Returns:
        The largest possible ratio.

    Raises:
        UsageError: for depth < 2.
    """
    delta = jnp.asarray(delta)
    return ((1 + delta) / (1 - delta)) ** (depth / (2 * (depth - 1)))


@checked()
@statement("upper", "[G, Thm 2]", "(2, delta)-RIP")
def rip_recovery_error(flat_nuclear: ArrayLike, true_nuclear: ArrayLike, delta: ArrayLike) -> Float[Array, ""]:
    """`||M_flat - M*||_F^2 <= delta (||M_flat||_* + ||M*||_*)^2`.

    Args:
        flat_nuclear: `||M_flat||_*`.
        true_nuclear: `||M*||_*`.
        delta: the (2, delta)-RIP constant.

    Returns:
        The bound on the squared Frobenius error.
    """
    return jnp.asarray(delta) * (jnp.asarray(flat_nuclear) + jnp.asarray(true_nuclear)) ** 2


@checked(num_measurements=Numbers(Real(0)))
@statement("value", "[G, Thm 4]", "Gaussian A_i, noiseless targets; expectation over the A_i")
def min_frobenius_error(num_measurements: ArrayLike, matrix_shape: tuple[int, int]) -> Float[Array, ""]:
    """`E ||M_F - M*||_F^2 / ||M*||_F^2 = (1 - n/(d_0 d_L))_+` of the minimum-Frobenius-norm interpolator.

    Args:
        num_measurements: n.
        matrix_shape: (d_L, d_0).

    Returns:
        The expected relative squared error.
    """
    return jnp.maximum(1 - jnp.asarray(num_measurements) / (matrix_shape[0] * matrix_shape[1]), 0)


@checked()
@statement("value", "[G, Thm 5], [D, Thm 3.2]", "L = 2, any measurements")
def depth_two_regulariser(measurements: AbstractMeasurements, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
    """`F(M) = 4 ||D_out^{1/2} M D_in^{1/2}||_*`, `D_out = (1/n) sum A_i A_i^T`, `D_in = (1/n) sum A_i^T A_i`.

    Args:
        measurements: the operator.
        matrix: M, shape (d1, d2).

    Returns:
        The smallest trace of the Hessian over all two-factor products equal to M.
    """
    n = measurements.num_measurements
    left = _psd_root(row_gram(measurements) / n)
    right = _psd_root(col_gram(measurements) / n)
    return 4 * nuclear_norm(left @ matrix @ right)


def _psd_root(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]) @ vectors.T


@checked()
@statement("value", "[G, Thm 7]", "n = 1, any depth >= 1")
def single_measurement_regulariser(
    measurement: Float[Array, "d1 d2"], matrix: Float[Array, "d1 d2"], depth: int
) -> Float[Array, ""]:
    """`F(M) = 2 L sum_j s_j^{2/L}`, `s_j` the singular values of `(A^T M)^{L-1} A^T`.

    Args:
        measurement: the only A, shape (d1, d2).
        matrix: M, shape (d1, d2).
        depth: L >= 1.

    Returns:
        The smallest trace of the Hessian over all factors of M. The singular values of the product carry an absolute
        error of `eps s_1`: for ill-conditioned `A^T M` or great depth only the large terms are accurate. As many are
        summed as its numerical rank (singular values up to `max(d) eps` of the norms count as zero, factor by factor).

    Raises:
        UsageError: for depth < 1.
    """
    s = jnp.linalg.svd(_single_measurement_product(measurement, matrix, depth), compute_uv=False)
    kept = jnp.arange(s.shape[0]) < product_rank(measurement, matrix, depth)
    return 2 * depth * jnp.sum(jnp.where(kept, jnp.where(kept, s, 1) ** (2 / depth), 0))


@checked(measurement=RealArray("d1 d2"), matrix=RealArray("d1 d2"))
def product_rank(measurement: Array, matrix: Array, depth: int) -> Int[Array, ""]:
    """The rank of `(A^T M)^{L-1} A^T`, singular values up to `max(d) eps` of each step counting as zero.

    Computed zeros to the power 2/L are far from zero, and those of a product cannot be told from small values; so the
    range is followed factor by factor, in orthonormal bases.
    """
    step = measurement.T @ matrix
    floor = max(matrix.shape) * jnp.finfo(step.dtype).eps
    least = floor * jnp.linalg.norm(measurement, 2) * jnp.linalg.norm(matrix, 2)
    basis, s, _ = jnp.linalg.svd(measurement.T, full_matrices=False)
    basis = jnp.where(s > floor * s[0], basis, 0)
    for _ in range(depth - 1):
        basis, s, _ = jnp.linalg.svd(step @ basis, full_matrices=False)
        basis = jnp.where(s > least, basis, 0)
    return jnp.sum(jnp.any(basis != 0, axis=0))


def _single_measurement_product(measurement: Array, matrix: Array, depth: int) -> Array:
    product = measurement.T
    for _ in range(depth - 1):
        product = (measurement.T @ matrix) @ product
    return product


@checked(measurement=RealArray("d d"), matrix=RealArray("d d"), depth=Integer(2))
@statement("minimiser", "[G, Thm 7]", "n = 1, A and M square and invertible, all widths d")
def single_measurement_minimiser(
    measurement: Float[Array, "..."], matrix: Float[Array, "d d"], depth: int
) -> tuple[Float[Array, "..."], ...]:
    """Factors `(W_1, ..., W_L)` of M that attain `single_measurement_regulariser`.

    With `(A^T M)^{L-1} A^T = Y diag(s) Z^T`, `Y_0 = Y`, `Y_L = Z` and inner `Y_l = I`:
    `G_l = Y_{l-1} diag(s)^{1/L} Y_l^T`, `P_L = I`, `P_l = M A^T P_{l+1} G_{l+1}^{-1}`,
    `W_{l+1} = P_{l+1}^{-1} P_l`, `W_1 = P_1^{-1} M`.

    Args:
        measurement: the only A, square and invertible.
        matrix: M, square and invertible.
        depth: L >= 2.

    Returns:
        The factors.

    Raises:
        UsageError: for depth < 2 or matrices that are not square.
    """
    Y, s, Zt = jnp.linalg.svd(_single_measurement_product(measurement, matrix, depth))
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    frames = [Y, *[eye] * (depth - 1), Zt.T]
    root = s ** (1 / depth)
    lefts = [eye]  # P_L, P_{L-1}, ..., P_1
    for layer in range(depth, 1, -1):
        # G^{-1} = Y_l diag(s)^{-1/L} Y_{l-1}^T
        inverse = (frames[layer] / root[None, :]) @ frames[layer - 1].T
        lefts.append(matrix @ measurement.T @ lefts[-1] @ inverse)
    lefts.reverse()
    layers = [jnp.linalg.solve(lefts[0], matrix)]
    layers += [jnp.linalg.solve(lefts[i + 1], lefts[i]) for i in range(depth - 1)]
    return tuple(layers)


@checked(matrix=RealArray("d1 d2", nonempty=True), p=Real(0, above=True))
def schatten(matrix: Float[Array, "d1 d2"], p: ArrayLike) -> Float[Array, ""]:
    """`||M||_{S_p} = (sum_j s_j^p)^{1/p}`, a quasi-norm for p < 1 [G, Def. 2]; scaled so that it cannot overflow.

    The sum is over the numerical rank: singular values up to `max(d1, d2) eps s_1` are computed zeros, whose p-th power
    would not be small.
    """
    s = jnp.linalg.svd(matrix, compute_uv=False)
    top = jnp.maximum(jnp.max(s), jnp.finfo(s.dtype).tiny)
    kept = s > max(matrix.shape) * jnp.finfo(s.dtype).eps * top
    powers = jnp.where(kept, jnp.where(kept, s / top, 1) ** p, 0)
    return top * jnp.where(jnp.any(kept), jnp.sum(powers), 1) ** (1 / jnp.asarray(p))
