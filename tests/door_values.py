"""What the generated test of all public callables puts in place of a right value, and a plain twin of the domains.

`inside` is written apart from `flatmin._core.domains`: it says of a value whether it belongs to a domain, with Python's
own words, and None where that depends on the other arguments.
"""

import array
import collections
import datetime as dt
import decimal
import fractions
import functools
import math
import numbers
import os
import pathlib
import queue
import types
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse as sp

from flatmin import _core as core
from flatmin import measurements, parameterizations, problems, solvers
from flatmin._core import array_domains, domains
from flatmin.dynamics import AbstractSchedule
from flatmin.dynamics._params import Start
from flatmin.dynamics.schedule import Setting
from flatmin.flatness.target import LossOrProblem

LARGEST = 2**31 - 1
NUMERIC = "biuf"


ENDLESS = ("recursive", "very deep list")
"""Values that no tree of JAX can be made of."""


class Pretender:
    """Calls itself an array and is none."""

    shape, ndim, dtype, size = (2, 2), 2, np.dtype(float), 4

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("no array after all")


class Liar(int):
    """An integer that compares as nothing does."""

    def __lt__(self, other: object) -> bool:
        raise RuntimeError("cannot be compared")


class Broken:
    """Raises from whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def _endless() -> Any:
    value = 0
    while True:
        yield value


def _recursive() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


def _deep(levels: int) -> list[Any]:
    value: list[Any] = [1.0]
    for _ in range(levels):
        value = [value]
    return value


def _masked(values: Any) -> np.ndarray:
    return np.ma.masked_equal(np.asarray(values, float), 1.0)


def _key() -> jax.Array:
    return jax.random.key(7)


def _op(m: int = 5, shape: tuple[int, int] = (2, 5)) -> measurements.AbstractMeasurements:
    return measurements.gaussian(_key(), m, shape)


@functools.cache
def _problem() -> problems.RecoveryProblem:
    return problems.matrix_sensing(_key(), (2, 5), 1, 7).problem


def _numbers() -> dict[str, Callable[[], Any]]:
    plain: list[Any] = [
        *(
            0,
            1,
            2,
            3,
            7,
            -1,
            -2,
            -7,
            10**9,
            -(10**9),
            2**31,
            2**32,
            2**53 + 1,
            2**63,
            -(2**63),
            2**64,
            10**30,
            -(10**30),
        ),
        *(0.0, -0.0, 0.5, 1.0, 1.5, 2.5, 3.0, -0.5, -1.0, -2.5, 1e-30, 1e30, -1e30, 5e-324, 1e308, -1e308),
        *(math.nan, math.inf, -math.inf, -math.nan),
        *(1j, 1 + 0j, complex(math.nan, 0), 0j, True, False, None, Ellipsis, NotImplemented),
    ]
    return {repr(value): lambda value=value: value for value in plain} | {
        "10**400": lambda: 10**400,
        "-(10**400)": lambda: -(10**400),
        "Liar(3)": lambda: Liar(3),
        "Decimal": lambda: decimal.Decimal("0.5"),
        "Decimal nan": lambda: decimal.Decimal("nan"),
        "Fraction": lambda: fractions.Fraction(1, 3),
        "numbers.Number": lambda: numbers.Number,
    }


def _texts() -> dict[str, Callable[[], Any]]:
    plain: list[Any] = [
        *("", " ", "abc", "1", "0.5", "-1", "nan", "inf", "None", "true", "1e3", "٣", "½", "a" * 5000, "a\nb", "a\0b"),
        *(
            "\ud800",
            "<script>",
            "../../x",
            "exact",
            "Exact",
            "auto",
            "float32",
            "complex64",
            "int8",
            "none",
            "%s%n",
            "{0}",
        ),
        *(b"", b"abc", b"\xff\xfe", b"1"),
    ]
    return {f"{value!r:.40}": lambda value=value: value for value in plain} | {
        "bytearray": lambda: bytearray(b"12"),
        "memoryview": lambda: memoryview(b"1234"),
    }


def _times() -> dict[str, Callable[[], Any]]:
    return {
        "date": lambda: dt.date(2024, 1, 1),
        "datetime": lambda: dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "time": lambda: dt.time(1),
        "timedelta": lambda: dt.timedelta(1),
        "datetime64": lambda: np.datetime64("2024-01-01"),
        "NaT": lambda: np.datetime64("NaT"),
        "timedelta64": lambda: np.timedelta64(3, "s"),
        "datetime64[2]": lambda: np.array(["2024-01-01", "2025-01-01"], dtype="datetime64[D]"),
        "timedelta64[2,2]": lambda: np.ones((2, 2), "timedelta64[s]"),
        "pandas.Timestamp": lambda: pd.Timestamp("2024-01-01"),
        "pandas.NA": lambda: pd.NA,
        "pandas.NaT": lambda: pd.NaT,
        "pandas.Interval": lambda: pd.Interval(0, 1),
    }


def _containers() -> dict[str, Callable[[], Any]]:
    return {
        "[]": list,
        "()": tuple,
        "{}": dict,
        "set()": set,
        "{1}": lambda: {1},
        "frozenset": lambda: frozenset({1.0}),
        "{'a': 1}": lambda: {"a": 1},
        "{0: 1}": lambda: {0: 1.0},
        "Counter": lambda: collections.Counter("abc"),
        "deque": lambda: collections.deque([1.0]),
        "OrderedDict": lambda: collections.OrderedDict(a=1.0),
        "ChainMap": lambda: collections.ChainMap({"a": 1}),
        "array.array": lambda: array.array("d", [1.0]),
        "queue": queue.Queue,
        "[1]": lambda: [1],
        "[1.0]": lambda: [1.0],
        "[0]": lambda: [0],
        "[-1, 2]": lambda: [-1, 2],
        "[1, 2, 3]": lambda: [1, 2, 3],
        "(4, 3, 2)": lambda: (4, 3, 2),
        "(4, 0)": lambda: (4, 0),
        "(4, -3)": lambda: (4, -3),
        "(4.0, 3.0)": lambda: (4.0, 3.0),
        "('4', '3')": lambda: ("4", "3"),
        "(None, None)": lambda: (None, None),
        "[True]": lambda: [True],
        "[nan]": lambda: [math.nan],
        "[inf, 1]": lambda: [math.inf, 1.0],
        "[1j]": lambda: [1j],
        "['a']": lambda: ["a"],
        "[b'a']": lambda: [b"a"],
        "[None]": lambda: [None],
        "[1, None]": lambda: [1, None],
        "[[]]": lambda: [[]],
        "[[1], [1, 2]]": lambda: [[1.0], [1.0, 2.0]],
        "[[1, 2], 3]": lambda: [[1.0, 2.0], 3.0],
        "[[[[1]]]]": lambda: [[[[1.0]]]],
        "deep list": lambda: _deep(80),
        "very deep list": lambda: _deep(3000),
        "recursive": _recursive,
        "[object]": lambda: [object()],
        "[{}]": lambda: [{}],
        "[10**400]": lambda: [10**400],
        "[masked]": lambda: [_masked([1.0, 2.0])],
        "[date]": lambda: [dt.date(2024, 1, 1)],
        "generator": lambda: (x for x in (1.0, 2.0)),
        "endless": _endless,
        "iterator": lambda: iter([1.0]),
        "map": lambda: map(float, "12"),
        "zip": lambda: zip([1], [2], strict=True),
        "range(0)": lambda: range(0),
        "range(3)": lambda: range(3),
        "range(10**5)": lambda: range(10**5),
        "slice": lambda: slice(None),
        "dict keys": {"a": 1}.keys,
    }


def _arrays() -> dict[str, Callable[[], Any]]:
    big = np.dtype(float).newbyteorder(">")
    return {
        "empty": lambda: np.zeros(0),
        "empty (0, 3)": lambda: np.zeros((0, 3)),
        "empty (3, 0)": lambda: np.zeros((3, 0)),
        "empty (0, 0, 0)": lambda: np.zeros((0, 0, 0)),
        "zeros (2,)": lambda: np.zeros(2),
        "zeros (2, 2)": lambda: np.zeros((2, 2)),
        "ones (2, 2)": lambda: np.ones((2, 2)),
        "ones (7,)": lambda: np.ones(7),
        "ones (1, 1)": lambda: np.ones((1, 1)),
        "ones (4, 3)": lambda: np.ones((4, 3)),
        "ones (3, 4)": lambda: np.ones((3, 4)),
        "ones (2, 3, 4)": lambda: np.ones((2, 3, 4)),
        "ones (1,) * 6": lambda: np.ones((1,) * 6),
        "-eye": lambda: -np.eye(4),
        "triangle": lambda: np.triu(np.ones((4, 4))),
        "int8": lambda: np.ones((4, 3), np.int8),
        "int64 negative": lambda: -np.ones(3, np.int64),
        "uint64": lambda: np.array([2**63], np.uint64),
        "bool": lambda: np.ones((2, 2), bool),
        "float16": lambda: np.ones((2, 2), np.float16),
        "longdouble": lambda: np.ones((2, 2), np.longdouble),
        "longdouble scalar": lambda: np.longdouble("1e4000"),
        "complex64": lambda: np.ones((2, 2), np.complex64),
        "complex128 0-d": lambda: np.array(1j),
        "big-endian complex": lambda: np.ones(3, ">c16"),
        "big-endian nan": lambda: np.array([math.nan], big),
        "text array": lambda: np.array(["a", "b"]),
        "text 0-d": lambda: np.array("abc"),
        "bytes array": lambda: np.array([b"a"]),
        "number texts": lambda: np.array(["1.0", "2.0"]),
        "object array": lambda: np.array([object(), None]),
        "object numbers": lambda: np.array([1.0, 2.0], object),
        "object 0-d": lambda: np.array(None),
        "structured": lambda: np.zeros(3, [("a", float), ("b", int)]),
        "record": lambda: np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
        "void": lambda: np.zeros(2, "V8"),
        "masked": lambda: _masked([1.0, 2.0]),
        "masked matrix": lambda: _masked(np.ones((4, 3))),
        "masked scalar": lambda: np.ma.masked,
        "masked, nothing masked": lambda: np.ma.masked_array([2.0, 3.0]),
        "nan (3,)": lambda: np.full(3, math.nan),
        "one nan (4, 3)": lambda: np.where(np.arange(12).reshape(4, 3) == 5, math.nan, 1.0),
        "one inf (4, 4)": lambda: np.where(np.eye(4) > 0, math.inf, 0.0),
        "-inf (2, 2)": lambda: np.full((2, 2), -math.inf),
        "jax complex": lambda: jnp.ones((2, 2), complex),
        "jax bool": lambda: jnp.ones((2, 2), bool),
        "jax nan": lambda: jnp.full((4, 3), jnp.nan),
        "jax nan scalar": lambda: jnp.asarray(jnp.nan),
        "jax int": lambda: jnp.arange(3),
        "jax negative": lambda: -jnp.ones(()),
        "jax bfloat16": lambda: jnp.ones((2, 2), jnp.bfloat16),
        "jax 0.5": lambda: jnp.asarray(0.5),
        "shape struct": lambda: jax.ShapeDtypeStruct((2, 2), jnp.float64),
        "np.bool": lambda: np.True_,
        "np.int64(-3)": lambda: np.int64(-3),
        "np.float64(nan)": lambda: np.float64(math.nan),
        "np.float16(inf)": lambda: np.float16(math.inf),
        "np.str": lambda: np.str_("abc"),
        "np.bytes": lambda: np.bytes_(b"abc"),
        "np.complex64": lambda: np.complex64(1 + 1j),
        "np.matrix": lambda: sp.eye_array(3).todense(),
        "sparse": lambda: sp.eye_array(3, format="csr"),
        "sparse coo": lambda: sp.coo_array((2, 2)),
        "sparse matrix": lambda: sp.csr_matrix((3, 3)),
        "DataFrame of text": lambda: pd.DataFrame({"a": ["x", "y"]}),
        "DataFrame with NA": lambda: pd.DataFrame({"a": [1.0, None], "b": [1.0, 2.0]}),
        "Series of dates": lambda: pd.Series(pd.date_range("2024-01-01", periods=2)),
        "Series of Int64 with NA": lambda: pd.Series([1, None], dtype="Int64"),
        "Categorical": lambda: pd.Categorical(["a", "b"]),
        "Index": lambda: pd.Index(["a"]),
        "random key array": lambda: jax.random.split(_key(), 3),
        "random key": _key,
        "old key": lambda: jax.random.PRNGKey(0),
        "Pretender": Pretender,
    }


def _objects() -> dict[str, Callable[[], Any]]:
    return {
        "object()": object,
        "object": lambda: object,
        "Broken": Broken,
        "lambda": lambda: lambda *_, **__: 1.0,
        "lambda of text": lambda: lambda *_, **__: "text",
        "raising function": lambda: math.sqrt,
        "print": lambda: print,
        "int": lambda: int,
        "float": lambda: float,
        "type": lambda: type,
        "property": lambda: property(len),
        "staticmethod": lambda: staticmethod(len),
        "partial": lambda: functools.partial(max, 1),
        "module": lambda: math,
        "SimpleNamespace": lambda: types.SimpleNamespace(shape=(2, 2)),
        "exception": lambda: ValueError("x"),
        "exception class": lambda: KeyError,
        "Path": lambda: pathlib.Path("no such folder") / "x.toml",
        "Path('.')": pathlib.Path,
        "/dev/null": lambda: pathlib.Path(os.devnull),
        "dtype": lambda: np.dtype(float),
        "dtype class": lambda: np.float32,
        "complex dtype": lambda: np.dtype(complex),
        "random state": lambda: np.random.RandomState(0),
        "generator of numbers": lambda: np.random.default_rng(0),
        "device": lambda: jax.devices()[0],
        "equinox module": lambda: eqx.nn.Lambda(len),
        "operator": _op,
        "operator class": lambda: measurements.DenseMeasurements,
        "parameterization": lambda: parameterizations.DeepMatrix((5, 3, 2)),
        "Hadamard": lambda: parameterizations.Hadamard((3, 1), 2),
        "scheme": lambda: parameterizations.Gaussian(0.5),
        "problem": _problem,
        "programme": lambda: solvers.MinNuclearNorm(_op(), jnp.ones(5)),
        "misfit": lambda: solvers.SquaredLoss(0.1),
        "outcome": lambda: core.Outcome.converged,
    }


VALUES: dict[str, Callable[[], Any]] = {
    **_numbers(),
    **_texts(),
    **_times(),
    **_containers(),
    **_arrays(),
    **_objects(),
}
"""Name -> maker: fresh for each call, since some are used up."""


def number(value: Any) -> int | float | None:
    """The real number that a value is."""
    if isinstance(value, bool | np.bool_ | np.ma.MaskedArray):
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array) and np.shape(value) == () and _kind(value) in "iuf":
        return value.item() if _kind(value) != "f" else float(value)
    return None


def _kind(value: Any) -> str:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return "k"
    return "f" if jnp.issubdtype(value.dtype, jnp.floating) else np.dtype(value.dtype).kind


def real_array(value: Any) -> np.ndarray | None:
    """The numbers that arrays and nested lists hold."""
    if isinstance(value, np.ma.MaskedArray | str | bytes | bytearray | memoryview | dict | set | frozenset | Broken):
        return None
    if isinstance(value, list | tuple):
        if _has_masked(value):
            return None
    elif isinstance(value, range):
        return np.asarray(value)
    elif isinstance(value, jax.Array | np.ndarray | np.generic):
        if _kind(value) not in NUMERIC:
            return None
    elif number(value) is None and not isinstance(value, pd.DataFrame | pd.Series | pd.Index | pd.Categorical):
        return None
    try:
        found = np.asarray(value)
    except Exception:  # noqa: BLE001 - whatever it raises, it is no array
        return None
    with np.errstate(over="ignore"):
        return found.astype(float) if _kind(found) in NUMERIC else None


def _has_masked(value: Any, depth: int = 0) -> bool:
    if isinstance(value, np.ma.MaskedArray):
        return True
    return isinstance(value, list | tuple) and depth < 3 and any(_has_masked(item, depth + 1) for item in value)


def inside(domain: core.Domain, value: Any, right: Any) -> bool | None:
    """Whether a value belongs to a domain.

    Args:
        domain: the declared domain.
        value: the value.
        right: a value with which the call passes: what lengths of axes must be.

    Returns:
        The answer; None where it depends on what the callable computes.
    """
    match domain:
        case domains.Optional():
            return True if value is None else inside(domain.inner, value, right)
        case domains.AnyOf():
            answers = [inside(one, value, right) for one in domain.domains]
            return True if True in answers else None if None in answers else False
        case domains.Integer():
            found = number(value)
            low = -math.inf if domain.least is None else domain.least
            high = math.inf if domain.most is None else domain.most
            return isinstance(found, int) and low <= found <= high
        case domains.Real():
            found = number(value)
            return found is not None and _lies(domain, found)
        case array_domains.Numbers():
            if (plain := number(value)) is not None:
                return _lies(domain.one, plain)
            found = real_array(value)
            if found is None or (np.ndim(found) == 0 and number(value) is None) or _booleans(value):
                return False
            return all(_lies(domain.one, x) for x in found.ravel())
        case array_domains.RealArray() | array_domains.Indices():
            return _array_inside(domain, value, right)
        case array_domains.Key():
            fits = isinstance(value, jax.Array) and _kind(value) == "k"
            return fits and value.ndim == len(domain.axes)
        case array_domains.Parameters():
            return None if _tree_of_floats(value) else False
        case domains.Flag():
            return isinstance(value, bool | np.bool_)
        case domains.Choice():
            return isinstance(value, str) and str(value) in domain.options
        case domains.Text():
            return None if isinstance(value, str) and len(value) >= domain.least else False
        case domains.Path():
            return None if isinstance(value, str | pathlib.PurePath) else False
        case domains.Function():
            return None if not isinstance(value, Broken) and callable(value) and not isinstance(value, type) else False
        case domains.FloatType():
            return None if isinstance(value, str | type | np.dtype) else False
        case domains.Instance():
            return None if isinstance(value, domain.classes) else False
        case domains.Foreign():
            return None if f"{type(value).__module__}.{type(value).__name__}".startswith("xarray") else False
        case domains.SequenceOf():
            if isinstance(value, np.ma.MaskedArray) or not isinstance(
                value, list | tuple | range | np.ndarray | jax.Array
            ):
                return False
            if isinstance(value, np.ndarray | jax.Array) and value.ndim != 1:
                return False
            if (domain.count is not None and len(value) != domain.count) or len(value) < domain.least:
                return False
            first = right[0] if isinstance(right, list | tuple) and right else right
            answers = {inside(domain.inner, item, first) for item in list(value)[:1000]}
            return False if False in answers else None if None in answers or domain.names else True
        case domains.Mapped():
            return None if isinstance(value, dict | types.MappingProxyType | collections.ChainMap) else False
        case Setting():
            if isinstance(value, AbstractSchedule):
                return None
            if not isinstance(value, Broken) and callable(value):
                return False
            return inside(domain.numbers, value, right) and (number(value) is not None or real_array(value).size > 0)
        case LossOrProblem() | core.Descended() | array_domains.Data() | domains.Free():
            return None
        case Start():
            return None if _has_floats(value) else False
    raise AssertionError(f"no plain twin of {type(domain).__name__}: add one to door_values.py")


def _booleans(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or (isinstance(value, np.ndarray | jax.Array) and _kind(value) == "b")


def _lies(domain: domains.Real, value: float) -> bool:
    try:
        value = float(value)
    except OverflowError:
        return False
    if math.isnan(value):
        return domain.undefined
    if math.isinf(value) and not domain.infinite:
        return False
    over = value > domain.low if domain.above else value >= domain.low
    return over and (value < domain.high if domain.below else value <= domain.high)


def _array_inside(domain: Any, value: Any, right: Any) -> bool | None:
    found = real_array(value)
    if found is None:
        return False
    integers = isinstance(domain, array_domains.Indices)
    if integers and found.size and not _whole(value):
        return False
    if found.ndim == 0 and (_booleans(value) or (domain.axes not in (None, ()) and "..." not in domain.axes)):
        return False
    if domain.axes is not None and "..." not in domain.axes and found.ndim != len(domain.axes):
        return False
    if integers:
        least = -math.inf if domain.least is None else domain.least
        return False if found.size and (found.min() < least or found.max() > LARGEST) else None
    with np.errstate(invalid="ignore"):
        low = found <= domain.low if domain.above else found < domain.low
        if (domain.finite and not np.isfinite(found).all()) or low.any() or (found > domain.high).any():
            return False
    if domain.nonempty and found.size == 0:
        return False
    if domain.symmetric and found.ndim == 2:
        if found.shape[0] != found.shape[1] or np.abs(found - found.T).max(initial=0) > 1e-7 * np.abs(found).max(
            initial=0
        ):
            return False
        if domain.semidefinite and found.size and np.linalg.eigvalsh(found)[0] < -1e-7 * np.abs(found).max():
            return False
    return None


def _whole(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _kind(value) in "iu"
    return np.asarray(value).dtype.kind in "iu"


def _has_floats(value: Any) -> bool:
    try:
        leaves = jax.tree.leaves(value)
    except Exception:  # noqa: BLE001 - no tree
        return False
    return any(
        isinstance(x, float) or (isinstance(x, jax.Array | np.ndarray | np.generic) and _kind(x) in "fc")
        for x in leaves
    )


def _tree_of_floats(value: Any) -> bool:
    try:
        leaves = jax.tree.leaves(value)
    except Exception:  # noqa: BLE001 - no tree
        return False

    def floating(leaf: Any) -> bool:
        if isinstance(leaf, np.ma.MaskedArray):
            return False
        if isinstance(leaf, jax.Array | np.ndarray | np.generic):
            return _kind(leaf) == "f"
        return isinstance(leaf, float)

    return bool(leaves) and all(floating(leaf) for leaf in leaves)
