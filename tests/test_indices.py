"""Shapes and indices at the doors of measurements and problems: refused where they can be seen, NaN where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatmin.measurements as fm
from flatmin._core import UsageError
from flatmin.parameterizations import deep_matrix
from flatmin.problems import RecoveryProblem, activated_regression
from registry import MEASUREMENTS, measurements, numbers

pytestmark = pytest.mark.usefixtures("unchecked")

BAD = {
    "above": [0, 99],
    "just above": None,  # m, filled in
    "below": [-1],
    "far below": [-99],
    "real": [0.0],
    "booleans": [True, False],
    "text": ["0"],
    "a matrix": [[0]],
    "a number": 0,
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_no_index_is_clamped_and_no_shape_is_read_otherwise(name):
    op, _ = measurements(name)
    m, (d1, d2) = op.num_measurements, op.matrix_shape
    for what, indices in BAD.items():
        with pytest.raises(UsageError, match="indices"):
            fm.take(op, [m] if indices is None else indices)
        assert what
    for shape in ((d1 + 1, d2), (d1, d2 + 5), (1, 1), (d1 * d2,), (1, d1, d2), ()):
        with pytest.raises(UsageError, match="matrix"):
            op.forward(jnp.ones(shape))
        with pytest.raises(UsageError, match="matrix"):
            jax.eval_shape(op.forward, jax.ShapeDtypeStruct(shape, float))
    for shape in ((m + 1,), (1,), (m, 1), ()):
        with pytest.raises(UsageError, match="weights"):
            op.adjoint(jnp.ones(shape))
    for ask in (
        lambda: fm.row_gram(op, jnp.ones((d2 + 1, d2 + 1))),
        lambda: fm.col_gram(op, jnp.ones((d1 + 1, d1 + 1))),
        lambda: fm.gram_form(op, jnp.eye(d1), jnp.ones(d2)),
        lambda: fm.kernel_form(op, jnp.ones((d1, d1 + 1))),
        lambda: fm.right_vector(op, jnp.ones(d2 + 1)),
        lambda: fm.left_vector(op, jnp.ones(d1 + 1)),
        lambda: fm.forward_product(op, jnp.ones((d1 + 1, 2)), jnp.ones((2, d2))),
        lambda: fm.forward_product(op, jnp.ones((d1, 2)), jnp.ones((3, d2))),
        lambda: op.forward(jnp.ones((d1, d2)) * 1j),
    ):
        with pytest.raises(UsageError):
            ask()


@pytest.mark.parametrize(
    "name",
    [
        "dense-3x4",
        "entries-3x4",
        "low_rank-3x4",
        "regression-3x4",
        "identity-3x4",
        "function-3x4",
        "stacked-3x4",
        "selected-3x4",
        "scaled_entries-3x4",
    ],
)
def test_traced_indices_outside_give_nan(name):
    op, tensor = measurements(name)
    m, X = op.num_measurements, jnp.asarray(numbers(3, *op.matrix_shape))
    read = jax.jit(lambda indices: fm.take(op, indices).forward(X))
    values = np.asarray(read(jnp.asarray([1, m, 0, -1, m + 7, m - 1])))
    right = np.einsum("iab,ab->i", tensor, X)
    np.testing.assert_allclose(values[[0, 2, 5]], right[[1, 0, m - 1]], rtol=1e-12)
    assert np.isnan(values[[1, 3, 4]]).all()


def test_batches_of_problems():
    op, _ = measurements("entries-3x4")
    problem = RecoveryProblem(op, deep_matrix((3, 4), 2), numbers(4, 6))
    W = (jnp.asarray(numbers(5, 4, 4)), jnp.asarray(numbers(6, 3, 4)))
    net = activated_regression(numbers(1, 3, 4), numbers(2, 3, 2), depth=2, activation="tanh")
    V = (jnp.asarray(numbers(7, 4, 4)), jnp.asarray(numbers(8, 2, 4)))
    for p, params in ((problem, W), (net, V)):
        each = np.array([float(p.batch_loss(params, jnp.asarray([i]), None)) for i in range(6)])
        np.testing.assert_allclose(each.mean(), float(p.loss(params)), rtol=1e-12)
        for indices in ([6], [-1], [0.5], [True], [[0]], ["0"]):
            with pytest.raises(UsageError, match="indices"):
                p.batch_loss(params, indices, None)
        for shift in (jnp.ones(3), jnp.ones((2, 1)), 1j * jnp.ones(2), ["a", "b"]):
            with pytest.raises(UsageError, match="label_shift"):
                p.batch_loss(params, jnp.asarray([0, 1]), shift)
        traced = jax.jit(lambda i, p=p, params=params: p.batch_loss(params, i, None))
        assert np.isnan(float(traced(jnp.asarray([0, 6]))))
        assert np.isnan(float(traced(jnp.asarray([-1, 2]))))
        np.testing.assert_allclose(float(traced(jnp.asarray([2, 2, 5]))), (2 * each[2] + each[5]) / 3, rtol=1e-12)


def test_entries_of_oblong_matrices_are_told_apart():
    """Duplicates are found by row and column, whatever the shape."""
    for shape in ((2, 9), (9, 2), (5, 3), (1, 7)):
        rows, cols = (a.ravel() for a in np.indices(shape))
        op = fm.entries(rows, cols, shape)  # every entry once: none is a duplicate
        np.testing.assert_array_equal(
            op.forward(jnp.arange(rows.size, dtype=float).reshape(shape)), np.arange(rows.size)
        )
        with pytest.raises(UsageError, match=rf"\({shape[0] - 1}, {shape[1] - 1}\) is given 2 times"):
            fm.entries(np.append(rows, shape[0] - 1), np.append(cols, shape[1] - 1), shape)
    for rows, cols in (([3], [0]), ([0], [4]), ([-1], [0]), ([0], [-2])):
        with pytest.raises(UsageError, match=r"rows|cols"):
            fm.EntryMeasurements(jnp.asarray(rows), jnp.asarray(cols), (3, 4))


def test_entry_grams_of_cancelling_terms_are_not_negative():
    """`A_i = a b^T - (1 + eps) a b^T` nearly vanishes; its squares are computed as sums of signed products."""
    for seed in range(40):
        a, b = numbers(seed, 5, 1, 3), numbers(seed + 100, 5, 1, 4)
        nearly = np.concatenate([b, -b * (1 + 1e-13)], axis=1)
        op = fm.LowRankMeasurements(jnp.asarray(np.concatenate([a, a], axis=1)), jnp.asarray(nearly))
        assert float(jnp.min(fm.entry_gram(op))) >= 0


def test_the_change_of_a_rip_search_is_that_of_the_end_that_moved_more():
    """After one sweep neither end is settled; both changes are recomputed from two and one sweeps."""
    op = fm.gaussian(jax.random.key(0), 12, (4, 5))
    for seed in range(4):
        found = [fm.rip_lower_estimate(op, jax.random.key(seed), restarts=1, sweeps=k, tolerance=0.0) for k in (2, 3)]
        moved = [
            abs(float(getattr(found[1], end)) - float(getattr(found[0], end)))
            / max(abs(float(getattr(found[1], end))), 1)
            for end in ("largest", "smallest")
        ]
        np.testing.assert_allclose(float(found[1].change), max(moved), rtol=1e-9)
        assert max(moved) > 1.5 * min(moved)
