"""Cells and their labels, by arithmetic: nothing is as long as the grid."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flatmin._core import UsageError
from flatmin.studies.axes import Values

SEED, SAMPLE = "seed", "sample"


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a study.

    Attributes:
        key: the dotted name of the setting; `seed` or `sample`.
        label: the name of the dimension in arrays and tables.
        values: its values.
        leaf: whether cells along it differ in array leaves only, so that they run side by side in one compiled call.
    """

    key: str
    label: str
    values: Values
    leaf: bool

    def __len__(self) -> int:
        """Number of values."""
        return len(self.values)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The product of the axes; cells are numbered with the last axis fastest.

    Attributes:
        axes: the axes, the seeds last.
    """

    axes: tuple[Axis, ...]

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each axis."""
        return tuple(len(axis) for axis in self.axes)

    @functools.cached_property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @functools.cached_property
    def strides(self) -> tuple[int, ...]:
        """Distance of neighbours along each axis, in cells."""
        return tuple(math.prod(self.shape[k + 1 :]) for k in range(len(self.shape)))

    def positions(self, cell: int) -> tuple[int, ...]:
        """Where a cell stands on each axis."""
        return tuple(cell // stride % size for stride, size in zip(self.strides, self.shape, strict=True))

    def cell(self, positions: Sequence[int]) -> int:
        """The number of the cell at these positions."""
        return sum(int(p) * stride for p, stride in zip(positions, self.strides, strict=True))

    def labels(self, cell: int) -> dict[str, Any]:
        """Value by key of the axis."""
        return {axis.key: axis.values[p] for axis, p in zip(self.axes, self.positions(cell), strict=True)}


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The cells cut into blocks of one compiled call each.

    Cells that differ in array leaves only form a group; a group is cut into blocks of `width` lanes, the last one
    shorter. Where a cell stands in its block depends on the grid and the width only: so do its bits.

    Attributes:
        grid: the grid.
        width: lanes of a call.
    """

    grid: Grid
    width: int

    @functools.cached_property
    def _split(self) -> tuple[list[int], list[int]]:
        leaves = [k for k, axis in enumerate(self.grid.axes) if axis.leaf]
        return [k for k in range(len(self.grid.axes)) if k not in leaves], leaves

    @functools.cached_property
    def lanes(self) -> int:
        """Cells of a group."""
        return math.prod(self.grid.shape[k] for k in self._split[1])

    @functools.cached_property
    def per_group(self) -> int:
        """Blocks of a group."""
        return -(-self.lanes // self.width)

    @functools.cached_property
    def groups(self) -> int:
        """Number of groups: each is compiled once."""
        return math.prod(self.grid.shape[k] for k in self._split[0])

    def __len__(self) -> int:
        """Number of blocks."""
        return self.groups * self.per_group

    def cells(self, block: int) -> np.ndarray:
        """The cells of a block.

        Args:
            block: its number; the blocks of a group follow each other.

        Returns:
            Numbers of cells, shape (lanes,), int64.
        """
        group, part = divmod(block, self.per_group)
        static, leaves = self._split
        base = sum(p * self.grid.strides[k] for k, p in self._digits(group, static))
        lane = np.arange(part * self.width, min((part + 1) * self.width, self.lanes), dtype=np.int64)
        cells = np.full(lane.shape, base, dtype=np.int64)
        for k in reversed(leaves):
            lane, position = np.divmod(lane, self.grid.shape[k])
            cells += position * self.grid.strides[k]
        return cells

    def block_of(self, cell: int) -> int:
        """The block that a cell belongs to."""
        positions = self.grid.positions(cell)
        group, lane = (
            functools.reduce(lambda n, k: n * self.grid.shape[k] + positions[k], ks, 0) for ks in self._split
        )
        return group * self.per_group + lane // self.width

    def _digits(self, number: int, axes: list[int]) -> list[tuple[int, int]]:
        digits = []
        for k in reversed(axes):
            number, position = divmod(number, self.grid.shape[k])
            digits.append((k, position))
        return digits


def draw(distribution: Mapping[str, Any], name: str, seed: int, sample: int) -> Any:
    """The value of a random setting: a function of the study's seed, its name and the sample, of nothing else.

    Args:
        distribution: `distribution` and its settings.
        name: dotted name of the setting.
        seed: of the random axes.
        sample: number of the sample.

    Returns:
        A Python number, or one of the given values.

    Raises:
        UsageError: for an unknown distribution; the spec's checks come first.
    """
    digest = hashlib.sha256(json.dumps([name, seed, sample]).encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32).tolist())
    match distribution["distribution"]:
        case "uniform":
            return float(rng.uniform(distribution["low"], distribution["high"]))
        case "log_uniform":
            return float(np.exp(rng.uniform(np.log(distribution["low"]), np.log(distribution["high"]))))
        case "integers":
            return int(rng.integers(int(distribution["low"]), int(distribution["high"]), endpoint=True))
        case "choice":
            return distribution["values"][int(rng.integers(len(distribution["values"])))]
        case other:
            raise UsageError(f"random: got the distribution {other!r}")
