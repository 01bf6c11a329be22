"""Settings of the exploration, at three sizes."""

from pydantic import field_validator

from flatmin._core import checked_anywhere, nearest
from flatmin._core.models import Mistake
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

    @field_validator("ensembles")
    @classmethod
    def _are_known(cls, ensembles: tuple[str, ...]) -> tuple[str, ...]:
        for name in ensembles or ("",):
            if name not in ENSEMBLES:
                raise Mistake((), f"{name!r} is not known; {nearest(name, ENSEMBLES)}")
        return ensembles

    @field_validator("depths")
    @classmethod
    def _are_depths(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
        if not depths or min(depths) < 2:
            raise Mistake((), f"got {depths}, expected at least one depth, each >= 2")
        return depths


@checked_anywhere()
def demo(seed: int) -> ExploreRegulariser:
    """Minutes on two cores."""
    return ExploreRegulariser(seed=seed)


@checked_anywhere()
def full(seed: int) -> ExploreRegulariser:
    """All depths from 2 to 8, more and larger matrices."""
    return ExploreRegulariser(rows=8, columns=7, depths=(2, 3, 4, 5, 6, 7, 8), matrices=60, bootstraps=1000, seed=seed)


@checked_anywhere()
def quick(seed: int) -> ExploreRegulariser:
    """A reduced size for tests: the same code, seconds."""
    return ExploreRegulariser(
        rows=4, columns=3, depths=(2, 3, 5), matrices=12, many=1000, few=3, bootstraps=100, seed=seed
    )


SIZES = {"demo": demo, "full": full, "quick": quick}
