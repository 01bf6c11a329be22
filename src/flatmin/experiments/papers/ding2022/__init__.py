"""Reproduction of Ding et al. 2022: figures 3 and 4, the depth study, robust PCA and covariance estimation."""

import functools
import pathlib
from collections.abc import Callable
from typing import get_args

import xarray as xr

from flatmin._core import checked
from flatmin.experiments.cells import Context, compute_cells
from flatmin.experiments.figure_data import figure_data
from flatmin.experiments.papers._paper import Paper
from flatmin.experiments.papers.ding2022.cells import depth_cell, diagram_cell, robust_cell
from flatmin.experiments.papers.ding2022.claims import claims
from flatmin.experiments.papers.ding2022.figures import figures
from flatmin.experiments.papers.ding2022.results import NAMES, Results
from flatmin.experiments.papers.ding2022.spec import SIZES, Ding2022, Problem
from flatmin.experiments.runs import RunContent
from flatmin.experiments.specs import Experiment
from flatmin.studies.cells import Cell

EXPERIMENT = Experiment(
    name="ding2022",
    version=2,
    title="Flat minima generalise for low-rank matrix recovery",
    summary="In two-factor problems the flattest interpolating solution solves a convex programme. Here it is solved, "
    "with a certified gap, over phase diagrams of dimension and number of measurements, beside the plain nuclear norm: "
    "flat solutions recover the truth from about as many measurements, and are nearly norm-minimal and balanced.",
    bibtex="""@article{ding2024flat,
  title={Flat minima generalize for low-rank matrix recovery},
  author={Ding, Lijun and Drusvyatskiy, Dmitriy and Fazel, Maryam and Harchaoui, Zaid},
  journal={Information and Inference: A Journal of the IMA},
  year={2024}
}""",
)

Progress = Callable[[int, int], None]


@checked()
def compute(spec: Ding2022, context: Context) -> RunContent:
    """Solve all instances; then figures and claims.

    Args:
        spec: the settings.
        context: where to keep finished pieces, how many at once, whom to tell.

    Returns:
        What is stored as the run.
    """
    cells: dict = {}
    for problem in get_args(Problem):
        diagram = getattr(spec.diagrams, problem)
        for dimension in sorted(diagram.dimensions, reverse=True):
            cells[problem, dimension] = _cell(
                f"{NAMES[problem]}, d = {dimension}",
                spec,
                {"problem": problem, "dimension": dimension} | diagram.model_dump(exclude={"dimensions"}),
                functools.partial(diagram_cell, problem, diagram, dimension, spec.threshold, spec.seed),
            )
    for rank in spec.robust.ranks:
        cells["robust", rank] = _cell(
            f"robust PCA, rank {rank}",
            spec,
            {"robust": rank} | spec.robust.model_dump(exclude={"ranks"}),
            functools.partial(robust_cell, spec.robust, rank, spec.threshold, spec.seed),
        )
    for depth in spec.depths.depths:
        cells["depths", depth] = _cell(
            f"{depth} Hadamard factors",
            spec,
            {"factors": depth} | spec.depths.model_dump(exclude={"depths"}),
            functools.partial(depth_cell, spec.depths, depth, spec.threshold, spec.seed),
        )
    # most of the time is spent in Python: processes, and the largest cells first, so that they end together
    done = compute_cells(cells, context, spread="processes")
    results = Results(
        spec=spec,
        diagrams={
            problem: {d: done[problem, d] for d in getattr(spec.diagrams, problem).dimensions}
            for problem in get_args(Problem)
        },
        robust={rank: done["robust", rank] for rank in spec.robust.ranks},
        depths={depth: done["depths", depth] for depth in spec.depths.depths},
    )
    raw = {f"{label[0]}-{label[1]}": data for label, data in done.items()}
    return RunContent(datasets=figure_data(figures(results)) | raw, claims=tuple(claims(results)))


def _cell(name: str, spec: Ding2022, settings: dict, work: Callable[[Progress], xr.Dataset]) -> Cell:
    """A cell that depends on its own settings only, so that it is shared by the sizes that contain it."""
    key = {
        "experiment": EXPERIMENT.name,
        "version": EXPERIMENT.version,
        "seed": spec.seed,
        "threshold": spec.threshold,
        **settings,
    }

    return Cell(name, key, functools.partial(_without_checkpoint, work))


def _without_checkpoint(
    work: Callable[[Progress], xr.Dataset], _checkpoint: pathlib.Path, progress: Progress
) -> xr.Dataset:
    return work(progress)


PAPER = Paper(EXPERIMENT, SIZES, compute)
