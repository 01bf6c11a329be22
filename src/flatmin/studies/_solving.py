"""Cells that solve a convex programme."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flatmin.solvers import (
    MinNuclearNorm,
    MinScaledNuclearNorm,
    MinSymmetricNuclearNorm,
    MinTrace,
    solve,
    solve_batch,
)
from flatmin.solvers.misfits import Exact
from flatmin.studies._settings import PROGRAMS, chosen
from flatmin.studies._training import OUTCOMES, Tables, cell_keys, make_instance
from flatmin.studies.recovery import decide

_ON_HOST = (MinNuclearNorm, MinScaledNuclearNorm, MinTrace, MinSymmetricNuclearNorm)
"""Programmes that `solve_batch` takes: nothing is compiled, so that no shape costs a compilation."""


def solve_cell(
    tables: Tables, seed: int, measure: Mapping[str, Any], stopping: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Make the instance, solve, certify, measure.

    If `recovered` is all that is asked for beside `relative_error`, the solve stops as soon as it is proved whether
    the truth is the solution; an undecided one is NaN.

    Args:
        tables: complete settings.
        seed: of the cell.
        measure: `quantities` and `threshold`.
        stopping: `tolerance` and `max_iterations`.

    Returns:
        Values by name, scalars; `outcome` counts in `OUTCOMES`.

    Raises:
        UsageError: for a problem that the programme does not suit, such as a line that no measurement sees.
    """
    names, threshold = tuple(measure["quantities"]), float(measure["threshold"])
    instance = make_instance(cell_keys(np.uint32(seed))[0], tables)
    table = tables["solver"]
    program = chosen("program", table["program"], PROGRAMS).make(table, instance.problem)
    host = isinstance(program, _ON_HOST) and isinstance(program.misfit, Exact)
    if set(names) <= {"recovered", "relative_error"}:
        verdict = decide(program, instance, threshold, host=host, iterations=stopping["max_iterations"])
        solution, recovered = verdict.solution, verdict.recovered
    else:
        limits = {"tolerance": stopping["tolerance"], "max_iterations": stopping["max_iterations"]}
        solution = solve_batch([program], **limits)[0] if host else solve(program, throw=False, **limits)
        recovered = math.nan
    error = float(instance.relative_error(solution.matrix))
    if math.isnan(recovered) and "recovered" in names and solution.gap <= stopping["tolerance"]:
        recovered = float(error <= threshold)
    values: dict[str, float] = {"outcome": float(OUTCOMES.index(solution.outcome))}
    for name in names:
        match name:
            case "value":
                values[name] = float(solution.primal_value)
                # the optimum lies between the dual bound and the value, up to the residual
                values["value_error"] = abs(float(solution.primal_value) - float(solution.dual_value))
            case "gap" | "residual" | "iterations":
                values[name] = float(getattr(solution, name))
            case "nuclear_norm":
                values[name] = float(np.linalg.svd(np.asarray(solution.matrix), compute_uv=False).sum())
            case "relative_error":
                values[name] = error
            case "recovered":
                values[name] = recovered
    return {name: np.asarray(value) for name, value in values.items()}
