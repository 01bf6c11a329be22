"""The certificate: an interval that is proved to hold the optimum of a minimisation, whoever made the points."""

import dataclasses
import math
from typing import TYPE_CHECKING

from flatmin._core.display import Shown, number
from flatmin._core.results import Result

TINY = 2.2250738585072014e-308
"""The smallest normal number: a gap is relative to the primal value, which may be 0."""


@dataclasses.dataclass(frozen=True, repr=False)
class Certificate(Shown):
    """What is proved about the optimum of a minimisation: `dual <= optimum <= primal`.

    The upper end holds for points that fit (`residual` within rounding), both up to the rounding of their evaluation.

    Attributes:
        primal: the objective at a point, an upper bound on the optimum.
        dual: a lower bound on the optimum, from multipliers.
        gap: `|primal - dual| / max(|primal|, tiny)`, tiny the smallest normal number: no answer is closer proved.
        residual: how far the point violates the constraints, in the units that the maker states; 0 for a loss.
        failure_probability: that the lower bound is wrong, over the random numbers of its maker; 0 where none were
            drawn.
    """

    primal: float
    dual: float
    gap: float
    residual: float
    failure_probability: float = 0.0

    @classmethod
    def between(
        cls, primal: float, dual: float, residual: float = 0.0, failure_probability: float = 0.0
    ) -> "Certificate":
        """The certificate of two bounds, its gap computed.

        Args:
            primal: the upper bound.
            dual: the lower bound.
            residual: violation of the constraints.
            failure_probability: of the lower bound.

        Returns:
            The certificate; its gap is NaN unless both bounds are finite.
        """
        primal, dual = float(primal), float(dual)
        finite = math.isfinite(primal) and math.isfinite(dual)
        # a dual value above the primal one is no proof of anything but of a domain that is empty or violated
        gap = abs(primal - dual) / max(abs(primal), TINY) if finite else math.nan
        return cls(primal, dual, gap, float(residual), float(failure_probability))

    @property
    def primal_value(self) -> float:
        """The same as `primal`."""
        return self.primal

    @property
    def dual_value(self) -> float:
        """The same as `dual`."""
        return self.dual

    def headline(self) -> str:
        """`optimum in [17.02, 17.03], gap 2e-15`."""
        ends = f"optimum in [{number(self.dual, 10)}, {number(self.primal, 10)}], gap {number(self.gap, 1)}"
        misses = f", residual {number(self.residual, 1)}" if self.residual else ""
        doubt = f", wrong with probability at most {number(self.failure_probability, 1)}"
        return ends + misses + (doubt if self.failure_probability else "")


class Certified(Result):
    """A result that carries a certificate, and shows its numbers as its own.

    Attributes:
        certificate: what is proved.
    """

    if TYPE_CHECKING:  # a field of each class, in its own order
        certificate: Certificate

    @property
    def primal_value(self) -> float:
        """The objective at the point, an upper bound on the optimum."""
        return self.certificate.primal

    @property
    def dual_value(self) -> float:
        """A lower bound on the optimum."""
        return self.certificate.dual

    @property
    def gap(self) -> float:
        """The certificate's relative gap."""
        return self.certificate.gap

    @property
    def residual(self) -> float:
        """The certificate's residual."""
        return self.certificate.residual

    @property
    def failure_probability(self) -> float:
        """That the lower bound is wrong, over the random numbers of its maker."""
        return self.certificate.failure_probability

    def headline(self) -> str:
        """The certificate's sentence."""
        return self.certificate.headline()
