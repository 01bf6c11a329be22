"""Planted instances: a problem whose ground truth is known. The presets in the files beside it are made of these."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree, ScalarLike

from flatmin._core import Optional, Real, Shown, UsageError, check_at_least, check_shape, checked, is_traced
from flatmin.measurements import AbstractMeasurements
from flatmin.parameterizations import AbstractParameterization
from flatmin.problems.recovery import RecoveryProblem


@checked()
class PlantedProblem(Shown, eqx.Module):
    """A recovery problem and the matrix that made its targets.

    Attributes:
        problem: the problem, with targets `A(M* + S*) + noise`.
        truth: `M*`, shape (d1, d2).
        outliers: `S*`, the gross errors of robust PCA, shape (d1, d2); None where there are none.
        held_out: the same problem on measurements that were kept back, with noise of the same size; None if none were
            asked for. `held_out.loss(params)` is the test loss.
    """

    problem: RecoveryProblem
    truth: Float[Array, "d1 d2"]
    outliers: Float[Array, "d1 d2"] | None = None
    held_out: RecoveryProblem | None = None

    def headline(self) -> str:
        """The problem, and what else is known of it."""
        held = "" if self.held_out is None else f"; {self.held_out.num_samples:,} measurements held out"
        return (
            self.problem.headline() + "; truth known" + (", gross errors" if self.outliers is not None else "") + held
        )

    def squared_error(self, params: PyTree) -> Float[Array, ""]:
        """`||X(params) - M* - S*||_F^2`; for Gaussian measurements this is the population loss [G, Sec 5.3]."""
        seen = self.truth if self.outliers is None else self.truth + self.outliers
        return jnp.sum((self.problem.matrix(params) - seen) ** 2)

    def relative_error(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`||X - M*||_F / ||M*||_F` of a recovered matrix.

        Raises:
            UsageError: for a matrix of another shape.
        """
        check_shape("matrix", matrix, self.truth.shape)
        return jnp.linalg.norm(matrix - self.truth) / jnp.linalg.norm(self.truth)


@checked(norm=Optional(Real(0, above=True)))
def low_rank_matrix(
    key: Key[Array, ""], matrix_shape: tuple[int, int], rank: int, norm: float | None = 1.0
) -> Float[Array, "d1 d2"]:
    """`M* = M_1 M_2` with N(0, 1) factors (d1, r) and (r, d2), scaled to `||M*||_F = norm` [G, Sec 7].

    Args:
        key: random key.
        matrix_shape: (d1, d2).
        rank: r, from 1 to min(d1, d2).
        norm: the Frobenius norm; None leaves the product unscaled.

    Returns:
        The matrix.

    Raises:
        UsageError: for a rank that is out of range.
    """
    d1, d2 = matrix_shape
    if not 1 <= rank <= min(d1, d2):
        raise UsageError(f"rank: got {rank}, expected 1 <= rank <= min(d1, d2) = {min(d1, d2)}")
    left, right = jax.random.split(key)
    matrix = jax.random.normal(left, (d1, rank)) @ jax.random.normal(right, (rank, d2))
    return matrix if norm is None else matrix * (norm / jnp.linalg.norm(matrix))


@checked()
def planted(
    key: Key[Array, ""],
    measurements: AbstractMeasurements,
    parameterization: AbstractParameterization,
    truth: Float[Array, "d1 d2"],
    noise: ScalarLike = 0.0,
    *,
    outliers: Float[Array, "d1 d2"] | None = None,
    held_out: AbstractMeasurements | None = None,
) -> PlantedProblem:
    """Targets `b = A(M* + S*) + noise * N(0, 1)` for a given truth.

    Args:
        key: random key of the noise.
        measurements: the operator.
        parameterization: the map params -> X.
        truth: M*, shape (d1, d2).
        noise: standard deviation of the target noise, >= 0.
        outliers: S*, shape (d1, d2); default none.
        held_out: measurements for a test loss; default none.

    Returns:
        The planted problem.

    Raises:
        UsageError: for negative noise or shapes that do not fit.
    """
    check_at_least("noise", noise, 0)
    seen = truth if outliers is None else truth + outliers

    def problem(op: AbstractMeasurements, key: Key[Array, ""]) -> RecoveryProblem:
        targets = op.forward(seen)
        if is_traced(noise) or noise:
            targets = targets + noise * jax.random.normal(key, targets.shape)
        return RecoveryProblem(op, parameterization, targets)

    kept_back = None if held_out is None else problem(held_out, jax.random.fold_in(key, 1))
    return PlantedProblem(problem(measurements, key), truth, outliers, kept_back)
