"""The ledger as pictures: how tight each bound is, how RIP constants shrink, where dynamics drift."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from flatmin.experiments.figures import Axis, Figure, Panel, ReferenceLine, Series
from flatmin.experiments.ledger._entry import ENTRIES, EPS
from flatmin.experiments.ledger.gatmiry_random import LADDER, SIDE

UPPER, LOWER = (1e-4, 3.0), (0.3, 1e4)
BOUNDS = {
    "Gatmiry et al., upper bounds": (
        UPPER,
        ("lemma-1", "lemma-3-upper", "lemma-5", "theorem-1-upper", "theorem-1-ratio", "theorem-2"),
        "gatmiry-",
    ),
    "Gatmiry et al., lower bounds": (
        LOWER,
        ("lemma-3-lower", "lemma-4-bound", "theorem-1-lower", "theorem-5-bound", "theorem-7-bound"),
        "gatmiry-",
    ),
    "Other papers, upper bounds": (
        UPPER,
        ("ding-theorem-3-3-norm-gap", "ding-theorem-3-3-imbalance", "marion-flow-end", "kamber-upper-bound"),
        "",
    ),
    "Other papers, lower bounds": (
        LOWER,
        (
            "ding-theorem-3-2-bound",
            "ding-theorem-3-2-convex",
            "ding-hadamard-bound",
            "marion-theorem-1",
            "kamber-smallest",
        ),
        "",
    ),
}
DYNAMICS = {
    "drift-label-noise": "label noise",
    "drift-one-sample-sam": "one-sample SAM",
    "drift-full-batch-sam": "full-batch SAM",
    "drift-normalised": "normalised GD",
    "drift-trace-penalty": "trace penalty",
    "drift-weight-decay": "weight decay",
}


def figures(tables: Mapping[str, xr.Dataset]) -> list[Figure]:
    """All figures for which there are data.

    Args:
        tables: the instances of each line.

    Returns:
        The figures.
    """
    drawn = [_bounds(tables), _equalities(tables), _rip(tables), _random(tables), _drift(tables)]
    return [figure for figure in drawn if figure is not None]


def _quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.sort(values[np.isfinite(values)])
    if values.size > 200:
        values = values[np.linspace(0, values.size - 1, 200).astype(int)]
    return np.linspace(0, 1, values.size), values


def _bounds(tables: Mapping[str, xr.Dataset]) -> Figure | None:
    panels = []
    for title, (limits, names, prefix) in BOUNDS.items():
        series = []
        for name in names:
            table = tables.get(prefix + name)
            if table is None:
                continue
            inside = table.applies.values & (table.predicted.values > 0) & (table.measured.values > 0)
            share, ratio = _quantiles((table.measured.values / np.where(inside, table.predicted.values, 1))[inside])
            if ratio.size:
                series.append(Series(name, share, ratio))
        if series:
            y = Axis("measured / predicted", log=True, limits=limits)
            panels.append(Panel(title, Axis("share of instances"), y, tuple(series), (ReferenceLine("equality", 1.0),)))
    if not panels:
        return None
    return Figure(
        key="bounds",
        title="How tight the bounds are",
        caption="Measured over predicted on every instance on which the assumptions are known to hold, sorted. An "
        "upper bound must stay at or below 1, a lower one at or above. Flat parts at 1 are instances on which "
        "equality is attained.",
        panels=tuple(panels),
        columns=2,
    )


def _equalities(tables: Mapping[str, xr.Dataset]) -> Figure | None:
    series = []
    for key, table in tables.items():
        if ENTRIES[key].kind != "value" or key == "gatmiry-rip-estimates":
            continue
        size = np.maximum(np.abs(table.predicted.values), np.finfo(float).tiny)
        error = np.abs(table.measured.values - table.predicted.values) / size
        share, values = _quantiles(error)
        series.append(Series(key, share, values))
    if not series:
        return None
    middle = (len(series) + 1) // 2
    panels = tuple(
        Panel(
            title,
            Axis("share of instances"),
            Axis("relative error", log=True, floor=EPS / 10),
            tuple(part),
            (ReferenceLine("unit roundoff × 2", EPS),),
        )
        for title, part in (("Equalities, first half", series[:middle]), ("Equalities, second half", series[middle:]))
        if part
    )
    return Figure(
        key="equalities",
        title="How exact the equalities are",
        caption="Relative difference between the closed form and its brute-force twin on every instance, sorted; "
        "differences below a tenth of the unit roundoff are drawn there.",
        panels=panels,
    )


def _rip(tables: Mapping[str, xr.Dataset]) -> Figure | None:
    table = tables.get("gatmiry-examples-1-2")
    if table is None:
        return None
    n, series = np.array(LADDER, float), []
    for number in np.unique(table.family.values):
        rows = table.isel(instance=table.family.values == number)
        delta = np.stack([rows[f"extra_delta_{m}"].values for m in LADDER])
        label = ENTRIES["gatmiry-examples-1-2"].families[int(number)].label
        series.append(Series(label, n, delta.mean(axis=1), low=delta.min(axis=1), high=delta.max(axis=1)))
    law = Series("sqrt((d₀ + d_L)/n)", n, np.sqrt(2 * SIDE / n), role="theory")
    axes = Axis("number of measurements n", log=True), Axis("RIP constant δ", log=True)
    panels = [Panel("RIP constants shrink as 1/√n", *axes, (*series, law))]
    agreement = []
    for number in np.unique(table.family.values):
        rows = table.isel(instance=table.family.values == number)
        values = np.array([rows[f"extra_agreement_{m}"].values.mean() for m in LADDER])
        agreement.append(Series(ENTRIES["gatmiry-examples-1-2"].families[int(number)].label, n, values))
    y = Axis("share of starts within 1% of the best", limits=(0.0, 1.05))
    panels.append(Panel("Agreement of the restarts", axes[0], y, tuple(agreement)))
    return Figure(
        key="rip",
        title="Restricted isometry constants",
        caption=f"d₀ = d_L = {SIDE}. Lower estimates by alternating maximisation, except at full rank, where the "
        "value is exact. Right: how many of the starts end within 1% of the best found.",
        panels=tuple(panels),
        intervals="smallest to largest over independent operators",
    )


def _random(tables: Mapping[str, xr.Dataset]) -> Figure | None:
    panels = []
    table = tables.get("gatmiry-theorem-3")
    if table is not None:
        families = ENTRIES["gatmiry-theorem-3"].families
        numbers = [i for i in np.unique(table.family.values) if families[int(i)].settings["depth"] == 2]
        n = np.array([families[int(i)].settings["n"] for i in numbers], float)
        parts = [table.isel(instance=table.family.values == i) for i in numbers]
        error = [p.extra_error.values[np.isfinite(p.extra_error.values)] for p in parts]
        middle = np.array([np.median(e) for e in error])
        low, high = (np.array([np.quantile(e, q) for e in error]) for q in (0.1, 0.9))
        bound = np.array([p.extra_bound.values.mean() for p in parts])
        series = (
            Series("flattest interpolator, depth 2", n, middle, low=low, high=high),
            Series("(d₀ + d_L)/n ‖M*‖∗² log³ n", n, bound, role="theory"),
        )
        x, y = Axis("number of measurements n"), Axis("population loss ‖M − M*‖²_F", log=True, floor=1e-12)
        panels.append(Panel("Theorem 3", x, y, series))
    table = tables.get("gatmiry-theorem-4")
    if table is not None:
        numbers = np.unique(table.family.values)
        families = ENTRIES["gatmiry-theorem-4"].families
        n = np.array([families[int(i)].settings["n"] for i in numbers], float)
        parts = [table.isel(instance=table.family.values == i) for i in numbers]
        mean = np.array([p.measured.values.mean() for p in parts])
        half = np.array([2 * p.measured.values.std(ddof=1) / np.sqrt(p.sizes["instance"]) for p in parts])
        series = (
            Series("least-Frobenius interpolator", n, mean, low=mean - half, high=mean + half, kind="points"),
            Series("1 − n/(d₀ d_L)", np.array([0.0, 24.0]), np.array([1.0, 0.0]), role="theory"),
        )
        x, y = Axis("number of measurements n"), Axis("relative squared error")
        panels.append(Panel("Theorem 4", x, y, series))
    if not panels:
        return None
    return Figure(
        key="random-measurements",
        title="Random measurements",
        caption="Left: 6x6 truths of full rank. Right: 4x6, truths of several kinds; the line is the theorem's.",
        panels=tuple(panels),
        intervals="left: 10% to 90% of the instances; right: two standard errors",
    )


def _drift(tables: Mapping[str, xr.Dataset]) -> Figure | None:
    series = []
    for key, label in DYNAMICS.items():
        if key in tables:
            # points in both panels: the legend shows one mark a label
            series.append(Series(label, *_quantiles(tables[key].measured.values), kind="points"))
    panels = []
    if series:
        y = Axis("measured / predicted displacement")
        one = (ReferenceLine("predicted", 1.0),)
        panels.append(Panel("Drift along the zero-loss set", Axis("share of runs"), y, tuple(series), one))
    table = tables.get("drift-discriminates")
    if table is not None:
        points = []
        for number in np.unique(table.family.values):
            rows = table.isel(instance=table.family.values == number)
            name = ENTRIES["drift-discriminates"].families[int(number)].settings["name"]
            label = DYNAMICS[f"drift-{name}"]
            points.append(Series(label, rows.extra_right.values, rows.extra_wrong.values, kind="points"))
        span = np.array([table.extra_right.values.min(), table.extra_right.values.max()])
        points.append(Series("three times the right one", span, 3 * span, role="theory"))
        axes = Axis("misfit of the right regulariser", log=True), Axis("misfit of the wrong one", log=True)
        panels.append(Panel("Telling trace from largest eigenvalue", *axes, tuple(points)))
    if not panels:
        return None
    return Figure(
        key="drift",
        title="Where dynamics drift",
        caption="Left: displacement along the zero-loss set over what the rate and the projected gradient of the "
        "regulariser predict, one value a run, sorted. Right: relative distance between measured and predicted "
        "displacement, when the regulariser is the dynamics' own and when it is the other one of trace and largest "
        "eigenvalue.",
        panels=tuple(panels),
    )
