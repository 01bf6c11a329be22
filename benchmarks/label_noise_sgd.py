"""Label-noise SGD on deep matrix sensing: d = 60, L = 3, n = 1000, batch 50, float32.

All sides run the same algorithm: a batch with replacement, fresh label noise, the gradient of
`(1/B) sum (<A_i, W_3 W_2 W_1> - b_i - sigma xi_i)^2`, one plain step. The peers draw the random numbers of a
whole round at once, as flatmin does with a chunk.
"""

import numpy as np

from benchmarks._measure import Side, race
from benchmarks._table import Table, timing_rows

D, DEPTH, SAMPLES, BATCH = 60, 3, 1000, 50
RATE, NOISE = 1e-3, 0.1
NAMES = {
    "flatmin": "flatmin `train`",
    "eager": "PyTorch eager, autograd",
    "eager_by_hand": "PyTorch eager, gradient by hand",
    "compiled": "`torch.compile`, gradient by hand",
}
TARGETS = {"eager": 4.0, "compiled": 1.8}


def _data():
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((SAMPLES, D, D)).astype(np.float32)
    truth = rng.standard_normal((D, 3)) @ rng.standard_normal((3, D))
    targets = (tensor.reshape(SAMPLES, -1) @ (truth / np.linalg.norm(truth)).reshape(-1)).astype(np.float32)
    layers = [(rng.standard_normal((D, D)) / D**0.5).astype(np.float32) for _ in range(DEPTH)]
    return tensor, targets, layers


def _steps(quick: bool) -> int:
    return 256 if quick else 2048


def flatmin(*, quick: bool) -> Side:
    import jax
    import jax.numpy as jnp

    from flatmin.dynamics import LabelNoiseSGD, train
    from flatmin.measurements import dense
    from flatmin.parameterizations import deep_matrix
    from flatmin.problems import RecoveryProblem

    tensor, targets, layers = _data()
    problem = RecoveryProblem(dense(tensor), deep_matrix((D, D), DEPTH), jnp.asarray(targets))
    params = tuple(jnp.asarray(layer) for layer in layers)
    dynamics = LabelNoiseSGD(RATE, BATCH, NOISE)

    def run():
        result = train(problem, dynamics, params, steps=_steps(quick), key=jax.random.key(0), throw=True)
        return jax.block_until_ready(result.params)

    def replay(draws):
        state = dynamics.init(params)
        for indices, normals in draws:
            numbers = jnp.asarray(indices), jnp.asarray(normals, jnp.float32)
            state, _ = dynamics.update(numbers, problem, state)
        return [layer.tolist() for layer in state.params]

    return Side(run, _steps(quick), replay)


def _torch(quick: bool, make_step) -> Side:
    import os

    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tensor, targets, layers = _data()
    A, b = torch.from_numpy(tensor).reshape(SAMPLES, -1), torch.from_numpy(targets)
    params, step = make_step([torch.from_numpy(layer) for layer in layers], A, b)
    start = [p.detach().clone() for p in params]

    def reset():
        with torch.no_grad():
            for p, s in zip(params, start, strict=True):
                p.copy_(s)

    def run():
        reset()
        indices = torch.randint(SAMPLES, (_steps(quick), BATCH))
        shifts = NOISE * torch.randn(_steps(quick), BATCH)
        for index, shift in zip(indices.unbind(), shifts.unbind(), strict=True):
            step(index, shift)

    def replay(draws):
        reset()
        for indices, normals in draws:
            step(torch.tensor(indices), NOISE * torch.tensor(normals, dtype=torch.float32))
        return [p.tolist() for p in params]

    return Side(run, _steps(quick), replay)


def eager(*, quick: bool) -> Side:
    import torch

    def make_step(layers, A, b):
        W1, W2, W3 = params = [layer.requires_grad_() for layer in layers]

        def step(index, shift):
            residual = A.index_select(0, index) @ (W3 @ W2 @ W1).view(-1) - (b.index_select(0, index) + shift)
            grads = torch.autograd.grad(residual.square().mean(), params)
            with torch.no_grad():
                for p, g in zip(params, grads, strict=True):
                    p.sub_(g, alpha=RATE)

        return params, step

    return _torch(quick, make_step)


def _by_hand(compiled: bool):
    import torch

    def make_step(layers, A, b):
        def update(W1, W2, W3, A, b, index, shift):
            batch = A.index_select(0, index)
            left = W3 @ W2
            residual = batch @ (left @ W1).view(-1) - (b.index_select(0, index) + shift)
            G = ((2 / BATCH) * (residual @ batch)).view(D, D)
            H = G @ W1.T
            g1, g2, g3 = left.T @ G, W3.T @ H, H @ W2.T
            W1.sub_(g1, alpha=RATE)
            W2.sub_(g2, alpha=RATE)
            W3.sub_(g3, alpha=RATE)

        update = torch.compile(update, fullgraph=True) if compiled else update

        @torch.no_grad()
        def step(index, shift):
            update(*layers, A, b, index, shift)

        return layers, step

    return make_step


def eager_by_hand(*, quick: bool) -> Side:
    return _torch(quick, _by_hand(compiled=False))


def compiled(*, quick: bool) -> Side:
    return _torch(quick, _by_hand(compiled=True))


def main(*, quick: bool) -> Table:
    rng = np.random.default_rng(1)
    draws = [(rng.integers(SAMPLES, size=BATCH).tolist(), rng.standard_normal(BATCH).tolist()) for _ in range(20)]
    workers, times = race("label_noise_sgd", list(NAMES), rounds=3 if quick else 9, quick=quick)
    ends = {side: np.asarray(worker.ask("facts", draws)) for side, worker in workers.items()}
    apart = max(np.abs(end - ends["flatmin"]).max() for end in ends.values())
    if not apart < 1e-4:
        raise RuntimeError(f"the sides do not do the same: params {apart:.1e} apart after 20 steps with the same draws")
    moved = np.abs(ends["flatmin"] - np.asarray(_data()[2])).max()
    threads = {side: worker.threads for side, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    return Table(
        "Label-noise SGD (d = 60, L = 3, n = 1000, batch 50, float32)",
        ["threads", "us a step, median", "best", "ratio of bests", "ratio within rounds (quartiles)"],
        timing_rows(times, NAMES, threads, TARGETS, unit=1e6),
        [
            f"With the same batches and noise, all sides agree to {apart:.0e} after 20 steps of size {moved:.0e}.",
            f"{len(times['flatmin'])} rounds of {_steps(quick)} steps.",
        ],
    )
