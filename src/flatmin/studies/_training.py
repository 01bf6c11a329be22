"""Cells that train, or measure at the start: the lanes of a block run side by side in compiled calls."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from flatmin._core import Outcome, UsageError, choose
from flatmin._core.threads import machine_memory
from flatmin.dynamics import Record, Until, train_ensemble
from flatmin.dynamics.registry import RULES
from flatmin.flatness import Lanczos, sharpness
from flatmin.flatness.trace_forms import block_traces
from flatmin.problems import PlantedProblem, RecoveryProblem
from flatmin.studies._points import DENSE_LIMIT, Observed, in_float32, quantities_at
from flatmin.studies._settings import DYNAMICS, PARAMETERIZATIONS, PENALTIES, PRESETS, STARTS, chosen, dynamics_leaves

LOOK = 100
"""Steps between two looks at the loss, where the spec says when a cell is done but not when to look."""

Tables = Mapping[str, Mapping[str, Any]]
OUTCOMES = (Outcome.completed, Outcome.diverged, Outcome.converged, Outcome.max_iterations, Outcome.stalled,
            Outcome.undercut, Outcome.infeasible)  # fmt: skip
"""The order in which outcomes are numbered in the store."""


def split_leaves(tables: Tables) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """The settings cut into those that set shapes or programs, and array leaves.

    Args:
        tables: complete settings of a cell.

    Returns:
        Static settings by table, and leaves by dotted name.
    """
    static = {family: dict(table) for family, table in tables.items()}
    preset = PRESETS[static["problem"]["preset"]]
    names = {"problem": preset.leaves, "start": ("scale", "gain"), "dynamics": dynamics_leaves()}
    leaves: dict[str, float] = {}
    for family, candidates in names.items():
        for name in candidates:
            if isinstance(static.get(family, {}).get(name), int | float):
                leaves[f"{family}.{name}"] = float(static[family].pop(name))
    return static, leaves


def start_scheme(table: Mapping[str, Any], instance: PlantedProblem) -> Any:
    """The initialisation scheme of a table `start`."""
    return chosen("scheme", table["scheme"], STARTS).make(table, instance)


def make_instance(key: Any, tables: Tables) -> PlantedProblem:
    """The planted problem of a cell, with the study's parameterization in place of the preset's where one is given."""
    settings = dict(tables["problem"])
    instance = PRESETS[settings.pop("preset")].make(key, **settings)
    table = tables.get("parameterization")
    if table is None:
        return instance
    shape = instance.problem.measurements.matrix_shape
    parameterization = chosen("kind", table["kind"], PARAMETERIZATIONS).make(table, shape)

    def exchanged(problem: RecoveryProblem) -> RecoveryProblem:
        return RecoveryProblem(problem.measurements, parameterization, problem.targets)

    held_out = None if instance.held_out is None else exchanged(instance.held_out)
    return PlantedProblem(exchanged(instance.problem), instance.truth, instance.outliers, held_out)


def cell_keys(seed: Any) -> tuple[Any, Any, Any]:
    """The keys of problem, start and training: functions of the seed alone, so that cells share their randomness."""
    problem, start, training = jax.random.split(jax.random.key(seed), 3)
    return problem, start, training


def _one(static: Tables, seed: Any, leaves: Mapping[str, Any]) -> tuple[PlantedProblem, PyTree, Any]:
    tables: dict[str, dict[str, Any]] = {family: dict(table) for family, table in static.items()}
    for key, value in leaves.items():
        family, _, name = key.partition(".")
        tables[family][name] = value
    problem_key, start_key, training_key = cell_keys(seed)
    instance = make_instance(problem_key, tables)
    params = instance.problem.parameterization.init_params(start_key, start_scheme(tables["start"], instance))
    return instance, params, jax.random.key_data(training_key)


@functools.lru_cache(maxsize=64)
def _builder(static_json: str) -> Any:
    static = _from_json(static_json)
    build = functools.partial(_one, static)
    if PRESETS[static["problem"]["preset"]].traceable:
        return eqx.filter_jit(eqx.filter_vmap(build))

    def each(seeds: np.ndarray, leaves: Mapping[str, np.ndarray]) -> PyTree:
        lanes = [build(seed, {k: v[i] for k, v in leaves.items()}) for i, seed in enumerate(seeds)]
        return jax.tree.map(lambda *x: jnp.stack(x) if eqx.is_array(x[0]) else x[0], *lanes)

    return each


def _from_json(text: str) -> dict[str, dict[str, Any]]:
    def tupled(value: Any) -> Any:
        return tuple(tupled(v) for v in value) if isinstance(value, list) else value

    return {family: {k: tupled(v) for k, v in table.items()} for family, table in json.loads(text).items()}


@eqx.filter_jit
def _measured(instance: PlantedProblem, params: PyTree, names: tuple[str, ...], threshold: float) -> dict[str, Any]:
    return eqx.filter_vmap(lambda i, p: quantities_at(i, p, names, threshold))(instance, params)


def lane_bytes(tables: Tables) -> int:
    """Memory of one lane: its problem and parameters, and what training and measuring hold beside them.

    Args:
        tables: complete settings.

    Returns:
        An estimate in bytes, from the shapes alone; 0 where shapes are random.
    """
    static, leaves = split_leaves(tables)
    if not PRESETS[static["problem"]["preset"]].traceable:
        return 0
    shapes = eqx.filter_eval_shape(functools.partial(_one, static), jnp.zeros((), jnp.uint32), leaves)
    arrays = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes) if isinstance(x, jax.ShapeDtypeStruct))
    draws = 16 * 1024 * (static.get("dynamics", {}).get("batch_size") or 0)
    return 6 * arrays + draws


def check_tables(tables: Tables) -> None:
    """Build the problem and the parameters of a cell by their shapes alone.

    Args:
        tables: complete settings.

    Raises:
        UsageError: for settings that do not suit each other, and for more memory than the machine has.
        JobError: where the room of the problem says so.
    """
    try:
        needed = lane_bytes(tables)
        if not needed:  # shapes are random: what is looked at before the first random number is looked at
            key = jax.random.key(0)
            eqx.filter_eval_shape(lambda: make_instance(key, tables))
    except jax.errors.JAXTypeError:
        return
    if needed > machine_memory():
        raise UsageError(
            f"problem: a cell needs about {needed / 1e9:,.0f} GB of memory, this machine has "
            f"{machine_memory() / 1e9:,.0f} GB; make its shape smaller or take fewer measurements"
        )


def train_block(
    tables: Sequence[Tables],
    seeds: Sequence[int],
    measure: Mapping[str, Any],
    stopping: Mapping[str, Any],
    precision: str,
) -> dict[str, np.ndarray]:
    """Build, train and measure the lanes of a block.

    Args:
        tables: complete settings of each lane; they differ in leaves only.
        seeds: of each lane.
        measure: `quantities`, `threshold`, `record`, `every`.
        stopping: `steps`, `loss`, `gradient`, `check_every`.
        precision: of the training.

    Returns:
        Values by name, shape (lanes,) or (lanes, times); `outcome` counts in `OUTCOMES`.

    Raises:
        UsageError: for settings that do not fit each other.
    """
    cut = [split_leaves(table) for table in tables]
    static_json = json.dumps(cut[0][0], sort_keys=True)
    leaves = {key: np.array([lane[1][key] for lane in cut]) for key in cut[0][1]}
    building = {key: value for key, value in leaves.items() if not key.startswith("dynamics.")}
    built = _builder(static_json)(np.asarray(seeds, np.uint32), building)
    instance, params, key_data = built
    names, threshold = tuple(measure["quantities"]), float(measure["threshold"])
    found: dict[str, np.ndarray] = {}
    outcome = np.zeros(len(tables))
    rule = cut[0][0].get("dynamics")
    if rule is not None:
        single = precision == "float32"
        problem = in_float32(instance.problem) if single else instance.problem
        objective = Observed(problem, instance, tuple(measure["record"]), threshold)
        records = {"all": Record(objective.quantities, every=measure["every"])} if measure["record"] else {}
        result = train_ensemble(
            objective,
            _dynamics(rule, {k.partition(".")[2]: v for k, v in leaves.items() if k.startswith("dynamics.")}),
            in_float32(params) if single else params,
            steps=stopping["steps"],
            keys=jax.random.wrap_key_data(key_data),
            batched_objective=True,
            records=records,
            chunk=min(1024, max(stopping["steps"], 1)),
            until=_until(stopping),
        )
        params = jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, result.params)
        outcomes = result.outcome if isinstance(result.outcome, tuple) else (result.outcome,)
        if Outcome.interrupted in outcomes:
            raise KeyboardInterrupt
        outcome = np.array([float(OUTCOMES.index(o)) for o in outcomes])
        found["steps"] = np.asarray(result.step, float)
        if records:
            history = result.records["all"]
            count = len(records["all"].times(stopping["steps"]))
            found |= {f"{name}_along": _filled(np.asarray(v), count) for name, v in history.values.items()}
    size = sum(leaf[0].size for leaf in jax.tree.leaves(params))
    alone = ("sharpness",) if "sharpness" in names and size > DENSE_LIMIT else ()
    together = tuple(name for name in names if name not in alone)
    found |= {name: np.asarray(values) for name, values in _measured(instance, params, together, threshold).items()}
    if alone:
        found |= _sharpness(instance, params, len(tables))
    return {"outcome": outcome, **found}


def _sharpness(instance: PlantedProblem, params: PyTree, lanes: int) -> dict[str, np.ndarray]:
    """The sharpness of each lane without forming a Hessian, which no compiled call over many can do."""
    estimates = []
    for lane in range(lanes):
        problem, point = (
            jax.tree.map(lambda x, lane=lane: x[lane] if eqx.is_array(x) else x, tree)
            for tree in (instance.problem, params)
        )
        estimates.append(sharpness(problem, point, Lanczos()))
    return {
        "sharpness": np.array([float(e.value) for e in estimates]),
        "sharpness_error": np.array([float(e.error) for e in estimates]),
    }


def _until(stopping: Mapping[str, Any]) -> Until | None:
    if stopping["loss"] is None and stopping["gradient"] is None:
        return None
    return Until(stopping["loss"], stopping["gradient"], stopping["check_every"] or LOOK)


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    """NaN for the times after all lanes have diverged, where nothing was recorded."""
    missing = np.full((values.shape[0], count - values.shape[1]), np.nan)
    return np.concatenate([values, missing], axis=1)


def _dynamics(rule: Mapping[str, Any], leaves: Mapping[str, np.ndarray]) -> Any:
    settings = {**rule, **leaves}
    name = settings.pop("rule")
    known = chosen("rule", name, DYNAMICS).settings
    for setting in settings:
        choose(f"the settings of {name}", setting, known)
    if name == "penalised":
        settings |= {"penalty": _PENALTIES[settings.get("penalty", "trace")], "of_objective": True}
    if name == "optax":
        settings["transformation"] = getattr(optax, settings["transformation"])
    return RULES[name](**settings)


def _squared_norm(objective: Observed, params: PyTree) -> jax.Array:
    return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), jnp.zeros(()))


def _trace(objective: Observed, params: PyTree) -> jax.Array:
    return jnp.sum(block_traces(objective.problem, params))


_PENALTIES = dict(zip(PENALTIES, (_squared_norm, _trace), strict=True))
