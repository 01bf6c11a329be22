"""Figures 1 and 2 of the paper for each depth, Theorem 4's line and Theorem 1's sandwich, as data."""

import itertools

import numpy as np
import xarray as xr

from flatmin.experiments.figures import Axis, Figure, Panel, ReferenceLine, Series
from flatmin.experiments.papers.gatmiry2023.results import Results
from flatmin.experiments.papers.gatmiry2023.training import DYNAMICS

LABELS = {"label noise": "label-noise SGD", "plain": "mini-batch SGD"}


def figures(results: Results) -> list[Figure]:
    """All figures of the reproduction.

    Args:
        results: the measurements.

    Returns:
        Two figures a depth, then the two theorems.
    """
    drawn = []
    for depth in results.spec.training.depths:
        drawn += [_losses(results, depth), _flatness(results, depth)]
    return [*drawn, _frobenius(results.frobenius), _sandwich(results.sandwich)]


def _curves(results: Results, depth: int, quantity: str) -> tuple[Series, ...]:
    series = []
    for dynamics in DYNAMICS:
        values = results.of(depth, dynamics)[quantity].isel(step=slice(1, None))
        # the geometric mean: curves of different seeds differ by factors
        middle = np.exp(np.log(np.maximum(values.values, 1e-300)).mean(axis=values.get_axis_num("seed")))
        low = high = None
        if len(results.seeds) > 1:
            low, high = values.min("seed").values, values.max("seed").values
            middle = np.clip(middle, low, high)
        series.append(Series(LABELS[dynamics], values.step.values, middle, low=low, high=high))
    return tuple(series)


def _intervals(results: Results) -> str:
    count = len(results.seeds)
    return f"minimum to maximum over {count} seeds; the line is their geometric mean" if count > 1 else ""


def _steps() -> Axis:
    return Axis("SGD steps", log=True)


def _setting(results: Results, depth: int) -> str:
    training = results.spec.training
    return (
        f"Depth {depth}, d = {training.dimension}, n = {training.num_measurements} Gaussian measurements of a rank "
        f"{training.rank} matrix of unit Frobenius norm, batches of {training.batch_size}. Step size and noise are "
        f"constant on phases (see the settings); label noise is off after step {results.noisy_until(depth):,}."
    )


def _events(results: Results, depth: int) -> tuple[ReferenceLine, ...]:
    """When the step size goes up and when the label noise ends: what the kinks of the curves come from."""
    lines, start = [], 0
    phases = results.spec.training.schedules[depth]
    for before, after in itertools.pairwise(phases):
        start += before.steps
        if after.learning_rate > before.learning_rate:
            lines.append(ReferenceLine("step size raised", start, "x"))
        if before.noise > 0 and after.noise == 0:
            lines.append(ReferenceLine("label noise off", start, "x"))
    return tuple(lines)


def _losses(results: Results, depth: int) -> Figure:
    events = _events(results, depth)
    train, test = _curves(results, depth, "train_loss"), _curves(results, depth, "test_loss")
    panels = (
        Panel("Training loss", _steps(), Axis("mean squared residual", log=True), train, events),
        Panel("Test loss", _steps(), Axis("population loss ‖M − M*‖²", log=True), test, events),
    )
    return Figure(
        key=f"figure-1-depth-{depth}",
        title=f"Losses along training, depth {depth}",
        caption=_setting(results, depth),
        panels=panels,
        intervals=_intervals(results),
    )


def _flatness(results: Results, depth: int) -> Figure:
    predicted = float(results.of(depth, "label noise").final_predicted_trace.mean())
    trace = Panel(
        "Trace of the Hessian",
        _steps(),
        Axis("tr H", log=True),
        _curves(results, depth, "trace"),
        (ReferenceLine("predicted 2L (d₀ d_L)^(1/L) ‖M‖∗^(2(L−1)/L)", predicted),),
    )
    nuclear = Panel(
        "Nuclear norm",
        _steps(),
        Axis("‖M‖∗", log=True),
        _curves(results, depth, "nuclear_norm"),
        (ReferenceLine("minimum nuclear norm (convex)", float(results.min_nuclear_norms().mean())),),
    )
    return Figure(
        key=f"figure-2-depth-{depth}",
        title=f"Flatness and nuclear norm along training, depth {depth}",
        caption=_setting(results, depth)
        + " The prediction is the population value of the induced regulariser at the end point of label-noise SGD; the "
        "convex minimum is certified.",
        panels=(trace, nuclear),
        intervals=_intervals(results),
    )


def _frobenius(points: xr.Dataset) -> Figure:
    mean = points.error.mean("trial").values
    sem = points.error.std("trial", ddof=1).values / np.sqrt(points.sizes["trial"])
    exact = Series("(1 − n/(d₀ d_L))₊", points.n.values, points.predicted.values, role="theory")
    measured = Series(
        "minimum-Frobenius interpolator",
        points.n.values,
        mean,
        low=mean - 2 * sem,
        high=mean + 2 * sem,
        kind="points",
    )
    return Figure(
        key="theorem-4",
        title="Error of the minimum-Frobenius interpolator",
        caption="Mean relative squared error over Gaussian measurements, on Theorem 4's exact line.",
        panels=(Panel("Theorem 4", Axis("measurements n"), Axis("‖M_F − M*‖² / ‖M*‖²"), (exact, measured)),),
        intervals=f"two standard errors over {points.sizes['trial']} draws",
    )


def _sandwich(points: xr.Dataset) -> Figure:
    n, delta = points.n.values, points.delta.values
    band = Series(
        "[1 − δ, 1 + δ], δ estimated from below",
        n,
        np.ones_like(delta),
        low=1 - delta,
        high=1 + delta,
        kind="band",
        role="context",
    )
    ratios, deviations = [], [Series("estimated δ", n, delta, role="theory")]
    for i, depth in enumerate(points.depth.values):
        ratio = points.ratio.sel(depth=depth).transpose("n", "rank").values
        label = f"depth {depth}" + ("" if depth == 2 else ", upper end")
        # neighbouring depths side by side
        x = n * 1.12 ** (i - (points.sizes["depth"] - 1) / 2)
        low, high = ratio.min(axis=1), ratio.max(axis=1)
        ratios.append(Series(label, x, ratio.mean(axis=1), low=low, high=high, kind="points"))
        deviations.append(Series(label, n, np.abs(ratio - 1).max(axis=1), kind="points"))
    axis = Axis("measurements n", log=True)
    ranks = ", ".join(str(int(r)) for r in points["rank"].values)
    return Figure(
        key="theorem-1",
        title="The induced regulariser under RIP",
        caption="The induced regulariser over its population value 2L (d₀ d_L)^(1/L) ‖M‖∗^(2(L−1)/L). At depth 2 F(M) "
        "is exact (Theorem 5); deeper, the trace at the population minimiser bounds it from above. (b) shows how much "
        "of the allowed deviation δ is used. δ is a lower estimate by alternating eigenproblems, never a certificate.",
        panels=(
            Panel(
                "Theorem 1", axis, Axis("F(M) / F_pop(M)"), (band, *ratios), (ReferenceLine("population value", 1.0),)
            ),
            Panel("Largest deviation", axis, Axis("|F(M) / F_pop(M) − 1|", log=True), tuple(deviations)),
        ),
        intervals=f"points: minimum to maximum over test matrices of ranks {ranks}; band: the estimated RIP interval",
    )
