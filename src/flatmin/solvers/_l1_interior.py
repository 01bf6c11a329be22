"""The interior-point method for an l1 misfit of any measurements: gross errors in few of them.

The dual of `min N(X) + w ||A(X) - b||_1` is `max b.y s.t. N°(A*(y)) <= 1, |y_i| <= w`, that of
`min N(X) s.t. ||A(X) - b||_1 <= rho` is `max b.y - rho t s.t. N°(A*(y)) <= 1, |y_i| <= t`: the cone of the gauge beside
two inequalities a measurement. Nothing is whitened, since an l1 norm does not survive it. At the end y is `+-t` where
measurements are wrong, the others fit exactly, and Newton's method on factors of the rank found finishes.
"""

import numpy as np
import scipy.optimize
import scipy.sparse

from flatmin.solvers._interior import Linear, interior_point, starting_size
from flatmin.solvers._polish import Stored, affordable, polish
from flatmin.solvers.misfits import L1Ball, L1Loss


class _Shifted(Stored):
    """Measurements whose multipliers come on top of a fixed matrix."""

    def __init__(self, tensor: np.ndarray, fixed: np.ndarray):
        super().__init__(tensor)
        self.fixed = fixed

    def adjoint(self, weights: np.ndarray) -> np.ndarray:
        """`Q*(u)` and what is fixed."""
        return super().adjoint(weights) + self.fixed


def l1_points(
    tensor: np.ndarray,
    targets: np.ndarray,
    misfit: L1Ball | L1Loss,
    *,
    symmetric: bool,
    one_sided: bool,
    tolerance: float,
    max_steps: int,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """The end of the central path of a programme with an l1 misfit, and what it tends to.

    Args:
        tensor: the measurements, shape (m, d1, d2).
        targets: b, shape (m,).
        misfit: what is charged for `A(X) - b`.
        symmetric: whether X is symmetric.
        one_sided: whether X is positive semidefinite too.
        tolerance: the relative gap to reach.
        max_steps: the limit.

    Returns:
        Pairs of X and y, the best last, and the number of steps. The pairs after the first are its X cut to the rank
        that it tends to, and Newton's method from there with the measurements that tend to an exact fit.
    """
    count = len(targets)
    flat = tensor.reshape(count, -1)
    # A' = A / unit and X' = X / scale, both of size about one
    unit = float(np.sqrt(np.mean(np.sum(flat**2, 1)))) or 1.0
    nearest = np.linalg.lstsq(flat, targets, rcond=None)[0].reshape(tensor.shape[1:])
    scale = float(np.linalg.norm(nearest, 2)) or float(np.linalg.norm(targets)) / unit
    c, sides, A = targets / (unit * scale), scipy.sparse.eye_array(count), tensor / unit
    lifted, priced = A, c
    if isinstance(misfit, L1Loss):
        rows, bounds, start = scipy.sparse.vstack([sides, -sides]), float(misfit.weight) * unit, np.zeros(count)
    else:
        # t is one more multiplier, at a price
        below = scipy.sparse.csr_array(-np.ones((count, 1)))
        rows, bounds = scipy.sparse.block_array([[sides, below], [-sides, below]]), 0.0
        lifted = np.concatenate([A, np.zeros((1, *A.shape[1:]))])
        priced = np.append(c, -float(misfit.radius) / (unit * scale))
        # the multipliers of all inequalities start equal, with the sum that they must have
        start = np.append(np.zeros(count), 2 * count * starting_size(priced) / -priced[-1])
    found = interior_point(
        lifted,
        priced,
        symmetric=symmetric,
        one_sided=one_sided,
        tolerance=tolerance,
        max_steps=max_steps,
        linear=Linear(scipy.sparse.csr_array(rows), np.full(2 * count, bounds), start),
    )
    y, limit = found.weights[:count], bounds or found.weights[-1]
    U, s, Vt = np.linalg.svd(found.matrix, full_matrices=False)
    cut = (U[:, : found.rank] * s[: found.rank]) @ Vt[: found.rank]
    points = [(found.matrix, y), (cut, y)]
    above, under = found.active[:count], found.active[count:]
    fitted = ~(above | under)
    if affordable(A.shape[1:], int(fitted.sum()), found.rank):
        wrong = limit * (above.astype(float) - under)
        op = _Shifted(A[fitted], np.tensordot(wrong, A, 1))
        finished = polish(op, c[fitted], cut, y[fitted], found.rank)
        if finished is not None:
            whole = wrong.copy()
            whole[fitted] = finished[1]
            points.append((finished[0], whole))
    return [(scale * matrix, weights / unit) for matrix, weights in points], found.steps


def l1_contradiction(tensor: np.ndarray, targets: np.ndarray, radius: float) -> np.ndarray | None:
    """Multipliers that prove that no matrix fits within an l1 ball: `A*(y) = 0` and `b.y - radius max |y_i| = 1`.

    Args:
        tensor: the measurements, shape (m, d1, d2).
        targets: b, shape (m,).
        radius: of the ball.

    Returns:
        Y of the linear programme `max b.y s.t. A*(y) = 0, |y_i| <= 1`, whose value is the least `||A(X) - b||_1`; None
        if that is within the radius.
    """
    flat = tensor.reshape(len(targets), -1)
    scale = np.abs(targets).max()
    found = scipy.optimize.linprog(
        -targets / scale, A_eq=flat.T / np.abs(flat).max(), b_eq=np.zeros(flat.shape[1]), bounds=(-1, 1)
    )
    if found.x is None:
        return None
    y = found.x - flat @ np.linalg.lstsq(flat, found.x, rcond=None)[0]
    excess = float(targets @ y - radius * np.abs(y).max())
    return y / excess if excess > 1e-9 * radius else None
