"""Large completion: against a second solver and the dense one, under symmetries, and its bound against the truth."""

import math

import cvxpy as cp
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from flatmin import JobError, Outcome, UsageError
from flatmin import measurements as ms
from flatmin import solvers as sv
from flatmin.solvers import MinScaledNuclearNorm, large, solve
from flatmin.solvers.large import spectral

SHAPE = (14, 11)


def instance(seed=0, shape=SHAPE, rank=2, share=0.6, noise=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    seen = rng.random(shape) < share
    seen[np.arange(max(shape)) % shape[0], np.arange(max(shape)) % shape[1]] = True
    rows, cols = np.nonzero(seen)
    return truth, rows, cols, truth[rows, cols] + noise * rng.normal(size=len(rows))


def weights(rows, cols, shape, exponent=1.0):
    m = len(rows)
    return (
        (np.bincount(rows, minlength=shape[0]) / m) ** (exponent / 2),
        (np.bincount(cols, minlength=shape[1]) / m) ** (exponent / 2),
    )


def oracle(rows, cols, values, shape, exponent, *, penalty=None, radius=None):
    """The optimal value by CVXPY and Clarabel, typed plainly."""
    a, b = weights(rows, cols, shape, exponent)
    X = cp.Variable(shape)
    norm = cp.normNuc(cp.multiply(np.outer(a, b), X))
    miss = X[rows, cols] - values
    if radius is None:
        task = cp.Problem(cp.Minimize(penalty * norm + 0.5 * cp.sum_squares(miss)))
    else:
        task = cp.Problem(cp.Minimize(norm), [cp.norm(miss) <= radius])
    task.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return task.value


def largest(rows, cols, values, shape, exponent=1.0):
    """lambda from which on X = 0 is the answer."""
    a, b = weights(rows, cols, shape, exponent)
    matrix = np.zeros(shape)
    matrix[rows, cols] = values / (a[rows] * b[cols])
    return np.linalg.norm(matrix, 2)


def objective(solution, rows, cols, values, exponent):
    """The penalised objective from the factors, typed plainly."""
    a, b = weights(rows, cols, solution.shape, exponent)
    X = solution.left @ solution.right.T
    return solution.penalty * np.linalg.svd(a[:, None] * X * b, compute_uv=False).sum() + 0.5 * np.sum(
        (X[rows, cols] - values) ** 2
    )


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_penalised_value_is_that_of_clarabel(seed, fraction, exponent):
    _, rows, cols, values = instance(seed)
    penalty = fraction * largest(rows, cols, values, SHAPE, exponent)
    task = large.large_completion(rows, cols, values, SHAPE, penalty=penalty, weighting=exponent)
    found = large.complete(task, tolerance=1e-9)
    expected = oracle(rows, cols, values, SHAPE, exponent, penalty=penalty)
    assert found.outcome is Outcome.converged
    np.testing.assert_allclose(found.primal_value, expected, rtol=2e-7)
    np.testing.assert_allclose(objective(found, rows, cols, values, exponent), found.primal_value, rtol=1e-12)
    assert found.dual_value <= expected * (1 + 1e-7)
    assert found.gap <= 1e-9


@pytest.mark.parametrize("exponent", [1.0, 0.0])
@pytest.mark.parametrize("radius", [0.3, 1.2])
def test_value_in_a_ball_is_that_of_clarabel(radius, exponent):
    _, rows, cols, values = instance(5)
    task = large.large_completion(rows, cols, values, SHAPE, radius=radius, weighting=exponent)
    found = large.complete(task, tolerance=1e-6, max_sweeps=3000)
    expected = oracle(rows, cols, values, SHAPE, exponent, radius=radius)
    np.testing.assert_allclose(found.primal_value, expected, rtol=2e-6)
    assert found.residual <= radius * (1 + 2e-9)
    assert found.excess <= 2e-9
    assert found.dual_value <= expected * (1 + 1e-7)
    # the dual point, checked plainly
    a, b = weights(rows, cols, SHAPE, exponent)
    matrix = np.zeros(SHAPE)
    matrix[rows, cols] = found.dual / (a[rows] * b[cols])
    assert np.linalg.norm(matrix, 2) <= 1 + 1e-12
    np.testing.assert_allclose(found.dual @ values - radius * np.linalg.norm(found.dual), found.dual_value, rtol=1e-10)


def test_the_dual_is_feasible_and_in_the_users_order():
    _, rows, cols, values = instance(1)
    order = np.random.default_rng(0).permutation(len(rows))
    rows, cols, values = rows[order], cols[order], 1e3 * values[order]
    penalty = 0.1 * largest(rows, cols, values, SHAPE)
    found = large.complete(large.large_completion(rows, cols, values, SHAPE, penalty=penalty), tolerance=1e-8)
    a, b = weights(rows, cols, SHAPE)
    matrix = np.zeros(SHAPE)
    matrix[rows, cols] = found.dual / (a[rows] * b[cols])
    assert 0.999 * penalty <= np.linalg.norm(matrix, 2) <= penalty * (1 + 1e-12)
    value = found.dual @ values - 0.5 * found.dual @ found.dual
    np.testing.assert_allclose(value, found.dual_value, rtol=1e-12)
    np.testing.assert_allclose(found.residual, np.linalg.norm(values - found.predict(rows, cols)), rtol=1e-10)


def test_a_small_penalty_comes_to_the_dense_flat_solution():
    truth, rows, cols, values = instance(2, shape=(30, 26), share=0.7, noise=0.0)
    op = ms.entries(jnp.asarray(rows), jnp.asarray(cols), truth.shape)
    dense = solve(MinScaledNuclearNorm(op, jnp.asarray(values)))
    penalty = 1e-6 * largest(rows, cols, values, truth.shape)
    found = large.complete(large.large_completion(rows, cols, values, truth.shape, penalty=penalty), tolerance=1e-7)
    np.testing.assert_allclose(found.singular_values.sum(), dense.primal_value, rtol=1e-5)
    np.testing.assert_allclose(found.matrix(), truth, atol=1e-4)
    assert found.rank == 2


def test_factors_are_the_flattest_of_their_product():
    """`tr H = (2/m)(sum n_i ||L_i||^2 + sum n_j ||R_j||^2)` is four times the scaled norm, its least value."""
    _, rows, cols, values = instance(3)
    penalty = 0.1 * largest(rows, cols, values, SHAPE)
    found = large.complete(large.large_completion(rows, cols, values, SHAPE, penalty=penalty), tolerance=1e-8)
    a, b = weights(rows, cols, SHAPE)
    trace = 2 * (np.sum((a[:, None] * found.left) ** 2) + np.sum((b[:, None] * found.right) ** 2))
    np.testing.assert_allclose(trace, 4 * found.singular_values.sum(), rtol=1e-12)


# ---- symmetries ----------------------------------------------------------------------------------------------------


def solved(rows, cols, values, shape, penalty, **settings):
    return large.complete(
        large.large_completion(rows, cols, values, shape, penalty=penalty, **settings), tolerance=1e-9
    )


@pytest.mark.parametrize("weighting", ["flat", "plain"])
def test_transposition_permutation_and_scale(weighting):
    _, rows, cols, values = instance(4)
    penalty = 0.1 * largest(rows, cols, values, SHAPE, float(weighting == "flat"))
    base = solved(rows, cols, values, SHAPE, penalty, weighting=weighting).matrix()
    other = solved(cols, rows, values, SHAPE[::-1], penalty, weighting=weighting).matrix()
    np.testing.assert_allclose(other.T, base, atol=1e-4)
    rng = np.random.default_rng(0)
    by_row, by_col = rng.permutation(SHAPE[0]), rng.permutation(SHAPE[1])
    moved = solved(by_row[rows], by_col[cols], values, SHAPE, penalty, weighting=weighting).matrix()
    np.testing.assert_allclose(moved[by_row][:, by_col], base, atol=1e-4)
    for factor in (1e-9, -1e9):
        scaled = solved(rows, cols, factor * values, SHAPE, abs(factor) * penalty, weighting=weighting)
        np.testing.assert_allclose(scaled.matrix() / factor, base, atol=1e-4)


def test_the_same_seed_gives_the_same_bits():
    _, rows, cols, values = instance(0)
    penalty = 0.1 * largest(rows, cols, values, SHAPE)
    one, two = (solved(rows, cols, values, SHAPE, penalty) for _ in range(2))
    np.testing.assert_array_equal(one.left, two.left)
    assert one.gap == two.gap


def test_the_rank_grows_beyond_the_first_factors():
    _, rows, cols, values = instance(6, shape=(40, 35), rank=20, share=0.9)
    penalty = 0.002 * largest(rows, cols, values, (40, 35))
    found = solved(rows, cols, values, (40, 35), penalty)
    assert found.rank > 15
    held = large.complete(
        large.large_completion(rows, cols, values, (40, 35), penalty=penalty), max_rank=5, max_sweeps=60, throw=False
    )
    assert held.left.shape[1] == 5
    assert not held.outcome.success
    assert held.gap > 1e-3
    assert held.primal_value > found.primal_value > held.dual_value
    assert "held at max_rank = 5" in " ".join(held.notes)
    with pytest.raises(JobError, match="reached gap"):
        held.raise_if_failed()


def test_a_warm_start_saves_sweeps():
    _, rows, cols, values = instance(7, shape=(40, 35), rank=3)
    penalty = 0.05 * largest(rows, cols, values, (40, 35))
    task = large.large_completion(rows, cols, values, (40, 35), penalty=penalty)
    cold = large.complete(task, tolerance=1e-7)
    warm = large.complete(task.with_penalty(0.98 * penalty), tolerance=1e-7, start=cold)
    again = large.complete(task.with_penalty(0.98 * penalty), tolerance=1e-7)
    np.testing.assert_allclose(warm.primal_value, again.primal_value, rtol=1e-6)
    assert warm.sweeps <= again.sweeps


def test_a_penalty_above_the_largest_gives_zero():
    _, rows, cols, values = instance(0)
    found = solved(rows, cols, values, SHAPE, 1.01 * largest(rows, cols, values, SHAPE))
    assert np.abs(found.matrix()).max() < 1e-6
    below = solved(rows, cols, values, SHAPE, 0.9 * largest(rows, cols, values, SHAPE))
    assert np.abs(below.matrix()).max() > 1e-3


def test_progress_is_told():
    _, rows, cols, values = instance(0)
    told = []
    task = large.large_completion(rows, cols, values, SHAPE, penalty=1.0)
    found = large.complete(task, progress=told.append)
    assert [line.sweep for line in told] == list(range(1, found.sweeps + 1))
    assert told[-1].objective <= told[0].objective
    np.testing.assert_allclose(told[-1].objective, found.primal_value, rtol=1e-2)


def test_the_end_of_time_is_told_with_the_gap_reached():
    _, rows, cols, values = instance(0)
    task = large.large_completion(rows, cols, values, SHAPE, penalty=0.1)
    late = large.complete(task, max_seconds=1e-9, throw=False)
    assert late.outcome is Outcome.max_time
    assert late.sweeps == 1
    assert late.gap > 1e-4
    done = large.complete(task, max_seconds=60.0)
    assert late.dual_value <= done.primal_value * (1 + 1e-9)
    assert late.primal_value >= done.dual_value * (1 - 1e-9)
    with pytest.raises(JobError, match="the end of time was reached before the tolerance; raise max_time"):
        large.complete(task, max_seconds=1e-9)


# ---- the spectral bound --------------------------------------------------------------------------------------------


def sparse_matrix(seed, shape, density=0.05, planted=()):
    rng = np.random.default_rng(seed)
    matrix = sparse.random_array(shape, density=density, rng=rng, data_sampler=rng.standard_normal).toarray()
    for value in planted:
        u, v = rng.normal(size=shape[0]), rng.normal(size=shape[1])
        matrix += value * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    return matrix


def bounded(matrix, U, V, level, seed=0):
    whole = sparse.csr_array(matrix)
    return large.spectral_bound(whole, sparse.csr_array(whole.T), U, V, level=level, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("split", [0, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_and_is_near(seed, split, monkeypatch):
    monkeypatch.setattr(spectral, "DENSE", 0)
    matrix = sparse_matrix(seed, (130, 90), planted=(20.0, 19.0, 18.0))
    U, s, Vt = np.linalg.svd(matrix)
    found = bounded(matrix, U[:, :split], Vt[:split].T, s[0])
    assert found.upper >= s[0] * (1 - 1e-13)
    assert found.lower <= s[0] * (1 + 1e-13)
    assert found.upper <= s[0] * (
        1 + (1e-9 if split else 0.42)
    )  # a run ends at a relative error of a half of the square
    assert 0 < found.failure_probability <= 1e-10


def test_directions_off_by_little_cost_their_square(monkeypatch):
    monkeypatch.setattr(spectral, "DENSE", 0)
    matrix = sparse_matrix(0, (130, 90), planted=(40.0, 38.0))
    U, s, Vt = np.linalg.svd(matrix)
    rng = np.random.default_rng(1)
    for size in (1e-2, 1e-4):
        u = np.linalg.qr(U[:, :2] + size * rng.normal(size=(130, 2)) / 10)[0]
        v = np.linalg.qr(Vt[:2].T + size * rng.normal(size=(90, 2)) / 10)[0]
        found = bounded(matrix, u, v, s[0])
        assert s[0] <= found.upper <= s[0] * (1 + 10 * size**2)


def test_missing_directions_are_found(monkeypatch):
    for limit in (0, spectral.DENSE):
        monkeypatch.setattr(spectral, "DENSE", limit)
        matrix = sparse_matrix(2, (130, 90), planted=(40.0, 30.0, 25.0))
        U, s, Vt = np.linalg.svd(matrix)
        found = bounded(matrix, U[:, :1], Vt[:1].T, 20.0)
        np.testing.assert_allclose(found.values, s[1:3], rtol=1e-3)
        for value, u, v in zip(found.values, found.left.T, found.right.T, strict=True):
            np.testing.assert_allclose(u @ matrix @ v, value, rtol=1e-6)


def test_sparse_and_dense_certificates_agree(monkeypatch):
    _, rows, cols, values = instance(8, shape=(60, 50), rank=3)
    penalty = 0.1 * largest(rows, cols, values, (60, 50))
    task = large.large_completion(rows, cols, values, (60, 50), penalty=penalty)
    dense = large.complete(task, tolerance=1e-8)
    assert dense.bound.failure_probability == 0
    monkeypatch.setattr(spectral, "DENSE", 0)
    matrix_free = large.complete(task, tolerance=1e-8)
    assert matrix_free.bound.failure_probability > 0
    assert "Lanczos" in matrix_free.bound.method
    np.testing.assert_allclose(matrix_free.primal_value, dense.primal_value, rtol=2e-8)


def test_certificates_of_wrong_points_are_honest(monkeypatch):
    """Factors that solve nothing: the interval still holds the optimum."""
    _, rows, cols, values = instance(9)
    penalty = 0.1 * largest(rows, cols, values, SHAPE)
    task = large.large_completion(rows, cols, values, SHAPE, penalty=penalty)
    optimum = large.complete(task, tolerance=1e-9).primal_value / task.scale**2
    rng = np.random.default_rng(0)
    for limit in (0, spectral.DENSE):
        monkeypatch.setattr(spectral, "DENSE", limit)
        for _ in range(5):
            left, right = rng.normal(size=(SHAPE[0], 3)), rng.normal(size=(SHAPE[1], 3))
            proved = large.certify_large(task, left, right, rng=rng)
            assert proved.dual_value <= optimum * (1 + 1e-9)
            assert proved.primal_value >= optimum * (1 - 1e-9)
            assert proved.gap >= (proved.primal_value - optimum) / proved.primal_value - 1e-9


# ---- unseen lines, bad input ---------------------------------------------------------------------------------------


def test_unseen_lines_are_refused_or_reduced():
    _, rows, cols, values = instance(0)
    keep = (rows != 3) & (cols != 5) & (cols != 7)
    rows, cols, values = rows[keep], cols[keep], values[keep]
    with pytest.raises(UsageError, match=r"1 of 14 rows without an entry, the first is row 3, .* pass reduce=True"):
        large.large_completion(rows, cols, values, SHAPE, penalty=1.0)
    reduced = solved(rows, cols, values, SHAPE, 1.0, reduce=True)
    assert "reduced to the seen part" in reduced.notes[0]
    assert "2 of 11 columns" in reduced.notes[1]
    matrix = reduced.matrix()
    assert not matrix[3].any()
    assert not matrix[:, [5, 7]].any()
    # the answer is that of the smaller problem
    by_row = np.cumsum(np.arange(14) != 3) - 1
    by_col = np.cumsum(~np.isin(np.arange(11), [5, 7])) - 1
    small = solved(by_row[rows], by_col[cols], values, (13, 9), 1.0)
    np.testing.assert_allclose(np.delete(np.delete(matrix, 3, 0), [5, 7], 1), small.matrix(), atol=1e-5)
    plain = solved(rows, cols, values, SHAPE, 1.0, weighting="plain")
    assert "says nothing of them: they get 0" in plain.notes[0]


ROWS, COLS, VALUES = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]), np.array([1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"penalty": None}, "penalty, radius: got neither, expected one"),
        ({"radius": 1.0}, "penalty, radius: got both"),
        ({"penalty": -1.0}, "penalty: got -1.0, expected a finite number > 0"),
        ({"penalty": 0.0}, "penalty: got 0.0"),
        ({"penalty": math.nan}, "penalty: got nan"),
        ({"penalty": math.inf}, "penalty: got inf"),
        ({"penalty": None, "radius": -2.0}, "radius: got -2.0, expected a finite number >= 0"),
        ({"penalty": None, "radius": 0.0}, "radius: got 0.0"),
        ({"weighting": "flta"}, "weighting: got 'flta', expected one of flat, plain or a finite number"),
        ({"weighting": 1.5}, "weighting: got 1.5, expected one of flat, plain or a finite number >= 0 and <= 1"),
        ({"weighting": math.nan}, "weighting: got nan"),
        ({"shape": (2, 0)}, "shape: got 0, expected an integer >= 1"),
        ({"rows": np.array([0, 1, 2, 0])}, r"rows: entry 2 is 2, outside \[0, 2\)"),
        ({"rows": np.array([0, 1, -1, 0])}, "rows: got -1, expected an array of integers >= 0"),
        (
            {"cols": np.array([0.0, 1, 0, 1])},
            r"cols: got an array of float64 and shape \(4,\), expected an array of integers",
        ),
        ({"cols": np.array([0, 1, 0])}, r"cols: got shape \(3,\), expected \(4,\), as `rows` has m = 4"),
        ({"cols": np.array([0, 1, 0, 0])}, r"given again, the first is \(0, 0\); average"),
        (
            {"values": np.array([1, 2, np.nan, np.inf])},
            r"values: got 2 value\(s\) that are NaN or infinite, .* index \(2,\)",
        ),
        ({"values": np.array([1j, 2, 3, 4])}, "values: got an array of complex128"),
        ({"values": np.array(["a", "b", "c", "d"])}, "values: got an array of <U1"),
        ({"values": 1e200 * VALUES}, "leave the range of floating point; rescale"),
        ({"values": 1e-200 * VALUES}, "leave the range of floating point; rescale"),
        ({"rows": np.array([], int), "cols": np.array([], int), "values": np.array([])}, "rows: got shape"),
    ],
)
def test_bad_input_is_one_sentence(changes, text):
    settings = {"rows": ROWS, "cols": COLS, "values": VALUES, "shape": (2, 2), "penalty": 0.1} | changes
    with pytest.raises(UsageError, match=text):
        large.large_completion(**settings)


