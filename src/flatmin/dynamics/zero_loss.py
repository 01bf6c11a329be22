"""The set of zero loss `{r(W) = 0}` of a residual map: tangent projection and retraction.

With `J = dr/dW` at a point, its tangent space is the null space of J, and the orthogonal projection on it is
`P_T g = g - J^T (J J^T)^+ J g`. Both this and the way back to the set are solves with the kernel `K = J J^T`, done by
conjugate gradients from products with J and J^T alone. A fixed approximate inverse of K, from a point nearby, makes
them short; K need not have full rank (duplicate measurements): the systems are consistent, and conjugate gradients
stay in its range.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from flatmin._core import shown_tuple

Residual = Callable[[PyTree], Float[Array, " m"]]
BLOCK = 256  # columns of the kernel formed at the same time
RIDGE = {"float64": 1e-8, "float32": 3e-7}  # of lambda_max, added to K before it is inverted: K may be singular


@shown_tuple
class Projection(NamedTuple):
    """A vector split into its tangent part and `J^T multipliers`.

    Attributes:
        tangent: `P_T g`, like the params.
        multipliers: `(J J^T)^+ J g`, shape (m,).
        iterations: of conjugate gradients.
        error: `||J tangent||` over `||J g||`: how far from tangent it is.
        size: `||J g||`.
    """

    tangent: PyTree
    multipliers: Float[Array, " m"]
    iterations: Int[Array, ""]
    error: Float[Array, ""]
    size: Float[Array, ""]


@shown_tuple
class Retraction(NamedTuple):
    """A point brought back to the set.

    Attributes:
        params: the point.
        loss: the mean of squared residuals there.
        steps: Gauss-Newton steps.
        iterations: of conjugate gradients, all steps together.
    """

    params: PyTree
    loss: Float[Array, ""]
    steps: Int[Array, ""]
    iterations: Int[Array, ""]


def cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """All floating point arrays of a tree (objects that hold arrays included) in another precision."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def tree_add(first: PyTree, factor: Any, second: PyTree) -> PyTree:
    """`first + factor second`, leaf by leaf, in the precision of `first`."""
    return jax.tree.map(lambda a, b: a + (jnp.asarray(factor, b.dtype) * b).astype(a.dtype), first, second)


def tree_norm(tree: PyTree) -> Float[Array, ""]:
    """Frobenius norm of all leaves together."""
    return jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))


def _products(residual: Residual, params: PyTree) -> tuple[Callable[[PyTree], Array], Callable[[Array], PyTree]]:
    """`v -> J v` and `y -> J^T y`."""
    _, forward = jax.linearize(residual, params)
    transpose = jax.linear_transpose(forward, params)
    return forward, lambda y: transpose(y)[0]


def conjugate_gradients(
    products: tuple[Callable[[PyTree], Array], Callable[[Array], PyTree]],
    vector: PyTree,
    image: Float[Array, " m"],
    start: Float[Array, " m"],
    inverse: Float[Array, "m m"] | None,
    threshold: float | Array,
    max_iterations: int,
) -> tuple[PyTree, Float[Array, " m"], Int[Array, ""], Float[Array, ""]]:
    """Take multiples of the rows of J off a vector until `J v` is small: conjugate gradients for `J J^T y = J v`.

    The vector follows the iterates, so that an iteration costs one product with J^T and one with J, and the end none.

    Args:
        products: `v -> J v` and `y -> J^T y`.
        vector: v.
        image: `J v`.
        start: multipliers that were taken off already.
        inverse: an approximate inverse of `J J^T`, symmetric positive definite; None for none.
        threshold: of `||J v||`.
        max_iterations: at most.

    Returns:
        `(v - J^T y, start + y, iterations, ||J (v - J^T y)||)`.
    """
    forward, backward = products

    def precondition(r):
        return r if inverse is None else inverse @ r

    def wanted(state):
        _, _, r, _, _, count = state
        return (jnp.linalg.norm(r) > threshold) & (count < max_iterations)

    def body(state):
        v, y, r, direction, rho, count = state
        row = backward(direction)
        image = forward(row)
        curvature = jnp.vdot(direction, image)
        step = jnp.where(curvature > 0, rho / jnp.where(curvature > 0, curvature, 1), 0)
        v, y, r = tree_add(v, -step, row), y + step * direction, r - step * image
        z = precondition(r)
        new = jnp.vdot(r, z)
        # a direction without curvature is outside of the range: stop there
        count = jnp.where(curvature > 0, count + 1, max_iterations)
        return v, y, r, z + (new / jnp.where(rho == 0, 1, rho)) * direction, new, count

    z = precondition(image)
    state = (vector, start, image, z, jnp.vdot(image, z), jnp.zeros((), jnp.int32))
    v, y, r, _, _, count = jax.lax.while_loop(wanted, body, state)
    return v, y, count, jnp.linalg.norm(r)


