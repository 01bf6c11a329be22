"""Ding, Drusvyatskiy, Fazel, Harchaoui 2022 [D]: flat minima of two-factor problems.

Normalisation: `f(L, R) = (1/m) ||A(L R^T) - b||^2`, `D_1 = ((1/(m d_2)) sum A_i A_i^T)^{1/2}`,
`D_2 = ((1/(m d_1)) sum A_i^T A_i)^{1/2}`; the scaled trace is `2 ||D_1 L||_F^2 + 2 ||D_2 R||_F^2`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import Integer, Real, RealArray, UsageError, check_shape, checked, is_traced
from flatmin.measurements import AbstractMeasurements, col_gram, row_gram
from flatmin.theory._statements import statement


@checked()
@statement("value", "[D, Sec 3]", "any measurements")
def weight_matrices(measurements: AbstractMeasurements) -> tuple[Float[Array, "d1 d1"], Float[Array, "d2 d2"]]:
    """`D_1` and `D_2`, the symmetric square roots of the scaled second moments.

    Args:
        measurements: A.

    Returns:
        Shapes (d1, d1) and (d2, d2).
    """
    m, (d1, d2) = measurements.num_measurements, measurements.matrix_shape
    return _root(row_gram(measurements) / (m * d2)), _root(col_gram(measurements) / (m * d1))


def _root(moment: Array) -> Array:
    values, vectors = jnp.linalg.eigh(moment)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]) @ vectors.T


@checked()
@statement("value", "[D, Thm 3.2]", "smallest over all factors of M with k >= rank M")
def smallest_scaled_trace(measurements: AbstractMeasurements, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
    """`min { 2 ||D_1 L||^2 + 2 ||D_2 R||^2 : L R^T = M } = 4 ||D_1 M D_2||_*`.

    Args:
        measurements: A.
        matrix: M, shape (d1, d2).

    Returns:
        The scaled trace of the flattest factors of M.
    """
    left, right = weight_matrices(measurements)
    return 4 * jnp.sum(jnp.linalg.svd(left @ matrix @ right, compute_uv=False))


@checked(rank_tolerance=Real(0, 1, below=True))
@statement("minimiser", "[D, Thm 3.2]", "D_1 and D_2 invertible, k >= rank M")
def flat_factors(
    measurements: AbstractMeasurements, matrix: Float[Array, "d1 d2"], width: int, *, rank_tolerance: float = 1e-9
) -> tuple[Float[Array, "d1 k"], Float[Array, "d2 k"]]:
    """The flattest factors of M: `L = D_1^{-1} U S^{1/2}`, `R = D_2^{-1} V S^{1/2}`, with `U S V^T = D_1 M D_2`.

    Args:
        measurements: A.
        matrix: M, shape (d1, d2).
        width: k, the columns of the factors; columns beyond the numerical rank are zero.
        rank_tolerance: a width is refused when more than so many singular values of `D_1 M D_2` exceed this fraction
            of the largest. Smaller ones are kept as far as the width allows: D_1 and D_2 may hide what M needs.

    Returns:
        L of shape (d1, k) and R of shape (d2, k), `L R^T = M`.

    Raises:
        UsageError: for a matrix of another shape, a width below the rank of M, or a singular D_1 or D_2.
    """
    left, right = weight_matrices(measurements)
    _check_invertible("D_1", left)
    _check_invertible("D_2", right)
    U, s, Vt = jnp.linalg.svd(left @ matrix @ right, full_matrices=False)
    rank = int(jnp.sum(s > rank_tolerance * s[0]))
    if rank > width:
        raise UsageError(
            f"width: got k = {width}, below the rank {rank} of the matrix; its factors need k >= {rank}: raise it"
        )
    kept = min(width, int(jnp.sum(s > max(matrix.shape) * jnp.finfo(s.dtype).eps * s[0])))
    root = jnp.sqrt(s[:kept])[None, :]
    pad = ((0, 0), (0, width - kept))
    return (
        jnp.pad(jnp.linalg.solve(left, U[:, :kept] * root), pad),
        jnp.pad(jnp.linalg.solve(right, Vt[:kept].T * root), pad),
    )


def _check_invertible(name: str, weight: Array) -> None:
    values = jnp.linalg.eigvalsh(weight)
    if not float(values[0]) > 1e-7 * float(values[-1]):
        raise UsageError(
            f"measurements: got a singular {name}, expected an invertible one in this precision (eigenvalues from "
            f"{float(values[0]):.1e} to {float(values[-1]):.1e}): some combination of rows or columns is seen too "
            "weakly beside the others, or not at all; rescale the rows or columns, or add measurements"
        )


def _extremes(weight: Array) -> tuple[Array, Array]:
    values = jnp.linalg.eigvalsh(weight)
    return values[0], values[-1]


@checked(left=RealArray("d1 d1", definite=True), right=RealArray("d2 d2", definite=True))
@statement("upper", "[D, Thm 3.3], constants derived here", "flat factors of a flat solution; D_1 and D_2 invertible")
def norm_gap_bound(left: Float[Array, "d1 d1"], right: Float[Array, "d2 d2"]) -> Float[Array, ""]:
    """`(||L||^2 + ||R||^2 - 2 ||M_nuc||_*) / (2 ||M_nuc||_*) <= (s_1^{-2} + s_2^{-2}) t_1 t_2 / 2 - 1`.

    `s_i` and `t_i` are the smallest and the largest eigenvalue of `D_i`. Because `||L||^2 <= s_1^{-2} tr S` and
    `tr S = ||D_1 M D_2||_* <= ||D_1 M_nuc D_2||_* <= t_1 t_2 ||M_nuc||_*`, M being flat; the same for R. At
    `D_1 = D_2` it is `kappa^2 - 1`, and it vanishes where both are the identity.

    Args:
        left: D_1.
        right: D_2.

    Returns:
        The bound.
    """
    (s1, t1), (s2, t2) = _extremes(left), _extremes(right)
    return (s1**-2 + s2**-2) * t1 * t2 / 2 - 1


@checked(left=RealArray("d1 d1", definite=True), right=RealArray("d2 d2", definite=True))
@statement("upper", "[D, Thm 3.3], constants derived here", "flat factors of any matrix; D_1 and D_2 invertible")
def imbalance_bound(left: Float[Array, "d1 d1"], right: Float[Array, "d2 d2"]) -> Float[Array, ""]:
    """`||L^T L - R^T R||_F / ||M||_F <= max(s_1^{-2} - t_2^{-2}, s_2^{-2} - t_1^{-2}) t_1 t_2`.

    `s_i` and `t_i` as in `norm_gap_bound`. Because `L^T L - R^T R = S^{1/2} (U^T D_1^{-2} U - V^T D_2^{-2} V) S^{1/2}`,
    the bracket is within the maximum in operator norm, and `||S||_F = ||D_1 M D_2||_F <= t_1 t_2 ||M||_F`. At
    `D_1 = D_2` it is `kappa^2 - 1`.

    Args:
        left: D_1.
        right: D_2.

    Returns:
        The bound.
    """
    (s1, t1), (s2, t2) = _extremes(left), _extremes(right)
    return jnp.maximum(s1**-2 - t2**-2, s2**-2 - t1**-2) * t1 * t2


@checked()
@statement("value", "[D, Sec 4]", "symmetric measurements")
def quadratic_weight(measurements: AbstractMeasurements) -> Float[Array, "d d"]:
    """`D = ((1/m) sum A_i^2)^{1/2}` of a quadratic network; `A_i = x_i x_i^T` gives `(1/m) sum ||x_i||^2 x_i x_i^T`.

    Args:
        measurements: A, each `A_i` symmetric.

    Returns:
        Shape (d, d).

    Raises:
        UsageError: for measurements of matrices that are not square, or whose row and column moments differ.
    """
    d1, d2 = measurements.matrix_shape
    if d1 != d2:
        raise UsageError(f"measurements: got matrix_shape {(d1, d2)}, expected a square one for a symmetric matrix")
    rows = row_gram(measurements)
    if not is_traced(rows):
        gap, size = float(jnp.abs(rows - col_gram(measurements)).max()), float(jnp.abs(rows).max())
        if gap > float(jnp.finfo(rows.dtype).eps) ** 0.5 * size:
            raise UsageError(
                "measurements: got some A_i that are not symmetric (row and column moments differ), expected symmetric "
                "ones; pass symmetrised(measurements), which sees the same of a symmetric matrix"
            )
    return _root(rows / measurements.num_measurements)


@checked(matrix=RealArray("d d", symmetric=True))
@statement("value", "[D, Sec 4]", "zero residual, smallest over all units of M; symmetric measurements")
def smallest_quadratic_trace(measurements: AbstractMeasurements, matrix: Float[Array, "d d"]) -> Float[Array, ""]:
    """`min { 8 (||D U_1||^2 + ||D U_2||^2) : U_1 U_1^T - U_2 U_2^T = M } = 8 ||D M D||_*`.

    Because `||P||_* + ||N||_* >= ||P - N||_*`, with equality at the positive and the negative part.

    Args:
        measurements: A, each `A_i` symmetric.
        matrix: M, symmetric, shape (d, d).

    Returns:
        The trace of the Hessian at the flattest units of M.
    """
    weight = quadratic_weight(measurements)
    return 8 * jnp.sum(jnp.abs(jnp.linalg.eigvalsh(weight @ matrix @ weight)))


@checked(matrix=RealArray("d d", symmetric=True))
@statement("minimiser", "[D, Sec 4]", "D invertible, as many units as eigenvalues of each sign")
def flat_units(
    measurements: AbstractMeasurements, matrix: Float[Array, "d d"]
) -> tuple[Float[Array, "d k1"], Float[Array, "d k2"]]:
    """The flattest units of M: `U_1 = D^{-1} V_+ S_+^{1/2}`, `U_2 = D^{-1} V_- S_-^{1/2}`, `D M D = V S V^T`.

    Args:
        measurements: A, each `A_i` symmetric.
        matrix: M, symmetric, shape (d, d).

    Returns:
        U_1 and U_2, a column for each eigenvalue of its sign above rounding.

    Raises:
        UsageError: for a matrix of another shape, or a singular D.
    """
    weight = quadratic_weight(measurements)
    _check_invertible("D", weight)
    values, vectors = jnp.linalg.eigh(weight @ matrix @ weight)
    floor = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    units = jnp.linalg.solve(weight, vectors * jnp.sqrt(jnp.abs(values))[None, :])
    return units[:, values > floor], units[:, values < -floor]


@checked(weight=RealArray("d d", definite=True))
@statement("upper", "[D, Thm 3.3], for quadratic networks, derived here", "flat units of a flat solution; D invertible")
def quadratic_norm_gap_bound(weight: Float[Array, "d d"]) -> Float[Array, ""]:
    """`(||U_1||^2 + ||U_2||^2) / ||M_nuc||_* - 1 <= kappa(D)^2 - 1`.

    Because `||U_1||^2 + ||U_2||^2 <= s^{-2} ||D M D||_* <= s^{-2} ||D M_nuc D||_* <= s^{-2} t^2 ||M_nuc||_*`, s and t
    the smallest and the largest eigenvalue of D.

    Args:
        weight: D.

    Returns:
        The bound.
    """
    s, t = _extremes(weight)
    return (t / s) ** 2 - 1


@checked(weight=RealArray("d d", definite=True))
@statement("upper", "[D, Thm 3.3], for quadratic networks, derived here", "flat units of any matrix; D invertible")
def overlap_bound(weight: Float[Array, "d d"]) -> Float[Array, ""]:
    """`||U_1^T U_2||_F / ||M||_F <= (kappa(D)^2 - 1) / (2 sqrt 2)`.

    Because `U_1^T U_2` is a block off the diagonal of `|S|^{1/2} V^T (D^{-2} - c I) V |S|^{1/2}` for every c, and
    `c = (s^{-2} + t^{-2}) / 2` leaves `(s^{-2} - t^{-2}) / 2` in operator norm; such a block appears twice, and
    `||S||_F <= t^2 ||M||_F`.

    Args:
        weight: D.

    Returns:
        The bound.
    """
    s, t = _extremes(weight)
    return ((t / s) ** 2 - 1) / (2 * jnp.sqrt(2.0))


@checked(weights=RealArray(low=0), vector=RealArray(), depth=Integer(2))
@statement("value", "[D, Sec 5]", "k Hadamard factors, smallest over all factors of x; k >= 2")
def smallest_hadamard_trace(weights: Float[Array, "..."], vector: Float[Array, "..."], depth: int) -> Float[Array, ""]:
    """`min tr H = 2 k sum_c D_c |x_c|^{2 - 2/k}` over `v_1 o ... o v_k = x`, `D_c = (1/m) sum_i A_ic^2`.

    Args:
        weights: D.
        vector: x, of the same shape.
        depth: k.

    Returns:
        The trace at the balanced factors `|v_l| = |x|^{1/k}`.

    Raises:
        UsageError: for shapes that differ.
    """
    check_shape("vector", vector, weights.shape)
    return 2 * depth * jnp.sum(weights * jnp.abs(vector) ** (2 - 2 / depth))