def test_bad_settings_of_the_solve_are_one_sentence():
    task = large.large_completion(ROWS, COLS, VALUES, (2, 2), penalty=0.1)
    for settings, text in (
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"max_sweeps": 0}, "max_sweeps: got 0"),
        ({"max_rank": 0}, "max_rank: got 0"),
        ({"max_seconds": 0.0}, "max_seconds: got 0.0"),
    ):
        with pytest.raises(UsageError, match=text):
            large.complete(task, **settings)
    found = large.complete(task)
    with pytest.raises(UsageError, match=r"start: got a solution of shape \(2, 2\), expected \(3, 2\)"):
        large.complete(large.large_completion(ROWS, COLS, VALUES, (3, 2), penalty=0.1, weighting="plain"), start=found)
    with pytest.raises(UsageError, match=r"rows: expected integers in \[0, 2\)"):
        found.predict(np.array([2]), np.array([0]))
    with pytest.raises(UsageError, match="expected two vectors of one length"):
        found.predict(np.array([1, 0]), np.array([0]))
    with pytest.raises(UsageError, match=r"values: got 2 of them, expected 4"):
        task.with_values(np.ones(2))
    with pytest.raises(UsageError, match="penalty: got -1"):
        task.with_penalty(-1)


def test_one_row_one_entry_and_equal_entries():
    row = solved(np.zeros(6, int), np.arange(6), np.arange(1.0, 7), (1, 6), 0.5)
    expected = oracle(np.zeros(6, int), np.arange(6), np.arange(1.0, 7), (1, 6), 1.0, penalty=0.5)
    np.testing.assert_allclose(row.primal_value, expected, rtol=1e-6)
    # one entry: soft thresholding
    one = solved(np.array([0]), np.array([0]), np.array([-2.5]), (1, 1), 0.5)
    np.testing.assert_allclose(one.primal_value, 0.5 * 2 + 0.5 * 0.5**2, rtol=1e-9)
    np.testing.assert_allclose(one.matrix(), [[-2.0]], rtol=1e-4)
    _, rows, cols, _ = instance(0)
    equal = solved(rows, cols, np.full(len(rows), 3.0), SHAPE, 0.01)
    np.testing.assert_allclose(equal.matrix(), 3.0, rtol=0.05)
    assert equal.rank == 1
    zero = solved(rows, cols, np.zeros(len(rows)), SHAPE, 0.01)
    assert not zero.matrix().any()
    assert zero.gap == 0


