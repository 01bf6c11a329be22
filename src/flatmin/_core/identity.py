"""The identity of functions and data: equal only where they compute the same, so that stored runs are not mixed.

A function is its code (nested functions included), its defaults, what it closes over, and the globals that it names. An
object is its class, with the code of its methods, and what it holds. Code of Python, of installed packages and of this
library is known by its name and version alone. What cannot be told apart (open files, generators, locks) is refused.
"""

import enum
import functools
import hashlib
import importlib.metadata
import inspect
import io
import sys
import sysconfig
import types
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flatmin._core.errors import UsageError

PLAIN = (type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes)
LIBRARY = str(Path(__file__).parent.parent)
PACKAGES = {"site-packages", "dist-packages"}  # folders of installed packages, wherever they stand
INSTALLED = (LIBRARY, *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")))


def identity(thing: Any, what: str) -> str:
    """SHA-256 of what a thing computes or holds.

    Args:
        thing: numbers, text, arrays, containers, functions, partial functions, bound methods, modules of equinox,
            dataclasses and plain objects, in any nesting.
        what: how to call it in a sentence.

    Returns:
        64 hexadecimal digits: the same in another process of the same Python.

    Raises:
        UsageError: for something inside of it that has no identity, such as an open file.
    """
    walk = _Walk(what)
    walk.add(thing)
    return walk.digest.hexdigest()


class _Walk:
    """One walk over everything that is reachable; what was met before is named by its number."""

    def __init__(self, what: str):
        self.digest, self.what = hashlib.sha256(), what
        self.met: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no address is used twice

    def put(self, *words: object) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
            self.digest.update(f"{len(data)}:".encode() + data)

    def add(self, thing: Any) -> None:
        if isinstance(thing, PLAIN) and not isinstance(thing, enum.Enum):
            self.put(type(thing).__name__, repr(thing))
        elif callable(thing) and _is_found_by_name(thing):
            self.name(thing)
        elif id(thing) in self.met:
            self.put("met", self.met[id(thing)])
        else:
            self.met[id(thing)] = len(self.met)
            self.kept.append(thing)
            visit = next((visit for kinds, visit in VISITS if isinstance(thing, kinds)), _Walk.object)
            visit(self, thing)

    def array(self, thing: Any) -> None:
        if isinstance(thing, Tracer):
            raise UsageError(
                f"{self.what}: got a traced array inside, whose values are not known yet; call it outside of jit"
            )
        if isinstance(thing, jax.Array) and jnp.issubdtype(thing.dtype, jax.dtypes.prng_key):
            self.put("key", jax.random.key_impl(thing))
            thing = jax.random.key_data(thing)
        values = np.asarray(thing)
        self.put("array", values.dtype.str, values.dtype, values.shape)
        if values.dtype.hasobject:
            self.sequence(values.ravel().tolist())
        else:
            self.digest.update(np.ascontiguousarray(values).tobytes())

    def sequence(self, thing: Any) -> None:
        self.put(type(thing).__qualname__, len(thing))
        for item in thing:
            self.add(item)

    def unordered(self, thing: Any) -> None:
        self.put("set", *sorted(identity(item, self.what) for item in thing))

    def mapping(self, thing: Mapping[Any, Any]) -> None:
        self.put("mapping", len(thing))
        for key, value in thing.items():
            self.add(key)
            self.add(value)

    def code(self, thing: types.CodeType) -> None:
        self.put("code", thing.co_code, thing.co_names, thing.co_varnames, thing.co_freevars, thing.co_flags)
        self.put(getattr(thing, "co_exceptiontable", b""))
        self.sequence(thing.co_consts)

    def function(self, thing: types.FunctionType) -> None:
        self.put("function")
        installed = _is_installed(thing)
        if installed:  # made by a function of a package: its name, and what that put into it
            self.name(thing)
        else:
            self.add(thing.__code__)
        self.add(thing.__defaults__)
        self.add(thing.__kwdefaults__)
        for cell in thing.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:
                held = "not filled yet"
            self.add(held)
        for name in [] if installed else sorted(_names(thing.__code__) & thing.__globals__.keys()):
            self.put(name)
            self.add(thing.__globals__[name])
        self.add(getattr(thing, "__wrapped__", None))

    def partial(self, thing: functools.partial[Any]) -> None:
        self.put("partial")
        for part in (thing.func, thing.args, thing.keywords):
            self.add(part)

    def method(self, thing: types.MethodType) -> None:
        self.put("method")
        self.add(thing.__self__)
        self.add(thing.__func__)

    def type(self, thing: type) -> None:
        self.put("class")
        self.name(thing)
        if _is_installed(thing):
            return
        for base in thing.__bases__:
            self.add(base)
        for name, member in sorted(vars(thing).items()):
            plain = member.__func__ if isinstance(member, staticmethod | classmethod) else member
            plain = plain.fget if isinstance(plain, property) else plain
            plain = inspect.unwrap(plain) if callable(plain) else plain
            if isinstance(plain, types.FunctionType):
                self.put(name)
                self.add(plain)
            elif isinstance(plain, PLAIN) and not name.startswith("__"):
                self.put(name, repr(plain))

    def name(self, thing: Any) -> None:
        module = getattr(thing, "__module__", None) or type(thing).__module__
        package = str(module).split(".", maxsplit=1)[0]
        self.put("name", module, getattr(thing, "__qualname__", getattr(thing, "__name__", "")), _version(package))

    def module(self, thing: types.ModuleType) -> None:
        self.put("module", thing.__name__, _version(thing.__name__.split(".", maxsplit=1)[0]))

    def wrapper(self, thing: Any) -> None:
        self.put("wrapper", type(thing).__qualname__)
        self.add(thing.__wrapped__)
        self.add(getattr(thing, "__self__", None))
        held = getattr(thing, "__dict__", {})
        self.mapping({name: held[name] for name in sorted(held) if not name.startswith("__")})

    def tree(self, thing: Any) -> None:
        self.put("tree", thing.num_leaves)
        data = thing.node_data()
        self.add(None if data is None else tuple(data))
        for child in thing.children():
            self.tree(child)

    def path(self, thing: PurePath) -> None:
        self.put("path", thing)

    def named(self, thing: enum.Enum) -> None:
        self.put("enum", type(thing).__qualname__, thing.name)

    def refuse(self, thing: Any) -> None:
        raise UsageError(
            f"{self.what}: got a {type(thing).__name__} inside, which has no identity: another run could be continued "
            "by mistake; pass arrays, numbers and functions of them, or leave the checkpoint out"
        )

    def object(self, thing: Any) -> None:
        held = getattr(thing, "__dict__", None)
        slots = [name for kind in type(thing).__mro__ for name in _slots(kind)]
        if hasattr(thing, "__array__") or hasattr(thing, "__jax_array__"):
            self.array(thing)
        elif hasattr(thing, "__wrapped__") and callable(thing):
            self.wrapper(thing)
        elif held is not None or slots:
            self.put("object")
            self.add(type(thing))
            self.mapping({name: held[name] for name in sorted(held)} if held is not None else {})
            self.mapping({name: getattr(thing, name) for name in sorted(set(slots)) if hasattr(thing, name)})
        else:
            self.refuse(thing)


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return tuple(s for s in ((slots,) if isinstance(slots, str) else slots) if s not in ("__dict__", "__weakref__"))


def _names(code: types.CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*(_names(each) for each in inner))


@functools.cache
def _version(package: str) -> str:
    if package in sys.stdlib_module_names:
        return f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _is_of_a_package(module: Any) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return _stands_in_a_package(file) if file is not None else module in sys.stdlib_module_names - {"__main__"}


def _stands_in_a_package(file: str) -> bool:
    return file.startswith(INSTALLED) or not PACKAGES.isdisjoint(PurePath(file).parts)


def _is_found_by_name(thing: Any) -> bool:
    """Whether it stands in a module of a package under its own name: that and the version say all."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", getattr(thing, "__name__", None))
    if not isinstance(module, str) or not isinstance(name, str) or not _is_of_a_package(module):
        return False
    home: Any = sys.modules.get(module)
    for part in name.split("."):
        home = getattr(home, part, None)
    return home is thing


def _is_installed(thing: Any) -> bool:
    """Whether its code belongs to Python, an installed package or this library."""
    code = getattr(thing, "__code__", None)
    if code is None or code.co_filename.startswith("<"):  # made from text, as dataclasses make their methods
        return _is_of_a_package(thing.__module__)
    return _stands_in_a_package(code.co_filename)


VISITS: tuple[tuple[Any, Any], ...] = (
    (enum.Enum, _Walk.named),
    ((jax.Array, np.ndarray, np.generic), _Walk.array),
    ((list, tuple), _Walk.sequence),
    ((set, frozenset), _Walk.unordered),
    (Mapping, _Walk.mapping),
    (types.CodeType, _Walk.code),
    (types.FunctionType, _Walk.function),
    (functools.partial, _Walk.partial),
    (types.MethodType, _Walk.method),
    (type, _Walk.type),
    (types.ModuleType, _Walk.module),
    ((types.BuiltinFunctionType, types.MethodWrapperType, np.ufunc, np.dtype), _Walk.name),
    (PurePath, _Walk.path),
    (jax.tree_util.PyTreeDef, _Walk.tree),
    ((types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, types.FrameType, io.IOBase), _Walk.refuse),
)
