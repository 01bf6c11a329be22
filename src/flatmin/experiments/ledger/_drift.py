"""How far a dynamics moves along the zero-loss set, beside the gradient of a regulariser.

Runs start near points of the set, are let settle, and are then projected onto it before and after a stretch of steps.
Between the two points W_a and W_b the prediction is `W_b - W_a = -steps c P_T grad R`, with c the rate of
`theory.implicit_drift` and `P_T grad R` the mean of the two ends (the trapezoidal rule). All runs go side by side, each
with its own step size.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.random import Generator

from flatmin.dynamics import AbstractDynamics, train_ensemble
from flatmin.experiments.ledger import _deep
from flatmin.measurements import dense
from flatmin.parameterizations import DeepMatrix, deep_matrix
from flatmin.problems import RecoveryProblem

REGULARISERS = ("trace", "sharpness", "log trace", "log sharpness", "squared norm")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A problem and points of its zero-loss set.

    Attributes:
        problem: the recovery problem.
        widths: of its deep matrix.
        points: flat parameters, shape (runs, p).
        sharpness: `lambda_max(H)` there, shape (runs,).
        start: random directions for the initial offset, shape (runs, p).
        keys: random keys, shape (runs,).
    """

    problem: RecoveryProblem
    widths: tuple[int, ...]
    points: np.ndarray
    sharpness: np.ndarray
    start: np.ndarray
    keys: Array


@dataclasses.dataclass(frozen=True)
class Drift:
    """What was measured along a run, each of shape (runs,).

    Attributes:
        coefficient: displacement along the predicted direction over the predicted one; 1 where the prediction is right.
        misfit: `||displacement - predicted|| / ||predicted||`.
        sharpness: mean of `lambda_max(H)` at the two ends.
    """

    coefficient: np.ndarray
    misfit: np.ndarray
    sharpness: np.ndarray


def draw_setting(rng: Generator, runs: int, widths: tuple[int, ...], n: int) -> Setting:
    """Random Gaussian measurements and points that fit them, with a simple largest eigenvalue.

    Args:
        rng: generator.
        runs: how many points.
        widths: of the deep matrix.
        n: measurements; fewer than parameters.

    Returns:
        Points whose Hessian has its second eigenvalue below 0.8 and its n-th above 0.1 of the largest.
    """
    shape = (widths[-1], widths[0])
    A, labels = rng.normal(size=(1, n, *shape)), rng.normal(size=n)
    parameterization = deep_matrix(shape, len(widths) - 1, widths[1])
    points, sharpness = np.zeros((0, _size(widths))), np.zeros(0)
    while len(points) < runs:
        W = [0.8 * rng.normal(size=(200, b, a)) for a, b in itertools.pairwise(widths)]
        J, residual = np.zeros((200, n, 1)), np.zeros((200, n))
        for _ in range(40):  # Gauss-Newton steps of least norm
            residual = np.einsum("iab,kab->ki", A[0], _deep.end_to_end(W)) - labels
            J = _deep.jacobian(np.broadcast_to(A, (200, *A.shape[1:])), W)
            move = J.transpose(0, 2, 1) @ np.linalg.solve(J @ J.transpose(0, 2, 1), residual[:, :, None])
            W = _unflatten(_flatten(W) - move[:, :, 0], widths)
        values = 2 / n * np.linalg.eigvalsh(J @ J.transpose(0, 2, 1))
        top = values[:, -1]
        good = (np.abs(residual).max(axis=1) < 1e-12) & (values[:, 0] > 0.1 * top) & (values[:, -2] < 0.8 * top)
        points = np.concatenate([points, _flatten(W)[good]])[:runs]
        sharpness = np.concatenate([sharpness, top[good]])[:runs]
    problem = RecoveryProblem(dense(jnp.asarray(A[0])), parameterization, jnp.asarray(labels))
    keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), runs)
    return Setting(problem, widths, points, sharpness, rng.normal(size=points.shape), keys)


def _size(widths: tuple[int, ...]) -> int:
    return sum(a * b for a, b in itertools.pairwise(widths))


def _flatten(W: Any) -> np.ndarray:
    return np.concatenate([np.asarray(factor).reshape(len(factor), -1) for factor in W], axis=1)


def _unflatten(flat: np.ndarray, widths: tuple[int, ...]) -> list[np.ndarray]:
    W, at = [], 0
    for a, b in itertools.pairwise(widths):
        W.append(flat[:, at : at + a * b].reshape(-1, b, a))
        at += a * b
    return W


def _residual(problem: RecoveryProblem, flat: Float[Array, " p"]) -> Float[Array, " n"]:
    assert isinstance(problem.parameterization, DeepMatrix)  # noqa: S101  # for the type checker
    widths, W, at = problem.parameterization.widths, [], 0
    for a, b in itertools.pairwise(widths):
        W.append(flat[at : at + a * b].reshape(b, a))
        at += a * b
    return problem.predict(tuple(W)) - problem.targets


