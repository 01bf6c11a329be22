"""Errors of the candidates, the fitted exponents, where the candidates fail, and how well F is known."""

import numpy as np
import xarray as xr

from flatmin.experiments.figures import Axis, Figure, Panel, ReferenceLine, Series
from flatmin.experiments.regulariser.fits import CANDIDATES, FREE, Fit
from flatmin.experiments.regulariser.spec import ExploreRegulariser

FLOOR = 1e-4  # smaller errors are drawn here
Fits = dict[tuple[str, int], dict[str, Fit]]


def figures(spec: ExploreRegulariser, data: dict[str, xr.Dataset], fits: Fits) -> list[Figure]:
    """All figures of the exploration.

    Args:
        spec: the settings.
        data: values by ensemble.
        fits: fits by ensemble and depth.

    Returns:
        The figures.
    """
    return [_powers(spec, fits), _errors(spec, fits), _failures(spec, data, fits), _intervals(spec, data)]


def _setting(spec: ExploreRegulariser) -> str:
    return (
        f"Matrices of {spec.rows} × {spec.columns}, {spec.matrices} of them with all ranks and unit Frobenius norm; "
        "q = 2 − 2/L. "
    )


def _powers(spec: ExploreRegulariser, fits: Fits) -> Figure:
    panels = []
    for name in ("Schatten", "weighted Schatten"):
        series = []
        for ensemble in spec.ensembles:
            rows = np.array([fits[ensemble, depth][name].power for depth in spec.depths])
            series.append(Series(ensemble, spec.depths, rows[:, 0], low=rows[:, 1], high=rows[:, 2], kind="points"))
        panels.append(
            Panel(
                name,
                Axis("depth L"),
                Axis("fitted exponent p", log=True),
                tuple(series),
                (ReferenceLine("nuclear norm", 1.0),),
                dodge=0.09,  # so that intervals at one depth do not cover each other
            )
        )
    return Figure(
        "exponents",
        "The exponent that fits best",
        _setting(spec)
        + "At depth 2 the weighted nuclear norm is exact (p = 1), whatever the measurements. Exponents are looked for "
        "from 0.25 to 4. An interval around 1 does not say that the form is right: see the errors.",
        tuple(panels),
        intervals=f"95%, bootstrap over the matrices that were fitted, {spec.bootstraps} resamples",
    )


def _errors(spec: ExploreRegulariser, fits: Fits) -> Figure:
    panels = []
    for name in CANDIDATES:
        series = []
        for ensemble in spec.ensembles:
            errors = np.array([fits[ensemble, depth][name].error for depth in spec.depths])
            errors = np.where(np.isfinite(errors), errors, np.nan)
            if np.isfinite(errors).any():
                series.append(Series(ensemble, spec.depths, errors))
        panels.append(
            Panel(
                name,
                Axis("depth L"),
                Axis("relative error", log=True, limits=(FLOOR / 1.5, 20), floor=FLOOR),
                tuple(series),
            )
        )
    return Figure(
        "fit-errors",
        "Errors of the candidates",
        _setting(spec)
        + "Root mean square of log(F / candidate) over the half of the matrices that was not fitted. A candidate that "
        "vanishes where F does not is not drawn; errors below 10⁻⁴ are drawn at 10⁻⁴. The candidates: "
        + "; ".join(
            f"{name}, {formula}" + (f" ({FREE[name]} fitted)" if name in FREE else " (nothing fitted)")
            for name, formula in CANDIDATES.items()
        )
        + ". F_i is the value for measurement i alone. The weighted nuclear norm is exact at depth 2, and at every "
        "depth where the fourth moment of the measurements is the product of their second moments.",
        tuple(panels),
        columns=2,
    )


def _failures(spec: ExploreRegulariser, data: dict[str, xr.Dataset], fits: Fits) -> Figure:
    deep = [depth for depth in spec.depths if depth > 2]
    chosen = [deep[0], deep[-1]] if len(deep) > 1 else list(spec.depths[-1:])
    # the form for one measurement is known, and its spread would hide the others
    shown = [ensemble for ensemble in spec.ensembles if ensemble != "one"] or spec.ensembles
    panels = []
    for depth in chosen:
        for name in ("weighted nuclear", "weighted Schatten"):
            series = []
            for ensemble in shown:
                x = data[ensemble].effective_rank.values
                order = np.argsort(x)
                series.append(Series(ensemble, x[order], fits[ensemble, depth][name].ratio[order], kind="points"))
            panels.append(
                Panel(
                    f"{name}, depth {depth}",
                    Axis("effective rank ‖M‖∗² / ‖M‖F²"),
                    Axis("F / candidate", log=True),
                    tuple(series),
                    (ReferenceLine("exact", 1.0),),
                )
            )
    return Figure(
        "where-they-fail",
        "Where the candidates fail",
        _setting(spec)
        + "Each point is a matrix. A slope shows a wrong exponent; a spread at one effective rank shows that "
        "the form depends on more than (weighted) singular values. One measurement, whose form is known, is left out.",
        tuple(panels),
        columns=2,
    )


def _intervals(spec: ExploreRegulariser, data: dict[str, xr.Dataset]) -> Figure:
    series = []
    for ensemble in spec.ensembles:
        gap = (1 - data[ensemble].lower / data[ensemble].value).max("matrix").values
        series.append(Series(ensemble, spec.depths, gap))
    width = Axis("(upper − lower) / upper", log=True, floor=1e-16)
    return Figure(
        "certificates",
        "How well F is known",
        "The problem over one fibre is geodesically convex; the smallest curvature and the gradient at the computed "
        "point bound how far below it the infimum can lie. Shown is the widest relative interval over all matrices.",
        (Panel("Proven interval", Axis("depth L"), width, tuple(series)),),
    )
