"""A paper at its quick size, once for a test file, with the results that its claims and figures were made of."""

import pathlib

import pytest

from flatmin.experiments.cells import Context


def quick_run(paper, results, folder: pathlib.Path) -> dict:
    """`content` of the run, the `results` behind it and the `folder` of its cells.

    `paper` is the paper's module with `compute`, `results` its class of results.
    """
    seen = {"folder": folder}
    original = results.__init__

    def remember(self, **fields):
        original(self, **fields)
        seen["results"] = self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "__init__", remember)
        # the other test process has the other core
        patch.setattr("flatmin.studies.cells.available_cores", lambda: 1)
        seen["content"] = paper.compute(paper.SIZES["quick"](0), Context(folder, workers=1))
    return seen
