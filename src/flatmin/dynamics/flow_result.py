"""What a gradient flow returns: the last point, its records, and how it ended."""

import dataclasses

import numpy as np
from jaxtyping import Float, PyTree

from flatmin._core import Estimate, Outcome, Result, Shown
from flatmin._core.display import number


@dataclasses.dataclass(frozen=True, repr=False)
class FlowHistory(Shown):
    """The values of one record along a flow.

    Attributes:
        times: shape (t,).
        values: an array of shape (t, ...), or a pytree of such.
    """

    times: Float[np.ndarray, " t"]
    values: PyTree


@dataclasses.dataclass(frozen=True, repr=False)
class FlowResult(Result):
    """Where a gradient flow went and how it ended.

    Attributes:
        params: the last point.
        time: its time.
        records: name -> `FlowHistory`.
        outcome: `converged` (stationary, and a minimum as far as second derivatives tell), `saddle` (stationary, but
            a curvature is negative or the Hessian is zero), `stationary` (the curvature could not be had), `max_time`,
            `completed` (`max_time` reached, where no tolerance was asked for), `max_iterations` (of the solver's
            steps), `stalled` (step size or gradient below rounding, and no minimum near).
        loss: the loss there.
        gradient_norm: `||grad f||` there.
        stationarity: `gradient_norm` over the largest gradient norm on the path.
        accepted: steps that the solver took.
        rejected: steps that it tried and found too long.
        drift: largest Frobenius norm by which a conserved matrix differed from its start, over all accepted
            steps; NaN without `invariant`.
        relative_drift: the same over the largest norm of either side of the conservation law on the path.
        loss_rise: largest rise of the loss from one accepted step to the next, over the initial loss; 0 for
            a monotone path.
        lowest_curvature: lowest Hessian eigenvalue at a stationary end, `None` elsewhere.
        highest_curvature: highest Hessian eigenvalue at a stationary end, `None` elsewhere.
        method: `gradient_flow`.
    """

    params: PyTree
    time: float
    records: dict[str, FlowHistory]
    outcome: Outcome
    loss: float
    gradient_norm: float
    stationarity: float
    accepted: int
    rejected: int
    drift: float
    relative_drift: float
    loss_rise: float
    lowest_curvature: Estimate | None
    highest_curvature: Estimate | None
    method: str = "gradient_flow"

    def headline(self) -> str:
        """How it ended, where, and the loss there."""
        return f"{self.outcome.name}: loss {number(self.loss, 4)}, {self.reached()}"

    def reached(self) -> str:
        """Time, steps and gradient."""
        return f"at time {self.time:.3g} after {self.accepted} steps, gradient {self.stationarity:.1e} of its largest"
