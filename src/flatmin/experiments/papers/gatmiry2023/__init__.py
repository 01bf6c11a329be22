"""Reproduction of Gatmiry et al. 2023, figures 1 and 2 and the statements around them."""

import functools
import pathlib
from collections.abc import Callable

import numpy as np
import xarray as xr

from flatmin._core import checked
from flatmin.experiments.cells import Context, compute_cells
from flatmin.experiments.certificates import Certificate
from flatmin.experiments.figure_data import figure_data
from flatmin.experiments.papers._paper import Paper
from flatmin.experiments.papers.gatmiry2023.claims import claims
from flatmin.experiments.papers.gatmiry2023.figures import figures
from flatmin.experiments.papers.gatmiry2023.results import Results
from flatmin.experiments.papers.gatmiry2023.spec import SIZES, Gatmiry2023
from flatmin.experiments.papers.gatmiry2023.statics import frobenius_points, min_nuclear_norm, sandwich_points
from flatmin.experiments.papers.gatmiry2023.training import DYNAMICS, problem_of, train_cell
from flatmin.experiments.runs import RunContent
from flatmin.experiments.specs import Experiment
from flatmin.studies.cells import Cell

EXPERIMENT = Experiment(
    name="gatmiry2023",
    version=3,
    title="Flatness regularisation in deep matrix factorisation",
    summary="Deep linear networks trained from linear measurements of a low-rank matrix: label-noise SGD walks along "
    "the interpolating solutions towards the smallest trace of the Hessian, and ends at the smallest nuclear norm; "
    "plain mini-batch SGD stays where it first interpolates.",
    bibtex="""@inproceedings{gatmiry2023inductive,
  title={The Inductive Bias of Flatness Regularization for Deep Matrix Factorization},
  author={Gatmiry, Khashayar and Li, Zhiyuan and Chuang, Ching-Yao and Reddi, Sashank and Ma, Tengyu
          and Jegelka, Stefanie},
  booktitle={Advances in Neural Information Processing Systems},
  year={2023}
}""",
)


@checked()
def compute(spec: Gatmiry2023, context: Context) -> RunContent:
    """Train, solve, measure; then figures and claims.

    Args:
        spec: the settings.
        context: where to keep finished pieces, how many at once, whom to tell.

    Returns:
        What is stored as the run.

    Raises:
        JobError: if a run diverges or a solve fails.
    """
    training = spec.training
    seeds = range(spec.seed, spec.seed + training.num_seeds)
    cells: dict = {}
    for depth in training.depths:
        for seed in seeds:
            for dynamics in DYNAMICS:
                cells[depth, seed, dynamics] = Cell(
                    f"{dynamics} SGD, depth {depth}, seed {seed}",
                    _key("train", spec, depth=depth, seed=seed, dynamics=dynamics),
                    functools.partial(_train, spec, depth, seed, dynamics),
                )
    for seed in seeds:
        cells["convex", seed] = Cell(
            f"minimum nuclear norm, seed {seed}",
            _key("convex", spec, seed=seed),
            functools.partial(_convex, spec, seed),
        )
    cells["frobenius"] = Cell("Theorem 4", _key("frobenius", spec), functools.partial(_frobenius, spec))
    cells["sandwich"] = Cell("Theorem 1", _key("sandwich", spec), functools.partial(_sandwich, spec))
    done = compute_cells(cells, context)
    convex = {seed: done["convex", seed] for seed in seeds}
    results = Results(
        spec=spec,
        runs={label: done[label] for label in cells if label[-1] in DYNAMICS},
        convex={seed: Certificate.model_validate_json(data.attrs["certificate"]) for seed, data in convex.items()},
        convex_error={seed: float(data.squared_error) for seed, data in convex.items()},
        frobenius=done["frobenius"],
        sandwich=done["sandwich"],
    )
    return RunContent(
        datasets=figure_data(figures(results)) | _curves(results),
        claims=tuple(claims(results)),
        certificates=tuple(results.convex[seed] for seed in seeds),
    )


def _key(part: str, spec: Gatmiry2023, **label: object) -> dict[str, object]:
    """What a cell depends on: its own part of the spec, so that a cell is shared by the sizes that contain it."""
    section = "training" if part in ("train", "convex") else part
    settings = getattr(spec, section).model_dump(mode="json", exclude={"depths", "num_seeds"})
    if part == "train":
        settings["schedules"] = settings["schedules"][str(label["depth"])]
    else:
        settings.pop("schedules", None)
        label.setdefault("seed", spec.seed)
    if part == "sandwich":
        settings["depths"] = list(spec.sandwich.depths)
    return {"experiment": EXPERIMENT.name, "version": EXPERIMENT.version, "part": part, **settings, **label}


def _train(
    spec: Gatmiry2023,
    depth: int,
    seed: int,
    dynamics: str,
    checkpoint: pathlib.Path,
    progress: Callable[[int, int], None],
) -> xr.Dataset:
    return train_cell(spec.training, depth, seed, dynamics, checkpoint=checkpoint, progress=progress)


def _convex(spec: Gatmiry2023, seed: int, *_: object) -> xr.Dataset:
    solution = min_nuclear_norm(spec.training, seed)
    truth = problem_of(spec.training, 2, seed).truth
    certificate = Certificate.from_solution(f"minimum nuclear norm, seed {seed}", solution)
    error = float(np.sum((np.asarray(solution.matrix) - np.asarray(truth)) ** 2))
    return xr.Dataset({"squared_error": error}, attrs={"certificate": certificate.model_dump_json()})


def _frobenius(spec: Gatmiry2023, *_: object) -> xr.Dataset:
    return frobenius_points(spec.frobenius, spec.seed)


def _sandwich(spec: Gatmiry2023, *_: object) -> xr.Dataset:
    return sandwich_points(spec.sandwich, spec.seed)


def _curves(results: Results) -> dict[str, xr.Dataset]:
    """The raw curves by depth and dynamics, beside the figures made of them."""
    return {
        f"curves-depth-{depth}-{dynamics.replace(' ', '-')}": results.of(depth, dynamics).assign_coords(
            seed=results.seeds
        )
        for depth in results.spec.training.depths
        for dynamics in DYNAMICS
    }


PAPER = Paper(EXPERIMENT, SIZES, compute)