@eqx.filter_jit
def _project(problem: RecoveryProblem, points: Float[Array, "runs p"]) -> Float[Array, "runs p"]:
    """The nearby point of the zero-loss set, by Gauss-Newton steps of least norm."""

    def one(w):
        def body(_, w):
            J = jax.jacrev(lambda v: _residual(problem, v))(w)
            return w - J.T @ jnp.linalg.solve(J @ J.T, _residual(problem, w))

        return jax.lax.fori_loop(0, 12, body, w)

    return jax.vmap(one)(points)


@eqx.filter_jit
def regulariser_gradients(
    problem: RecoveryProblem, points: Float[Array, "runs p"]
) -> tuple[dict[str, Float[Array, "runs p"]], Float[Array, " runs"]]:
    """`P_T grad R` of every regulariser, and the sharpness, at points of the zero-loss set.

    Args:
        problem: the recovery problem.
        points: flat parameters.

    Returns:
        By name of the regulariser, and `lambda_max(H)`.
    """

    def one(w):
        def kernel(v):
            J = jax.jacrev(lambda u: _residual(problem, u))(v)
            return 2 / problem.num_samples * J @ J.T

        trace, of_trace = jax.value_and_grad(lambda v: jnp.trace(kernel(v)))(w)
        top, of_top = jax.value_and_grad(lambda v: jnp.linalg.eigvalsh(kernel(v))[-1])(w)
        gradients = jnp.stack([of_trace, of_top, of_trace / trace, of_top / top, 2 * w])
        J = jax.jacrev(lambda u: _residual(problem, u))(w)
        normal = J.T @ jnp.linalg.solve(J @ J.T, J @ gradients.T)
        return gradients - normal.T, top

    tangent, top = jax.vmap(one)(points)
    return {name: tangent[:, i] for i, name in enumerate(REGULARISERS)}, top


def velocity(
    setting: Setting, dynamics: AbstractDynamics, steps: int, offset: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Displacement along the set over `steps` steps, after a quarter of them to settle.

    Args:
        setting: problem and points.
        dynamics: the rule, with one step size a run.
        steps: length of the stretch.
        offset: size of the initial offset from the set, relative to the point.

    Returns:
        The two ends on the set, each of shape (runs, p), and their difference.
    """
    size = offset * np.linalg.norm(setting.points, axis=1) / np.linalg.norm(setting.start, axis=1)
    start = tuple(map(jnp.asarray, _unflatten(setting.points + size[:, None] * setting.start, setting.widths)))
    settled = train_ensemble(setting.problem, dynamics, start, steps=steps // 4, keys=setting.keys)
    other = jax.vmap(jax.random.fold_in, (0, None))(setting.keys, 1)
    moved = train_ensemble(setting.problem, dynamics, settled.params, steps=steps, keys=other)
    ends = [np.asarray(_project(setting.problem, jnp.asarray(_flatten(run.params)))) for run in (settled, moved)]
    return ends[0], ends[1], ends[1] - ends[0]


def measure_drift(
    setting: Setting,
    rule: Callable[[float], tuple[AbstractDynamics, np.ndarray, int]],
    regulariser: str,
    *,
    offset: float,
    extrapolate: bool = False,
) -> Drift:
    """The displacement of a dynamics beside the prediction.

    Args:
        setting: problem and points.
        rule: called with a factor of the step size; returns the dynamics, its rate c for each run, and the steps.
        regulariser: one of `REGULARISERS`.
        offset: of the start, see `velocity`.
        extrapolate: run at the step size and at half of it, and extrapolate the difference between measured and
            predicted displacement, whose leading part is linear in the step size, to zero.

    Returns:
        The coefficients and misfits.
    """
    found = []
    for factor in (1.0, 0.5) if extrapolate else (1.0,):
        dynamics, rate, steps = rule(factor)
        first, last, moved = velocity(setting, dynamics, steps, offset)
        (at_first, top_first), (at_last, top_last) = (
            regulariser_gradients(setting.problem, jnp.asarray(end)) for end in (first, last)
        )
        slope = (np.asarray(at_first[regulariser]) + np.asarray(at_last[regulariser])) / 2
        predicted = -(steps * rate)[:, None] * slope
        length = np.linalg.norm(predicted, axis=1)
        unit = predicted / length[:, None]
        found.append((moved / length[:, None], unit, (np.asarray(top_first) + np.asarray(top_last)) / 2))
    if extrapolate:
        (coarse, _, top), (fine, unit, _) = found
        moved = 2 * fine - coarse
    else:
        moved, unit, top = found[0]
    coefficient = np.sum(moved * unit, axis=1)
    return Drift(coefficient, np.linalg.norm(moved - unit, axis=1), top)
