"""The paper's claims, decided by number. The limits were set after trial runs of seed 0; failures are reported."""

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from flatmin.experiments.claims import Claim
from flatmin.experiments.papers.gatmiry2023.results import Results
from flatmin.theory.gatmiry2023 import rip_nuclear_ratio


def claims(results: Results) -> list[Claim]:
    """All claims of the reproduction.

    Args:
        results: the measurements.

    Returns:
        The claims: for each depth those of figures 1 and 2, then the theorems.
    """
    decided = []
    for depth in results.spec.training.depths:
        decided += _training_claims(results, depth)
    return [*decided, _convex(results), _theorem_4(results.frobenius), _theorem_1(results.sandwich)]


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(values))


def _training_claims(results: Results, depth: int) -> list[Claim]:
    noisy, plain = results.of(depth, "label noise"), results.of(depth, "plain")
    tag, over = f"depth-{depth}", f"one value a seed, depth {depth}"
    minimum = results.min_nuclear_norms()
    off = results.noisy_until(depth)
    first, second = _last_halves(noisy.trace, off)
    correlation = [
        spearmanr(noisy.trace.isel(seed=s, step=slice(1, None)), noisy.nuclear_norm.isel(seed=s, step=slice(1, None)))[
            0
        ]
        for s in range(noisy.sizes["seed"])
    ]
    return [
        Claim.at_most(
            0.2,
            name=f"trace-falls-{tag}",
            statement="Label-noise SGD lowers the trace far below that of the interpolator that plain SGD finds.",
            source="Figure 2",
            predicted="final trace / plain SGD's first interpolating trace <= 0.2",
            measured=_numbers(noisy.final_trace / _first_interpolation(plain, "trace")),
            note=over,
        ),
        Claim.at_most(
            0.1,
            name=f"trace-levels-off-{tag}",
            statement="The trace reaches a state of convergence.",
            source="Figure 2",
            predicted="change of the mean trace between the 3rd and 4th quarter of the noisy steps <= 10%",
            measured=_numbers(np.abs(second / first - 1)),
            note=over,
        ),
        Claim.within(
            0.9,
            1.1,
            name=f"trace-as-predicted-{tag}",
            statement="The trace ends at the population value of the induced regulariser of its end-to-end matrix.",
            source="Theorem 1, Lemma 4",
            predicted="tr H / (2L (d0 dL)^(1/L) ||M||_*^(2(L-1)/L)) in [0.9, 1.1]",
            measured=_numbers(noisy.final_trace / noisy.final_predicted_trace),
            note=over,
        ),
        Claim.within(
            0.999,
            1.05,
            name=f"nuclear-norm-minimal-{tag}",
            statement="Label-noise SGD converges to the minimum of the nuclear norm among interpolators.",
            source="Figure 2, Theorem 1",
            predicted="||M||_* / minimum nuclear norm in [0.999, 1.05]",
            measured=_numbers(noisy.final_nuclear_norm / minimum),
            note=f"{over}; the minimum is certified; below 1 only by the remaining training loss",
        ),
        Claim.at_least(
            0.9,
            name=f"trace-and-nuclear-norm-{tag}",
            statement="The nuclear norm falls together with the trace.",
            source="Figure 2",
            predicted="Spearman correlation along label-noise SGD >= 0.9",
            measured=_numbers(np.array(correlation)),
            note=over,
        ),
        Claim.at_least(
            100.0,
            name=f"test-loss-falls-{tag}",
            statement="The test loss falls by orders of magnitude with label noise.",
            source="Figure 1",
            predicted="plain SGD's first interpolating test loss / final test loss with label noise >= 100",
            measured=_numbers(_first_interpolation(plain, "test_loss") / noisy.final_test_loss),
            note=over,
        ),
        Claim.at_least(
            10.0,
            name=f"plain-sgd-stays-{tag}",
            statement="Without label noise SGD interpolates but does not reach the flat solution.",
            source="Figures 1 and 2",
            predicted="final test loss of plain SGD / with label noise >= 10",
            measured=_numbers(plain.final_test_loss / noisy.final_test_loss),
            note=f"{over}; plain SGD's final training loss is {float(plain.final_train_loss.max()):.0e}",
        ),
        *_spike_claim(plain, tag),
    ]


