"""What the verbs return: `Estimate` for a measured number, `Solution` for a solved programme.

No number leaves the library without saying how far off it may be: an `Estimate` carries its error and what
kind of error it is, a `Solution` its certified gap.
"""

from typing import Any, Literal

import equinox as eqx
from jaxtyping import Array, Float

from flatmin._core.errors import JobError
from flatmin._core.outcomes import Outcome

ErrorKind = Literal["rounding", "standard error", "residual bound"]


class Estimate(eqx.Module):
    """A measured quantity with its error.

    Attributes:
        value: the quantity, a scalar or a vector (then `error` has the same shape).
        error: half-width of the uncertainty, in the units of `value`; see `error_kind`.
        error_kind: `"rounding"` (a closed form or a dense decomposition; first-order floating point bound),
            `"standard error"` (a stochastic estimator; one sigma) or `"residual bound"` (an eigenvalue:
            some true eigenvalue lies within `error` of `value`).
        method: the method that was used, by name.
        matvecs: number of Hessian-vector products spent, 0 for closed forms.
    """

    value: Float[Array, "..."]
    error: Float[Array, "..."]
    error_kind: ErrorKind = eqx.field(static=True)
    method: str = eqx.field(static=True)
    matvecs: int = eqx.field(static=True, default=0)

    @property
    def exact(self) -> bool:
        """True when the only error is rounding."""
        return self.error_kind == "rounding"

    def __float__(self) -> float:
        """The value as a Python float (scalar estimates only)."""
        return float(self.value)


class Solution(eqx.Module):
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

    def raise_if_failed(self) -> "Solution":
        """Return self, or raise.

        Returns:
            This solution, when its outcome is a success.

        Raises:
            JobError: with the outcome's sentence, the gap and the residual reached.
        """
        if not self.outcome.success:
            raise JobError(
                f"{self.method}: {self.outcome.value} (reached gap {self.gap:.1e}, residual {self.residual:.1e} "
                f"after {self.iterations} iterations)"
            )
        return self
