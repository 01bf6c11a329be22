"""flatmin: find, measure and certify flat minima of factorised models.

The rooms: `measurements` (what is seen of a matrix), `parameterizations` (how it is built), `problems` (both,
and targets), `flatness` (traces, sharpness, spectra), `solvers` (convex programmes with certificates),
`dynamics` (training), `interpolators` (the flattest one itself), `theory` (the papers' theorems as functions).
`experiments`, `report`, `datasets` and `cli` are imported on demand. Names are looked up when first used, so that
`flatmin --help` need not load JAX.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from flatmin import datasets as datasets
    from flatmin import diagnosis as diagnosis
    from flatmin import dynamics as dynamics
    from flatmin import estimators as estimators
    from flatmin import experiments as experiments
    from flatmin import flatness as flatness
    from flatmin import interpolators as interpolators
    from flatmin import linalg as linalg
    from flatmin import linear_networks as linear_networks
    from flatmin import measurements as measurements
    from flatmin import parameterizations as parameterizations
    from flatmin import problems as problems
    from flatmin import report as report
    from flatmin import solvers as solvers
    from flatmin import studies as studies
    from flatmin import testing as testing
    from flatmin import theory as theory
    from flatmin._core import Estimate as Estimate
    from flatmin._core import JobError as JobError
    from flatmin._core import Objective as Objective
    from flatmin._core import Outcome as Outcome
    from flatmin._core import Solution as Solution
    from flatmin._core import UsageError as UsageError
    from flatmin.diagnosis import diagnose as diagnose
    from flatmin.diagnosis import diagnose_quadratic as diagnose_quadratic
    from flatmin.dynamics import GradientDescent as GradientDescent
    from flatmin.dynamics import LabelNoiseSGD as LabelNoiseSGD
    from flatmin.dynamics import Record as Record
    from flatmin.dynamics import gradient_flow as gradient_flow
    from flatmin.dynamics import trace_flow as trace_flow
    from flatmin.dynamics import train as train
    from flatmin.dynamics import train_ensemble as train_ensemble
    from flatmin.flatness import hessian_trace as hessian_trace
    from flatmin.flatness import scaled_trace as scaled_trace
    from flatmin.flatness import sharpness as sharpness
    from flatmin.flatness import spectral_density as spectral_density
    from flatmin.flatness import spectrum as spectrum
    from flatmin.interpolators import flattest as flattest
    from flatmin.interpolators import follow_trace as follow_trace
    from flatmin.interpolators import induced_regulariser as induced_regulariser
    from flatmin.parameterizations import deep_matrix as deep_matrix
    from flatmin.problems import RecoveryProblem as RecoveryProblem
    from flatmin.solvers import MinFrobenius as MinFrobenius
    from flatmin.solvers import MinNuclearNorm as MinNuclearNorm
    from flatmin.solvers import MinScaledNuclearNorm as MinScaledNuclearNorm
    from flatmin.solvers import solve as solve

__version__ = "0.1.0"

_ROOMS = {
    *("datasets", "diagnosis", "dynamics", "estimators", "experiments", "flatness", "interpolators", "linalg"),
    *("linear_networks", "measurements", "parameterizations", "problems", "report", "solvers", "studies", "testing"),
    "theory",
}
_HOMES = {
    "_core": ("Estimate", "JobError", "Objective", "Outcome", "Solution", "UsageError"),
    "diagnosis": ("diagnose", "diagnose_quadratic"),
    "dynamics": (
        *("GradientDescent", "LabelNoiseSGD", "Record", "gradient_flow", "trace_flow", "train", "train_ensemble"),
    ),
    "flatness": ("hessian_trace", "scaled_trace", "sharpness", "spectral_density", "spectrum"),
    "interpolators": ("flattest", "follow_trace", "induced_regulariser"),
    "parameterizations": ("deep_matrix",),
    "problems": ("RecoveryProblem",),
    "solvers": ("MinFrobenius", "MinNuclearNorm", "MinScaledNuclearNorm", "solve"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a room or a name when it is first asked for."""
    if name in _ROOMS:
        return _importlib.import_module(f"flatmin.{name}")
    if name in _HOME_OF:
        value = getattr(_importlib.import_module(f"flatmin.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'flatmin' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", *_ROOMS, *_HOME_OF})
