"""The induced regulariser `F(M) = inf { tr H : W_L ... W_1 = M }`, computed to a proven interval."""

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flatmin._core import (
    Optional,
    Outcome,
    Real,
    RealArray,
    Result,
    UsageError,
    as_real,
    check_finite,
    check_positive,
    check_shape,
    checked,
    require_float64,
)
from flatmin._core.display import number
from flatmin.interpolators._chain import Chain, ChainResult, gap_bound, minimise_chain
from flatmin.measurements import AbstractMeasurements, col_gram, materialise, right_vector, row_gram
from flatmin.parameterizations import DeepMatrix
from flatmin.theory.gatmiry2023 import depth_two_regulariser, product_rank

LowerKind = Literal["geodesic convexity", "closed form", "single measurements", "none"]
ROUNDING = 50  # units of rounding of the value, times the longest sum


@dataclasses.dataclass(frozen=True, repr=False)
class InducedRegulariser(Result):
    """`F(M)` between two ends.

    Attributes:
        value: the trace at `factors`: an upper end.
        lower: a lower end, 0 where nothing better is known.
        lower_kind: `"geodesic convexity"` (proved from the gradient and the smallest curvature), `"closed form"` (depth
            1 and 2, one measurement), `"single measurements"` (the mean of the values of one measurement at a time,
            [G, Thm 7]; valid, seldom sharp) or `"none"`.
        factors: `(W_1, ..., W_L)` of inner width r; `at_widths` carries them to others.
        attained: False if `factors` multiply to the part of M that the measurements see, `range(D_out)` and
            `range(D_in)`, and not to M: then the value is approached on the fibre, by factors that grow without bound.
        rank: r, of that part; singular values above `rank_tolerance`.
        rank_tolerance: what counted as zero.
        gradient: Riemannian gradient over the value; 0 at the minimum.
        curvature: smallest eigenvalue of the Riemannian Hessian over the value; where it is not positive the infimum is
            not attained, or not at one point only.
        curvature_error: residual bound of it.
        iterations: Newton steps.
        outcome: `converged` (the interval is within the tolerance), else `stalled` or `max_iterations`.
        method: `induced_regulariser`.
    """

    value: float
    lower: float
    lower_kind: LowerKind
    factors: tuple[Float[np.ndarray, "_ _"], ...]
    attained: bool
    rank: int
    rank_tolerance: float
    gradient: float
    curvature: float
    curvature_error: float
    iterations: int
    outcome: Outcome
    method: str = "induced_regulariser"

    def headline(self) -> str:
        """`F(M) in [27.85, 27.85], gap 2e-12, rank 2`."""
        ended = "" if self.outcome.success else f"{self.outcome.name}: "
        ends = f"F(M) in [{number(self.lower, 10)}, {number(self.value, 10)}], gap {number(self.gap, 1)}"
        return f"{ended}{ends}, lower end by {self.lower_kind}, rank {self.rank}"

    def reached(self) -> str:
        """The interval."""
        return f"the value lies between {self.lower:.6g} and {self.value:.6g}"

    @property
    def gap(self) -> float:
        """`(value - lower) / value`."""
        return (self.value - self.lower) / self.value if self.value > 0 else 0.0

    def at_widths(self, parameterization: DeepMatrix, key: Key[Array, ""]) -> tuple[Float[Array, "_ _"], ...]:
        """The factors in hidden layers of other widths: `W_l -> O_l W_l O_{l-1}^T` with random orthonormal columns.

        Args:
            parameterization: the deep matrix, of this depth.
            key: random key of the frames.

        Returns:
            Params with the same product and the same trace.

        Raises:
            UsageError: for another depth or shape, or a width below the rank.
        """
        widths = parameterization.widths
        ends = (self.factors[0].shape[1], self.factors[-1].shape[0])
        if parameterization.depth != len(self.factors) or (widths[0], widths[-1]) != ends:
            raise UsageError(
                f"parameterization: got widths {widths}, expected depth {len(self.factors)} from {ends[0]} to {ends[1]}"
            )
        if parameterization.max_rank < self.rank:
            raise UsageError(
                f"parameterization: got widths {widths}, expected all of at least the rank {self.rank} of the matrix"
            )
        keys = jax.random.split(key, len(widths))
        frames = [
            jax.random.orthogonal(k, width)[:, : self.rank] for k, width in zip(keys[1:-1], widths[1:-1], strict=True)
        ]
        lifted = [jnp.asarray(W) for W in self.factors]
        for j, frame in enumerate(frames):
            lifted[j], lifted[j + 1] = frame @ lifted[j], lifted[j + 1] @ frame.T
        return tuple(lifted)


