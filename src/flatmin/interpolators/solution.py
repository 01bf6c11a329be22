"""The flattest solution and what became of each start, with what is known about them."""

import dataclasses

from jaxtyping import Array, Float

from flatmin._core import Outcome, Result, Shown
from flatmin._core.display import number
from flatmin.interpolators.bounds import RipEstimate

Layers = tuple[Float[Array, "_ _"], ...]


@dataclasses.dataclass(frozen=True, repr=False)
class Start(Shown):
    """What became of one start.

    Attributes:
        name: `nuclear`, `scaled-nuclear`, `random 0`, ..., or `given`.
        first_trace: the trace at the start, after it was brought to zero loss.
        trace: at its end.
        rank: of its matrix.
        stationarity: projected gradient over gradient.
        outcome: how it ended.
        projected: whether the start did not interpolate and was brought to zero loss first.
    """

    name: str
    first_trace: float
    trace: float
    rank: int
    stationarity: float
    outcome: Outcome
    projected: bool


@dataclasses.dataclass(frozen=True, repr=False)
class FlattestSolution(Result):
    """The flattest interpolating parameters found, with what is known about them.

    Attributes:
        params: factors in the problem's widths.
        factors: the same in the inner width `rank`: `(W_1, ..., W_L)`.
        matrix: their product.
        trace: `tr H` there.
        loss: the mean of squared residuals.
        stationarity: `||P_T grad tr|| / ||grad tr||` among interpolating factors of that inner width: the first-order
            condition.
        curvature: smallest eigenvalue of the Riemannian Hessian beyond its zero modes, over the largest: the
            second-order condition is that it is not negative; NaN where it was not computed.
        curvature_error: residual bound of it; beyond 1500 parameters it is Lanczos', which can miss an eigenvalue
            whose vector is orthogonal to the random start.
        zero_modes: zero eigenvalues beyond the `(L-1) r (r-1)/2` of the orthogonal symmetry between layers; beyond
            1500 parameters at least so many.
        rank: of the matrix.
        escape_ratio: what a further rank-one term would pay over what it would cost, the largest found, see
            `flatmin.interpolators`; above 1 the matrix is no minimum over higher ranks unless other multipliers exist
            (`kernel_rank` below the number of independent measurements). NaN at full rank.
        fibre_gap: how far the trace can lie above the smallest on the fibre of this matrix, proven, relative.
        lower: a proven lower end of the trace over all interpolating parameters.
        lower_kind: see `LowerBound`.
        rip: what the restricted isometry property would say with an estimated constant; not a bound.
        spread: largest minus smallest trace over the starts that converged, relative; NaN with one.
        starts: what became of each.
        kernel_rank: rank of the Jacobian of the residuals at the solution (inner width).
        dependent_measurements: measurements that depend linearly on others.
        misfit: `||b - A A^+ b|| / ||b||` of the given targets; above rounding only with `fit="least-squares"`.
        outcome: `converged` (the trace meets its proven lower end: nothing is flatter), `local_minimum` (stationary, no
            descent was found, that nothing is flatter was not proven), `saddle`, `stalled` or `max_iterations`.
        method: how the best start was finished.
    """

    params: Layers
    factors: Layers
    matrix: Float[Array, "d_L d_0"]
    trace: float
    loss: float
    stationarity: float
    curvature: float
    curvature_error: float
    zero_modes: int
    rank: int
    escape_ratio: float
    fibre_gap: float
    lower: float
    lower_kind: str
    rip: RipEstimate | None
    spread: float
    starts: tuple[Start, ...]
    kernel_rank: int
    dependent_measurements: int
    misfit: float
    outcome: Outcome
    method: str

    def headline(self) -> str:
        """The trace, its proven lower end, and the two conditions."""
        bound = f", lower end {number(self.lower)} ({self.lower_kind})" if self.lower_kind != "none" else ""
        return f"{self.outcome.name}: trace {number(self.trace)}{bound}, rank {self.rank}, {self.reached()}"

    def reached(self) -> str:
        """The conditions of first and second order."""
        return f"projected gradient {self.stationarity:.1e} of the whole, smallest curvature {self.curvature:.1e}"

    @property
    def gap(self) -> float:
        """`(trace - lower) / trace`; as good as the bound's kind."""
        return (self.trace - self.lower) / self.trace if self.trace > 0 else 0.0
