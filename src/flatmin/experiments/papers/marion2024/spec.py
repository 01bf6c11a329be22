"""Settings of the reproduction, at three sizes, each line marked as the paper's or ours."""

from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from flatmin._core import checked_anywhere
from flatmin.experiments.specs import RunSpec, declared_settings, setting


class Regression(RunSpec):
    """The data: X standard normal, `y = X w_true + noise`, then y and w* divided by `||w*||`.

    Our reading: w_true is standard normal, and one data set serves all runs of an experiment.
    """

    num_samples: int = setting(origin="paper", description="n", ge=1)
    dimension: int = setting(origin="paper", description="d, also the width", ge=1)
    noise: float = setting(origin="paper", description="variance of the label noise", ge=0)
    seed_offset: int = setting(
        0, origin="ours", description="which draw of the data; one draw is shared by all runs of an experiment", ge=0
    )


class Sweep(RunSpec):
    """An experiment over learning rates and initialisation scales."""

    regression: Regression = setting(origin="paper", description="the data")
    depth: int = setting(origin="paper", description="L", ge=1)
    form: Literal["mlp", "residual"] = setting(origin="paper", description="MLP, or residual with fixed output")
    activation: Literal["identity", "gelu", "relu", "tanh"] = setting(origin="paper", description="between layers")
    learning_rates: tuple[float, ...] = setting(origin="paper", description="eta")
    steps: tuple[int, ...] = setting(origin="paper", description="number of steps for each eta")
    repeats: tuple[int, ...] = setting(origin="paper", description="initialisations for each eta and scale")
    scales: tuple[float, ...] = setting(origin="paper", description="initialisation scales s")

    @model_validator(mode="after")
    def _one_entry_a_learning_rate(self) -> "Sweep":
        if not len(self.learning_rates) == len(self.steps) == len(self.repeats) > 0:
            raise ValueError(
                f"steps, repeats: got {len(self.steps)} and {len(self.repeats)} entries for {len(self.learning_rates)} "
                "learning rates; give one each"
            )
        if sorted(set(self.scales)) != list(self.scales) or sorted(set(self.learning_rates)) != list(
            self.learning_rates
        ):
            raise ValueError("scales, learning_rates: expected increasing values without repeats; sort them")
        return self


class Single(RunSpec):
    """Runs shown over time."""

    learning_rates: tuple[float, ...] = setting((0.02, 0.1), origin="paper", description="eta of each run")
    scale: float = setting(origin="paper", description="initialisation scale s")
    steps: int = setting(origin="paper", description="number of steps", ge=1)


class Depths(RunSpec):
    """Success over the learning rate, residual networks of several depths."""

    regression: Regression = setting(origin="paper", description="the data")
    depths: tuple[int, ...] = setting((5, 10, 20, 40), origin="paper", description="depths L")
    scale: float = setting(0.25, origin="paper", description="initialisation scale s")
    lowest: float = setting(1e-2, origin="paper", description="smallest learning rate", gt=0)
    highest: float = setting(10**-0.3, origin="paper", description="largest learning rate", gt=0)
    count: int = setting(25, origin="paper", description="learning rates, log-spaced", ge=2)
    steps: int = setting(1000, origin="paper", description="number of steps", ge=1)
    repeats: int = setting(50, origin="paper", description="initialisations for each point", ge=1)

    @property
    def learning_rates(self) -> np.ndarray:
        """The grid."""
        return np.geomspace(self.lowest, self.highest, self.count)


class Marion2024(RunSpec):
    """Everything that the reproduction computes."""

    mlp: Sweep = setting(origin="paper", description="experiment 1: linear MLP")
    mlp_single: Single = setting(origin="paper", description="experiment 1 over time")
    residual: Sweep = setting(origin="paper", description="experiment 2: linear residual network")
    residual_single: Single = setting(origin="paper", description="experiment 2 over time")
    depths: Depths = setting(origin="paper", description="experiment 3: learning rate against depth")
    underdetermined: Sweep = setting(origin="paper", description="experiment 4: generalisation gap and sharpness")
    gelu: Sweep = setting(origin="paper", description="experiment 5: the MLP of experiment 1 with GELU")
    rank_one: Sweep = setting(origin="ours", description="small scales at depth 3: how near to rank one the layers end")
    precision: Literal["float32", "float64"] = setting(
        "float32", origin="ours", description="floating point type of the training; sharpness is always float64"
    )
    seed: int = setting(0, origin="ours", description="random seed", ge=0)

    @classmethod
    def paper_values(cls) -> dict[str, Any]:
        """The full size, without what the paper leaves open."""
        return {row.name: row.value for row in declared_settings(full(0)) if not row.name.startswith(LEFT_OPEN)}


