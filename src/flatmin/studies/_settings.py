"""What a study may name: problems, starts, rules, programmes; and the settings that each takes, with their types."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
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


STARTS: Mapping[str, type[Section]] = {
    "gaussian": _model("gaussian", scheme=(str, "gaussian"), scale=(Positive, 0.3)),
    "small": _model("small", scheme=(str, "small"), scale=(Positive, 1e-2)),
    "orthogonal": _model("orthogonal", scheme=(str, "orthogonal"), gain=(Positive, 1.0)),
    "residual": _model("residual", scheme=(str, "residual"), scale=(NonNegative, 0.25)),
    "balanced": _model("balanced", scheme=(str, "balanced")),
    "flattest": _model("flattest", scheme=(str, "flattest")),
}
"""How the parameters start; `balanced` and `flattest` factorise the planted truth."""

PARAMETERIZATIONS: Mapping[str, type[Section]] = {
    "deep_matrix": _model(
        "deep_matrix", kind=(str, "deep_matrix"), depth=(Count, 2), width=(Annotated[int | None, Field(ge=1)], None)
    ),
    "residual_chain": _model("residual_chain", kind=(str, "residual_chain"), depth=(Count, 2)),
    "hadamard": _model("hadamard", kind=(str, "hadamard"), depth=(Count, 2)),
    "quadratic": _model("quadratic", kind=(str, "quadratic"), positive=(Count, ...), negative=(int, 0)),
}

_COMMON: dict[str, Any] = {
    "learning_rate": (Positive, ...),
    "momentum": (Annotated[float | None, Field(ge=0, lt=1)], None),
    "weight_decay": (Annotated[float | None, Field(ge=0)], None),
}
DYNAMICS: Mapping[str, type[Section]] = {
    "gradient_descent": _model("gradient_descent", rule=(str, "gradient_descent"), **_COMMON),
    "sgd": _model("sgd", rule=(str, "sgd"), batch_size=(Count, ...), **_COMMON),
    "label_noise_sgd": _model(
        "label_noise_sgd", rule=(str, "label_noise_sgd"), batch_size=(Count, ...), noise=(NonNegative, ...), **_COMMON
    ),
}
DYNAMICS_LEAVES = ("learning_rate", "noise", "momentum", "weight_decay")

_KINDS = (
    *("min_nuclear_norm", "min_scaled_nuclear_norm", "min_frobenius", "min_trace", "min_symmetric_nuclear_norm"),
    *("flat",),
)
SOLVERS: Mapping[str, type[Section]] = {name: _model(name, program=(str, name)) for name in _KINDS}
"""The programmes; `flat` is the one whose minimisers are the flat solutions of the parameterization."""

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "problem": ("preset", PRESETS),
    "parameterization": ("kind", PARAMETERIZATIONS),
    "start": ("scheme", STARTS),
    "dynamics": ("rule", DYNAMICS),
    "solver": ("program", SOLVERS),
}
"""Tables whose settings depend on one of them: its name, and what it may be."""


def section_model(family: str, choice: str) -> type[Section]:
    """The settings of a table.

    Args:
        family: one of `FAMILIES`.
        choice: what its deciding setting names; known.

    Returns:
        The model.
    """
    return preset_model(choice) if family == "problem" else FAMILIES[family][1][choice]
