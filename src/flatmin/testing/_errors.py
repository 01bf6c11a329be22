"""How a broken law is said."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def law(name: str) -> Iterator[None]:
    """What is raised inside becomes the `AssertionError` of this law."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        words = str(error).strip().splitlines() or ["no reason given"]
        raise AssertionError(f"{name}: raises {type(error).__name__}: {words[0]}") from error


def near(name: str, got: Any, expected: Any, tolerance: float) -> None:
    """Two arrays of one shape, at most `tolerance` apart.

    Raises:
        AssertionError: naming the law.
    """
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got.shape != expected.shape:
        raise AssertionError(f"{name}: got shape {got.shape}, expected {expected.shape}")
    error = np.max(np.abs(got - expected), initial=0.0)
    if not error <= tolerance:
        raise AssertionError(f"{name}: away by {error:.1e}, expected at most {tolerance:.1e}")
