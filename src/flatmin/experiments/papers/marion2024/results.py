"""What the computation hands to figures and claims."""

import dataclasses

import numpy as np
import xarray as xr

from flatmin.experiments.papers.marion2024.spec import Marion2024
from flatmin.experiments.papers.marion2024.training import CONVERGED, SUCCEEDED
from flatmin.theory.marion2024 import (
    critical_learning_rate,
    flow_sharpness_upper_bound,
    sharpness_lower_bound,
)


@dataclasses.dataclass(frozen=True)
class Results:
    """All measurements of the reproduction.

    Attributes:
        spec: the settings.
        mlp: the runs of experiment 1, see `sweep_cell`.
        mlp_single: its runs over time, see `single_cell`.
        residual: the runs of experiment 2.
        residual_single: its runs over time.
        depths: the runs of experiment 3 by depth, see `depths_cell`.
        underdetermined: the runs of experiment 4.
        gelu: the runs of experiment 5.
        rank_one: runs at small scales, ours.
    """

    spec: Marion2024
    mlp: xr.Dataset
    mlp_single: xr.Dataset
    residual: xr.Dataset
    residual_single: xr.Dataset
    depths: dict[int, xr.Dataset]
    underdetermined: xr.Dataset
    gelu: xr.Dataset
    rank_one: xr.Dataset


def lower_bound(runs: xr.Dataset) -> float:
    """`2 L a ||w*||^{2 - 2/L}` of an experiment."""
    return float(sharpness_lower_bound(float(runs.alignment), runs.attrs.get("solution_norm", 1.0), int(runs.depth)))


def upper_bound(runs: xr.Dataset) -> float:
    """`8 L Lambda` of an experiment."""
    return float(flow_sharpness_upper_bound(float(runs.top_eigenvalue), int(runs.depth)))


def critical_rate(runs: xr.Dataset) -> float:
    """`1 / (L a ||w*||^{2 - 2/L})` of an experiment."""
    return float(critical_learning_rate(float(runs.alignment), runs.attrs.get("solution_norm", 1.0), int(runs.depth)))


def _within(runs: xr.Dataset, share: float) -> np.ndarray:
    excess = runs.final_loss.values - runs.least_loss
    with np.errstate(invalid="ignore"):
        return (runs.diverged_at.values < 0) & (excess <= share * runs.alignment * runs.solution_norm**2)


def converged(runs: xr.Dataset) -> np.ndarray:
    """Which runs ended at a minimiser."""
    return _within(runs, CONVERGED)


def succeeded(runs: xr.Dataset) -> np.ndarray:
    """Which runs came close to one."""
    return _within(runs, SUCCEEDED)