def project(
    residual: Residual,
    params: PyTree,
    vector: PyTree,
    *,
    inverse: Float[Array, "m m"] | None = None,
    start: Float[Array, " m"] | None = None,
    size: Float[Array, ""] | None = None,
    tolerance: float | Array = 1e-10,
    max_iterations: int = 1000,
) -> Projection:
    """`P_T g = g - J^T (J J^T)^+ J g`, the part of a vector that leaves the residuals as they are, to first order.

    Args:
        residual: the map r(params) -> (m,).
        params: the point.
        vector: g, like the params.
        inverse: an approximate inverse of `J J^T`, see `kernel_inverse`.
        start: a guess of the multipliers, shape (m,).
        size: `||J g||`, where it is known well enough to measure the error by; else it is computed.
        tolerance: of the kernel solve, relative to `||J g||`.
        max_iterations: of conjugate gradients; each costs one product with J and one with J^T.

    Returns:
        The projection, with its error.
    """
    forward, backward = products = _products(residual, params)
    if start is None:
        rest, image = vector, forward(vector)
        first, whole = jnp.zeros_like(image), jnp.linalg.norm(image)
    else:
        rest, first = tree_add(vector, -1.0, backward(start)), start
        image = forward(rest)
        whole = jnp.linalg.norm(forward(vector)) if size is None else size
    tangent, multipliers, count, left = conjugate_gradients(
        products, rest, image, first, inverse, tolerance * whole, max_iterations
    )
    return Projection(tangent, multipliers, count, left / jnp.where(whole > 0, whole, 1), whole)


def retract(
    residual: Residual,
    params: PyTree,
    *,
    light: Residual | None = None,
    inverse: Float[Array, "m m"] | None = None,
    tolerance: float | Array = 1e-17,
    max_steps: int = 40,
    max_iterations: int = 1000,
) -> Retraction:
    """The nearest point of zero loss, to first order: Gauss-Newton steps `W <- W - J^T (J J^T)^+ r(W)`.

    They are shortened where a whole one would raise the loss.

    Args:
        residual: the map r(params) -> (m,).
        params: a point near the set.
        light: the same map in single precision, for the solves; the residuals themselves are those of `residual`.
        inverse: an approximate inverse of `J J^T`, see `kernel_inverse`.
        tolerance: of the loss, the mean of squared residuals.
        max_steps: Gauss-Newton steps at most; it also stops where a whole step no longer halves the loss.
        max_iterations: of conjugate gradients, a step.

    Returns:
        The point with its loss, which the caller must look at.
    """

    def wanted(state):
        _, _, loss, before, length, step, _ = state
        moving = (loss < 0.5 * before) | (length < 1)
        return (loss > tolerance) & (step < max_steps) & moving & (length > 1e-3)

    def body(state):
        point, r, loss, before, length, step, total = state
        size = jnp.linalg.norm(r)
        if light is None:
            inner, where, scaled = residual, point, r / size
        else:
            single = jnp.float32
            inner, where, scaled = light, cast(point, single), (r / size).astype(single)
        zero = jax.tree.map(jnp.zeros_like, where)
        way, _, count, _ = conjugate_gradients(
            _products(inner, where), zero, scaled, jnp.zeros_like(scaled), inverse, 1e-4, max_iterations
        )
        new = tree_add(point, length * size, way)
        new_r = residual(new)
        new_loss = jnp.mean(new_r**2)
        better = new_loss < loss
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), (new, new_r), (point, r))
        new_loss, before = jnp.where(better, new_loss, loss), jnp.where(better, loss, before)
        length = jnp.where(better, jnp.minimum(1.0, 2 * length), length / 4)
        return *kept, new_loss, before, length, step + 1, total + count

    r = residual(params)
    loss = jnp.mean(r**2)
    zero = jnp.zeros((), jnp.int32)
    point, _, loss, _, _, steps, total = jax.lax.while_loop(
        wanted, body, (params, r, loss, jnp.full_like(loss, jnp.inf), jnp.ones_like(loss), zero, zero)
    )
    return Retraction(point, loss, steps, total)


def formed_kernel(residual: Residual, params: PyTree) -> Float[Array, "m m"]:
    """`J J^T` itself, some columns at a time: m products with J and J^T.

    Args:
        residual: the map r(params) -> (m,).
        params: the point.

    Returns:
        The kernel, symmetric psd up to rounding.
    """
    forward, backward = _products(residual, params)
    like = jax.eval_shape(residual, params)
    eye = jnp.eye(like.shape[0], dtype=like.dtype)
    kernel = jax.lax.map(lambda y: forward(backward(y)), eye, batch_size=min(BLOCK, like.shape[0]))
    return (kernel + kernel.T) / 2


def kernel_inverse(kernel: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """An inverse of `K + c I`, c a small part of the largest eigenvalue, to start conjugate gradients from.

    Args:
        kernel: `J J^T` at a point; in single precision it is inverted in double precision all the same, where that is
            enabled: the smaller c, the fewer iterations.

    Returns:
        Symmetric positive definite (m, m), in the precision of the kernel.
    """
    size, double = kernel.shape[0], kernel.astype(jnp.result_type(float))
    largest = jnp.max(jnp.sum(jnp.abs(double), axis=1))
    ridge = RIDGE[str(kernel.dtype)] * largest + jnp.finfo(kernel.dtype).tiny
    factor = jax.scipy.linalg.cho_factor(double + ridge * jnp.eye(size, dtype=double.dtype))
    inverse = jax.scipy.linalg.cho_solve(factor, jnp.eye(size, dtype=double.dtype))
    return ((inverse + inverse.T) / 2).astype(kernel.dtype)
