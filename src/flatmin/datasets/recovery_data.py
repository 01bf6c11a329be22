"""What every reader returns."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from flatmin._core import Optional, RealArray, UsageError, checked_anywhere
from flatmin.datasets.packaged import TILE
from flatmin.measurements import AbstractMeasurements, entries, observed_entries


@checked_anywhere(targets=RealArray("m", host=True), truth=Optional(RealArray("d1 d2", host=True)), tile=TILE)
@dataclasses.dataclass(frozen=True)
class RecoveryData:
    """Measurements of an unknown matrix, and what was measured.

    Attributes:
        name: how to call the data on a page.
        measurements: the operator.
        targets: what it saw, shape (m,), float64.
        truth: the whole matrix where it is known, else None.
        row_labels: the file's own names of the rows, None if they are numbered.
        column_labels: the same for the columns.
        image: whether the matrix is a picture; the notes say its scale.
        tile: shape of a small picture that each row holds, None if rows are not pictures.
        notes: what the reader decided, in sentences.
    """

    name: str
    measurements: AbstractMeasurements
    targets: np.ndarray
    truth: np.ndarray | None = None
    row_labels: tuple[str, ...] | None = None
    column_labels: tuple[str, ...] | None = None
    image: bool = False
    tile: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_completion(self) -> bool:
        """Whether single entries are seen."""
        return observed_entries(self.measurements) is not None


def real_numbers(argument: str, array: np.ndarray) -> np.ndarray:
    """The array as finite float64.

    Args:
        argument: what it is, for the sentence.
        array: any array.

    Returns:
        A contiguous float64 copy.

    Raises:
        UsageError: for complex numbers, objects, texts, no values at all, NaN or infinities.
    """
    if array.dtype.kind == "c":
        raise UsageError(
            f"{argument}: got complex numbers, expected real ones; files of complex measurements are not read"
        )
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{argument}: got values of type {array.dtype}, expected real numbers")
    if array.size == 0:
        raise UsageError(f"{argument}: got no values (shape {array.shape}), expected at least one")
    numbers = np.ascontiguousarray(array, dtype=np.float64)
    bad = ~np.isfinite(numbers)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UsageError(
            f"{argument}: got {int(bad.sum())} value(s) that are NaN or infinite, the first at index {where}; remove "
            "or mask them"
        )
    with np.errstate(over="ignore"):
        if not np.isfinite(np.linalg.norm(numbers)) or 0 < np.abs(numbers).max() < 1e-150:
            raise UsageError(
                f"{argument}: got values up to {np.abs(numbers).max():.1e}, whose squares leave the range of floating "
                "point; rescale them"
            )
    return numbers


def observed(
    matrix: np.ndarray, seen: np.ndarray, name: str, *, image: bool = False, tile: tuple[int, int] | None = None
) -> RecoveryData:
    """Completion data: a whole matrix of which only some entries are shown.

    Args:
        matrix: the truth, shape (d1, d2).
        seen: which entries are shown, bools of the same shape.
        name: how to call the data.
        image: whether it is a picture.
        tile: shape of the picture that each row holds.

    Returns:
        The data, with the truth.
    """
    rows, columns = np.nonzero(seen)
    shape = (int(matrix.shape[0]), int(matrix.shape[1]))
    return RecoveryData(
        name=name,
        measurements=entries(jnp.asarray(rows), jnp.asarray(columns), shape),
        targets=np.ascontiguousarray(matrix[seen], dtype=np.float64),
        truth=matrix,
        image=image,
        tile=tile,
    )


def missing_at_random(shape: tuple[int, ...], fraction: float, seed: int) -> np.ndarray:
    """Which entries stay when `fraction` of them is hidden.

    Args:
        shape: of the matrix.
        fraction: between 0 and 1, ends excluded; each entry is hidden with this probability.
        seed: the same seed hides the same entries.

    Returns:
        True where an entry is seen.

    Raises:
        UsageError: for a fraction out of range, or if nothing would be left.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"missing: got {fraction}, expected a fraction between 0 and 1, ends excluded")
    seen = np.random.default_rng([seed, 0]).random(shape) >= fraction
    if not seen.any():
        raise UsageError(f"missing: got {fraction}, which hides all {seen.size} entries; hide fewer")
    return seen
