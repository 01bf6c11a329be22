"""Every kind of measurement against the dense tensor of its A_i, by plain einsum."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flatmin.measurements as fm
from flatmin import UsageError
from registry import ANY_SHAPE, MEASUREMENTS, measurements, numbers

INDICES = np.array([3, 0, 3, 1])
PARTS = ((None, None), ("S", None), (None, "T"), ("S", "T"))


def given(shape, seed=0, size=6):
    """Inputs of all the questions: two matrices, two weight vectors, symmetric S and T, factors, a general twist."""
    d1, d2 = shape
    s, t = numbers(seed + 20, d1, d1), numbers(seed + 21, d2, d2)
    return {
        "X": numbers(seed + 22, d1, d2),
        "y": numbers(seed + 23, size),
        "S": (s + s.T) / 2,
        "T": (t + t.T) / 2,
        "L": numbers(seed + 24, d1, 2),
        "R": numbers(seed + 25, 2, d2),
        "N": t,
    }


def ask(op, g, indices):
    """Every generic question with every combination of S and T."""
    S, T = g["S"], g["T"]
    out = {
        "forward": op.forward(g["X"]),
        "adjoint": op.adjoint(g["y"]),
        "row_gram": fm.row_gram(op),
        "row_gram(T)": fm.row_gram(op, T),
        "col_gram": fm.col_gram(op),
        "col_gram(S)": fm.col_gram(op, S),
        "moment_matrix": fm.moment_matrix(op),
        "entry_gram": fm.entry_gram(op),
        "materialise": fm.materialise(op),
        "forward_product": fm.forward_product(op, g["L"], g["R"]),
    }
    for a, b in PARTS:
        out[f"gram_form({a},{b})"] = fm.gram_form(op, S if a else None, T if b else None)
        out[f"kernel_form({a},{b})"] = fm.kernel_form(op, S if a else None, T if b else None)
    if op.matrix_shape[0] == op.matrix_shape[1]:
        out["twist_gram"] = fm.twist_gram(op, g["N"])
    few = fm.take(op, indices)
    out["take: forward"] = few.forward(g["X"])
    out["take: adjoint"] = few.adjoint(g["y"][: len(INDICES)])
    out["take: gram_form"] = fm.gram_form(few, S, T)
    return out


def slow(A, g):
    """The same questions, typed from their definitions over the dense tensor A (m, d1, d2)."""
    (_m, d1, d2), few = A.shape, A[INDICES]
    S, T = {None: np.eye(d1), "S": g["S"]}, {None: np.eye(d2), "T": g["T"]}
    out = {
        "forward": np.einsum("iab,ab->i", A, g["X"]),
        "adjoint": np.einsum("iab,i->ab", A, g["y"]),
        "row_gram": np.einsum("iab,icb->ac", A, A),
        "row_gram(T)": np.einsum("iab,bd,icd->ac", A, g["T"], A),
        "col_gram": np.einsum("iab,iac->bc", A, A),
        "col_gram(S)": np.einsum("iab,ac,icd->bd", A, g["S"], A),
        "moment_matrix": np.einsum("iab,icd->abcd", A, A).reshape(d1 * d2, d1 * d2),
        "entry_gram": np.einsum("iab,iab->ab", A, A),
        "materialise": A,
        "forward_product": np.einsum("iab,ak,kb->i", A, g["L"], g["R"]),
    }
    for a, b in PARTS:
        out[f"gram_form({a},{b})"] = np.einsum("iab,ac,icd,db->", A, S[a], A, T[b])
        out[f"kernel_form({a},{b})"] = np.einsum("iab,ac,jcd,db->ij", A, S[a], A, T[b])
    if d1 == d2:
        out["twist_gram"] = np.einsum("iab,bc,icd->ad", A, g["N"], A)
    out["take: forward"] = np.einsum("iab,ab->i", few, g["X"])
    out["take: adjoint"] = np.einsum("iab,i->ab", few, g["y"][: len(INDICES)])
    out["take: gram_form"] = np.einsum("iab,ac,icd,db->", few, g["S"], few, g["T"])
    return out


def compare(got, expected, bound, eps, name):
    """Error at most 200 eps times the same sum over absolute values (sums of at most 144 terms, nested twice)."""
    assert got.keys() == expected.keys()
    for question, value in expected.items():
        tolerance = 200 * eps * np.max(bound[question])
        assert np.max(np.abs(value)) > 1e3 * tolerance or eps > 1e-10, f"{name} {question}: the case says nothing"
        assert got[question].shape == value.shape, f"{name} {question}"
        error = np.max(np.abs(np.asarray(got[question], np.float64) - value))
        assert error <= tolerance, f"{name} {question}: error {error:.1e} above {tolerance:.1e}"


_ask_jit = eqx.filter_jit(ask)


def arrays(g, dtype):
    return {k: jnp.asarray(v, dtype) for k, v in g.items()}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_question_jitted_against_the_dense_tensor(name):
    # inside jit the operator, the matrices and the indices are all traced; the test below runs the same eagerly
    op, tensor = measurements(name)
    g = given(op.matrix_shape, size=op.num_measurements)
    assert (op.num_measurements, *op.matrix_shape) == tensor.shape
    bound = slow(np.abs(tensor) + np.abs(tensor).mean(), {k: np.abs(v) for k, v in g.items()})
    got = _ask_jit(op, arrays(g, jnp.float64), jnp.asarray(INDICES))
    compare(got, slow(tensor, g), bound, np.finfo(np.float64).eps, name)


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
    g = given(op.matrix_shape, size=op.num_measurements)
    got = _ask_jit(op, arrays(g, jnp.float32), jnp.asarray(INDICES))
    bound = slow(np.abs(tensor) + np.abs(tensor).mean(), {k: np.abs(v) for k, v in g.items()})
    compare(got, slow(tensor, g), bound, np.finfo(np.float32).eps, name)
    # operators without arrays of their own answer questions without arrays in the default precision
    silent = any(kind in name for kind in ("entries", "identity", "function", "stacked"))
    both = ("forward", "adjoint", "forward_product", "gram_form(S,T)", "kernel_form(S,T)", "take: gram_form")
    for question in both if silent else got:
        assert got[question].dtype == jnp.float32, f"{name} {question}"


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_adjointness_linearity_lineax_and_pytree_round_trip(name):
    op, _ = measurements(name)
    g = arrays(given(op.matrix_shape, size=op.num_measurements), jnp.float64)
    h = arrays(given(op.matrix_shape, seed=50, size=op.num_measurements), jnp.float64)
    X, Z, y, w = g["X"], h["X"], g["y"], h["y"]
    eps = np.finfo(np.float64).eps
    AX, AZ, By, Bw = op.forward(X), op.forward(Z), op.adjoint(y), op.adjoint(w)
    size = jnp.linalg.norm(AX) * jnp.linalg.norm(y) + jnp.linalg.norm(X) * jnp.linalg.norm(By)
    assert abs(jnp.vdot(AX, y) - jnp.vdot(X, By)) <= 100 * eps * size
    assert abs(jnp.vdot(AX, y)) > 1e-6 * size
    np.testing.assert_allclose(op.forward(2 * X - 3 * Z), 2 * AX - 3 * AZ, rtol=0, atol=100 * eps * float(size))
    np.testing.assert_allclose(op.adjoint(2 * y - 3 * w), 2 * By - 3 * Bw, rtol=0, atol=100 * eps * float(size))
    linear = fm.as_lineax(op)
    np.testing.assert_allclose(linear.mv(X), AX, rtol=1e-14)
    np.testing.assert_allclose(linear.T.mv(y), By, rtol=0, atol=100 * eps * float(size))
    leaves, structure = jax.tree.flatten(op)
    again = jax.tree.unflatten(structure, leaves)
    assert eqx.tree_equal(again, op)
    np.testing.assert_array_equal(again.forward(X), AX)


@pytest.mark.parametrize("name", [n for n in MEASUREMENTS if "symmetrised" not in n or "entries" in n])
def test_vmap_is_a_loop_and_eager_is_jit(name):
    op, _ = measurements(name)
    dynamic, static = eqx.partition(op, eqx.is_inexact_array)
    batch = [arrays(given(op.matrix_shape, seed=s, size=op.num_measurements), jnp.float64) for s in (0, 50, 90)]
    operators = [jax.tree.map(lambda x, c=c: c * x, dynamic) for c in (1.0, -2.0, 0.5)]

    def questions(dynamic, g):
        op = eqx.combine(dynamic, static)
        return op.forward(g["X"]), op.adjoint(g["y"]), fm.gram_form(op, g["S"], g["T"])

    stack = lambda *xs: jnp.stack(xs)  # noqa: E731
    together = jax.jit(jax.vmap(questions))(jax.tree.map(stack, *operators), jax.tree.map(stack, *batch))
    one_by_one = [questions(o, g) for o, g in zip(operators, batch, strict=True)]
    for got, *expected in zip(together, *one_by_one, strict=True):
        expected = np.stack(expected)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 * np.max(np.abs(expected)))


def test_grams_answer_for_each_other():
    # <S, row_gram(T)> = <T, col_gram(S)> = gram_form = tr kernel_form, on operators never seen as tensors
    key = jax.random.key(5)
    op = fm.stacked(
        fm.bilinear_gaussian(key, 7, (5, 4)), fm.scaled(fm.regression(jax.random.normal(key, (2, 4)), 5), 3.0)
    )
    g = arrays(given((5, 4)), jnp.float64)
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
        "tensor: got an array of <U1 and shape .1, 1, 1., expected an array of real numbers",
    ),
    "dense: object": (
        lambda: fm.dense(np.array([[[{}]]])),
        "tensor: got an array of object and shape .1, 1, 1., expected an array of real numbers",
    ),
    "gaussian: m": (lambda: fm.gaussian(KEY, 0, (2, 2)), "num_measurements: got 0, expected a value >= 1"),
    "gaussian: shape": (lambda: fm.gaussian(KEY, 3, (2, 0)), "matrix_shape: got 0, expected a value >= 1"),
    "bernoulli: m": (lambda: fm.bernoulli(KEY, -1, (2, 2)), "num_measurements: got -1, expected a value >= 1"),
    "bernoulli: shape": (lambda: fm.bernoulli(KEY, 3, (-2, 2)), "matrix_shape: got -2, expected a value >= 1"),
    "bilinear: m": (lambda: fm.bilinear_gaussian(KEY, 0, (2, 2)), "num_measurements: got 0"),
    "bilinear: shape": (lambda: fm.bilinear_gaussian(KEY, 3, (0, 2)), "matrix_shape: got 0"),
    "entries: none": (lambda: fm.entries([], [], (2, 2)), r"rows: got no entries \(m = 0\); at least one measurement"),
    "entries: float": (lambda: fm.entries([0.5], [0], (2, 2)), "rows: got float64, expected integers"),
    "entries: bool": (lambda: fm.entries([True], [0], (2, 2)), "rows: got bool, expected integers"),
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
    "entries: shape": (lambda: fm.entries([0], [0], (0, 2)), "matrix_shape: got 0, expected a value >= 1"),
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
    "regression: outputs": (lambda: fm.regression(np.ones((2, 3)), 0), "num_outputs: got 0, expected a value >= 1"),
    "regression: nan": (lambda: fm.regression([[1.0, NAN]]), r"inputs: got 1 value\(s\) .* index \(0, 1\)"),
    "identity: shape": (lambda: fm.identity((0, 1)), "matrix_shape: got 0, expected a value >= 1"),
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
    "scaled: nan": (lambda: fm.scaled(fm.identity((2, 2)), NAN), "scale: got 1 value"),
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
