"""What the verbs return: a `Result`, with the number in its text and an outcome that can be raised.

No number leaves the library without saying how far off it may be: an `Estimate` carries its error and what
kind of error it is.
"""

import statistics
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import equinox as eqx
from jaxtyping import Array, Float

from flatmin._core.display import Shown, with_error
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

    if TYPE_CHECKING:  # fields of each class, in its own order
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
        named = self.outcome if isinstance(self.outcome, tuple) else (self.outcome,)
        outcomes = [Outcome[outcome] if isinstance(outcome, str) else outcome for outcome in named]
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

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """Lower and upper end of what is known of the true value.

        Args:
            level: its probability, for a standard error (calibrated at 0.95: `value -+ 1.96 error`); the other kinds
                hold with certainty, to first order.

        Returns:
            The ends; infinite where no error is known.
        """
        if self.error_kind == "none":
            return self.value - float("inf"), self.value + float("inf")
        quantile = statistics.NormalDist().inv_cdf((1 + level) / 2) if self.error_kind == "standard error" else 1.0
        return self.value - quantile * self.error, self.value + quantile * self.error

    def __float__(self) -> float:
        """The value as a Python float (scalar estimates only)."""
        return float(self.value)
