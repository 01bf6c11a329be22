"""All plots of the paper, as data, and those of the problems that it treats without one."""

import numpy as np
import xarray as xr

from flatmin._core.intervals import wilson
from flatmin.experiments.figures import Axis, Figure, HeatmapPanel, Panel, Series
from flatmin.experiments.papers.ding2022.cells import TWO_FACTORS
from flatmin.experiments.papers.ding2022.results import NAMES, Results, undecided
from flatmin.experiments.papers.ding2022.transition import fitted_line, recovered_share

FIGURE_3 = ("sensing", "bilinear", "completion", "network")
WORDS = {"flat": "flat", "nuclear": "nuclear norm"}
HALF = "half recovered, fitted line"


def figures(results: Results) -> list[Figure]:
    """All figures of the reproduction.

    Args:
        results: the measurements.

    Returns:
        The paper's figures first.
    """
    return [
        _recovery(results, FIGURE_3, "recovery", "Figure 3: empirical probability of exact recovery"),
        _regularity(results),
        _bound(results),
        _depth(results),
        _robust(results),
        _recovery(results, ("covariance",), "covariance", "Covariance estimation: probability of exact recovery"),
    ]


def _amount_axis(problem: str) -> Axis:
    return Axis("share of entries seen p") if problem == "completion" else Axis("measurements m")


def _share() -> Axis:
    return Axis("probability", limits=(0.0, 1.0))


def _transition(problem: str, columns: dict[int, xr.Dataset], kind: str) -> tuple[Series, ...]:
    line = fitted_line(columns, kind)
    if not np.isfinite(line.slope):
        return ()
    d = np.linspace(min(columns), max(columns), 60)
    m = line.at(d)
    return (Series(HALF, d, m / d**2 if problem == "completion" else m),)


def _recovery(results: Results, problems: tuple[str, ...], key: str, title: str) -> Figure:
    panels, notes = [], []
    for problem in problems:
        columns = results.diagrams[problem]
        dimensions = np.array(list(columns))
        amounts = next(iter(columns.values())).amount.values
        slopes = []
        for kind in ("flat", "nuclear"):
            shares = np.stack(list(recovered_share(columns, kind).values()), axis=1)
            panels.append(
                HeatmapPanel(
                    f"{NAMES[problem].capitalize()}, {_kind_words(problem, kind)}",
                    Axis("dimension d"),
                    _amount_axis(problem),
                    dimensions,
                    amounts,
                    shares,
                    _share(),
                    _transition(problem, columns, kind),
                )
            )
            slopes.append(f"{fitted_line(columns, kind).slope:.2f}")
        notes.append(f"{NAMES[problem]} {slopes[0]} and {slopes[1]}")
    first = getattr(results.spec.diagrams, problems[0])
    open_ones = sum(undecided(data) for problem in problems for data in results.diagrams[problem].values())
    ranks = ", ".join(f"{NAMES[p]} {results.rank(p)}" for p in problems)
    return Figure(
        key=key,
        title=title,
        caption=f"Share of {first.trials} instances recovered to a relative error below {results.spec.threshold:g}; "
        f"ranks: {ranks}. The line m = a + b d is fitted to the points of 50% recovery; b for flat and nuclear: "
        f"{'; '.join(notes)}. Undecided solves, left out: {open_ones}.",
        panels=tuple(panels),
        columns=2,
    )


def _kind_words(problem: str, kind: str) -> str:
    if problem == "covariance":
        return {"flat": "flat: weighted trace", "nuclear": "least trace"}[kind]
    return WORDS[kind]


