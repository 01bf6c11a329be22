"""Settings of the exploration, at three sizes."""

from flatmin.experiments.specs import RunSpec, setting

ENSEMBLES = (
    "gaussian, many",
    "gaussian, few",
    "correlated",
    "bilinear",
    "entries",
    "toeplitz",
    "one",
)


class ExploreRegulariser(RunSpec):
    """Which measurements, depths and matrices are looked at."""

    rows: int = setting(6, origin="ours", description="d_L, rows of the matrices", ge=3)
    columns: int = setting(5, origin="ours", description="d_0, columns of the matrices", ge=3)
    ensembles: tuple[str, ...] = setting(ENSEMBLES, origin="ours", description="kinds of measurements")
    many: int = setting(
        3000, origin="ours", description="measurements of the ensembles near the population limit", ge=10
    )
    few: int = setting(4, origin="ours", description="measurements of the ensemble of few", ge=2)
    depths: tuple[int, ...] = setting((2, 3, 4, 5, 6, 8), origin="ours", description="depths L")
    matrices: int = setting(30, origin="ours", description="matrices M an ensemble, half of them to fit on", ge=8)
    bootstraps: int = setting(400, origin="ours", description="resamples behind each confidence interval", ge=20)
    seed: int = setting(0, origin="ours", description="first random seed", ge=0)


def demo(seed: int) -> ExploreRegulariser:
    """Minutes on two cores."""
    return ExploreRegulariser(seed=seed)


def full(seed: int) -> ExploreRegulariser:
    """All depths from 2 to 8, more and larger matrices."""
    return ExploreRegulariser(rows=8, columns=7, depths=(2, 3, 4, 5, 6, 7, 8), matrices=60, bootstraps=1000, seed=seed)


def quick(seed: int) -> ExploreRegulariser:
    """A reduced size for tests: the same code, seconds."""
    return ExploreRegulariser(
        rows=4, columns=3, depths=(2, 3, 5), matrices=12, many=1000, few=3, bootstraps=100, seed=seed
    )


SIZES = {"demo": demo, "full": full, "quick": quick}
