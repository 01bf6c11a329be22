"""The ledger: every theorem, lemma and example of the papers as an experiment on random and adversarial instances.

Data flow one way: an entry (statement, assumptions, families) -> instances (predicted and measured numbers) -> a claim.
One module a family of statements; each line is one function under the decorator `entry`.
"""

import functools
import json
from collections.abc import Hashable

import jax.numpy as jnp
import xarray as xr

from flatmin._core import checked, require_float64
from flatmin.experiments.cells import Context, compute_cells
from flatmin.experiments.figure_data import figure_data
from flatmin.experiments.ledger import closed_forms as closed_forms
from flatmin.experiments.ledger import ding as ding
from flatmin.experiments.ledger import ding_quadratic as ding_quadratic
from flatmin.experiments.ledger import ding_recovery as ding_recovery
from flatmin.experiments.ledger import drift as drift
from flatmin.experiments.ledger import gatmiry_exact as gatmiry_exact
from flatmin.experiments.ledger import gatmiry_random as gatmiry_random
from flatmin.experiments.ledger import gatmiry_rip as gatmiry_rip
from flatmin.experiments.ledger import marion as marion
from flatmin.experiments.ledger import marion_flow as marion_flow
from flatmin.experiments.ledger import marion_smallest as marion_smallest
from flatmin.experiments.ledger import related as related
from flatmin.experiments.ledger._entry import ENTRIES as ENTRIES
from flatmin.experiments.ledger._entry import Batch as Batch
from flatmin.experiments.ledger._entry import Entry as Entry
from flatmin.experiments.ledger._entry import Family as Family
from flatmin.experiments.ledger._entry import Instance as Instance
from flatmin.experiments.ledger._entry import entry as entry
from flatmin.experiments.ledger._entry import family as family
from flatmin.experiments.ledger._entry import measure_entry as measure_entry
from flatmin.experiments.ledger._entry import rebuild as rebuild
from flatmin.experiments.ledger._verdict import address, decide, failures
from flatmin.experiments.ledger.figures import figures
from flatmin.experiments.ledger.spec import SIZES as SIZES
from flatmin.experiments.ledger.spec import Ledger as Ledger
from flatmin.experiments.runs import RunContent
from flatmin.experiments.specs import Experiment
from flatmin.studies.cells import Cell

EXPERIMENT = Experiment(
    name="verify-theory",
    version=4,
    title="Ledger of theorems",
    summary="Every theorem, lemma and example of Gatmiry et al. 2023, Ding et al. 2022 and Marion & Chizat 2024, of "
    "two related papers and of the theory of implicit drift, on random and adversarial instances: what the statement "
    "predicts beside what is measured. A statement holds if it holds on the worst instance (equalities: within a "
    "bound on rounding), or if the interval of its mean or share does. Any instance can be made again from its "
    "address.",
    bibtex="""@inproceedings{gatmiry2023inductive,
  title={The Inductive Bias of Flatness Regularization for Deep Matrix Factorization},
  author={Gatmiry, Khashayar and Li, Zhiyuan and Chuang, Ching-Yao and Reddi, Sashank and Ma, Tengyu
          and Jegelka, Stefanie},
  booktitle={Advances in Neural Information Processing Systems},
  year={2023}
}
@article{ding2024flat,
  title={Flat Minima Generalize for Low-Rank Matrix Recovery},
  author={Ding, Lijun and Drusvyatskiy, Dmitriy and Fazel, Maryam and Harchaoui, Zaid},
  journal={Information and Inference},
  year={2024}
}
@inproceedings{marion2024deep,
  title={Deep Linear Networks for Regression are Implicitly Regularized Towards Flat Minima},
  author={Marion, Pierre and Chizat, L{\\'e}na{\\"i}c},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}""",
)
FINDINGS_SHOWN = 20


@checked()
def compute(spec: Ledger, context: Context) -> RunContent:
    """Put every line of the ledger to the test.

    Args:
        spec: the settings.
        context: where to keep finished lines, how many at once, whom to tell.

    Returns:
        One claim a line, the instances of each as a dataset, the figures, and `findings.json`: the instances on which a
        statement fails.

    Raises:
        UsageError: without float64.
    """
    require_float64("verify-theory", jnp.zeros(()))
    cells: dict[Hashable, Cell] = {}
    for key in spec.entries:
        identity = {"experiment": EXPERIMENT.name, "version": EXPERIMENT.version, "entry": key}
        identity |= {"seed": spec.seed, "quick": spec.quick}
        cells[key] = Cell(key, identity, functools.partial(_measure, key, spec))
    tables = compute_cells(cells, context)
    found = [ENTRIES[key] for key in spec.entries]
    findings = [line for e in found for line in _findings(e, tables[e.key])]
    return RunContent(
        datasets=figure_data(figures(tables)) | {f"instances-{key}": table for key, table in tables.items()},
        claims=tuple(decide(e, tables[e.key]) for e in found),
        files={"findings.json": json.dumps(findings, indent=2, ensure_ascii=False).encode()},
    )


def _measure(key: str, spec: Ledger, *_: object) -> xr.Dataset:
    return measure_entry(ENTRIES[key], seed=spec.seed, quick=spec.quick)


def _findings(found: Entry, table: xr.Dataset) -> list[dict[str, object]]:
    """The worst instances on which a statement fails, as JSON."""
    return [
        {
            "instance": address(found, table, int(at)),
            "family": found.families[int(table.family[at])].label,
            "predicted": float(table.predicted[at]),
            "measured": float(table.measured[at]),
            "tolerance": float(table.tolerance[at]),
        }
        for at in failures(found, table)[:FINDINGS_SHOWN]
    ]
