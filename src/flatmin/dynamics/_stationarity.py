"""Whether a small gradient means a minimum: the Newton step there against the way travelled.

A gradient that is small against the largest one on a path says nothing: far out, where the loss is steep, or along a
slow direction of a stiff problem, the minimum may be as far away as the start. What counts is how far the minimum still
is: `||H^+ g||`, the Newton step of the point, against the distance from the start.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, PyTree

from flatmin import linalg
from flatmin._core import Estimate, JobError

DENSE_LIMIT = 400  # parameters up to which the curvature comes from a dense Hessian
KRYLOV = 300  # products with the Hessian at most, where it is not formed
SOLVED = 1e-8  # relative residual at which a Krylov solution stands for the Newton step
SAMPLES = 3  # gradients a few units of rounding away, whose scatter is the noise of a gradient
KEPT = 0.5  # of a slope along flat directions that a Newton step across them leaves: more, and it is a true one
ROOM = 5  # times the largest scatter of these samples is taken for noise


class Ends(NamedTuple):
    """What the second derivatives say of a point with a small gradient.

    Attributes:
        lowest: the lowest Hessian eigenvalue, None where it could not be had.
        highest: the highest.
        step: `||H^+ g||`, the Newton step: how far the nearest stationary point is, to second order; infinite where it
            could not be found, or where the gradient has a part in directions without curvature.
        drowned: whether the gradient is rounding, so that going on will not help.
    """

    lowest: Estimate | None
    highest: Estimate | None
    step: float
    drowned: bool


def ends_of(loss: Callable[[PyTree], Array], params: PyTree) -> Ends:
    """The curvature and the Newton step at a point; in float64 where that is enabled, whatever the params are.

    Args:
        loss: scalar function of the params; compiled once if it is a pytree (a method of an equinox module).
        params: pytree of floating point arrays.

    Returns:
        The ends; nothing is raised, since the point itself is the result that matters.
    """
    wide = jnp.result_type(float)
    flat = ravel_pytree(jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, wide)), params))[0]
    look = _Look(loss, params, flat)
    gradient = look.slope(flat)
    try:
        with np.errstate(all="ignore"):
            noise = _sound(_noise(look, gradient))
            return (_dense if flat.size <= DENSE_LIMIT else _krylov)(look, gradient, noise)
    except (JobError, np.linalg.LinAlgError):
        return Ends(None, None, np.inf if np.any(gradient) else 0.0, drowned=False)


class _Look:
    """Gradients and products with the Hessian around a point, on flat NumPy vectors."""

    def __init__(self, loss: Callable[[PyTree], Array], like: PyTree, point: Array):
        self.loss, self.like, self.point = loss, like, point

    def slope(self, flat: ArrayLike) -> np.ndarray:
        return np.asarray(_slope(self.loss, self.like, jnp.asarray(flat, self.point.dtype)))

    def matvec(self, vector: ArrayLike) -> Array:
        return _product(self.loss, self.like, self.point, jnp.asarray(vector, self.point.dtype))

    def dense(self) -> np.ndarray:
        hessian = _sound(np.asarray(_hessian(self.loss, self.like, self.point)))
        return (hessian + hessian.T) / 2

    def estimate(self, vector: ArrayLike, method: str, matvecs: int) -> Estimate:
        value, residual = linalg.eigenpair_residual(self.matvec, jnp.asarray(vector))
        return Estimate(value, residual, "residual bound", method, matvecs + 2)


def _unravel(flat: Array, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
    parts = jnp.split(flat, ends)
    return jax.tree.unflatten(structure, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)])


@eqx.filter_jit
def _slope(loss: Callable[[PyTree], Array], like: PyTree, flat: Array) -> Array:
    return jax.grad(lambda x: loss(_unravel(x, like)))(flat)


@eqx.filter_jit
def _product(loss: Callable[[PyTree], Array], like: PyTree, flat: Array, vector: Array) -> Array:
    return jax.jvp(jax.grad(lambda x: loss(_unravel(x, like))), (flat,), (vector,))[1]


@eqx.filter_jit
def _hessian(loss: Callable[[PyTree], Array], like: PyTree, flat: Array) -> Array:
    return jax.hessian(lambda x: loss(_unravel(x, like)))(flat)


def _noise(look: _Look, gradient: np.ndarray) -> np.ndarray:
    """What is left of `g(x + d) - g(x) - H d` for d of a few units of rounding: rounding alone; shape (samples, p)."""
    rng = np.random.default_rng(0)  # not an estimate: three probes of what rounding does here
    here, samples = np.asarray(look.point), []
    reach = 4 * np.finfo(here.dtype).eps * np.linalg.norm(here) / here.size**0.5
    for _ in range(SAMPLES):
        moved = (here + reach * rng.standard_normal(here.size)).astype(here.dtype)
        samples.append(look.slope(moved) - gradient - np.asarray(look.matvec(moved - here)))
    return np.stack(samples)


def _dense(look: _Look, gradient: np.ndarray, noise: np.ndarray) -> Ends:
    values, vectors = np.linalg.eigh(look.dense())
    size, along = np.abs(values), vectors.T @ gradient
    eps = np.finfo(values.dtype).eps
    rounding = ROOM * (np.abs(noise @ vectors).max(axis=0) + eps * np.linalg.norm(gradient))
    flat = size <= values.size * eps * size.max()
    steps = np.where(flat | (np.abs(along) <= rounding), 0, along / np.where(flat, 1, size))
    step = float(np.linalg.norm(steps))
    if np.any(np.abs(along[flat]) > rounding[flat]):
        # a slope where nothing bends: that of a curved valley's floor, which a Newton step takes off, or a true one?
        after = vectors[:, flat].T @ look.slope(np.asarray(look.point) - vectors @ (np.sign(values) * steps))
        if np.linalg.norm(after) > max(KEPT * np.linalg.norm(along[flat]), np.linalg.norm(rounding[flat])):
            step = np.inf
    lowest, highest = (look.estimate(vectors[:, at], "dense", values.size) for at in (0, -1))
    return Ends(lowest, highest, step, drowned=_is_drowned(gradient, noise))


def _krylov(look: _Look, gradient: np.ndarray, noise: np.ndarray) -> Ends:
    low, high, matvecs = linalg.extreme_eigenvectors(
        look.matvec, look.point.size, look.point.dtype, key=jax.random.key(0), tolerance=1e-8
    )
    lowest, highest = (look.estimate(vector, "lanczos", matvecs) for vector in (low, high))
    return Ends(lowest, highest, _newton_step(look, gradient), drowned=_is_drowned(gradient, noise))


def _newton_step(look: _Look, gradient: np.ndarray) -> float:
    """`||H^+ g||` by Lanczos from g, with full orthogonalisation; infinite where it is not solved within the budget."""
    size = np.linalg.norm(gradient)
    if size == 0:
        return 0.0
    basis, diagonal, beside = [gradient / size], [], []
    for _ in range(min(KRYLOV, gradient.size)):
        image = _sound(np.asarray(look.matvec(basis[-1])))
        diagonal.append(float(basis[-1] @ image))
        Q = np.stack(basis)
        for _ in range(2):
            image = image - Q.T @ (Q @ image)
        beside.append(float(np.linalg.norm(image)))
        T = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
        top = np.abs(T).max()
        if top == 0:
            return np.inf
        solution = np.linalg.lstsq(T, size * np.eye(len(T))[0], rcond=np.finfo(T.dtype).eps)[0]
        left = np.linalg.norm(T @ solution - size * np.eye(len(T))[0]) + beside[-1] * abs(solution[-1])
        if left <= SOLVED * size:
            return float(np.linalg.norm(solution))
        if beside[-1] <= len(T) * np.finfo(T.dtype).eps * top:
            break
        basis.append(image / beside[-1])
    return np.inf


def _is_drowned(gradient: np.ndarray, noise: np.ndarray) -> bool:
    return bool(np.linalg.norm(gradient) <= np.linalg.norm(noise, axis=1).max())


def _sound(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise JobError("params: the Hessian at this point has NaN or infinite entries")
    return array
