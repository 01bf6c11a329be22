"""Mulayoff, Michaeli 2023: at which step size mini-batch SGD is stable in the mean square at an interpolating minimum.

Normalisation: `f = (1/n) sum_i f_i`, `H_i` the Hessian of `f_i` at a point where every `f_i` is least,
`H = (1/n) sum_i H_i`. Near it SGD is `theta <- (I - eta H_batch) theta`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import RealArray, UsageError, checked
from flatmin.theory._statements import statement


@checked()
def batch_noise_weight(num_samples: int, batch_size: int, *, replacement: bool = False) -> float:
    """The weight p in `E[H_B (x) H_B] = (1 - p) H (x) H + p mean_i(H_i (x) H_i)`.

    `p = (n - B) / (B (n - 1))` for B different samples, `p = 1 / B` for B independent ones.

    Args:
        num_samples: n >= 1.
        batch_size: B >= 1; at most n without replacement.
        replacement: whether a sample can come twice in a batch.

    Returns:
        p, between 0 and 1.

    Raises:
        UsageError: for a batch size out of range.
    """
    largest = float("inf") if replacement else num_samples
    if not 1 <= batch_size <= largest:
        wanted = "at least 1" if replacement else f"1 <= batch_size <= n = {num_samples} without replacement"
        raise UsageError(f"batch_size: got {batch_size}, expected {wanted}")
    if num_samples == 1:
        return 0.0
    if replacement:
        return 1 / batch_size
    return (num_samples - batch_size) / (batch_size * (num_samples - 1))


@checked(sample_hessians=RealArray("n p p", nonempty=True))
@statement("value", "[Mulayoff, Michaeli 2023]", "interpolating minimum, positive semidefinite H_i, small p")
def mean_square_stability_threshold(
    sample_hessians: Float[Array, "n p p"], batch_size: int, *, replacement: bool = False
) -> Float[Array, ""]:
    """`eta* = 2 / lambda_max(C^+ D)`: the second moment of SGD stays bounded exactly for `eta <= eta*`.

    `C = (H (+) H) / 2` and `D = (1 - p) H (x) H + p mean_i(H_i (x) H_i)`, with p of `batch_noise_weight`. It is
    `2 / S` for the full batch, and never more.

    Args:
        sample_hessians: the H_i, shape (n, p, p).
        batch_size: B.
        replacement: whether batches are drawn with replacement (`StochasticGradientDescent` does); the paper's are not.

    Returns:
        The threshold, infinite if every H_i is zero. Dense `p^2 x p^2` matrices: an oracle for small p.

    Raises:
        UsageError: for a batch size out of range.
    """
    n, size, _ = sample_hessians.shape
    weight = batch_noise_weight(n, batch_size, replacement=replacement)
    H = jnp.mean(sample_hessians, axis=0)
    eye = jnp.eye(size, dtype=H.dtype)
    C = (jnp.kron(H, eye) + jnp.kron(eye, H)) / 2
    pairs = jnp.einsum("iab,icd->acbd", sample_hessians, sample_hessians).reshape(size**2, size**2) / n
    D = (1 - weight) * jnp.kron(H, H) + weight * pairs
    values, vectors = jnp.linalg.eigh(C)
    kept = values > size**2 * jnp.finfo(values.dtype).eps * values[-1]
    root = vectors * jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)[None, :]
    return 2 / jnp.linalg.eigvalsh(root.T @ D @ root)[-1]
