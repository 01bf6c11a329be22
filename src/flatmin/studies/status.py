"""What a study's folder holds, in sentences and numbers."""

import collections
import dataclasses

from flatmin.studies._segments import DONE, FAILED, MISSING
from flatmin.studies.store import Content, Store


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a study.

    Attributes:
        total: number of cells.
        done: finished cells.
        failed: failed cells.
        missing: cells that nobody has computed.
        reasons: why cells failed, and how many of them, most frequent first.
        damaged: segments that are not whole; their cells count as missing.
        others: processes that are computing, as `pid on host`.
        seconds: computing time of all segments, all processes together.
    """

    total: int
    done: int
    failed: int
    missing: int
    reasons: tuple[tuple[str, int], ...]
    damaged: tuple[str, ...]
    others: tuple[str, ...]
    seconds: float


def status_of(store: Store, content: Content) -> Status:
    """The state of a study.

    Args:
        store: its store.
        content: what it holds.

    Returns:
        The state.
    """
    reasons = collections.Counter(content.reasons.values()).most_common()
    return Status(
        total=store.study.grid.size,
        done=content.count(DONE),
        failed=content.count(FAILED),
        missing=content.count(MISSING),
        reasons=tuple(reasons),
        damaged=tuple(content.damaged),
        others=tuple(f"{mark['pid']} on {mark['host']}" for mark in store.others()),
        seconds=content.seconds,
    )
