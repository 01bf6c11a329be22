"""Which cell of an edited spec computes the same as a cell of the earlier one."""

import json
from typing import Any

from flatmin.studies.study import Study


def translate(source: Study, target: Study, cell: int) -> int:
    """The cell of another study that computes the same.

    Args:
        source: the study that the cell belongs to.
        target: the other one.
        cell: number in the source's grid.

    Returns:
        Number in the target's grid; -1 if it has none.
    """
    if _rest(source) != _rest(target):
        return -1
    values = _complete(source, cell)
    positions = []
    for axis in target.grid.axes:
        if axis.key == "sample":
            label = source.grid.labels(cell).get("sample", -1)
        elif axis.key in values:
            label = values[axis.key]
        else:
            return -1
        try:
            positions.append(axis.values.index(label))
        except ValueError:
            return -1
    found = target.grid.cell(positions)
    return found if _complete(target, found) == values else -1


def _rest(study: Study) -> str:
    """All that is the same in every cell of a study."""
    spec = study.spec
    function = None if spec.function is None else [spec.function.call, spec.function.outputs]
    parts = [spec.measure.model_dump(), spec.stopping.model_dump(), spec.precision, function]
    return json.dumps(parts, sort_keys=True)


def _complete(study: Study, cell: int) -> dict[str, Any]:
    """All settings of a cell by dotted name, and its seed."""
    values = study.values(cell)
    try:
        tables = study.spec.settings(values)
    except ValueError:
        return {}
    found = {f"{family}.{name}": value for family, table in tables.items() for name, value in table.items()}
    return found | {"seed": values["seed"]}
