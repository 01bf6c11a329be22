"""Figures as data, drawn for print (matplotlib) and for the browser (plotly), and the page of a run.

Importing this room imports neither matplotlib nor plotly; drawing does.
"""

from flatmin._core.app import PACKAGES as _PACKAGES  # noqa: F401  # says what is missing
from flatmin._core.exports import export as _export
from flatmin.experiments.figure_data import figure_data as figure_data
from flatmin.experiments.figure_data import figures_of as figures_of
from flatmin.experiments.figure_data import from_dataset as from_dataset
from flatmin.experiments.figure_data import to_dataset as to_dataset
from flatmin.experiments.figures import Axis as Axis
from flatmin.experiments.figures import Figure as Figure
from flatmin.experiments.figures import HeatmapPanel as HeatmapPanel
from flatmin.experiments.figures import ImagePanel as ImagePanel
from flatmin.experiments.figures import Panel as Panel
from flatmin.experiments.figures import ReferenceLine as ReferenceLine
from flatmin.experiments.figures import Series as Series
from flatmin.report.matplotlib_renderer import matplotlib_bytes as matplotlib_bytes
from flatmin.report.matplotlib_renderer import to_matplotlib as to_matplotlib
from flatmin.report.matplotlib_renderer import write_matplotlib as write_matplotlib
from flatmin.report.page import render_page as render_page
from flatmin.report.plotly_renderer import to_plotly as to_plotly
from flatmin.report.rendering import render_run as render_run
from flatmin.report.tables import ValueTable as ValueTable
from flatmin.report.tables import value_tables as value_tables

_export(globals())