LEFT_OPEN = ("underdetermined.regression.noise", "residual.scales", "rank_one")
"""Settings whose value at full size is our reading (the noise of experiment 4, the scales between the given ends), and
our own experiment."""

RATES = (0.005, 0.02, 0.07, 0.1, 0.2)


def _grid(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(float(round(s, 6)) for s in np.linspace(low, high, count))


@checked_anywhere()
def full(seed: int) -> Marion2024:
    """The paper's size, every repeat and step: minutes on two cores."""
    over = Regression(num_samples=50, dimension=5, noise=1.0)
    return Marion2024(
        mlp=Sweep(
            regression=over,
            depth=10,
            form="mlp",
            activation="identity",
            learning_rates=RATES,
            steps=(40_000, 10_000, 4_000, 4_000, 2_000),
            repeats=(20, 20, 20, 20, 80),
            scales=_grid(0.25, 0.6, 10),
        ),
        mlp_single=Single(scale=0.35, steps=450),
        residual=Sweep(
            regression=over,
            depth=10,
            form="residual",
            activation="identity",
            learning_rates=RATES,
            steps=(4_000,) * 5,
            repeats=(20,) * 5,
            scales=_grid(0.0, 1.7, 10),
        ),
        residual_single=Single(scale=0.5, steps=400),
        depths=Depths(regression=over),
        underdetermined=Sweep(
            regression=Regression(num_samples=15, dimension=20, noise=1.0),
            depth=5,
            form="mlp",
            activation="identity",
            learning_rates=(0.001, 0.004, 0.01),
            steps=(40_000, 10_000, 4_000),
            repeats=(100, 20, 20),
            scales=_grid(0.1, 0.36, 9),
        ),
        gelu=Sweep(
            regression=Regression(num_samples=50, dimension=5, noise=0.0),
            depth=10,
            form="mlp",
            activation="gelu",
            learning_rates=(0.005, 0.02, 0.07),
            steps=(160_000, 40_000, 16_000),
            repeats=(20, 20, 20),
            scales=_grid(0.428, 0.7, 8),
        ),
        rank_one=_rank_one(over, 20),
        seed=seed,
    )


@checked_anywhere()
def quick(seed: int) -> Marion2024:
    """A reduced size for tests: the same code, seconds."""
    whole = full(seed)
    over = Regression(num_samples=20, dimension=3, noise=1.0)
    small = {"regression": over, "depth": 6}
    return Marion2024(
        mlp=whole.mlp.model_copy(
            update=small | {"steps": (8_000, 3_000, 1_500, 1_500, 800), "repeats": (10,) * 5, "scales": (0.4, 0.6, 0.8)}
        ),
        mlp_single=Single(scale=0.5, steps=150),
        residual=whole.residual.model_copy(
            update=small | {"steps": (3_000,) * 5, "repeats": (10,) * 5, "scales": (0.0, 0.8, 1.6)}
        ),
        residual_single=Single(scale=0.5, steps=100),
        depths=Depths(regression=over, depths=(5, 10), repeats=10, count=18),
        underdetermined=whole.underdetermined.model_copy(
            update={
                "regression": Regression(num_samples=6, dimension=8, noise=1.0),
                "depth": 4,
                "steps": (20_000, 5_000, 2_000),
                "repeats": (12, 6, 6),
                "scales": (0.15, 0.25, 0.35, 0.45),
            }
        ),
        gelu=whole.gelu.model_copy(
            update={
                "regression": Regression(num_samples=12, dimension=3, noise=0.0),
                "depth": 4,
                "steps": (6_000, 2_000, 1_000),
                "repeats": (8,) * 3,
                "scales": (0.6, 0.8, 1.0),
            }
        ),
        rank_one=_rank_one(over, 8),
        seed=seed,
    )


def _rank_one(regression: Regression, repeats: int) -> Sweep:
    scales = tuple(float(f"{s:.3g}") for s in np.geomspace(0.02, 0.3, 6))
    return Sweep(
        regression=regression,
        depth=3,
        form="mlp",
        activation="identity",
        learning_rates=(0.05,),
        steps=(6_000,),
        repeats=(repeats,),
        scales=scales,
    )


SIZES = {"demo": full, "full": full, "quick": quick}
