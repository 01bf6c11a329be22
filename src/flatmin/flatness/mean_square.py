"""`sgd_stability_threshold`: the largest step at which mini-batch SGD is stable in the mean square.

Near an interpolating minimum SGD is `theta <- (I - eta H_batch) theta` with `H_i = 2 g_i g_i^T`, `g_i` the gradient of
prediction i. Its second moment stays bounded exactly for `eta <= 2 / lambda_max(C^+ D)` [Mulayoff, Michaeli 2023], maps
on p x p matrices:

    C X = (H X + X H) / 2,    D X = (1 - p) H X H + p (4/n) sum_i g_i (g_i^T X g_i) g_i^T.

Both vanish off the span of the g_i, and D couples it to nothing else. In the orthonormal basis of the span that comes
with the eigenvectors of the tangent kernel, `K = U diag(k) U^T`: `v_a = J^T u_a / k_a^{1/2}`, H is diagonal,
`h_a = 2 k_a / n`, and `g_i` has the coordinates `c_ia = k_a^{1/2} U_ia`. So the eigenproblem is one on r x r matrices,
r = rank K <= n, however many parameters there are, and C is a division of the entries.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from flatmin import linalg
from flatmin._core import Estimate, UsageError, check_at_least, checked
from flatmin.flatness.tangent_kernel import tangent_kernel
from flatmin.problems import RecoveryProblem


@checked()
def sgd_stability_threshold(
    problem: RecoveryProblem,
    params: PyTree,
    batch_size: int,
    *,
    replacement: bool = False,
    tolerance: float = 0.0,
    max_matvecs: int = 5000,
    key: Key[Array, ""] | None = None,
) -> Estimate:
    """`eta* = 2 / lambda_max(C^+ D)`: mini-batch SGD is stable in the mean square exactly up to it.

    Cost: the n x n tangent kernel and its eigendecomposition, then about 40 products of n x r with r x r matrices.
    No matrix in parameter space is formed.

    Args:
        problem: the recovery problem, with m measurements as samples.
        params: a point that interpolates the targets.
        batch_size: B, samples a step.
        replacement: how batches are drawn. False is the paper's: B different samples, `eta* = 2/S` at B = n. True is
            what `StochasticGradientDescent` does: B independent samples, then `eta* < 2/S` for every B. The same for
            B = 1.
        tolerance: of Lanczos, relative; 0 is machine precision.
        max_matvecs: budget of Lanczos.
        key: random key of the starting vector of Lanczos; without a key the start is the same at every call, drawn
            from `jax.random.key(0)`: the result depends on it within its error only.

    Returns:
        The threshold with an error that follows from the eigenvector's residual; infinite, with zero error, where
        the Hessian vanishes.

    Raises:
        UsageError: for a batch size out of range, or a point that does not interpolate: there SGD has no fixed point
            whose stability could be asked for.
        JobError: where the kernel is not finite.
    """
    n = problem.num_samples
    weight = _noise_weight(n, batch_size, replacement=replacement)
    residual, targets, predictions = (
        linalg.safe_norm(v) for v in (problem.residual(params), problem.targets, problem.predict(params))
    )
    if not residual <= float(jnp.finfo(residual.dtype).eps) ** 0.6 * (targets + predictions):
        raise UsageError(
            f"params: got a residual of norm {float(residual):.1e} against targets of {float(targets):.1e}, expected a "
            "point that interpolates; elsewhere the gradients of single samples do not vanish and SGD does not rest"
        )
    K = tangent_kernel(problem, params)
    values, U = jnp.linalg.eigh((K + K.T) / 2)
    rank = int(jnp.sum(values > n * jnp.finfo(values.dtype).eps * values[-1]))
    if rank == 0:
        zero = jnp.zeros((), values.dtype)
        return Estimate(zero + jnp.inf, zero, "residual bound", "tangent kernel basis", 0)
    values, U = values[n - rank :], U[:, n - rank :]
    unit = values[-1]  # kernels of any size: the map is of order one, the threshold scales by 1 / k_max
    moments = _MomentMap(values / unit, U, jnp.asarray(weight, values.dtype))
    key = jax.random.key(0) if key is None else key
    vector, matvecs = linalg.extreme_eigenvector(
        moments.matvec, rank**2, values.dtype, key=key, tolerance=tolerance, max_matvecs=max_matvecs
    )
    top, error = linalg.eigenpair_residual(moments.matvec, vector)
    lowest = jnp.maximum(top - error, jnp.finfo(top.dtype).tiny)
    return Estimate(
        2 / top / unit, (2 / lowest - 2 / top) / unit, "residual bound", "tangent kernel basis", matvecs + 1
    )


def _noise_weight(num_samples: int, batch_size: int, *, replacement: bool) -> float:
    """The weight p in `E[H_B (x) H_B] = (1 - p) H (x) H + p mean(H_i (x) H_i)`."""
    check_at_least("batch_size", batch_size, 1)
    if replacement or num_samples == 1:
        weight = 1 / batch_size
    else:
        weight = (num_samples - batch_size) / (batch_size * (num_samples - 1))
    if batch_size > num_samples and not replacement:
        raise UsageError(
            f"batch_size: got {batch_size}, expected at most the {num_samples} samples; or ask for replacement=True"
        )
    return weight


class _MomentMap(eqx.Module):
    """`C^{-1/2} D C^{-1/2}` on symmetric r x r matrices, as a map of r^2 vectors.

    Attributes:
        kernel: eigenvalues k_a of the tangent kernel, positive.
        vectors: its eigenvectors U, (n, r).
        weight: p.
    """

    kernel: Float[Array, " r"]
    vectors: Float[Array, "n r"]
    weight: Float[Array, ""]

    @eqx.filter_jit
    def matvec(self, flat: Float[Array, " rr"]) -> Float[Array, " rr"]:
        """The map; 4 n r^2 flops."""
        (n, r), h = self.vectors.shape, 2 * self.kernel / self.vectors.shape[0]
        root = jnp.sqrt((h[:, None] + h[None, :]) / 2)
        X = flat.reshape(r, r) / root
        X = (X + X.T) / 2
        coordinates = jnp.sqrt(self.kernel)[None, :] * self.vectors
        highest = jax.lax.Precision.HIGHEST
        # g_i^T X g_i for every sample, then the sum of g_i g_i^T with these weights
        quadratic = jnp.sum(jnp.matmul(coordinates, X, precision=highest) * coordinates, axis=1)
        noise = (4 / n) * jnp.matmul(coordinates.T * quadratic[None, :], coordinates, precision=highest)
        image = (1 - self.weight) * (h[:, None] * h[None, :]) * X + self.weight * noise
        return (image / root).reshape(-1)
