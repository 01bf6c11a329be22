"""What the computation hands to figures and claims."""

import dataclasses

import numpy as np
import xarray as xr

from flatmin.experiments.papers.ding2022.spec import Ding2022

NAMES = {
    "sensing": "matrix sensing",
    "bilinear": "bilinear sensing",
    "completion": "matrix completion",
    "network": "quadratic network",
    "covariance": "covariance estimation",
}


@dataclasses.dataclass(frozen=True)
class Results:
    """All measurements of the reproduction.

    Attributes:
        spec: the settings.
        diagrams: problem -> dimension -> the cell, see `diagram_cell`.
        robust: rank -> the cell, see `robust_cell`.
        depths: number of factors -> the cell, see `depth_cell`.
    """

    spec: Ding2022
    diagrams: dict[str, dict[int, xr.Dataset]]
    robust: dict[int, xr.Dataset]
    depths: dict[int, xr.Dataset]

    def rank(self, problem: str) -> int:
        """Rank of the truth of a problem."""
        return getattr(self.spec.diagrams, problem).rank

    def stacked(self, problem: str, name: str) -> np.ndarray:
        """A measurement of a diagram, shape (dimensions, ...)."""
        return np.stack([data[name].values for data in self.diagrams[problem].values()])


def undecided(data: xr.Dataset) -> int:
    """Number of instances for which the solver stopped before the question was decided."""
    return int(np.isnan(data.recovered.values).sum())
