"""The third paper at reduced size: verdicts by proof, transitions, claims that hold and that fail on exchanged data."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr

from flatmin.experiments.papers import ding2022
from flatmin.experiments.papers.ding2022.cells import diagram_cell
from flatmin.experiments.papers.ding2022.claims import claims, degrees_of_freedom
from flatmin.experiments.papers.ding2022.figures import figures
from flatmin.experiments.papers.ding2022.instances import instance_key, instances, programmes
from flatmin.experiments.papers.ding2022.results import Results
from flatmin.experiments.papers.ding2022.spec import SIZES, Diagram
from flatmin.experiments.papers.ding2022.transition import fitted_line, half_point
from flatmin.solvers import solve
from flatmin.studies.recovery import decide
from paper_runs import quick_run

PROBLEMS = ("sensing", "bilinear", "completion", "network", "covariance")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return quick_run(ding2022, Results, tmp_path_factory.mktemp("cells"))


def verdicts(results):
    return {claim.name: claim.holds for claim in claims(results)}


def test_claims_at_reduced_size(quick):
    found = {claim.name: claim for claim in quick["content"].claims}
    # three dimensions and four trials are too few for the slopes' ratio and the line of every problem
    coarse = {f"{name}-{problem}" for name in ("linear", "flat-as-nuclear") for problem in PROBLEMS}
    # four trials leave the fall of the imbalance open, and the claim says so; twenty at the same size show it (0.37)
    coarse |= {"imbalance-falls-sensing"}
    assert "4 trials, 95% of resampled ratios in [" in found["imbalance-falls-sensing"].note
    assert found["imbalance-falls-sensing"].note.endswith("too few to decide, see a larger size")
    failed = {name: claim.measured for name, claim in found.items() if name not in coarse and not claim.holds}
    assert not failed
    assert coarse < set(found)


def test_claims_fail_on_exchanged_data(quick):
    results = quick["results"]

    def with_diagram(problem, change):
        columns = {d: change(data) for d, data in results.diagrams[problem].items()}
        return verdicts(dataclasses.replace(results, diagrams=results.diagrams | {problem: columns}))

    assert not with_diagram("sensing", lambda data: data.assign(recovered=1 - data.recovered))["recovers-sensing"]
    sharper = with_diagram("sensing", lambda data: data.assign(norm_gap=1e3 * data.norm_gap))
    assert not sharper["norm-gap-bound"]
    upside = with_diagram(
        "bilinear", lambda data: data.assign(norm_gap=1 / data.norm_gap, imbalance=1 / data.imbalance)
    )
    assert not upside["norm-gap-falls-bilinear"]
    assert not upside["imbalance-falls-bilinear"]
    flatter = with_diagram("sensing", lambda data: data.assign(trace_excess=0.99 * data.trace_excess))
    assert not flatter["nothing-is-flatter"]
    other = with_diagram("sensing", lambda data: data.assign(trace_ratio=1.001 * data.trace_ratio))
    assert not other["flat-trace-is-the-optimal-value"]
    unmeasured = with_diagram("sensing", lambda data: data.assign(recovered=np.nan * data.recovered))
    assert not unmeasured["recovers-sensing"]
    depths = dict(zip(results.depths, list(results.depths.values())[::-1], strict=True))
    assert not verdicts(dataclasses.replace(results, depths=depths))["depth-does-not-help"]
    robust = {rank: data.assign(recovered=1 - data.recovered) for rank, data in results.robust.items()}
    after = verdicts(dataclasses.replace(results, robust=robust))
    assert not after["recovers-robust-pca"]
    assert not after["fails-robust-pca"]


def test_figures_have_every_plot(quick):
    drawn = {figure.key: figure for figure in figures(quick["results"])}
    assert set(drawn) == {"recovery", "regularity", "norm-gap-bound", "depth", "robust-pca", "covariance"}
    assert len(drawn["recovery"].panels) == 8
    assert len(drawn["regularity"].panels) == 6
    shares = np.asarray(drawn["recovery"].panels[0].values)
    assert shares[0].max() == 0
    assert shares[-1].min() == 1
    assert any(panel.series for panel in drawn["recovery"].panels)


def test_sizes():
    full = SIZES["full"](0)
    assert full.diagrams.sensing.trials == 10
    assert (full.diagrams.sensing.rank, full.diagrams.network.rank) == (2, 3)
    assert full.threshold == 1e-6
    with pytest.raises(ValueError, match="amounts: expected at least two increasing values"):
        Diagram(dimensions=(6, 9), amounts=(3.0, 2.0))
    with pytest.raises(ValueError, match="dimensions: got 2, expected at least the rank 3"):
        Diagram(dimensions=(2, 9), amounts=(2.0, 3.0), rank=3)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_instances_are_nested_and_decided_as_a_careful_solver_does(problem):
    amounts = {"completion": (0.45, 0.95), "covariance": (8.0, 60.0)}.get(problem, (14.0, 60.0))
    few, many = instances(problem, instance_key(0, 1), 6, 2, amounts)
    np.testing.assert_array_equal(few.truth, many.truth)
    assert np.linalg.norm(few.truth) == pytest.approx(1)
    for planted, recovered in ((few, 0.0), (many, 1.0)):
        targets = planted.problem.measurements.forward(planted.truth)
        np.testing.assert_allclose(targets, planted.problem.targets, atol=1e-12)
        for programme in programmes(problem, planted):
            verdict = decide(programme, planted, 1e-6)
            assert verdict.recovered == recovered
            exact = solve(programme, tolerance=1e-9, throw=False)
            assert (float(planted.relative_error(exact.matrix)) < 1e-6) == bool(recovered)
    if problem != "completion":
        count = few.problem.num_samples
        np.testing.assert_array_equal(many.problem.targets[:count], few.problem.targets)


def test_an_unseen_row_recovers_nothing():
    diagram = Diagram(dimensions=(6, 7), amounts=(0.05, 0.95), rank=1, trials=1)
    data = diagram_cell("completion", diagram, 6, 1e-6, 0, lambda *_: None)
    assert data.recovered.values[:, 0].tolist() == [[0.0], [0.0]]
    assert np.isnan(data.norm_gap.values[0, 0])
    assert data.recovered.values[:, 1].tolist() == [[1.0], [1.0]]


def test_half_points_and_lines():
    m = np.array([10.0, 20.0, 30.0, 40.0])
    assert half_point(m, np.array([0, 0.25, 0.75, 1])) == pytest.approx(25)
    # pooled: 0.6 and 0.2 become 0.4 each
    assert half_point(m, np.array([0, 0.6, 0.2, 1])) == pytest.approx(30 + 10 / 6)
    assert half_point(m, np.array([0, np.nan, 1, 1])) == pytest.approx(20)
    assert np.isnan(half_point(m, np.array([1, 1, 1, 1])))
    assert np.isnan(half_point(m, np.zeros(4)))

    def column(d):
        share = (m >= 3 * d + 5).astype(float)
        return xr.Dataset(
            {
                "recovered": (("kind", "amount", "trial"), share[None, :, None]),
                "measurements": (("amount", "trial"), m[:, None]),
            },
            coords={"kind": ["flat"], "amount": m},
        )

    line = fitted_line({2: column(2), 5: column(5), 8: column(8)}, "flat")
    # shares jump from 0 to 1 at m = 20, 20, 30: half points 15, 15, 25
    np.testing.assert_allclose(line.halves, [15, 15, 25])
    assert line.slope == pytest.approx(10 / 6)
    assert line.at(np.array([5.0]))[0] == pytest.approx(55 / 3)
    assert line.r_squared == pytest.approx(0.75)


def test_degrees_of_freedom_by_the_rank_of_the_tangent_space():
    d, r = 6, 2
    rng = np.random.default_rng(0)
    L, R = rng.normal(size=(d, r)), rng.normal(size=(d, r))

    def tangent(fn, *factors):
        jacobians = jax.jacobian(fn, argnums=tuple(range(len(factors))))(*factors)
        flat = np.concatenate([np.asarray(J).reshape(d * d, -1) for J in jacobians], axis=1)
        return np.linalg.matrix_rank(flat)

    assert tangent(lambda L, R: L @ R.T, L, R) == degrees_of_freedom("sensing", d, r)
    assert tangent(lambda U: U @ U.T, L) == degrees_of_freedom("covariance", d, r)


@pytest.mark.long
def test_cells_in_processes_give_the_same_bytes(tmp_path):
    """The column of a diagram, robust PCA and a depth: in this process, and in two beside it."""
    from flatmin.experiments.cells import Context
    from flatmin.storage.sealed import unseal

    spec = SIZES["quick"](0)
    update = {"trials": 1}
    diagrams = spec.diagrams.model_copy(
        update={p: getattr(spec.diagrams, p).model_copy(update=update | {"dimensions": (8,)}) for p in PROBLEMS}
    )
    small = spec.model_copy(
        update={
            "diagrams": diagrams,
            "robust": spec.robust.model_copy(update=update | {"ranks": spec.robust.ranks[:1]}),
            "depths": spec.depths.model_copy(update=update | {"depths": spec.depths.depths[:1]}),
        }
    )
    payloads = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        with contextlib.suppress(Exception):  # the figures need more dimensions; the cells are all there
            ding2022.compute(small, Context(folder, workers=workers))
        payloads.append({path.name: bytes(unseal(path.read_bytes())[1]) for path in folder.glob("*.cell")})
    assert len(payloads[0]) == 7
    assert payloads[0] == payloads[1]
