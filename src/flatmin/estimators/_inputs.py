"""What users pass to an estimator: settings by the table of domains, data by scikit-learn's checks."""

import datetime as dt
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_array, validate_data

from flatmin._core import AnyOf, Choice, Domain, Flag, Indices, Instance, Integer, Optional, Real, UsageError
from flatmin._core.domains import Sizes
from flatmin._core.values import UNREADABLE

_INSIDE = Real(0, 1, above=True, below=True)
SETTINGS: dict[str, Domain] = {
    **dict.fromkeys(("penalty", "radius"), Optional(Real(0, above=True))),
    "noise": Optional(Real(0)),
    **dict.fromkeys(("tolerance", "validation_fraction"), _INSIDE),
    **dict.fromkeys(("centre", "scaled"), Flag()),
    "rank": Optional(AnyOf(Integer(1), Choice("validation"))),
    "unseen": Choice("reduce", "error"),
    "max_iter": Integer(1),
    "random_state": Optional(AnyOf(Integer(0, 2**32 - 1), Instance(np.random.RandomState))),
}
"""Domains of the settings by name; constructors only store them, `fit` looks."""

_NO_NUMBERS = (str, bytes, dt.date, dt.time, dt.timedelta, np.datetime64, np.timedelta64)


class InputTypeError(UsageError, TypeError):
    """The `TypeError` that scikit-learn asks for where entries are no numbers."""


def check_settings(estimator: Any) -> None:
    """Refuse settings outside of their domains.

    Args:
        estimator: whose settings.

    Raises:
        UsageError: for the first one.
    """
    for name, value in estimator.get_params(deep=False).items():
        SETTINGS[name].accept(name, value, {})


def validated(estimator: Any, X: Any, *y: Any, **options: Any) -> Any:
    """`validate_data` of scikit-learn, which takes no texts and no dates for numbers, and names what is wrong.

    Args:
        estimator: whose data.
        X: samples by features.
        y: nothing, or the targets.
        options: of `validate_data`.

    Returns:
        What `validate_data` returns.

    Raises:
        UsageError: naming X or y, with scikit-learn's words; a `TypeError` too where scikit-learn raises one.
    """
    for name, value in zip("Xy", (X, *y), strict=False):
        _refuse_texts(name, value)
    try:
        return validate_data(estimator, X, *y, **options)
    except UNREADABLE as error:
        kind = InputTypeError if isinstance(error, TypeError) else UsageError
        names = "feature names" in str(error)  # a list of them
        text = str(error) if names else " ".join(str(error).split())
        raise kind(f"{'y' if y and _is_array(X) else 'X'}: {text}") from error


def index_pairs(rows: Any, cols: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of entries, as `predict(X, cols)` takes them.

    Args:
        rows: shape (m,).
        cols: shape (m,).
        shape: of the matrix.

    Returns:
        Both as integer arrays.

    Raises:
        UsageError: for other values, other lengths, and positions outside.
    """
    sizes: Sizes = {"samples": (shape[0], "X"), "features": (shape[1], "cols")}
    first = Indices("m", below="samples", host=True).accept("X", rows, sizes)
    second = Indices("m", below="features", host=True).accept("cols", cols, sizes)
    return np.asarray(first, np.int64), np.asarray(second, np.int64)


def _is_array(X: Any) -> bool:
    try:
        check_array(X)
    except UNREADABLE:
        return False
    return True


def _refuse_texts(name: str, value: Any) -> None:
    try:
        array = value.data if sparse.issparse(value) else np.asarray(value)
    except UNREADABLE:
        return  # scikit-learn says why
    texts = array.dtype.kind in "USMm"
    if texts or (array.dtype.kind == "O" and any(isinstance(entry, _NO_NUMBERS) for entry in array.ravel())):
        what = f"entries of type {array.dtype}" if texts else "texts or dates among the entries"
        raise UsageError(f"{name}: got {what}, expected real numbers")
