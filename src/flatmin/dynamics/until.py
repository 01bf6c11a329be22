"""When a run is done before its last step."""

import dataclasses

from flatmin._core import Optional, Real, UsageError, checked


@checked(loss=Optional(Real(0, above=True)), gradient=Optional(Real(0, above=True)))
@dataclasses.dataclass(frozen=True)
class Until:
    """A run ends as soon as its whole loss or the norm of its gradient is small; it is looked at now and then.

    Where a run ends is a function of its own path and of `every`: not of the runs beside it, of records or of chunks.
    A look costs one evaluation of the loss over all samples (with its gradient, if that is asked for).

    Attributes:
        loss: largest loss (the objective's, without label noise); None for no such condition.
        gradient: largest Euclidean norm of the loss's gradient in all parameters; None for no such condition.
        every: steps between two looks, the first before the first step.

    Raises:
        UsageError: if neither condition is given, or one is not positive, or `every` is not a whole number >= 1.
    """

    loss: float | None = None
    gradient: float | None = None
    every: int = 100

    def __post_init__(self):
        if self.loss is None and self.gradient is None:
            raise UsageError("until: got neither loss nor gradient, expected at least one of them")

    def reached(self, loss, norm):
        """Whether runs are done.

        Args:
            loss: of each run.
            norm: of each run's gradient.

        Returns:
            Truth values of the same shape; False where a number is NaN.
        """
        small = loss <= (-1.0 if self.loss is None else self.loss)
        return small | (norm <= (-1.0 if self.gradient is None else self.gradient))
