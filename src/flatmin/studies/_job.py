"""What executors compute: a job, cut into numbered pieces. A study is one, the cells of an experiment another."""

import abc
import dataclasses
import pickle
from collections.abc import Callable

from flatmin._core import JobError

Report = Callable[[int, int], None]
"""Called as `report(done, total)` while a piece is computed; raises KeyboardInterrupt when it shall stop."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pieces that are computed and stored together.

    Attributes:
        pieces: their numbers.
        attempt: how often the process that had it died before.
    """

    pieces: tuple[int, ...]
    attempt: int = 0


class Job(abc.ABC):
    """Work that is cut into numbered pieces.

    A job can be pickled, and what a piece yields is a function of the job and its number alone: the bytes of its
    payload are the same whoever computes it.

    Attributes:
        patience: seconds that a process which is told to stop has to keep what it has begun.
        user_code: whether it calls code that the user names, which may lie in the working directory.
    """

    patience: float = 0.0

    @property
    def user_code(self) -> bool:
        """Our own code only, unless the job says otherwise."""
        return False

    @abc.abstractmethod
    def compute(self, pieces: tuple[int, ...], report: Report) -> bytes:
        """Compute pieces.

        Args:
            pieces: their numbers.
            report: told how far it is, now and then or never.

        Returns:
            Sealed bytes, see `flatmin.storage.sealed`.
        """

    def lost(self, pieces: tuple[int, ...], reason: str) -> bytes:
        """The record of pieces that nobody could compute.

        Args:
            pieces: their numbers.
            reason: why.

        Returns:
            Sealed bytes.

        Raises:
            JobError: unless the job has a record for it.
        """
        raise JobError(f"piece {pieces[0]}: {reason}; start the same command again, finished pieces are kept")


def packed(job: Job) -> bytes:
    """The job as bytes for another process.

    Args:
        job: the job.

    Returns:
        The bytes.

    Raises:
        JobError: if it holds something that cannot be sent.
    """
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise JobError(
            f"workers: the work cannot be sent to another process ({error}); make its functions those of a module, "
            "or compute in this process"
        ) from error


def unpacked(data: bytes) -> Job:
    """The job behind bytes of `packed`, from a process that started this one or that this one serves."""
    return pickle.loads(data)  # noqa: S301 - our own bytes


def silent(_done: int, _total: int) -> None:
    """No report."""
