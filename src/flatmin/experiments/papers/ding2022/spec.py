"""Settings of the reproduction, at three sizes, each line marked as the paper's or ours."""

from typing import Literal

import numpy as np
from pydantic import model_validator

from flatmin._core import checked_anywhere
from flatmin.experiments.specs import RunSpec, setting

Problem = Literal["sensing", "bilinear", "completion", "network", "covariance"]


class Diagram(RunSpec):
    """A phase diagram over dimension and number of measurements."""

    dimensions: tuple[int, ...] = setting(origin="ours", description="d = d_1 = d_2")
    amounts: tuple[float, ...] = setting(
        origin="ours", description="number of measurements m; for completion the probability p that an entry is seen"
    )
    rank: int = setting(2, origin="paper", description="rank of the unit-Frobenius truth", ge=1)
    trials: int = setting(10, origin="paper", description="independent instances of a cell", ge=1)

    @model_validator(mode="after")
    def _increasing(self) -> "Diagram":
        for name in ("dimensions", "amounts"):
            values = getattr(self, name)
            if len(values) < 2 or sorted(set(values)) != list(values):
                raise ValueError(f"{name}: expected at least two increasing values; sort them, without repeats")
        if min(self.dimensions) < self.rank:
            raise ValueError(f"dimensions: got {min(self.dimensions)}, expected at least the rank {self.rank}")
        return self


class Robust(RunSpec):
    """Robust PCA over the rank and the share of outliers."""

    dimension: int = setting(40, origin="ours", description="d_1 = d_2", ge=2)
    ranks: tuple[int, ...] = setting((1, 2, 4, 6, 8, 10), origin="ours", description="rank of the truth")
    outliers: tuple[float, ...] = setting(
        (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35), origin="ours", description="share of entries that are wrong"
    )
    trials: int = setting(5, origin="ours", description="independent instances of a cell", ge=1)


class Depths(RunSpec):
    """Sparse recovery by Hadamard factors: does depth help?"""

    dimension: int = setting(60, origin="ours", description="d", ge=2)
    sparsity: int = setting(4, origin="ours", description="non-zero entries of the truth", ge=1)
    depths: tuple[int, ...] = setting((2, 3, 4, 6, 10), origin="ours", description="number of factors k")
    amounts: tuple[int, ...] = setting(
        (8, 12, 16, 20, 25, 30, 36, 42, 48, 54, 60), origin="ours", description="number of measurements m"
    )
    trials: int = setting(20, origin="ours", description="independent instances of a point", ge=1)


class Diagrams(RunSpec):
    """The five phase diagrams."""

    sensing: Diagram = setting(origin="ours", description="Figure 3 (a), 4 (a): matrix sensing")
    bilinear: Diagram = setting(origin="ours", description="Figure 3 (b), 4 (b): bilinear sensing")
    completion: Diagram = setting(origin="ours", description="Figure 3 (c), 4 (c): matrix completion")
    network: Diagram = setting(origin="ours", description="Figure 3 (d): one-hidden-layer quadratic network")
    covariance: Diagram = setting(origin="ours", description="covariance estimation")


class Ding2022(RunSpec):
    """Everything that the reproduction computes."""

    diagrams: Diagrams = setting(origin="ours", description="the phase diagrams")
    robust: Robust = setting(Robust(), origin="ours", description="robust PCA")
    depths: Depths = setting(Depths(), origin="ours", description="Hadamard factors of several depths")
    threshold: float = setting(1e-6, origin="paper", description="relative error of an exact recovery", gt=0)
    seed: int = setting(0, origin="ours", description="random seed", ge=0)


def _diagrams(dimensions: tuple[int, ...], count: int, trials: int) -> Diagrams:
    """Amounts from below the transition of the smallest dimension to above that of the largest."""
    low, high = dimensions[0], dimensions[-1]

    def diagram(rank: int, amounts: np.ndarray) -> Diagram:
        rounded = tuple(float(round(m, 6)) for m in amounts)
        return Diagram(dimensions=dimensions, amounts=rounded, rank=rank, trials=trials)

    def counts(first: float, last: float) -> np.ndarray:
        return np.round(np.linspace(first * low, last * high, count))

    return Diagrams(
        sensing=diagram(2, counts(3, 11)),
        bilinear=diagram(2, counts(3, 12)),
        completion=diagram(2, np.linspace(0.1, 1.0, count)),
        network=diagram(3, counts(3, 9)),
        covariance=diagram(2, counts(2, 6)),
    )


@checked_anywhere()
def demo(seed: int) -> Ding2022:
    """A coarser grid: minutes on two cores."""
    return Ding2022(diagrams=_diagrams((10, 15, 20, 25, 30), 10, 10), seed=seed)


@checked_anywhere()
def full(seed: int) -> Ding2022:
    """A fine grid up to dimension 50."""
    return Ding2022(
        diagrams=_diagrams((10, 15, 20, 25, 30, 35, 40, 45, 50), 16, 10),
        robust=Robust(trials=10),
        depths=Depths(trials=100),
        seed=seed,
    )


@checked_anywhere()
def quick(seed: int) -> Ding2022:
    """A reduced size for tests: the same code, seconds."""
    return Ding2022(
        diagrams=_diagrams((8, 14, 20), 6, 4),
        robust=Robust(dimension=16, ranks=(1, 3), outliers=(0.02, 0.3), trials=3),
        depths=Depths(dimension=24, sparsity=2, depths=(2, 4), amounts=(5, 9, 13, 18, 24), trials=8),
        seed=seed,
    )


SIZES = {"demo": demo, "full": full, "quick": quick}
