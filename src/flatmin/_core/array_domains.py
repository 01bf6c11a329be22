"""Domains of arrays: real numbers, positions, random keys and trees of parameters; see `domains.py`."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flatmin._core.domains import LARGEST, Domain, Real, Sizes
from flatmin._core.errors import UsageError
from flatmin._core.values import UNREADABLE, kind_of, scalar


class RealArray(Domain):
    """Real numbers of a given shape.

    Args:
        axes: one entry an axis: a number, a name that binds, or `_` (`_n`: named in sentences) for any length; None
            for any shape; a leading `...` for any axes before the others.
        low: smallest entry.
        above: whether `low` itself is left out.
        high: largest entry.
        finite: whether NaN and infinities are refused.
        host: whether NumPy arrays are wanted, not JAX's.
        symmetric: whether the matrix must equal its transpose, to rounding.
        semidefinite: whether the symmetric matrix must have no negative eigenvalue, to rounding.
        definite: whether all its eigenvalues must be positive, beyond rounding.
        nonempty: whether at least one entry is needed.
        kept: whether integers and booleans stay what they are.
    """

    def __init__(
        self,
        axes: str | None = None,
        *,
        low: float = -math.inf,
        above: bool = False,
        high: float = math.inf,
        finite: bool = True,
        host: bool = False,
        symmetric: bool = False,
        semidefinite: bool = False,
        definite: bool = False,
        nonempty: bool = False,
        kept: bool = False,
    ) -> None:
        self.axes = None if axes is None else tuple(axes.split())
        self.low, self.above, self.high, self.finite, self.host = low, above, high, finite, host
        self.semidefinite, self.definite = semidefinite or definite, definite
        self.symmetric = symmetric or self.semidefinite
        self.nonempty, self.kept = nonempty, kept

    def expected(self) -> str:
        """`a symmetric array of finite real numbers of shape (d1, d1)`."""
        quality = (
            "positive definite "
            if self.definite
            else "positive semidefinite "
            if self.semidefinite
            else "symmetric "
            if self.symmetric
            else ""
        )
        numbers = "finite real numbers" if self.finite else "real numbers"
        if self.low > -math.inf:
            numbers += f" {'>' if self.above else '>='} {self.low:g}"
        if self.high < math.inf:
            numbers += f" <= {self.high:g}"
        if self.axes == ():
            return f"one of the {numbers}".replace("one of the finite real numbers", "a finite real number")
        article = "a " if quality else "an "
        return f"{article}{quality}array of {numbers}{shape_words(self.axes)}"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """A floating point array: single precision is kept, half precision widened, since linear algebra has none."""
        array = as_array(self, argument, value)
        kind = kind_of(array.dtype)
        if kind not in "fib" or (kind == "b" and array.ndim == 0):
            raise self.refuse(argument, value)
        _check_shape(self, argument, value, array, self.axes, sizes)
        if self.nonempty and array.size == 0:
            raise self.refuse(argument, value, ", which is empty")
        array = _native(np.asarray(array)) if self.kept else _floating(array, self.host)
        if kind_of(array.dtype) == "f" and array.dtype.itemsize < 4:
            array = array.astype(np.float32)
        looked_at = self.finite or self.low > -math.inf or self.high < math.inf or self.symmetric
        if looked_at and not isinstance(array, Tracer):
            self._check_values(argument, np.asarray(array))
        return array

    def _check_values(self, argument: str, values: np.ndarray) -> None:
        finite = np.isfinite(values)
        if self.finite and not finite.all():
            bad = ~finite
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            at = f", the first at index {where}" if where else ""
            raise UsageError(
                f"{argument}: got {int(bad.sum())} value(s) that are NaN or infinite{at}, expected {self.expected()}; "
                "remove or mask them"
            )
        low = (values <= self.low if self.above else values < self.low).any()
        if low or (values > self.high).any():
            worst = values.min() if low else values.max()
            raise UsageError(
                f"{argument}: got {'an entry ' if values.ndim else ''}{worst:.6g}, expected {self.expected()}"
            )
        if self.symmetric:
            self._check_symmetric(argument, values)

    def _check_symmetric(self, argument: str, values: np.ndarray) -> None:
        eps = float(np.finfo(values.dtype).eps)
        size = float(np.abs(values).max(initial=0.0))
        # computed matrices are symmetric to the tolerance of what computed them; half of the digits is not chance
        allowed = eps**0.5 * size
        gap = float(np.abs(values - values.T).max(initial=0.0))
        if gap > allowed:
            raise UsageError(
                f"{argument}: got a matrix that differs from its transpose by {gap:.3g}, expected {self.expected()}; "
                "pass (A + A.T) / 2"
            )
        if self.semidefinite and values.size:
            least = float(np.linalg.eigvalsh(values)[0])
            if least < -allowed or (self.definite and least <= len(values) * eps * size):
                raise UsageError(f"{argument}: got an eigenvalue {least:.3g}, expected {self.expected()}")


class Numbers(Domain):
    """A number of an interval, or an array of such numbers of any shape, for functions that work entry by entry."""

    def __init__(self, one: Real) -> None:
        self.one = one

    def expected(self) -> str:
        """`a finite number >= 0, or an array of such`."""
        return f"{self.one.expected()}, or an array of such"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The number or the array."""
        number = scalar(value)
        if isinstance(number, int | float):
            if not self.one.contains(number):
                raise self.refuse(argument, value)
            return value if isinstance(value, jax.Array) else float(number)
        array = as_array(self, argument, value)
        if kind_of(array.dtype) not in "fi":
            raise self.refuse(argument, value)
        array = _floating(array, host=False)
        if not isinstance(array, Tracer):
            for entry in np.asarray(array, dtype=float).ravel():
                if not self.one.contains(entry):
                    raise UsageError(f"{argument}: got an entry {entry:.6g}, expected {self.expected()}")
        return array


