"""Where flatness-seeking dynamics drift along the zero-loss set, against the rates of `theory.implicit_drift`."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from numpy.random import Generator

from flatmin.dynamics import (
    AbstractDynamics,
    GradientDescent,
    LabelNoiseSGD,
    NormalisedGradientDescent,
    PenalisedGradientDescent,
    SharpnessAwareDescent,
    StochasticSharpnessAware,
)
from flatmin.experiments.ledger._drift import Drift, Setting, draw_setting, measure_drift, regulariser_gradients
from flatmin.experiments.ledger._entry import Batch, entry, family
from flatmin.flatness import hessian_trace
from flatmin.problems import RecoveryProblem
from flatmin.theory import implicit_drift as theory

DISTANCE, MARGIN = 0.02, 0.03
# which regulariser each dynamics follows, and the one that it is told apart from
FOLLOWS = {
    "label-noise": ("trace", "sharpness"),
    "one-sample-sam": ("trace", "sharpness"),
    "full-batch-sam": ("sharpness", "trace"),
    "normalised": ("log sharpness", "log trace"),
    "trace-penalty": ("trace", "sharpness"),
    "weight-decay": ("squared norm", "trace"),
}
EXTRAPOLATED = ("label-noise", "one-sample-sam")


class _TracePenalty(eqx.Module):
    problem: RecoveryProblem

    def __call__(self, params: Any) -> Any:
        return hessian_trace(self.problem, params).value


def _slopes(setting: Setting, regulariser: str) -> np.ndarray:
    gradients, _ = regulariser_gradients(setting.problem, jnp.asarray(setting.points))
    return np.linalg.norm(np.asarray(gradients[regulariser]), axis=1)


def _rule(name: str, setting: Setting, steps: int, factor: float) -> tuple[AbstractDynamics, np.ndarray, int]:
    """The dynamics with strengths such that each run moves by about `DISTANCE`; step size `0.05 factor / sharpness`."""
    # one sample's own curvature is up to n times that of the mean: half of the step, so that its square is small
    factor = factor / 2 if name == "one-sample-sam" else factor
    steps = round(steps / factor)
    eta = 0.05 * factor / setting.sharpness
    strength = DISTANCE / (steps * _slopes(setting, FOLLOWS[name][0]))  # what the rate c of each run must be
    rate = jnp.asarray(eta)
    if name == "label-noise":
        noise = np.sqrt(2 * 2 * strength) / eta
        return LabelNoiseSGD(rate, 2, noise), np.asarray(theory.label_noise_drift_rate(eta, noise, 2)), steps
    if name == "one-sample-sam":
        radius = np.sqrt(2 * strength / eta)
        law = theory.one_sample_sharpness_aware_drift_rate(eta, radius)
        return StochasticSharpnessAware(rate, 1, radius), np.asarray(law), steps
    if name == "full-batch-sam":
        radius = np.sqrt(2 * strength / eta)
        law = theory.sharpness_aware_drift_rate(eta, radius, setting.sharpness)
        return SharpnessAwareDescent(rate, radius), np.asarray(law), steps
    if name == "normalised":
        length = np.sqrt(4 * strength)
        return NormalisedGradientDescent(length), np.asarray(theory.normalised_descent_drift_rate(length)), steps
    weight = strength / eta
    if name == "trace-penalty":
        return PenalisedGradientDescent(rate, _TracePenalty(setting.problem), weight), strength, steps
    # the gradient of (weight/2) ||W||^2 is half of that of weight ||W||^2
    return GradientDescent(rate, weight_decay=2 * weight), strength, steps


def drift_of(name: str, setting: Setting, steps: int, regulariser: str) -> Drift:
    """The drift of one of the dynamics, beside the gradient of a regulariser.

    Args:
        name: one of `FOLLOWS`.
        setting: problem and points.
        steps: length of the stretch.
        regulariser: what to compare with; the rate is that of the regulariser which the dynamics follows.

    Returns:
        Coefficients and misfits of all runs.
    """
    # sharpness-aware and normalised descent need a gradient to turn into the sharpest direction
    offset = 1e-4 if name in ("full-batch-sam", "normalised") else 1e-6
    return measure_drift(
        setting,
        lambda factor: _rule(name, setting, steps, factor),
        regulariser,
        offset=offset,
        extrapolate=name in EXTRAPOLATED,
    )


def _families(name: str):
    return (
        family("depth 2, 3x3, n = 4", 32, quick=0, name=name, widths=(3, 3, 3), n=4, steps=20_000),
        family("depth 3, 2x2, n = 3", 32, quick=0, name=name, widths=(2, 2, 2, 2), n=3, steps=20_000),
        family("depth 2, 3x3, n = 4, shorter", 0, quick=16, name=name, widths=(3, 3, 3), n=4, steps=8_000),
    )


def _batch(rng: Generator, count: int, name: str, widths: tuple[int, ...], n: int, steps: int) -> Batch:
    setting = draw_setting(rng, count, widths, n)
    found = drift_of(name, setting, steps, FOLLOWS[name][0])
    data = {"point": setting.points, "sharpness": setting.sharpness}
    return Batch(np.ones(count), found.coefficient, data=data, extra={"misfit": found.misfit})


SOURCES = {
    "label-noise": "[Damian, Ma, Lee 2021], [Li, Wang, Arora 2022], [G, Sec 7]",
    "one-sample-sam": "[Wen, Ma, Li 2023]",
    "full-batch-sam": "[Wen, Ma, Li 2023]; finite-step factor derived here",
    "normalised": "[Arora, Li, Panigrahi 2022]",
    "trace-penalty": "first order",
    "weight-decay": "first order",
}
STATEMENTS = {
    "label-noise": "Label-noise SGD drifts by −(η² σ²/2B) P_T ∇ tr H a step.",
    "one-sample-sam": "One-sample sharpness-aware descent drifts by −(η ρ²/2) P_T ∇ tr H a step.",
    "full-batch-sam": "Full-batch sharpness-aware descent drifts by −(η ρ²/2)/(1 − η S/2)² P_T ∇ λ_max(H) a step.",
    "normalised": "Normalised gradient descent drifts by −(η²/4) P_T ∇ log λ_max(H) a step.",
    "trace-penalty": "Gradient descent on f + λ tr H drifts by −η λ P_T ∇ tr H a step.",
    "weight-decay": "Gradient descent with weight decay λ drifts by −(η λ/2) P_T ∇ ‖W‖² a step.",
}
FUNCTIONS = {
    "label-noise": ("label_noise_drift_rate",),
    "one-sample-sam": ("one_sample_sharpness_aware_drift_rate",),
    "full-batch-sam": ("sharpness_aware_drift_rate",),
    "normalised": ("normalised_descent_drift_rate",),
}
for _name in FOLLOWS:
    entry(
        f"drift-{_name}",
        source=SOURCES[_name],
        statement=STATEMENTS[_name],
        assumptions="zero loss, small steps, simple largest eigenvalue (second below 0.8 of it, smallest above 0.1)",
        kind="mean",
        margin=MARGIN,
        functions=FUNCTIONS.get(_name, ()),
        families=_families(_name),
        note="measured: displacement along the set over the predicted one, one value a run"
        + ("; step size extrapolated to zero from two" if _name in EXTRAPOLATED else ""),
    )(_batch)


@entry(
    "drift-discriminates",
    source="[Wen, Ma, Li 2023], [Arora, Li, Panigrahi 2022]",
    statement="The regulariser that a dynamics follows is told apart from the other one: the displacement differs "
    "from the wrong prediction at least 3 times as much as from the right one, in every run.",
    assumptions="as the drifts; wrong: λ_max for the trace and the trace for λ_max",
    kind="lower",
    families=tuple(
        family(f"{name}, {steps:,} steps", count, quick=quick, name=name, steps=steps)
        for name in ("label-noise", "one-sample-sam", "full-batch-sam", "normalised")
        for count, quick, steps in ((32, 0, 20_000), (0, 16 if name == "full-batch-sam" else 0, 8_000))
    ),
)
def discriminates(rng: Generator, count: int, *, name: str, steps: int) -> Batch:
    """The misfit of the wrong regulariser over that of the right one."""
    setting = draw_setting(rng, count, (3, 3, 3), 4)
    right, wrong = (drift_of(name, setting, steps, regulariser) for regulariser in FOLLOWS[name])
    data = {"point": setting.points, "sharpness": setting.sharpness}
    extra = {"right": right.misfit, "wrong": wrong.misfit}
    return Batch(np.full(count, 3.0), wrong.misfit / right.misfit, data=data, extra=extra)
