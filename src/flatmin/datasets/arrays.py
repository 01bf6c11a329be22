"""`.npz` files: matrices or rank-one factors of the measurements, and what was measured."""

import math
import pathlib
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from flatmin._core import UsageError, nearest
from flatmin.datasets.limits import check_room
from flatmin.datasets.npy import array_shapes, read_arrays
from flatmin.datasets.recovery_data import RecoveryData, real_numbers
from flatmin.measurements import AbstractMeasurements, dense, rank_one, symmetric_rank_one

KNOWN = ("A", "left", "right", "x", "b", "truth")


def read_npz(path: pathlib.Path) -> RecoveryData:
    """Read measurements from an `.npz` file.

    Args:
        path: a file with `b` (m,) and one of: `A` (m, d1, d2); `left` (m, d1) and `right` (m, d2), for
            `A_i = left_i right_i^T`; `x` (m, d), for `A_i = x_i x_i^T`. Optionally `truth` (d1, d2).

    Returns:
        The data.

    Raises:
        UsageError: for a file that is no such archive, pickled objects, missing or extra names, shapes that do not
            fit, or values that are not finite real numbers.
    """
    form = check_npz(path)
    loaded = read_arrays(path)
    numbers = {name: real_numbers(f"{path.name}, {name}", array) for name, array in loaded.items()}
    measurements = _measurements(path.name, form, numbers)
    return RecoveryData(path.stem, measurements, numbers["b"], numbers.get("truth"))


def check_npz(path: pathlib.Path) -> tuple[str, ...]:
    """The form of the measurements by the headers alone, before a value is read.

    Args:
        path: the file.

    Returns:
        Names of the arrays that describe the measurements; `sparse` alone for a sparse matrix of SciPy, `matrix` alone
        for an archive of one matrix.

    Raises:
        UsageError: for missing or extra names, shapes that do not fit, and more numbers than `limits.room` allows.
    """
    arrays = array_shapes(path)
    if {"format", "shape", "data"} <= set(arrays):
        check_room(path.name, 8 * sum(math.prod(shape) for shape in arrays.values()), "take a part of the matrix")
        return ("sparse",)
    if len(arrays) == 1 and not set(arrays) & set(KNOWN) and all(len(shape) == 2 for shape in arrays.values()):
        check_room(path.name, 8 * math.prod(*arrays.values()), "take a part of the matrix")
        return ("matrix",)
    unknown = sorted(set(arrays) - set(KNOWN))
    if unknown:
        raise UsageError(f"{path.name}: got an array named {unknown[0]!r}; {nearest(unknown[0], KNOWN)}")
    forms = [form for form in (("A",), ("left", "right"), ("x",)) if any(name in arrays for name in form)]
    if len(forms) != 1:
        got = ", ".join(sorted(arrays)) or "nothing"
        raise UsageError(f"{path.name}: got {got}, expected b and exactly one of A, left with right, or x")
    for name in (*forms[0], "b"):
        if name not in arrays:
            raise UsageError(f"{path.name}: got {', '.join(sorted(arrays))}, expected {name} too; add the array {name}")
    _check_shapes(path.name, forms[0], arrays)
    total = 8 * sum(math.prod(shape) for shape in arrays.values())
    check_room(path.name, total, "give fewer measurements, or rank-one factors left and right")
    return forms[0]


def _check_shapes(name: str, form: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Shapes as the headers declare them, before a value is read."""
    wanted: dict[str, tuple[int | str, ...]] = {"A": ("m", "d1", "d2"), "x": ("m", "d"), "left": ("m", "d1")}
    _expect(name, form[0], shapes[form[0]], wanted[form[0]])
    count, *sides = shapes[form[0]]
    if form == ("left", "right"):
        _expect(name, "right", shapes["right"], (count, "d2"))
        sides.append(shapes["right"][1])
    _expect(name, "b", shapes["b"], (count,))
    if "truth" in shapes:
        _expect(name, "truth", shapes["truth"], (sides[0], sides[-1]))


def _measurements(name: str, form: tuple[str, ...], numbers: Mapping[str, np.ndarray]) -> AbstractMeasurements:
    if not any(numbers[key].any() for key in form):
        raise UsageError(f"{name}: all measurements are zero, expected at least one that sees something")
    if form == ("A",):
        return dense(jnp.asarray(numbers["A"]))
    if form == ("x",):
        return symmetric_rank_one(jnp.asarray(numbers["x"]))
    return rank_one(jnp.asarray(numbers["left"]), jnp.asarray(numbers["right"]))


def _expect(name: str, argument: str, shape: tuple[int, ...], expected: tuple[int | str, ...]) -> None:
    fits = len(shape) == len(expected) and all(
        isinstance(e, str) or e == s for e, s in zip(expected, shape, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "") + ")"
        raise UsageError(f"{name}, {argument}: got shape {shape}, expected {wanted}")
