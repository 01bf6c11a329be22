"""Every public callable, a valid call of each, and what it says to each wrong value in place of each argument."""

import ast
import contextlib
import enum
import importlib
import inspect
import io
import pkgutil
import re
import types
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx

import door_calls
import door_values
import flatmin
from flatmin import _core as core
from flatmin._core.display import Shown
from flatmin.flatness.target import LossOrProblem

HANDS_ON = {
    "experiments.papers": "a paper's page is run by `reproduce`, which checks its settings",
    "cli": "the command line has its own tests",
}
"""Rooms without doors of their own."""


class Door(NamedTuple):
    """A public callable."""

    name: str
    call: Any
    domains: dict[str, core.Domain]


def exported(home: types.ModuleType) -> list[str]:
    """Names that a module defines, or that a room gives on (`from ... import name as name`)."""
    names = []
    for node in ast.walk(ast.parse(inspect.getsource(home))):
        if isinstance(node, ast.ImportFrom) and hasattr(home, "__path__"):
            names += [alias.name for alias in node.names if alias.asname == alias.name]
    body = ast.parse(inspect.getsource(home)).body
    names += [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return sorted({name for name in names if not name.startswith("_")})


def public() -> Iterator[tuple[str, Any]]:
    """Name and object of each callable that a room of the package exports, each once."""
    seen: set[int] = set()
    rooms = [flatmin.__name__]
    for module in pkgutil.walk_packages(flatmin.__path__, "flatmin."):
        inner = module.name.removeprefix("flatmin.")
        if any(part.startswith("_") for part in inner.split(".")) or any(inner.startswith(room) for room in HANDS_ON):
            continue
        if module.ispkg or inner.startswith("theory."):
            rooms.append(module.name)
    for room in rooms:
        home = importlib.import_module(room)
        for name in exported(home):
            found = getattr(home, name)
            if not callable(found) or not getattr(found, "__module__", "").startswith("flatmin") or id(found) in seen:
                continue
            seen.add(id(found))
            yield f"{found.__module__.removeprefix('flatmin.')}.{found.__qualname__}", found


def takes_no_values(found: Any) -> str:
    """Why a callable is no door: empty where it is one."""
    if not inspect.isclass(found):
        return "takes nothing" if not inspect.signature(found).parameters else ""
    if issubclass(found, BaseException):
        return "an exception"
    if issubclass(found, enum.Enum):
        return "an enumeration"
    if inspect.isabstract(found) or found.__name__.startswith("Abstract") or getattr(found, "_is_protocol", False):
        return "abstract"
    if issubclass(found, Shown) or (issubclass(found, tuple) and hasattr(found, "_fields")):
        return "a record that the library returns"
    return "" if inspect.signature(found).parameters else "takes nothing"


def doors() -> tuple[list[Door], list[str]]:
    """The doors, and the public names that are neither one nor a stated exception."""
    found, missing = [], []
    for name, call in public():
        table = core.domains_of(call)
        if table is not None and table:
            found.append(Door(name, call, table))
        elif not takes_no_values(call) and name not in door_calls.NO_DOORS and table is None:
            missing.append(name)
    return found, missing


def call_of(door: Door) -> dict[str, Any]:
    """Arguments of a call that must pass."""
    special = door_calls.CALLS.get(door.name, dict)()
    arguments = {}
    for name, parameter in inspect.signature(door.call).parameters.items():
        if name in special:
            arguments[name] = special[name]
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            if name not in door_calls.BY_NAME:
                raise LookupError(f"{door.name}: no value is known for {name!r}; add one to CALLS of door_calls.py")
            arguments[name] = door_calls.BY_NAME[name]()
    return arguments


def run(door: Door, arguments: dict[str, Any]) -> Any:
    """Call it, with arguments that may be positional only."""
    positional, named = [], {}
    for name, parameter in inspect.signature(door.call).parameters.items():
        if name not in arguments:
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(arguments[name])
        elif parameter.kind is parameter.VAR_POSITIONAL:
            positional.extend(arguments[name])
        else:
            named[name] = arguments[name]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return door.call(*positional, **named)


class Case(NamedTuple):
    """One wrong value in place of one argument."""

    door: Door
    argument: str
    value: str


def cases(found: list[Door]) -> list[Case]:
    """The whole product."""
    return [
        Case(door, argument, value)
        for door in found
        for argument in door.domains
        if argument not in door_calls.NO_VALUES.get(door.name, ())
        for value in door_values.VALUES
        # equinox walks through what its modules are built from before the module sees it, and fails in there
        if not (value in door_values.ENDLESS and inspect.isclass(door.call) and issubclass(door.call, eqx.Module))
    ]


def _is_left_out(case: Case) -> bool:
    """A function of the user's may raise what it likes."""
    domain = case.door.domains[case.argument]
    inner = domain.inner if isinstance(domain, core.Optional) else domain
    of_users = isinstance(inner, core.Function | core.Descended | LossOrProblem)
    return of_users or case.argument in door_calls.NOT_TRIED.get(case.door.name, ())


def fault_of(case: Case, right: dict[str, Any], *, outside_only: bool = False) -> str | None:
    """What is wrong with the answer to one value; None if nothing is.

    Args:
        case: the value in place of an argument.
        right: the arguments of a call that passes.
        outside_only: whether values are skipped of which only the call itself decides: they compile and compute.

    Returns:
        The fault in words.
    """
    value = door_values.VALUES[case.value]()
    variadic = inspect.signature(case.door.call).parameters[case.argument].kind is inspect.Parameter.VAR_POSITIONAL
    belongs = door_values.inside(case.door.domains[case.argument], value, right.get(case.argument))
    if belongs or (belongs is None and (outside_only or _is_left_out(case))):
        return None
    value = door_values.VALUES[case.value]()
    try:
        run(case.door, right | {case.argument: [value] if variadic else value})
    except (core.UsageError, core.JobError) as error:
        if belongs is None:
            return None
        named = re.match(rf"\W?{re.escape(case.argument)}\b", str(error))
        return None if named else f"does not begin with {case.argument!r}: {error}"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"ends in {type(error).__name__}: {str(error)[:150]}"
    return "is accepted" if belongs is False else None
