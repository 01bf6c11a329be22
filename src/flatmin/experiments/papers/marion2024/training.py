"""The five experiments: data, batches of runs, and what is measured at their ends."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from flatmin.experiments.papers.marion2024.spec import Depths, Regression, Single, Sweep
from flatmin.linear_networks import (
    HessianEnds,
    Network,
    RegressionData,
    Weights,
    descend,
    lanczos_ends,
    minimiser_sharpness,
    regression_data,
)

Progress = Callable[[int, int], None]

CONVERGED = 1e-8
"""A run has converged when its loss is within this share of `a ||w*||^2` (the explained variance) of the least loss."""

MATVECS = 60
"""Hessian-vector products for the ends of a Hessian; the residuals are reported."""

SUCCEEDED = 1e-3
"""The same for coming close, where the number of steps does not suffice for more."""


def network_of(sweep: Sweep) -> Network:
    """The network of an experiment."""
    return Network(sweep.regression.dimension, sweep.depth, form=sweep.form, activation=sweep.activation)


def data_of(regression: Regression, seed: int) -> tuple[RegressionData, np.ndarray, float]:
    """The data, scaled so that `||w*|| = 1`, the true vector and the noise variance on the same scale.

    Args:
        regression: the settings.
        seed: random seed.

    Returns:
        Data, scaled w_true, scaled noise variance.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), regression.seed_offset)
    keys = jax.random.split(key, 3)
    n, d = regression.num_samples, regression.dimension
    X = np.asarray(jax.random.normal(keys[0], (n, d)), dtype=np.float64)
    truth = np.asarray(jax.random.normal(keys[1], (d,)), dtype=np.float64)
    noise = regression.noise**0.5 * np.asarray(jax.random.normal(keys[2], (n,)), dtype=np.float64)
    y = X @ truth + noise
    norm = regression_data(X, y).solution_norm
    return regression_data(X, y / norm), truth / norm, regression.noise / norm**2


def sweep_cell(sweep: Sweep, seed: int, precision: str, threads: int, progress: Progress) -> xr.Dataset:
    """All runs of an experiment over learning rates and scales.

    Args:
        sweep: the settings.
        seed: random seed.
        precision: floating point type of the training.
        threads: how many at once.
        progress: called with (run-steps done, all).

    Returns:
        One value a `run`: learning rate, scale, loss, distance, divergence step, both ends of the Hessian before and
        after, minimiser sharpness, stable rank, generalisation gap. NaN = not measured (diverged).
    """
    data, truth, noise = data_of(sweep.regression, seed)
    network = network_of(sweep)
    groups = [
        (eta, scale, steps)
        for eta, steps, repeats in zip(sweep.learning_rates, sweep.steps, sweep.repeats, strict=True)
        for scale in sweep.scales
        for _ in range(repeats)
    ]
    rates, scales, steps = (np.array(column) for column in zip(*groups, strict=True))
    start = network.initial(jax.random.fold_in(jax.random.key(seed), 2), scales, precision)
    result = descend(network, data, start, learning_rate=rates, steps=steps, threads=threads, progress=progress)
    last = np.searchsorted(result.steps, steps)
    runs = np.arange(len(rates))
    before, after = (curvature(network, data, weights) for weights in (start, result.weights))
    columns = {
        "learning_rate": rates,
        "scale": scales,
        "steps": steps,
        "diverged_at": result.diverged_at,
        "initial_loss": result.loss[:, 0],
        "final_loss": result.loss[runs, last],
        "initial_sharpness": before.highest,
        "initial_lowest": before.lowest,
        "final_sharpness": after.highest,
        "final_lowest": after.lowest,
        "curvature_residual": np.maximum(before.residual[0], after.residual[0]),
        "initial_stable_rank": stable_rank(start),
        "final_stable_rank": stable_rank(result.weights),
    }
    if sweep.activation == "identity":
        minimiser = minimiser_sharpness(network, data, result.weights)
        w = end_to_end(network, result.weights)
        columns |= {
            "initial_distance": result.distance[:, 0],
            "final_distance": result.distance[runs, last],
            "minimiser_sharpness": minimiser,
            # X is standard normal: the population loss is ||w - w_true||^2 + noise
            "gap": np.sum((w - truth) ** 2, axis=1) + noise - columns["final_loss"],
        }
    return _dataset(columns, data, depth=sweep.depth)


def curvature(network: Network, data: RegressionData, weights: Weights) -> HessianEnds:
    """Both ends of the full Hessian of every run, in float64, with their residuals."""
    weights = jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.float64), weights)
    return lanczos_ends(network, data, weights, key=jax.random.key(0), matvecs=MATVECS)


