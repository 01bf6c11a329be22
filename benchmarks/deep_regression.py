"""Deep linear regression: the one-run-at-a-time loop against the batched engine.

Rows: the loop and the engine with sharpness every 5 steps (equal work) and without, and experiment 1 of Marion & Chizat
2024 (13.2 million steps in 1,600 runs), warm and with compilation. Loop and engine take turns, so that a busy machine
slows both.

The baseline is how such an experiment is written plainly in JAX: for each run a jitted step of autodiff gradient
descent on the data, called from Python, and every 5 steps a jitted sharpness by 20 power iterations on the
norm of Hv. The engine takes as many Lanczos matvecs as it needs to be more accurate than that; the errors of both
against dense spectra stand below the table.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._measure import ratio
from benchmarks._table import Row, Table
from flatmin.linear_networks import Network, RegressionData, descend, hessian_ends, lanczos_ends, regression_data

DEPTH, DIMENSION, EVERY = 10, 5, 5
POWER_ITERATIONS, MATVECS = 20, 12
RATE, SCALE = 0.02, 0.35


def problem() -> RegressionData:
    """N = 50, d = 5, `||w*|| = 1`."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, DIMENSION))
    y = X @ rng.normal(size=DIMENSION) + rng.normal(size=50)
    return regression_data(X, y / regression_data(X, y).solution_norm)


def _loss(layers: tuple, X: jax.Array, y: jax.Array) -> jax.Array:
    h = X.T
    for W in layers:
        h = W @ h
    return jnp.mean((h[0] - y) ** 2)


@jax.jit
def _step(layers, X, y):
    return jax.tree.map(lambda W, g: W - RATE * g, layers, jax.grad(_loss)(layers, X, y))


@jax.jit
def _power(layers, X, y):
    def body(_, carry):
        v, _ = carry
        hv = jax.jvp(lambda layers: jax.grad(_loss)(layers, X, y), (layers,), (v,))[1]
        norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(hv)))
        return jax.tree.map(lambda x: x / norm, hv), norm

    start = jax.tree.map(jnp.ones_like, layers)
    return jax.lax.fori_loop(0, POWER_ITERATIONS, body, (start, jnp.float32(0)))[1]


def plain_loop(data: RegressionData, layers: tuple, steps: int, *, sharpness: bool) -> float:
    """Seconds of the loop over one run, compilation excluded by a first call."""
    X, y = jnp.asarray(data.inputs, jnp.float32), jnp.asarray(data.outputs, jnp.float32)
    jax.block_until_ready((_step(layers, X, y), _power(layers, X, y)))
    began = time.perf_counter()
    for k in range(steps):
        if sharpness and k % EVERY == 0:
            float(_power(layers, X, y))
        layers = _step(layers, X, y)
    jax.block_until_ready(layers)
    return time.perf_counter() - began


def engine(data: RegressionData, runs: int, steps: int, *, matvecs: int) -> float:
    """Seconds of the engine for many runs, compilation excluded by a first call; without sharpness for 0 matvecs."""
    network = Network(DIMENSION, DEPTH)
    start = network.initial(jax.random.key(0), np.full(runs, SCALE))
    key = jax.random.key(1)

    def work(count: int) -> None:
        if not matvecs:
            descend(network, data, start, learning_rate=RATE, steps=count)
            return
        result = descend(
            network, data, start, learning_rate=RATE, steps=count, record_at=range(0, count, EVERY), snapshots=True
        )
        for weights in result.snapshots[:-1]:
            lanczos_ends(network, data, weights, key=key, matvecs=matvecs)

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


def errors(data: RegressionData, *, steps: int) -> str:
    """Relative errors of both sharpnesses along training, against the largest eigenvalue of dense Hessians."""
    X, y = jnp.asarray(data.inputs, jnp.float32), jnp.asarray(data.outputs, jnp.float32)
    network = Network(DIMENSION, DEPTH)
    start = network.initial(jax.random.key(0), np.full(16, SCALE))
    result = descend(
        network, data, start, learning_rate=RATE, steps=steps, record_at=range(0, steps, EVERY), snapshots=True
    )
    found = {"power iteration": [], "Lanczos": []}
    for weights in result.snapshots:
        truth = hessian_ends(network, data, weights).highest
        ours = lanczos_ends(network, data, weights, key=jax.random.key(1), matvecs=MATVECS).highest
        theirs = [float(_power(tuple(map(jnp.asarray, weights.of_run(i))), X, y)) for i in range(16)]
        found["Lanczos"].append(np.abs(ours / truth - 1))
        found["power iteration"].append(np.abs(np.array(theirs) / truth - 1))
    words = [
        f"{name}: root mean square {np.sqrt(np.mean(np.square(e))):.1e}, largest {np.max(e):.1e}"
        for name, e in found.items()
    ]
    return f"Relative errors of the sharpness over {steps} steps of 16 runs, every {EVERY} steps: {'; '.join(words)}."


def _against(name: str, slow: list[float], fast: list[float], target: float | None) -> Row:
    middle, low, high = ratio(slow, fast)
    cells = [f"{statistics.median(x):.3g} µs" for x in (slow, fast)]
    words, met = ("", None) if target is None else (f">= {target:g}", middle >= target)
    return Row(name, [*cells, f"{middle:.1f} ({low:.1f} to {high:.1f})"], words, met)


def _alone(name: str, seconds: float, limit: float) -> Row:
    return Row(name, ["", f"{seconds:.2f} s", ""], f"< {limit:g} s", seconds < limit)


def main(*, quick: bool) -> Table:
    """Rows of the comparison.

    Args:
        quick: fewer steps and repetitions.

    Returns:
        The table.
    """
    data = problem()
    repetitions, loop_steps, runs, steps = (3, 200, 512, 100) if quick else (7, 1_000, 512, 200)
    layers = tuple(
        jnp.asarray(W) for W in Network(DIMENSION, DEPTH).initial(jax.random.key(0), np.array([SCALE])).of_run(0)
    )
    share = 100 if quick else 1
    first = experiment_1(data, share)
    rows = []
    for matvecs, target in ((MATVECS, 80.0), (POWER_ITERATIONS, None), (0, None)):
        name = f"sharpness every {EVERY} steps by {matvecs} matvecs" if matvecs else "no sharpness"
        slow, fast = [], []
        for _ in range(repetitions):
            slow.append(1e6 * plain_loop(data, layers, loop_steps, sharpness=matvecs > 0) / loop_steps)
            count = steps if matvecs else 50 * steps
            fast.append(1e6 * engine(data, runs, count, matvecs=matvecs) / (count * runs))
        rows.append(_against(f"one step of one run, {name}", slow, fast, target))
    warm = statistics.median(experiment_1(data, share) for _ in range(3))
    size = "1/100 of the steps" if quick else "13.2 million steps, 1,600 runs"
    rows += [
        _alone(f"experiment 1, {size}, warm", warm, 4),
        _alone(f"experiment 1, {size}, with compilation", first, 12),
    ]
    return Table(
        f"Deep linear regression (d = {DIMENSION}, L = {DEPTH}, n = 50, float32)",
        ["one run at a time", "flatmin", "ratio (quartiles)"],
        rows,
        [
            f"Sharpness by {POWER_ITERATIONS} power iterations, against Lanczos: signed, both ends, with a residual.",
            errors(data, steps=200 if quick else 400),
        ],
    )
