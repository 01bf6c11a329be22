"""Label-noise SGD on data of any scale: units are taken out, and the step size follows the measured curvature."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import least_squares
from scipy.sparse.linalg import LinearOperator

from flatmin._core import JobError, Outcome
from flatmin.dynamics import LabelNoiseSGD, Record, train
from flatmin.experiments.recovery.prepared import Prepared
from flatmin.experiments.recovery.spec import Recovery
from flatmin.flatness import hessian_trace, sharpness
from flatmin.measurements import gram_form, scaled
from flatmin.parameterizations import Gaussian, deep_matrix
from flatmin.problems import RecoveryProblem

NOISY = (0.05, 0.1, 0.15, 0.15, 0.15, 0.15)
"""Shares of the steps with full noise; the step size is chosen anew at the start of each."""

ANNEALED, QUIET = 0.1, 0.2
"""Shares with a third of the step size, and then with the full one but without noise, to interpolate."""

SAFETY = 0.25
"""Fraction of the largest step size that is stable in the mean square."""

HALVINGS = 12
"""Times that a diverging phase is tried again with half the step size."""


CORRECTIONS, LSMR_ITERATIONS = 40, 200
"""Gauss-Newton steps at the end, and iterations of the linear solver in each."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The end of a run, in the units of the data.

    Attributes:
        matrix: the product of the factors.
        params: the factors, scaled so that they multiply to `matrix`.
        curves: `step`, relative loss, trace and nuclear norm of the scaled problem along the run.
        learning_rates: step size of each phase, on the scaled problem.
        loss: mean of squared residuals, in the units of the targets squared.
        residual: `||A(X) - b|| / ||b||`.
        steps: steps done.
        correction: `||W - W'|| / ||W||` of the last Gauss-Newton steps; 0 if SGD itself reached the tolerance.
    """

    matrix: np.ndarray
    params: tuple[Any, ...]
    curves: dict[str, np.ndarray]
    learning_rates: tuple[float, ...]
    loss: float
    residual: float
    steps: int
    correction: float


class _Curves(eqx.Module):
    problem: RecoveryProblem

    def __call__(self, params):
        matrix = self.problem.matrix(params)
        return {
            "loss": self.problem.loss(params),
            "trace": hessian_trace(self.problem, params).value,
            "nuclear_norm": jnp.sum(jnp.linalg.svd(matrix, compute_uv=False)),
        }


def train_label_noise(
    prepared: Prepared, spec: Recovery, *, folder: Path, progress: Callable[[int, int], Any]
) -> Trained:
    """Train, choosing the step size as the point moves.

    The measurements are multiplied by c so that `||A_i||_F^2 = d1 d2` on average and the targets by c / t so that
    their mean square is 1: then f' = (c/t)^2 f and X = t X', and sigma = 1 is the noise of the papers.

    Args:
        prepared: the cut data.
        spec: depth, noise, steps, learning rate and seed.
        folder: where checkpoints of the phases are kept.
        progress: called with (steps done, all steps); may raise KeyboardInterrupt to stop.

    Returns:
        The trained point.

    Raises:
        JobError: if it diverges at the step size asked for, or at every one tried.
        KeyboardInterrupt: if it was stopped; the checkpoints hold what was done.
    """
    depth, steps = spec.depth or 2, spec.steps or 0
    d1, d2 = prepared.shape
    op = prepared.measurements
    m = op.num_measurements
    c = math.sqrt(d1 * d2 / (float(gram_form(op)) / m))
    t = c * float(np.sqrt(np.mean(prepared.targets**2)))
    factors = deep_matrix((d1, d2), depth, width=min(d1, d2))
    problem = RecoveryProblem(scaled(op, c), factors, jnp.asarray(prepared.targets * (c / t)))
    init_key, run_key = jax.random.split(jax.random.fold_in(jax.random.key(spec.seed), depth))
    params = factors.init_params(init_key, Gaussian(max(d1, d2) ** -0.5))
    batch = int(min(50, max(1, m // 4)))
    sigma = 1.0 if spec.noise is None else spec.noise

    shares = [(share, 1.0, sigma) for share in NOISY] + [(ANNEALED, 1 / 3, sigma), (QUIET, 1.0, 0.0)]
    ends = np.rint(np.cumsum([share for share, _, _ in shares]) / sum(s for s, _, _ in shares) * steps).astype(int)
    done, rates, curves = 0, [], []
    folder.mkdir(parents=True, exist_ok=True)
    for phase, ((_, factor, noise), end) in enumerate(zip(shares, ends.tolist(), strict=True)):
        length = end - done
        stable = largest_step(problem, params, batch)
        rate = spec.learning_rate or SAFETY * stable
        attempt = 0
        while True:
            rule = LabelNoiseSGD(learning_rate=factor * rate, batch_size=batch, noise=noise)
            result = train(
                problem,
                rule,
                params,
                steps=length,
                key=jax.random.fold_in(run_key, phase),
                records={"curves": Record(_Curves(problem), at=_record_steps(length))},
                checkpoint=folder / f"phase-{phase}-{attempt}",
                progress=lambda now, _, done=done: progress(done + now, steps),
            )
            if result.outcome is Outcome.interrupted:
                raise KeyboardInterrupt
            if result.outcome is Outcome.completed:
                break
            if spec.learning_rate is not None or attempt == HALVINGS:
                step = done + int(result.divergence_step)
                advice = "lower it, or leave it out to have it chosen" if spec.learning_rate else "lower --noise"
                raise JobError(f"learning_rate: label-noise SGD diverged at {rate:.1e}, step {step}; {advice}")
            rate, attempt = rate / 2, attempt + 1
        params = result.params
        history = result.records["curves"]
        curves.append({"step": history.steps + done, **history.values})
        rates.append(factor * rate)
        done = end
    params, correction = _interpolating(problem, params, spec.tolerance)
    params = tuple(layer * t ** (1 / depth) for layer in params)
    matrix = factors.matrix(params)
    miss = np.asarray(op.forward(matrix)) - prepared.targets
    joined = {name: np.concatenate([part[name] for part in curves]) for name in curves[0]}
    _, first = np.unique(joined["step"], return_index=True)
    return Trained(
        matrix=np.asarray(matrix),
        params=params,
        curves={name: values[first] for name, values in joined.items()},
        learning_rates=tuple(rates),
        loss=float(np.mean(miss**2)),
        residual=float(np.linalg.norm(miss) / np.linalg.norm(prepared.targets)),
        steps=steps,
        correction=correction,
    )


def _interpolating(problem: RecoveryProblem, params: Any, tolerance: float) -> tuple[Any, float]:
    """An interpolating point nearby where SGD without noise, slow in flat directions, is not there yet.

    Gauss-Newton steps in a trust region: singular values that are still fading make the whole step too long. Returns
    the point and how far it is, relative; the params themselves where there is nothing to do, or no such point in
    reach (targets that contradict each other).
    """
    goal = tolerance**2  # the targets of the scaled problem have mean square 1
    if float(problem.loss(params)) <= goal:
        return params, 0.0
    start, unravel = ravel_pytree(params)

    @jax.jit
    def residual(point):
        return problem.predict(unravel(point)) - problem.targets

    forward = jax.jit(lambda point, v: jax.jvp(residual, (point,), (v,))[1])
    backward = jax.jit(lambda point, r: jax.vjp(residual, point)[1](r)[0])

    def jacobian(point: np.ndarray) -> LinearOperator:
        products = {
            "matvec": lambda v: np.asarray(forward(point, v.ravel())),
            "rmatvec": lambda r: np.asarray(backward(point, r.ravel())),
        }
        shape = (len(problem.targets), point.size)
        return LinearOperator(shape, **products, dtype=start.dtype)  # pyright: ignore[reportCallIssue]

    found = least_squares(
        lambda point: np.asarray(residual(point)),
        np.asarray(start),
        jacobian,  # pyright: ignore[reportArgumentType]
        tr_solver="lsmr",
        tr_options={"maxiter": LSMR_ITERATIONS},
        max_nfev=CORRECTIONS,
    )
    if 2 * found.cost / len(problem.targets) > goal:
        return params, 0.0
    return unravel(jnp.asarray(found.x)), float(np.linalg.norm(found.x - start) / np.linalg.norm(start))


def largest_step(problem: RecoveryProblem, params: Any, batch_size: int) -> float:
    """`2 / (S + tr H / B)`: above it the second moment of batch SGD grows, near an interpolating point.

    The curvature is that of the Gauss-Newton part, taken by moving the targets to the predictions.

    Args:
        problem: the scaled problem.
        params: the point.
        batch_size: B.

    Returns:
        The step size.
    """
    here = RecoveryProblem(problem.measurements, problem.parameterization, problem.predict(params))
    try:
        top = float(sharpness(here, params).value)
    except JobError:  # the trace is an upper bound
        top = float(hessian_trace(here, params).value)
    return 2 / (top + float(hessian_trace(here, params).value) / batch_size)


def _record_steps(length: int) -> list[int]:
    inner = np.concatenate([np.geomspace(1, max(length, 1), 6), np.linspace(0, length, 10)])
    return sorted({int(step) for step in np.rint(inner)})
