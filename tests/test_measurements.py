"""Every kind of measurement against the dense tensor of its A_i, by plain einsum."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatmin.measurements as fm
from flatmin import UsageError
from flatmin.testing import measurement_laws
from flatmin.testing.measurements import given, questions, typed
from registry import ANY_SHAPE, MEASUREMENTS, measurements, numbers

KEYS = jax.random.split(jax.random.key(20), 2)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_question_against_the_dense_tensor_and_the_laws(name):
    op, tensor = measurements(name)
    measurement_laws(op, tensor, key=KEYS[0])
    linear, X = fm.as_lineax(op), jnp.asarray(numbers(22, *op.matrix_shape))
    np.testing.assert_allclose(linear.mv(X), op.forward(X), rtol=1e-14)
    y = jnp.asarray(numbers(23, op.num_measurements))
    np.testing.assert_allclose(linear.T.mv(y), op.adjoint(y), rtol=0, atol=1e-13 * jnp.linalg.norm(op.adjoint(y)))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_questions_have_answers_that_say_something(name):
    # a law about numbers below the tolerance would hold for anything
    _, tensor = measurements(name)
    g = given(np.random.default_rng(0), tensor.shape[1:], len(tensor))
    for question, value in questions(tensor, g, np.array([0, 1])).items():
        assert np.max(np.abs(value)) > 1e-6, question


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_twisted_gram_of_square_measurements(name):
    op, tensor = ANY_SHAPE[name](jnp.float64, (3, 3))
    N = numbers(21, 3, 3)
    expected = np.einsum("iab,bc,icd->ad", tensor, N, tensor)
    bound = np.einsum("iab,bc,icd->ad", *(np.abs(x) for x in (tensor, N, tensor))).max()
    assert np.max(np.abs(fm.twist_gram(op, jnp.asarray(N)) - expected)) <= 100 * np.finfo(float).eps * bound
    assert np.max(np.abs(expected)) > 1e-3 * bound


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_single_precision_is_kept_and_right(name):
    op, tensor = measurements(name, jnp.float32)
    measurement_laws(op, tensor, key=KEYS[1], dtype=jnp.float32)
    # operators without arrays of their own answer questions without arrays in the default precision
    if not any(kind in name for kind in ("entries", "identity", "function", "stacked")):
        for question in (fm.row_gram, fm.col_gram, fm.moment_matrix, fm.entry_gram, fm.materialise, fm.kernel_form):
            assert jax.eval_shape(lambda op, question=question: question(op), op).dtype == jnp.float32, question


def test_grams_answer_for_each_other():
    # <S, row_gram(T)> = <T, col_gram(S)> = gram_form = tr kernel_form, on operators never seen as tensors
    key = jax.random.key(5)
    op = fm.stacked(
        fm.bilinear_gaussian(key, 7, (5, 4)), fm.scaled(fm.regression(jax.random.normal(key, (2, 4)), 5), 3.0)
    )
    g = typed(given(np.random.default_rng(1), (5, 4), 11), jnp.float64)
    value = fm.gram_form(op, g["S"], g["T"])
    for other in (
        jnp.vdot(g["S"], fm.row_gram(op, g["T"])),
        jnp.vdot(g["T"], fm.col_gram(op, g["S"])),
        jnp.trace(fm.kernel_form(op, g["S"], g["T"])),
    ):
        np.testing.assert_allclose(other, value, rtol=1e-12)
    nested = fm.take(fm.take(op, jnp.array([9, 1, 16, 1])), jnp.array([2, 3]))
    np.testing.assert_array_equal(fm.materialise(nested), fm.materialise(op)[jnp.array([16, 1])])


def test_random_ensembles_have_the_promised_moments():
    key = jax.random.key(7)
    gauss = np.asarray(fm.gaussian(key, 4000, (2, 3)).tensor)
    count = gauss.size
    assert abs(gauss.mean()) < 5 / count**0.5
    assert abs((gauss**2).mean() - 1) < 5 * (2 / count) ** 0.5
    assert abs((gauss**4).mean() - 3) < 5 * (96 / count) ** 0.5
    signs = np.asarray(fm.bernoulli(key, 4000, (2, 3)).tensor)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / count**0.5
    bilinear = np.asarray(fm.materialise(fm.bilinear_gaussian(key, 4000, (2, 3))))
    for power, expected in ((1, 0), (2, 1), (4, 9)):
        sample = (bilinear**power).mean((1, 2))  # entries of one A_i are dependent, the A_i are not
        assert abs(sample.mean() - expected) < 5 * sample.std(ddof=1) / 4000**0.5, power
    # neighbouring entries and measurements are uncorrelated
    for tensor in (gauss, signs):
        for pair in (tensor[:, 0, 0] * tensor[:, 1, 2], tensor[::2, 0, 0] * tensor[1::2, 0, 0]):
            assert abs(pair.mean()) < 5 / pair.size**0.5


@pytest.mark.parametrize("draw", [fm.gaussian, fm.bernoulli, fm.bilinear_gaussian])
def test_same_key_same_bits_and_the_asked_precision(draw):
    one, same, other = (draw(jax.random.key(k), 5, (2, 3)) for k in (1, 1, 2))
    assert eqx.tree_equal(one, same)
    assert not eqx.tree_equal(one, other)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(draw(jax.random.key(1), 5, (2, 3), jnp.float32)))


def biggest(jaxpr) -> int:
    """The number of elements of the largest array anywhere in a jaxpr."""
    most = 0
    for equation in jaxpr.eqns:
        most = max([most, *(int(np.prod(v.aval.shape)) for v in equation.outvars)])
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                most = max(most, biggest(inner))
    return most


def test_completion_never_forms_the_dense_tensor():
    d, m = 5000, 1000
    flat = np.random.default_rng(0).choice(d * d, m, replace=False)
    op = fm.entries(jnp.asarray(flat // d), jnp.asarray(flat % d), (d, d))
    matrix = jax.ShapeDtypeStruct((d, d), jnp.float64)
    weights = jax.ShapeDtypeStruct((m,), jnp.float64)
    thin = (jax.ShapeDtypeStruct((d, 2), jnp.float64), jax.ShapeDtypeStruct((2, d), jnp.float64))
    for fn, arguments, limit in (
        (op.forward, (matrix,), m * 10),
        (op.adjoint, (weights,), d * d),
        (lambda T: fm.row_gram(op, T), (matrix,), d * d),
        (lambda S: fm.col_gram(op, S), (matrix,), d * d),
        (lambda S, T: fm.gram_form(op, S, T), (matrix, matrix), d * 10),
        (lambda S, T: fm.kernel_form(op, S, T), (matrix, matrix), 2 * m * m),
        (lambda L, R: fm.forward_product(op, L, R), thin, d * 10),
        (lambda: fm.entry_gram(op), (), d * d),
    ):
        assert biggest(jax.make_jaxpr(fn)(*arguments).jaxpr) <= limit
    # and it runs
    left, right = numbers(1, d, 2), numbers(2, 2, d)
    expected = np.einsum("ik,ki->i", left[flat // d], right[:, flat % d])
    np.testing.assert_allclose(fm.forward_product(op, jnp.asarray(left), jnp.asarray(right)), expected, atol=1e-13)
    np.testing.assert_allclose(fm.take(op, jnp.array([5, 5])).forward(jnp.asarray(left @ right)), expected[[5, 5]])
    assert float(fm.gram_form(op)) == m


def test_integers_become_floats(unchecked):
    expected = np.arange(12.0).reshape(2, 2, 3)
    for op in (fm.dense(expected.astype(int)), fm.dense(expected.tolist())):
        np.testing.assert_array_equal(fm.materialise(op), expected)
        assert fm.row_gram(op).dtype == jnp.float64
    assert fm.regression(np.eye(2, dtype=bool)).inputs.dtype == jnp.float64
    assert fm.rank_one([[1, 2]], [[3]]).left.dtype == jnp.float64
    assert fm.dense(expected.astype(np.float32)).tensor.dtype == jnp.float32


KEY = jax.random.key(0)
NAN, INF = np.nan, np.inf
MISTAKES = {
    "dense: flat": (lambda: fm.dense(np.ones((2, 3))), r"tensor: got shape \(2, 3\), expected \(m, d1, d2\)"),
    "dense: m = 0": (lambda: fm.dense(np.ones((0, 2, 3))), r"tensor: got shape \(0, 2, 3\); at least one measurement"),
    "dense: empty": (lambda: fm.dense(np.ones((2, 0, 3))), "of a non-empty matrix is needed"),
    "dense: nan": (lambda: fm.dense(np.array([[[1, NAN]]])), r"tensor: got 1 value\(s\) that are NaN or infinite, the"),
    "dense: inf": (
        lambda: fm.dense(np.array([[[1, 2], [INF, 1]]])),
        r"first at index \(0, 1, 0\), .*; remove or mask them",
    ),
    "dense: complex": (lambda: fm.dense(np.ones((1, 2, 2), complex)), "tensor: got an array of complex128"),
    "dense: text": (
        lambda: fm.dense(np.array([[["a"]]])),
        "tensor: got an array of <U1 and shape .1, 1, 1., expected an array of finite real numbers",
    ),
    "dense: object": (
        lambda: fm.dense(np.array([[[{}]]])),
        "tensor: got an array of object and shape .1, 1, 1., expected an array of finite real numbers",
    ),
    "gaussian: m": (lambda: fm.gaussian(KEY, 0, (2, 2)), "num_measurements: got 0, expected an integer >= 1"),
    "gaussian: shape": (lambda: fm.gaussian(KEY, 3, (2, 0)), "matrix_shape: got 0, expected an integer >= 1"),
    "bernoulli: m": (lambda: fm.bernoulli(KEY, -1, (2, 2)), "num_measurements: got -1, expected an integer >= 1"),
    "bernoulli: shape": (lambda: fm.bernoulli(KEY, 3, (-2, 2)), "matrix_shape: got -2, expected an integer >= 1"),
    "bilinear: m": (lambda: fm.bilinear_gaussian(KEY, 0, (2, 2)), "num_measurements: got 0"),
    "bilinear: shape": (lambda: fm.bilinear_gaussian(KEY, 3, (0, 2)), "matrix_shape: got 0"),
    "entries: none": (lambda: fm.entries([], [], (2, 2)), r"rows: got no entries \(m = 0\); at least one measurement"),
    "entries: float": (
        lambda: fm.entries([0.5], [0], (2, 2)),
        "rows: got a list of 1, expected an array of integers",
    ),
    "entries: bool": (
        lambda: fm.entries([True], [0], (2, 2)),
        "rows: got a list of 1, expected an array of integers",
    ),
    "entries: row": (
        lambda: fm.entries([0, 2], [0, 1], (2, 2)),
        r"rows: entry 1 is 2, outside \[0, 2\); indices count",
    ),
    "entries: col": (lambda: fm.entries([0, 1], [0, -1], (2, 2)), r"cols: entry 1 is -1, outside \[0, 2\)"),
    "entries: twice": (
        lambda: fm.entries([0, 1, 1], [1, 0, 0], (2, 2)),
        r"entry \(1, 0\) is given 2 times; average the",
    ),
    "entries: lengths": (lambda: fm.entries([0, 1], [0], (2, 2)), r"cols: got shape \(1,\), expected \(2,\)"),
    "entries: table": (lambda: fm.entries([[9, 9]], [[0, 0]], (2, 2)), r"rows: got shape \(1, 2\), expected \(m,\)"),
    "entries: shape": (lambda: fm.entries([0], [0], (0, 2)), "matrix_shape: got 0, expected an integer >= 1"),
    "rank one: m": (
        lambda: fm.rank_one(np.ones((2, 3)), np.ones((3, 3))),
        r"right: got shape \(3, 3\), expected \(2, d2",
    ),
    "rank one: vector": (
        lambda: fm.rank_one(np.ones(3), np.ones((3, 3))),
        r"left: got shape \(3,\), expected \(m, d1\)",
    ),
    "rank one: left nan": (lambda: fm.rank_one([[NAN]], [[1.0]]), "left: got 1 value"),
    "rank one: right inf": (lambda: fm.rank_one([[1.0]], [[INF]]), "right: got 1 value"),
    "rank one: none": (
        lambda: fm.rank_one(np.ones((0, 2)), np.ones((0, 2))),
        "left, right: got shapes .* at least one",
    ),
    "symmetric: vector": (lambda: fm.symmetric_rank_one(np.ones(3)), r"vectors: got shape \(3,\), expected \(m, d\)"),
    "symmetric: complex": (lambda: fm.symmetric_rank_one(np.ones((1, 2)) * 1j), "vectors: got an array of complex128"),
    "low rank: terms": (
        lambda: fm.LowRankMeasurements(jnp.ones((2, 2, 3)), jnp.ones((2, 1, 3))),
        r"right: got shape \(2, 1, 3\), expected \(2, 2, d2\)",
    ),
    "regression: vector": (lambda: fm.regression(np.ones(3)), r"inputs: got shape \(3,\), expected \(n, d\)"),
    "regression: empty": (lambda: fm.regression(np.ones((0, 3))), r"inputs: got shape \(0, 3\); at least one sample"),
    "regression: outputs": (lambda: fm.regression(np.ones((2, 3)), 0), "num_outputs: got 0, expected an integer >= 1"),
    "regression: nan": (lambda: fm.regression([[1.0, NAN]]), r"inputs: got 1 value\(s\) .* index \(0, 1\)"),
    "identity: shape": (lambda: fm.identity((0, 1)), "matrix_shape: got 0, expected an integer >= 1"),
    "function: affine": (
        lambda: fm.from_function(lambda X: X[0] + 1, (2, 3)),
        r"fn: fn\(2X \+ Y\) differs .* without off",
    ),
    "function: square": (lambda: fm.from_function(lambda X: X[0] ** 2, (2, 3)), "measurements must be linear"),
    "function: no transpose": (
        lambda: fm.from_function(lambda X: (X @ X.T)[0] * 0.0 + X[:, 0], (2, 3)),
        "fn: JAX cannot transpose it",
    ),
    "function: nan": (lambda: fm.from_function(lambda X: X[0] * NAN, (2, 3)), "measurements must be linear"),
    "function: matrix": (
        lambda: fm.from_function(lambda X: X, (2, 3)),
        r"fn: got output \(2, 3\), expected one non-empty",
    ),
    "function: none": (
        lambda: fm.from_function(lambda X: X[:0, 0], (2, 3)),
        r"fn: got output \(0,\), expected one non-e",
    ),
    "function: pair": (lambda: fm.from_function(lambda X: (X[0],), (2, 3)), "fn: got output tuple, expected one"),
    "function: shape": (lambda: fm.from_function(lambda X: X[0], (0, 3)), "matrix_shape: got 0"),
    "scaled: nan": (lambda: fm.scaled(fm.identity((2, 2)), NAN), "scale: got nan, expected a finite number"),
    "scaled: length": (
        lambda: fm.scaled(fm.identity((2, 2)), np.ones(3)),
        r"scale: got shape \(3,\), expected \(\) or \(4,",
    ),
    "scaled: kind": (
        lambda: fm.scaled(fm.identity((2, 2)), np.ones(4)),
        r"one weight a measurement is not available for IdentityMeasurements; pass a number, or dense\(materialise",
    ),
    "stacked: none": (fm.stacked, "parts: got no measurements to stack; give at least one"),
    "stacked: shapes": (
        lambda: fm.stacked(fm.identity((2, 2)), fm.identity((3, 2))),
        r"parts: got matrix shapes \[\(2, 2\), \(3, 2\)\]; all parts must read the same matrix",
    ),
    "symmetrised": (
        lambda: fm.symmetrised(fm.identity((2, 3))),
        r"inner: got matrix_shape \(2, 3\); only square measurements can be symmetrised",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_meets_its_sentence(name, unchecked):
    mistake, sentence = MISTAKES[name]
    with pytest.raises(UsageError, match=sentence):
        mistake()


def test_entries_accept_traced_indices():
    # values cannot be looked at inside jit, so the checks stand back
    rows, cols = jnp.array([0, 1]), jnp.array([1, 1])
    seen = jax.jit(lambda r, c: fm.entries(r, c, (2, 2)).forward(jnp.arange(4.0).reshape(2, 2)))(rows, cols)
    np.testing.assert_array_equal(seen, [1.0, 3.0])


def test_only_equal_entries_are_the_same_entry():
    """(0, 2) and (1, 0) are different, also where the matrix is wider than high, or higher than wide."""
    for rows, cols, shape in (([0, 1], [2, 0], (2, 5)), ([0, 2], [1, 0], (5, 2))):
        assert fm.entries(jnp.asarray(rows), jnp.asarray(cols), shape).num_measurements == 2
        with pytest.raises(UsageError, match=rf"entry \({rows[1]}, {cols[1]}\) is given 2 times"):
            fm.entries(jnp.asarray([*rows, rows[1]]), jnp.asarray([*cols, cols[1]]), shape)


def test_energies_of_entries_that_cancel_are_not_negative():
    """Sums of squares, also where the two terms of each measurement cancel to rounding."""
    rng = np.random.default_rng(0)
    left, right = np.repeat(rng.normal(size=(5, 1, 30)), 2, axis=1), np.repeat(rng.normal(size=(5, 1, 30)), 2, axis=1)
    right[:, 1] *= -1 + 1e-9
    energies = np.asarray(fm.entry_gram(fm.LowRankMeasurements(jnp.asarray(left), jnp.asarray(right))))
    assert np.all(energies >= 0)
    assert np.max(energies) < 1e-13
