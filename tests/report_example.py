"""A synthetic run with every kind of panel, used by the tests and to look at the renderers."""

import numpy as np

from flatmin.experiments import Certificate, Claim, Experiment, RunContent, RunSpec, setting
from flatmin.report import Axis, Figure, HeatmapPanel, ImagePanel, Panel, ReferenceLine, Series, figure_data

EXPERIMENT = Experiment(
    name="example",
    version=1,
    title="Label noise finds flat minima in deep matrix sensing",
    summary="Mini-batch gradient descent with and without label noise on one planted problem, 3 seeds each.",
    bibtex="@article{flat,\n  title = {Flat minima},\n  year  = {2022}\n}",
)


class ExampleSpec(RunSpec):
    d: int = setting(60, origin="paper", description="side of the matrix", gt=0)
    depth: int = setting(3, origin="paper", description="number of factors", ge=2)
    step_size: float = setting(0.003, origin="ours", description="step size of both dynamics", gt=0)
    seeds: tuple[int, ...] = setting((0, 1, 2), origin="ours", description="seeds")


def training_figure(points=200):
    rng = np.random.default_rng(0)
    steps = np.linspace(0, 600_000, points)
    x = Axis("step")
    shapes = {
        "Training loss": (1e0, 1e-2, 1e-9, 4e3),
        "Test loss": (2e1, 2e-1, 1.8e1, 6e4),
        "Trace of the Hessian": (1.5e4, 1.95e2, 1.34e4, 7e4),
        "Nuclear norm": (25.0, 1.75, 24.0, 7e4),
    }
    lines = {
        "Trace of the Hessian": (ReferenceLine("predicted trace of a flat minimum", 190.0),),
        "Nuclear norm": (ReferenceLine("minimum nuclear norm (convex)", 1.72),),
    }
    panels = []
    for title, (start, noisy_end, plain_end, scale) in shapes.items():
        series = []
        for label, end, time in (("SGD with label noise", noisy_end, scale), ("plain SGD", plain_end, 4e4)):
            middle = end * (start / end) ** np.exp(-steps / time)
            runs = middle * np.exp(0.12 * rng.standard_normal((3, points)) + 0.2 * rng.standard_normal((3, 1)))
            series.append(Series(label, steps, np.median(runs, 0), low=runs.min(0), high=runs.max(0)))
        panels.append(
            Panel(title, x, Axis(title[0].lower() + title[1:], log=True), tuple(series), lines.get(title, ()))
        )
    return Figure(
        "training",
        "Training with and without label noise",
        "The loss on the measurements, the loss on held-out measurements, the trace of the Hessian and "
        "the nuclear norm of the product. Label noise drives the last two to their minima.",
        tuple(panels),
        intervals="minimum to maximum over 3 seeds",
    )


def points_figure():
    depth = np.array([2, 3, 4, 5, 6, 8, 10])
    exact = 2.0 * depth * 1.7 ** (2 - 2 / depth)
    error = 0.05 * exact
    fine = np.linspace(2, 10, 60)
    wobble = np.array([0.4, -0.7, 0.2, 0.8, -0.3, 0.5, -0.2])
    noise = exact + error * wobble
    panel = Panel(
        "Trace by depth",
        Axis("depth L", unit="factors"),
        Axis("trace of the Hessian", unit="loss / weight²"),
        (
            Series("closed form", fine, 2.0 * fine * 1.7 ** (2 - 2 / fine), role="theory"),
            Series("estimated", depth, noise, low=noise - error, high=noise + error, kind="points"),
            Series("annealed", depth, 1.25 * exact, kind="steps"),
            Series("guaranteed range", fine, fine, low=1.6 * fine, high=6.2 * fine, kind="band", role="context"),
        ),
        (ReferenceLine("largest depth proved", 7.0, axis="x"),),
    )
    return Figure(
        "depth",
        "Hutchinson's estimate on the exact line",
        "Trace at the flattest minimum.",
        (panel,),
        intervals="two standard errors of 64 probes; the shaded range is the theorem's",
    )


def heatmap_figure():
    d, m = np.arange(10, 61, 5), np.arange(50, 1001, 50)
    probability = 1 / (1 + np.exp(-(m[:, None] - 8.0 * d[None, :]) / 40))
    values = np.round(probability, 1)
    other = np.round(1 / (1 + np.exp(-(m[:, None] - 6.0 * d[None, :]) / 30)), 1)
    other[-2:, :2] = np.nan
    x, y = Axis("dimension d"), Axis("measurements m")
    color = Axis("probability of recovery", limits=(0.0, 1.0))
    panels = (
        HeatmapPanel("Flat solution", x, y, d, m, values, color, (Series("half recovered", d, 8.0 * d),)),
        HeatmapPanel("Nuclear norm", x, y, d, m, other, color),
    )
    return Figure("recovery", "Exact recovery", "Share of 10 trials with error below 10⁻⁶.", panels)


def image_figure():
    row, column = np.mgrid[0:48, 0:64]
    truth = np.sin(row / 6.0) * np.cos(column / 9.0) + (row > 24)
    masked = np.where(np.random.default_rng(1).random(truth.shape) < 0.4, np.nan, truth)
    panels = (
        ImagePanel("Truth", truth, (-1, 2)),
        ImagePanel("Observed", masked, (-1, 2)),
        ImagePanel("Recovered", truth + 0.02, (-1, 2)),
    )
    return Figure("images", "A recovered image", "A 48 × 64 picture of rank 3 from 60 % of its entries.", panels)


def figures():
    return (training_figure(), points_figure(), heatmap_figure(), image_figure())


def content(_spec=None):
    return RunContent(
        datasets=figure_data(figures()),
        claims=(
            Claim.at_most(
                250.0,
                name="trace-falls",
                statement="With label noise the trace falls to within 30 % of its minimum.",
                source="Theorem 3.1",
                predicted="≤ 250 (minimum 190)",
                measured=202.3,
                interval=(188.0, 216.5),
                note="interval: range over 3 seeds",
            ),
            Claim.at_most(
                0.1,
                name="test-loss-falls",
                statement="The test loss falls by orders of magnitude.",
                source="Figure 1",
                predicted="≤ 0.1",
                measured=0.21,
                interval=(0.18, 0.26),
            ),
            Claim.at_least(
                1.0,
                name="long-run",
                statement="Holds for ten million steps.",
                source="Section 5",
                predicted="≥ 1",
                measured=float("nan"),
                note="not run at the reduced size",
            ),
        ),
        certificates=(
            Certificate(
                name="minimum nuclear norm",
                method="ADMM",
                primal_value=1.7200000134,
                dual_value=1.7199999921,
                gap=1.2e-8,
                residual=3e-10,
                iterations=1240,
                outcome="converged",
                success=True,
            ),
        ),
    )
