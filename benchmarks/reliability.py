"""`python -m benchmarks.reliability [NAMES] [--quick]`: the figures of docs/reliability.md that no test prints.

Each measurement prints one line: its figure, the bar, and whether it is met; the exit status is 1 if one is not.
"""

import argparse
import itertools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from jax.flatten_util import ravel_pytree

import flatmin.measurements as fm
from benchmarks._table import Row
from flatmin import flatness
from flatmin.dynamics import gradient_flow
from flatmin.linalg import flat_hessian
from flatmin.parameterizations import DeepMatrix, balance_sides
from flatmin.problems import RecoveryProblem

EPS = float(np.finfo(np.float64).eps)
M = 4
"""Measurements of each problem: programs are shared between cases."""


def _spread(rng: np.random.Generator, shape: tuple[int, int], digits: float) -> np.ndarray:
    """A matrix of norm 1 with singular values down to `10^-digits`."""
    U, _, Vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return (U * np.logspace(0, -digits, U.shape[1])) @ Vt


def _problem(A: np.ndarray, widths: tuple[int, ...], targets: np.ndarray) -> RecoveryProblem:
    return RecoveryProblem(fm.DenseMeasurements(jnp.asarray(A)), DeepMatrix(widths), jnp.asarray(targets))


def _exact_trace(A: np.ndarray, W: list[np.ndarray]) -> mpmath.mpf:
    """`(2/m) sum_i sum_l ||P_l^T A_i Q_l^T||^2` in 50 digits."""
    exact = np.vectorize(mpmath.mpf, otypes=[object])
    layers, total = [exact(w) for w in W], mpmath.mpf(0)
    for layer in range(len(W)):
        P, Q = exact(np.eye(W[-1].shape[0])), exact(np.eye(W[0].shape[1]))
        for w in layers[:layer:-1]:
            P = P @ w
        for w in layers[:layer]:
            Q = w @ Q
        total += sum(((P.T @ Ai @ Q.T) ** 2).sum() for Ai in exact(A))
    return 2 * total / len(A)


def closed_forms(*, quick: bool) -> Row:
    """Bar 1: traces of deep matrices of depth 1 to 4, condition to 1e12, sizes 1e-140 to 1e140, in 50 digits."""
    mpmath.mp.dps = 50
    shapes = {1: (3, 2), 2: (3, 3, 2), 3: (3, 3, 3, 2), 4: (3, 3, 3, 3, 2)}
    trace = jax.jit(lambda problem, params: flatness.hessian_trace(problem, params).value)
    worst, cases = 0.0, 40 if quick else 1000
    for case in range(cases):
        rng = np.random.default_rng(case)
        widths = shapes[1 + case % 4]
        W = [_spread(rng, (b, a), rng.choice([0.0, 3.0, 12.0])) for a, b in itertools.pairwise(widths)]
        A = rng.standard_normal((M, widths[-1], widths[0])) * 10.0 ** rng.uniform(-140, 140)
        got = float(trace(_problem(A, widths, np.zeros(M)), tuple(map(jnp.asarray, W))))
        truth = _exact_trace(A, W)
        parameters = sum(w.size for w in W)
        worst = max(worst, float(abs(mpmath.mpf(got) - truth) / truth) / (parameters * EPS))
    figure = f"largest relative error {worst:.2g} n eps, n parameters, {cases} cases"
    return Row("1 closed forms", [figure], "<= 50 n eps", worst <= 50)


