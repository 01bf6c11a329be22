"""All plots of the paper, as data."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from flatmin._core.intervals import geometric, wilson
from flatmin.experiments.figures import Axis, Figure, Panel, ReferenceLine, Series
from flatmin.experiments.papers.marion2024.claims import (
    measured_critical_rate,
    rank_one_defects,
    regression_of_gap,
    success_by_rate,
)
from flatmin.experiments.papers.marion2024.results import Results, critical_rate, lower_bound, succeeded, upper_bound

MEAN = "95% confidence intervals of the geometric mean (normal, on logarithms), over the runs that did not diverge"
SHARE = "95% Wilson intervals of the probability"


def figures(results: Results) -> list[Figure]:
    """All figures of the reproduction.

    Args:
        results: the measurements.

    Returns:
        The figures in the order of the paper's experiments.
    """
    return [
        _scales(results.mlp, results, "mlp", "Experiment 1: linear MLP"),
        _divergence(results.mlp, "mlp", "Experiment 1: probability of divergence"),
        _over_time(results.mlp_single, results.spec.mlp_single.scale, "mlp", "Experiment 1: single runs over time"),
        _scales(results.residual, results, "residual", "Experiment 2: linear residual network"),
        _divergence(results.residual, "residual", "Experiment 2: probability of divergence"),
        _over_time(
            results.residual_single,
            results.spec.residual_single.scale,
            "residual",
            "Experiment 2: single runs over time",
        ),
        _depths(results),
        _generalisation(results.underdetermined),
        _gelu(results.gelu),
        _divergence(results.gelu, "gelu", "Experiment 5: probability of divergence"),
        _rank_one(results.rank_one),
    ]


def _rates(runs: xr.Dataset) -> np.ndarray:
    return np.unique(runs.learning_rate)


def _curve(runs: xr.Dataset, label: str, rate: float | None, value: Callable[[np.ndarray], tuple]) -> Series:
    """One series over the scale: `value` of the runs at each."""
    chosen = np.ones(runs.sizes["run"], bool) if rate is None else runs.learning_rate.values == rate
    scales = np.unique(runs.scale)
    points = np.array([value(chosen & (runs.scale.values == scale)) for scale in scales], dtype=float)
    return Series(label, scales, points[:, 0], low=points[:, 1], high=points[:, 2])


def _scale_axis() -> Axis:
    return Axis("initialisation scale s")


def _log_limits(*groups: ArrayLike) -> tuple[float, float]:
    values = np.concatenate([np.ravel(np.asarray(g, dtype=float)) for g in groups])
    values = values[np.isfinite(values) & (values > 0)]
    return float(values.min()) / 1.6, float(values.max()) * 1.6


def _sharpness_panel(runs: xr.Dataset, rate: float, bounds: bool) -> Panel:
    alive = runs.diverged_at.values < 0
    series = (
        _curve(runs, "before training", rate, lambda at: geometric(runs.initial_sharpness.values[at])),
        _curve(runs, "after training", rate, lambda at: geometric(runs.final_sharpness.values[at & alive])),
    )
    lines = [ReferenceLine("2/η", 2 / rate)]
    if bounds:
        lines += [
            ReferenceLine("lower bound 2La", lower_bound(runs)),
            ReferenceLine("flow's upper line 8LΛ", upper_bound(runs)),
        ]
    drawn = [s.y for s in series] + [np.array([line.value for line in lines])]
    return Panel(
        f"Sharpness, η = {rate:g}",
        _scale_axis(),
        Axis("λ_max(H)", log=True, limits=_log_limits(*drawn)),
        series,
        tuple(lines),
    )


def _setting(runs: xr.Dataset, regression, depth: int) -> str:
    return (
        f"n = {regression.num_samples}, d = {regression.dimension}, L = {depth}; one data set, scaled to ‖w*‖ = 1 "
        f"(a = {runs.alignment:.3f}, Λ = {runs.top_eigenvalue:.3f})."
    )


def _scales(runs: xr.Dataset, results: Results, key: str, title: str) -> Figure:
    alive = runs.diverged_at.values < 0
    distance = tuple(
        _curve(runs, f"η = {rate:g}", rate, lambda at: geometric(runs.final_distance.values[at & alive]))
        for rate in _rates(runs)
    )
    panels = [
        Panel(
            "Squared distance to w*",
            _scale_axis(),
            Axis("‖w − w*‖² / d", log=True, limits=_log_limits(*(s.y for s in distance))),
            distance,
        )
    ]
    panels += [_sharpness_panel(runs, rate, bounds=True) for rate in _rates(runs)]
    spec = getattr(results.spec, key)
    negative = float(np.mean(-runs.initial_lowest > runs.initial_sharpness))
    return Figure(
        key=f"{key}-scales",
        title=title,
        caption=_setting(runs, spec.regression, spec.depth)
        + " Sharpness is the algebraically largest eigenvalue of the full Hessian; scales at which every run diverged "
        f"have no point. At initialisation the largest curvature by absolute value is negative in {negative:.0%} of "
        "the runs: power iteration on ‖Hv‖ would report it as sharpness.",
        panels=tuple(panels),
        columns=3,
        intervals=MEAN,
    )


def _divergence(runs: xr.Dataset, key: str, title: str) -> Figure:
    diverged = runs.diverged_at.values >= 0
    series = tuple(
        _curve(runs, f"η = {rate:g}", rate, lambda at: wilson(int(diverged[at].sum()), int(at.sum())))
        for rate in _rates(runs)
    )
    return Figure(
        key=f"{key}-divergence",
        title=title,
        caption="Share of runs whose loss left the range of numbers (above 10¹²).",
        panels=(Panel("Probability of divergence", _scale_axis(), Axis("probability", limits=(-0.03, 1.03)), series),),
        intervals=SHARE,
    )


def _over_time(runs: xr.Dataset, scale: float, key: str, title: str) -> Figure:
    steps = runs.step.values
    lower, upper = lower_bound(runs), upper_bound(runs)
    panels = []
    for rate in runs.learning_rate.values:
        run = runs.sel(learning_rate=rate)
        panels.append(
            Panel(
                f"Squared distance to w*, η = {rate:g}",
                Axis("gradient descent steps"),
                Axis("‖w − w*‖² / d", log=True),
                (Series("distance", steps, run.distance.values),),
            )
        )
        panels.append(
            Panel(
                f"Curvature, η = {rate:g}",
                Axis("gradient descent steps"),
                Axis("eigenvalue of H"),
                (
                    Series("λ_max(H), the sharpness", steps, run.sharpness.values),
                    Series("λ_min(H)", steps, run.lowest.values, role="context"),
                ),
                (
                    ReferenceLine("2/η", 2 / float(rate)),
                    ReferenceLine("lower bound 2La", lower),
                    ReferenceLine("flow's upper line 8LΛ", upper),
                ),
            )
        )
    return Figure(
        key=f"{key}-single",
        title=title,
        caption=f"One run for each learning rate, from the same initialisation with s = {scale:g}; both ends of the "
        "spectrum of the full Hessian at every step.",
        panels=tuple(panels),
        columns=2,
    )


def _critical_numbers(results: Results) -> str:
    numbers = [
        f"{measured_critical_rate(runs):.4f} ({critical_rate(runs):.4f}) at L = {depth}"
        for depth, runs in results.depths.items()
    ]
    return f"Largest successful learning rate, measured (predicted): {', '.join(numbers)}."


def _deciles(x: np.ndarray, y: np.ndarray, count: int = 10) -> Series:
    """Geometric means of y in groups of equally many runs, ordered by x."""
    groups = [g for g in np.array_split(np.argsort(x), min(count, len(x))) if len(g)]
    points = np.array([geometric(y[g]) for g in groups])
    centres = np.array([geometric(x[g])[0] for g in groups])
    return Series("runs by tenths of the sharpness", centres, points[:, 0], points[:, 1], points[:, 2], kind="points")


def _depths(results: Results) -> Figure:
    panels = []
    for depth, runs in results.depths.items():
        rates, share = success_by_rate(runs)
        fine = succeeded(runs)
        ends = np.array(
            [
                wilson(int(fine[runs.learning_rate.values == r].sum()), int((runs.learning_rate.values == r).sum()))
                for r in rates
            ]
        )
        diverged = np.array([np.mean(runs.diverged_at.values[runs.learning_rate.values == r] >= 0) for r in rates])
        panels.append(
            Panel(
                f"Depth {depth}",
                Axis("learning rate η", log=True),
                Axis("share of runs", limits=(-0.03, 1.03)),
                (
                    Series("came to a minimiser", rates, share, low=ends[:, 1], high=ends[:, 2]),
                    Series("diverged", rates, diverged),
                ),
                (ReferenceLine("critical learning rate 1/(La)", critical_rate(runs), axis="x"),),
            )
        )
    distance = []
    for depth, runs in results.depths.items():
        rates = np.unique(runs.learning_rate)
        points = np.array([geometric(runs.final_distance.values[runs.learning_rate.values == r]) for r in rates])
        distance.append((depth, rates, points))
    for depth, rates, points in distance:
        panels.append(
            Panel(
                f"Depth {depth}: squared distance to w*",
                Axis("learning rate η", log=True),
                Axis("‖w − w*‖² / d", log=True, limits=_log_limits(points[:, 0])),
                (
                    Series(
                        "distance of runs that did not diverge",
                        rates,
                        points[:, 0],
                        low=points[:, 1],
                        high=points[:, 2],
                    ),
                ),
                (ReferenceLine("critical learning rate 1/(La)", critical_rate(results.depths[depth]), axis="x"),),
            )
        )
    depths = results.spec.depths
    return Figure(
        key="depths",
        title="Experiment 3: learning rate against depth",
        caption=f"{_critical_numbers(results)} Residual networks, s = {depths.scale:g}, {depths.steps:,} steps, "
        f"{depths.repeats} initialisations. A run "
        "came to a minimiser when its loss is within 0.1% of the explained variance of the least loss.",
        panels=tuple(panels),
        columns=2,
        intervals=f"{SHARE}; for distances {MEAN}",
    )


def _generalisation(runs: xr.Dataset) -> Figure:
    fine = succeeded(runs) & (runs.gap.values > 0)
    fit = regression_of_gap(runs)
    x = runs.final_sharpness.values
    series = [
        Series(f"η = {rate:g}", x[at], runs.gap.values[at], kind="points")
        for rate in _rates(runs)
        if (at := fine & (runs.learning_rate.values == rate)).any()
    ]
    grid = np.geomspace(x[fine].min(), x[fine].max(), 50)
    line = np.exp(fit["intercept"]) * grid ** fit["slope"]
    regression = Series(f"regression, slope {fit['slope']:.3f} ± {1.96 * fit['stderr']:.3f}", grid, line, role="theory")
    means = tuple(_curve(runs, f"η = {rate:g}", rate, lambda at: geometric(x[at & fine])) for rate in _rates(runs))
    return Figure(
        key="generalisation",
        title="Experiment 4: generalisation gap against sharpness, underdetermined",
        caption=f"Runs that interpolate ({fit['count']} of {runs.sizes['run']}). Gap: population loss in closed form "
        f"minus training loss. Correlation of the logarithms r = {fit['rvalue']:.3f}, p = {fit['pvalue']:.1e}.",
        panels=(
            Panel("Generalisation gap", Axis("sharpness λ_max(H)", log=True), Axis("gap", log=True), tuple(series)),
            Panel(
                "Its regression on the sharpness",
                Axis("sharpness λ_max(H)", log=True),
                Axis("gap", log=True),
                (regression, _deciles(x[fine], runs.gap.values[fine])),
            ),
            Panel(
                "Sharpness after training",
                _scale_axis(),
                Axis("λ_max(H)", log=True),
                means,
                (ReferenceLine("lower bound 2La", lower_bound(runs)),),
            ),
        ),
        intervals=MEAN,
    )


def _gelu(runs: xr.Dataset) -> Figure:
    alive = runs.diverged_at.values < 0
    losses = tuple(
        _curve(runs, f"η = {rate:g}", rate, lambda at: geometric(runs.final_loss.values[at & alive]))
        for rate in _rates(runs)
    )
    panels = [
        Panel(
            "Training loss",
            _scale_axis(),
            Axis("mean squared residual", log=True, limits=_log_limits(*(s.y for s in losses))),
            losses,
        )
    ]
    panels += [_sharpness_panel(runs, rate, bounds=False) for rate in _rates(runs)]
    return Figure(
        key="gelu-scales",
        title="Experiment 5: MLP with GELU",
        caption=f"L = {int(runs.depth)}, noiseless labels, ‖w*‖ = 1. The bounds of the linear network do not apply.",
        panels=tuple(panels),
        columns=2,
        intervals=MEAN,
    )


def _rank_one(runs: xr.Dataset) -> Figure:
    scales, means, _ = rank_one_defects(runs)
    fine = runs.diverged_at.values < 0
    points = _curve(runs, "after training", None, lambda at: geometric(runs.final_stable_rank.values[at & fine] - 1))
    before = _curve(runs, "before training", None, lambda at: geometric(runs.initial_stable_rank.values[at] - 1))
    square = Series("∝ s²", scales, means[-1] * (scales / scales[-1]) ** 2, role="theory")
    return Figure(
        key="rank-one",
        title="How near to rank one the layers end",
        caption=f"Our experiment: linear MLP, L = {int(runs.depth)}, η = {_rates(runs)[0]:g}. Mean over the square "
        "layers of ‖W‖²_F / ‖W‖²₂ − 1, which is zero for rank one.",
        panels=(
            Panel(
                "Distance from rank one",
                Axis("initialisation scale s", log=True),
                Axis("‖W‖²_F / ‖W‖²₂ − 1", log=True),
                (points, before, square),
            ),
        ),
        intervals=MEAN,
    )
