"""Domains of arguments: what each public callable accepts, and the one sentence that it says to anything else.

A domain is a set of values with a test. `Domain.accept(argument, value, sizes)` returns the value in the form that
the library computes with, or raises `UsageError: argument: got X, expected Y`. `flatmin._core.checked` declares them
for a callable. Rules that hold everywhere:

- A number is a Python or NumPy number or an array of rank 0; `True`, text, dates and complex numbers are no numbers. An
  integer is what Python can index with: `3`, `np.int64(3)`, not `3.0`.
- An array is an array or nested lists of numbers; `True` in it counts as one. Other byte orders are converted; masked
  arrays, sparse arrays, ragged lists, generators, sets and mappings are refused, since nothing of them may be lost.
- Of traced values the type and the shape are checked, not the numbers.
- Names of axes bind: two arrays of one call that both have an axis `m` must agree, as must those that a measurement
  operator given before them names (`named_sizes`).
"""

import abc
import difflib
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flatmin._core.errors import UsageError, nearest
from flatmin._core.values import SHOWN, UNREADABLE, article, described, kind_of, scalar

Sizes = dict[str, tuple[int, str]]
"""Axes that earlier arguments fixed: their lengths, and the argument that fixed each."""

LARGEST = 2**31 - 1
"""Counts and sizes end here: the index type of XLA's host programmes."""


class Domain(abc.ABC):
    """A set of values that an argument may have."""

    @abc.abstractmethod
    def expected(self) -> str:
        """The set in words, for `expected ...`."""

    @abc.abstractmethod
    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The value in the library's form.

        Args:
            argument: its name, for the sentence.
            value: what was given.
            sizes: axes fixed by earlier arguments; new ones are added.

        Returns:
            The value, converted where its form differs.

        Raises:
            UsageError: in one sentence, when the value is outside.
        """

    def refuse(self, argument: str, value: Any, why: str = "") -> UsageError:
        """The sentence for a value outside."""
        return UsageError(f"{argument}: got {described(value)}{why}, expected {self.expected()}")


class Integer(Domain):
    """A whole number, known before tracing, between two ends; returned as a Python integer."""

    def __init__(self, least: int | None = None, most: int | None = LARGEST) -> None:
        self.least, self.most = least, most

    def expected(self) -> str:
        """`an integer >= 1`."""
        least = "" if self.least is None else f" >= {self.least}"
        return f"an integer{least}" + ("" if self.most in (None, LARGEST) else f", at most {self.most}")

    def accept(self, argument: str, value: Any, sizes: Sizes) -> int:
        """A Python integer."""
        number = scalar(value)
        if isinstance(number, Tracer):
            raise self.refuse(argument, value, ", known only when the programme runs")
        if not isinstance(number, int) or (self.least is not None and number < self.least):
            raise self.refuse(argument, value)
        if self.most is not None and number > self.most:
            raise UsageError(f"{argument}: got {described(number)}, expected an integer <= {self.most}")
        return number


class Real(Domain):
    """A real number in an interval; traced numbers pass. Returned as a Python float, arrays of rank 0 as arrays."""

    def __init__(
        self,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        above: bool = False,
        below: bool = False,
        infinite: bool = False,
        undefined: bool = False,
    ) -> None:
        self.low, self.high, self.above, self.below = low, high, above, below
        self.infinite, self.undefined = infinite, undefined

    def expected(self) -> str:
        """`a finite number > 0`."""
        start = "a number" if self.infinite else "a finite number"
        ends = []
        if self.low > -math.inf:
            ends.append(f"{'>' if self.above else '>='} {self.low:g}")
        if self.high < math.inf:
            ends.append(f"{'<' if self.below else '<='} {self.high:g}")
        return " ".join([start, " and ".join(ends)]).strip() + ", NaN for undefined" * self.undefined

    def contains(self, number: float) -> bool:
        """Whether a Python number lies inside."""
        try:
            number = float(number)
        except OverflowError:
            return False
        if math.isnan(number):
            return self.undefined
        if math.isinf(number) and not self.infinite:
            return False
        return (number > self.low if self.above else number >= self.low) and (
            number < self.high if self.below else number <= self.high
        )

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The number."""
        number = scalar(value)
        if isinstance(number, Tracer):
            return value
        if number is None or not self.contains(number):
            raise self.refuse(argument, value)
        return value if isinstance(value, jax.Array) else float(number)


class Instance(Domain):
    """An object of the given classes; one with `named_sizes()` fixes axes for the arguments after it."""

    def __init__(self, *classes: type, what: str | None = None) -> None:
        self.classes, self.what = classes, what

    def expected(self) -> str:
        """`a RecoveryProblem`."""
        names = [c.__name__.removeprefix("Abstract") for c in self.classes]
        return self.what or " or ".join(f"{article(name)} {name}" for name in names)

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The object."""
        if not isinstance(value, self.classes):
            raise self.refuse(argument, value)
        named: Callable[[], dict[str, int]] | None = getattr(value, "named_sizes", None)
        if named is not None:
            for name, size in named().items():
                sizes.setdefault(name, (size, argument))
        return value


class Foreign(Domain):
    """An object of another package's class, which is not imported to look: one that exists has its class imported."""

    def __init__(self, name: str) -> None:
        self.package, _, self.name = name.partition(".")

    def expected(self) -> str:
        """`an xarray.Dataset`."""
        return f"{article(self.package)} {self.package}.{self.name}"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The object."""
        classes = ((c.__module__.partition(".")[0], c.__qualname__) for c in type(value).__mro__)
        if (self.package, self.name) not in classes:
            raise self.refuse(argument, value)
        return value


class Function(Domain):
    """Something that can be called; classes are not meant."""

    def expected(self) -> str:
        """The set in words."""
        return "a function"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The function."""
        if not callable(value) or isinstance(value, type):
            raise self.refuse(argument, value)
        return value


