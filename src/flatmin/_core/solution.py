"""`Solution`: a solved programme with its certified gap."""

import math
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from flatmin._core.certificates import Certificate
from flatmin._core.display import number
from flatmin._core.outcomes import Outcome
from flatmin._core.results import Result


class Solution(Result, eqx.Module):
    """A solved convex programme with its certificate.

    Attributes:
        matrix: the primal point `X`, shape (d1, d2).
        dual: the dual point `y`, shape (m,), feasible after scaling.
        primal_value: objective at `matrix`.
        dual_value: objective of the dual at `dual`, a lower bound on the optimum.
        gap: `|primal_value - dual_value| / max(|primal_value|, tiny)`, tiny the smallest normal number. Certified:
            recomputed from `matrix` and `dual` alone, so the relative distance to the optimum is at most `gap`.
        residual: relative constraint violation `||A(X) - b|| / max(||b||, tiny)`.
        iterations: iterations of the method.
        outcome: how the solve ended.
        method: the method's name.
        stats: further diagnostics by name.
        rank: number of singular values of `matrix` above `rank_tolerance`.
        rank_tolerance: what counts as zero: what the certificate resolves, and never less than rounding beside the
            data.
        objective: what `primal_value` is called, such as `nuclear norm`.
    """

    matrix: Float[Array, "d1 d2"]
    dual: Float[Array, " m"]
    primal_value: float
    dual_value: float
    gap: float
    residual: float
    iterations: int
    outcome: Outcome = eqx.field(static=True)
    method: str = eqx.field(static=True)
    stats: dict[str, Any] = eqx.field(default_factory=dict)
    rank: int = 0
    rank_tolerance: float = math.nan
    objective: str = eqx.field(static=True, default="objective")

    @property
    def certificate(self) -> Certificate:
        """What is proved of the optimum."""
        return Certificate(self.primal_value, self.dual_value, self.gap, self.residual)

    def headline(self) -> str:
        """`nuclear norm 17.0270, certified gap 2e-15, rank 2`; the outcome first where it is no success."""
        ended = "" if self.outcome.success else f"{self.outcome.name}: "
        size = f"{self.objective} {number(self.primal_value)}, certified gap {number(self.gap, 1)}, rank {self.rank}"
        return ended + size + ("" if self.outcome.success else f", residual {number(self.residual, 1)}")

    def reached(self) -> str:
        """Gap, residual and iterations."""
        return f"reached gap {self.gap:.1e}, residual {self.residual:.1e} after {self.iterations} iterations"
