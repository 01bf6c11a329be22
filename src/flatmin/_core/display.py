"""How results look: one sentence with the numbers; in a notebook the same above a table of what else there is."""

import dataclasses
import html
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from flatmin._core.checks import is_traced
from flatmin._core.outcomes import Outcome

T = TypeVar("T", bound=tuple)

MOST_DIGITS, FEWEST_DIGITS = 7, 4
"""Significant digits of a value beside its error."""

FEW = 6
"""Arrays with at most so many entries are shown entry by entry."""

LONGEST = 200
"""Characters of a field in the table of a notebook."""


class Shown:
    """What a user looks at: `print` gives `headline()`, a notebook that and a table of the fields.

    A plain base: it stands first among the bases of a module, of a dataclass (`repr=False`) or of a named tuple. All
    texts are ASCII, and traced values read `traced`, so that a result can be printed on any stream and inside jit.
    """

    def headline(self) -> str:
        """One line with the numbers: by default each field, arrays as types and shapes."""
        return "; ".join(f"{name} {shown(value)}" for name, value in _fields(self).items())

    def __str__(self) -> str:
        return self.headline()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.headline()}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(shown(value))}</td></tr>"
            for name, value in _fields(self).items()
        )
        return f"<div><b>{html.escape(self.headline())}</b><table>{rows}</table></div>"


def _fields(result: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(result):
        return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if isinstance(result, tuple):
        return {name: getattr(result, name) for name in getattr(result, "_fields", ())}
    return dict(vars(result))


def shown_tuple(kind: type[T]) -> type[T]:
    """A named tuple, whose bases are not free, with the texts of `Shown`; what it has of its own stays.

    Args:
        kind: the named tuple.

    Returns:
        The same class.
    """
    for name in ("headline", "__str__", "__repr__", "_repr_html_"):
        if name not in vars(kind) or name == "__repr__":
            setattr(kind, name, getattr(Shown, name))
    return kind


def number(value: Any, digits: int = MOST_DIGITS) -> str:
    """A scalar with so many significant digits; `traced` for a tracer.

    Args:
        value: a number or a scalar array.
        digits: significant digits.

    Returns:
        Text such as `103.0055`.
    """
    return "traced" if is_traced(value) else f"{float(value):.{digits}g}"


def shape(sizes: tuple[int, ...]) -> str:
    """`3 x 4` for (3, 4)."""
    return " x ".join(map(str, sizes))


def with_error(value: Any, error: Any) -> str:
    """`103.0055 +- 2e-13`: digits as the error allows.

    Args:
        value: a scalar or an array.
        error: of the same shape.

    Returns:
        The text; for more than six entries their number, their range and the largest error.
    """
    if is_traced(value, error):
        return f"traced ({shape(value.shape)} values)" if value.ndim else "traced"
    values, errors = np.asarray(value), np.broadcast_to(np.asarray(error), np.shape(value))
    if values.ndim == 0:
        return f"{_value(values, errors)} +- {_error(errors)}" if not np.isnan(errors) else _value(values, errors)
    most = "" if values.size == 0 or np.isnan(errors).all() else f" +- {_error(np.nanmax(errors))} at most"
    if values.size <= FEW:
        return _entries(values, errors) + most
    return f"{shape(values.shape)} values from {number(values.min())} to {number(values.max())}{most}"


def _entries(values: Any, errors: Any) -> str:
    if values.ndim == 0:
        return _value(values, errors)
    return "[" + ", ".join(_entries(v, e) for v, e in zip(values, errors, strict=True)) + "]"


def _value(value: Any, error: Any) -> str:
    value, error = float(value), float(error)
    if not (math.isfinite(value) and math.isfinite(error) and value != 0 and error > 0):
        return number(value)
    resolved = math.floor(math.log10(abs(value))) - math.floor(math.log10(error)) + 2
    return number(value, min(max(resolved, FEWEST_DIGITS), MOST_DIGITS))


def _error(error: Any) -> str:
    return f"{float(error):.2g}" if error == 0 or 1e-3 <= abs(float(error)) < 1e4 else f"{float(error):.0e}"


def shown(value: Any) -> str:
    """Any field of a result in a few words: numbers as numbers, arrays as types and shapes, results as sentences.

    Args:
        value: the field.

    Returns:
        The text, at most 200 characters.
    """
    text = _shown(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _shown(value: Any) -> str:
    if hasattr(value, "headline"):
        return value.headline()
    if isinstance(value, Outcome):
        return f"{value.name}: {value.value}"
    if value is None or isinstance(value, str | bool):
        return str(value)
    if is_traced(value):
        return f"traced {value.dtype} ({shape(value.shape) or 'scalar'})"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        return number(value)
    if isinstance(value, jax.Array | np.ndarray):
        if getattr(value.dtype, "kind", "") not in tuple("fiub"):
            return f"{value.dtype} ({shape(value.shape) or 'scalar'})"
        if value.size <= FEW:
            return _entries(np.asarray(value), np.zeros(np.shape(value)))
        return f"{value.dtype} array ({shape(value.shape)})"
    if isinstance(value, Mapping):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(_shown, value)) + ")" if len(value) <= FEW else f"{len(value)} of them"
    if dataclasses.is_dataclass(value) or callable(value):
        return type(value).__name__
    return str(value)