@checked(tolerance=Real(0, above=True), rank_tolerance=Optional(Real(0, 1, below=True)))
def induced_regulariser(
    measurements: AbstractMeasurements,
    matrix: Float[Array, "d_L d_0"],
    depth: int,
    *,
    tolerance: float = 1e-9,
    rank_tolerance: float | None = None,
    max_iterations: int = 100,
    throw: bool = False,
) -> InducedRegulariser:
    """`F(M) = inf { tr H(W) : W_L ... W_1 = M }`, H the Hessian of `(1/m) sum (<A_i, E(W)> - b_i)^2` at zero residual.

    What no measurement sees of M (left of `range(D_out)`, right of `range(D_in)`) costs nothing, in the limit; it is
    projected away first. The problem over one fibre is geodesically convex in the Gram matrices of the left products,
    so that the value is global, whatever the measurements and the depth, and does not depend on the hidden widths as
    long as these are at least rank(M). It is homogeneous of degree `2 (L-1)/L` in M and of degree 2 in the
    measurements. At depth 2 it is `4 ||D_out^{1/2} M D_in^{1/2}||_*` [G, Thm 5], with one measurement
    `2 L sum_j s_j((A^T M)^{L-1} A^T)^{2/L}` [G, Thm 7], and where `(1/m) sum <A_i, X>^2 = ||X||_F^2` it is
    `2 L (d_0 d_L)^{1/L} ||M||_*^{2(L-1)/L}` [G, Lemma 4].

    Args:
        measurements: the operator, in float64.
        matrix: M, shape (d_L, d_0), float64.
        depth: L >= 1.
        tolerance: largest accepted relative width of the interval.
        rank_tolerance: singular values of M up to it count as zero; default `max(d) eps s_1`.
        max_iterations: Newton steps at most.
        throw: raise unless the interval is within the tolerance.

    Returns:
        Both ends, and factors that attain the upper one. Cost, beside reading the measurements rank(M) + 2 times: about
        ten Newton steps with `(L-1) r (r+1)/2` unknowns.

    Raises:
        UsageError: for a wrong shape, numbers that are not finite or not float64, or a depth below 1.
        JobError: if `throw` and the outcome is not a success.
    """
    matrix = as_real("matrix", matrix)
    check_shape("matrix", matrix, measurements.matrix_shape)
    check_finite("matrix", matrix)
    require_float64("induced_regulariser", matrix)
    check_positive("tolerance", tolerance)
    if depth != int(depth) or depth < 1:
        raise UsageError(f"depth: got {depth}, expected a whole number >= 1")
    result = _solve(measurements, np.asarray(matrix), int(depth), tolerance, rank_tolerance, max_iterations)
    return result.raise_if_failed() if throw else result


def _solve(op, M, depth, tolerance, rank_tolerance, max_iterations) -> InducedRegulariser:
    m, eps = op.num_measurements, np.finfo(float).eps
    rows, cols = np.asarray(row_gram(op)), np.asarray(col_gram(op))
    seen = _on_range(rows, _on_range(cols, M.T).T) if depth > 1 else M
    hidden = float(np.linalg.norm(M - seen)) > max(M.shape) * eps * float(np.linalg.norm(M))
    M = seen if hidden else M
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    zero = max(M.shape) * eps * s[0] if rank_tolerance is None else float(rank_tolerance)
    r = int(np.sum(s > zero))
    common = {"rank": r, "rank_tolerance": float(zero), "attained": not hidden}
    exact = {"gradient": 0.0, "curvature": np.nan, "curvature_error": np.nan, "iterations": 0}
    if depth == 1:
        value = 2 / m * float(jnp.trace(row_gram(op)))
        return InducedRegulariser(value, value, "closed form", (M,), outcome=Outcome.converged, **common, **exact)
    if r == 0:
        shapes = [(0, M.shape[1]), *[(0, 0)] * (depth - 2), (M.shape[0], 0)]
        nothing = tuple(np.zeros(shape) for shape in shapes)
        return InducedRegulariser(0.0, 0.0, "closed form", nothing, outcome=Outcome.converged, **common, **exact)
    U, s, V = U[:, :r], s[:r], Vt[:r].T
    # in units where the matrix and the measurements are of order one
    unit = s[0]
    energy = max(float(np.trace(rows)), np.finfo(float).tiny)
    N = V * (s / unit)
    middle = _kraus(op, U, N) / np.sqrt(energy) if depth > 2 else np.zeros((0, r, r))
    chain = Chain(_symmetric(U.T @ rows @ U) / energy, middle, _symmetric(N.T @ cols @ N) / energy, depth)
    root = np.diag(np.sqrt(s / unit))
    found = minimise_chain(chain, [root] * (depth - 1), max_iterations=max_iterations)
    scale = 2 / m * energy * unit ** (2 - 2 / depth)
    value = scale * found.value
    rounding = ROUNDING * depth * max(*M.shape, len(middle)) * eps * value
    lower, kind = _lower_end(op, M, depth, value, scale * (found.value - gap_bound(found)) - rounding)
    outcome = found.outcome
    if value - lower <= tolerance * value:
        outcome = Outcome.converged
    elif outcome is Outcome.converged:
        outcome = Outcome.stalled
    return InducedRegulariser(
        value,
        lower,
        kind,
        _factors(found, U, N * unit, unit, depth),
        gradient=found.gradient / found.value,
        curvature=found.curvature / found.value,
        curvature_error=found.curvature_error / found.value,
        iterations=found.iterations,
        outcome=outcome,
        **common,
    )


