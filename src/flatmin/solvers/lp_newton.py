"""Newton's method on the dual of a weighted l_p programme: any depth of Hadamard factors, p in [1, 2)."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from flatmin._core import Outcome, Solution, UsageError
from flatmin.solvers._base import AbstractMethod, AbstractProgram
from flatmin.solvers._solution import certified, infeasible, zero
from flatmin.solvers._whiten import whiten
from flatmin.solvers.certificate import certify
from flatmin.solvers.entrywise import MinWeightedLp
from flatmin.solvers.misfits import Exact

BACKTRACKS = 60
"""Most halvings of a Newton step."""

SUFFICIENT = 1e-4
"""Share of the predicted gain that a step must make."""


class DualNewton(AbstractMethod):
    """Solves `MinWeightedLp` with `1 < p < 2` (three factors and more) and an exact fit; the choice of `Auto` for it.

    With `q = p/(p-1)` and orthonormal measurements Q the dual of `min sum_c |x_c|^p / p` is the smooth concave
    `max c.u - sum_c |Q*(u)_c|^q / q`; at its solution `x_c = sign(z_c) |z_c|^{q-1}`, `z = Q*(u)`. Newton's method with
    a small damping and backtracking; memory m d1 d2, one step costs `m^2 d1 d2`.
    """

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Iterate and certify.

        Raises:
            UsageError: for another programme or misfit, or m too large for its Gram matrix.
        """
        del start
        if not isinstance(program, MinWeightedLp) or program.power == 1 or not isinstance(program.misfit, Exact):
            raise UsageError(
                f"method: got DualNewton for {type(program).__name__} with {type(program.misfit).__name__}, expected "
                "MinWeightedLp with three factors or more and Exact(); use Auto()"
            )
        if not bool(jnp.any(program.targets)):
            return zero(program, "DualNewton")
        began = time.perf_counter()
        white, proof = whiten(program.measurements, program.targets)
        nearest = white.adjoint(white.targets)
        if proof is not None:
            return infeasible(program, nearest, proof, "DualNewton")
        # x = D^{-1/p} x'; the columns of Q take the weights
        stretch = np.asarray(program.weights).reshape(-1) ** (-1 / program.power)
        Q = np.asarray(_matrix(white)) * stretch
        orthonormal, upper = np.linalg.qr(Q.T)
        basis = orthonormal.T
        c = scipy.linalg.solve_triangular(upper.T, np.asarray(white.targets), lower=True)
        scale = np.linalg.norm(c)
        weights, iterations = _ascend(basis, c / scale, program.power, max_iterations)
        z = weights @ basis
        q = program.power / (program.power - 1)
        x = scale * np.sign(z) * np.abs(z) ** (q - 1)
        matrix = jnp.asarray((stretch * x).reshape(nearest.shape))
        u = scipy.linalg.solve_triangular(upper, weights)
        dual = white.multipliers(jnp.asarray(u))
        dual = dual / program.polar_norm(program.measurements.adjoint(dual))
        return certified(
            certify(program, matrix, dual),
            tolerance,
            method="DualNewton",
            iterations=iterations,
            shortfall=Outcome.max_iterations if iterations >= max_iterations else Outcome.stalled,
            stats={"seconds": {"total": time.perf_counter() - began}},
        )


def _matrix(white) -> Float[Array, "k d1d2"]:
    rows = jax.vmap(white.adjoint)(jnp.eye(white.targets.size))
    return rows.reshape(white.targets.size, -1)


def _ascend(Q: np.ndarray, c: np.ndarray, power: float, max_iterations: int) -> tuple[np.ndarray, int]:
    """`argmax_u c.u - sum |Q^T u|^q / q` for orthonormal rows Q."""
    q = power / (power - 1)

    def value(u: np.ndarray) -> float:
        return float(c @ u - np.sum(np.abs(u @ Q) ** q) / q)

    # along c the best step has a closed form
    size = np.sum(np.abs(c @ Q) ** q)
    u = c * (c @ c / size) ** (1 / (q - 1))
    best = value(u)
    for step in range(max_iterations):
        z = u @ Q
        gradient = c - Q @ (np.sign(z) * np.abs(z) ** (q - 1))
        if np.linalg.norm(gradient) < 1e-15 * np.linalg.norm(c):
            return u, step
        curvature = (q - 1) * np.abs(z) ** (q - 2)
        hessian = (Q * curvature) @ Q.T
        hessian[np.diag_indices_from(hessian)] += 1e-14 * np.trace(hessian) / len(hessian)
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