def _last_halves(curve: xr.DataArray, until: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the third and the fourth quarter of the steps up to `until`, by linear interpolation in the step."""
    means = []
    for low, high in ((0.5, 0.75), (0.75, 1.0)):
        grid = np.linspace(low * until, high * until, 200)
        means.append(curve.interp(step=grid).mean("step").values)
    return means[0], means[1]


def _first_interpolation(plain: xr.Dataset, quantity: str) -> np.ndarray:
    """The value when the training loss first falls below 1e-6 of its start, for each seed."""
    values = []
    for s in range(plain.sizes["seed"]):
        run = plain.isel(seed=s)
        reached = np.flatnonzero(run.train_loss.values < 1e-6 * run.train_loss.values[0])
        values.append(run[quantity].values[reached[0]] if reached.size else np.nan)
    return np.array(values)


def _spike_claim(plain: xr.Dataset, tag: str) -> list[Claim]:
    """Spikes of the training loss after interpolation, where there are any: is the test loss lower after each?"""
    ratios = []
    for s in range(plain.sizes["seed"]):
        loss, test = plain.train_loss.values[s], plain.test_loss.values[s]
        reached = np.flatnonzero(loss < 1e-6 * loss[0])
        if not reached.size:
            continue
        high = loss[reached[0] :] > 1e-3 * loss[0]
        starts = np.flatnonzero(np.diff(high.astype(int)) == 1)
        for start in starts + reached[0]:
            after = np.flatnonzero(loss[start + 1 :] < 1e-6 * loss[0])
            if after.size:
                ratios.append(test[start + 1 + after[0]] / test[start])
    return [
        Claim.at_most(
            1.0,
            name=f"spikes-improve-{tag}",
            statement="After a spike of plain SGD's training loss the solution generalises better.",
            source="Section 7",
            predicted="test loss after / before each spike <= 1",
            measured=_numbers(np.array(ratios)) if ratios else float("nan"),
            note=f"{len(ratios)} spike(s) of more than 1e-3 of the initial loss, after interpolation",
        )
    ]


def _convex(results: Results) -> Claim:
    gaps = [results.convex[seed].gap for seed in results.seeds]
    errors = ", ".join(f"{results.convex_error[seed]:.1e}" for seed in results.seeds)
    return Claim.at_most(
        1e-8,
        name="convex-baseline-certified",
        statement="The minimum nuclear norm that the runs are compared with is certified by a dual point.",
        source="Figure 2",
        predicted="relative duality gap <= 1e-8",
        measured=_numbers(np.array(gaps)),
        note=f"squared error of the convex solution to the truth: {errors}",
    )


def _theorem_4(points: xr.Dataset) -> Claim:
    sem = points.error.std("trial", ddof=1) / np.sqrt(points.sizes["trial"])
    gap = np.abs(points.error.mean("trial") - points.predicted)
    # at n = d0 dL the error is zero but for rounding
    z = xr.where(points.predicted > 0, gap / np.maximum(sem, 1e-300), xr.where(gap < 1e-9, 0.0, np.inf))
    return Claim.at_most(
        4.0,
        name="theorem-4",
        statement="The minimum-Frobenius interpolator has expected relative error 1 - n/(d0 dL).",
        source="Theorem 4",
        predicted="|mean - line| <= 4 standard errors at every n",
        measured=float(z.max()),
        note=f"largest deviation over {points.sizes['n']} values of n, {points.sizes['trial']} draws each",
    )


def _theorem_1(points: xr.Dataset) -> Claim:
    used = np.abs(points.ratio - 1) / points.delta
    delta = float(points.delta.min())
    ratio = float(rip_nuclear_ratio(2, delta)) if delta < 1 else float("inf")
    return Claim.at_most(
        1.0,
        name="theorem-1",
        statement="The induced regulariser lies within (1 - delta) and (1 + delta) of its population value.",
        source="Theorem 1",
        predicted="|F/F_pop - 1| / delta <= 1 for every n, depth and test matrix",
        measured=float(used.max()),
        note=f"delta is an estimate from below, so the test is stricter than the theorem; smallest delta {delta:.2f}, "
        f"which at depth 2 allows ||M_flat||_* / min <= {ratio:.2f}",
    )
