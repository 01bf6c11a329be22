"""A study: its spec, its grid, its blocks, and what a block yields."""

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from flatmin._core import Integer, JobError, UsageError, checked_anywhere
from flatmin.studies._settings import PRESETS, dynamics_leaves
from flatmin.studies.axes import Values
from flatmin.studies.grid import SAMPLE, SEED, Axis, Blocks, Grid, draw
from flatmin.studies.quantities import POINT, SOLVER, Quantity
from flatmin.studies.spec import FUNCTION, StudySpec

LANES = 16
"""Most lanes of a compiled call, unless the spec says otherwise: wider ones gain little on a CPU."""

MOST_CELLS = 2**53
"""Cells of a study, so that their numbers are exact as floats."""

LANE_MEMORY = 256 * 2**20
"""Bytes that the lanes of a call may take together."""


@dataclasses.dataclass(frozen=True)
class Output:
    """A variable of the study.

    Attributes:
        shape: of one cell's value.
        quantity: what it is.
    """

    shape: tuple[int, ...]
    quantity: Quantity


@checked_anywhere()
@dataclasses.dataclass(frozen=True)
class Study:
    """A spec with a definite number of lanes.

    Attributes:
        spec: the spec.
        width: lanes of a compiled call.
    """

    spec: StudySpec
    width: int

    @functools.cached_property
    def grid(self) -> Grid:
        """All cells."""
        return make_grid(self.spec)

    @functools.cached_property
    def blocks(self) -> Blocks:
        """The cells cut into compiled calls."""
        return Blocks(self.grid, self.width)

    @property
    def id(self) -> str:
        """Id of the spec and the lanes: what decides every bit."""
        return f"{self.spec.id}-{self.width}"

    @functools.cached_property
    def times(self) -> np.ndarray:
        """Steps at which the records along the training stand; empty without records."""
        measure = self.spec.measure
        if not measure.record or measure.every is None:
            return np.zeros(0, int)
        steps = self.spec.stopping.steps
        return np.union1d(np.arange(0, steps, measure.every), [0, steps])

    @functools.cached_property
    def outputs(self) -> dict[str, Output]:
        """What is kept of a cell, by name; `outcome` and errors of estimates included."""
        spec = self.spec
        if spec.function is not None:
            return {name: Output((), Quantity("output of the function")) for name in spec.function.outputs}
        known = SOLVER if spec.solver is not None else POINT
        found = {"outcome": Output((), Quantity("how the cell ended, see its attribute"))}
        if spec.dynamics is not None:
            found["steps"] = Output((), Quantity("steps done"))
        for name in spec.measure.quantities:
            found |= _with_error(name, known[name], ())
        for name in spec.measure.record:
            found |= {f"{key}_along": out for key, out in _with_error(name, known[name], self.times.shape).items()}
        return found

    @functools.cached_property
    def bytes_per_cell(self) -> int:
        """Bytes that a finished cell takes in the store, its share of the headers left out."""
        return 9 + sum(8 * math.prod(output.shape) for output in self.outputs.values())

    @functools.cached_property
    def kin(self) -> int:
        """How many blocks in a row share their programs: those of a group; a solver's cells over the seeds."""
        if self.spec.function is not None:
            return 1
        return self.blocks.per_group * (len(self.grid.axes[-1]) if self.spec.solver is not None else 1)

    def compilations(self, blocks: Iterable[int]) -> int:
        """How many programs some blocks need."""
        if self.spec.function is not None:
            return 0
        if isinstance(blocks, range):
            return -(-len(blocks) // self.kin)
        return len({block // self.kin for block in blocks})

    def values(self, cell: int) -> dict[str, Any]:
        """Value of each swept setting in a cell, by dotted name, random draws included; and the seed."""
        values = self.grid.labels(cell)
        random = self.spec.random
        if random is not None:
            for key, distribution in random.draw.items():
                values[key] = draw(distribution.model_dump(), key, random.seed, values[SAMPLE])
        return values

    @checked_anywhere(block=Integer(0))
    def compute(self, block: int) -> dict[str, np.ndarray]:
        """What the cells of a block yield.

        Args:
            block: its number.

        Returns:
            Values by name, each with a leading axis over the block's cells.

        Raises:
            UsageError: for a block that does not exist, and for settings that do not suit each other.
        """
        if block >= len(self.blocks):
            raise UsageError(f"block: got {block}, expected one below {len(self.blocks)}, their number")
        cells = self.blocks.cells(block)
        lanes = cells.size
        # short blocks are filled up: the last bit depends on the number of lanes
        chosen = [int(cell) for cell in cells] + [int(cells[-1])] * (self.width - lanes)
        values = self._compute_lanes(chosen)
        return {name: value[:lanes] for name, value in values.items()}

    def compute_alone(self, block: int, lane: int) -> dict[str, np.ndarray]:
        """One cell of a block, in its own lane of a full call: the same bits as with its neighbours.

        Args:
            block: its number.
            lane: which cell of the block.

        Returns:
            Values by name, without a cell axis.
        """
        cells = self.blocks.cells(block)
        values = self._compute_lanes([int(cells[lane])] * self.width)
        return {name: np.asarray(value[lane]) for name, value in values.items()}

    def _compute_lanes(self, cells: list[int]) -> dict[str, np.ndarray]:
        spec = self.spec
        swept = [self.values(cell) for cell in cells]
        if spec.function is not None:
            fixed = spec.families[FUNCTION]
            return _stacked([_call(spec.function.call, fixed, values, list(self.outputs)) for values in swept])
        tables = [spec.settings(values) for values in swept]
        seeds = [values[SEED] for values in swept]
        measure, stopping = spec.measure.model_dump(), spec.stopping.model_dump()
        if spec.solver is not None:
            from flatmin.studies._solving import solve_cell

            lanes = zip(tables, seeds, strict=True)
            return _stacked([solve_cell(table, seed, measure, stopping) for table, seed in lanes])
        from flatmin.studies._training import train_block

        return train_block(tables, seeds, measure, stopping, spec.precision)


def _with_error(name: str, quantity: Quantity, shape: tuple[int, ...]) -> dict[str, Output]:
    found = {name: Output(shape, quantity)}
    if quantity.error:
        found[f"{name}_error"] = Output(shape, Quantity(f"error of {name}: {quantity.error}", quantity.unit))
    return found


def _stacked(lanes: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([lane[name] for lane in lanes]) for name in lanes[0]}


def _call(call: str, fixed: Mapping[str, Any], values: Mapping[str, Any], outputs: list[str]) -> dict[str, np.ndarray]:
    arguments = dict(fixed)
    arguments |= {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{FUNCTION}.")}
    found = user_function(call)(seed=values[SEED], **arguments)
    if not isinstance(found, Mapping):
        found = {outputs[0]: found} if len(outputs) == 1 else {}
    missing = [name for name in outputs if name not in found]
    if missing:
        raise UsageError(f"{call}: returned no {missing[0]!r}, expected a number for each of its outputs")
    try:
        return {name: np.asarray(float(found[name])) for name in outputs}
    except (TypeError, ValueError) as error:
        raise UsageError(f"{call}: returned something that is not a number ({error})") from error


@functools.cache
def user_function(call: str) -> Callable[..., Any]:
    """The function behind `module:name`.

    Args:
        call: its name.

    Returns:
        The function.

    Raises:
        UsageError: if it cannot be imported.
    """
    module, _, name = call.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"function.call: {call} cannot be imported ({error}); install the module or set PYTHONPATH to its folder"
        ) from error
    if not callable(found):
        raise UsageError(f"function.call: {call} is a {type(found).__name__}, expected a function")
    return found


def make_grid(spec: StudySpec) -> Grid:
    """The grid of a spec: the axes as they stand in it, the samples, the seeds.

    Args:
        spec: the spec.

    Returns:
        The grid.
    """
    labels = _labels(spec)
    axes = [Axis(key, labels[key], spec.values_of(key), _is_leaf(spec, key)) for key in spec.axes]
    if spec.random is not None:
        leaf = all(_is_leaf(spec, key) for key in spec.random.draw)
        axes.append(Axis(SAMPLE, SAMPLE, Values(range(spec.random.samples)), leaf))
    seeds = range(spec.seeds.first, spec.seeds.first + spec.seeds.count)
    axes.append(Axis(SEED, SEED, Values(seeds), _is_leaf(spec, SEED)))
    return Grid(tuple(axes))


def _labels(spec: StudySpec) -> dict[str, str]:
    """Short names of the axes, where they are clear."""
    outputs = set(spec.measure.quantities) | {"outcome", "steps", "state", SEED, SAMPLE, "step"}
    outputs |= set(spec.function.outputs) if spec.function is not None else set()
    keys = [*spec.axes, *(spec.random.draw if spec.random is not None else ())]
    short = [key.rpartition(".")[2] for key in keys]
    return {
        key: name if short.count(name) == 1 and name not in outputs else key.replace(".", "_")
        for key, name in zip(keys, short, strict=True)
    }


def random_labels(spec: StudySpec) -> dict[str, str]:
    """Names of the random settings as variables over the samples, by dotted name."""
    labels = _labels(spec)
    return {key: labels[key] for key in (spec.random.draw if spec.random is not None else ())}


def _presets(spec: StudySpec) -> list[str]:
    """All presets that the study uses."""
    swept = spec.axes.get("problem.preset", ())
    fixed = (spec.problem or {}).get("preset")
    drawn = spec.random.draw.get("problem.preset") if spec.random is not None else None
    return [
        *([fixed] if fixed else []),
        *(swept if isinstance(swept, tuple) else ()),
        *((drawn.values or ()) if drawn else ()),
    ]


def _is_leaf(spec: StudySpec, key: str) -> bool:
    """Whether cells that differ in this setting only differ in array leaves only."""
    if spec.function is not None or spec.solver is not None:
        return False
    presets = [PRESETS[name] for name in _presets(spec)]
    traceable = all(preset.traceable for preset in presets)
    if key == SEED:
        return traceable
    family, _, name = key.partition(".")
    if family == "problem":
        return traceable and all(name in preset.leaves for preset in presets)
    if family == "start":
        return name in ("scale", "gain")
    if family == "dynamics":
        return name in dynamics_leaves()
    return False


@checked_anywhere()
def plan(spec: StudySpec, width: int | None = None) -> Study:
    """The study of a spec: decides the lanes if neither the spec nor the store does.

    Args:
        spec: the spec.
        width: the lanes of an earlier run.

    Returns:
        The study.

    Raises:
        UsageError: for more cells than can be numbered.
    """
    grid = make_grid(spec)
    if grid.size > MOST_CELLS:
        raise UsageError(f"spec: got {grid.size:,} cells, expected at most {MOST_CELLS:,}; take fewer values")
    if not any(axis.leaf for axis in grid.axes):
        return Study(spec, 1)
    return Study(spec, spec.batching.width or width or _width(spec))


def _width(spec: StudySpec) -> int:
    grid = make_grid(spec)
    lanes = Blocks(grid, 1).lanes
    from flatmin.studies._training import lane_bytes

    largest = [len(axis) - 1 for axis in grid.axes]
    for k, axis in enumerate(grid.axes):
        if not axis.leaf and all(isinstance(v, int) for v in (axis.values[0], axis.values[-1])):
            largest[k] = max((0, len(axis) - 1), key=lambda i, axis=axis: axis.values[i])
    study = Study(spec, 1)
    try:
        size = lane_bytes(spec.settings(study.values(grid.cell(largest))))
    except (UsageError, JobError):  # that corner does not exist; its cells will say so
        size = 1
    fitting = max(1, LANE_MEMORY // max(size, 1))
    wanted = min(LANES, 2 ** math.ceil(math.log2(lanes)), fitting)
    return 2 ** int(math.log2(wanted))
