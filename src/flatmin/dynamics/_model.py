"""A rule with what it descends, cut into the leaves that have a run axis and the others."""

import dataclasses
import functools

import equinox as eqx
from jaxtyping import PyTree

from flatmin._core import AbstractObjective
from flatmin.dynamics._base import AbstractDynamics


@dataclasses.dataclass(frozen=True)
class Model:
    """`(dynamics, objective)` cut into leaves with a run axis and the others; see `_engine`.

    Attributes:
        whole: dynamics and objective.
        mask: a pytree of bools: which leaves have a run axis.
        runs: number of runs, `None` for a single run without a run axis.
    """

    whole: tuple[AbstractDynamics, AbstractObjective]
    mask: PyTree[bool]
    runs: int | None

    @functools.cached_property
    def parts(self) -> tuple[bool, PyTree, PyTree]:
        """Whether there are runs, the leaves with a run axis, the others: what `_engine` takes."""
        return self.runs is not None, *eqx.partition(self.whole, self.mask)
