"""Parameterizations that register nothing, and sums: every verb against dense Hessians and Jacobians by autodiff."""

import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import flatmin as fm
from flatmin import UsageError, flatness
from flatmin.flatness import block_traces, register_block_traces
from flatmin.measurements import bilinear_gaussian, gaussian, gram_form
from flatmin.parameterizations import AbstractParameterization, Hadamard, Quadratic, Sum, deep_matrix
from flatmin.problems import RecoveryProblem
from registry import numbers

ROOT = pathlib.Path(__file__).parent.parent


class Symmetric(AbstractParameterization):
    """`U U^T`: one array, quadratic in it."""

    d: int = eqx.field(static=True)
    r: int = eqx.field(static=True)

    @property
    def matrix_shape(self):
        return self.d, self.d

    def matrix(self, params):
        return params @ params.T

    def init_params(self, key, scheme):
        return scheme.scale * jax.random.normal(key, (self.d, self.r))


class Curved(AbstractParameterization):
    """`tanh(s U) V` with a dictionary of params: linear in V only, and a scheme that no default knows."""

    shape: tuple[int, int] = eqx.field(static=True)

    @property
    def matrix_shape(self):
        return self.shape

    def matrix(self, params):
        return jnp.tanh(params["s"] * params["U"]) @ params["V"]

    def init_params(self, key, scheme):
        raise NotImplementedError


class Free(AbstractParameterization):
    """The matrix itself."""

    shape: tuple[int, int] = eqx.field(static=True)

    @property
    def matrix_shape(self):
        return self.shape

    def matrix(self, params):
        return params

    def init_params(self, key, scheme):
        return scheme.scale * jax.random.normal(key, self.shape)


def array(seed, *shape):
    return jnp.asarray(numbers(seed, *shape))


CURVED = {"U": array(1, 4, 2), "V": array(2, 2, 4), "s": array(3)}
DEEP, QUAD = (array(4, 3, 4), array(5, 4, 3)), (array(6, 4, 2), array(7, 4, 1))
CASES = {
    "quadratic": (Symmetric(4, 3), array(8, 4, 3)),
    "curved": (Curved((4, 4)), CURVED),
    "free": (Free((4, 4)), array(9, 4, 4)),
    "sum of closed forms": (
        Sum((deep_matrix((4, 4), 2, 3), Quadratic(4, 2, 1), Hadamard((4, 4), 1))),
        (DEEP, QUAD, (array(10, 4, 4),)),
    ),
    "sum with own": (Sum((Curved((4, 4)), deep_matrix((4, 4), 2, 3))), (CURVED, DEEP)),
    "sum of sums": (
        Sum((Sum((Symmetric(4, 1), Symmetric(4, 2))), Free((4, 4)))),
        ((array(11, 4, 1), array(12, 4, 2)), array(13, 4, 4)),
    ),
}
FAST = {("sum with own", False)}
POINTS = [
    pytest.param(name, interpolate, marks=() if (name, interpolate) in FAST else pytest.mark.long)
    for name in CASES
    for interpolate in (True, False)
]


def build(name, interpolate, samples=7):
    parameterization, params = CASES[name]
    op = gaussian(jax.random.key(0), samples, (4, 4))
    targets = op.forward(parameterization.matrix(params)) if interpolate else array(20, samples)
    return RecoveryProblem(op, parameterization, targets), params


def oracle(problem, params):
    """Dense Hessian, dense Jacobian and the trace of each leaf's block."""
    flat, back = ravel_pytree(params)
    tensor, par = problem.measurements.tensor, problem.parameterization
    predict = jax.jit(lambda x: jnp.einsum("iab,ab->i", tensor, par.matrix(back(x))))
    hessian = np.asarray(jax.hessian(lambda x: jnp.mean((predict(x) - problem.targets) ** 2))(flat))
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    blocks = [part.sum() for part in np.split(np.diagonal(hessian), np.cumsum(sizes)[:-1])]
    return hessian, np.asarray(jax.jacobian(predict)(flat)), np.array(blocks)


