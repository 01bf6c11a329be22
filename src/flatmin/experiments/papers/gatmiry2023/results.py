"""What the computation hands to figures and claims."""

import dataclasses

import numpy as np
import xarray as xr

from flatmin.experiments.certificates import Certificate
from flatmin.experiments.papers.gatmiry2023.spec import Gatmiry2023


@dataclasses.dataclass(frozen=True)
class Results:
    """All measurements of the reproduction.

    Attributes:
        spec: the settings.
        runs: one dataset for each (depth, seed, dynamics), see `train_cell`.
        convex: the certificate of the minimum-nuclear-norm solution of each seed.
        convex_error: its squared error to the truth, for each seed.
        frobenius: Theorem 4's points.
        sandwich: Theorem 1's points.
    """

    spec: Gatmiry2023
    runs: dict[tuple[int, int, str], xr.Dataset]
    convex: dict[int, Certificate]
    convex_error: dict[int, float]
    frobenius: xr.Dataset
    sandwich: xr.Dataset

    @property
    def seeds(self) -> list[int]:
        """The seeds, first to last."""
        return list(range(self.spec.seed, self.spec.seed + self.spec.training.num_seeds))

    def of(self, depth: int, dynamics: str) -> xr.Dataset:
        """The runs of one depth and dynamics with an axis `seed`."""
        return xr.concat([self.runs[depth, seed, dynamics] for seed in self.seeds], dim="seed")

    def noisy_until(self, depth: int) -> int:
        """The step at which label noise is switched off (the last step if it never is)."""
        phases = self.spec.training.schedules[depth]
        quiet = 0
        for phase in reversed(phases):
            if phase.noise > 0:
                break
            quiet += phase.steps
        return sum(phase.steps for phase in phases) - quiet

    def min_nuclear_norms(self) -> np.ndarray:
        """The convex minimum of each seed."""
        return np.array([self.convex[seed].primal_value for seed in self.seeds])
