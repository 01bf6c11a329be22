"""The restricted isometry constants: estimated from below with a witness, exact at full rank.

`delta_r = sup { |(1/n) sum_i <A_i, X>^2 - 1| : rank X <= r, ||X||_F = 1 }` [G, Def. 3]. Certifying it for r below
`min(d1, d2)` is NP-hard. What is found here is a lower estimate that anyone can check, because the matrices that
attain it are handed over; `delta` at full rank is an eigenvalue, exact, and an upper bound for every smaller rank.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flatmin._core import Integer, Optional, SequenceOf, Shown, UsageError, checked
from flatmin._core.display import number
from flatmin.measurements._base import AbstractMeasurements
from flatmin.measurements._generic import HIGHEST, default_dtype, kernel_form, left_vector, moment_matrix, right_vector

CANDIDATES = 8
"""Each start is the best of so many random directions by its first value: a tenth of the cost of a start."""


class RipEstimate(Shown, eqx.Module):
    """A restricted isometry constant: a lower estimate, or the exact value at full rank.

    Attributes:
        delta: `max(largest - 1, 1 - smallest)`; the true constant is at least this, and equal to it if `exact`.
        largest: the largest `(1/n) sum <A_i, X>^2` found over X of unit Frobenius norm and rank at most r.
        smallest: the smallest found.
        highs: the largest value that each start of the search reached, shape (restarts,); empty if exact.
        lows: the smallest value that each start reached, shape (restarts,); empty if exact.
        change: relative change of the two ends in the last sweep of the starts that won; 0 if exact.
        agreement: fraction of all starts that end within 1% of the best of their end; 1 if exact. A small one says that
            there are many local optima and more starts may find more; a large one proves nothing.
        maximiser: X that attains `largest`, shape (d1, d2).
        minimiser: X that attains `smallest`, shape (d1, d2).
        rank: r.
        restarts: number of starts of each search.
        exact: whether the values are exact up to rounding (r = min(d1, d2)) or estimates from below.
    """

    delta: Float[Array, ""]
    largest: Float[Array, ""]
    smallest: Float[Array, ""]
    highs: Float[Array, " restarts"]
    lows: Float[Array, " restarts"]
    change: Float[Array, ""]
    agreement: Float[Array, ""]
    maximiser: Float[Array, "d1 d2"]
    minimiser: Float[Array, "d1 d2"]
    rank: int = eqx.field(static=True)
    restarts: int = eqx.field(static=True)
    exact: bool = eqx.field(static=True)

    def headline(self) -> str:
        """`delta >= 0.31 (lower estimate, rank 2, 16 starts of which 0.8 agree)`."""
        sign = "=" if self.exact else ">="
        starts = "" if self.exact else f", {self.restarts} starts of which {number(self.agreement, 2)} agree"
        return f"delta {sign} {number(self.delta)} ({self.kind}, rank {self.rank}{starts})"

    @property
    def kind(self) -> str:
        """`exact` or `lower estimate`."""
        return "exact" if self.exact else "lower estimate"


def _orthonormal(matrix: Array) -> Array:
    return jnp.linalg.qr(matrix)[0]


def _extreme(rows: Float[Array, "n d r"], sign: Array) -> tuple[Array, Array]:
    """The factor `U (d, r)` of unit norm with the extreme `(1/n) sum <rows_i, U>^2`, and that value."""
    flat = rows.reshape(rows.shape[0], -1)
    values, vectors = jnp.linalg.eigh(jnp.matmul(flat.T, flat, precision=HIGHEST) / rows.shape[0])
    pick = jnp.where(sign > 0, flat.shape[1] - 1, 0)
    return vectors[:, pick].reshape(rows.shape[1:]), values[pick]


@eqx.filter_jit
def _search(
    op: AbstractMeasurements, starts: Float[Array, "restarts c d2 r"], sign: Array, sweeps: Array, tolerance: Array
) -> tuple[Array, Array, Array]:
    """Alternating eigenproblems from many starts; `sign` +1 looks for the largest value, -1 for the smallest.

    With the columns V of one factor orthonormal, `X = U V^T` has the norm of U, so that the best U is an eigenvector
    of the Gram matrix of the `A_i V`; then the same with the columns of U made orthonormal. No sweep makes it worse.
    """
    of_columns = jax.vmap(right_vector, (None, 1), 2)
    of_rows = jax.vmap(left_vector, (None, 1), 2)

    def one(candidates):
        first = jax.lax.map(lambda V: _extreme(of_columns(op, _orthonormal(V)), sign)[1], candidates)
        start = candidates[jnp.argmax(sign * first)]

        def wanted(state):
            _, _, _, change, sweep = state
            return (sweep < sweeps) & (change > tolerance)

        def body(state):
            V, _, value, _, sweep = state
            Q = _orthonormal(_extreme(of_columns(op, _orthonormal(V)), sign)[0])
            W, new = _extreme(of_rows(op, Q), sign)
            change = jnp.abs(new - value) / jnp.maximum(jnp.abs(new), 1)
            return W, jnp.matmul(Q, W.T, precision=HIGHEST), new, change, sweep + 1

        far = jnp.asarray(jnp.inf, start.dtype)
        blank = jnp.zeros(op.matrix_shape, start.dtype)
        _, X, value, change, _ = jax.lax.while_loop(wanted, body, (start, blank, far, far, jnp.zeros((), jnp.int32)))
        return X, value, change

    return jax.lax.map(one, starts, batch_size=8)  # side by side: the measurements are read once for all


def _from_below(
    op: AbstractMeasurements,
    key: Key[Array, ""],
    rank: int,
    restarts: int,
    sweeps: int,
    tolerance: float,
    seeds: tuple[Array, Array] | None,
) -> RipEstimate:
    """The search; `seeds` are matrices of lower rank from which one further start of each end goes on."""
    dtype = default_dtype()
    starts = jax.random.normal(key, (restarts, CANDIDATES, op.matrix_shape[1], rank), dtype)
    limits = (jnp.asarray(sweeps, jnp.int32), jnp.asarray(tolerance, dtype))
    found = []
    for end, sign in enumerate((1, -1)):
        pool = starts
        if seeds is not None:
            rows = jnp.linalg.svd(seeds[end])[2][:rank].T  # the row space of the seed, then any directions
            pool = starts.at[-1].set(rows)
        X, values, changes = _search(op, pool, jnp.asarray(sign), *limits)
        best = jnp.argmax(sign * values)
        found.append((X[best], values, values[best], changes[best]))
    (top, highs, largest, moved_up), (low, lows, smallest, moved_down) = found
    near = jnp.concatenate([highs >= 0.99 * largest, lows <= smallest + 0.01 * jnp.abs(1 - smallest)])
    return RipEstimate(
        delta=jnp.maximum(largest - 1, 1 - smallest),
        largest=largest,
        smallest=smallest,
        highs=highs,
        lows=lows,
        change=jnp.maximum(moved_up, moved_down),
        agreement=jnp.mean(near),
        maximiser=top,
        minimiser=low,
        rank=rank,
        restarts=restarts,
        exact=False,
    )


@eqx.filter_jit
def _ends(op: AbstractMeasurements) -> tuple[Array, Array, Array, Array]:
    """Largest and smallest eigenvalue of `X -> (1/n) A*(A(X))` and their eigenvectors, on its smaller side."""
    n, (d1, d2) = op.num_measurements, op.matrix_shape
    if n >= d1 * d2:
        values, vectors = jnp.linalg.eigh(moment_matrix(op) / n)
        return values[-1], vectors[:, -1].reshape(d1, d2), values[0], vectors[:, 0].reshape(d1, d2)
    values, vectors = jnp.linalg.eigh(kernel_form(op) / n)
    top = op.adjoint(vectors[:, -1])
    # fewer measurements than entries: something is seen by none of them, and the smallest value is 0
    rows = jax.vmap(op.adjoint)(vectors.T).reshape(n, -1)
    unseen = jnp.linalg.qr(rows.T, mode="complete")[0][:, -1].reshape(d1, d2)
    return values[-1], top / jnp.linalg.norm(top), jnp.zeros_like(values[-1]), unseen


@checked()
def rip_exact(op: AbstractMeasurements) -> RipEstimate:
    """The restricted isometry constant at full rank `r = min(d1, d2)`: the spectrum of `(1/n) A* A`.

    It is an upper bound for every smaller rank, and so the constant with which the theorems that assume
    `(r, delta)`-RIP are known to apply.

    Args:
        op: the measurements, normalised so that `(1/n) sum <A_i, X>^2` is near `||X||_F^2`.

    Returns:
        The constant, exact up to rounding (relative `eps` times the largest eigenvalue). Cost: one eigenproblem of
        size `min(n, d1 d2)`, and for `n < d1 d2` one orthogonal basis of size `d1 d2` for the witness.
    """
    largest, top, smallest, low = _ends(op)
    smallest = jnp.maximum(smallest, 0)
    none = jnp.zeros((0,), largest.dtype)
    return RipEstimate(
        delta=jnp.maximum(largest - 1, 1 - smallest),
        largest=largest,
        smallest=smallest,
        highs=none,
        lows=none,
        change=jnp.zeros_like(largest),
        agreement=jnp.ones_like(largest),
        maximiser=top,
        minimiser=low,
        rank=min(op.matrix_shape),
        restarts=0,
        exact=True,
    )


def _check(op: AbstractMeasurements, ranks: Sequence[int]) -> None:
    full = min(op.matrix_shape)
    for rank in ranks:
        if rank > full:
            raise UsageError(
                f"rank: got {rank}, expected a whole number from 1 to min(d1, d2) = {full}; at {full} every matrix is "
                "allowed and the value is exact"
            )


@checked()
def rip_lower_estimate(
    op: AbstractMeasurements,
    key: Key[Array, ""],
    rank: int = 1,
    *,
    restarts: int = 16,
    sweeps: int = 100,
    tolerance: float = 1e-6,
) -> RipEstimate:
    """Estimate the (r, delta)-RIP constant of [G, Def. 3] from below, by alternating eigenproblems.

    Args:
        op: the measurements, normalised so that `(1/n) sum <A_i, X>^2` is near `||X||_F^2`.
        key: random key of the starts.
        rank: r, from 1 to `min(d1, d2)`; there the answer is `rip_exact`.
        restarts: number of random starts for each end.
        sweeps: alternations of a start, at most; each reads the measurements 2 r times and solves eigenproblems of
            sizes `r d1` and `r d2`.
        tolerance: a start ends when a sweep changes its value by less than this fraction of `max(value, 1)`.

    Returns:
        The estimate with its witnesses; call it an estimate, never "the" constant, unless `exact`.

    Raises:
        UsageError: for fewer than one restart or sweep, a negative tolerance, or a rank out of range.
    """
    _check(op, [rank])
    if rank == min(op.matrix_shape):
        return rip_exact(op)
    return _from_below(op, key, rank, restarts, sweeps, tolerance, None)


@checked(ranks=Optional(SequenceOf(Integer(1), least=1)))
def rip_profile(
    op: AbstractMeasurements,
    key: Key[Array, ""],
    ranks: Sequence[int] | None = None,
    *,
    restarts: int = 16,
    sweeps: int = 100,
    tolerance: float = 1e-6,
) -> tuple[RipEstimate, ...]:
    """The RIP constants of several ranks, never decreasing with the rank, as the true ones.

    Each rank's search has one start from the best matrix of the rank before, so that it finds no less.

    Args:
        op: the measurements.
        key: random key of the starts.
        ranks: increasing ranks; default: 1 to `min(d1, d2)`.
        restarts: as in `rip_lower_estimate`.
        sweeps: as in `rip_lower_estimate`.
        tolerance: as in `rip_lower_estimate`.

    Returns:
        One estimate a rank; the last is exact if it is `min(d1, d2)`.

    Raises:
        UsageError: as `rip_lower_estimate`, and for ranks that do not increase.
    """
    full = min(op.matrix_shape)
    wanted = list(range(1, full + 1)) if ranks is None else list(ranks)
    _check(op, wanted)
    if not wanted or np.any(np.diff(wanted) <= 0):
        raise UsageError(f"ranks: got {wanted}, expected one or more increasing ranks, such as [1, 2, 4]")
    found: list[RipEstimate] = []
    for rank in wanted:
        if rank == full:
            found.append(rip_exact(op))
            continue
        seeds = (found[-1].maximiser, found[-1].minimiser) if found else None
        found.append(_from_below(op, jax.random.fold_in(key, rank), rank, restarts, sweeps, tolerance, seeds))
    return tuple(found)
