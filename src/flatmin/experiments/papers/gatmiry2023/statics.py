"""What needs no training: Theorem 4's line, Theorem 1's sandwich, and the convex baseline."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from flatmin._core import Solution
from flatmin.experiments.papers.gatmiry2023.spec import FrobeniusLine, Sandwich, Training
from flatmin.experiments.papers.gatmiry2023.training import problem_of
from flatmin.flatness import hessian_trace
from flatmin.measurements import gaussian, rip_lower_estimate, with_moments
from flatmin.parameterizations import Flattest, deep_matrix
from flatmin.problems import RecoveryProblem, low_rank_matrix
from flatmin.solvers import MinNuclearNorm, solve
from flatmin.theory import gatmiry2023 as theory


def min_nuclear_norm(training: Training, seed: int) -> Solution:
    """The minimum-nuclear-norm interpolator of a seed's problem, certified."""
    problem = problem_of(training, 2, seed).problem
    return solve(MinNuclearNorm(problem.measurements, problem.targets), tolerance=1e-9)


def frobenius_points(line: FrobeniusLine, seed: int) -> xr.Dataset:
    """Relative squared error of the minimum-Frobenius interpolator over n, many measurement draws.

    Args:
        line: the settings.
        seed: first random seed.

    Returns:
        `error` over (n, trial) and `predicted` over n.
    """
    shape = (line.dimension, line.dimension)
    sizes = sorted({max(1, round(fraction * line.dimension**2)) for fraction in line.fractions})
    errors = np.empty((len(sizes), line.num_trials))
    root = jax.random.fold_in(jax.random.key(seed), 2)
    for i, n in enumerate(sizes):
        keys = jax.random.split(jax.random.fold_in(root, n), line.num_trials)
        errors[i] = _frobenius_errors(keys, n, shape, line.rank)
    predicted = [float(theory.min_frobenius_error(n, shape)) for n in sizes]
    return xr.Dataset(
        {"error": (("n", "trial"), errors), "predicted": ("n", predicted)},
        coords={"n": sizes, "trial": np.arange(line.num_trials)},
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _frobenius_errors(
    keys: Key[Array, " trials"], n: int, shape: tuple[int, int], rank: int
) -> Float[Array, " trials"]:
    """`||M_F - M*||_F^2` of independent draws: `A^T = Q R`, `M_F = Q R^{-T} b`: the answer of `MinFrobenius`."""

    def one(key):
        measure_key, truth_key = jax.random.split(key)
        truth = low_rank_matrix(truth_key, shape, rank)
        measurements = gaussian(measure_key, n, shape)
        Q, R = jnp.linalg.qr(measurements.tensor.reshape(n, -1).T)
        solution = Q @ jax.scipy.linalg.solve_triangular(R, measurements.forward(truth), trans=1)
        return jnp.sum((solution.reshape(shape) - truth) ** 2)

    return jax.lax.map(one, keys)


def sandwich_points(sandwich: Sandwich, seed: int) -> xr.Dataset:
    """`F(M) / F_pop(M)` over n, depth and test matrices, beside the estimated RIP constant.

    At depth 2 `F(M)` is exact (Theorem 5). Deeper it is bounded above by the trace at the population minimiser of M,
    which is the number Theorem 1 itself bounds.

    Args:
        sandwich: the settings.
        seed: first random seed.

    Returns:
        `ratio` over (depth, n, rank) and `delta`, `agreement` over n.
    """
    d = sandwich.dimension
    root = jax.random.fold_in(jax.random.key(seed), 3)
    ratio = np.empty((len(sandwich.depths), len(sandwich.num_measurements), len(sandwich.ranks)))
    delta, agreement = np.empty((2, len(sandwich.num_measurements)))
    truths = [low_rank_matrix(jax.random.fold_in(root, r), (d, d), r) for r in sandwich.ranks]
    for j, n in enumerate(sandwich.num_measurements):
        draw_key, rip_key, frame_key = jax.random.split(jax.random.fold_in(root, 1000 + n), 3)
        measurements = with_moments(gaussian(draw_key, n, (d, d)))
        rip = rip_lower_estimate(measurements, rip_key)
        delta[j], agreement[j] = float(rip.delta), float(rip.agreement)
        for i, depth in enumerate(sandwich.depths):
            parameterization = deep_matrix((d, d), depth)
            for k, M in enumerate(truths):
                population = theory.population_regulariser(theory.nuclear_norm(M), depth, (d, d))
                if depth == 2:
                    value = theory.depth_two_regulariser(measurements, M)
                else:
                    problem = RecoveryProblem(measurements, parameterization, measurements.forward(M))
                    value = hessian_trace(problem, parameterization.init_params(frame_key, Flattest(M))).value
                ratio[i, j, k] = float(value / population)
    return xr.Dataset(
        {"ratio": (("depth", "n", "rank"), ratio), "delta": ("n", delta), "agreement": ("n", agreement)},
        coords={
            "depth": list(sandwich.depths),
            "n": list(sandwich.num_measurements),
            "rank": list(sandwich.ranks),
        },
    )
