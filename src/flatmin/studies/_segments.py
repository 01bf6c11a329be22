"""A segment: the results of a few cells as bytes that carry their own checksum."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from flatmin.storage.sealed import seal, unseal

MISSING, DONE, FAILED = 0, 1, 2
"""States of a cell."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """Results of some cells.

    Attributes:
        study: id of the study that computed them.
        cells: their numbers in its grid, int64, shape (n,).
        states: `DONE` or `FAILED`, uint8, shape (n,).
        values: float64 by name, shape (n, ...); NaN for failed cells.
        reasons: why a cell failed, by its number.
        about: seconds, machine and versions; does not belong to the content.
    """

    study: str
    cells: np.ndarray
    states: np.ndarray
    values: Mapping[str, np.ndarray]
    reasons: Mapping[int, str] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def encode(segment: Segment) -> bytes:
    """The segment as sealed bytes.

    Args:
        segment: the segment.

    Returns:
        The bytes.
    """
    arrays = {"cells": segment.cells.astype("<i8"), "states": segment.states.astype("u1")}
    arrays |= {f"value {name}": np.asarray(value, "<f8") for name, value in segment.values.items()}
    header = {
        "study": segment.study,
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
        "reasons": {str(cell): reason for cell, reason in segment.reasons.items()},
        "about": dict(segment.about),
    }
    return seal(header, b"".join(array.tobytes() for array in arrays.values()))


def decode(data: bytes) -> Segment:
    """The segment behind sealed bytes.

    Args:
        data: what `encode` returned, possibly damaged since.

    Returns:
        The segment.

    Raises:
        DamagedError: unless every byte is as it was written.
    """
    return segment_of(*unseal(data))


def segment_of(header: Mapping[str, Any], payload: memoryview) -> Segment:
    """The segment behind a header and a payload.

    Args:
        header: of the sealed bytes.
        payload: of the sealed bytes.

    Returns:
        The segment.
    """
    offset, arrays = 0, {}
    for name, dtype, shape in header["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(payload, dtype, count, offset).reshape(shape)
        offset += arrays[name].nbytes
    return Segment(
        study=header["study"],
        cells=arrays.pop("cells").astype(np.int64),
        states=arrays.pop("states"),
        values={name.removeprefix("value "): array for name, array in arrays.items()},
        reasons={int(cell): reason for cell, reason in header["reasons"].items()},
        about=header["about"],
    )
