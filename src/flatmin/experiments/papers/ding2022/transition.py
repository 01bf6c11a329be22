"""The line of 50% recovery, and what it says about measurements per dimension."""

import dataclasses

import numpy as np
import xarray as xr
from scipy.stats import linregress

from flatmin.studies.transition import half_point


@dataclasses.dataclass(frozen=True)
class Line:
    """`m = intercept + slope d`, fitted to the points of 50% recovery.

    Attributes:
        slope: measurements per dimension.
        intercept: at d = 0.
        stderr: standard error of the slope; NaN for two points.
        r_squared: share of the variance explained.
        dimensions: where there is a point.
        halves: number of measurements at which half of the instances are recovered, one a dimension.
    """

    slope: float
    intercept: float
    stderr: float
    r_squared: float
    dimensions: np.ndarray
    halves: np.ndarray

    def at(self, dimensions: np.ndarray) -> np.ndarray:
        """The fitted number of measurements."""
        return self.intercept + self.slope * np.asarray(dimensions, float)


def recovered_share(columns: dict[int, xr.Dataset], kind: str) -> dict[int, np.ndarray]:
    """Share of recovered instances by dimension, one value an amount; undecided ones are left out.

    Args:
        columns: the cells of a diagram by dimension.
        kind: which programme.

    Returns:
        Shape (amounts,) each; NaN where all are undecided.
    """
    return {d: data.recovered.sel(kind=kind).mean("trial", skipna=True).values for d, data in columns.items()}


def fitted_line(columns: dict[int, xr.Dataset], kind: str) -> Line:
    """The line of 50% recovery of a diagram.

    Args:
        columns: the cells by dimension.
        kind: which programme.

    Returns:
        The line; NaN throughout with fewer than two points.
    """
    shares = recovered_share(columns, kind)
    points = {d: half_point(columns[d].measurements.mean("trial").values, share) for d, share in shares.items()}
    fine = {d: m for d, m in points.items() if np.isfinite(m)}
    dimensions, halves = np.array(list(fine), float), np.array(list(fine.values()))
    if len(fine) < 2:
        nan = float("nan")
        return Line(nan, nan, nan, nan, dimensions, halves)
    fit = linregress(dimensions, halves)
    slope, intercept, r, stderr = (float(getattr(fit, name)) for name in ("slope", "intercept", "rvalue", "stderr"))
    return Line(slope, intercept, stderr if len(fine) > 2 else float("nan"), r**2, dimensions, halves)
