"""Trace flow of a recovery problem: what label-noise SGD follows once it interpolates."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from flatmin._core import Function, Mapped, Optional, Real, checked
from flatmin.dynamics import TraceFlowResult, trace_flow
from flatmin.flatness import block_traces
from flatmin.measurements import AbstractMeasurements, DenseMeasurements, MomentMeasurements, with_moments
from flatmin.problems import RecoveryProblem

FOURTH_LIMIT = 80  # largest side of a matrix for which the fourth moment of dense measurements is kept


class TraceOf(eqx.Module):
    """`tr H` of a problem as a function of its params, by the closed form."""

    problem: RecoveryProblem

    def __call__(self, params: PyTree) -> Float[Array, ""]:
        """The trace."""
        return jnp.sum(block_traces(self.problem, params))


def with_kept_moments(measurements: AbstractMeasurements) -> AbstractMeasurements:
    """The same measurements with the moments kept that make repeated traces cheap."""
    if isinstance(measurements, MomentMeasurements):
        return measurements
    fourth = isinstance(measurements, DenseMeasurements) and max(measurements.matrix_shape) <= FOURTH_LIMIT
    return with_moments(measurements, fourth=fourth)


@checked(steps=Real(0), noise=Real(0))
def label_noise_time(steps: float, learning_rate: float, noise: float, batch_size: int) -> float:
    """`t = steps eta^2 sigma^2 / (2B)`: the time of the trace flow that so many steps of label-noise SGD take.

    Args:
        steps: number of steps.
        learning_rate: eta.
        noise: sigma, standard deviation of the label noise.
        batch_size: B.

    Returns:
        The time.
    """
    return steps * learning_rate**2 * noise**2 / (2 * batch_size)


@checked(records=Optional(Mapped(Function())))
def follow_trace(
    problem: RecoveryProblem,
    params: PyTree,
    *,
    records: Mapping[str, Callable[[PyTree], PyTree]] | None = None,
    **options: Any,
) -> TraceFlowResult:
    """The trace flow `dW/dt = -P_T grad tr H(W)` of a problem, from the interpolating point nearest to `params`.

    Args:
        problem: the recovery problem, in float64; slow where its parameterization has no closed form of the trace.
        params: the start; brought to zero loss first, which the result says.
        records: name -> function of the params.
        **options: those of `flatmin.dynamics.trace_flow`.

    Returns:
        The path and its end, in the time of label-noise SGD, see `label_noise_time`.

    Raises:
        UsageError: if the targets cannot be reached from there, and as `trace_flow`.
    """
    kept = RecoveryProblem(with_kept_moments(problem.measurements), problem.parameterization, problem.targets)
    return trace_flow(TraceOf(kept), problem.residual, params, records=records, **options)
