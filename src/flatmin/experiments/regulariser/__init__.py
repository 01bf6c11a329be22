"""The induced regulariser where no formula is known: values, candidate forms, and where these fail."""

import functools
import io
import pathlib
from collections.abc import Callable

import numpy as np
import xarray as xr

from flatmin._core import checked
from flatmin.experiments.cells import Context, compute_cells
from flatmin.experiments.claims import Claim
from flatmin.experiments.figure_data import figure_data
from flatmin.experiments.regulariser.figures import Fits, figures
from flatmin.experiments.regulariser.fits import CANDIDATES, fit_all
from flatmin.experiments.regulariser.samples import values_of
from flatmin.experiments.regulariser.spec import SIZES as SIZES
from flatmin.experiments.regulariser.spec import ExploreRegulariser as ExploreRegulariser
from flatmin.experiments.runs import RunContent
from flatmin.experiments.specs import Experiment
from flatmin.studies.cells import Cell

EXPERIMENT = Experiment(
    name="explore-regulariser",
    version=2,
    title="The induced regulariser of flatness beyond the known cases",
    summary="The smallest trace of the Hessian over all factors of a matrix, F(M), is known in closed form at depth 2, "
    "for one measurement, and in the limit of restricted isometry. For other measurements and depths it is computed "
    "here, each value with a proven interval (the problem over one fibre is geodesically convex), and held against "
    "candidate forms: Schatten norms of M or of the weighted M with a free exponent, means of the values of single "
    "measurements, and the known limits.",
    bibtex="""@inproceedings{gatmiry2023inductive,
  title={The Inductive Bias of Flatness Regularization for Deep Matrix Factorization},
  author={Gatmiry, Khashayar and Li, Zhiyuan and Chuang, Ching-Yao and Reddi, Sashank and Ma, Tengyu
          and Jegelka, Stefanie},
  booktitle={Advances in Neural Information Processing Systems},
  year={2023}
}""",
)
CLOSED = 5
"""Depth up to which the closed form for one measurement keeps eight digits."""

FITS = 0.01
"""Root mean square relative error below which a candidate is said to fit."""


@checked()
def explore(spec: ExploreRegulariser, context: Context) -> RunContent:
    """Compute F, fit the candidates, draw.

    Args:
        spec: the settings.
        context: where to keep finished pieces, how many at once, whom to tell.

    Returns:
        What is stored as the run: figures, claims, `fits.csv` and `values.csv`.
    """
    cells: dict = {
        ensemble: Cell(
            ensemble,
            {
                "experiment": EXPERIMENT.name,
                "version": EXPERIMENT.version,
                "ensemble": ensemble,
                **spec.model_dump(mode="json", exclude={"ensembles", "bootstraps"}),
            },
            functools.partial(_values, spec, ensemble),
        )
        for ensemble in spec.ensembles
    }
    data = compute_cells(cells, context)
    fits: Fits = {
        (ensemble, depth): fit_all(data[ensemble], depth, spec.bootstraps, spec.seed)
        for ensemble in spec.ensembles
        for depth in spec.depths
    }
    return RunContent(
        datasets=figure_data(figures(spec, data, fits)),
        claims=tuple(_claims(spec, data, fits)),
        files={"fits.csv": _fits_table(spec, data, fits), "values.csv": _values_table(spec, data)},
    )


def _values(
    spec: ExploreRegulariser, ensemble: str, _checkpoint: pathlib.Path, progress: Callable[[int, int], None]
) -> xr.Dataset:
    return values_of(spec, ensemble, progress)


