"""Deep linear regression: the one-run-at-a-time loop against the batched engine.

Run `python -m benchmarks.deep_regression [--quick]`. Rows: the loop and the engine with sharpness every 5
steps (equal work), without, and experiment 1 of Marion & Chizat 2024 (13.2 million steps in 1,600 runs) warm and with
compilation.

The baseline is how such an experiment is written plainly in JAX: for each run a jitted step of autodiff gradient
descent on the data, called from Python, and every 5 steps a jitted sharpness by 20 power iterations on the
norm of Hv. The engine's sharpness is by 20 Lanczos matvecs: as many Hessian-vector products, but signed, both ends,
with a residual.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from flatmin.linear_networks import Network, RegressionData, descend, lanczos_ends, regression_data

DEPTH, DIMENSION, EVERY, MATVECS = 10, 5, 5, 20
RATE, SCALE = 0.02, 0.35


def problem() -> RegressionData:
    """N = 50, d = 5, `||w*|| = 1`."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, DIMENSION))
    y = X @ rng.normal(size=DIMENSION) + rng.normal(size=50)
    return regression_data(X, y / regression_data(X, y).solution_norm)


def plain_loop(data: RegressionData, layers: tuple, steps: int, *, sharpness: bool) -> float:
    """Seconds of the loop over one run, compilation excluded by a first call."""
    X, y = jnp.asarray(data.inputs, jnp.float32), jnp.asarray(data.outputs, jnp.float32)

    def loss(layers):
        h = X.T
        for W in layers:
            h = W @ h
        return jnp.mean((h[0] - y) ** 2)

    @jax.jit
    def step(layers):
        return jax.tree.map(lambda W, g: W - RATE * g, layers, jax.grad(loss)(layers))

    @jax.jit
    def power(layers, v):
        def body(_, carry):
            v, _ = carry
            hv = jax.jvp(jax.grad(loss), (layers,), (v,))[1]
            norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(hv)))
            return jax.tree.map(lambda x: x / norm, hv), norm

        return jax.lax.fori_loop(0, MATVECS, body, (v, jnp.float32(0)))[1]

    start = jax.tree.map(jnp.ones_like, layers)
    jax.block_until_ready((step(layers), power(layers, start)))
    began = time.perf_counter()
    for k in range(steps):
        if sharpness and k % EVERY == 0:
            float(power(layers, start))
        layers = step(layers)
    jax.block_until_ready(layers)
    return time.perf_counter() - began


def engine(data: RegressionData, runs: int, steps: int, *, sharpness: bool) -> float:
    """Seconds of the engine for many runs, compilation excluded by a first call."""
    network = Network(DIMENSION, DEPTH)
    start = network.initial(jax.random.key(0), np.full(runs, SCALE))
    key = jax.random.key(1)

    def work(count: int) -> None:
        if not sharpness:
            descend(network, data, start, learning_rate=RATE, steps=count)
            return
        result = descend(
            network, data, start, learning_rate=RATE, steps=count, record_at=range(0, count, EVERY), snapshots=True
        )
        for weights in result.snapshots[:-1]:
            lanczos_ends(network, data, weights, key=key, matvecs=MATVECS)

    work(EVERY)
    began = time.perf_counter()
    work(steps)
    return time.perf_counter() - began


def experiment_1(data: RegressionData, share: int) -> float:
    """Seconds of experiment 1; `share` > 1 takes that fraction of the steps."""
    rates = (0.005, 0.02, 0.07, 0.1, 0.2)
    lengths, repeats = (40_000, 10_000, 4_000, 4_000, 2_000), (20, 20, 20, 20, 80)
    scales = np.linspace(0.25, 0.6, 10)
    rate = np.concatenate([np.full(10 * r, eta) for eta, r in zip(rates, repeats, strict=True)])
    steps = np.concatenate([np.full(10 * r, n // share) for n, r in zip(lengths, repeats, strict=True)])
    scale = np.concatenate([np.repeat(scales, r) for r in repeats])
    network = Network(DIMENSION, DEPTH)
    began = time.perf_counter()
    start = network.initial(jax.random.key(0), scale)
    descend(network, data, start, learning_rate=rate, steps=steps)
    return time.perf_counter() - began


def _ratio(name: str, slow: list[float], fast: list[float], unit: str) -> dict:
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return {
        "name": name,
        "baseline": statistics.median(slow),
        "flatmin": statistics.median(fast),
        "unit": unit,
        "ratio": statistics.median(ratios),
        "low": ratios[0],
        "high": ratios[-1],
    }


def run(quick: bool = False) -> list[dict]:
    """Rows of the comparison; loop and engine take turns, so that a busy machine slows both.

    Args:
        quick: fewer steps and repetitions.

    Returns:
        Rows with the median, the ratio and its range.
    """
    data = problem()
    repetitions, loop_steps, runs, steps = (3, 200, 512, 100) if quick else (7, 1_000, 512, 200)
    layers = tuple(
        jnp.asarray(W) for W in Network(DIMENSION, DEPTH).initial(jax.random.key(0), np.array([SCALE])).of_run(0)
    )
    first = experiment_1(data, 100 if quick else 1)
    rows = []
    for name, sharp in (("sharpness every 5 steps", True), ("no sharpness", False)):
        slow, fast = [], []
        for _ in range(repetitions):
            slow.append(1e6 * plain_loop(data, layers, loop_steps, sharpness=sharp) / loop_steps)
            count = steps if sharp else 50 * steps
            fast.append(1e6 * engine(data, runs, count, sharpness=sharp) / (count * runs))
        rows.append(_ratio(f"one step of one run, {name}", slow, fast, "µs"))
    warm = sorted(experiment_1(data, 100 if quick else 1) for _ in range(3))
    size = "1/100 of the steps" if quick else "13.2 million steps, 1,600 runs"
    rows.append(
        {"name": f"experiment 1, {size}, warm", "flatmin": warm[1], "low": warm[0], "high": warm[-1], "unit": "s"}
    )
    rows.append({"name": f"experiment 1, {size}, with compilation", "flatmin": first, "unit": "s"})
    return rows


if __name__ == "__main__":
    for row in run("--quick" in sys.argv):
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