def _on_range(moment: np.ndarray, X: np.ndarray) -> np.ndarray:
    """The columns of X projected on the range of a psd matrix."""
    values, vectors = np.linalg.eigh(moment)
    kept = vectors[:, values > 10 * len(values) * np.finfo(float).eps * values[-1]]
    return X if kept.shape[1] == len(values) else kept @ (kept.T @ X)


def _symmetric(S: np.ndarray) -> np.ndarray:
    return (S + S.T) / 2


@eqx.filter_jit
def _right_vectors(op: AbstractMeasurements, vectors: Float[Array, "k d2"]) -> Float[Array, "k m d1"]:
    return jax.lax.map(lambda v: right_vector(op, v), vectors)


def _kraus(op: AbstractMeasurements, U: np.ndarray, N: np.ndarray) -> Float[np.ndarray, "k r r"]:
    """`U^T A_i N`, at most r^2 of them: any list with the same second moments gives the same trace."""
    r = U.shape[1]
    # padded to full width: the number of columns is no new compilation
    padded = np.zeros((min(op.matrix_shape), op.matrix_shape[1]))
    padded[:r] = N.T
    right = np.asarray(_right_vectors(op, jnp.asarray(padded)))[:r]  # (r, m, d1)
    middle = np.einsum("da,bid->iab", U, right, optimize=True)
    if len(middle) > r * r:
        middle = np.asarray(np.linalg.qr(middle.reshape(-1, r * r), mode="r")).reshape(r * r, r, r)
    return middle


def _lower_end(op, M, depth, value, certified) -> tuple[float, LowerKind]:
    """The best proven lower end."""
    if certified > 0 and value - certified <= 1e-6 * value:
        return certified, "geodesic convexity"
    eps = np.finfo(float).eps
    slack = 1 - 1e3 * max(M.shape) * depth * eps
    if depth == 2 or op.num_measurements == 1:
        # the infimum need not be attained: the closed forms hold all the same
        exact = _depth_two(op, M) if depth == 2 else _single(op, M, depth)
        return max(min(exact * slack, value), certified, 0.0), "closed form"
    if certified > 0:
        return certified, "geodesic convexity"
    single = _mean_of_single(op, M, depth) * slack
    return (min(single, value), "single measurements") if single > 0 else (0.0, "none")


def _depth_two(op: AbstractMeasurements, M: np.ndarray) -> float:
    return float(depth_two_regulariser(op, jnp.asarray(M)))


def _single(op: AbstractMeasurements, M: np.ndarray, depth: int) -> float:
    return float(single_measurement_values(op, M, depth, slack=10.0)[0])


def _mean_of_single(op: AbstractMeasurements, M: np.ndarray, depth: int) -> float:
    """`(1/m) sum_i F_i(M) <= F(M)`: the smallest of a sum is at least the sum of the smallest."""
    return float(np.mean(single_measurement_values(op, M, depth, slack=10.0)))


@checked(M=RealArray("d1 d2", host=True), slack=Real(0))
def single_measurement_values(
    op: AbstractMeasurements, M: np.ndarray, depth: int, *, slack: float = 0.0
) -> Float[np.ndarray, " m"]:
    """`F_i(M) = 2 L sum_j s_j((A_i^T M)^{L-1} A_i^T)^{2/L}` of each measurement alone [G, Thm 7].

    Args:
        op: the measurements.
        M: the matrix. Only as many singular values are summed as the product's numerical rank: the others are zero, and
            their rounding to the power 2/L would not be small.
        depth: L.
        slack: so many units of rounding of the largest are taken off each singular value, for a lower end.

    Returns:
        One value a measurement.
    """
    A = np.asarray(materialise(op))
    powers = A.transpose(0, 2, 1)
    step = powers @ M
    ranks = np.asarray(_product_ranks(jnp.asarray(A), jnp.asarray(M), depth))
    for _ in range(depth - 1):
        powers = step @ powers
    s = np.linalg.svd(powers, compute_uv=False)
    if slack:
        s = np.maximum(s - slack * max(M.shape) * np.finfo(float).eps * s[:, :1], 0)
    s = np.where(np.arange(s.shape[1]) < ranks[:, None], s, 0)
    return 2 * depth * np.sum(s ** (2 / depth), axis=1)


@eqx.filter_jit
def _product_ranks(A: Float[Array, "m d1 d2"], M: Float[Array, "d1 d2"], depth: int) -> Array:
    return jax.vmap(lambda each: product_rank(each, M, depth))(A)


def _factors(found: ChainResult, U: np.ndarray, N: np.ndarray, unit: float, depth: int) -> tuple[np.ndarray, ...]:
    """`W_L = U R_{L-1}`, `W_l = R_l^{-1} R_{l-1}`, `W_1 = R_1^{-1} N^T`."""
    # X_l in units of the matrix: scaling M by c scales X_l by c^{2 l' / L}, l' the layers to the left of the cut
    roots = [R * unit ** ((depth - layer) / depth) for layer, R in enumerate(found.roots, start=1)]
    layers = [np.linalg.solve(roots[0], N.T)]
    layers += [np.linalg.solve(roots[j + 1], roots[j]) for j in range(depth - 2)]
    return (*layers, U @ roots[-1])
