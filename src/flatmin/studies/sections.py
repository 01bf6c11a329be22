"""The tables of a study whose settings do not depend on each other."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from flatmin._core import nearest
from flatmin._core.models import Mistake, Model
from flatmin.studies._settings import Count, Positive, Section
from flatmin.studies.quantities import known_quantities


def tupled(value: Any) -> Any:
    """Lists as tuples, throughout: files know lists only, the settings are typed as tuples."""
    if isinstance(value, list | tuple):
        return tuple(tupled(item) for item in value)
    if isinstance(value, Mapping):
        return {key: tupled(item) for key, item in value.items()}
    return value


class Stopping(Section):
    """When a cell is done.

    Attributes:
        steps: of the dynamics, at most.
        loss: a cell is done when its loss is at most this; its values stay as they are there.
        gradient: a cell is done when the norm of its gradient is at most this.
        check_every: steps between two looks at loss and gradient.
        tolerance: largest relative duality gap that a solver accepts.
        max_iterations: limit of a solver's iterations.
    """

    steps: Annotated[int, Field(ge=0, lt=2**31)] = 1000
    loss: Positive | None = None
    gradient: Positive | None = None
    check_every: Count | None = None
    tolerance: Positive = 1e-9
    max_iterations: Count = 4000

    @model_validator(mode="after")
    def _consistent(self) -> "Stopping":
        if self.check_every is not None and self.loss is None and self.gradient is None:
            raise Mistake(("check_every",), "there is nothing to look at; give loss or gradient too, or leave it out")
        return self

    @property
    def early(self) -> bool:
        """Whether cells may be done before their last step."""
        return self.loss is not None or self.gradient is not None


class Measure(Section):
    """What is kept of a cell.

    Attributes:
        quantities: names of `flatmin.studies.quantities`, measured at the end.
        threshold: largest relative error of a recovered truth.
        record: quantities measured along the training too.
        every: steps between two records.
    """

    quantities: Annotated[tuple[str, ...], Field(min_length=1)] = ("loss",)
    threshold: Positive = 1e-3
    record: tuple[str, ...] = ()
    every: Count | None = None

    @model_validator(mode="after")
    def _known(self) -> "Measure":
        for field in ("quantities", "record"):
            names = getattr(self, field)
            for name in names:
                if name not in known_quantities():
                    raise Mistake((field,), f"{name!r} is not known; {nearest(name, known_quantities())}")
            if len(set(names)) != len(names):
                raise Mistake((field,), f"got {', '.join(names)}, expected different names; remove the repeated")
        if bool(self.record) != (self.every is not None):
            raise Mistake(("record",), "expected both record and every, or none; say how often to record")
        return self


class Distribution(Section):
    """How a random setting is drawn.

    Attributes:
        distribution: `uniform`, `log_uniform`, `integers` (both ends included) or `choice`.
        low: lower end.
        high: upper end.
        values: of a choice.
    """

    distribution: Literal["uniform", "log_uniform", "integers", "choice"]
    low: float | None = None
    high: float | None = None
    values: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Distribution":
        if self.distribution == "choice":
            if not self.values or self.low is not None or self.high is not None:
                raise ValueError("a choice takes values = [...], and neither low nor high")
        elif self.values is not None or self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"{self.distribution} takes low < high, and no values")
        elif self.distribution == "log_uniform" and self.low <= 0:
            raise ValueError("log_uniform takes 0 < low < high")
        return self


class Random(Section):
    """Random axes: each sample draws all of them.

    Attributes:
        samples: how many draws.
        seed: of the draws.
        draw: distribution by dotted name of the setting.
    """

    samples: Count
    seed: Annotated[int, Field(ge=0)] = 0
    draw: Annotated[dict[str, Distribution], Field(min_length=1)]


class Function(Model):
    """A cell that is a user's function, called as `function(seed=..., **settings)`; it returns a number by output.

    Attributes:
        call: `module:name`, importable where the cells run.
        outputs: names of the numbers.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    call: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    outputs: Annotated[tuple[str, ...], Field(min_length=1)] = ("value",)


class Adaptive(Section):
    """Which trials to spend: near the transition of a probability along an axis, until its interval is narrow.

    Attributes:
        axis: dotted name of the axis along which the probability passes from 0 to 1 (or back).
        quantity: a quantity that is 0 or 1 in each cell.
        half_width: wanted half-width of the 95% interval of the transition, in cells of the axis.
        first: trials that a line gets at a time, each at another value of the axis.
    """

    axis: str
    quantity: str = "recovered"
    half_width: Positive = 0.25
    first: Count = 4


class Batching(Section):
    """How cells are put into compiled calls.

    Attributes:
        width: lanes of a call, from 1 on; None lets the memory of the largest cell decide. The last bit of a result
            depends on it, so it belongs to the study and not to the run.
    """

    width: Annotated[int, Field(ge=1, le=4096)] | None = None


def seeds_table(value: Any) -> Any:
    """A number of seeds as the table that it stands for."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"count": value}
    if not isinstance(value, Mapping | Seeds):
        raise ValueError("expected a whole number, or { first = 0, count = 10 }")  # noqa: TRY004 - for pydantic
    return value


class Seeds(Section):
    """The seeds `first, first + 1, ...`: the last axis.

    Attributes:
        count: how many.
        first: the first one.
    """

    count: Count = 1
    first: Annotated[int, Field(ge=0, lt=2**31)] = 0
