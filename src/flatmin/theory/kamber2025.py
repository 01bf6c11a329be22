"""Kamber, Parhi 2025: the sharpness of deep matrix factorisation where the whole matrix is observed.

Normalisation: `f(W) = ||M - W_L..W_1||_F^2`, a sum and not a mean: a `RecoveryProblem` with `identity((d_L, d_0))`
divides by `d_0 d_L`, one with `scaled(identity((d_L, d_0)), (d_0 d_L)^{1/2})` has this f.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import RealArray, SequenceOf, UsageError, checked
from flatmin.theory._statements import statement

HIGHEST = jax.lax.Precision.HIGHEST


def _grams(layers: Sequence[Array]) -> list[tuple[Array, Array]]:
    """`(P_l P_l^T, Q_l^T Q_l)` of every layer, typed plainly."""
    if not layers or any(a.shape[0] != b.shape[1] for a, b in itertools.pairwise(layers)):
        raise UsageError(
            f"layers: got shapes {[W.shape for W in layers]}, expected W_1, ..., W_L with W_l of shape (d_l, d_(l-1))"
        )
    rights = [jnp.eye(layers[0].shape[1], dtype=layers[0].dtype)]
    for W in layers[:-1]:
        rights.append(jnp.matmul(W, rights[-1], precision=HIGHEST))
    lefts = [jnp.eye(layers[-1].shape[0], dtype=layers[-1].dtype)]
    for W in layers[:0:-1]:
        lefts.insert(0, jnp.matmul(lefts[0], W, precision=HIGHEST))
    return [
        (jnp.matmul(P, P.T, precision=HIGHEST), jnp.matmul(Q.T, Q, precision=HIGHEST))
        for P, Q in zip(lefts, rights, strict=True)
    ]


@checked(layers=SequenceOf(RealArray("_ _"), least=1))
@statement("value", "[Kamber, Parhi 2025]", "M = W_L..W_1, fully observed")
def fully_observed_sharpness(layers: Sequence[Array]) -> Float[Array, ""]:
    """`S = 2 lambda_max(sum_l Q_l^T Q_l (x) P_l P_l^T)` at a factorisation of M.

    Args:
        layers: (W_1, ..., W_L).

    Returns:
        The sharpness, by the dense Kronecker sum: memory `(d_0 d_L)^2`, for an oracle.

    Raises:
        UsageError: for layers that do not multiply.
    """
    total = sum(jnp.kron(right, left) for left, right in _grams(layers))
    return 2 * jnp.linalg.eigvalsh(jnp.asarray(total))[-1]


@checked(layers=SequenceOf(RealArray("_ _"), least=1))
@statement("upper", "[Kamber, Parhi 2025]", "M = W_L..W_1, fully observed; equality at L = 2")
def fully_observed_sharpness_upper_bound(layers: Sequence[Array]) -> Float[Array, ""]:
    """`S <= 2 sum_l ||P_l||_2^2 ||Q_l||_2^2`; arguments, result and errors as `fully_observed_sharpness`."""
    return 2 * jnp.asarray(sum(jnp.linalg.norm(left, 2) * jnp.linalg.norm(right, 2) for left, right in _grams(layers)))


@checked()
@statement("value", "[Kamber, Parhi 2025]", "smallest over all factorisations of M, hidden widths >= rank M")
def smallest_fully_observed_sharpness(matrix: Float[Array, "d1 d2"], depth: int) -> Float[Array, ""]:
    """`min S = 2 L ||M||_2^{2-2/L}`, attained by the balanced factors.

    Args:
        matrix: M.
        depth: L >= 1.

    Returns:
        The sharpness of the flattest factorisation.

    Raises:
        UsageError: for depth < 1.
    """
    return 2 * depth * jnp.linalg.norm(matrix, 2) ** (2 - 2 / depth)
