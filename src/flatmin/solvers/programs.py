"""One family of programmes: a norm, weights, a domain and a misfit; the usual ones have names."""

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from flatmin._core import AnyOf, Choice, Flag, Optional, RealArray, SequenceOf, UsageError, checked
from flatmin.measurements import AbstractMeasurements, LowRankMeasurements, symmetrised
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._gauges import Domain, Gauge
from flatmin.solvers._moments import col_moment, row_moment
from flatmin.solvers._reweighted import multiply
from flatmin.solvers._roots import roots
from flatmin.solvers.misfits import AbstractMisfit, Exact

Weights = Literal["flat"] | tuple[ArrayLike, ArrayLike] | None
_SIDE = AnyOf(RealArray("_", low=0, above=True), RealArray("_ _", definite=True))


@checked(
    targets=RealArray("m"),
    norm=Choice("nuclear", "frobenius"),
    domain=Choice("all", "symmetric", "psd"),
    weights=Optional(AnyOf(Choice("flat"), SequenceOf(_SIDE, 2, names=("left", "right")))),
)
class MinNorm(AbstractProgram):
    """`min ||L X R||` over all, symmetric or positive semidefinite X, with `A(X) = b` or a misfit.

    The dual is `max b.y - h*(y) s.t. ||L^{-1} A*(y) R^{-1}||° <= 1`, with the polar norm: the operator norm of the
    nuclear norm, over positive semidefinite X (where the norm is the trace) the largest eigenvalue or 0.

    Attributes:
        measurements: `A`, in float64; over symmetric matrices their symmetric parts, all that such a matrix shows.
        targets: `b`, shape (m,), float64.
        misfit: the loss or the constraint of `A(X) - b`; default `Exact()`.
        norm_name: `nuclear` or `frobenius`.
        domain: `all`, `symmetric` or `psd`.
        roots: L and R; vectors if diagonal; empty without weights.
        inverse_roots: their inverses.

    Arguments beside those: `weights`, None; a pair of symmetric positive definite matrices (or positive vectors, which
    stand for diagonal ones) L and R, equal for symmetric matrices; or "flat", `L = D_out^{1/2}` and
    `R = D_in^{1/2}` of the measurements, whose solutions are flat [G, Thm 5; D, Thm 3.2].

    Raises:
        UsageError: for targets of a wrong shape, not finite or not float64; measurements that are not square where X
            is symmetric; weights without an inverse, naming the row or column that no measurement sees; or weights of
            a Frobenius norm, or a Frobenius norm over less than all matrices.
    """

    measurements: AbstractMeasurements
    targets: Array
    misfit: AbstractMisfit
    norm_name: str = eqx.field(static=True)
    domain: Domain = eqx.field(static=True)
    roots: tuple[Array, ...]
    inverse_roots: tuple[Array, ...]

    objective: ClassVar[str] = "norm"

    def __init__(
        self,
        measurements: AbstractMeasurements,
        targets: ArrayLike,
        misfit: AbstractMisfit | None = None,
        *,
        norm: Literal["nuclear", "frobenius"] = "nuclear",
        domain: Literal["all", "symmetric", "psd"] = "all",
        weights: Weights = None,
    ):
        if norm == "frobenius" and (domain != "all" or weights is not None):
            raise UsageError(
                "norm: got 'frobenius' with weights or a domain, expected 'nuclear', or neither; its closed form is "
                "for all matrices"
            )
        self.measurements = measurements if domain == "all" else _of_symmetric(measurements)
        self.targets, self.misfit = jnp.asarray(targets), Exact() if misfit is None else misfit
        self.norm_name, self.domain = norm, domain
        self.roots, self.inverse_roots = _weights(self.measurements, weights, symmetric=domain != "all")

    @property
    def gauge(self) -> Gauge:
        """The norm without its weights; the Frobenius norm has none."""
        return Gauge(self.domain)

    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||L X R||_*`, `||X||_F`, or `tr(L X R)` of a positive semidefinite X."""
        if self.norm_name == "frobenius":
            return jnp.linalg.norm(matrix)
        inside = multiply(self.roots[0], matrix, self.roots[1]) if self.roots else matrix
        return jnp.trace(inside) if self.domain == "psd" else self.gauge.value(inside)

    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||L^{-1} Z R^{-1}||_op`, `||Z||_F`, or `max(lambda_max(L^{-1} Z R^{-1}), 0)` of a symmetric Z."""
        if self.norm_name == "frobenius":
            return jnp.linalg.norm(matrix)
        left_right = self.inverse_roots
        return self.gauge.polar(multiply(left_right[0], matrix, left_right[1]) if left_right else matrix)


def _of_symmetric(measurements: AbstractMeasurements) -> AbstractMeasurements:
    """The measurements' symmetric parts, which is all that a symmetric matrix shows.

    Raises:
        UsageError: if the matrix is not square.
    """
    d1, d2 = measurements.matrix_shape
    if d1 != d2:
        raise UsageError(f"measurements: got matrix_shape {(d1, d2)}, expected a square one for a symmetric matrix")
    if isinstance(measurements, LowRankMeasurements) and np.array_equal(measurements.left, measurements.right):
        return measurements
    return symmetrised(measurements)


Pair = tuple[Array, ...]


def _weights(op: AbstractMeasurements, weights: Weights, *, symmetric: bool) -> tuple[Pair, Pair]:
    """L and R, and their inverses; empty where there are none."""
    match weights:
        case None:
            return (), ()
        case "flat" if symmetric:
            root, inverse = roots(row_moment(op), "row", "D^2", "scaled=False")
            return (root, root), (inverse, inverse)
        case "flat":
            out, inside = (
                roots(row_moment(op), "row", "D_out", "MinNuclearNorm"),
                roots(col_moment(op), "column", "D_in", "MinNuclearNorm"),
            )
            return (out[0], inside[0]), (out[1], inside[1])
    left, right = (jnp.asarray(side) for side in weights)
    if (len(left), len(right)) != op.matrix_shape:
        raise UsageError(f"weights: got sizes {len(left), len(right)}, expected {op.matrix_shape}, those of the matrix")
    if symmetric and not (left.shape == right.shape and np.array_equal(left, right)):
        raise UsageError("weights: got two that differ, expected the same on both sides of a symmetric matrix")
    inverses = (1 / side if side.ndim == 1 else jnp.asarray(np.linalg.inv(np.asarray(side))) for side in (left, right))
    return (left, right), tuple(inverses)


@checked(targets=RealArray("m"))
class MinNuclearNorm(MinNorm):
    """`min ||X||_* s.t. A(X) = b`; dual `max b.y s.t. ||A*(y)||_op <= 1`.

    Attributes and errors are those of `MinNorm`.
    """

    objective: ClassVar[str] = "nuclear norm"

    def __init__(self, measurements: AbstractMeasurements, targets: ArrayLike, misfit: AbstractMisfit | None = None):
        super().__init__(measurements, targets, misfit)


@checked(targets=RealArray("m"))
class MinFrobenius(MinNorm):
    """`min ||X||_F s.t. A(X) = b`; dual `max b.y s.t. ||A*(y)||_F <= 1` [G, Thm 4].

    Its closed form knows no misfit but `Exact()`. Attributes and errors are those of `MinNorm`.
    """

    objective: ClassVar[str] = "Frobenius norm"

    def __init__(self, measurements: AbstractMeasurements, targets: ArrayLike, misfit: AbstractMisfit | None = None):
        super().__init__(measurements, targets, misfit, norm="frobenius")


@checked(targets=RealArray("m"))
class MinScaledNuclearNorm(MinNorm):
    """`min ||D_out^{1/2} X D_in^{1/2}||_* s.t. A(X) = b`: the flat solutions of two factors [G, Thm 5; D, Thm 3.2].

    `D_out = (1/m) sum A_i A_i^T`, `D_in = (1/m) sum A_i^T A_i`, so four times the optimal value is the smallest
    trace of the Hessian of `(1/m) ||A(W_2 W_1) - b||^2` over interpolating factors. The dual is
    `max b.y s.t. ||D_out^{-1/2} A*(y) D_in^{-1/2}||_op <= 1`. In the notation of [D], `D_1 = D_out^{1/2} / sqrt(d_2)`
    and `D_2 = D_in^{1/2} / sqrt(d_1)`: the same solutions, the value divided by `sqrt(d_1 d_2)`.

    Attributes and errors are those of `MinNorm`: `roots` are `D_out^{1/2}` and `D_in^{1/2}`.
    """

    objective: ClassVar[str] = "weighted nuclear norm"

    def __init__(self, measurements: AbstractMeasurements, targets: ArrayLike, misfit: AbstractMisfit | None = None):
        super().__init__(measurements, targets, misfit, weights="flat")


@checked(targets=RealArray("m"), scaled=Flag())
class MinSymmetricNuclearNorm(MinNorm):
    """`min ||M||_*`, or `min ||D M D||_*` if scaled, over symmetric M with `A(M) = b` [D, Sec 4].

    `D^2 = (1/m) sum A_i^2` for symmetric `A_i`; with `A_i = x_i x_i^T` it is `(1/m) sum ||x_i||^2 x_i x_i^T`, and eight
    times the optimal value is the smallest trace of the Hessian of a quadratic network `M = U_1 U_1^T - U_2 U_2^T`
    with enough units. The dual is `max b.y s.t. ||D^{-1} A*(y) D^{-1}||_op <= 1`.

    Attributes and errors are those of `MinNorm`: `roots` are D, twice.
    """

    objective: ClassVar[str] = "nuclear norm of a symmetric matrix"

    def __init__(
        self,
        measurements: AbstractMeasurements,
        targets: ArrayLike,
        misfit: AbstractMisfit | None = None,
        *,
        scaled: bool = False,
    ):
        super().__init__(measurements, targets, misfit, domain="symmetric", weights="flat" if scaled else None)


@checked(targets=RealArray("m"), scaled=Flag())
class MinTrace(MinNorm):
    """`min tr M`, or `min tr(D M D)` if scaled, over positive semidefinite M with `A(M) = b` [D, Sec 4].

    Covariance estimation and phase retrieval: `M = U U^T`, D as in `MinSymmetricNuclearNorm`; eight times the optimal
    value is the smallest trace of the Hessian. The dual is `max b.y s.t. lambda_max(D^{-1} A*(y) D^{-1}) <= 1`.
    Targets that no positive semidefinite matrix has come back as infeasible, with y: `A*(y) <= 0` and `b.y = 1`.

    Attributes and errors are those of `MinNorm`: `roots` are D, twice.
    """

    objective: ClassVar[str] = "trace"

    def __init__(
        self,
        measurements: AbstractMeasurements,
        targets: ArrayLike,
        misfit: AbstractMisfit | None = None,
        *,
        scaled: bool = False,
    ):
        super().__init__(measurements, targets, misfit, domain="psd", weights="flat" if scaled else None)