class Choice(Domain):
    """One of a few names."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def expected(self) -> str:
        """`one of exact, least-squares`."""
        return "one of " + ", ".join(map(str, self.options))

    def accept(self, argument: str, value: Any, sizes: Sizes) -> str:
        """The name."""
        if not isinstance(value, str):
            raise self.refuse(argument, value)
        if value not in self.options:
            shown = value if len(value) <= SHOWN else value[:SHOWN] + "..."
            raise UsageError(f"{argument}: {shown!r} is not known; {nearest(value[:SHOWN], self.options)}")
        return value


class Flag(Domain):
    """True or False; 0 and 1 are numbers."""

    def expected(self) -> str:
        """The set in words."""
        return "True or False"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> bool:
        """A Python boolean."""
        if not isinstance(value, bool | np.bool_):
            raise self.refuse(argument, value)
        return bool(value)


class Text(Domain):
    """Text; not empty where `least` is one."""

    def __init__(self, least: int = 0) -> None:
        self.least = least

    def expected(self) -> str:
        """`a text`."""
        return "a text that is not empty" if self.least else "a text"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> str:
        """The text."""
        if not isinstance(value, str) or len(value) < self.least:
            raise self.refuse(argument, value)
        return value


class Path(Domain):
    """A path of the file system, as text or `pathlib.Path`; returned as the latter."""

    def expected(self) -> str:
        """The set in words."""
        return "a path"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> pathlib.Path:
        """The path."""
        if not isinstance(value, str | pathlib.PurePath) or "\0" in str(value) or not str(value):
            raise self.refuse(argument, value)
        if any(len(os.fsencode(part)) > 255 for part in pathlib.PurePath(value).parts):
            raise UsageError(f"{argument}: got a name of more than 255 bytes, expected {self.expected()}")
        return pathlib.Path(value)


class FloatType(Domain):
    """A real floating point type, by NumPy's or JAX's name."""

    def expected(self) -> str:
        """The set in words."""
        return "a floating point type such as float32 or float64"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The type."""
        try:
            found = jnp.dtype(value) if isinstance(value, str | type | np.dtype) else None
        except UNREADABLE:
            found = None
        if found is None or kind_of(found) != "f" or found.itemsize > 8 or not found.isnative:
            raise self.refuse(argument, value)
        return value


class Optional(Domain):
    """None, or a value of another domain."""

    def __init__(self, inner: Domain) -> None:
        self.inner = inner

    def expected(self) -> str:
        """`None or ...`."""
        return f"{self.inner.expected()}, or None"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """None or the value."""
        return None if value is None else self.inner.accept(argument, value, sizes)


class SequenceOf(Domain):
    """A list or tuple (or array of rank 1) of values of one domain; returned as a tuple."""

    def __init__(self, inner: Domain, count: int | None = None, least: int = 0, names: Sequence[str] = ()) -> None:
        self.inner, self.count, self.least, self.names = inner, count, least, names

    def expected(self) -> str:
        """`a tuple of 2, each an integer >= 1`."""
        number = f" of {self.count}" if self.count is not None else f" of at least {self.least}" if self.least else ""
        return f"a tuple or list{number}, each {self.inner.expected()}"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """A tuple."""
        if isinstance(value, np.ndarray | jax.Array) and value.ndim == 1 and not isinstance(value, np.ma.MaskedArray):
            items: Sequence[Any] = tuple(value)
        elif isinstance(value, list | tuple | range):
            items = value
        else:
            raise self.refuse(argument, value)
        if (self.count is not None and len(items) != self.count) or len(items) < self.least:
            raise self.refuse(argument, value)
        accepted = tuple(self.inner.accept(argument, item, sizes) for item in items)
        for name, size in zip(self.names, accepted, strict=False):
            sizes.setdefault(name, (size, argument))
        return accepted


class Mapped(Domain):
    """A mapping from texts to values of one domain."""

    def __init__(self, inner: Domain) -> None:
        self.inner = inner

    def expected(self) -> str:
        """`a mapping from names to ...`."""
        return f"a mapping from names to values, each {self.inner.expected()}"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The mapping, its values in the library's form."""
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise self.refuse(argument, value)
        return {name: self.inner.accept(f"{argument}[{name!r}]", item, sizes) for name, item in value.items()}


class AnyOf(Domain):
    """A value of the first of several domains that accepts it."""

    def __init__(self, *domains: Domain) -> None:
        self.domains = domains

    def expected(self) -> str:
        """`... or ...`."""
        return " or ".join(domain.expected() for domain in self.domains)

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The value, as the first domain returns it."""
        names = [domain for domain in self.domains if isinstance(domain, Choice)]
        if isinstance(value, str) and names:
            options = [option for name in names for option in name.options]
            if value in options:
                return value
            close = difflib.get_close_matches(value[:SHOWN], options, n=1, cutoff=0.5)
            raise UsageError(f"{self.refuse(argument, value)}" + (f"; did you mean {close[0]!r}?" if close else ""))
        for domain in self.domains:
            try:
                return domain.accept(argument, value, sizes)
            except UsageError:
                continue
        if isinstance(value, list | tuple):  # a sequence knows which of its items is wrong
            for domain in self.domains:
                if isinstance(domain, SequenceOf):
                    domain.accept(argument, value, sizes)
        raise self.refuse(argument, value)


class Free(Domain):
    """Anything; for arguments that are handed on, or that their own callable checks: say which."""

    def __init__(self, why: str) -> None:
        self.why = why

    def expected(self) -> str:
        """`anything`."""
        return "anything"

    def accept(self, argument: str, value: Any, sizes: Sizes) -> Any:
        """The value."""
        return value