class Indices(Domain):
    """Whole numbers of a given shape: the form of `RealArray`, for positions."""

    def __init__(
        self, axes: str | None = "_", *, least: int | None = 0, below: str | None = None, host: bool = False
    ) -> None:
        self.axes = None if axes is None else tuple(axes.split())
        self.least, self.below, self.host = least, below, host

    def expected(self) -> str:
        """`an array of integers >= 0 of shape (m)`."""
        least = "" if self.least is None else f" >= {self.least}"
        return f"an array of integers{least}{shape_words(self.axes)}"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """An integer array."""
        array = as_array(self, argument, value)
        if isinstance(value, list | tuple) and array.size == 0:
            array = array.astype(int)
        if kind_of(array.dtype) != "i":
            raise self.refuse(argument, value)
        _check_shape(self, argument, value, array, self.axes, sizes)
        if isinstance(array, Tracer):
            return array
        values = np.asarray(array)
        most = sizes[self.below][0] - 1 if self.below in sizes else LARGEST
        least = self.least if self.least is not None else -LARGEST
        if values.size and (int(values.min()) < least or int(values.max()) > most):
            bad = int(values.min()) if int(values.min()) < least else int(values.max())
            limit = f", each at most {most}" if bad > most else ""
            raise UsageError(f"{argument}: got {bad}, expected {self.expected()}{limit}")
        if jnp.issubdtype(array.dtype, jnp.unsignedinteger):  # a step below zero has to stay below zero
            array = array.astype(int)
        return array if self.host or isinstance(array, jax.Array) else jnp.asarray(_native(array))


