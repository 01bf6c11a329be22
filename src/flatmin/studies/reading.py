"""Reading a study from plain values or a file; mistakes are named with their line."""

import pathlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from flatmin._core import UsageError
from flatmin.studies._lines import Path, line_of, toml_lines, yaml_lines
from flatmin.studies.spec import StudySpec, explained, telling


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
    try:
        return StudySpec.model_validate(dict(raw))
    except ValidationError as error:
        path, sentence = explained(error, _options(error))
    named = _trimmed(path)
    line = line_of(path, lines or {})
    where = ", ".join(part for part in (source, f"line {line}" if line else "") if part)
    raise UsageError(f"{'.'.join(named) or 'study'}{f' ({where})' if where else ''}: {sentence}")


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
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UsageError(f"file: {file} {what}; write a study with `flatmin study new`")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"file: {file} is not a text in UTF-8; save it as one") from error
    if file.suffix == ".toml":
        raw, lines = _toml(text, file.name), toml_lines(text)
    elif file.suffix in (".yaml", ".yml"):
        raw, lines = _yaml(text, file.name), None
        lines = yaml_lines(text) if raw else {}
    else:
        raise UsageError(f"file: got {file.name}, expected a .toml or .yaml file; rename it")
    if not isinstance(raw, Mapping):
        raise UsageError(f"file: {file.name} holds {type(raw).__name__}, expected tables of settings")
    return study_spec(raw, source=file.name, lines=lines)


def _toml(text: str, name: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"file: {name} is not TOML: {error}") from error


def _yaml(text: str, name: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UsageError(f"file: {name} is not YAML{where}: {getattr(error, 'problem', error)}") from error
