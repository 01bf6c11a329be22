"""Settings of the reproduction, at three sizes, each line marked as the paper's or ours."""

from pydantic import model_validator

from flatmin._core import checked_anywhere
from flatmin.experiments.specs import RunSpec, setting


class Phase(RunSpec):
    """A stretch of steps with one learning rate and one label noise."""

    steps: int = setting(origin="ours", description="number of steps", gt=0)
    learning_rate: float = setting(origin="ours", description="step size eta", gt=0)
    noise: float = setting(origin="ours", description="label noise sigma of label-noise SGD", ge=0)


class Training(RunSpec):
    """Figures 1 and 2: deep matrix factorisation from Gaussian measurements."""

    dimension: int = setting(60, origin="paper", description="d_0 = d_L = all widths", ge=2)
    rank: int = setting(3, origin="paper", description="rank of the planted matrix", ge=1)
    num_measurements: int = setting(1000, origin="paper", description="n, Gaussian measurements", ge=2)
    batch_size: int = setting(50, origin="ours", description="samples a step, drawn with replacement", ge=1)
    depths: tuple[int, ...] = setting((3,), origin="paper", description="depths L")
    num_seeds: int = setting(1, origin="ours", description="independent problems and runs a depth", ge=1)
    schedules: dict[int, tuple[Phase, ...]] = setting(
        origin="ours",
        description="phases by depth; plain SGD takes the same steps and step sizes with sigma = 0",
    )
    precision: str = setting("float32", origin="ours", description="floating point type of the training")
    records: int = setting(160, origin="ours", description="about how many times the curves are measured", ge=10)

    @model_validator(mode="after")
    def _every_depth_has_a_schedule(self) -> "Training":
        missing = [depth for depth in self.depths if depth not in self.schedules]
        if missing:
            raise ValueError(f"schedules: no phases for depth {missing[0]}; give one schedule for every depth")
        return self


class FrobeniusLine(RunSpec):
    """Theorem 4: the expected error of the minimum-Frobenius interpolator."""

    dimension: int = setting(24, origin="ours", description="d_0 = d_L", ge=2)
    rank: int = setting(3, origin="ours", description="rank of the planted matrix", ge=1)
    fractions: tuple[float, ...] = setting(
        (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95, 1.0), origin="ours", description="n / (d_0 d_L)"
    )
    num_trials: int = setting(40, origin="ours", description="independent measurement draws a point", ge=4)


class Sandwich(RunSpec):
    """Theorem 1: the induced regulariser between (1 - delta) and (1 + delta) times its population value."""

    dimension: int = setting(20, origin="ours", description="d_0 = d_L", ge=2)
    num_measurements: tuple[int, ...] = setting(
        (100, 300, 1000, 3000), origin="ours", description="n, Gaussian measurements"
    )
    depths: tuple[int, ...] = setting((2, 3, 5), origin="ours", description="depths L")
    ranks: tuple[int, ...] = setting((1, 2, 5, 10, 20), origin="ours", description="ranks of the test matrices")


class Gatmiry2023(RunSpec):
    """Everything that the reproduction computes."""

    training: Training = setting(origin="ours", description="figures 1 and 2")
    frobenius: FrobeniusLine = setting(FrobeniusLine(), origin="ours", description="Theorem 4")
    sandwich: Sandwich = setting(Sandwich(), origin="ours", description="Theorem 1")
    seed: int = setting(0, origin="ours", description="first random seed", ge=0)


def _phases(*stretches: tuple[int, float, float]) -> tuple[Phase, ...]:
    return tuple(Phase(steps=n, learning_rate=eta, noise=sigma) for n, eta, sigma in stretches)


# warm up at a step size that is stable from the start, speed up once the point is flat, anneal, then let the noise go
SCHEDULES = {
    2: _phases((60_000, 3e-3, 1.0), (240_000, 1e-2, 1.0), (80_000, 3e-3, 1.0), (40_000, 3e-3, 0.0)),
    3: _phases((60_000, 3e-3, 1.0), (240_000, 1e-2, 1.0), (80_000, 3e-3, 1.0), (40_000, 3e-3, 0.0)),
    5: _phases(
        (60_000, 2e-3, 1.0), (150_000, 5e-3, 1.0), (700_000, 1e-2, 1.0), (80_000, 3e-3, 1.0), (40_000, 3e-3, 0.0)
    ),
}


@checked_anywhere()
def demo(seed: int) -> Gatmiry2023:
    """The paper's size, depth 3, one seed: minutes on two cores."""
    return Gatmiry2023(training=Training(schedules={3: SCHEDULES[3]}), seed=seed)


@checked_anywhere()
def full(seed: int) -> Gatmiry2023:
    """Depths 2, 3 and 5, three seeds each."""
    return Gatmiry2023(training=Training(depths=(2, 3, 5), num_seeds=3, schedules=SCHEDULES), seed=seed)


@checked_anywhere()
def quick(seed: int) -> Gatmiry2023:
    """A reduced size for tests: the same code, seconds."""
    phases = _phases((4_000, 1e-2, 1.0), (40_000, 2e-2, 1.0), (8_000, 1e-2, 1.0), (4_000, 1e-2, 0.0))
    return Gatmiry2023(
        training=Training(dimension=12, rank=1, num_measurements=80, batch_size=16, schedules={3: phases}, records=120),
        frobenius=FrobeniusLine(dimension=8, rank=2, fractions=(0.25, 0.5, 0.75), num_trials=30),
        sandwich=Sandwich(dimension=8, num_measurements=(100, 1000), depths=(2, 3), ranks=(1, 4)),
        seed=seed,
    )


SIZES = {"demo": demo, "full": full, "quick": quick}
