"""What identifies a run: the experiment, its version and the spec, and nothing else.

Paths, devices, verbosity and library versions are context: recorded with a run but never hashed, so that the
same question asked twice has the same id.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticSerializationError

from flatmin._core import AnyOf, Free, Instance, Integer, UsageError, checked_anywhere
from flatmin._core.models import Model

Origin = Literal["paper", "ours"]
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@checked_anywhere(version=Integer(0))
@dataclasses.dataclass(frozen=True)
class Experiment:
    """A kind of run.

    Attributes:
        name: lower-case words joined by hyphens; begins the folder's name.
        version: raised whenever the code changes what a spec yields; part of the id.
        title: heading of the report.
        summary: one paragraph on what is run and why.
        bibtex: entries to cite with the results.
    """

    name: str
    version: int
    title: str
    summary: str = ""
    bibtex: str = ""

    def __post_init__(self) -> None:
        """Refuse names that cannot begin a folder's name."""
        check_slug("name", self.name)


class RunSpec(Model):
    """Base of all specs: frozen, no unknown settings, no NaN.

    Nested alternatives that differ only by their class need a `kind` field, or they share an id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def paper_values(cls) -> Mapping[str, Any] | None:
        """The paper's values by dotted name, as JSON, where the defaults of the fields cannot say them.

        Returns:
            `None` where the defaults say all; else any setting that is missing or differs is ours.
        """
        return None


@checked_anywhere(value=Free("any value that JSON holds"))
@dataclasses.dataclass(frozen=True)
class Setting:
    """One line of the table of settings.

    Attributes:
        name: dotted for settings of a nested spec.
        value: the value as it stands in the JSON.
        origin: `paper` when the paper gives this value, `ours` when it was chosen or changed here.
        description: what the setting is, with its unit.
    """

    name: str
    value: Any
    origin: Origin
    description: str


def check_slug(argument: str, text: str) -> None:
    """Refuse a name that is not lower-case words joined by hyphens.

    Args:
        argument: the argument's name, for the sentence.
        text: the name.

    Raises:
        UsageError: with the name that was got.
    """
    if not _SLUG.fullmatch(text):
        raise UsageError(
            f"{argument}: got {text!r}, expected lower-case words joined by hyphens, such as 'label-noise'"
        )


@checked_anywhere(default=Free("validated by the spec"))
def setting(default: Any = ..., *, origin: Origin, description: str, **constraints: Any) -> Any:
    """A field of a `RunSpec` that knows where its default comes from.

    Args:
        default: the default value; leave it out for a required setting.
        origin: `paper` if the default is the paper's value, else `ours`; other values are ours.
        description: what the setting is, with its unit.
        **constraints: pydantic constraints such as `gt=0`.

    Returns:
        A pydantic field.
    """
    return Field(default, description=description, json_schema_extra={"origin": origin}, **constraints)


def declared_settings(spec: BaseModel, prefix: str = "") -> list[Setting]:
    """All settings, nested ones by dotted names, with the origins that the fields declare.

    Args:
        spec: the spec.
        prefix: put before each name.

    Returns:
        One `Setting` a value, in the order of the fields.
    """
    plain = spec.model_dump(mode="json", serialize_as_any=True)
    rows: list[Setting] = []
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, BaseModel):
            rows.extend(declared_settings(value, prefix=f"{prefix}{name}."))
            continue
        extra = field.json_schema_extra
        paper = isinstance(extra, dict) and extra.get("origin") == "paper"
        changed = value != field.default and not field.is_required()
        origin: Origin = "paper" if paper and not changed else "ours"
        rows.append(Setting(prefix + name, plain[name], origin, field.description or ""))
    return rows


@checked_anywhere()
def settings_of(spec: BaseModel) -> tuple[Setting, ...]:
    """All settings of a spec, nested ones by dotted names.

    Args:
        spec: the spec.

    Returns:
        One `Setting` a value, in the order of the fields. A value is the paper's if its field says so and, where the
        spec lists the paper's values, if it equals the one listed.
    """
    rows = declared_settings(spec)
    known = spec.paper_values() if isinstance(spec, RunSpec) else None
    if known is not None:
        ours = [row.name not in known or known[row.name] != row.value for row in rows]
        rows = [dataclasses.replace(row, origin="ours") if o else row for row, o in zip(rows, ours, strict=True)]
    return tuple(rows)


def canonical_spec(spec: BaseModel) -> dict[str, Any]:
    """The spec as plain JSON values.

    Args:
        spec: the spec.

    Returns:
        A dictionary that JSON can hold exactly.

    Raises:
        UsageError: if a setting is a set (it has no order, so no stable id), or nothing that JSON holds.
    """
    _refuse_sets(spec.model_dump(serialize_as_any=True), "spec")
    try:
        return spec.model_dump(mode="json", serialize_as_any=True)
    except PydanticSerializationError as error:
        raise UsageError(f"spec: got a setting that JSON cannot hold ({error}), expected plain values") from error


@checked_anywhere(version=Integer(0), spec=AnyOf(Instance(BaseModel), Instance(dict)))
def run_id(experiment: str, version: int, spec: BaseModel | dict[str, Any]) -> str:
    """The identity of a run: 12 hexadecimal digits of the SHA-256 of its canonical JSON.

    Args:
        experiment: the experiment's name.
        version: the experiment's version.
        spec: the spec, or its canonical dictionary.

    Returns:
        The id; it does not depend on the order of settings or on library versions.

    Raises:
        UsageError: if a setting has no JSON form (NaN, infinity, objects).
    """
    plain = canonical_spec(spec) if isinstance(spec, BaseModel) else spec
    identity = {"experiment": experiment, "version": version, "spec": plain}
    try:
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except ValueError as error:
        raise UsageError(
            "spec: got a NaN or an infinite setting, expected finite numbers; leave it out or use None"
        ) from error
    except (TypeError, RecursionError) as error:
        raise UsageError(f"spec: got a setting that JSON cannot hold ({error}), expected plain values") from error
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _refuse_sets(value: Any, where: str) -> None:
    if isinstance(value, set | frozenset):
        raise UsageError(f"{where}: got a set, expected a tuple; a set has no order and so no stable id")
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_sets(item, f"{where}.{name}")
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_sets(item, where)
