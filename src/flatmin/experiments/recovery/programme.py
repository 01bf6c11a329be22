"""From the settings of a recovery to a convex programme, and its solution."""

import jax.numpy as jnp
import numpy as np

from flatmin._core import Solution
from flatmin.experiments.recovery.prepared import Prepared, by_factors
from flatmin.experiments.recovery.spec import Recovery
from flatmin.solvers import (
    AbstractMisfit,
    AbstractProgram,
    Exact,
    L2Ball,
    MinFrobenius,
    MinNuclearNorm,
    MinScaledNuclearNorm,
    MinTrace,
    RobustPCA,
    SquaredLoss,
    default_penalty,
    solve,
)
from flatmin.solvers.large import complete, large_completion

NAMES = {
    ("robust-pca", "flat"): "minimum nuclear norm and errors",
    ("robust-pca", "nuclear"): "minimum nuclear norm and errors",
    ("covariance", "flat"): "minimum weighted trace",
    ("covariance", "nuclear"): "minimum trace",
}


def objective_name(spec: Recovery) -> str:
    """What is minimised, in words."""
    return NAMES.get((spec.task or "", spec.method), f"minimum {spec.method} norm")


def solution_of(spec: Recovery, prepared: Prepared) -> Solution:
    """Solve; the outcome is a code in the result.

    Args:
        spec: the settings.
        prepared: the cut data.

    Returns:
        The solution with its certificate.

    Raises:
        UsageError: if the programme cannot be built from these data.
    """
    if by_factors(spec, prepared.measurements):
        return _by_factors(spec, prepared)
    return solve(
        programme(spec, prepared),
        tolerance=spec.tolerance,
        max_iterations=spec.max_iterations or 1,
        throw=False,
    )


def programme(spec: Recovery, prepared: Prepared) -> AbstractProgram:
    """The programme that the settings name.

    Args:
        spec: the settings.
        prepared: the cut data.

    Returns:
        The programme.
    """
    op, targets = prepared.measurements, jnp.asarray(prepared.targets)
    if spec.task == "robust-pca":
        return _robust(spec, prepared)
    if spec.method == "frobenius":
        return MinFrobenius(op, targets)
    misfit = _misfit(spec)
    if spec.task == "covariance":
        return MinTrace(op, targets, misfit, scaled=spec.method == "flat")
    if spec.method == "flat":
        return MinScaledNuclearNorm(op, targets, misfit)
    return MinNuclearNorm(op, targets, misfit)


def _misfit(spec: Recovery) -> AbstractMisfit:
    if spec.penalty is not None:
        return SquaredLoss(spec.penalty)
    return Exact() if spec.radius is None else L2Ball(spec.radius)


def _robust(spec: Recovery, prepared: Prepared) -> RobustPCA:
    observed, seen = np.nan_to_num(prepared.observed), prepared.seen
    penalty = spec.penalty
    if penalty is None and spec.radius is None:
        penalty = default_penalty(prepared.shape)
    return RobustPCA(observed, radius=spec.radius, penalty=penalty, mask=None if seen.all() else seen)


def _by_factors(spec: Recovery, prepared: Prepared) -> Solution:
    problem = large_completion(
        *prepared.where,
        prepared.targets,
        prepared.shape,
        penalty=spec.penalty,
        radius=spec.radius,
        weighting="flat" if spec.method == "flat" else "plain",
        reduce=spec.reduce,
    )
    found = complete(
        problem,
        tolerance=spec.tolerance,
        max_sweeps=spec.max_iterations or 1,
        max_seconds=spec.max_time,
        seed=spec.seed,
        throw=False,
    )
    return Solution(
        matrix=jnp.asarray(found.matrix()),
        dual=jnp.asarray(found.dual),
        primal_value=found.primal_value,
        dual_value=found.dual_value,
        gap=found.gap,
        residual=found.excess,
        iterations=found.sweeps,
        outcome=found.outcome,
        method=f"least squares on factors; {found.bound.method}",
        stats={
            "singular_values": found.singular_values,
        },
        rank=found.rank,
        rank_tolerance=found.rank_tolerance,
    )
