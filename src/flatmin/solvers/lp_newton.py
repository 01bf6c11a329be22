"""Newton's method on the dual of a weighted l_p programme: any depth of Hadamard factors, p in (1, 2), noisy or not.

The norm N of the programme is replaced by its power `phi = N^p / p = sum_c D_c |x_c|^p / p`, which is smooth where N is
not. For an exact fit the minimisers are the same. With noise, `min phi(x) + ||A(x) - b||^2 / (2 mu)` has for each mu a
minimiser x with multipliers `u = (b - A(x)) / mu`, and `N°(A*(u)) = N(x)^{p-1}`. Divided by this they are those of
`min N(x) + ||A(x) - b||^2 / (2 lambda)`, `lambda = mu N°(A*(u))`, and of the ball of radius `||A(x) - b||`. Both grow
with mu, since x moves along the one front of best pairs (N, misfit): one search for a root in mu.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize

from flatmin._core import Outcome, Solution, UsageError
from flatmin.solvers._base import AbstractMethod, AbstractProgram, refuse_start
from flatmin.solvers._host import host_map
from flatmin.solvers._host_splitting import as_tensor
from flatmin.solvers._solution import certified, fits_zero, infeasible, zero
from flatmin.solvers.certificate import certify
from flatmin.solvers.entrywise import MinWeightedLp
from flatmin.solvers.misfits import Exact, L2Ball, SquaredLoss

BACKTRACKS = 60
"""Most halvings of a Newton step."""

SUFFICIENT = 1e-4
"""Share of the predicted gain that a step must make."""

DEPENDENT = 1e-12
"""Singular values of the measurements below this share of the largest count as zero."""

CONTRADICTION = 1e-9
"""Share of b that no x reaches, from which on an exact fit is impossible."""

FACTOR, WIDENINGS = 30.0, 40
"""By what, and how often, the bracket of mu is widened."""


class DualNewton(AbstractMethod):
    """Solves `MinWeightedLp` with `1 < p < 2` (three factors and more); the choice of `Auto` for it.

    For an exact fit, a squared loss or an l2 ball. With `q = p/(p-1)` the dual of
    `min sum_c |x_c|^p / p + ||Q(x) - c||^2 / (2 mu)` is the smooth concave
    `max c.u - mu ||u||^2 / 2 - sum_c |Q*(u)_c|^q / q`, mu = 0 for an exact fit; at its solution
    `x_c = sign(z_c) |z_c|^{q-1}`, `z = Q*(u)`. Newton's method with a small damping and backtracking; memory m d1 d2,
    one step costs `k^2 d1 d2`, `k = min(m, d1 d2)`. With noise about ten such solves, each from the last one's u.
    """

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Iterate and certify.

        Raises:
            UsageError: for another programme or misfit, or measurements too large to be held as a matrix.
        """
        refuse_start("DualNewton", start)
        if (
            not isinstance(program, MinWeightedLp)
            or program.power == 1
            or not isinstance(program.misfit, Exact | SquaredLoss | L2Ball)
        ):
            raise UsageError(
                f"method: got DualNewton for {type(program).__name__} with {type(program.misfit).__name__}, expected "
                "MinWeightedLp with three factors or more and Exact(), SquaredLoss or L2Ball; use Auto()"
            )
        if fits_zero(program):
            return zero(program, "DualNewton")
        began = time.perf_counter()
        seen = _see(program)
        if seen.proof is not None:
            return infeasible(program, _matrix(program, seen.nearest), jnp.asarray(seen.proof), "DualNewton")
        x, y, iterations = (_exact if isinstance(program.misfit, Exact) else _noisy)(program, seen, max_iterations)
        return certified(
            program,
            certify(program, _matrix(program, x), jnp.asarray(y)),
            tolerance,
            method="DualNewton",
            iterations=iterations,
            shortfall=Outcome.max_iterations if iterations >= max_iterations else Outcome.stalled,
            stats={"seconds": {"total": time.perf_counter() - began}},
        )


def _matrix(program: AbstractProgram, x: np.ndarray):
    return jnp.asarray(x.reshape(program.measurements.matrix_shape))


