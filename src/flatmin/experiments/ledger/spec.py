"""Settings of a run of the ledger."""

from pydantic import field_validator

from flatmin._core import checked_anywhere
from flatmin.experiments.ledger._entry import ENTRIES
from flatmin.experiments.specs import RunSpec, setting


class Ledger(RunSpec):
    """Which lines of the ledger are put to the test, and at which size."""

    entries: tuple[str, ...] = setting(origin="ours", description="lines of the ledger, in order")
    quick: bool = setting(False, origin="ours", description="a twentieth of the instances, fewer families")
    seed: int = setting(0, origin="ours", description="random seed of all instances", ge=0)

    @field_validator("entries")
    @classmethod
    def _are_known(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        missing = [key for key in entries if key not in ENTRIES]
        if missing or not entries:
            raise ValueError(f"no such line of the ledger: {', '.join(missing) or '(none given)'}")
        return entries


PAPERS = ("gatmiry", "ding", "marion", "closed", "kamber", "mulayoff", "drift")


def every_line() -> tuple[str, ...]:
    """All lines of the ledger, paper by paper."""

    def rank(key: str) -> int:
        paper = key.split("-", maxsplit=1)[0]
        return PAPERS.index(paper) if paper in PAPERS else len(PAPERS)

    return tuple(sorted(ENTRIES, key=rank))


@checked_anywhere()
def full(seed: int) -> Ledger:
    """Every line, thousands of instances: minutes on two cores."""
    return Ledger(entries=every_line(), seed=seed)


@checked_anywhere()
def quick(seed: int) -> Ledger:
    """Every line, hundreds of instances: well under a minute."""
    return Ledger(entries=every_line(), quick=True, seed=seed)


SIZES = {"demo": full, "quick": quick}
