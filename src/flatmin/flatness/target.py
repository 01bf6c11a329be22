"""What a flatness is measured of: a recovery problem or any loss, at a point."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from flatmin import linalg
from flatmin._core import Data, Domain, Estimate, JobError, Optional, UsageError, is_traced
from flatmin._core.domains import Sizes
from flatmin.parameterizations import check_params
from flatmin.problems import RecoveryProblem

Loss = Callable[..., Array]


class LossOrProblem(Domain):
    """What a flatness is of: a recovery problem, or a loss; of an object with a `loss`, that."""

    def expected(self) -> str:
        """The set in words."""
        return "a RecoveryProblem or a function of the parameters; it comes first, then the parameters"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The problem or the loss."""
        if isinstance(value, RecoveryProblem):
            return value
        if isinstance(getattr(value, "problem", None), RecoveryProblem):
            raise UsageError(f"{argument}: got a {type(value).__name__}, expected its .problem; pass that")
        if not isinstance(value, type) and not callable(value) and callable(getattr(value, "loss", None)):
            return value.loss
        if not callable(value) or isinstance(value, type):
            raise self.refuse(argument, value)
        return value


OF_POINT: dict[str, Domain] = {"problem_or_fn": LossOrProblem(), "batch": Optional(Data())}
"""Domains that all verbs share."""


class Target(NamedTuple):
    """A problem or a loss, at a point.

    Attributes:
        problem: the recovery problem, None for a loss.
        hessian: its Hessian there, as a linear map.
    """

    problem: RecoveryProblem | None
    hessian: linalg.FlatHessian

    @property
    def params(self) -> PyTree:
        """The point."""
        return self.hessian.params

    @property
    def traced(self) -> bool:
        """Whether nothing can be decided by values: under jit, vmap, grad and in records."""
        return is_traced(*jax.tree.leaves((self.problem, self.hessian)))


def target_of(problem_or_fn: RecoveryProblem | Loss, params: PyTree, batch: PyTree = None) -> Target:
    """Check what a verb was given.

    Args:
        problem_or_fn: a recovery problem, or a function `params -> scalar` (`params, batch -> scalar`).
        params: the point.
        batch: the second argument of the function, or None.

    Returns:
        The target.

    Raises:
        UsageError: for what is neither, for parameters that do not belong to the problem or are no real arrays, and
            for a batch beside a problem.
        JobError: where the loss is NaN.
    """
    if not isinstance(problem_or_fn, RecoveryProblem):
        target = Target(None, linalg.flat_hessian(problem_or_fn, params, batch))
        if not target.traced and not is_traced(value := target.hessian.value()) and bool(jnp.isnan(value)):
            # its derivatives may be numbers all the same, of another branch
            raise JobError("params: the loss at this point is NaN; check the parameters, or start from another point")
        return target
    if batch is not None:
        raise UsageError(
            "batch: got one beside a RecoveryProblem, whose samples are its measurements; pass a function of "
            "(params, batch)"
        )
    params = linalg.check_point(check_params(problem_or_fn.parameterization, params, finite=True))
    return Target(problem_or_fn, linalg.flat_hessian(problem_or_fn.loss, params))


def finished(estimate: Estimate) -> Estimate:
    """Return an estimate that is a number, or name the point where there is none; silent when traced.

    Args:
        estimate: what a method found.

    Returns:
        The estimate.

    Raises:
        JobError: for NaN (of a closed form) or anything not finite (of an iteration or a decomposition).
    """
    if is_traced(estimate.value):
        return estimate
    bad = jnp.isnan(estimate.value) if estimate.matvecs == 0 else ~jnp.isfinite(estimate.value)
    if bool(jnp.any(bad)):
        raise JobError(
            "params: the Hessian at this point has NaN or infinite products; check the parameters, or start from "
            "another point"
        )
    return estimate
