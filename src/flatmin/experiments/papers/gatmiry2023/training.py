"""One run of figures 1 and 2: label-noise or plain mini-batch SGD, measured along the way."""

import itertools
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from flatmin._core import JobError, Outcome
from flatmin.dynamics import LabelNoiseSGD, Piecewise, Record, train
from flatmin.experiments.papers.gatmiry2023.spec import Phase, Training
from flatmin.flatness import hessian_trace
from flatmin.measurements import with_moments
from flatmin.parameterizations import Gaussian
from flatmin.problems import PlantedProblem, RecoveryProblem, matrix_sensing
from flatmin.theory.gatmiry2023 import nuclear_norm, population_regulariser

DYNAMICS = ("label noise", "plain")


def problem_of(training: Training, depth: int, seed: int) -> PlantedProblem:
    """The planted problem of a seed: the same measurements and truth at every depth."""
    shape = (training.dimension, training.dimension)
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return matrix_sensing(key, shape, training.rank, training.num_measurements, depth=depth)


def train_cell(
    training: Training,
    depth: int,
    seed: int,
    dynamics: str,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Train one run and measure it.

    Args:
        training: the settings.
        depth: L.
        seed: seed of the problem, the start and the noise.
        dynamics: `"label noise"` or `"plain"`.
        checkpoint: file for interrupted runs.
        progress: called with (steps done, all steps).

    Returns:
        Curves over `step` (train loss, test loss, trace, nuclear norm) in the training precision, and end values
        computed in float64.

    Raises:
        JobError: if the run diverged.
        KeyboardInterrupt: if it was interrupted; the checkpoint holds what was done.
    """
    planted = problem_of(training, depth, seed)
    dtype = jnp.dtype(training.precision)
    light = _cast(planted, dtype)
    init_key, run_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1 + depth))
    scheme = Gaussian(training.dimension**-0.5)
    params = _cast(planted.problem.parameterization.init_params(init_key, scheme), dtype)
    phases = training.schedules[depth]
    steps = sum(phase.steps for phase in phases)
    result = train(
        light.problem,
        _rule(training, phases, noisy=dynamics == "label noise"),
        params,
        steps=steps,
        key=run_key,
        records={"curves": Record(_Curves(light, _with_moments(light.problem)), at=_record_steps(training, phases))},
        checkpoint=checkpoint,
        progress=progress,
    )
    if result.outcome is Outcome.interrupted:
        raise KeyboardInterrupt
    if result.outcome is Outcome.diverged:
        raise JobError(
            f"training.schedules: {dynamics} SGD at depth {depth}, seed {seed} diverged at step "
            f"{result.divergence_step}; lower the step sizes of this depth"
        )
    curves = result.records["curves"]
    dataset = xr.Dataset(
        {name: ("step", np.asarray(values, dtype=np.float64)) for name, values in curves.values.items()},
        coords={"step": np.asarray(curves.steps)},
    )
    final = _Curves(planted, _with_moments(planted.problem))(_cast(result.params, jnp.float64))
    M = planted.problem.matrix(_cast(result.params, jnp.float64))
    predicted = population_regulariser(nuclear_norm(M), depth, planted.problem.parameterization.matrix_shape)
    ends = {**final, "predicted_trace": predicted, "true_nuclear_norm": nuclear_norm(planted.truth)}
    for name, value in ends.items():
        dataset[f"final_{name}"] = float(value)
    return dataset


class _Curves(eqx.Module):
    """What the figures show, at one point."""

    planted: PlantedProblem
    traced: RecoveryProblem

    def __call__(self, params):
        return {
            "train_loss": self.planted.problem.loss(params),
            "test_loss": self.planted.squared_error(params),
            "trace": hessian_trace(self.traced, params).value,
            "nuclear_norm": nuclear_norm(self.planted.problem.matrix(params)),
        }


def _cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def _with_moments(problem: RecoveryProblem) -> RecoveryProblem:
    return RecoveryProblem(with_moments(problem.measurements), problem.parameterization, problem.targets)


def _rule(training: Training, phases: tuple[Phase, ...], *, noisy: bool) -> LabelNoiseSGD:
    boundaries = list(itertools.accumulate(phase.steps for phase in phases))[:-1]
    return LabelNoiseSGD(
        learning_rate=Piecewise(boundaries, [phase.learning_rate for phase in phases]),
        batch_size=training.batch_size,
        noise=Piecewise(boundaries, [phase.noise if noisy else 0.0 for phase in phases]),
    )


def _record_steps(training: Training, phases: tuple[Phase, ...]) -> list[int]:
    """Geometric from the start of every phase (spikes come right after a change), and evenly along each."""
    each = training.records // (2 * len(phases))
    steps, start = set(), 0
    for phase in phases:
        inner = np.concatenate([np.geomspace(1, phase.steps, each), np.linspace(0, phase.steps, each)])
        steps.update(start + np.unique(np.rint(inner).astype(int)))
        start += phase.steps
    return sorted(int(step) for step in steps)
