"""Reading a study from plain values or a file; mistakes are named with their line."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from flatmin._core import Free, Instance, Mapped, Optional, UsageError, checked_anywhere, read_text
from flatmin._core.models import explained, telling
from flatmin.studies._lines import Path, line_of, toml_lines, yaml_lines
from flatmin.studies.spec import StudySpec

MOST_VALUES = 1_000_000
"""Values and names in a YAML file, each counted as often as an alias stands for it."""

DEEPEST = 32
"""Tables and lists inside each other; a setting needs five."""

_DEEP = f"nests more than {DEEPEST} tables or lists in each other, which no setting takes; write it flat"


@checked_anywhere(
    raw=Mapped(Free("each setting is validated by the spec")),
    lines=Optional(Instance(Mapping, what="a mapping from paths to lines")),
)
def study_spec(raw: Mapping[str, Any], *, source: str = "", lines: Mapping[Path, int] | None = None) -> StudySpec:
    """A spec from plain values, with one sentence for the first mistake.

    Args:
        raw: the tables.
        source: name of the file, for the sentence.
        lines: line by path.

    Returns:
        The spec.

    Raises:
        UsageError: naming the setting, its line, what was got, what to do, and the nearest name.
    """
    return _spec(raw, source, lambda: lines or {})


def _spec(raw: Mapping[str, Any], source: str, find_lines: Callable[[], Mapping[Path, int]]) -> StudySpec:
    if _is_deep(raw):
        raise UsageError(f"file: {source or 'the study'} {_DEEP}")
    try:
        return StudySpec.model_validate(dict(raw))
    except ValidationError as error:
        path, sentence = explained(error, _options(error))
    named = _trimmed(path)
    line = line_of(path, find_lines())
    where = ", ".join(part for part in (source, f"line {line}" if line else "") if part)
    raise UsageError(f"{'.'.join(named) or 'study'}{f' ({where})' if where else ''}: {sentence}")


def _is_deep(raw: Any) -> bool:
    level = [raw]
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, Mapping | list | tuple)
            for inner in (value.values() if isinstance(value, Mapping) else value)
            if isinstance(inner, Mapping | list | tuple)
        ]
        if not level:
            return False
    return True


def _options(error: ValidationError) -> list[str]:
    """The names that a table of the spec knows, for the nearest one."""
    loc = telling(error)["loc"]
    model: Any = StudySpec
    for part in loc[:-1]:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        models = [a for a in (getattr(field, "annotation", None), *_arguments(field)) if isinstance(a, type)]
        model = next((m for m in models if issubclass(m, BaseModel)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _arguments(field: Any) -> tuple[Any, ...]:
    annotation = getattr(field, "annotation", None)
    found = list(getattr(annotation, "__args__", ()))
    return tuple(found + [a for f in found for a in getattr(f, "__args__", ())])


def _trimmed(path: Path) -> Path:
    """Without pydantic's names for the alternatives of a union."""
    return tuple(part for part in path if not part.startswith(("tuple[", "function-", "Range")) and part != "Range")


@checked_anywhere()
def load_spec(path: str | pathlib.Path) -> StudySpec:
    """Read a study from a file.

    Args:
        path: a `.toml`, `.yaml` or `.yml` file.

    Returns:
        The spec.

    Raises:
        UsageError: for a file that is not there or not one of these, and for any mistake in it, with its line.
    """
    file = pathlib.Path(path)
    if file.suffix not in (".toml", ".yaml", ".yml") and not file.is_dir():
        raise UsageError(f"file: got {file.name!r}, expected a .toml or .yaml file; write one with `flatmin study new`")
    text = read_text(file)
    try:
        if file.suffix == ".toml":
            raw, find_lines = _toml(text, file.name), functools.partial(toml_lines, text)
        else:
            raw, lines = _yaml(text, file.name)
            find_lines = functools.partial(dict, lines)
    except RecursionError as error:
        raise UsageError(f"file: {file.name} {_DEEP}") from error
    if not isinstance(raw, Mapping):
        raise UsageError(f"file: {file.name} holds {type(raw).__name__}, expected tables of settings")
    if not all(isinstance(key, str) for key in raw):
        raise UsageError(f"file: {file.name} has a setting whose name is no text; put the name in quotes")
    return _spec(raw, file.name, find_lines)


def _toml(text: str, name: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one; numbers of thousands of digits raise a plain one
        raise UsageError(f"file: {name} is not TOML: {error}") from error


def _yaml(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None, {}
        _check_aliases(node, name)
        return yaml.safe_load(text), yaml_lines(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UsageError(f"file: {name} is not YAML{where}: {reason}") from error
    except (ValueError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"file: {name} is not YAML: {error}") from error  # a date or a number that none can be


def _check_aliases(node: Any, name: str) -> None:
    """Refuse aliases that refer to themselves, or stand for more values than a study can have."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(inner: Any) -> int:
        key = id(inner)
        if key in open_nodes:
            line = inner.start_mark.line + 1
            raise UsageError(f"file: {name} has an alias (*) inside of what it stands for (line {line}); write it out")
        if key not in sizes:
            open_nodes.add(key)
            pairs = inner.value if isinstance(inner.value, list) else []
            parts = [part for pair in pairs for part in (pair if isinstance(pair, tuple) else (pair,))]
            sizes[key] = 1 + sum(size(part) for part in parts)
            open_nodes.remove(key)
            if sizes[key] > MOST_VALUES:
                line = inner.start_mark.line + 1
                raise UsageError(
                    f"file: {name} stands for {sizes[key]:,} values with its aliases (*) written out (line {line}), "
                    f"expected at most {MOST_VALUES:,}; remove aliases"
                )
        return sizes[key]

    size(node)
