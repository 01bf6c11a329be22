"""Values with which the public callables pass: by the argument's name, and of single callables.

A new callable needs an entry in `CALLS` only where a name's usual value does not fit.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import sparse

import report_example
from flatmin import linear_networks as ln
from flatmin import measurements as me
from flatmin import parameterizations as pa
from flatmin import problems as pr
from flatmin import solvers as sv
from flatmin.datasets import RecoveryData
from flatmin.dynamics import GradientDescent, Record, train
from flatmin.experiments import claims_to_json, obtain_run
from flatmin.experiments.cells import Context
from flatmin.experiments.ledger import ENTRIES, Batch, Ledger, family
from flatmin.experiments.recovery import Source, prepare, recovery_spec
from flatmin.experiments.regulariser import ExploreRegulariser
from flatmin.report import Axis, Series, to_dataset
from flatmin.solvers import large
from flatmin.studies import StudySpec, find_store, load_spec, run_study, study_spec

RAW = {"name": "door", "seeds": 1, "function": {"call": "math:floor"}, "axes": {"function.x": [0.5, 1.5]}}
EXAMPLES = pathlib.Path(__file__).parent.parent / "examples" / "studies"

SHAPE, M = (4, 3), 11
RNG = np.random.default_rng(0)
MATRIX = np.outer([1.0, 2.0, -1.0, 0.5], [1.0, -1.0, 2.0])
SQUARE = np.diag([3.0, 2.0, 1.0, 0.5])


def key() -> jax.Array:
    return jax.random.key(0)


@functools.cache
def op() -> me.AbstractMeasurements:
    return me.gaussian(key(), M, SHAPE)


@functools.cache
def square_op() -> me.AbstractMeasurements:
    return me.gaussian(key(), M, (4, 4))


@functools.cache
def symmetric_op() -> me.AbstractMeasurements:
    return me.symmetrised(square_op())


@functools.cache
def planted() -> pr.PlantedProblem:
    return pr.matrix_sensing(key(), SHAPE, 1, M)


def problem() -> pr.RecoveryProblem:
    return planted().problem


@functools.cache
def params() -> Any:
    return problem().parameterization.init_params(key(), pa.Gaussian(0.5))


def targets() -> jax.Array:
    return op().forward(jnp.asarray(MATRIX))


def program() -> sv.MinNuclearNorm:
    return sv.MinNuclearNorm(op(), targets())


@functools.cache
def completion() -> Any:
    rows, cols = np.divmod(np.arange(24), 6)
    rows = np.where(np.arange(24) == 23, 4, rows)
    return large.large_completion(rows, cols, np.outer(np.arange(1, 6), np.ones(6))[rows, cols], (5, 6), penalty=0.1)


@functools.cache
def network() -> ln.Network:
    return ln.Network(3, 2)


@functools.cache
def data() -> ln.RegressionData:
    return ln.regression_data(RNG.standard_normal((6, 3)), RNG.standard_normal(6))


def _ones(*shape: int) -> Callable[[], np.ndarray]:
    return lambda: np.ones(shape)


@functools.cache
def _fitted() -> dict[str, Any]:
    """Parameters with zero loss, for what is defined at interpolating points only."""
    return {"params": problem().parameterization.init_params(key(), pa.Balanced(planted().truth))}


def _bowl(params: Any) -> jax.Array:
    return jnp.sum(jnp.asarray([1.0, 3.0]) * params["w"] ** 2)


def _point() -> dict[str, jax.Array]:
    return {"w": jnp.asarray([1.0, -2.0])}


def _data() -> tuple[jax.Array, jax.Array]:
    return jnp.ones((6, 2)), jnp.ones(6)


@functools.cache
def _trained() -> Any:
    records = {"loss": Record(_bowl, every=1), "sharpness": Record(lambda params: 6.0 + 0 * params["w"][0], every=1)}
    return train(_bowl, GradientDescent(0.01), _point(), steps=20, key=key(), records=records)


def _source() -> Source:
    return Source(sha256="0", kind="table")


def _recovery() -> Any:
    return recovery_spec(_source(), size=12)


def _table() -> RecoveryData:
    rows, cols = np.divmod(np.arange(12), 3)
    return RecoveryData("table", me.entries(rows, cols, SHAPE), MATRIX.ravel())


@functools.cache
def _prepared() -> Any:
    return prepare(_table(), _recovery())


@functools.cache
def _content() -> Any:
    return report_example.content()


@functools.cache
def _run() -> Any:
    folder = pathlib.Path(tempfile.mkdtemp())
    return obtain_run(report_example.EXPERIMENT, report_example.ExampleSpec(), report_example.content, out=folder)[0]


def _study() -> StudySpec:
    return study_spec(
        {"name": "door", "seeds": 1, "function": {"call": "math:floor"}, "axes": {"function.x": [0.5, 1.5]}}
    )


@functools.cache
def _store() -> Any:
    folder = pathlib.Path(tempfile.mkdtemp()) / "study"
    run_study(load_spec(EXAMPLES / "phase-diagram.toml"), folder, shard=(1, 1000))
    return find_store(folder)


def _draw(rng: Any, count: int, **_: Any) -> Any:
    return Batch(np.ones(count), np.ones(count))


@functools.cache
def _file() -> pathlib.Path:
    path = pathlib.Path(tempfile.mkdtemp()) / "table.csv"
    path.write_text("row,column,value\n" + "".join(f"{i},{j},{x}\n" for (i, j), x in np.ndenumerate(MATRIX)))
    return path


def _address() -> str:
    return f"{next(iter(ENTRIES))}:0:0"


ELSEWHERE = {
    "experiments.ledger.compute": "test_ledger.py",
    "experiments.recovery.recover": "test_recover.py",
    "experiments.regulariser.explore": "test_explore_regulariser.py",
    "experiments.study_report.report_study": "test_study_command.py",
    "studies.engine.run_study": "test_studies.py",
}
"""Callables that compute for long: their valid calls are in these files."""

BY_NAME: dict[str, Callable[[], Any]] = {
    "source": lambda: EXAMPLES / "phase-diagram.toml",
    "path": lambda: _run().path,
    "version": lambda: 1,
    "title": lambda: "A title",
    "text": lambda: "a text",
    "claims": lambda: _content().claims,
    "interval": lambda: (1.0, 2.0),
    "value": lambda: 1.5,
    "datasets": dict,
    "experiment": lambda: report_example.EXPERIMENT,
    "spec": _recovery,
    "run": _run,
    "render": lambda: lambda run, folder: None,
    "origin": lambda: "ours",
    "description": lambda: "what it is",
    "statement": lambda: "x = x",
    "assumptions": lambda: "none",
    "prepared": _prepared,
    "context": lambda: Context(pathlib.Path(tempfile.mkdtemp())),
    "store": _store,
    "figure": report_example.points_figure,
    "figures": report_example.figures,
    "folder": lambda: pathlib.Path(tempfile.mkdtemp()),
    "raw": lambda: RAW,
    "problem_or_fn": problem,
    "inner": op,
    "matvec": lambda: lambda vector: 2.0 * vector,
    "function": lambda: lambda x: x,
    "vector": lambda: np.ones(4),
    "vectors": lambda: np.ones((5, 4)),
    "tensor": lambda: np.ones((M, *SHAPE)),
    "count": lambda: 5,
    "order": lambda: 4,
    "num_probes": lambda: 4,
    "num_matvecs": lambda: 12,
    "array": lambda: jnp.ones(3),
    "samples": lambda: 20,
    "key": key,
    "matrix": lambda: MATRIX,
    "M": lambda: MATRIX,
    "truth": lambda: MATRIX,
    "measurement": lambda: MATRIX,
    "op": op,
    "measurements": op,
    "parameterization": lambda: problem().parameterization,
    "problem": problem,
    "params": params,
    "program": program,
    "programs": lambda: [program()],
    "targets": targets,
    "target": lambda: 1.5,
    "depth": lambda: 2,
    "matrix_shape": lambda: SHAPE,
    "shape": lambda: SHAPE,
    "widths": lambda: (3, 3, 4),
    "num_measurements": lambda: M,
    "num_samples": lambda: 20,
    "batch_size": lambda: 2,
    "size": lambda: 4,
    "dimension": lambda: 4,
    "rank": lambda: 1,
    "sparsity": lambda: 1,
    "positive": lambda: 2,
    "negative": lambda: 1,
    "weight": lambda: SQUARE,
    "covariance": lambda: SQUARE,
    "w": lambda: np.ones(4),
    "left": lambda: np.ones(4),
    "u": lambda: np.ones(4),
    "right": lambda: np.ones(3),
    "v": lambda: np.ones(3),
    "T": lambda: MATRIX,
    "scale": lambda: 0.5,
    "radius": lambda: 0.5,
    "penalty": lambda: 0.5,
    "exponent": lambda: 1.0,
    "fraction": lambda: 0.8,
    "outliers": lambda: 0.1,
    "outlier_size": lambda: 2.0,
    "noise": lambda: 0.1,
    "learning_rate": lambda: 0.01,
    "steps": lambda: 10,
    "momentum": lambda: 0.5,
    "delta": lambda: 0.1,
    "nuclear": lambda: 2.0,
    "true_nuclear": lambda: 2.0,
    "flat_nuclear": lambda: 2.0,
    "sharpness": lambda: 2.0,
    "a": lambda: 0.5,
    "w_norm": lambda: 1.5,
    "lambda_max": lambda: 2.0,
    "kappa": lambda: 1.5,
    "kappa_low": lambda: 0.5,
    "kappa_high": lambda: 1.5,
    "p": lambda: 0.5,
    "indices": lambda: np.array([0, 2]),
    "rows": lambda: np.array([0, 1, 3]),
    "cols": lambda: np.array([0, 2, 1]),
    "inputs": lambda: RNG.standard_normal((6, 3)),
    "outputs": lambda: RNG.standard_normal(6),
    "blocks": lambda: (np.ones((2, 2)), np.ones((1, 1))),
    "layers": lambda: (np.ones((3, 3)), np.ones((4, 3))),
    "sample_hessians": lambda: np.stack([np.eye(3)] * 4),
    "network": network,
    "data": data,
    "weights": lambda: network().initial(key(), np.full(2, 0.5)),
    "gain": lambda: 1.0,
    "level": lambda: 2.0,
    "rng": lambda: np.random.default_rng(0),
    "observed": lambda: MATRIX,
    "dtype": lambda: jnp.float64,
}

CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "diagnosis.quadratic.diagnose_quadratic": lambda: {
        "measurements": symmetric_op(),
        "matrix": SQUARE,
        "targets": symmetric_op().forward(jnp.asarray(SQUARE)),
    },
    "flatness.mean_square.sgd_stability_threshold": _fitted,
    "interpolators.solver.flattest": lambda: {"starts": ("nuclear",)},
    "linear_networks.network.Weights": lambda: {
        "first": None,
        "inner": np.ones((1, 3, 3, 2)),
        "last": np.ones((3, 2)),
    },
    "measurements._generic.forward_product": lambda: {"left": np.ones((4, 2)), "right": np.ones((2, 3))},
    "measurements._generic.twist_gram": lambda: {"op": square_op(), "T": SQUARE},
    "parameterizations.residual_chain.ResidualChain": lambda: {"readout": np.ones((1, 3))},
    "parameterizations.sum.Sum": lambda: {"parts": (pa.DeepMatrix((3, 3, 4)), pa.Hadamard((4, 3), 2))},
    "problems.activated.ActivatedRegression": lambda: {
        "outputs": np.ones((6, 2)),
        "layers": pa.DeepMatrix((3, 3, 2)),
        "activation": "gelu",
    },
    "problems.activated.activated_regression": lambda: {"activation": "gelu"},
    "solvers.misfits.L1Loss": lambda: {"weight": 0.5},
    "solvers.misfits.HuberLoss": lambda: {"weight": 0.5, "penalty": 0.5},
    "solvers.programs.MinSymmetricNuclearNorm": lambda: {"measurements": symmetric_op()},
    "solvers.programs.MinTrace": lambda: {"measurements": symmetric_op()},
    "solvers.robust.RobustPCA": lambda: {"penalty": 0.5},
    "solvers.certificate.certify": lambda: {"dual": np.ones(M)},
    "solvers.large.certificate.certify_large": lambda: {
        "problem": completion(),
        "left": np.ones((5, 1)),
        "right": np.ones((6, 1)),
        "penalty": 0.1,
    },
    "solvers.large.method.complete": lambda: {"problem": completion()},
    "solvers.large.method.largest_penalty": lambda: {"problem": completion()},
    "solvers.large.problem.large_completion": lambda: {
        "rows": np.array([0, 1, 2, 3]),
        "cols": np.array([0, 2, 1, 1]),
        "values": np.ones(4),
        "penalty": 0.1,
    },
    "solvers.large.sweeps.project_rows": lambda: {
        "rows": np.array([0, 1, 2]),
        "cols": np.array([0, 2, 1]),
        "values": np.ones(3),
        "right": np.ones((3, 1)),
        "ridge": np.ones(3),
    },
    "solvers.large.spectral.spectral_bound": lambda: {
        "matrix": sparse.csr_array(MATRIX),
        "transpose": sparse.csr_array(MATRIX.T),
        "left": np.ones((4, 1)),
        "right": np.ones((3, 1)),
    },
    "_core.objective.Objective": lambda: {
        "fn": lambda params, x, y: jnp.mean((x @ params["w"] - y) ** 2),
        "data": _data(),
    },
    "dynamics.checkpoint.Checkpoint": lambda: {"path": pathlib.Path("run.ckpt")},
    "dynamics.descent.LabelNoiseSGD": lambda: {"noise": 0.1, "batch_size": 2},
    "dynamics.flatness_seeking.PenalisedGradientDescent": lambda: {"penalty": _bowl, "coefficient": 0.1},
    "dynamics.flow.gradient_flow": lambda: {"objective": _bowl, "params": _point(), "max_time": 1.0},
    "dynamics.matched.descent_beside_flow": lambda: {"objective": _bowl, "params": _point(), "steps": (0, 2)},
    "dynamics.optax_rule.OptaxRule": lambda: {"transformation": optax.sgd(0.01)},
    "dynamics.record.Record": lambda: {"fn": _bowl, "every": 1},
    "dynamics.record.log_spaced": lambda: {"count": 3},
    "dynamics.registry.register": lambda: {"name": "door rule"},
    "dynamics.schedule.Piecewise": lambda: {"boundaries": (10,), "values": (0.1, 0.01)},
    "dynamics.schedule.hyperparameter": lambda: {"value": 0.5},
    "dynamics.schedule.value_at": lambda: {"value": 0.5, "step": jnp.asarray(3)},
    "dynamics.stability.classify_run": lambda: {
        "losses": np.geomspace(1, 1e-3, 20),
        "sharpness": np.ones(20),
        "learning_rate": 0.1,
    },
    "dynamics.stability.progressive_sharpening_rate": lambda: {
        "sharpness": np.linspace(1, 2, 20),
        "learning_rate": 0.1,
        "steps": np.arange(20),
    },
    "dynamics.stability.stability_report": lambda: {"result": _trained()},
    "dynamics.trace_flow.trace_flow": lambda: {
        "trace": lambda p: jnp.sum(p["w"] ** 2),
        "residual": lambda p: p["w"][:1] - 1.0,
        "params": _point(),
        "max_time": 0.1,
    },
    "dynamics.train.train": lambda: {
        "objective": _bowl,
        "params": _point(),
        "dynamics": GradientDescent(0.01),
        "steps": 2,
    },
    "dynamics.ensemble.train_ensemble": lambda: {
        "objective": _bowl,
        "params": _point(),
        "dynamics": GradientDescent(0.01),
        "steps": 2,
        "keys": jax.random.split(key(), 2),
        "batched_params": False,
    },
    "flatness.select.select_method": lambda: {"verb": "hessian_trace"},
    "linalg.curvature.FlatHessian": lambda: {"fn": _bowl, "params": _point()},
    "linalg.curvature.flat_hessian": lambda: {"fn": _bowl, "params": _point()},
    "linalg.lanczos.lanczos_ends": lambda: {"tolerance": 1e-6},
    "linalg.programs.compiled": lambda: {"function": _bowl},
    "linalg.trace.calibrated": lambda: {"samples": np.arange(20.0)},
    "linalg.trace.xtrace": lambda: {"size": 100},
    "linalg.trace.hutch_plus_plus": lambda: {"size": 100},
    "measurements.rank_one.LowRankMeasurements": lambda: {"left": np.ones((M, 1, 4)), "right": np.ones((M, 1, 3))},
    "measurements.rank_one.rank_one": lambda: {"left": np.ones((M, 4)), "right": np.ones((M, 3))},
    "measurements._base.check_weights": lambda: {"weights": np.ones(M)},
    "measurements.composite.stacked": lambda: {"parts": (op(), op())},
    "measurements.composite.StackedMeasurements": lambda: {"parts": (op(), op())},
    "measurements.composite.SymmetrisedMeasurements": lambda: {"inner": square_op()},
    "measurements.composite.symmetrised": lambda: {"inner": square_op()},
    "measurements.function.FunctionMeasurements": lambda: {"fn": lambda X: X.ravel()[:5], "count": 5},
    "measurements.function.from_function": lambda: {"fn": lambda X: X.ravel()[:5]},
    "measurements.moments.MomentMeasurements": lambda: {"row_moment": np.eye(4), "col_moment": np.eye(3)},
    "measurements._base.pick": lambda: {"values": np.ones(M)},
    "parameterizations.params.check_factors": dict,
    "testing.rules.rule_laws": lambda: {"rule": GradientDescent(0.01), "objective": _bowl, "params": _point()},
    "datasets.packaged.PackagedFile": lambda: {
        "package": "scikit-learn",
        "install": "scikit-learn",
        "path": "sklearn/datasets/data/iris.csv",
        "sha256": "0" * 64,
        "about": "a table",
    },
    "datasets.packaged.load_packaged": lambda: {"name": "digits"},
    "datasets.recovery_data.RecoveryData": lambda: {
        "name": "table",
        "measurements": me.entries(np.array([0, 1, 3]), np.array([0, 2, 1]), SHAPE),
        "targets": np.ones(3),
    },
    "dynamics.until.Until": lambda: {"loss": 1e-3},
    "experiments.claims.claims_from_json": lambda: {"text": claims_to_json(_content().claims)},
    "experiments.figure_data.from_dataset": lambda: {"dataset": to_dataset(report_example.points_figure())},
    "experiments.figures.Axis": lambda: {"label": "x"},
    "experiments.figures.Figure": lambda: {
        "key": "points",
        "title": "Points",
        "caption": "Two points.",
        "panels": report_example.points_figure().panels,
        "intervals": "minimum to maximum",
    },
    "experiments.figures.HeatmapPanel": lambda: {
        "title": "Heat",
        "x": Axis("x"),
        "y": Axis("y"),
        "x_values": np.arange(3.0),
        "y_values": np.arange(4.0),
        "values": MATRIX,
        "color": Axis("z"),
    },
    "experiments.figures.ImagePanel": lambda: {"title": "Image", "image": MATRIX},
    "experiments.figures.Panel": lambda: {
        "title": "Panel",
        "x": Axis("x"),
        "y": Axis("y"),
        "series": (Series("s", np.arange(3.0), np.ones(3)),),
    },
    "experiments.figures.ReferenceLine": lambda: {"label": "line", "value": 1.0},
    "experiments.figures.Series": lambda: {"label": "s", "x": np.arange(3.0), "y": np.ones(3)},
    "experiments.ledger._entry.Batch": lambda: {"predicted": np.ones(3), "measured": np.ones(3)},
    "experiments.ledger._entry.Family": lambda: {"label": "small", "count": 5, "quick": 2, "settings": {}},
    "experiments.ledger._entry.family": lambda: {"label": "small"},
    "experiments.ledger.compute": lambda: {"spec": Ledger(quick=True, entries=(next(iter(ENTRIES)),))},
    "experiments.ledger._entry.Entry": lambda: {
        "key": "door-line",
        "source": "ours",
        "kind": "value",
        "families": (family("small", 5),),
        "make": _draw,
        "functions": (),
        "tight": False,
        "margin": 0.0,
        "note": "",
    },
    "experiments.ledger._entry.entry": lambda: {
        "key": "door-line",
        "source": "ours",
        "kind": "value",
        "families": (family("small", 5),),
    },
    "experiments.ledger._entry.measure_entry": lambda: {
        "found": next(iter(ENTRIES.values())),
        "seed": 0,
        "quick": True,
    },
    "experiments.ledger._entry.rebuild": lambda: {"address": _address()},
    "experiments.recovery.prepared.prepare": lambda: {"data": _table()},
    "datasets.reading.read_data": lambda: {"source": _file()},
    "experiments.recovery.spec.recovery_experiment": lambda: {"name": "table", "method": "nuclear"},
    "experiments.recovery.spec.recovery_spec": lambda: {"source": _source(), "size": 12},
    "experiments.regulariser.explore": lambda: {"spec": ExploreRegulariser()},
    "experiments.runs.obtain_run": lambda: {
        "experiment": report_example.EXPERIMENT,
        "spec": report_example.ExampleSpec(),
        "compute": report_example.content,
    },
    "experiments.specs.Setting": lambda: {"name": "rank", "value": 3, "origin": "paper", "description": "the rank"},
    "experiments.specs.run_id": lambda: {"experiment": "example"},
    "experiments.specs.Experiment": lambda: {"name": "example"},
    "report.matplotlib_renderer.matplotlib_bytes": lambda: {"kind": "png"},
    "report.page.render_page": lambda: {
        "figures": {f.key: f for f in report_example.figures()},
        "images": {f.key: b"" for f in report_example.figures()},
    },
    "studies.reading.load_spec": lambda: {"path": EXAMPLES / "phase-diagram.toml"},
    "studies.study.Study": lambda: {"spec": _study(), "width": 1},
    "studies.study.plan": lambda: {"spec": _study()},
    "studies.engine.run_study": lambda: {"spec": _study(), "folder": pathlib.Path("study")},
    "studies.opening.find_store": lambda: {"folder": _store().folder},
    "experiments.study_report.figures.study_figures": lambda: {"study": _store().study, "content": _store().read()},
    "theory.closed_forms.block_completion_regulariser": lambda: {"num_measurements": 5},
    "theory.closed_forms.rectangle_lower_bound": lambda: {"num_measurements": 5},
    "theory.ding2022.flat_factors": lambda: {"width": 3},
    "theory.ding2022.quadratic_weight": lambda: {"measurements": symmetric_op()},
    "theory.ding2022.flat_units": lambda: {"measurements": symmetric_op(), "matrix": SQUARE},
    "theory.ding2022.imbalance_bound": lambda: {"left": SQUARE, "right": np.eye(3)},
    "theory.ding2022.norm_gap_bound": lambda: {"left": SQUARE, "right": np.eye(3)},
    "theory.ding2022.smallest_hadamard_trace": lambda: {"weights": np.ones(4), "vector": np.ones(4)},
    "theory.ding2022.smallest_quadratic_trace": lambda: {"measurements": symmetric_op(), "matrix": SQUARE},
    "theory.gatmiry2023.single_measurement_minimiser": lambda: {"measurement": SQUARE, "matrix": SQUARE},
}
"""Of single callables: the arguments that have another value."""

_RETURNED, _MODEL, _SKLEARN = (
    "built by the library only",
    "a pydantic model: tests/test_domains.py and the commands' tests show its sentences",
    "scikit-learn's constructors store what they get; `fit` checks it (tests/test_estimators.py)",
)
NO_DOORS: dict[str, str] = {
    **dict.fromkeys(
        (
            "datasets.ratings.Ratings",
            "dynamics._base.DynamicsState",
            "dynamics._base.StepInfo",
            "experiments.runs.Run",
            "experiments.ledger._entry.Instance",
            "experiments.recovery.prepared.Prepared",
            "experiments.study_report.StudyReport",
            "linear_networks.descent.Descent",
            "linear_networks.data.RegressionData",
            "report.tables.ValueTable",
            "solvers.large.problem.LargeCompletion",
            "solvers.large.spectral.SpectralBound",
            "studies.engine.Progress",
            "studies.engine.Summary",
            "theory._statements.Statement",
        ),
        _RETURNED,
    ),
    **dict.fromkeys(
        (
            "experiments.claims.Claim",
            "experiments.ledger.spec.Ledger",
            "experiments.recovery.spec.Recovery",
            "experiments.recovery.result.RecoveryResult",
            "experiments.recovery.spec.Source",
            "experiments.regulariser.spec.ExploreRegulariser",
            "studies.spec.StudySpec",
        ),
        _MODEL,
    ),
    **dict.fromkeys(
        (
            "estimators.completion.FlatCompletion",
            "estimators.completion.NuclearCompletion",
            "estimators.covariance.FlatCovariance",
            "estimators.robust.FlatRobustPCA",
        ),
        _SKLEARN,
    ),
    "dynamics.record.step_loss": "a marker for records: it is not called (tests/test_rules.py)",
    "flatness.trace_forms.register_block_traces": "takes a class, in a decorator (tests/test_own_parameterization.py)",
    "linalg.curvature.check_point": "the check itself (tests/test_curvature_errors.py)",
}
"""Public callables whose arguments are not a user's, with the reason."""

NOT_TRIED: dict[str, tuple[str, ...]] = {
    "interpolators.solver.flattest": ("progress",),
    "dynamics.flow.gradient_flow": ("params",),
    "dynamics.trace_flow.trace_flow": ("params",),
    "dynamics.train.train": ("params",),
    "dynamics.ensemble.train_ensemble": ("params",),
    "dynamics.matched.descent_beside_flow": ("params",),
    "testing.measurements.measurement_laws": ("tensor", "op", "dtype"),
    "testing.parameterizations.parameterization_laws": ("params", "parameterization"),
    "testing.rules.rule_laws": ("params", "rule", "objective"),
}
"""Arguments whose values of the right kind are not tried: they go to a user's function, which may raise what it likes,
or a law says (AssertionError) that it does not hold."""

NO_VALUES: dict[str, tuple[str, ...]] = {}
"""Arguments that accept anything."""
