"""What a paper's reproduction is, and where to find each."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from flatmin._core import Choice, checked_anywhere
from flatmin.experiments.cells import Context
from flatmin.experiments.runs import RunContent
from flatmin.experiments.specs import Experiment

MODULES = {
    "gatmiry2023": "flatmin.experiments.papers.gatmiry2023",
    "ding2022": "flatmin.experiments.papers.ding2022",
    "marion2024": "flatmin.experiments.papers.marion2024",
}


@checked_anywhere()
@dataclasses.dataclass(frozen=True)
class Paper:
    """A reproduction: specs by size, and the computation.

    Attributes:
        experiment: name, version, title, summary, citation.
        sizes: spec by size (`demo`, `quick`, `full`), called with the seed.
        compute: from the spec to figures as data and claims.
    """

    experiment: Experiment
    sizes: Mapping[str, Callable[[int], Any]]
    compute: Callable[[Any, Context], RunContent]


@checked_anywhere(key=Choice(*MODULES))
def paper(key: str) -> Paper:
    """The reproduction of a paper.

    Args:
        key: such as `gatmiry2023`.

    Returns:
        The paper.

    Raises:
        UsageError: for an unknown key; the nearest is suggested.
    """
    return importlib.import_module(MODULES[key]).PAPER
