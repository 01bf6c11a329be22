"""Every rule, start, parameterization and programme that a study may name: one registry, nothing picked silently."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError, hessian_trace
from flatmin.dynamics import AbstractRule, train
from flatmin.dynamics.registry import RULES, register
from flatmin.parameterizations import Gaussian
from flatmin.problems import matrix_sensing
from flatmin.solvers import AbstractProgram
from flatmin.studies import _settings, _solving, _training

NEEDED = {"learning_rate": 0.01, "batch_size": 3, "noise": 0.1, "radius": 0.05, "coefficient": 0.02}


def table(family, decider, name, **given):
    model = _settings.section_model(family, name)
    needed = {key: NEEDED[key] for key, field in model.model_fields.items() if field.is_required()}
    return model.model_validate({decider: name, **needed, **given}).model_dump()


def problem(preset="matrix_sensing", **given):
    return _settings.preset_model(preset).model_validate({"preset": preset, **given}).model_dump()


SENSING = {"matrix_shape": (3, 3), "rank": 1, "num_measurements": 7}


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=() if k == "optax" else pytest.mark.long) for k in _settings.DYNAMICS]
)
def test_every_rule_trains_in_a_study_as_it_does_alone(name, key):
    rule = table("dynamics", "rule", name)
    start = table("start", "scheme", "gaussian")
    tables = {"problem": problem(**SENSING), "start": start, "dynamics": rule}
    measure = {"quantities": ("loss",), "threshold": 1e-3, "record": (), "every": 1}
    stopping = {"steps": 6, "loss": None, "gradient": None, "check_every": None}
    two = [tables, {**tables, "dynamics": {**rule, "learning_rate": 0.03}}]
    found = _training.train_block(two, [0, 0], measure, stopping, "float64")
    assert found["outcome"].tolist() == [0.0, 0.0]
    for lane, rate in enumerate([0.01, 0.03]):
        problem_key, start_key, training_key = _training.cell_keys(np.uint32(0))
        planted = matrix_sensing(problem_key, **SENSING)
        params = planted.problem.parameterization.init_params(start_key, Gaussian(start["scale"]))
        settings = {key: value for key, value in rule.items() if key != "rule"} | {"learning_rate": rate}
        if name == "penalised":
            settings["penalty"] = lambda p, of=planted.problem: hessian_trace(of, p).value
        if name == "optax":
            settings["transformation"] = __import__("optax").adam
        alone = train(planted.problem, RULES[name](**settings), params, steps=6, key=training_key)
        np.testing.assert_allclose(found["loss"][lane], planted.problem.loss(alone.params), rtol=1e-9)
    assert found["loss"][0] != found["loss"][1]


def test_every_rule_and_programme_has_a_name():
    classes = {cls for cls in vars(__import__("flatmin.dynamics").dynamics).values() if isinstance(cls, type)}
    rules = {c for c in classes if hasattr(c, "update") and not c.__name__.startswith("Abstract")}
    assert rules == {rule for rule in RULES.values() if rule.__module__.startswith("flatmin.")}
    import flatmin.solvers as room

    programmes = {c for c in vars(room).values() if isinstance(c, type) and issubclass(c, AbstractProgram)}
    named = {name.replace("_", "") for name in _settings.PROGRAMS}
    assert {c.__name__.lower() for c in programmes if not c.__name__.startswith("Abstract")} <= named


@pytest.mark.parametrize(
    ("program", "preset", "given"),
    [
        ("robust_pca", "robust_pca", {"matrix_shape": (6, 6), "rank": 1, "fraction": 0.05}),
        pytest.param("min_weighted_lp", "sparse_recovery", {}, marks=pytest.mark.long),
        pytest.param("min_frobenius", "matrix_sensing", SENSING, marks=pytest.mark.long),
    ],
)
def test_programmes_solve_in_a_study(program, preset, given):
    fields = _settings.preset_model(preset).model_fields
    given = {key: value for key, value in given.items() if key in fields}
    extra = {"size": 12, "sparsity": 2, "num_measurements": 8, "dimension": 12, "outliers": 0.05}
    given |= {key: extra[key] for key, field in fields.items() if field.is_required() and key not in given}
    tables = {"problem": problem(preset, **given), "solver": table("solver", "program", program)}
    measure = {"quantities": ("value", "gap"), "threshold": 1e-3}
    found = _solving.solve_cell(tables, 0, measure, {"tolerance": 1e-6, "max_iterations": 20_000})
    assert found["outcome"] == 2.0  # converged
    assert found["value"] > 0


@register("sign")
class Sign(AbstractRule):
    def direction(self, draws, objective, state):
        loss, gradient = eqx.filter_value_and_grad(objective.loss)(state.params)
        return loss, jax.tree.map(jnp.sign, gradient)


def test_a_rule_of_ones_own_is_known_to_studies():
    assert set(_settings.section_model("dynamics", "sign").model_fields) == {
        "rule", "learning_rate", "momentum", "weight_decay"
    }  # fmt: skip
    with pytest.raises(UsageError, match="name: 'sgd' is the rule StochasticGradientDescent already"):
        register("sgd")(Sign)


class Instance:
    truth = jnp.eye(2)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: _training._dynamics({"rule": "normalized"}, {}),
            "rule: 'normalized' is not known; did you mean 'normali",
        ),
        (
            lambda: _training._dynamics({"rule": "normalised", "noise": 1.0}, {"learning_rate": 0.1}),
            "'noise' is not known",
        ),
        (lambda: _training.start_scheme({"scheme": "flatest"}, Instance()), "scheme: .*did you mean 'flattest'"),
        (lambda: _settings.chosen("kind", "cubic", _settings.PARAMETERIZATIONS), "kind: 'cubic' is not known"),
        (lambda: _settings.chosen("program", "min_rank", _settings.PROGRAMS), "program: 'min_rank' is not known"),
    ],
)
def test_nothing_is_picked_silently(call, text, unchecked):
    with pytest.raises(UsageError, match=text):
        call()
