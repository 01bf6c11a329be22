"""Reproduction of Marion and Chizat 2024: all five experiments, their plots and statements."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import xarray as xr

from flatmin._core import checked
from flatmin.experiments.cells import Context, compute_cells
from flatmin.experiments.figure_data import figure_data
from flatmin.experiments.papers._paper import Paper
from flatmin.experiments.papers.marion2024.claims import claims
from flatmin.experiments.papers.marion2024.figures import figures
from flatmin.experiments.papers.marion2024.results import Results
from flatmin.experiments.papers.marion2024.spec import SIZES, Marion2024
from flatmin.experiments.papers.marion2024.training import depths_cell, single_cell, sweep_cell
from flatmin.experiments.runs import RunContent
from flatmin.experiments.specs import Experiment
from flatmin.studies.cells import Cell

EXPERIMENT = Experiment(
    name="marion2024",
    version=2,
    title="Deep linear networks for regression are implicitly regularised towards flat minima",
    summary="Deep linear networks with one output, trained by gradient descent: no minimiser is flatter than "
    "2 L a, gradient descent from small initialisation ends within a constant of that, and it finds no minimiser "
    "beyond the learning rate 1/(L a). Every sharpness is the signed top of the Hessian, in float64, with a residual.",
    bibtex="""@inproceedings{marion2024deep,
  title={Deep linear networks for regression are implicitly regularized towards flat minima},
  author={Marion, Pierre and Chizat, L{\\'e}na{\\"i}c},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}""",
)

SWEEPS = ("mlp", "residual", "underdetermined", "gelu", "rank_one")
SINGLES = {"mlp_single": "mlp", "residual_single": "residual"}
TITLES = {
    "mlp": "experiment 1, linear MLP",
    "residual": "experiment 2, residual network",
    "underdetermined": "experiment 4, underdetermined",
    "gelu": "experiment 5, GELU",
    "rank_one": "small scales",
}


@checked()
def compute(spec: Marion2024, context: Context) -> RunContent:
    """Train, measure; then figures and claims.

    Args:
        spec: the settings.
        context: where to keep finished pieces, how many threads, whom to tell.

    Returns:
        What is stored as the run.
    """
    # one cell after the other, and each spreads over all threads itself; on a cluster each takes one
    threads, workers = (context.workers, 1) if context.scheduler is None else (1, context.workers)
    cells: dict = {}
    for name in SWEEPS:
        sweep = getattr(spec, name)
        cells[name] = Cell(
            TITLES[name], _key("sweep", spec, sweep=sweep), functools.partial(_sweep, spec, name, threads)
        )
    for name, of in SINGLES.items():
        key = _key("single", spec, sweep=getattr(spec, of), single=getattr(spec, name))
        cells[name] = Cell(f"{TITLES[of]}, over time", key, functools.partial(_single, spec, name))
    for depth in spec.depths.depths:
        cells["depths", depth] = Cell(
            f"experiment 3, depth {depth}",
            _key("depths", spec, depth=depth, depths=spec.depths.model_copy(update={"depths": (depth,)})),
            functools.partial(_depth, spec, depth, threads),
        )
    done = compute_cells(cells, dataclasses.replace(context, workers=workers))
    results = Results(
        spec=spec,
        **{name: done[name] for name in (*SWEEPS, *SINGLES)},
        depths={depth: done["depths", depth] for depth in spec.depths.depths},
    )
    raw = {f"runs-{name.replace('_', '-')}": done[name] for name in (*SWEEPS, *SINGLES)}
    raw |= {f"runs-depth-{depth}": done["depths", depth] for depth in spec.depths.depths}
    return RunContent(datasets=figure_data(figures(results)) | raw, claims=tuple(claims(results)))


def _key(part: str, spec: Marion2024, **label) -> dict[str, object]:
    """What a cell depends on, so that it is shared by the specs that contain it."""
    settings = {k: v.model_dump(mode="json") if hasattr(v, "model_dump") else v for k, v in label.items()}
    return {
        "experiment": EXPERIMENT.name,
        "version": EXPERIMENT.version,
        "part": part,
        "seed": spec.seed,
        "precision": spec.precision,
        **settings,
    }


def _sweep(
    spec: Marion2024, name: str, threads: int, _checkpoint: pathlib.Path, progress: Callable[[int, int], None]
) -> xr.Dataset:
    return sweep_cell(getattr(spec, name), spec.seed, spec.precision, threads, progress)


def _single(spec: Marion2024, name: str, *_: object) -> xr.Dataset:
    return single_cell(getattr(spec, SINGLES[name]), getattr(spec, name), spec.seed, spec.precision)


def _depth(
    spec: Marion2024, depth: int, threads: int, _checkpoint: pathlib.Path, progress: Callable[[int, int], None]
) -> xr.Dataset:
    return depths_cell(spec.depths, depth, spec.seed, spec.precision, threads, progress)


PAPER = Paper(EXPERIMENT, SIZES, compute)