def _dataset(columns: dict[str, np.ndarray], data: RegressionData, **attributes: float) -> xr.Dataset:
    return xr.Dataset(
        {name: ("run", values) for name, values in columns.items()},
        attrs={
            "alignment": data.alignment,
            "top_eigenvalue": data.top_eigenvalue,
            "solution_norm": data.solution_norm,
            "least_loss": data.least_loss,
            **attributes,
        },
    )


def end_to_end(network: Network, weights: Weights) -> np.ndarray:
    """The vector that a linear network computes, shape (runs, d), in float64."""
    layers = [np.moveaxis(np.asarray(layer, np.float64), -1, 0) for layer in weights.layers]
    runs = weights.runs
    if network.output_vector is None:
        product = np.ones((runs, 1))
    else:
        product = np.broadcast_to(network.output_vector, (runs, network.dimension))
    for layer in layers[::-1]:
        product = np.einsum("ri,rij->rj", product, layer)
    return product


def stable_rank(weights: Weights) -> np.ndarray:
    """Mean over the square layers of `||W||_F^2 / ||W||_2^2`, 1 for rank one; shape (runs,)."""
    layers = [layer for layer in weights.layers if min(layer.shape[:2]) > 1]
    if not layers:
        return np.ones(weights.runs)
    values = np.moveaxis(np.stack([np.asarray(layer, np.float64) for layer in layers]), -1, 0)
    fine = np.isfinite(values).all(axis=(1, 2, 3))
    ranks = np.full(weights.runs, np.nan)
    s = np.linalg.svd(values[fine], compute_uv=False)
    ranks[fine] = np.mean(np.sum(s**2, axis=-1) / np.maximum(s[..., 0] ** 2, 1e-300), axis=1)
    return ranks


def single_cell(sweep: Sweep, single: Single, seed: int, precision: str) -> xr.Dataset:
    """Runs over time, the sharpness at every step exact and signed.

    Args:
        sweep: network and data.
        single: learning rates, scale, steps.
        seed: random seed.
        precision: floating point type of the training.

    Returns:
        Loss, distance and both ends of the Hessian over (learning_rate, step).
    """
    data, _, _ = data_of(sweep.regression, seed)
    network = network_of(sweep)
    key = jax.random.fold_in(jax.random.key(seed), 3)
    alone = network.initial(key, np.array([single.scale]), precision)
    count = len(single.learning_rates)
    # the same start for every learning rate
    start = jax.tree.map(lambda x: jnp.repeat(x, count, axis=-1), alone)
    result = descend(
        network,
        data,
        start,
        learning_rate=np.array(single.learning_rates),
        steps=single.steps,
        record_at=range(single.steps + 1),
        snapshots=True,
        threads=1,
    )
    path = jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *result.snapshots)
    ends = curvature(network, data, path)
    shape = (len(result.steps), count)
    over = ("learning_rate", "step")
    return xr.Dataset(
        {
            "loss": (over, result.loss),
            "distance": (over, result.distance),
            "sharpness": (over, ends.highest.reshape(shape).T),
            "lowest": (over, ends.lowest.reshape(shape).T),
        },
        coords={"learning_rate": list(single.learning_rates), "step": result.steps},
        attrs={"alignment": data.alignment, "top_eigenvalue": data.top_eigenvalue, "depth": sweep.depth},
    )


def depths_cell(depths: Depths, depth: int, seed: int, precision: str, threads: int, progress: Progress) -> xr.Dataset:
    """The runs of one depth over the grid of learning rates.

    Args:
        depths: the settings.
        depth: L.
        seed: random seed.
        precision: floating point type of the training.
        threads: how many at once.
        progress: called with (run-steps done, all).

    Returns:
        One value a `run`: learning rate, loss, distance, divergence step, sharpness at the end.
    """
    data, _, _ = data_of(depths.regression, seed)
    network = Network(depths.regression.dimension, depth, form="residual")
    rates = np.repeat(depths.learning_rates, depths.repeats)
    # every learning rate starts from the same initialisations
    alone = network.initial(
        jax.random.fold_in(jax.random.key(seed), 4 + depth), np.full(depths.repeats, depths.scale), precision
    )
    start = jax.tree.map(lambda x: jnp.tile(x, (1,) * (x.ndim - 1) + (depths.count,)), alone)
    result = descend(network, data, start, learning_rate=rates, steps=depths.steps, threads=threads, progress=progress)
    columns = {
        "learning_rate": rates,
        "diverged_at": result.diverged_at,
        "final_loss": result.loss[:, -1],
        "final_distance": result.distance[:, -1],
        "minimiser_sharpness": minimiser_sharpness(network, data, result.weights),
    }
    return _dataset(columns, data, depth=depth)