class _Seen(NamedTuple):
    """`A = diag(sizes) U diag(s) V^T`, of full rank, and b.

    Attributes:
        sizes: sizes of the measurements, taken out for an exact fit; else ones.
        left: U.
        values: s.
        right: `V^T`.
        inside: `U^T b`, b in units of the sizes.
        outside: the part of b that no x reaches, in the same units.
        nearest: the least-squares point of least norm.
        proof: multipliers that prove that nothing fits, or None.
    """

    sizes: np.ndarray
    left: np.ndarray
    values: np.ndarray
    right: np.ndarray
    inside: np.ndarray
    outside: np.ndarray
    nearest: np.ndarray
    proof: np.ndarray | None


def _see(program: MinWeightedLp) -> _Seen:
    op = host_map(program.measurements)
    if op is None:
        raise UsageError(
            f"measurements: got m = {program.measurements.num_measurements}, too many to be held as a matrix, which "
            f"{type(program).__name__} with three factors or more needs; use fewer (take)"
        )
    b = np.asarray(program.targets)
    A = as_tensor(op, b.size).reshape(b.size, -1)
    exact = isinstance(program.misfit, Exact)
    sizes = np.linalg.norm(A, axis=1) if exact else np.ones(b.size)
    sizes[sizes == 0] = 1.0
    U, s, Vt = np.linalg.svd(A / sizes[:, None], full_matrices=False)
    rank = int(np.sum(s > DEPENDENT * s[0]))
    U, s, Vt = U[:, :rank], s[:rank], Vt[:rank]
    targets = b / sizes
    inside = U.T @ targets
    outside = targets - U @ inside
    outside -= U @ (U.T @ outside)
    distance, proof = float(np.linalg.norm(outside)), None
    if exact and distance > CONTRADICTION * np.linalg.norm(targets):
        proof = outside / sizes / distance**2
    elif isinstance(program.misfit, L2Ball) and distance >= (radius := float(program.misfit.radius)):
        excess = max(distance - radius, np.finfo(float).tiny)
        proof = outside / (distance * excess)
    return _Seen(sizes, U, s, Vt, inside, outside, (inside / s) @ Vt, proof)