def _regularity(results: Results) -> Figure:
    panels = []
    for problem in TWO_FACTORS:
        columns = results.diagrams[problem]
        amounts = next(iter(columns.values())).amount.values
        for name, words in (("norm_gap", "norm gap"), ("imbalance", "imbalance")):
            values = np.stack([data[name].median("trial", skipna=True).values for data in columns.values()], axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.log10(np.maximum(values, 1e-16))
            panels.append(
                HeatmapPanel(
                    f"{NAMES[problem].capitalize()}: {words}",
                    Axis("dimension d"),
                    _amount_axis(problem),
                    np.array(list(columns)),
                    amounts,
                    logs,
                    Axis(f"log₁₀ {words}", limits=_limits(logs)),
                )
            )
    return Figure(
        key="regularity",
        title="Figure 4: flat solutions are nearly norm-minimal and nearly balanced",
        caption="Medians over the instances. Norm gap (‖L‖² + ‖R‖² − 2N) / 2N with N the least nuclear norm; imbalance "
        "‖LᵀL − RᵀR‖ / ‖LRᵀ‖ (Frobenius norms).",
        panels=tuple(panels),
        columns=2,
    )


def _limits(logs: np.ndarray) -> tuple[float, float]:
    fine = logs[np.isfinite(logs)]
    if not fine.size:
        return -1.0, 0.0
    # exact zeros (every entry seen) would leave no grey for the rest
    low, high = max(float(fine.min()), float(fine.max()) - 6), float(fine.max())
    return (low, high) if low < high else (low - 1, high)


def _bound(results: Results) -> Figure:
    series = []
    ends = []
    for problem in TWO_FACTORS:
        gap, bound = (results.stacked(problem, name).ravel() for name in ("norm_gap", "norm_gap_bound"))
        fine = (gap > 1e-12) & np.isfinite(bound) & (bound > 1e-9)
        if fine.any():
            series.append(Series(NAMES[problem], bound[fine], gap[fine], kind="points"))
            ends += [bound[fine].min(), bound[fine].max()]
    line = np.array([min(ends), max(ends)])
    return Figure(
        key="norm-gap-bound",
        title="Theorem 3.3: the norm gap and its bound",
        caption="One point an instance of figure 4. The bound is (u₁u₂/2)(1/l₁² + 1/l₂²) − 1 with [lᵢ, uᵢ] the range "
        "of the eigenvalues of Dᵢ.",
        panels=(
            Panel(
                "Norm gap against its bound",
                Axis("bound", log=True),
                Axis("norm gap", log=True),
                (*series, Series("norm gap = bound", line, line, role="theory")),
            ),
        ),
    )


def _depth(results: Results) -> Figure:
    series = []
    for depth, data in results.depths.items():
        points = []
        for row in data.recovered.values:
            known = row[np.isfinite(row)]
            points.append(wilson(int(known.sum()), known.size) if known.size else (np.nan,) * 3)
        share, low, high = np.array(points).T
        series.append(Series(f"k = {depth}", data.amount.values, share, low=low, high=high))
    depths = results.spec.depths
    return Figure(
        key="depth",
        title="Depth need not help: sparse recovery by k Hadamard factors",
        caption=f"d = {depths.dimension}, {depths.sparsity} non-zero entries, Gaussian measurements; flat solutions of "
        f"k factors minimise a weighted l_p norm, p = 2 − 2/k. {depths.trials} instances a point, the same for all k.",
        panels=(
            Panel(
                "Exact recovery by flat solutions",
                Axis("measurements m"),
                Axis("probability", limits=(-0.03, 1.03)),
                tuple(series),
            ),
        ),
        intervals="95% Wilson intervals of the probability",
    )


def _robust(results: Results) -> Figure:
    ranks = np.array(list(results.robust))
    outliers = next(iter(results.robust.values())).outliers.values
    panels = []
    for kind, words in (("flat", "flat: l₁ ball of the true radius"), ("penalised", "penalty 1/√d")):
        rows = [d.recovered.sel(kind=kind).mean("trial", skipna=True).values for d in results.robust.values()]
        panels.append(
            HeatmapPanel(
                f"Robust PCA, {words}",
                Axis("share of outliers"),
                Axis("rank"),
                outliers,
                ranks,
                np.stack(rows),
                _share(),
            )
        )
    robust = results.spec.robust
    open_ones = sum(map(undecided, results.robust.values()))
    return Figure(
        key="robust-pca",
        title="Robust PCA: probability of exact recovery",
        caption=f"d = {robust.dimension}, {robust.trials} instances a cell; outliers uniform in ten times the root "
        f"mean square entry. Undecided solves, left out: {open_ones}.",
        panels=tuple(panels),
        columns=2,
    )
