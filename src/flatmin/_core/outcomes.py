"""Outcome codes: how an iteration ended, with a text that says what to do."""

import enum


class Outcome(enum.Enum):
    """How a solver or a training run ended.

    `converged`, `local_minimum` and `completed` are successes; the value of each member is its sentence.
    """

    converged = "the requested tolerance was reached"
    local_minimum = "stationary to the requested tolerance; that no other point is lower was not proven"
    completed = "all requested steps were done"
    max_iterations = "the iteration limit was reached before the tolerance; raise max_iterations or loosen tolerance"
    stalled = "no further progress is possible in this precision; loosen tolerance or rescale the data"
    diverged = "the iterates left the range of finite numbers; lower the step size"
    undercut = "a feasible point below the given value was found, so that value is not optimal; leave it out to go on"
    infeasible = "the constraints contradict each other; use a noisy (least-squares) form of the programme"
    max_time = "the end of time was reached before the tolerance; raise max_time or loosen tolerance"
    saddle = "the gradient vanished at a saddle or a flat point, not at a minimum; start from another point"
    stationary = "the gradient vanished, but the curvature there could not be had, so that a minimum was not told apart"
    interrupted = "the run was interrupted; start it again with the same checkpoint to continue"

    @property
    def success(self) -> bool:
        """Whether the result is what was asked for."""
        return self in (Outcome.converged, Outcome.local_minimum, Outcome.completed)