def test_entries_of_wildly_different_scale_are_told():
    _, rows, cols, _ = instance(0)
    values = 10.0 ** np.random.default_rng(0).uniform(-12, 12, len(rows))
    task = large.large_completion(rows, cols, values, SHAPE, penalty=1e9)
    assert "cannot be told from 0 beside it" in task.notes[-1]
    found = large.complete(task, tolerance=1e-3)
    assert "rescale rows or columns" in found.notes[0]
    assert "degrees of freedom" in found.notes[1]
    expected = oracle(rows, cols, values / 1e12, SHAPE, 1.0, penalty=1e-3)
    assert found.gap <= 1e-3
    assert found.dual_value / 1e24 <= expected * (1 + 1e-6)
    np.testing.assert_allclose(found.primal_value / 1e24, expected, rtol=1e-3)


@pytest.mark.parametrize("kind", [sv.MinNuclearNorm, sv.MinScaledNuclearNorm])
@pytest.mark.parametrize("misfit", [sv.SquaredLoss(0.3), sv.L2Ball(1.0)])
def test_factored_is_a_method_of_solve(kind, misfit):
    _, rows, cols, values = instance(0)
    program = kind(ms.entries(jnp.asarray(rows), jnp.asarray(cols), SHAPE), jnp.asarray(values), misfit)
    solution = sv.solve(program, sv.Factored(), tolerance=1e-5)
    other = sv.solve(program, tolerance=1e-8)
    assert solution.gap <= 1e-5
    np.testing.assert_allclose(solution.primal_value, other.primal_value, rtol=1e-5)
    again = sv.solve(program, sv.Factored(), tolerance=1e-5, start=solution)
    assert again.iterations <= solution.iterations
    with pytest.raises(UsageError, match="start: got a solution by"):
        sv.solve(program, sv.Factored(), start=other)


def test_factored_refuses_what_it_cannot_solve():
    op = ms.entries(jnp.arange(3), jnp.arange(3), (3, 3))
    with pytest.raises(UsageError, match="expected MinNuclearNorm or MinScaledNuclearNorm of entries"):
        sv.solve(sv.MinNuclearNorm(op, jnp.ones(3)), sv.Factored())
