"""Estimators: scikit-learn's own checks, values against plainly typed ones, and what they refuse."""

import datetime as dt
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from flatmin import UsageError
from flatmin.estimators import FlatCompletion, FlatCovariance, FlatRobustPCA, NuclearCompletion

COMPLETIONS = (FlatCompletion, NuclearCompletion)

# the checks' tables have unseen rows, and features without any structure
TOLD, CUT_SHORT = "ignore:There are:UserWarning", "ignore::sklearn.exceptions.ConvergenceWarning"
_MATRIX = "predict(X) gives the low-rank matrix itself, where the check wants one number a sample"


def documented(estimator):
    """The checks that fail, each with its reason; all others pass."""
    if isinstance(estimator, FlatCovariance):
        return {}
    return {"check_estimator_sparse_array": _MATRIX, "check_estimator_sparse_matrix": _MATRIX}


@pytest.mark.filterwarnings(TOLD)
@pytest.mark.filterwarnings(CUT_SHORT)
@pytest.mark.filterwarnings("ignore:the smallest penalty tried:UserWarning")
@parametrize_with_checks([FlatCompletion(), NuclearCompletion()], expected_failed_checks=documented)
def test_scikit_learns_checks_of_completions(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings(TOLD)
@pytest.mark.filterwarnings(CUT_SHORT)
@parametrize_with_checks([FlatRobustPCA()], expected_failed_checks=documented)
def test_scikit_learns_checks_of_robust_pca(estimator, check):
    check(estimator)


@pytest.mark.long
@pytest.mark.filterwarnings(TOLD)
@pytest.mark.filterwarnings(CUT_SHORT)
@parametrize_with_checks([FlatCovariance()], expected_failed_checks=documented)
def test_scikit_learns_checks_of_the_covariance(estimator, check):
    check(estimator)


def partly_known(seed=0, shape=(40, 30), rank=2, share=0.6, noise=0.01):
    rng = np.random.default_rng(seed)
    truth = 1.0 + rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    known = rng.random(shape) < share
    known[np.arange(shape[0]), np.arange(shape[0]) % shape[1]] = True
    X = np.where(known, truth + noise * rng.normal(size=shape), np.nan)
    return truth, known, X


@pytest.mark.parametrize("kind", COMPLETIONS)
def test_a_planted_matrix_is_completed_with_a_penalty_chosen_by_held_out_entries(kind):
    truth, known, X = partly_known()
    fitted = kind(random_state=0).fit(X)
    assert np.linalg.norm((fitted.transform(X) - truth)[~known]) < 0.05 * np.linalg.norm(truth[~known])
    np.testing.assert_array_equal(fitted.transform(X)[known], X[known])
    rows, cols = np.nonzero(~known)
    np.testing.assert_allclose(fitted.predict(rows, cols), fitted.transform(X)[rows, cols], atol=2e-2)
    np.testing.assert_allclose(
        fitted.predict(rows, cols), fitted.offset_ + (fitted.left_ @ fitted.right_.T)[rows, cols], rtol=1e-12
    )
    assert fitted.certificate_.gap <= 1e-4
    assert fitted.certificate_.dual_value <= fitted.certificate_.primal_value
    errors = [error for *_, error in fitted.validation_path_]
    assert fitted.penalty_ == fitted.validation_path_[int(np.argmin(errors))][0]
    assert fitted.score(X) > 0.99


def test_flat_factors_are_flat_and_nuclear_ones_are_not():
    """Two in three columns are seen seldom: the closed forms of the trace tell the two apart."""
    truth, known, _ = partly_known(share=0.9)
    known[:, 10:] &= np.random.default_rng(1).random((40, 20)) < 0.4
    known[np.arange(40), np.arange(40) % 30] = True
    X = np.where(known, truth, np.nan)
    flat, nuclear = (kind(penalty=1e-3).fit(X) for kind in COMPLETIONS)
    np.testing.assert_allclose(flat.flatness_.ratio, 1, rtol=1e-9)
    assert nuclear.flatness_.ratio > 1.001
    m = known.sum()
    for fitted in (flat, nuclear):
        L, R = fitted.left_, fitted.right_
        trace = 2 / m * sum(L[i] @ L[i] + R[j] @ R[j] for i, j in zip(*np.nonzero(known), strict=True))
        np.testing.assert_allclose(fitted.flatness_.trace, trace, rtol=1e-10)
        np.testing.assert_allclose(
            fitted.flatness_.nuclear_norm, np.linalg.svd(L @ R.T, compute_uv=False).sum(), rtol=1e-10
        )
    assert nuclear.flatness_.imbalance < 1e-8 < flat.flatness_.imbalance
    np.testing.assert_allclose(nuclear.flatness_.trace, nuclear.flatness_.balanced_trace, rtol=1e-9)


@pytest.mark.parametrize("kind", [*COMPLETIONS, FlatRobustPCA])
def test_nan_masks_and_sparse_say_the_same(kind):
    _, known, X = partly_known()
    settings = {} if kind is FlatRobustPCA else {"penalty": 0.1, "random_state": 0}
    rows, cols = np.nonzero(known)
    dense = kind(**settings).fit(X).predict(rows, cols)
    masked = kind(**settings).fit(np.ma.masked_array(np.nan_to_num(X), ~known)).predict(rows, cols)
    np.testing.assert_array_equal(masked, dense)
    triples = sparse.coo_array((X[rows, cols], (rows, cols)), shape=X.shape)
    for form in ("csr", "csc", "coo", "lil", "dok"):
        fitted = kind(**settings).fit(triples.asformat(form))
        np.testing.assert_array_equal(fitted.predict(rows, cols), dense)
        assert fitted.transform(triples.asformat(form)).shape == X.shape


def test_a_stored_zero_is_known():
    triples = sparse.csr_array((np.array([1.0, 0.0, 2.0]), (np.array([0, 0, 1]), np.array([0, 1, 1]))), shape=(2, 2))
    fitted = FlatCompletion(penalty=1e-6, centre=False).fit(triples)
    assert fitted.n_entries_ == 3
    np.testing.assert_allclose(fitted.predict(np.array([0]), np.array([1])), 0, atol=1e-3)


def test_new_rows_are_completed():
    truth, known, X = partly_known(shape=(60, 30))
    fitted = FlatCompletion(random_state=0).fit(X[:50])
    filled = fitted.transform(X[50:])
    assert np.linalg.norm((filled - truth[50:])[~known[50:]]) < 0.1 * np.linalg.norm(truth[50:][~known[50:]])
    assert fitted.score(X[50:]) > 0.95


def test_rank_is_capped_or_chosen():
    truth, known, X = partly_known(rank=2, noise=0.3)
    capped = FlatCompletion(penalty=1e-3, rank=1)
    with pytest.warns(ConvergenceWarning, match="rank was held below that of the solution"):
        capped.fit(X)
    assert capped.left_.shape[1] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        chosen = FlatCompletion(penalty=1e-3, rank="validation", random_state=0).fit(X)
        free = FlatCompletion(penalty=1e-3, random_state=0).fit(X)
    miss = [np.linalg.norm((f.transform(X) - truth)[~known]) for f in (chosen, free)]
    assert miss[0] < miss[1]
    assert chosen.left_.shape[1] < free.left_.shape[1]


def test_grid_search_pickle_clone_and_repeat():
    _, _, X = partly_known()
    search = GridSearchCV(FlatCompletion(random_state=0), {"penalty": [1.0, 1e5]}, cv=3).fit(X)
    assert search.best_params_ == {"penalty": 1.0}
    fitted = search.best_estimator_
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    one, two = (clone(fitted).set_params(random_state=3, penalty=None).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.left_, two.left_)


def test_unseen_rows_are_told_or_refused():
    _, _, X = partly_known()
    X[4] = np.nan
    with pytest.warns(
        UserWarning, match=r"1 of 40 rows without an entry, the first is row 4; the programme was reduced"
    ):
        fitted = FlatCompletion(penalty=0.1).fit(X)
    np.testing.assert_allclose(fitted.transform(X)[4], fitted.offset_)
    with pytest.raises(ValueError, match="the first is row 4"):
        FlatCompletion(penalty=0.1, unseen="error").fit(X)


def test_degenerate_tables():
    equal = np.full((5, 4), 3.0)
    equal[0, 0] = np.nan
    for kind in COMPLETIONS:
        np.testing.assert_allclose(kind().fit_transform(equal), 3.0)
        with pytest.warns(UserWarning, match="1 of 4 columns without an entry"):
            one_row = kind().fit(np.array([[1.0, 2.0, np.nan, 4.0]]))
        np.testing.assert_allclose(one_row.transform([[1.0, 2.0, np.nan, 4.0]]), [[1, 2, 7 / 3, 4]])
        single = kind(penalty=0.1).fit([[2.0]])
        np.testing.assert_allclose(single.transform([[np.nan]]), 2.0, atol=1e-6)
    np.testing.assert_allclose(FlatRobustPCA().fit(np.full((5, 4), 3.0)).low_rank_, 3.0, atol=1e-4)


def test_scales_far_apart_are_told():
    X = 10.0 ** np.random.default_rng(0).uniform(-12, 12, (8, 6))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        FlatCompletion(penalty=1e10, centre=False, tolerance=1e-2).fit(X)
    for words in ("cannot be told from 0 beside it", "the columns differ in scale by a factor of"):
        assert any(words in str(warning.message) for warning in told)


def test_columns_of_one_scale_are_not_told(recwarn):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(20, 2)) @ rng.normal(size=(2, 8)) * np.geomspace(1, 100, 8)
    X[rng.random(X.shape) < 0.2] = np.nan
    FlatCompletion(penalty=0.1).fit(X)
    assert not [w for w in recwarn if "scale" in str(w.message)]


