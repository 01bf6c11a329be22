"""What the verbs return: a `Result`, with the number in its text and an outcome that can be raised.

No number leaves the library without saying how far off it may be: an `Estimate` carries its error and what
kind of error it is, a `Solution` its certified gap.
"""

from typing import Any, Literal, TypeVar

import equinox as eqx
from jaxtyping import Array, Float

from flatmin._core.display import Shown, number, with_error
from flatmin._core.errors import JobError
from flatmin._core.outcomes import Outcome

Kind = TypeVar("Kind", bound="Result")
"""`typing.Self`, which the checker of types cannot see in a method."""

ErrorKind = Literal["rounding", "standard error", "residual bound", "none"]


class Result(Shown):
    """What every verb returns, whatever else it holds.

    Attributes:
        outcome: how it ended; a tuple, one per run, for an ensemble.
        method: the method's name.
    """

    outcome: Any
    method: Any

    def reached(self) -> str:
        """What is known although the outcome is no success, for the error's sentence."""
        return self.headline()

    def raise_if_failed(self: Kind) -> Kind:  # noqa: PYI019
        """Return self, or raise.

        Returns:
            This result, when its outcome (of every run) is a success.

        Raises:
            JobError: with the outcome's sentence and what was reached.
        """
        outcomes = self.outcome if isinstance(self.outcome, tuple) else (self.outcome,)
        failed = [i for i, outcome in enumerate(outcomes) if not outcome.success]
        if failed:
            run = f"run {failed[0]} ({len(failed)} of {len(outcomes)} failed): " if len(outcomes) > 1 else ""
            raise JobError(f"{self.method}: {run}{outcomes[failed[0]].value} ({self.reached()})")
        return self


class Estimate(Result, eqx.Module):
    """A measured quantity with its error.

    Attributes:
        value: the quantity, a scalar or a vector (then `error` has the same shape).
        error: half-width of the uncertainty, in the units of `value`; see `error_kind`.
        error_kind: `"rounding"` (a closed form or a dense decomposition; first-order floating point bound),
            `"standard error"` (a stochastic estimator; one sigma), `"residual bound"` (an eigenvalue:
            some true eigenvalue lies within `error` of `value`) or `"none"` (nothing is known of the error: it is NaN).
        method: the method that was used, by name.
        matvecs: number of Hessian-vector products spent, 0 for closed forms.
        outcome: how the measurement ended; `completed` unless a budget ran out.
    """

    value: Float[Array, "..."]
    error: Float[Array, "..."]
    error_kind: ErrorKind = eqx.field(static=True)
    method: str = eqx.field(static=True)
    matvecs: int = eqx.field(static=True, default=0)
    outcome: Outcome = eqx.field(static=True, default=Outcome.completed)

    @property
    def exact(self) -> bool:
        """True when the only error is rounding."""
        return self.error_kind == "rounding"

    def headline(self) -> str:
        """`103.0055 +- 2e-13 (exact, rounding)`."""
        kind = "no known error" if self.error_kind == "none" else self.error_kind
        error = self.error if self.error_kind != "none" else self.error * float("nan")
        return f"{with_error(self.value, error)} ({self.method}, {kind})"

    def __float__(self) -> float:
        """The value as a Python float (scalar estimates only)."""
        return float(self.value)


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

    def headline(self) -> str:
        """`objective 17.0270, certified gap 2e-15`, or how the solve ended."""
        ended = "" if self.outcome.success else f"{self.outcome.name}, "
        return (
            f"{ended}objective {number(self.primal_value)}, certified gap {number(self.gap, 1)}, residual "
            f"{number(self.residual, 1)}"
        )

    def reached(self) -> str:
        """Gap, residual and iterations."""
        return f"reached gap {self.gap:.1e}, residual {self.residual:.1e} after {self.iterations} iterations"
