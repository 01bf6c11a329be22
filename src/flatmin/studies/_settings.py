"""What a study may name: problems, starts, rules, programmes; and the settings that each takes, with their types."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model

from flatmin._core.models import Model

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]


class Section(Model):
    """One table of a study: strict types, no unknown settings, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A problem that a study may name.

    Attributes:
        name: of the function in `flatmin.problems`.
        traceable: whether its shapes do not depend on random numbers, so that many can be made in one compiled call.
        leaves: settings that are array leaves: a sweep over them is one compilation.
    """

    name: str
    traceable: bool = True
    leaves: tuple[str, ...] = ("noise",)

    @property
    def make(self) -> Callable[..., Any]:
        """The function."""
        from flatmin import problems

        return getattr(problems, self.name)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("matrix_sensing"),
        Preset("bilinear_sensing"),
        Preset("quadratic_network"),
        Preset("covariance_estimation"),
        Preset("phase_retrieval"),
        Preset("sparse_recovery"),
        # which entries are seen is random, and so are the shapes
        Preset("matrix_completion", traceable=False, leaves=()),
        Preset("robust_pca", traceable=False, leaves=()),
    )
}
_ARRAYS = ("key", "row_weights", "col_weights")


@functools.cache
def preset_model(name: str) -> type[Section]:
    """The settings of a preset, from the signature of its function.

    Args:
        name: one of `PRESETS`.

    Returns:
        A model with the field `preset` and one field a setting.
    """
    fields: dict[str, Any] = {"preset": (Literal[name], name)}
    for parameter in inspect.signature(PRESETS[name].make).parameters.values():
        if parameter.name not in _ARRAYS:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            # a library caller may pass a traced scalar, a file gives a number
            annotation = NonNegative if parameter.name == "noise" else parameter.annotation
            fields[parameter.name] = (annotation, default)
    return create_model(f"{name} settings", __base__=Section, **fields)


def _model(name: str, **fields: Any) -> type[Section]:
    return create_model(name, __base__=Section, **fields)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a table of a study may name, with the settings that it takes.

    Attributes:
        settings: name -> (type, default).
        make: from the settings and the planted problem; None where the registry of its room makes it.
    """

    settings: Mapping[str, tuple[Any, Any]]
    make: Callable[..., Any] | None = None

    def model(self, decider: str, name: str) -> type[Section]:
        """The settings as a model."""
        return _model(name, **{decider: (str, name)}, **self.settings)


def _scheme(name: str, *, of_truth: bool = False) -> Callable[..., Any]:
    def make(table: Mapping[str, Any], instance: Any) -> Any:
        from flatmin import parameterizations

        planted = (instance.truth,) if of_truth else ()
        settings = {key: value for key, value in table.items() if key != "scheme"}
        return getattr(parameterizations, name)(*planted, **settings)

    return make


STARTS: Mapping[str, Choice] = {
    "gaussian": Choice({"scale": (Positive, 0.3)}, _scheme("Gaussian")),
    "small": Choice({"scale": (Positive, 1e-2)}, _scheme("Small")),
    "orthogonal": Choice({"gain": (Positive, 1.0)}, _scheme("Orthogonal")),
    "residual": Choice({"scale": (NonNegative, 0.25)}, _scheme("Residual")),
    "balanced": Choice({}, _scheme("Balanced", of_truth=True)),
    "flattest": Choice({}, _scheme("Flattest", of_truth=True)),
}
"""How the parameters start; `balanced` and `flattest` factorise the planted truth."""


def _parameterization(name: str, *order: str) -> Callable[..., Any]:
    def make(table: Mapping[str, Any], shape: tuple[int, int]) -> Any:
        from flatmin import parameterizations

        return getattr(parameterizations, name)(shape[0] if name == "Quadratic" else shape, *(table[k] for k in order))

    return make


_WIDTH = Annotated[int | None, Field(ge=1)]
PARAMETERIZATIONS: Mapping[str, Choice] = {
    "deep_matrix": Choice(
        {"depth": (Count, 2), "width": (_WIDTH, None)}, _parameterization("deep_matrix", "depth", "width")
    ),
    "residual_chain": Choice({"depth": (Count, 2)}, _parameterization("residual_chain", "depth")),
    "hadamard": Choice({"depth": (Count, 2)}, _parameterization("Hadamard", "depth")),
    "quadratic": Choice(
        {"positive": (Count, ...), "negative": (int, 0)}, _parameterization("Quadratic", "positive", "negative")
    ),
}

OPTIMISERS = (
    *("adabelief", "adagrad", "adam", "adamax", "adamw", "amsgrad", "lamb", "lion", "nadam", "nadamw", "radam"),
    *("rmsprop", "sgd", "sm3", "yogi"),
)
"""Of optax: those that a step size is enough for."""
PENALTIES = ("squared_norm", "trace")
_TRANSLATED: Mapping[tuple[str, str], tuple[Any, Any]] = {
    ("penalised", "penalty"): (Literal[PENALTIES], "trace"),
    ("optax", "transformation"): (Literal[OPTIMISERS], "adam"),
    ("optax", "hyperparameters"): (Positive, ...),
    ("optax", "batch_size"): (_WIDTH, None),
    ("optax", "noise"): (Annotated[float | None, Field(ge=0)], None),
}
"""Fields of rules that are no numbers, and what a study writes for them."""
_NAMES = {"hyperparameters": "learning_rate"}
_LEFT = ("of_objective",)


