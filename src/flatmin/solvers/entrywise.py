"""The weighted l_p norms of the Hadamard family: what flatness means for entrywise products."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from flatmin._core import Integer, RealArray, UsageError, check_at_least, checked
from flatmin.measurements import AbstractMeasurements, entry_gram
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers.misfits import AbstractMisfit, Exact

SMALLEST_SHARE = 1e-28
"""Smallest weight `D_c` beside the largest."""


@checked(targets=RealArray("m"), depth=Integer(2))
class MinWeightedLp(AbstractProgram):
    """`min (sum_c D_c |x_c|^p)^{1/p} s.t. A(x) = b`, `p = 2 - 2/k`: flat solutions of k Hadamard factors [D, Sec 5].

    `D_c = (1/m) sum_i A_ic^2`, and `2k` times the p-th power of the optimal value is the smallest trace of the Hessian
    of `(1/m) ||A(v_1 o ... o v_k) - b||^2`. At k = 2 this is a weighted l1 norm; as k grows it tends to a weighted l2
    norm. The dual is `max b.y s.t. (sum_c D_c^{-q/p} |A*(y)_c|^q)^{1/q} <= 1`, `1/p + 1/q = 1` (a weighted maximum at
    p = 1).

    It is convex for every k >= 2, so a solution is the global one at every depth, and its certificate proves it. At an
    interpolating point the trace is `2 sum_c D_c sum_j prod_{l != j} v_{lc}^2`, and by the inequality of means
    `sum_j prod_{l != j} v_l^2 >= k (prod_l v_l^2)^{(k-1)/k} = k |x|^{2-2/k}`, with equality at `|v_l| = |x|^{1/k}`.
    So the least trace for given x is `2k sum_c D_c |x_c|^p`, and `p = 2 - 2/k >= 1`. (What is not convex for k > 2 is
    another penalty, the squared norm of the factors: its least value is `k sum_c |x_c|^{2/k}`.)

    With a misfit the norm itself is charged, not its p-th power: `min N(x) + h(A(x) - b)`. Over all weights of h both
    have the same solutions; the weight lambda of one is `lambda / (p N^{p-1})` of the other.

    Attributes:
        measurements: `A`, in float64; a vector x is a (d, 1) matrix.
        targets: `b`, shape (m,), float64.
        misfit: what to charge for `A(x) - b`; default `Exact()`. `SquaredLoss` and `L2Ball` at every depth, l1 misfits
            at k = 2.
        weights: `D_c`, the shape of the matrix.
        power: p.

    Raises:
        UsageError: for k < 2 (the trace of one factor does not depend on x), an entry that no measurement sees, or
            targets of a wrong shape, not finite or not float64.
    """

    objective: ClassVar[str] = "weighted l_p norm"
    measurements: AbstractMeasurements
    targets: Array
    misfit: AbstractMisfit
    weights: Float[Array, "d1 d2"]
    power: float

    def __init__(
        self,
        measurements: AbstractMeasurements,
        targets: ArrayLike,
        misfit: AbstractMisfit | None = None,
        *,
        depth: int = 2,
    ):
        check_at_least("depth", depth, 2)
        self.measurements, self.targets = measurements, jnp.asarray(targets)
        self.misfit = Exact() if misfit is None else misfit
        self.power = 2 - 2 / depth
        self.weights = entry_gram(measurements) / measurements.num_measurements
        host = np.asarray(self.weights)
        where = tuple(int(i) for i in np.unravel_index(np.argmin(host), host.shape))
        if not host.min() > 0:
            raise UsageError(
                f"measurements: got an entry that no measurement sees, {where}, expected a positive D_c for each; drop "
                "it or add measurements"
            )
        if host.min() <= SMALLEST_SHARE * host.max():
            raise UsageError(
                f"measurements: got entry {where} seen {np.sqrt(host.min() / host.max()):.0e} times as strongly as the "
                "strongest, whose weight has no digit left beside it; rescale the entries"
            )

    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`(sum D |x|^p)^{1/p}`."""
        sizes = jnp.abs(matrix)
        largest = jnp.maximum(jnp.max(sizes), jnp.finfo(matrix.dtype).tiny)
        return largest * jnp.sum(self.weights * (sizes / largest) ** self.power) ** (1 / self.power)

    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`(sum D^{-q/p} |z|^q)^{1/q}`, or `max |z| / D` at p = 1."""
        sizes = jnp.abs(matrix) * self.weights ** (-1 / self.power)
        largest = jnp.maximum(jnp.max(sizes), jnp.finfo(matrix.dtype).tiny)
        if self.power == 1:
            return jnp.max(sizes)
        q = self.power / (self.power - 1)
        return largest * jnp.sum((sizes / largest) ** q) ** (1 / q)