def _exact(program: MinWeightedLp, seen: _Seen, max_iterations: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The minimiser, its multipliers, and the steps."""
    # x = D^{-1/p} x'; the columns of Q take the weights
    stretch = np.asarray(program.weights).reshape(-1) ** (-1 / program.power)
    orthonormal, upper = np.linalg.qr((seen.right * stretch).T)
    c = scipy.linalg.solve_triangular(upper.T, seen.inside / seen.values, lower=True)
    scale = np.linalg.norm(c)
    weights, iterations = _ascend(orthonormal.T, c / scale, program.power, max_iterations)
    z = orthonormal @ weights
    u = scipy.linalg.solve_triangular(upper, weights)
    y = seen.left @ (u / seen.values) / seen.sizes
    return stretch * scale * _power(z, program.power), y / _polar(z, program.power), iterations


def _noisy(program: MinWeightedLp, seen: _Seen, max_iterations: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The minimiser for a squared loss or a ball, its multipliers, and the steps of all solves."""
    power, misfit = program.power, program.misfit
    if not isinstance(misfit, L2Ball | SquaredLoss):
        raise TypeError(misfit)
    stretch = np.asarray(program.weights).reshape(-1) ** (-1 / power)
    rows = seen.values[:, None] * seen.right * stretch
    b = np.asarray(program.targets)
    scale = np.linalg.norm(b)
    c, outside = seen.inside / scale, seen.outside / scale
    nothing = np.zeros(stretch.size)
    in_ball = isinstance(misfit, L2Ball)
    limit = float(misfit.radius) if isinstance(misfit, L2Ball) else float(misfit.penalty)
    if in_ball and scale <= limit:
        return nothing, np.zeros(b.size), 0
    if not in_ball and _polar(c @ rows, power) * scale <= limit:
        return nothing, b / limit, 0
    aim = limit / scale
    path = _Path(rows, c, power, max_iterations)

    def excess(log_mu: float) -> float:
        u = path.at(log_mu)
        if in_ball:
            reached = np.hypot(np.exp(log_mu) * np.linalg.norm(u), np.linalg.norm(outside))
            return float(np.log(reached / aim))
        return float(log_mu + np.log(_polar(u @ rows, power) / aim))

    log_mu = _root(excess, float(np.log(aim)))
    u = path.at(log_mu)
    z = u @ rows
    y = (seen.left @ u + outside * np.exp(-log_mu)) / _polar(z, power)
    return stretch * scale * _power(z, power), y, path.steps


class _Path:
    """The multipliers u as a function of mu, each solve from the last one."""

    def __init__(self, rows: np.ndarray, c: np.ndarray, power: float, max_iterations: int):
        self.rows, self.c, self.power, self.left = rows, c, power, max_iterations
        self.limit, self.known = max_iterations, (np.nan, np.zeros_like(c))

    @property
    def steps(self) -> int:
        return self.limit - self.left

    def at(self, log_mu: float) -> np.ndarray:
        """`argmax_u c.u - mu ||u||^2 / 2 - sum |Q*(u)|^q / q`."""
        if log_mu != self.known[0]:
            start = None if np.isnan(self.known[0]) else self.known[1]
            u, used = _ascend(self.rows, self.c, self.power, self.left, float(np.exp(log_mu)), start)
            self.known, self.left = (log_mu, u), self.left - used
        return self.known[1]


def _root(increasing: Callable[[float], float], guess: float) -> float:
    """Where an increasing function vanishes, to rounding; the end of the bracket if it does not."""
    low = high = guess
    for _ in range(WIDENINGS):
        if increasing(low) <= 0:
            break
        low, high = low - np.log(FACTOR), low
    for _ in range(WIDENINGS):
        if increasing(high) >= 0:
            break
        low, high = high, high + np.log(FACTOR)
    if not increasing(low) < 0 < increasing(high):
        return low if abs(increasing(low)) <= abs(increasing(high)) else high
    bracket = {"bracket": (low, high), "xtol": 1e-15, "rtol": 4 * np.finfo(float).eps}
    return float(scipy.optimize.root_scalar(increasing, method="brentq", **bracket).root)


def _power(z: np.ndarray, power: float) -> np.ndarray:
    """`sign(z) |z|^{q-1}`, `q - 1 = 1 / (p - 1)`."""
    return np.sign(z) * np.abs(z) ** (1 / (power - 1))


def _polar(z: np.ndarray, power: float) -> float:
    """`(sum |z|^q)^{1/q}`."""
    q, largest = power / (power - 1), max(float(np.abs(z).max()), np.finfo(float).tiny)
    return float(largest * np.sum((np.abs(z) / largest) ** q) ** (1 / q))


def _ascend(
    Q: np.ndarray,
    c: np.ndarray,
    power: float,
    max_iterations: int,
    ridge: float = 0.0,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """`argmax_u c.u - ridge ||u||^2 / 2 - sum |Q^T u|^q / q`, and the steps."""
    q = power / (power - 1)

    def value(u: np.ndarray) -> float:
        return float(c @ u - ridge * (u @ u) / 2 - np.sum(np.abs(u @ Q) ** q) / q)

    # along c the best step has a closed form where one of the two terms is alone
    size = np.sum(np.abs(c @ Q) ** q)
    u = c * min((c @ c / size) ** (1 / (q - 1)), 1 / ridge if ridge else np.inf)
    best = value(u)
    if start is not None and value(start) > best:
        u, best = start, value(start)
    for step in range(max_iterations):
        z = u @ Q
        gradient = c - ridge * u - Q @ _power(z, power)
        if np.linalg.norm(gradient) < 1e-15 * np.linalg.norm(c):
            return u, step
        curvature = (q - 1) * np.abs(z) ** (q - 2)
        hessian = (Q * curvature) @ Q.T
        hessian[np.diag_indices_from(hessian)] += ridge + 1e-14 * np.trace(hessian) / len(hessian)
        try:
            # not scipy's solve, which warns of the ill-conditioning that is normal here; the certificate decides
            direction = scipy.linalg.cho_solve(scipy.linalg.cho_factor(hessian), gradient)
        except np.linalg.LinAlgError:
            return u, step
        gain, length = float(gradient @ direction), 1.0
        for _ in range(BACKTRACKS):
            trial = u + length * direction
            if value(trial) >= best + SUFFICIENT * length * gain - 1e-16 * abs(best):
                break
            length /= 2
        else:
            return u, step
        if np.array_equal(trial, u):
            return u, step
        u, best = trial, value(trial)
        if gain <= 1e-30 * abs(best):
            return u, step + 1
    return u, max_iterations