@pytest.mark.parametrize(("name", "interpolate"), POINTS)
def test_every_verb_of_an_own_parameterization(name, interpolate):
    problem, params = build(name, interpolate)
    hessian, jacobian, blocks = oracle(problem, params)
    values = np.linalg.eigvalsh(hessian)
    size = np.abs(values).max()
    closed = name == "sum of closed forms"
    for method in (None, flatness.Exact()):
        total = flatness.hessian_trace(problem, params, method)
        assert abs(float(total) - blocks.sum()) <= float(total.error) <= 1e-9 * size
        assert (total.method, total.matvecs) == (("closed form", 0) if closed else ("dense", len(hessian)))
    layers = flatness.hessian_trace(problem, params, per_layer=True)
    np.testing.assert_allclose(layers.value, blocks, rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose(jax.jit(lambda p: block_traces(problem, p))(params), blocks, rtol=0, atol=1e-12 * size)
    assert abs(float(flatness.sharpness(problem, params)) - values[-1]) <= 1e-10 * size
    assert abs(float(flatness.lowest_curvature(problem, params)) - values[0]) <= 1e-7 * size
    kept = np.asarray(flatness.spectrum(problem, params).value)
    largest = np.sort(np.abs(values))[::-1][: len(kept)]
    np.testing.assert_allclose(np.sort(np.abs(kept))[::-1], largest, rtol=0, atol=1e-10 * size)
    kernel = jacobian @ jacobian.T
    np.testing.assert_allclose(flatness.tangent_kernel(problem, params), kernel, rtol=0, atol=1e-12 * kernel.max())
    gauss_newton = np.asarray(flatness.gauss_newton_spectrum(problem, params))
    count = min(jacobian.shape)
    expected = np.linalg.eigvalsh(2 / 7 * kernel)[-count:]
    np.testing.assert_allclose(gauss_newton[-count:], expected, rtol=0, atol=1e-12 * expected[-1])
    if interpolate:
        np.testing.assert_allclose(values[-count:], expected, rtol=0, atol=1e-10 * size)
    elif name != "free":
        assert np.linalg.norm(values[-count:] - expected) > 1e-3 * size  # the residual part counts here


def test_more_samples_than_parameters_and_tiny_scales():
    parameterization, params = Symmetric(4, 1), 1e-90 * array(30, 4, 1)
    problem = RecoveryProblem(gaussian(jax.random.key(1), 9, (4, 4)), parameterization, jnp.zeros(9))
    _, jacobian, _ = oracle(problem, params)
    expected = 2 / 9 * np.linalg.eigvalsh((1e90 * jacobian).T @ (1e90 * jacobian))
    np.testing.assert_allclose(1e180 * flatness.gauss_newton_spectrum(problem, params), expected, rtol=1e-10)


@pytest.mark.long
def test_the_trace_of_an_own_parameterization_differentiates_and_flows():
    problem, params = build("curved", True)
    value = lambda p: jnp.sum(block_traces(problem, p))  # noqa: E731
    flat, back = ravel_pytree(params)
    loss = lambda x: problem.loss(back(x))  # noqa: E731
    expected = jax.grad(lambda x: jnp.trace(jax.hessian(loss)(x)))(flat)
    np.testing.assert_allclose(ravel_pytree(jax.grad(value)(params))[0], expected, rtol=1e-10, atol=1e-10)
    flowed = fm.follow_trace(problem, params, max_time=0.01)
    assert float(value(flowed.params)) < float(value(params))
    assert float(problem.loss(flowed.params)) < 1e-12


def test_many_parameters_are_measured_by_probes():
    problem = RecoveryProblem(bilinear_gaussian(jax.random.key(0), 5, (101, 100)), Free((101, 100)), jnp.zeros(5))
    assert isinstance(flatness.trace_method(problem, jnp.zeros((101, 100))), flatness.HutchPlusPlus)
    small, params = build("free", False)
    assert isinstance(flatness.trace_method(small, params), flatness.Dense)


def test_a_registered_form_is_used_checked_and_may_be_replaced(unchecked):
    class Own(Free):
        pass

    problem = RecoveryProblem(gaussian(jax.random.key(0), 7, (4, 4)), Own((4, 4)), array(20, 7))
    params, truth = array(9, 4, 4), float(2 / 7 * jnp.sum(gaussian(jax.random.key(0), 7, (4, 4)).tensor ** 2))
    measured = jax.jit(lambda p: flatness.hessian_trace(problem, p).value)
    np.testing.assert_allclose(measured(params), truth, rtol=1e-12)
    for factor in (3.0, 1.0):  # a compiled function does not keep what was registered before

        @register_block_traces(Own)
        def form(problem, params, factor=factor):
            return factor * 2 / problem.num_samples * gram_form(problem.measurements)[None]

        trace = flatness.hessian_trace(problem, params)
        assert trace.method == "closed form"
        np.testing.assert_allclose([float(trace), float(measured(params))], factor * truth, rtol=1e-12)
        both = RecoveryProblem(problem.measurements, Sum((Own((4, 4)), Free((4, 4)))), problem.targets)
        np.testing.assert_allclose(block_traces(both, (params, params)), [factor * truth, truth], rtol=1e-12)
    register_block_traces(Own)(lambda problem, params: gram_form(problem.measurements))
    with pytest.raises(UsageError, match=r"form: the block traces registered for Own have shape \(\), expected \(1,\)"):
        flatness.hessian_trace(problem, params)
    with pytest.raises(UsageError, match=r"cls: got <Own.* expected a subclass of AbstractParameterization"):
        register_block_traces(Own((4, 4)))
    with pytest.raises(UsageError, match="form: got float, expected a function"):
        register_block_traces(Own)(1.0)


def test_the_recipe_of_the_contributing_page_runs():
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## How to add a parameterization")[2].partition("\n## ")[0]
    for name in (*AbstractParameterization.__abstractmethods__, "register_block_traces"):
        assert f"`{name}`" in text or f"`flatness.{name}`" in text
    made = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], made)  # noqa: S102
    parameterization = made["Scaled"]((4, 4))
    params = {"s": array(40), "u": array(41, 4), "v": array(42, 4)}
    problem = RecoveryProblem(gaussian(jax.random.key(0), 7, (4, 4)), parameterization, array(20, 7))
    trace = flatness.hessian_trace(problem, params, per_layer=True)
    assert trace.method == "closed form"
    np.testing.assert_allclose(trace.value, oracle(problem, params)[2], rtol=1e-12)


def test_a_sum_of_parts_that_declare_nothing_refuses_other_params():
    par = Sum((Curved((4, 4)), Curved((4, 4))))
    problem = RecoveryProblem(gaussian(jax.random.key(0), 7, (4, 4)), par, array(20, 7))
    for wrong in ((CURVED,), CURVED, (CURVED, {"U": array(1, 4, 2)})):
        with pytest.raises(UsageError, match="params"):
            flatness.hessian_trace(problem, wrong)
