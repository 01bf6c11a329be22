"""From a stored run to its figures and its page; needs nothing but the run's own files."""

import pathlib

from flatmin._core import UsageError, checked_anywhere
from flatmin.experiments.figure_data import figures_of
from flatmin.experiments.runs import Run
from flatmin.report.matplotlib_renderer import write_matplotlib
from flatmin.report.page import render_page


@checked_anywhere()
def render_run(run: Run, folder: pathlib.Path) -> None:
    """Write `figures/*.pdf`, `figures/*.png` and `report.html`; pass it as `render`.

    Args:
        run: the run.
        folder: where to write; it exists, without `figures`.

    Raises:
        UsageError: if there is no such folder.
    """
    if not folder.is_dir() or (folder / "figures").exists():
        raise UsageError(f"folder: got {folder}, expected a folder that exists and holds no figures yet")
    figures = figures_of(run)
    (folder / "figures").mkdir()
    for figure in figures.values():
        write_matplotlib(figure, folder / "figures")
    images = {f.key: (folder / "figures" / f"{f.key}.png").read_bytes() for f in figures.values()}
    (folder / "report.html").write_text(render_page(run, figures, images), encoding="utf-8")
