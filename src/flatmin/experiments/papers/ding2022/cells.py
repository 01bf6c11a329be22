"""The measurements: phase diagrams of five problems, robust PCA, and Hadamard factors of several depths."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import xarray as xr

from flatmin._core import UsageError
from flatmin.experiments.papers.ding2022.instances import instance_key, instances, programmes
from flatmin.experiments.papers.ding2022.regularity import balanced_factors, regularity, scaled_trace_of
from flatmin.experiments.papers.ding2022.spec import Depths, Diagram, Problem, Robust
from flatmin.flatness import scaled_trace
from flatmin.problems import PlantedProblem, robust_pca, sparse_recovery
from flatmin.solvers import MinScaledNuclearNorm, MinWeightedLp, RobustPCA, default_penalty
from flatmin.studies.recovery import decide

Progress = Callable[[int, int], None]
KINDS = ("flat", "nuclear")
_PART = {"sensing": 1, "bilinear": 2, "completion": 3, "network": 4, "covariance": 5, "robust": 6, "depths": 7}
TWO_FACTORS = ("sensing", "bilinear", "completion")
"""The problems of figure 4."""


def diagram_cell(
    problem: Problem, diagram: Diagram, dimension: int, threshold: float, seed: int, progress: Progress
) -> xr.Dataset:
    """One column of a phase diagram: all amounts and trials of a dimension.

    Args:
        problem: which.
        diagram: its settings.
        dimension: d.
        threshold: relative error of an exact recovery.
        seed: random seed.
        progress: called with (instances done, all).

    Returns:
        Over (kind, amount, trial): `recovered` (1, 0, NaN = undecided), `error`, `gap`; over (amount, trial):
        `measurements`, and for two factors `norm_gap`, `imbalance`, `norm_gap_bound`, `trace_excess` (scaled trace
        at the balanced factors of the nuclear solution over that of the flat ones) and, for the first trial at the
        largest amount, `trace_ratio` (scaled trace of the flat factors by the Hessian's blocks over the optimal
        value's).
    """
    shape = (len(diagram.amounts), diagram.trials)
    both = {name: np.full((2, *shape), np.nan) for name in ("recovered", "error", "gap")}
    names = ("measurements", "norm_gap", "imbalance", "norm_gap_bound", "trace_ratio", "trace_excess")
    single = {name: np.full(shape, np.nan) for name in names}
    for trial in range(diagram.trials):
        key = instance_key(seed, _PART[problem], dimension, trial)
        for i, planted in enumerate(instances(problem, key, dimension, diagram.rank, diagram.amounts)):
            single["measurements"][i, trial] = planted.problem.num_samples
            exact = trial == 0 and i == shape[0] - 1
            _both_programmes(problem, planted, threshold, (i, trial), both, single, check_trace=exact)
            progress(trial * shape[0] + i + 1, shape[0] * shape[1])
    over = ("amount", "trial")
    return xr.Dataset(
        {name: (("kind", *over), values) for name, values in both.items()}
        | {name: (over, values) for name, values in single.items()},
        coords={"kind": list(KINDS), "amount": list(diagram.amounts)},
        attrs={"dimension": dimension, "rank": diagram.rank},
    )


def _both_programmes(
    problem: Problem,
    planted: PlantedProblem,
    threshold: float,
    where: tuple[int, int],
    both: dict[str, np.ndarray],
    single: dict[str, np.ndarray],
    *,
    check_trace: bool,
) -> None:
    try:
        pair = programmes(problem, planted)
    except UsageError:
        # a line that no measurement sees: nothing can recover it, and no flat solution is defined
        both["recovered"][(slice(None), *where)] = 0.0
        return
    verdicts = [decide(programme, planted, threshold) for programme in pair]
    for k, verdict in enumerate(verdicts):
        both["recovered"][(k, *where)] = verdict.recovered
        both["error"][(k, *where)] = verdict.error
        both["gap"][(k, *where)] = verdict.solution.gap
    if not isinstance(pair[0], MinScaledNuclearNorm):
        return
    flat, nuclear = (verdict.solution for verdict in verdicts)
    found = regularity(pair[0], flat.matrix, nuclear.primal_value)
    single["norm_gap"][where] = found.norm_gap
    single["imbalance"][where] = found.imbalance
    single["norm_gap_bound"][where] = found.norm_gap_bound
    plain = scaled_trace_of(pair[0], *balanced_factors(nuclear.matrix))
    predicted = 4 * flat.primal_value / planted.truth.shape[0]
    single["trace_excess"][where] = plain / predicted
    if check_trace:
        params = (jnp.asarray(found.right.T), jnp.asarray(found.left))
        single["trace_ratio"][where] = float(scaled_trace(planted.problem, params).value) / predicted


def robust_cell(robust: Robust, rank: int, threshold: float, seed: int, progress: Progress) -> xr.Dataset:
    """One row of the diagram of robust PCA: all shares of outliers and trials of a rank.

    Args:
        robust: the settings.
        rank: of the truth.
        threshold: relative error of an exact recovery.
        seed: random seed.
        progress: called with (instances done, all).

    Returns:
        Over (kind, outliers, trial): `recovered`, `error`, `gap`; the kinds are `flat` (the l1 ball of the true radius)
        and `penalised` (weight `1 / sqrt(d)`, no knowledge of the radius).
    """
    shape = (2, len(robust.outliers), robust.trials)
    found = {name: np.full(shape, np.nan) for name in ("recovered", "error", "gap")}
    size = (robust.dimension, robust.dimension)
    for i, share in enumerate(robust.outliers):
        for trial in range(robust.trials):
            key = instance_key(seed, _PART["robust"], rank, int(1e6 * share), trial)
            planted = robust_pca(key, size, rank, share)
            observed = planted.problem.targets.reshape(size)
            pair = (
                RobustPCA(observed, radius=float(jnp.sum(jnp.abs(observed - planted.truth)))),
                RobustPCA(observed, penalty=default_penalty(size)),
            )
            for k, programme in enumerate(pair):
                verdict = decide(programme, planted, threshold, host=False)
                found["recovered"][k, i, trial] = verdict.recovered
                found["error"][k, i, trial] = verdict.error
                found["gap"][k, i, trial] = verdict.solution.gap
            progress(i * robust.trials + trial + 1, shape[1] * shape[2])
    return xr.Dataset(
        {name: (("kind", "outliers", "trial"), values) for name, values in found.items()},
        coords={"kind": ["flat", "penalised"], "outliers": list(robust.outliers)},
        attrs={"dimension": robust.dimension, "rank": rank},
    )


def depth_cell(depths: Depths, depth: int, threshold: float, seed: int, progress: Progress) -> xr.Dataset:
    """Sparse recovery by k Hadamard factors, over the number of measurements; all depths see the same instances.

    Args:
        depths: the settings.
        depth: k.
        threshold: relative error of an exact recovery.
        seed: random seed.
        progress: called with (instances done, all).

    Returns:
        Over (amount, trial): `recovered`, `error`, `gap`.
    """
    shape = (len(depths.amounts), depths.trials)
    found = {name: np.full(shape, np.nan) for name in ("recovered", "error", "gap")}
    for i, count in enumerate(depths.amounts):
        for trial in range(depths.trials):
            key = instance_key(seed, _PART["depths"], count, trial)
            planted = sparse_recovery(key, depths.dimension, depths.sparsity, count, depth=depth)
            programme = MinWeightedLp(planted.problem.measurements, planted.problem.targets, depth=depth)
            verdict = decide(programme, planted, threshold, host=False)
            found["recovered"][i, trial] = verdict.recovered
            found["error"][i, trial] = verdict.error
            found["gap"][i, trial] = verdict.solution.gap
            progress(i * depths.trials + trial + 1, shape[0] * shape[1])
    return xr.Dataset(
        {name: (("amount", "trial"), values) for name, values in found.items()},
        coords={"amount": list(depths.amounts)},
        attrs={"depth": depth},
    )