def _claims(spec: ExploreRegulariser, data: dict[str, xr.Dataset], fits: Fits) -> list[Claim]:
    gaps = {e: float((1 - data[e].lower / data[e].value).max()) for e in spec.ensembles}
    made = [
        Claim.at_most(
            1e-9,
            name="proven",
            statement="Every value of F is the global minimum on its fibre, to a proven relative interval.",
            source="geodesic convexity over one fibre",
            predicted="widest interval <= 1e-9",
            measured=max(gaps.values()),
            note=f"over {spec.matrices * len(spec.depths) * len(spec.ensembles):,} values; widest for "
            f"{max(gaps, key=lambda e: gaps[e])}",
        )
    ]
    if 2 in spec.depths:
        made.append(
            Claim.at_most(
                1e-9,
                name="depth-2",
                statement="At depth 2 the form is the nuclear norm weighted by second moments, for all measurements.",
                source="Gatmiry et al. 2023, Theorem 5",
                predicted="largest relative error <= 1e-9",
                measured=max(fits[e, 2]["weighted nuclear"].worst for e in spec.ensembles),
            )
        )
    if "one" in spec.ensembles and min(spec.depths) <= CLOSED:
        made.append(
            Claim.at_most(
                1e-8,
                name="one-measurement",
                statement="With one measurement the form is that of its own product.",
                source="Gatmiry et al. 2023, Theorem 7",
                predicted="largest relative error <= 1e-8",
                measured=max(fits["one", depth]["mean of single"].worst for depth in spec.depths if depth <= CLOSED),
                note=f"at depths up to {CLOSED}: beyond, the small singular values of the product lose their digits",
            )
        )
    below = [float((data[e].mean_single_lower / data[e].value).max()) for e in spec.ensembles]
    made.append(
        Claim.at_most(
            1 + 1e-9,
            name="mean-of-single-below",
            statement="The mean of the values of single measurements is a lower end.",
            source="the smallest of a sum is at least the sum of the smallest",
            predicted="(1/n) sum F_i / F <= 1, the rounding of F_i taken off",
            measured=max(below),
        )
    )
    deep = [depth for depth in spec.depths if depth > 2]
    if deep and "gaussian, many" in spec.ensembles:
        near = [e for e in ("gaussian, many", "correlated") if e in spec.ensembles]
        made.append(
            Claim.at_most(
                0.05,
                name="population-limit",
                statement="With many Gaussian measurements, correlated or not, the nuclear norm weighted by the roots "
                "of the second moments, nothing fitted, is near F.",
                source="Gatmiry et al. 2023, Theorem 1, after a change of variables",
                predicted="largest relative error <= 5%",
                measured=max(fits[e, depth]["weighted nuclear"].worst for e in near for depth in deep),
                note=f"{spec.many} measurements, depths {', '.join(map(str, deep))}",
            )
        )
    for name in CANDIDATES if deep else ():
        failing = {(e, depth): fits[e, depth][name].error for e in spec.ensembles for depth in deep}
        worst = max(failing, key=lambda pair: failing[pair] if np.isfinite(failing[pair]) else np.inf)
        count = sum(not error <= FITS for error in failing.values())
        error = failing[worst]
        made.append(
            Claim.at_most(
                FITS,
                name=f"form-{name.replace(' ', '-').lower()}",
                statement=f"Beyond depth 2, F is of the form “{name}” for all measurements looked at.",
                source="open question",
                predicted=f"relative error <= {FITS:.0%} everywhere",
                measured=error if np.isfinite(error) else 1e300,
                note=f"fails in {count} of {len(failing)} cases of measurements and depth; worst: {worst[0]} at depth "
                f"{worst[1]}" + ("" if np.isfinite(error) else ", where the candidate vanishes and F does not"),
            )
        )
    return made


def _fits_table(spec: ExploreRegulariser, data: dict[str, xr.Dataset], fits: Fits) -> bytes:
    text = io.StringIO()
    text.write("ensemble,measurements,depth,candidate,rms_log_error,worst_log_error,worst_rank,scale,p,p_low,p_high\n")
    for (ensemble, depth), candidates in fits.items():
        for name, fit in candidates.items():
            rank = int(data[ensemble]["rank"][fit.worst_matrix])
            numbers = [fit.error, fit.worst, rank, fit.scale, *fit.power]
            cells = ",".join("" if isinstance(x, float) and np.isnan(x) else f"{x:.6g}" for x in numbers)
            text.write(f'"{ensemble}",{int(data[ensemble].measurements)},{depth},{name},{cells}\n')
    return text.getvalue().encode()


def _values_table(spec: ExploreRegulariser, data: dict[str, xr.Dataset]) -> bytes:
    text = io.StringIO()
    text.write("ensemble,depth,matrix,rank,effective_rank,value,lower\n")
    for ensemble in spec.ensembles:
        for depth in spec.depths:
            at = data[ensemble].sel(depth=depth)
            for j in range(spec.matrices):
                row = (float(at[name][j]) for name in ("effective_rank", "value", "lower"))
                cells = ",".join(format(x, ".17g") for x in row)
                text.write(f'"{ensemble}",{depth},{j},{int(at["rank"][j])},{cells}\n')
    return text.getvalue().encode()