class Key(Domain):
    """A typed random key of JAX, or an array of them."""

    def __init__(self, axes: str = "") -> None:
        self.axes = tuple(axes.split())

    def expected(self) -> str:
        """`a random key such as jax.random.key(0)`."""
        return f"random keys{shape_words(self.axes)}" if self.axes else "a random key such as jax.random.key(0)"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The key."""
        if not isinstance(value, jax.Array) or kind_of(value.dtype) != "k":
            raise self.refuse(argument, value)
        _check_shape(self, argument, value, value, self.axes, sizes)
        return value


class Parameters(Domain):
    """A tree of real floating arrays: what a loss is a function of. Python numbers become arrays."""

    def expected(self) -> str:
        """The set in words."""
        return "a tree (array, tuple, list or dict) of real floating point arrays"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The tree, each leaf an array."""
        try:
            leaves, structure = jax.tree.flatten(value)
        except UNREADABLE as error:
            raise self.refuse(argument, value) from error
        if not leaves:
            raise self.refuse(argument, value, ", without any array")
        return jax.tree.unflatten(structure, [self._leaf(argument, leaf) for leaf in leaves])

    def _leaf(self, argument: str, leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and kind_of(leaf.dtype) == "f":
            return leaf
        if not isinstance(scalar(leaf), float | Tracer) and not isinstance(leaf, np.ndarray):
            raise self.refuse(argument, leaf, " in the tree")
        array = as_array(self, argument, leaf)
        if kind_of(array.dtype) != "f":
            raise self.refuse(argument, leaf, " in the tree")
        return _floating(array, host=False)


class Data(Domain):
    """A tree of arrays of numbers of any kind, as a loss takes them as its second argument."""

    def expected(self) -> str:
        """The set in words."""
        return "a tree (array, tuple, list or dict) of arrays of numbers"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The tree, each leaf an array of JAX."""
        try:
            leaves, structure = jax.tree.flatten(value)
        except UNREADABLE as error:
            raise self.refuse(argument, value) from error
        if not leaves:
            raise self.refuse(argument, value, ", without any array")
        return jax.tree.unflatten(structure, [self._leaf(argument, leaf) for leaf in leaves])

    def _leaf(self, argument: str, leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return leaf
        array = as_array(self, argument, leaf)
        if kind_of(array.dtype) not in "fibc":
            raise self.refuse(argument, leaf, " in the tree")
        return jnp.asarray(_native(array))


def shape_words(axes: tuple[str, ...] | None) -> str:
    """` of shape (m, d1)`; empty for any shape."""
    if axes is None or axes == ("...",):
        return ""
    return " of shape (" + ", ".join(map(_axis_word, axes)) + ("," if len(axes) == 1 else "") + ")"


def _axis_word(name: str) -> str:
    return name.lstrip("_") or name


def _masked(value: Any, depth: int = 0) -> bool:
    """Whether a masked array is among nested lists, where NumPy would drop its mask."""
    if isinstance(value, np.ma.MaskedArray):
        return True
    return isinstance(value, list | tuple) and depth < 3 and any(_masked(v, depth + 1) for v in value)


def as_array(domain: Domain, argument: str, value: Any) -> Any:
    """A NumPy or JAX array for anything that is one or is nested lists of numbers.

    Args:
        domain: for the sentence.
        argument: for the sentence.
        value: what was given.

    Returns:
        The array, in whatever type it has.

    Raises:
        UsageError: for everything else.
    """
    if isinstance(value, jax.Array):
        return value
    if value is None or isinstance(value, str | bytes | bytearray | Mapping | set | frozenset) or _masked(value):
        raise domain.refuse(argument, value)
    numeric = scalar(value) is not None or isinstance(value, list | tuple | range | complex | bool | np.generic)
    if not numeric and not hasattr(value, "__array__"):
        raise domain.refuse(argument, value)
    try:
        if isinstance(value, list | tuple) and any(isinstance(v, Tracer) for v in jax.tree.leaves(value)):
            return jnp.asarray(value)
        return np.asarray(value)
    except UNREADABLE as error:
        raise domain.refuse(argument, value, ", which is no array of numbers") from error


def _native(array: np.ndarray) -> np.ndarray:
    """The same numbers in this machine's byte order, and in no more than double precision."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _floating(array: Any, host: bool) -> Any:
    if not isinstance(array, jax.Array):
        array = _native(array)
        if host:
            return array if kind_of(array.dtype) == "f" else array.astype(np.float64)
        array = jnp.asarray(array)
    if host:
        return np.asarray(array, dtype=None if kind_of(array.dtype) == "f" else np.float64)
    return array if kind_of(array.dtype) == "f" else array.astype(jnp.result_type(float))


def _check_shape(
    domain: Domain, argument: str, value: Any, array: Any, axes: tuple[str, ...] | None, sizes: Sizes
) -> None:
    shape = tuple(array.shape)
    if axes is None:
        return
    names = axes
    if "..." in axes:
        at = axes.index("...")
        names = (*axes[:at], *("_",) * (len(shape) - len(axes) + 1), *axes[at + 1 :])
    fits, origins, wanted = len(shape) == len(names), set(), []
    if not fits and not shape:
        raise domain.refuse(argument, value)
    for at, name in enumerate(names if fits else axes):
        size = shape[at] if fits else None
        known, origin = (int(name), argument) if name.isdigit() else sizes.get(name, (size, argument))
        if fits and name.isidentifier() and not name.startswith("_"):
            sizes.setdefault(name, (shape[at], argument))
        if known is not None and known != size and not name.startswith("_"):
            fits = False
            if origin != argument:
                origins.add(f"`{origin}` has {name} = {known}")
        wanted.append(_axis_word(name) if known is None or (known == size and origin == argument) else str(known))
    if not fits:
        because = ", as " + " and ".join(sorted(origins)) if origins else ""
        raise UsageError(
            f"{argument}: got shape {shape}, expected ({', '.join(wanted)}{',' * (len(wanted) == 1)}){because}"
        )