def test_a_search_that_ends_at_its_edge_is_told():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 20))
    noisy = X + 0.3 * rng.normal(size=X.shape)
    X[rng.random(X.shape) < 0.3] = np.nan
    with pytest.warns(UserWarning, match=r"the smallest penalty tried, .* the search ended at its edge"):
        exact = NuclearCompletion(random_state=0).fit(X)
    assert exact.penalty_ == min(penalty for penalty, *_ in exact.validation_path_)
    noisy[rng.random(X.shape) < 0.3] = np.nan
    inside = NuclearCompletion(random_state=0).fit(noisy)  # warnings are errors here
    assert inside.penalty_ > min(penalty for penalty, *_ in inside.validation_path_)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"penalty": -1.0}, "penalty: got -1.0, expected a finite number > 0"),
        ({"penalty": 0}, "penalty: got 0"),
        ({"penalty": np.nan}, "penalty: got nan"),
        ({"rank": 0}, "rank: got 0, expected an integer >= 1"),
        ({"rank": 1.5}, "rank: got 1.5"),
        ({"rank": "best"}, "rank: got 'best', expected an integer >= 1 or one of validation"),
        ({"validation_fraction": 1.0}, "validation_fraction: got 1.0"),
        ({"unseen": "drop"}, "unseen: 'drop' is not known"),
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"max_iter": 0}, "max_iter: got 0"),
    ],
)
def test_wrong_settings_of_completions(settings, text):
    with pytest.raises(ValueError, match=text):
        FlatCompletion(**settings).fit(np.ones((3, 3)))


