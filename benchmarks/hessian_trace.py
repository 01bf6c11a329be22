"""Hessian trace of the deep matrix sensing loss: d = 60, L = 3, n = 1000, float32.

flatmin's closed form is exact up to rounding; the peers are stochastic, with the budgets people use. What a peer
prepares once for a point (PyHessian's gradient graph) is not timed, nor are flatmin's two moments, which are
made once for a problem; the row without them is there too.
"""

import numpy as np

from benchmarks._measure import Side, race
from benchmarks._table import Table, timing_rows
from benchmarks.label_noise_sgd import DEPTH, SAMPLES, D, _data

NAMES = {
    "flatmin": "flatmin `hessian_trace`, moments kept",
    "flatmin_plain": "flatmin `hessian_trace`, no moments",
    "pyhessian_trace": "PyHessian, 100 iterations",
    "curvlinops_xtrace": "curvlinops XTrace, 100 matvecs",
}
TARGETS = {"pyhessian_trace": 25.0, "curvlinops_xtrace": 80.0}


def exact() -> float:
    """`(2/n) sum_l sum_i ||P_l^T A_i Q_l^T||_F^2`, float64."""
    tensor, _, layers = _data()
    tensor, (W1, W2, W3), eye = tensor.astype(np.float64), [w.astype(np.float64) for w in layers], np.eye(D)
    pairs = [(W3 @ W2, eye), (W3, W1), (eye, W2 @ W1)]
    return 2 / SAMPLES * sum(np.sum((P.T @ (tensor @ Q.T)) ** 2) for P, Q in pairs)


def _flatmin(moments: bool) -> Side:
    import jax.numpy as jnp

    from flatmin.flatness import hessian_trace
    from flatmin.measurements import dense, with_moments
    from flatmin.parameterizations import deep_matrix
    from flatmin.problems import RecoveryProblem

    tensor, targets, layers = _data()
    measurements = with_moments(dense(tensor)) if moments else dense(tensor)
    problem = RecoveryProblem(measurements, deep_matrix((D, D), DEPTH), jnp.asarray(targets))
    params = tuple(jnp.asarray(layer) for layer in layers)

    def run():
        return float(hessian_trace(problem, params))

    return Side(run, 1, lambda _: run())


def flatmin(*, quick: bool) -> Side:
    return _flatmin(moments=True)


def flatmin_plain(*, quick: bool) -> Side:
    return _flatmin(moments=False)


def _model():
    import os

    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    tensor, targets, layers = _data()

    class Sensing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ParameterList(torch.from_numpy(layer) for layer in layers)

        def forward(self, A):
            W1, W2, W3 = self.layers
            return A @ (W3 @ W2 @ W1).view(-1)

    return Sensing(), torch.from_numpy(tensor).reshape(SAMPLES, -1), torch.from_numpy(targets)


def pyhessian_trace(*, quick: bool) -> Side:
    import torch
    from pyhessian import hessian

    model, A, b = _model()
    computer = hessian(model, torch.nn.MSELoss(), data=(A, b), cuda=False)

    def run():
        # tol = 0: all iterations
        return float(np.mean(computer.trace(maxIter=100, tol=0)))

    return Side(run, 1, lambda _: run())


def curvlinops_xtrace(*, quick: bool) -> Side:
    import curvlinops
    import torch

    model, A, b = _model()
    operator = curvlinops.HessianLinearOperator(
        model, torch.nn.MSELoss(), list(model.parameters()), [(A, b)], check_deterministic=False
    )

    def run():
        return float(curvlinops.xtrace(operator, 100))

    return Side(run, 1, lambda _: run())


def main(*, quick: bool) -> Table:
    workers, times = race("hessian_trace", list(NAMES), rounds=3 if quick else 9, quick=quick)
    truth = exact()
    errors = {}
    for side, worker in workers.items():
        values = [worker.ask("facts") for _ in range(1 if quick else 5)]
        errors[side] = np.sqrt(np.mean((np.asarray(values) / truth - 1) ** 2))
        worker.close()
    if not errors["flatmin"] < 1e-5:
        raise RuntimeError(f"flatmin's trace is off by {errors['flatmin']:.1e}, expected rounding only")
    threads = {side: worker.threads for side, worker in workers.items()}
    return Table(
        "Hessian trace (d = 60, L = 3, n = 1000, float32)",
        ["threads", "ms, median", "best", "ratio of bests", "ratio within rounds (quartiles)", "relative error"],
        timing_rows(times, NAMES, threads, TARGETS, {side: f"{error:.0e}" for side, error in errors.items()}),
        ["Errors are root mean squares against a float64 evaluation of the formula."],
    )
