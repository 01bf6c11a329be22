"""Marion, Chizat 2024: the sharpness of deep linear regression, and where gradient flow ends.

Normalisation: `f(W) = (1/n) ||X (W_L..W_1)^T - y||^2`, `Sigma = X^T X / n`, `w*` the least-squares solution,
`a = w*^T Sigma w* / ||w*||^2`, `Lambda = lambda_max(Sigma)`. For q outputs a `RecoveryProblem` divides by n q, not n:
these functions are about one output.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from flatmin._core import (
    Numbers,
    Real,
    RealArray,
    Shown,
    UsageError,
    as_real,
    check_at_least,
    check_finite,
    checked,
    is_traced,
)
from flatmin.theory._statements import statement

HIGHEST = jax.lax.Precision.HIGHEST


class RegressionConstants(Shown, eqx.Module):
    """The numbers of a least-squares problem that the theorems speak of.

    Attributes:
        minimiser: `w*`, the least-squares solution of least norm, shape (d,); exactly zero where the outputs have no
            part in the span of the inputs beyond rounding.
        w_norm: `||w*||`.
        a: `w*^T Sigma w* / ||w*||^2`; NaN where `w* = 0`, for then it is undefined.
        lambda_max: `Lambda`, the largest eigenvalue of `Sigma`.
        covariance: `Sigma = X^T X / n`, shape (d, d).
        least_loss: `(1/n) ||X w* - y||^2`.
        rank: rank of `Sigma`: the number of singular values of X above `max(n, d) eps` times the largest.
    """

    minimiser: Float[Array, " d"]
    w_norm: Float[Array, ""]
    a: Float[Array, ""]
    lambda_max: Float[Array, ""]
    covariance: Float[Array, "d d"]
    least_loss: Float[Array, ""]
    rank: Int[Array, ""]

    @property
    def unique(self) -> bool:
        """Whether `Sigma` is invertible, so that `w*` is the only least-squares solution."""
        return int(self.rank) == self.covariance.shape[0]

    @property
    def caveats(self) -> tuple[str, ...]:
        """One sentence for everything that is undefined or not unique; empty for a regular problem."""
        sentences = []
        if float(self.w_norm) == 0:
            sentences.append(
                "outputs: the least-squares solution w* is zero, so a = w*^T Sigma w* / ||w*||^2 is undefined (NaN); "
                "from depth 2 on the lower bound on the sharpness is 0 and no learning rate is excluded"
            )
        if not self.unique:
            sentences.append(
                f"inputs: the covariance has rank {int(self.rank)} of {self.covariance.shape[0]}, so the least-squares "
                "solution is not unique; w* is the one of least norm, whose lower bound holds for all of them, but a "
                "minimiser that is reached can have another end-to-end vector"
            )
        return tuple(sentences)


@checked(inputs=RealArray(), outputs=RealArray())
def regression_constants(inputs: ArrayLike | Any, outputs: ArrayLike | Any) -> RegressionConstants:
    """`w*`, `a`, `Lambda`, `Sigma` of a data set, by one singular value decomposition of X.

    Args:
        inputs: X, shape (n, d).
        outputs: y, shape (n,) or (n, 1).

    Returns:
        The constants, with `caveats` that say what is undefined: nothing is raised for a singular covariance or for
        `w* = 0`. Works under jit and vmap (`unique` and `caveats` need values).

    Raises:
        UsageError: for mismatched shapes, several outputs, no data, NaN or infinite data.
    """
    X, y = as_real("inputs", inputs), as_real("outputs", outputs)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if X.ndim != 2 or 0 in X.shape or y.shape != X.shape[:1]:
        raise UsageError(
            f"inputs, outputs: got shapes {X.shape} and {y.shape}, expected (n, d) and (n,) with n, d >= 1; the "
            "constants are those of one output"
        )
    check_finite("inputs", X)
    check_finite("outputs", y)
    n, d = X.shape
    U, s, Vt = jnp.linalg.svd(X, full_matrices=False)
    noise = max(n, d) * jnp.finfo(s.dtype).eps
    kept = s > noise * s[0]
    coordinates = jnp.where(kept, jnp.matmul(U.T, y, precision=HIGHEST), 0)
    vanishes = jnp.linalg.norm(coordinates) <= 10 * noise * jnp.linalg.norm(y)
    coordinates = jnp.where(vanishes, 0, coordinates)
    w = jnp.matmul(Vt.T, coordinates / jnp.where(kept, s, 1), precision=HIGHEST)
    w_norm = jnp.linalg.norm(w)
    unit = w / jnp.where(w_norm > 0, w_norm, 1)
    a = jnp.where(w_norm > 0, jnp.sum((X @ unit) ** 2) / n, jnp.nan)
    covariance = jnp.matmul(X.T, X, precision=HIGHEST) / n
    return RegressionConstants(
        w, w_norm, a, s[0] ** 2 / n, covariance, jnp.mean((X @ w - y) ** 2), jnp.sum(kept).astype(jnp.int32)
    )


@checked(a=Numbers(Real(0, undefined=True)))
@statement("lower", "[M, Thm 1]", "one output; every minimiser; w* the least-squares solution of least norm")
def sharpness_lower_bound(a: ArrayLike, w_norm: ArrayLike, depth: int) -> Float[Array, "..."]:
    """`S >= 2 L a ||w*||^{2-2/L}` at every minimiser, of any hidden widths.

    The paper assumes an invertible covariance; `minimiser_sharpness_lower_bound` shows that it holds without, if w* is
    the least-squares solution of least norm.

    Args:
        a: `w*^T Sigma w* / ||w*||^2`.
        w_norm: `||w*||`.
        depth: L >= 1.

    Returns:
        The bound; 0 for `w* = 0` and L > 1, whatever a (which is undefined there).

    Raises:
        UsageError: for depth < 1 or negative arguments.
    """
    a, w_norm = _constants(depth, a=a, w_norm=w_norm)
    bound = 2 * depth * a * w_norm ** (2 - 2 / depth)
    return bound if depth == 1 else jnp.where(w_norm == 0, 0.0, bound)


@checked(a=Numbers(Real(0, undefined=True)))
@statement("upper", "[M, Thm 1]", "as sharpness_lower_bound; gradient descent with a constant step")
def critical_learning_rate(a: ArrayLike, w_norm: ArrayLike, depth: int) -> Float[Array, "..."]:
    """`eta* = 1 / (L a ||w*||^{2-2/L})`: beyond it every minimiser is linearly unstable, `S > 2 / eta`.

    Args:
        a: `w*^T Sigma w* / ||w*||^2`.
        w_norm: `||w*||`.
        depth: L >= 1.

    Returns:
        The largest learning rate with which gradient descent can converge; infinite for `w* = 0` and L > 1.

    Raises:
        UsageError: for depth < 1 or negative arguments.
    """
    return 2 / sharpness_lower_bound(a, w_norm, depth)


@checked(covariance=RealArray("d d", semidefinite=True))
@statement(
    "lower", "ours, sharpening [M, Thm 1]", "one output; every least-squares minimiser, singular covariance included"
)
def minimiser_sharpness_lower_bound(
    covariance: Float[Array, "d d"], w: Float[Array, " d"], depth: int
) -> Float[Array, ""]:
    """`S >= 2 L ||Sigma w||^{2/L} (w^T Sigma w)^{1-2/L} >= 2 L a ||w||^{2-2/L}`, w any least-squares solution.

    It depends on w through `Sigma w = X^T y / n` only, so that it is one number for all minimisers of a problem, also
    where they do not have one end-to-end vector. Proof: test the eigenproblem of `2 Sigma^{1/2} T Sigma^{1/2}`,
    `T = sum_l ||P_l||^2 Q_l^T Q_l`, with the unit vector along `Sigma^{1/2} w`. That gives
    `S >= 2 sum_l ||P_l||^2 ||Q_l Sigma w||^2 / (w^T Sigma w)`, at least `2 L / (w^T Sigma w)` times the geometric
    mean of its terms; and `||P_l|| ||Q_{l+1} Sigma w|| >= P_l Q_{l+1} Sigma w = w^T Sigma w`, with `P_L = 1` and
    `Q_1 = I` at the ends. `||Sigma w|| >= w^T Sigma w / ||w||` gives [M, Thm 1].

    Args:
        covariance: Sigma, shape (d, d).
        w: a least-squares solution, shape (d,).
        depth: L >= 1.

    Returns:
        The bound; 0 where `Sigma w = 0` and L > 1, NaN there for L = 1.

    Raises:
        UsageError: for depth < 1.
    """
    check_at_least("depth", depth, 1)
    image = jnp.matmul(covariance, w, precision=HIGHEST)
    energy, length = jnp.vdot(w, image), jnp.linalg.norm(image)
    if depth == 1:
        return 2 * length**2 / energy
    vanishes = energy <= 0
    return jnp.where(
        vanishes, 0.0, 2 * depth * length ** (2 / depth) * jnp.where(vanishes, 1, energy) ** (1 - 2 / depth)
    )


@checked()
@statement("upper", "[M, Sec 3]", "gradient flow, initialisation scale -> 0; the line that the paper plots")
def flow_sharpness_upper_bound(lambda_max: ArrayLike, depth: int, w_norm: ArrayLike = 1.0) -> Float[Array, "..."]:
    """`S <= 8 L Lambda ||w*||^{2-2/L}` where gradient flow from a small initialisation ends.

    The paper has `||w*|| = 1`; the power of the norm follows from scaling the outputs. It is `4 Lambda / a` times
    the lower bound.

    Args:
        lambda_max: Lambda, the largest eigenvalue of the covariance.
        depth: L >= 1.
        w_norm: `||w*||`.

    Returns:
        The bound.

    Raises:
        UsageError: for depth < 1 or negative arguments.
    """
    lambda_max, w_norm = _constants(depth, lambda_max=lambda_max, w_norm=w_norm)
    return 8 * depth * lambda_max * w_norm ** (2 - 2 / depth)


@checked(covariance=RealArray("d d", semidefinite=True))
@statement("value", "[M, Sec 3]", "a balanced minimiser whose layers have rank one; one output")
def balanced_rank_one_sharpness(covariance: Float[Array, "d d"], w: Float[Array, " d"], depth: int) -> Float[Array, ""]:
    """`S = 2 ||w||^{2-2/L} lambda_max(Sigma + (L-1) Sigma^{1/2} u u^T Sigma^{1/2})`, `u = w / ||w||`.

    Where gradient flow ends in the limit of small initialisation. Not the flattest minimiser, unless Sigma is a
    multiple of the identity. One d x d symmetric eigenproblem: with `Sigma = R R^T` (R by the eigenvectors) the
    matrix has the eigenvalues of `R^T (I + (L-1) u u^T) R`.

    Args:
        covariance: Sigma, shape (d, d).
        w: the end-to-end vector, shape (d,).
        depth: L >= 1.

    Returns:
        The sharpness; 0 for w = 0 and L > 1.

    Raises:
        UsageError: for depth < 1.
    """
    check_at_least("depth", depth, 1)
    w_norm = jnp.linalg.norm(w)
    unit = w / jnp.where(w_norm > 0, w_norm, 1)
    values, vectors = jnp.linalg.eigh((covariance + covariance.T) / 2)
    values = jnp.maximum(values, 0)
    across = jnp.sqrt(values) * jnp.matmul(vectors.T, unit, precision=HIGHEST)
    top = jnp.linalg.eigvalsh(jnp.diag(values) + (depth - 1) * jnp.outer(across, across))[-1]
    return 2 * w_norm ** (2 - 2 / depth) * top


def _constants(depth: int, **constants: ArrayLike) -> list[Array]:
    check_at_least("depth", depth, 1)
    for name, value in constants.items():
        if not is_traced(value) and np.any(np.asarray(value) < 0):
            raise UsageError(f"{name}: got {value}, expected a value >= 0")
    return [as_real(name, value) for name, value in constants.items()]
