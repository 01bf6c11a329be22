"""`.npz` files: matrices or rank-one factors of the measurements, and what was measured."""

import pathlib
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np
from numpy.lib.npyio import NpzFile

from flatmin._core import UsageError, nearest
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
    arrays = _arrays(path)
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
    numbers = {name: real_numbers(f"{path.name}, {name}", array) for name, array in arrays.items()}
    measurements = _measurements(path.name, forms[0], numbers)
    _expect(path.name, "b", numbers["b"], (measurements.num_measurements,))
    if "truth" in numbers:
        _expect(path.name, "truth", numbers["truth"], measurements.matrix_shape)
    return RecoveryData(path.stem, measurements, numbers["b"], numbers.get("truth"))


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            loaded = {name: archive[name] for name in archive.files} if isinstance(archive, NpzFile) else None
    except ValueError as error:
        if "pickle" in str(error) and zipfile.is_zipfile(path):
            raise UsageError(
                f"{path.name}: got pickled objects, which could run code and are never loaded; store plain numbers"
            ) from error
        raise UsageError(f"{path.name}: cannot be read as an .npz archive ({error}); write it again") from error
    except MemoryError as error:
        raise UsageError(f"{path.name}: declares arrays that do not fit into memory; use fewer measurements") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise UsageError(
            f"{path.name}: cannot be read as an .npz archive ({type(error).__name__}: {error}); it is truncated or of "
            "another type, write it again"
        ) from error
    if loaded is None:
        raise UsageError(f"{path.name}: got a single array, expected an .npz archive; write it with numpy.savez")
    return loaded


def _measurements(name: str, form: tuple[str, ...], numbers: dict[str, np.ndarray]) -> AbstractMeasurements:
    if form == ("A",):
        _expect(name, "A", numbers["A"], ("m", "d1", "d2"))
        measurements: AbstractMeasurements = dense(jnp.asarray(numbers["A"]))
    elif form == ("x",):
        _expect(name, "x", numbers["x"], ("m", "d"))
        measurements = symmetric_rank_one(jnp.asarray(numbers["x"]))
    else:
        _expect(name, "left", numbers["left"], ("m", "d1"))
        _expect(name, "right", numbers["right"], (numbers["left"].shape[0], "d2"))
        measurements = rank_one(jnp.asarray(numbers["left"]), jnp.asarray(numbers["right"]))
    if not any(numbers[key].any() for key in form):
        raise UsageError(f"{name}: all measurements are zero, expected at least one that sees something")
    return measurements


def _expect(name: str, argument: str, array: np.ndarray, expected: tuple[int | str, ...]) -> None:
    fits = array.ndim == len(expected) and all(
        isinstance(e, str) or e == s for e, s in zip(expected, array.shape, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "") + ")"
        raise UsageError(f"{name}, {argument}: got shape {array.shape}, expected {wanted}")
