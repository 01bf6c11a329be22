"""Gradient descent beside gradient flow, at matched times."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from flatmin._core import AbstractObjective, Integer, SequenceOf, Shown, checked
from flatmin.dynamics._params import FOLLOWED
from flatmin.dynamics._run import TrainResult
from flatmin.dynamics.descent import GradientDescent
from flatmin.dynamics.flow import gradient_flow
from flatmin.dynamics.flow_result import FlowResult
from flatmin.dynamics.record import Record
from flatmin.dynamics.train import train


@dataclasses.dataclass(frozen=True, repr=False)
class MatchedRuns(Shown):
    """Gradient descent beside gradient flow at the same times `t = eta * steps`.

    Attributes:
        steps: steps of gradient descent, shape (t,).
        times: `eta * steps`.
        distances: `||W_descent - W_flow||` over all parameters; NaN after a divergence.
        descent: the run of gradient descent; its records are those of the flow, by the same names.
        flow: the flow.
    """

    steps: Int[np.ndarray, " t"]
    times: Float[np.ndarray, " t"]
    distances: Float[np.ndarray, " t"]
    descent: TrainResult
    flow: FlowResult


@checked(**FOLLOWED, steps=SequenceOf(Integer(0)))
def descent_beside_flow(
    objective: AbstractObjective | Callable[..., Any],
    params: PyTree,
    *,
    learning_rate: float,
    steps: Sequence[int],
    records: Mapping[str, Callable[[PyTree], PyTree]] | Any = None,
    **flow_options: Any,
) -> MatchedRuns:
    """Run gradient descent and gradient flow from one point and compare them at matched times.

    Args:
        objective: what to descend: a loss of the params, or an objective.
        params: initial point.
        learning_rate: eta.
        steps: steps of gradient descent at which to compare; 0 is added.
        records: name -> function of the params, evaluated for both at every comparison.
        flow_options: of `gradient_flow`: `solver`, `rtol`, `atol`, `max_steps`, `invariant`.

    Returns:
        Both runs and their distance over time. The flow does not stop at stationarity, so that it has every time,
        unless its gradient becomes exactly zero; then it stays where it is.

    Raises:
        UsageError: for arguments out of range.
    """
    taken = np.unique([0, *steps])
    here = "descent_beside_flow: params"
    functions = {**dict(records or {}), here: lambda p: eqx.filter(p, eqx.is_inexact_array)}
    dynamics = GradientDescent(learning_rate)
    descent = train(
        objective,
        dynamics,
        params,
        steps=int(taken[-1]),
        key=jax.random.key(0),
        records={name: Record(fn, at=taken.tolist()) for name, fn in functions.items()},
    )
    times = float(learning_rate) * taken
    flow = gradient_flow(
        objective,
        params,
        max_time=float(times[-1]),
        tolerance=0,
        records=functions,
        save_at=times[1:].tolist(),
        **flow_options,
    )
    a, b = descent.records.pop(here), flow.records.pop(here)
    # a diverged descent or a flow at rest has fewer rows
    rows = np.minimum(np.arange(len(taken)), len(b.times) - 1)
    squares = np.full((len(taken), 1), np.nan)
    known = len(a.steps)
    differences = jax.tree.map(
        lambda x, y: np.sum((x[:known] - y[rows[:known]]) ** 2, axis=tuple(range(1, x.ndim))), a.values, b.values
    )
    squares[:known, 0] = sum(jax.tree.leaves(differences))
    return MatchedRuns(taken, times, np.sqrt(squares[:, 0]), descent, flow)
