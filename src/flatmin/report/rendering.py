"""From a stored run to its figures and its page; needs nothing but the run's own files."""

import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flatmin._core import UsageError
from flatmin.experiments.runs import Run
from flatmin.report.datasets import from_dataset, is_figure, to_dataset
from flatmin.report.figures import Figure
from flatmin.report.matplotlib_renderer import write_matplotlib
from flatmin.report.page import render_page

if TYPE_CHECKING:
    import xarray as xr


def figure_data(figures: Iterable[Figure]) -> dict[str, "xr.Dataset"]:
    """Figures as the datasets of a `RunContent`; they are stored as `data/figure-<n>-<key>.nc`.

    Args:
        figures: the figures, in the order of the page.

    Returns:
        Dataset by name.

    Raises:
        UsageError: if two figures share a key.
    """
    figures = list(figures)
    keys = [f.key for f in figures]
    if len(set(keys)) != len(keys):
        raise UsageError(
            f"figures: got the keys {', '.join(keys)}, expected different ones; rename the repeated"
        )
    return {f"figure-{i:02d}-{f.key}": to_dataset(f) for i, f in enumerate(figures, start=1)}


def figures_of(run: Run) -> dict[str, Figure]:
    """The figures of a stored run.

    Args:
        run: the run.

    Returns:
        Figure by the name of its dataset, in the order of the page.
    """
    loaded = {name: run.dataset(name) for name in run.data_names}
    return {name: from_dataset(dataset) for name, dataset in loaded.items() if is_figure(dataset)}


def render_run(run: Run, folder: pathlib.Path) -> None:
    """Write `figures/*.pdf`, `figures/*.png` and `report.html`; pass it as `render`.

    Args:
        run: the run.
        folder: where to write.
    """
    figures = figures_of(run)
    (folder / "figures").mkdir()
    for figure in figures.values():
        write_matplotlib(figure, folder / "figures")
    images = {f.key: (folder / "figures" / f"{f.key}.png").read_bytes() for f in figures.values()}
    (folder / "report.html").write_text(render_page(run, figures, images), encoding="utf-8")