def _rule_settings(name: str, rule: Any) -> dict[str, tuple[Any, Any]]:
    """The settings of a rule, from its fields."""
    found: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(rule):
        default = ... if field.default is dataclasses.MISSING else field.default
        within = field.metadata.get("range")
        if (name, field.name) in _TRANSLATED:
            found[_NAMES.get(field.name, field.name)] = _TRANSLATED[name, field.name]
        elif within is not None:
            limits = {"gt" if within.positive else "ge": 0, **({} if within.below is None else {"lt": within.below})}
            kind = float if default is not None else float | None
            found[field.name] = (Annotated[kind, Field(**limits)], default)
        elif field.name == "batch_size":
            found[field.name] = (Count, default)
        elif field.name == "replacement":
            found[field.name] = (bool, True)
        elif field.type in (int, float, bool, str) and field.name not in _LEFT:
            found[field.name] = (field.type, default)
    return found


class _Rules(Mapping[str, Choice]):
    """The registry of the rules, looked at when first asked."""

    def _known(self) -> Mapping[str, Any]:
        from flatmin.dynamics.registry import RULES

        return RULES

    def __getitem__(self, name: str) -> Choice:
        return Choice(_rule_settings(name, self._known()[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(list(iter(self)))


DYNAMICS = _Rules()


def dynamics_leaves() -> tuple[str, ...]:
    """Settings of rules that are array leaves: a sweep over them is one compilation."""
    from flatmin.dynamics.registry import RULES

    ranged = {f.name for name in DYNAMICS for f in dataclasses.fields(RULES[name]) if f.metadata.get("range")}
    return tuple(sorted({*ranged, "learning_rate", "noise"}))


def _program(name: str, *order: str) -> Callable[..., Any]:
    def make(table: Mapping[str, Any], problem: Any) -> Any:
        from flatmin import solvers

        return getattr(solvers, name)(problem.measurements, problem.targets, **{key: table[key] for key in order})

    return make


def _flat(table: Mapping[str, Any], problem: Any) -> Any:
    from flatmin.solvers import flat_program

    return flat_program(problem.parameterization, problem.measurements, problem.targets)


def _robust(table: Mapping[str, Any], problem: Any) -> Any:
    import jax.numpy as jnp

    from flatmin._core import UsageError
    from flatmin.measurements import EntryMeasurements
    from flatmin.solvers import RobustPCA

    seen = problem.measurements
    if not isinstance(seen, EntryMeasurements):
        raise UsageError(
            f"program: robust_pca needs entries of a matrix, got {type(seen).__name__}; take the preset robust_pca or "
            "matrix_completion"
        )
    mask = seen.adjoint(jnp.ones_like(problem.targets)) > 0
    penalty = table["penalty"] or 1 / max(seen.matrix_shape) ** 0.5  # Candes, Li, Ma, Wright 2011, theorem 1.1
    return RobustPCA(seen.adjoint(problem.targets), mask=mask, penalty=penalty)


PROGRAMS: Mapping[str, Choice] = {
    "min_norm": Choice(
        {
            "norm": (Literal["nuclear", "frobenius"], "nuclear"),
            "domain": (Literal["all", "symmetric", "psd"], "all"),
            "weights": (Literal["flat"] | None, None),
        },
        _program("MinNorm", "norm", "domain", "weights"),
    ),
    "min_nuclear_norm": Choice({}, _program("MinNuclearNorm")),
    "min_scaled_nuclear_norm": Choice({}, _program("MinScaledNuclearNorm")),
    "min_frobenius": Choice({}, _program("MinFrobenius")),
    "min_trace": Choice({}, _program("MinTrace")),
    "min_symmetric_nuclear_norm": Choice({}, _program("MinSymmetricNuclearNorm")),
    "min_weighted_lp": Choice({"depth": (Annotated[int, Field(ge=2)], 2)}, _program("MinWeightedLp", "depth")),
    "robust_pca": Choice({"penalty": (Annotated[float | None, Field(gt=0)], None)}, _robust),
    "flat": Choice({}, _flat),
}
"""The programmes; `flat` is the one whose minimisers are the flat solutions of the parameterization."""

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "problem": ("preset", PRESETS),
    "parameterization": ("kind", PARAMETERIZATIONS),
    "start": ("scheme", STARTS),
    "dynamics": ("rule", DYNAMICS),
    "solver": ("program", PROGRAMS),
}
"""Tables whose settings depend on one of them: its name, and what it may be."""


def chosen(decider: str, name: Any, choices: Mapping[str, Choice]) -> Any:
    """What a name stands for.

    Args:
        decider: of the table, for the sentence.
        name: what was written.
        choices: the registry.

    Returns:
        The choice.

    Raises:
        UsageError: for an unknown name, with the nearest.
    """
    from flatmin._core import choose

    return choices[choose(decider, name, choices)]


def section_model(family: str, choice: str) -> type[Section]:
    """The settings of a table.

    Args:
        family: one of `FAMILIES`.
        choice: what its deciding setting names; known.

    Returns:
        The model.
    """
    if family == "problem":
        return preset_model(choice)
    decider, choices = FAMILIES[family]
    return _choice_model(family, decider, choice) if family != "dynamics" else choices[choice].model(decider, choice)


@functools.cache
def _choice_model(family: str, decider: str, choice: str) -> type[Section]:
    return FAMILIES[family][1][choice].model(decider, choice)
