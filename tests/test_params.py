"""Params are checked against their parameterization, at every door and under every transformation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatmin as fm
from flatmin._core import UsageError
from flatmin.measurements import gaussian
from flatmin.parameterizations import (
    AbstractParameterization,
    DeepMatrix,
    Gaussian,
    Hadamard,
    Quadratic,
    Sum,
    alignment,
    balancedness,
    check_params,
    deep_matrix,
    params_shape,
    residual_chain,
    stable_ranks,
)
from flatmin.problems import RecoveryProblem, activated_regression
from registry import numbers

pytestmark = pytest.mark.usefixtures("unchecked")

KINDS = {
    "deep": DeepMatrix((4, 5, 3)),
    "chain": residual_chain((2, 3), 3),
    "hadamard": Hadamard((4, 1), 2),
    "quadratic": Quadratic(3, 2),
    "sum": Sum((deep_matrix((3, 3), 2), Hadamard((3, 3), 1))),
}


class Named(AbstractParameterization):
    """`exp(a) U U^T`, with a dictionary as params and no scheme of ours."""

    declared: bool = eqx.field(static=True, default=True)

    @property
    def matrix_shape(self):
        return 4, 4

    def matrix(self, params):
        return jnp.exp(params["a"]) * params["U"] @ params["U"].T

    def init_params(self, key, scheme):
        if not self.declared:
            raise ValueError("no scheme")
        return {"a": jnp.zeros(()), "U": jax.random.normal(key, (4, 2))}


def numeric(parameterization, seed=0):
    """Params of the declared shapes."""
    return jax.tree.map(lambda leaf: jnp.asarray(numbers(seed, *leaf.shape)), params_shape(parameterization))


@pytest.mark.parametrize("kind", KINDS)
def test_declared_shapes_are_those_of_init_params(kind):
    drawn = KINDS[kind].init_params(jax.random.key(0), Gaussian(1.0))
    declared = params_shape(KINDS[kind])
    assert jax.tree.structure(drawn) == jax.tree.structure(declared)
    assert [x.shape for x in jax.tree.leaves(drawn)] == [x.shape for x in jax.tree.leaves(declared)]


def spoiled(params):
    """Params that are wrong in one way each, with what the sentence must hold."""
    last = params[-1]
    while isinstance(last, tuple):
        last = last[-1]
    at = lambda p: p[-1] if not isinstance(p[-1], tuple) else p[-1][-1]  # noqa: E731
    yield "too few", params[:-1], "factor"
    yield "too many", (*params, last), "factor"
    for name, leaf, words in (
        ("another shape", jnp.ones((7, 7)), "(7, 7)"),
        ("a vector", jnp.ones(3), "(3,)"),
        ("a scalar", 1.0, "()"),
        ("transposed and more", jnp.ones((1, 2, 3)), "(1, 2, 3)"),
        ("complex", last + 0j, "complex"),
        ("integers", jnp.ones(last.shape, int), "int"),
        ("booleans", np.ones(last.shape, bool), "bool"),
        ("text", "W", "str"),
        ("nothing", None, "NoneType"),
        ("masked", np.ma.masked_array(np.ones(last.shape), True), "expected an array"),
        ("objects", np.full(last.shape, None), "object"),
    ):
        yield name, eqx.tree_at(at, params, leaf, is_leaf=lambda x: x is None), words
    yield "the matrix", jnp.eye(4), "one array"
    yield "a number", 3, "int"


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_params_are_refused_by_name_eager_and_traced(kind):
    parameterization = KINDS[kind]
    problem = RecoveryProblem(
        gaussian(jax.random.key(0), 5, parameterization.matrix_shape), parameterization, [0.0] * 5
    )
    params = numeric(parameterization)
    for name, wrong, words in spoiled(params):
        for door in (lambda p: check_params(parameterization, p), parameterization.matrix, problem.loss):
            with pytest.raises(UsageError) as caught:
                door(wrong)
            assert words in str(caught.value), name
            assert str(caught.value).startswith("params"), name
        if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(wrong, is_leaf=lambda x: x is None)):
            with pytest.raises(UsageError):
                eqx.filter_jit(problem.loss)(wrong)


def test_right_params_pass_and_lists_and_numpy_become_the_declared_containers():
    p = KINDS["sum"]
    params = numeric(p)
    given = [list(map(np.asarray, params[0])), [np.asarray(params[1][0])]]
    fitted = check_params(p, given)
    assert jax.tree.structure(fitted) == jax.tree.structure(params)
    np.testing.assert_allclose(p.matrix(given), params[0][1] @ params[0][0] + params[1][0], rtol=1e-12)
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    assert jax.vmap(p.matrix)(stacked).shape == (2, 3, 3)
    with pytest.raises(UsageError, match=r"\(2, 3, 3\)"):
        p.matrix(stacked)


def test_an_own_parameterization_is_checked_without_being_registered():
    for p in (Named(), Named(declared=False)):
        good = {"a": jnp.zeros(()), "U": jnp.ones((4, 2))}
        problem = RecoveryProblem(gaussian(jax.random.key(0), 5, (4, 4)), p, jnp.zeros(5))
        assert float(problem.loss(good)) > 0
        for wrong in ({"a": 0.0}, {"a": 0.0, "U": jnp.ones((3, 2))}, (jnp.ones((4, 2)),), {"a": 1j, "U": good["U"]}):
            with pytest.raises(UsageError, match="params"):
                problem.loss(wrong)


def test_finite_names_the_factor():
    p = deep_matrix((3, 3), 2)
    bad = (jnp.ones((3, 3)), jnp.ones((3, 3)).at[1, 2].set(jnp.nan))
    with pytest.raises(UsageError, match=r"params\[1\].*\(1, 2\)"):
        check_params(p, bad, finite=True)
    assert jax.jit(lambda w: check_params(p, w, finite=True))(bad)[1].shape == (3, 3)  # values cannot be seen


@pytest.mark.parametrize("measure", [balancedness, alignment, stable_ranks])
def test_alignment_wants_factors_of_one_product(measure):
    W = (jnp.ones((3, 4)), jnp.ones((2, 3)))
    measure(W)
    for wrong in ((W[1], W[0]), (), W[0], (W[0], jnp.ones(3)), (W[0], W[1] * 1j), ("a", "b"), 3):
        with pytest.raises(UsageError, match="params"):
            measure(wrong)


def test_an_activated_network_checks_its_layers():
    net = activated_regression(numbers(1, 6, 3), numbers(2, 6), depth=2, activation="relu")
    with pytest.raises(UsageError, match="params"):
        net.loss((jnp.ones((3, 3)),))


def test_the_flatness_verbs_check():
    problem = RecoveryProblem(gaussian(jax.random.key(0), 9, (4, 4)), deep_matrix((4, 4), 3), jnp.ones(9))
    W = numeric(problem.parameterization)
    for verb in (fm.hessian_trace, fm.sharpness, fm.flatness.block_traces, fm.flatness.tangent_kernel):
        with pytest.raises(UsageError, match=r"params.*2 factors"):
            verb(problem, W[:2])
