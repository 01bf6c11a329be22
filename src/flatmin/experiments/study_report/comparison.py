"""Two studies beside each other: the cells that both have."""

from typing import TYPE_CHECKING

import numpy as np

from flatmin._core import UsageError
from flatmin.experiments.figures import Axis, Figure, Panel, Series
from flatmin.experiments.numbers import format_number

if TYPE_CHECKING:
    import xarray as xr

_MOST_POINTS = 4000


def comparison_figure(first: "xr.Dataset", second: "xr.Dataset", names: tuple[str, str]) -> Figure:
    """Each common quantity of one study against that of the other, cell by cell.

    Args:
        first: a study.
        second: another one.
        names: of both.

    Returns:
        One panel a quantity, with the diagonal on which they agree.

    Raises:
        UsageError: if they have no axes, cells or quantities in common.
    """
    import xarray as xr

    axes = list(first["state"].dims)
    if set(axes) != set(second["state"].dims):
        raise UsageError(
            f"against: {names[1]} has the axes ({', '.join(map(str, second['state'].dims))}), expected "
            f"({', '.join(map(str, axes))}) as {names[0]} has"
        )
    common = [
        str(name)
        for name in first.data_vars
        if name in second.data_vars
        and first[name].dims == first["state"].dims
        and name not in ("state", "outcome", "steps")
    ]
    mine, theirs = xr.align(first[common], second[common].transpose(*axes), join="inner")
    if not common or mine["state" if not common else common[0]].size == 0:
        raise UsageError(f"against: {names[0]} and {names[1]} have no cell or no quantity in common")
    panels, notes = [], []
    for name in common:
        x, y = theirs[name].values.ravel().astype(float), mine[name].values.ravel().astype(float)
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any() or name.endswith("_error"):
            continue
        x, y = x[known], y[known]
        equal = int(np.count_nonzero(x == y))
        step = -(-len(x) // _MOST_POINTS)
        ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
        log = bool(ends[0] > 0 and ends[1] > 100 * ends[0])
        panels.append(
            Panel(
                name.replace("_", " "),
                Axis(names[1], log=log),
                Axis(names[0], log=log),
                (
                    Series("a cell of both", x[::step], y[::step], kind="points"),
                    Series("equal", ends, ends, role="theory"),
                ),
            )
        )
        difference = format_number(float(np.median(y - x)), 3)
        notes.append(f"{name}: {equal:,} of {len(x):,} equal to the last bit, median difference {difference}")
    if not panels:
        raise UsageError(f"against: no cell is finished in both {names[0]} and {names[1]}; run them first")
    return Figure(
        key="comparison",
        title=f"{names[0]} against {names[1]}",
        caption="; ".join(notes) + ".",
        panels=tuple(panels),
    )