def test_texts_and_dates_are_no_numbers():
    for X in ([["1", "2"]], np.array([["2024-01-01"]], "M8[D]"), np.array([[1.0, dt.date(2024, 1, 1)]], object)):
        with pytest.raises(UsageError, match=r"X: got .*expected real numbers"):
            FlatCompletion(penalty=0.1).fit(X)
    X, y = np.eye(3), np.ones(3)
    for targets in (None, ["1", "2", "3"], np.ones(2)):
        with pytest.raises(UsageError, match="y: "):
            FlatCovariance(penalty=0.1).fit(X, targets)
    with pytest.raises(UsageError, match="sample_weight: got shape"):
        FlatCovariance(penalty=0.1, scaled=False).fit(X, y).score(X, y, sample_weight=[1.0])
    for random_state in (-1, "0", True):
        with pytest.raises(UsageError, match="random_state: got"):
            FlatCompletion(penalty=0.1, random_state=random_state).fit(X)


def test_wrong_input_of_completions():
    fitted = FlatCompletion(penalty=0.1).fit(np.eye(3))
    for call, text in (
        (lambda: FlatCompletion().fit(np.full((3, 3), np.nan)), "no entry is known"),
        (lambda: FlatCompletion().fit([[1.0, np.inf]]), "infinity"),
        (lambda: FlatCompletion().fit([["a", "b"]]), "X: got entries of type <U1, expected real numbers"),
        (lambda: fitted.transform(np.ones((3, 4))), "4 features"),
        (
            lambda: fitted.predict(np.array([3]), np.array([0])),
            "X: got 3, expected an array of integers >= 0 .*each at most 2",
        ),
        (lambda: fitted.predict(np.array([0]), np.array([-1])), "cols: got -1"),
        (lambda: fitted.predict(np.array([0.5]), np.array([0])), "X: got an array of float64"),
        (
            lambda: fitted.predict(np.array([0, 1]), np.array([0])),
            r"cols: got shape \(1,\), expected \(2,\), as `X` has m = 2",
        ),
        (lambda: fitted.score([[1.0, np.nan, np.nan]]), "no row has two known entries"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


# ---- robust PCA ----------------------------------------------------------------------------------------------------


def spoiled(seed=0, shape=(40, 30), rank=2, share=0.05):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    wrong = rng.random(shape) < share
    return truth, wrong, truth + wrong * rng.uniform(-20, 20, shape)


@pytest.mark.parametrize("with_radius", [False, True])
def test_robust_pca_recovers_a_planted_matrix(with_radius):
    truth, wrong, Y = spoiled()
    settings = {"radius": np.abs(Y - truth).sum()} if with_radius else {}
    fitted = FlatRobustPCA(tolerance=1e-8, **settings).fit(Y)
    np.testing.assert_allclose(fitted.low_rank_, truth, atol=1e-4)
    assert fitted.rank_ == 2
    np.testing.assert_array_equal(np.abs(fitted.outliers_) > 1e-2, wrong & (np.abs(Y - truth) > 1e-2))
    np.testing.assert_allclose(fitted.left_ @ fitted.right_.T, fitted.low_rank_, atol=1e-6)
    np.testing.assert_allclose(fitted.low_rank_ + fitted.outliers_, Y, atol=1e-12)
    np.testing.assert_allclose(fitted.transform(Y), fitted.low_rank_, atol=1e-2)
    assert fitted.certificate_.gap <= 1e-8
    rows, cols = np.array([0, 5]), np.array([3, 4])
    np.testing.assert_array_equal(fitted.predict(rows, cols), fitted.low_rank_[rows, cols])


def test_robust_pca_cleans_new_rows():
    truth, _, Y = spoiled(shape=(60, 30))
    fitted = FlatRobustPCA().fit(Y[:50])
    np.testing.assert_allclose(fitted.transform(Y[50:]), truth[50:], atol=0.1)
    assert fitted.score(truth[50:]) > 0.95 > fitted.score(np.random.default_rng(0).normal(size=(10, 30)))


def test_wrong_settings_of_robust_pca():
    for settings, text in (
        ({"penalty": -1.0}, "penalty: got -1.0"),
        ({"radius": 0.0}, "radius: got 0.0"),
        ({"penalty": 1.0, "radius": 1.0}, "penalty, radius: got both"),
        ({"tolerance": 2.0}, "tolerance: got 2.0"),
        ({"max_iter": 0}, "max_iter: got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            FlatRobustPCA(**settings).fit(np.eye(3))


def test_every_entry_wrong_is_not_called_recovered():
    """An outlier fraction of 1 leaves nothing to recover: certified as a programme, and far from the truth."""
    truth, _, Y = spoiled(share=1.0)
    fitted = FlatRobustPCA().fit(Y)
    assert fitted.certificate_.gap <= 1e-6
    assert fitted.rank_ > 2
    assert np.linalg.norm(fitted.low_rank_ - truth) > np.linalg.norm(truth)


# ---- covariance ----------------------------------------------------------------------------------------------------


def test_a_planted_covariance_comes_back():
    rng = np.random.default_rng(0)
    U, X = rng.normal(size=(8, 2)), rng.normal(size=(60, 8))
    y = np.sum((X @ U) ** 2, axis=1)
    fitted = FlatCovariance(random_state=0).fit(X, y)
    np.testing.assert_allclose(fitted.covariance_, U @ U.T, atol=1e-2)
    assert fitted.rank_ == 2
    np.testing.assert_allclose(fitted.predict(X), np.einsum("ia,ab,ib->i", X, fitted.covariance_, X), rtol=1e-10)
    assert fitted.score(X, y) > 0.999
    weight = (X * np.sum(X**2, axis=1, keepdims=True)).T @ X / len(X)
    np.testing.assert_allclose(fitted.flatness_.trace, 8 * np.trace(weight @ fitted.covariance_), rtol=1e-4)
    assert fitted.certificate_.gap <= 1e-6
    assert np.linalg.eigvalsh(fitted.covariance_)[0] > -1e-6


def test_wrong_settings_of_the_covariance():
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.ones(20)
    for settings, text in (
        ({"penalty": -1.0}, "penalty: got -1.0"),
        ({"validation_fraction": 0.0}, "validation_fraction: got 0.0"),
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"max_iter": 0}, "max_iter: got 0"),
    ):
        with pytest.raises(ValueError, match=text):
            FlatCovariance(**settings).fit(X, y)
    with pytest.raises(ValueError, match=r"n_samples=2 measurements that do not span the 3 features"):
        FlatCovariance().fit(X[:2], y[:2])


def test_without_scikit_learn_there_is_one_sentence():
    code = "import sys; sys.modules['sklearn'] = None\nimport flatmin.estimators"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = out.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: flatmin.estimators needs scikit-learn 1.6 or later, which is not installed; "
        "pip install 'flatmin[sklearn]'"
    )


def test_robust_pca_with_dense_noise_keeps_the_rank():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 30))
    spikes = (rng.random(truth.shape) < 0.02) * rng.normal(size=truth.shape) * 10
    fitted = FlatRobustPCA().fit(truth + spikes + 0.02 * rng.normal(size=truth.shape))
    assert fitted.rank_ == 2
    assert 0.5 < fitted.noise_ / 0.02 < 2
    assert np.mean(fitted.outliers_ != 0) < 0.05
    assert np.linalg.norm(fitted.low_rank_ - truth) < 0.05 * np.linalg.norm(truth)
    np.testing.assert_allclose(fitted.transform(truth + spikes)[:3], truth[:3], atol=0.2)
    assert FlatRobustPCA().fit(truth + spikes).noise_ == 0


def test_columns_that_nothing_links_are_warned_of():
    X = np.array([[1.5, np.nan], [0, np.nan], [np.nan, 5], [np.nan, 8], [8, np.nan], [np.nan, 6]])
    with pytest.warns(UserWarning, match="fall into 2 groups .* do not determine"):
        NuclearCompletion(random_state=0).fit(X)
