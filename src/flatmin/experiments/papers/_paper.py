"""What a paper's reproduction is, and where to find each."""

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

from flatmin._core import Text, UsageError, checked_anywhere, choose
from flatmin.experiments.cells import Context
from flatmin.experiments.runs import RunContent
from flatmin.experiments.specs import Experiment

GROUP = "flatmin.papers"
"""The group of entry points by which another package adds a page: `key = "module"`, a module with `PAPER`."""

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


def modules() -> dict[str, str]:
    """The module of each paper: those of flatmin, and those that installed packages enter under `GROUP`.

    Returns:
        Module by key; nobody takes a key of flatmin's own.
    """
    found = {point.name: point.module for point in importlib.metadata.entry_points(group=GROUP)}
    return {**dict(sorted(found.items())), **MODULES}


@checked_anywhere(key=Text(1))
def paper(key: str) -> Paper:
    """The reproduction of a paper.

    Args:
        key: such as `gatmiry2023`; see `modules`.

    Returns:
        The paper.

    Raises:
        UsageError: for an unknown key, with the nearest; and for an entry point that leads to no paper.
    """
    known = modules()
    module = known[choose("key", key, known)]
    try:
        found = getattr(importlib.import_module(module), "PAPER", None)
    except ImportError as error:
        raise UsageError(f"key: {key} is entered as {module}, which cannot be imported ({error}); mend it") from error
    if not isinstance(found, Paper):
        raise UsageError(f"key: {key} is entered as {module}, which has no PAPER; give it one of the class Paper")
    return found
