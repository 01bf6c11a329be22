"""The certificate of a convex solve, as a run keeps it."""

from pydantic import ConfigDict

import flatmin._core as core
from flatmin._core import Result, Solution, checked_anywhere
from flatmin._core.models import Model


class Certificate(Result, Model):
    """What proves a convex value: a primal point, a dual bound and the gap between them.

    Attributes:
        name: what was solved, such as `minimum nuclear norm`.
        method: the method's name.
        primal_value: objective at the primal point.
        dual_value: lower bound from the dual point.
        gap: relative duality gap.
        residual: relative violation of the constraints.
        iterations: iterations spent.
        outcome: how the solve ended, by name.
        success: whether the outcome is a success.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    method: str
    primal_value: float
    dual_value: float
    gap: float
    residual: float
    iterations: int
    outcome: str
    success: bool

    @property
    def certificate(self) -> core.Certificate:
        """The numbers alone."""
        return core.Certificate(self.primal_value, self.dual_value, self.gap, self.residual)

    def headline(self) -> str:
        """What was solved, and what is proved of it."""
        return f"{self.name}: {self.certificate.headline()} ({self.outcome})"

    @classmethod
    @checked_anywhere()
    def from_solution(cls, name: str, solution: Solution) -> "Certificate":
        """The certificate that a solver's answer carries.

        Args:
            name: what was solved.
            solution: the answer.

        Returns:
            The certificate, plain numbers only.
        """
        return cls(
            name=name,
            method=solution.method,
            primal_value=float(solution.primal_value),
            dual_value=float(solution.dual_value),
            gap=float(solution.gap),
            residual=float(solution.residual),
            iterations=int(solution.iterations),
            outcome=solution.outcome.name,
            success=solution.outcome.success,
        )
