"""Pydantic models that say what is wrong with their fields in the library's sentences.

Not imported by `flatmin._core`: pydantic is for specs, claims and studies only.
"""

import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from flatmin._core.domains import AnyOf, Choice, Domain, Flag, Integer, Optional, Real, SequenceOf, Text
from flatmin._core.errors import UsageError, nearest
from flatmin._core.values import described


class Mistake(ValueError):  # noqa: N818 - the user's, not ours
    """A mistake in a spec and where it stands; raised by validators."""

    def __init__(self, path: tuple[str, ...], sentence: str):
        super().__init__(sentence)
        self.path = path


class _Telling(type(BaseModel)):
    """Constructors raise `UsageError`, and take no text for a number; pydantic validates what it reads from files."""

    if not TYPE_CHECKING:  # the signature of each model stays

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            for name in kwargs.keys() & cls.model_fields.keys():
                field = cls.model_fields[name]
                domain = plain_domain(field.annotation, tuple(field.metadata))
                if domain is not None:
                    kwargs[name] = domain.accept(name, kwargs[name], {})
            try:
                return super().__call__(*args, **kwargs)
            except ValidationError as error:
                path, sentence = explained(error, cls.model_fields)
                raise UsageError(f"{'.'.join(path) or cls.__name__}: {sentence}") from error


class Model(BaseModel, metaclass=_Telling):
    """A pydantic model whose constructor raises `UsageError` in place of a `ValidationError`."""


_PLAIN: dict[Any, Domain] = {bool: Flag(), str: Text()}


def plain_domain(annotation: Any, bounds: tuple[Any, ...] = ()) -> Domain | None:
    """The domain of a field of numbers, texts, names to choose from, tuples of them, or None; None for other fields.

    Args:
        annotation: the field's type.
        bounds: pydantic's constraints, of which `gt`, `ge`, `lt` and `le` are those of the number.

    Returns:
        The domain.
    """
    args = [arg for arg in typing.get_args(annotation) if arg not in (Ellipsis, types.NoneType)]
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return Choice(*args) if all(isinstance(arg, str) for arg in args) else None
    if not args:
        return _scalar(annotation, bounds)
    inner = [plain_domain(arg, bounds) for arg in args]
    found = [domain for domain in inner if domain is not None]
    if len(found) < len(inner):
        return None
    if origin in (typing.Union, types.UnionType):
        any_of = found[0] if len(found) == 1 else AnyOf(*found)
        return Optional(any_of) if types.NoneType in typing.get_args(annotation) else any_of
    if origin is tuple and len(set(args)) == 1:
        return SequenceOf(found[0], None if Ellipsis in typing.get_args(annotation) else len(args))
    return None


def _scalar(annotation: Any, bounds: tuple[Any, ...]) -> Domain | None:
    ends = {name: getattr(bound, name) for bound in bounds for name in ("gt", "ge", "lt", "le") if hasattr(bound, name)}
    if annotation is int and not ends.keys() - {"ge"}:
        return Integer(ends.get("ge"), 2**63 - 1)
    if annotation is float:
        return Real(
            ends.get("gt", ends.get("ge", -math.inf)),
            ends.get("lt", ends.get("le", math.inf)),
            above="gt" in ends,
            below="lt" in ends,
            infinite=not ends,
            undefined=not ends,
        )
    return _PLAIN.get(annotation, Integer(None, 2**63 - 1) if annotation is int else None)


def telling(error: ValidationError) -> Any:
    """The error that says most: of an alternative that nearly fits; a misspelt name before the one that is missing."""
    return max(
        error.errors(),
        key=lambda e: (len(e["loc"]), e["type"] == "extra_forbidden", e["type"] != "tuple_type"),
    )


def explained(error: ValidationError, options: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Where and what is wrong, from the error that says most.

    Args:
        error: pydantic's.
        options: names that the model knows, for the nearest one.

    Returns:
        The path of the setting and the rest of the sentence.
    """
    first = telling(error)
    path = tuple(str(part) for part in first["loc"])
    cause = (first.get("ctx") or {}).get("error")
    if isinstance(cause, Mistake):
        return (*path, *cause.path), str(cause)
    if first["type"] == "extra_forbidden":
        return path, f"{path[-1]!r} is not known; {nearest(path[-1], options)}"
    if first["type"] == "missing":
        return path, f"{path[-1]} is missing; add it"
    message = first["msg"].removeprefix("Value error, ")
    if isinstance(first["input"], Mapping):
        return path, message[0].lower() + message[1:]
    return path, f"got {shown(first['input'])}, {message[0].lower()}{message[1:]}"


def shown(value: Any) -> str:
    """A setting as it was given, in one short line."""
    if not isinstance(value, list | tuple | str):
        return described(value)
    text = repr(value if isinstance(value, str) else list(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
