"""The flattest interpolator beyond depth 2, where no convex programme gives it, in two independent ways."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar

from flatmin.interpolators import flattest, induced_regulariser
from flatmin.measurements import dense
from flatmin.parameterizations import DeepMatrix
from flatmin.problems import RecoveryProblem

GRID = 21


def flattest_on_line(
    A: np.ndarray, start: np.ndarray, direction: np.ndarray, reach: float, depth: int
) -> tuple[float, float]:
    """The flattest of the interpolators `M* + t N`, by the induced regulariser of each.

    F is itself a minimum, global on its fibre by geodesic convexity, so that only t is searched: a grid that is finer
    near the truth, then Brent's method around its best point.

    Args:
        A: measurements, shape (n, d1, d2), that do not see N.
        start: `M*`, shape (d1, d2).
        direction: N, shape (d1, d2).
        reach: t lies in [-reach, reach].
        depth: L.

    Returns:
        t, to about 1e-8 of its size, and `F(M* + t N)`.
    """
    op = dense(jnp.asarray(A))

    def regulariser(t: float) -> float:
        return induced_regulariser(op, jnp.asarray(start + t * direction), depth).value

    grid = reach * np.linspace(-1, 1, GRID) ** 3
    best = int(np.argmin([regulariser(t) for t in grid]))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    found = minimize_scalar(regulariser, bounds=ends, method="bounded", options={"xatol": 1e-9 * reach})
    return float(found.x), float(found.fun)


def flattest_parameters(
    A: np.ndarray, labels: np.ndarray, widths: Sequence[int], seed: int, starts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The direct solver on many problems of one size.

    Args:
        A: measurements, shape (k, n, d_L, d_0).
        labels: shape (k, n), attainable.
        widths: `d_0, ..., d_L`.
        seed: of the solver's random starts.
        starts: see `flatmin.flattest`.

    Returns:
        The matrices, shape (k, d_L, d_0), and the traces, shape (k,); NaN where the solver did not converge.
    """
    network, matrices, traces = DeepMatrix(tuple(widths)), [], []
    for i, (tensor, b) in enumerate(zip(A, labels, strict=True)):
        problem = RecoveryProblem(dense(jnp.asarray(tensor)), network, jnp.asarray(b))
        found = flattest(problem, key=jax.random.fold_in(jax.random.key(seed), i), starts=starts)
        solved = found.outcome.success
        matrices.append(np.asarray(found.matrix) if solved else np.full(tensor.shape[1:], np.nan))
        traces.append(found.trace if solved else np.nan)
    return np.stack(matrices), np.array(traces)
