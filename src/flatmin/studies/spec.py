"""What a study is: tables of settings, axes over them, what to measure. Read from TOML, YAML or Python."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flatmin._core import nearest
from flatmin._core.models import Mistake, Model, explained, shown
from flatmin.studies._settings import FAMILIES, section_model
from flatmin.studies.axes import Range, Values
from flatmin.studies.grid import SAMPLE, SEED
from flatmin.studies.quantities import POINT, SOLVER
from flatmin.studies.sections import (
    Adaptive,
    Batching,
    Function,
    Measure,
    Random,
    Seeds,
    Stopping,
    seeds_table,
    tupled,
)

TASK_VERSION = 1
"""Raised whenever the code changes what a cell yields; part of every study's id."""

FUNCTION = "function"
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class StudySpec(Model):
    """A study: every combination of its axes is a cell.

    Attributes:
        name: lower-case words joined by hyphens; the folder's name.
        title: heading of the report.
        description: a paragraph for the report.
        problem: `preset` and its settings, see `flatmin.problems`.
        parameterization: `kind` and its settings; default: the preset's own.
        start: `scheme` and its settings.
        dynamics: `rule` and its settings; None: measure at the start.
        solver: `program`; excludes dynamics.
        function: a user's function instead of all these.
        stopping: when a cell is done.
        measure: what is kept.
        axes: values by dotted name of a setting.
        random: random axes.
        seeds: the seeds, or their number.
        precision: in which the dynamics run; measurements are float64.
        batching: lanes of a compiled call.
        adaptive: spend trials near a transition only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str
    title: str = ""
    description: str = ""
    problem: dict[str, Any] | None = None
    parameterization: dict[str, Any] | None = None
    start: dict[str, Any] | None = None
    dynamics: dict[str, Any] | None = None
    solver: dict[str, Any] | None = None
    function: Function | None = None
    stopping: Stopping = Stopping()
    measure: Measure = Measure()
    axes: dict[str, tuple[Any, ...] | Range] = Field(default_factory=dict)
    random: Random | None = None
    seeds: Annotated[Seeds, BeforeValidator(seeds_table)] = Seeds()
    precision: Literal["float64", "float32"] = "float64"
    batching: Batching = Batching()
    adaptive: Adaptive | None = None

    @model_validator(mode="before")
    @classmethod
    def _lists_to_tuples(cls, data: Any) -> Any:
        return tupled(data)

    @model_validator(mode="after")
    def _consistent(self) -> "StudySpec":
        if not _SLUG.fullmatch(self.name):
            raise Mistake(
                ("name",), f"got {self.name!r}, expected lower-case words joined by hyphens, such as 'step-sizes'"
            )
        if (self.problem is None) == (self.function is None):
            raise Mistake((), "expected either a [problem] or a [function]; add one of them")
        if self.function is not None:
            for family in FAMILIES:
                if getattr(self, family) is not None:
                    raise Mistake((family,), "a study of a [function] has no other tables of settings; remove it")
        if self.dynamics is not None and self.solver is not None:
            raise Mistake(("solver",), "expected either [dynamics] or [solver]; a study runs one of them")
        if self.solver is not None and self.start is not None:
            raise Mistake(("start",), "a solver does not start anywhere; remove the table")
        self._check_axes()
        self._check_sections()
        self._check_measure()
        return self

    @property
    def families(self) -> dict[str, dict[str, Any]]:
        """The tables of settings that the task reads, by name."""
        if self.function is not None:
            return {FUNCTION: dict(self.function.model_extra or {})}
        found = {name: dict(getattr(self, name)) for name in FAMILIES if getattr(self, name) is not None}
        if self.solver is None:
            found.setdefault("start", {"scheme": "gaussian"})
        return found

    def settings(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The tables with the axes' values in place, complete and checked.

        Args:
            values: value by dotted name; `seed` and `sample` are left out.

        Returns:
            Settings by table.

        Raises:
            Mistake: for a value that a setting does not take.
        """
        tables = self.families
        for key, value in values.items():
            if key not in (SEED, SAMPLE):
                family, _, name = key.partition(".")
                tables[family][name] = value
        if self.function is not None:
            return tables
        return {family: _checked(family, table) for family, table in tables.items()}

    def setting_keys(self) -> list[str]:
        """Dotted names of all settings that can be an axis."""
        return [f"{family}.{name}" for family, table in self._models().items() for name in table]

    def values_of(self, key: str) -> Values:
        """The values of an axis of the file, whole numbers where the setting is one.

        Args:
            key: dotted name.

        Returns:
            The values.
        """
        given = self.axes[key]
        if not isinstance(given, Range):
            return Values(given)
        family, _, name = key.partition(".")
        if self.function is not None:
            ends = (given.start, given.stop, given.step or 1.0)
            whole = given.step is not None and all(float(end).is_integer() for end in ends)
        else:
            whole = _is_integer(self._models()[family].get(name))
        return Values(given, integer=whole)

    def _models(self) -> dict[str, dict[str, Any]]:
        """Annotation by setting, by table; for every choice that the deciding setting takes in this study."""
        found: dict[str, dict[str, Any]] = {}
        for family, table in self.families.items():
            if family == FUNCTION:
                found[family] = dict.fromkeys([*table, *(k.partition(".")[2] for k in self._swept())], Any)
                continue
            decider, choices = FAMILIES[family]
            swept = self.axes.get(f"{family}.{decider}", ())
            chosen = [table.get(decider), *(swept if isinstance(swept, tuple) else ())]
            fields: dict[str, Any] = {}
            for choice in chosen:
                if choice in choices:
                    model = section_model(family, choice)
                    fields |= {name: field.annotation for name, field in model.model_fields.items()}
            found[family] = fields
        return found

    def _swept(self) -> list[str]:
        return [*self.axes, *(self.random.draw if self.random is not None else ())]

    def _check_axes(self) -> None:
        for where, keys in (("axes", list(self.axes)), ("random", list(self.random.draw) if self.random else [])):
            for key in keys:
                path = ("axes", key) if where == "axes" else ("random", "draw", key)
                family, dot, name = key.partition(".")
                if key in (SEED, "seeds", "random.seed"):
                    raise Mistake(path, "seeds are an axis of their own; write seeds = N at the top")
                if not dot or family not in self.families:
                    options = self.setting_keys()
                    raise Mistake(path, f"{key!r} is not a setting of this study; {nearest(key, options)}")
                fields = self._models()[family]
                decider = FAMILIES[family][0] if family in FAMILIES else ""
                if family != FUNCTION and name != decider and fields and name not in fields:
                    options = [f"{family}.{field}" for field in fields]
                    raise Mistake(path, f"{key!r} is not a setting of this study; {nearest(key, options)}")
                if name in self.families[family] and name != decider:
                    raise Mistake(path, f"{name} is given in [{family}] too; remove one of them")
                if name == decider and name in (getattr(self, family) or {}):
                    raise Mistake(path, f"{name} is given in [{family}] too; remove one of them")
                if where == "random" and key in self.axes:
                    raise Mistake(path, f"{key} is an axis too; remove one of them")
        for key in self.axes:
            values = self.values_of(key)
            if len(values) == 0:
                raise Mistake(("axes", key), "got no values, expected at least one; the grid would be empty")
            try:
                twice = values.repeats()
            except TypeError as error:
                raise Mistake(("axes", key), "expected numbers, texts or lists of them") from error
            if twice is not None:
                raise Mistake(("axes", key), f"got {twice!r} more than once; each value is a cell of its own")

    def _check_sections(self) -> None:
        from flatmin.studies.grid import draw

        first = {key: self.values_of(key)[0] for key in self.axes}
        random = self.random
        plain: dict[str, dict[str, Any]] = {}
        if random is not None:
            plain = {key: d.model_dump() for key, d in random.draw.items()}
            first |= {key: draw(d, key, random.seed, 0) for key, d in plain.items()}
        self.settings(first)
        if self.function is not None:
            return
        for key in self.axes:
            for value in self.values_of(key):
                try:
                    self.settings(first | {key: value})
                except Mistake as mistake:
                    raise Mistake(("axes", key), f"the value {shown(value)}: {mistake}") from mistake
        if random is not None:
            for key in random.draw:
                for sample in range(min(random.samples, 1000)):
                    value = draw(plain[key], key, random.seed, sample)
                    try:
                        self.settings(first | {key: value})
                    except Mistake as mistake:
                        raise Mistake(("random", "draw", key), f"the value {shown(value)}: {mistake}") from mistake

    def _check_measure(self) -> None:
        if self.function is not None:
            if "measure" in self.model_fields_set:
                raise Mistake(("measure",), "a [function] names its outputs itself; remove the table")
        else:
            wanted, kind = (SOLVER, "a solver") if self.solver is not None else (POINT, "a study without a solver")
            for field in ("quantities", "record"):
                for name in getattr(self.measure, field):
                    if name not in wanted:
                        raise Mistake(
                            ("measure", field), f"{name!r} is not measured by {kind}; {nearest(name, wanted)}"
                        )
        if self.stopping.early and self.dynamics is None:
            name = "loss" if self.stopping.loss is not None else "gradient"
            raise Mistake(("stopping", name), "only [dynamics] can be done early; a [solver] takes tolerance")
        if self.measure.record and self.dynamics is None:
            raise Mistake(("measure", "record"), "only [dynamics] can be recorded along the way; remove it")
        if self.adaptive is not None:
            outputs = self.function.outputs if self.function is not None else self.measure.quantities
            if self.adaptive.quantity not in outputs:
                raise Mistake(
                    ("adaptive", "quantity"), f"{self.adaptive.quantity!r} is not measured; add it to the quantities"
                )
            if self.adaptive.axis not in self.axes:
                raise Mistake(
                    ("adaptive", "axis"),
                    f"{self.adaptive.axis!r} is not an axis; {nearest(self.adaptive.axis, self.axes)}",
                )

    def identity(self) -> dict[str, Any]:
        """What decides the results, as JSON values: the order of the axes counts, titles do not."""
        plain = self.model_dump(mode="json", by_alias=True, exclude={"name", "title", "description", "batching"})
        plain["axes"] = [[key, value] for key, value in plain["axes"].items()]
        # what is not asked for leaves the ids of earlier studies as they were
        plain["stopping"] = {
            k: v for k, v in plain["stopping"].items() if v is not None or k not in ("loss", "gradient", "check_every")
        }
        plain.pop("adaptive")  # it decides which cells are computed, not what they yield
        return {"task_version": TASK_VERSION, **plain}

    @property
    def id(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the identity."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _checked(family: str, table: Mapping[str, Any]) -> dict[str, Any]:
    decider, choices = FAMILIES[family]
    if decider not in table:
        raise Mistake((family,), f"[{family}] has no {decider}; choose one of ({', '.join(sorted(choices))})")
    choice = table[decider]
    if choice not in choices:
        raise Mistake((family, decider), f"{choice!r} is not known; {nearest(str(choice), choices)}")
    try:
        return section_model(family, choice).model_validate(tupled(table)).model_dump()
    except ValidationError as error:
        path, sentence = explained(error, list(section_model(family, choice).model_fields))
        raise Mistake((family, *path), sentence) from error


def _is_integer(annotation: Any) -> bool:
    return annotation is int or int in getattr(annotation, "__args__", ())