def symmetry(*, quick: bool) -> Row:
    """Bar 4: `|u^T H v - v^T H u|`, and H v beside the dense Hessian and central differences."""
    cases, skew, dense, differences = 10 if quick else 200, 0.0, 0.0, 0.0
    widths = (4, 3, 3, 2)

    @jax.jit
    def look(A, b, params, u, v):
        problem = RecoveryProblem(fm.DenseMeasurements(A), DeepMatrix(widths), b)
        flat, unravel = ravel_pytree(params)
        gradient = jax.grad(lambda x: problem.loss(unravel(x)))
        matvec = flat_hessian(problem.loss, params).matvec
        H = jax.hessian(lambda x: problem.loss(unravel(x)))(flat)
        Hu, Hv, h = matvec(u), matvec(v), 1e-5
        central = (gradient(flat + h * v) - gradient(flat - h * v)) / (2 * h)
        size = jnp.linalg.norm(H, 2) * jnp.linalg.norm(v)
        apart = jnp.abs(u @ Hv - v @ Hu) / (size * jnp.linalg.norm(u))
        return apart, jnp.linalg.norm(H @ v - Hv) / size, jnp.linalg.norm(central - Hv) / size

    for case in range(cases):
        rng = np.random.default_rng(case)
        params = tuple(jnp.asarray(rng.standard_normal((b, a))) for a, b in itertools.pairwise(widths))
        size = sum(w.size for w in params)
        A, b = rng.standard_normal((5, 2, 4)), rng.standard_normal(5)
        found = look(jnp.asarray(A), jnp.asarray(b), params, *jnp.asarray(rng.standard_normal((2, size))))
        skew, dense, differences = (max(a, float(b)) for a, b in zip((skew, dense, differences), found, strict=True))
    figure = f"skew {skew / EPS:.2g} eps, beside dense {dense / EPS:.2g} eps, beside differences {differences:.1e}"
    met = skew <= 30 * EPS and dense <= 100 * EPS and differences <= 1e-7
    return Row("4 products with the Hessian", [f"{figure}, {cases} cases"], "skew <= 30 eps", met)


def balance(*, quick: bool) -> Row:
    """Bar 8: what gradient flow conserves, and that the loss only falls."""
    drift, rise, cases = 0.0, 0.0, 2 if quick else 20
    for case in range(cases):
        rng = np.random.default_rng(case)
        widths = (3, 3, 3)
        problem = _problem(rng.standard_normal((6, 3, 3)), widths, rng.standard_normal(6))
        params = tuple(jnp.asarray(0.5 * rng.standard_normal((3, 3))) for _ in range(2))
        result = gradient_flow(problem, params, max_time=20.0, invariant=balance_sides)
        drift, rise = max(drift, float(result.relative_drift)), max(rise, float(result.loss_rise))
    figure = f"relative drift {drift:.1e}, rise of the loss {rise:.1e} of the first, {cases} starts"
    return Row("8 balancedness of gradient flow", [figure], "<= 1e-8, none", drift <= 1e-8 and rise <= 1e-12)


def precision(*, quick: bool) -> Row:
    """Bar 19: the same closed forms in single and double precision on the CPU."""
    cases, widths = 10 if quick else 300, (4, 3, 3, 2)
    worst = {"trace": 0.0, "sharpness": 0.0}
    ask = jax.jit(
        lambda problem, params: (
            flatness.hessian_trace(problem, params).value,
            flatness.gauss_newton_spectrum(problem, params)[-1],
        )
    )
    for case in range(cases):
        rng = np.random.default_rng(case)
        W = [rng.standard_normal((b, a)) for a, b in itertools.pairwise(widths)]
        A, b = rng.standard_normal((M, 2, 4)), rng.standard_normal(M)
        # both start from numbers that single precision holds, so that the difference is that of the computation
        A, b, *W = (x.astype(np.float32) for x in (A, b, *W))
        answers = []
        for dtype in (np.float32, np.float64):
            problem = _problem(A.astype(dtype), widths, b.astype(dtype))
            answers.append(ask(problem, tuple(jnp.asarray(w.astype(dtype)) for w in W)))
        for name, single, double in zip(worst, *answers, strict=True):
            worst[name] = max(worst[name], abs(float(single) / float(double) - 1))
    words = ", ".join(f"{name} {error:.1e}" for name, error in worst.items())
    return Row(
        "19 float32 beside float64", [f"{words} relative, {cases} cases"], "<= 1e-5", max(worst.values()) <= 1e-5
    )


MEASUREMENTS: dict[str, Callable[..., Row]] = {f.__name__: f for f in (closed_forms, symmetry, balance, precision)}


def main() -> int:
    """Run the named measurements, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(MEASUREMENTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="few cases: a smoke test")
    options = parser.parse_args()
    unknown = set(options.names) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"names: got {sorted(unknown)}, expected some of {list(MEASUREMENTS)}")
    jax.config.update("jax_enable_x64", True)
    missed = 0
    for name in options.names or MEASUREMENTS:
        row = MEASUREMENTS[name](quick=options.quick)
        missed += not row.met
        print(f"{row.name}: {row.values[0]}; bar {row.target}: {'met' if row.met else 'MISSED'}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
