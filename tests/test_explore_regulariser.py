"""The exploration of the induced regulariser: a tiny size, its claims, and the fits on forms that are known."""

import numpy as np
import pytest
import xarray as xr

from flatmin._core import UsageError
from flatmin.cli import main
from flatmin.experiments.cells import Context
from flatmin.experiments.regulariser import SIZES, ExploreRegulariser, explore
from flatmin.experiments.regulariser.fits import CANDIDATES, fit_all
from flatmin.experiments.regulariser.samples import POWERS, matrices_of, measurements_of
from flatmin.measurements import col_gram, row_gram

TINY = ExploreRegulariser(
    rows=3, columns=3, depths=(2, 3), matrices=8, many=300, few=2, bootstraps=20, ensembles=("gaussian, few", "one")
)


def test_a_tiny_exploration(tmp_path):
    told = []
    content = explore(TINY, Context(tmp_path, workers=1, progress=lambda *what: told.append(what)))
    verdicts = {claim.name: claim.holds for claim in content.claims}
    for name in ("proven", "depth-2", "one-measurement", "mean-of-single-below"):
        assert verdicts[name]
    assert not verdicts["form-nuclear"]
    assert len(content.datasets) == 4
    fits = content.files["fits.csv"].decode().splitlines()
    assert len(fits) == 1 + 2 * 2 * len(CANDIDATES)
    values = content.files["values.csv"].decode().splitlines()
    assert len(values) == 1 + 2 * 2 * 8
    assert any(total == 16 for _, _, total in told)


@pytest.mark.parametrize("ensemble", SIZES["quick"](0).ensembles)
def test_every_ensemble_sees_all_rows_and_columns(ensemble):
    op = measurements_of(SIZES["quick"](3), ensemble)
    assert op.matrix_shape == (4, 3)
    assert np.linalg.eigvalsh(row_gram(op))[0] > -1e-9
    for gram in (row_gram(op), col_gram(op)):
        assert np.all(np.diag(gram) > 0)


def test_the_matrices_have_all_ranks_and_unit_norm():
    matrices = matrices_of(SIZES["quick"](0))
    np.testing.assert_allclose(np.linalg.norm(matrices, axis=(1, 2)), 1)
    assert {int(np.linalg.matrix_rank(M)) for M in matrices} == {1, 2, 3}
    assert not np.allclose(matrices[0], matrices_of(SIZES["quick"](1))[0])


def test_fits_find_a_form_that_is_true():
    """F = 3 ||M||_{S_p}^q by construction: p and the scale come back, and p = 1 is excluded."""
    rng = np.random.default_rng(0)
    spectra = rng.uniform(0.1, 1, (40, 4))
    table = np.sum(spectra[:, None] ** POWERS[:, None], axis=2) ** (1 / POWERS)
    at = int(np.argmin(np.abs(POWERS - 0.6)))
    one = np.ones((1, 40))
    data = xr.Dataset(
        {
            "value": (("depth", "matrix"), 3 * table[None, :, at] ** (4 / 3)),
            "mean_single": (("depth", "matrix"), one),
            "geometric_single": (("depth", "matrix"), 0 * one),
            "weighted_schatten": (("matrix", "power"), table),
            "schatten": (("matrix", "power"), table),
            "moment": ((), 1.0),
        },
        coords={"depth": [3], "matrix": np.arange(40), "power": POWERS},
    )
    fits = fit_all(data, 3, 50, 0)
    assert fits["Schatten"].power[0] == POWERS[at]
    assert fits["Schatten"].power[2] < 1
    between = 0.3 * np.log(table[:, at]) + 0.7 * np.log(table[:, at + 1])  # off the grid of exponents
    off = data.assign(value=(("depth", "matrix"), 3 * np.exp(between)[None] ** (4 / 3)))
    log_power = np.log(fit_all(off, 3, 20, 0)["Schatten"].power[0] / POWERS[at])
    assert log_power == pytest.approx(0.7 * np.log(POWERS[at + 1] / POWERS[at]), rel=0.02)
    assert fits["Schatten"].scale == pytest.approx(3)
    assert fits["Schatten"].error < 1e-12 < 1e-3 < fits["nuclear"].error
    assert not np.isfinite(fits["geometric mean of single"].error)


def test_wrong_use_is_one_sentence(tmp_path, capsys):
    assert main(["explore-regulariser", "--quick", "--full", "--out", str(tmp_path)]) == 2
    assert "quick, full: got both" in capsys.readouterr().err
    assert main(["explore-regulariser", "--workers", "0", "--out", str(tmp_path)]) == 2
    assert "workers: got 0" in capsys.readouterr().err
    with pytest.raises(UsageError, match="ensembles: 'gausian' is not known; did you mean"):
        measurements_of(TINY, "gausian")


@pytest.mark.long
def test_the_command_stores_a_run_and_finds_it_again(tmp_path, capsys):
    arguments = ["explore-regulariser", "--quick", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "computed in" in capsys.readouterr().out
    (folder,) = tmp_path.glob("explore-regulariser-*")
    assert {"report.html", "claims.json", "fits.csv", "values.csv"} <= {path.name for path in folder.iterdir()}
    assert main(arguments) == 0
    assert "found, not recomputed" in capsys.readouterr().out
