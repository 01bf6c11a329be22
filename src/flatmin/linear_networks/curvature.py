"""Curvature of many runs: exact at minimisers, exact and signed everywhere, or by Lanczos with a residual.

At a least-squares minimiser the sharpness is `2 lambda_max(Sigma^{1/2} T Sigma^{1/2})` with
`T = sum_l ||P_l||^2 Q_l^T Q_l` [theory, Sec 1]. Away from one the Hessian has a second part, and the largest
|lambda| need not be the largest lambda: all functions here return both ends, with their signs.
"""

import concurrent.futures
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flatmin._core import Integer, UsageError, check_at_least, checked
from flatmin.linear_networks._compiled import compiled
from flatmin.linear_networks._gradients import Moments, Samples, device_data, loss_of, step
from flatmin.linear_networks.data import RegressionData
from flatmin.linear_networks.network import Network, Weights

_ENTRIES_AT_ONCE = 1_000_000
_LANCZOS_BLOCK = 128


class HessianEnds(NamedTuple):
    """Both ends of the spectrum of each run; NaN for runs that are not finite.

    Attributes:
        highest: `lambda_max(H)`, the sharpness, signed; shape (runs,).
        lowest: `lambda_min(H)`, shape (runs,).
        residual: error bounds of both, shape (2, runs): some eigenvalue lies within; 0 for dense decompositions.
    """

    highest: np.ndarray
    lowest: np.ndarray
    residual: np.ndarray


def _run_first(weights: Weights) -> list[np.ndarray]:
    return [np.moveaxis(np.asarray(layer, dtype=np.float64), -1, 0) for layer in weights.layers]


def _linear_layers(network: Network, weights: Weights) -> list[np.ndarray]:
    """The layers, run first; the fixed output vector of the residual form as one more."""
    if network.activation != "identity":
        raise UsageError(
            f"network: the closed form needs a linear network, got activation {network.activation!r}; use hessian_ends"
        )
    layers = _run_first(weights)
    if network.output_vector is not None:
        p = np.asarray(network.output_vector)
        layers.append(np.broadcast_to(p[None, None], (weights.runs, 1, p.shape[0])))
    return layers


def _sides(layers: list[np.ndarray], trained: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`u_l = P_l^T` (runs, d_l) and `Q_l` (runs, d_{l-1}, d) of the trained layers."""
    runs, d = layers[0].shape[0], layers[0].shape[2]
    left = [np.ones((runs, 1))]
    for layer in layers[:0:-1]:
        left.append(np.einsum("ri,rij->rj", left[-1], layer))
    right = [np.broadcast_to(np.eye(d), (runs, d, d))]
    for layer in layers[:-1]:
        right.append(layer @ right[-1])
    return left[::-1][:trained], right[:trained]


@checked()
def minimiser_sharpness(network: Network, data: RegressionData, weights: Weights) -> np.ndarray:
    """`S = 2 lambda_max(Sigma^{1/2} T Sigma^{1/2})`, the sharpness at least-squares minimisers; O(L d^3) a run.

    It is the sharpness only where `X^T r = 0`; the caller knows which runs converged. NaN for runs that are not finite.

    Args:
        network: a linear network.
        data: the regression.
        weights: the points.

    Returns:
        S, shape (runs,).

    Raises:
        UsageError: for a network with an activation.
    """
    left, right = _sides(_linear_layers(network, weights), network.depth)
    T = sum(np.sum(u**2, axis=1)[:, None, None] * (np.swapaxes(Q, 1, 2) @ Q) for u, Q in zip(left, right, strict=True))
    values, vectors = np.linalg.eigh(data.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return _extremes(2 * root.T @ T @ root)[1]


def _extremes(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest eigenvalue of each symmetric matrix; NaN where it is not finite."""
    fine = np.isfinite(matrices).all(axis=(1, 2))
    lowest, highest = np.full((2, len(matrices)), np.nan)
    if fine.any():
        values = np.linalg.eigvalsh(matrices[fine])
        lowest[fine], highest[fine] = values[:, 0], values[:, -1]
    return lowest, highest


@checked()
def hessian_ends(network: Network, data: RegressionData, weights: Weights) -> HessianEnds:
    """Both ends of the full Hessian at any point, dense and in float64.

    For linear networks the Hessian lives on `{u_l a^T} + {b v_l^T}` of each layer (u_l = P_l^T, v_l = Q_l grad_w f): a
    symmetric matrix of size `sum_l (d_l + d_{l-1})`, about d/2 times smaller, has its non-zero spectrum. Networks with
    an activation take the dense autodiff Hessian.

    Args:
        network: the network.
        data: the regression.
        weights: the points.

    Returns:
        The ends; their residual is zero but for rounding.

    Raises:
        UsageError: for a network with an activation, while JAX is limited to 32 bits.
    """
    reduced = sum(a + b for a, b in network.layer_shapes)
    dense = network.activation != "identity" or reduced >= network.num_parameters
    side = network.num_parameters if dense else reduced
    at_once = max(1, _ENTRIES_AT_ONCE // side**2)

    def ends(begin: int) -> tuple[np.ndarray, np.ndarray]:
        piece = jax.tree.map(lambda x: np.asarray(x)[..., begin : begin + at_once], weights)
        return _extremes((dense_hessians if dense else _reduced_hessians)(network, data, piece))

    # LAPACK leaves Python's lock: the pieces run side by side
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        parts = list(pool.map(ends, range(0, weights.runs, at_once)))
    lowest, highest = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    return HessianEnds(highest, lowest, np.where(np.isnan(highest), np.nan, 0) * np.ones((2, 1)))


def _reduced_hessians(network: Network, data: RegressionData, weights: Weights) -> np.ndarray:
    """`K^{1/2} D B D K^{1/2}`: H = Phi^T B Phi with Phi: dW_l -> (dW_l^T u_l, dW_l v_l), Phi Phi^T = D K D."""
    layers = _linear_layers(network, weights)
    trained = network.depth
    left, right = _sides(layers, trained)
    w = np.einsum("ri,rij->rj", left[0], layers[0])
    pull = 2 * (w - data.solution) @ data.covariance
    v = [np.einsum("rij,rj->ri", Q, pull) for Q in right]
    size_a = [Q.shape[1] for Q in right]
    size_b = [u.shape[1] for u in left]
    start_a = np.concatenate([[0], np.cumsum(size_a)])
    start_b = start_a[-1] + np.concatenate([[0], np.cumsum(size_b)])
    runs = w.shape[0]
    B = np.zeros((runs, start_b[-1], start_b[-1]))  # rows: all a, then all b
    Q = np.concatenate(right, axis=1)
    na = start_a[-1]
    B[:, :na, :na] = 2 * (Q @ data.covariance) @ np.swapaxes(Q, 1, 2)
    for k in range(trained - 1):
        product = np.broadcast_to(np.eye(size_b[k]), (runs, size_b[k], size_b[k]))
        for later in range(k + 1, trained):
            # product = W_{later-1} .. W_{k+1}
            a, b = slice(start_a[later], start_a[later + 1]), slice(start_b[k], start_b[k + 1])
            B[:, a, b] = product
            B[:, b, a] = np.swapaxes(product, 1, 2)
            product = layers[later] @ product
    for k in range(trained):
        a, b = np.arange(start_a[k], start_a[k + 1]), np.arange(start_b[k], start_b[k + 1])
        block, root = np.concatenate([a, b]), _gram_root(left[k], v[k])
        B[:, block, :] = np.swapaxes(root, 1, 2) @ B[:, block, :]
        B[:, :, block] = B[:, :, block] @ root
    return (B + np.swapaxes(B, 1, 2)) / 2


def _gram_root(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """R with `R R^T` the Gram matrix of `dW -> (dW^T u, dW v)`: R = D K^{1/2}; u (runs, i), v (runs, j)."""
    norm_u, norm_v = (np.linalg.norm(x, axis=1)[:, None] for x in (u, v))
    u = np.divide(u, norm_u, out=np.zeros_like(u), where=norm_u > 0)
    v = np.divide(v, norm_v, out=np.zeros_like(v), where=norm_v > 0)
    j, half = v.shape[1], np.sqrt(0.5)
    root = np.broadcast_to(np.eye(j + u.shape[1]), (len(u), j + u.shape[1], j + u.shape[1])).copy()
    # the square root of [[1, 1], [1, 1]] on the pair (v, u), the identity elsewhere
    root[:, :j, :j] += (half - 1) * v[:, :, None] * v[:, None]
    root[:, j:, j:] += (half - 1) * u[:, :, None] * u[:, None]
    root[:, :j, j:] = half * v[:, :, None] * u[:, None]
    root[:, j:, :j] = half * u[:, :, None] * v[:, None]
    root[:, :j] *= norm_u[:, :, None]
    root[:, j:] *= norm_v[:, :, None]
    return root


@compiled
def _hessians(network: Network, data: Moments | Samples, weights: Weights) -> Array:
    leaves, tree = jax.tree.flatten(weights)
    shapes = [leaf.shape[:-1] for leaf in leaves]
    flat = jnp.concatenate([leaf.reshape(-1, weights.runs) for leaf in leaves])

    def loss(vector):
        parts, start = [], 0
        for shape in shapes:
            size = int(np.prod(shape))
            parts.append(vector[start : start + size].reshape(*shape, 1))
            start += size
        return loss_of(network, data, jax.tree.unflatten(tree, parts))[0]

    return jax.vmap(jax.hessian(loss), in_axes=1)(flat)


def dense_hessians(network: Network, data: RegressionData, weights: Weights) -> np.ndarray:
    """The full Hessians by autodiff, in float64; shape (runs, p, p).

    Args:
        network: the network.
        data: the regression.
        weights: the points.

    Returns:
        The Hessians, with the weights in the order of the leaves of `Weights`.

    Raises:
        UsageError: while JAX is limited to 32 bits.
    """
    if not jax.config.read("jax_enable_x64"):
        raise UsageError(
            "hessian_ends: a network with an activation needs float64; call jax.config.update('jax_enable_x64', True)"
        )
    weights = jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.float64), weights)
    return np.asarray(_hessians(network, device_data(network, data, jnp.float64), weights))


@checked(matvecs=Integer(2))
def lanczos_ends(
    network: Network, data: RegressionData, weights: Weights, *, key: Key[Array, ""], matvecs: int = 20
) -> HessianEnds:
    """Both ends of the Hessian by Lanczos, all runs at once: for sharpness at many points along training.

    Args:
        network: the network.
        data: the regression.
        weights: the points, in the precision of the computation.
        key: random key of the starting vectors, the same for every call of a run.
        matvecs: Hessian-vector products for each run, from 2.

    Returns:
        The outermost Ritz values with their residuals `||H v - theta v||` in exact arithmetic.

    Raises:
        UsageError: for matvecs < 2.
    """
    check_at_least("matvecs", matvecs, 2)
    dtype = weights.inner.dtype
    basis = jnp.zeros((matvecs, 1), dtype)  # its length is static
    device, runs = device_data(network, data, dtype), weights.runs
    block = min(_LANCZOS_BLOCK, runs)

    def piece(begin: int) -> list[np.ndarray]:
        index = np.minimum(np.arange(begin, begin + block), runs - 1)  # padded: one compilation
        part = jax.tree.map(lambda x: np.ascontiguousarray(np.asarray(x)[..., index]), weights)
        return [np.asarray(x)[..., : runs - begin] for x in _lanczos(network, device, part, key, basis)]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        parts = list(pool.map(piece, range(0, runs, block)))
    return HessianEnds(*(np.concatenate(x, axis=-1) for x in zip(*parts, strict=True)))


@compiled
def _lanczos(network: Network, data: Moments | Samples, weights: Weights, key: Array, basis: Array):
    """Lanczos without reorthogonalisation: ghosts of converged values leave the outermost ones where they are."""
    runs, dtype, count = weights.runs, weights.inner.dtype, basis.shape[0]
    one, bound = jnp.ones(runs, dtype), jnp.asarray(jnp.inf, dtype)

    def gradient(point):
        new = step(network, data, point, one, bound)[1]
        return jax.tree.map(jnp.subtract, point, new)

    _, matvec = jax.linearize(gradient, weights)

    def dot(x, y):
        products = jax.tree.leaves(jax.tree.map(jnp.multiply, x, y))
        return sum((jnp.sum(p.reshape(-1, runs), axis=0) for p in products), jnp.zeros(runs, dtype))

    def scale(x, factor):
        return jax.tree.map(lambda a: a * factor.reshape((1,) * (a.ndim - 1) + (runs,)), x)

    tiny = jnp.finfo(dtype).tiny
    leaves, tree = jax.tree.flatten(weights)
    # one starting vector for all runs, so that a run's result does not depend on its block
    draws = [
        jnp.broadcast_to(jax.random.normal(k, (*x.shape[:-1], 1), dtype), x.shape)
        for k, x in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    start = jax.tree.unflatten(tree, draws)
    v = scale(start, 1 / jnp.sqrt(dot(start, start)))

    def body(carry, _):
        v, previous, beta = carry
        w = jax.tree.map(jnp.subtract, matvec(v), scale(previous, beta))
        alpha = dot(v, w)
        w = jax.tree.map(jnp.subtract, w, scale(v, alpha))
        beta = jnp.sqrt(dot(w, w))
        return (scale(w, 1 / jnp.maximum(beta, tiny)), v, beta), (alpha, beta)

    zero = jax.tree.map(jnp.zeros_like, v)
    _, (alphas, betas) = jax.lax.scan(body, (v, zero, jnp.zeros(runs, dtype)), None, length=count)
    high, high_residual = _tridiagonal_top(alphas, betas)
    low, low_residual = _tridiagonal_top(jnp.negative(alphas), betas)
    return high, -low, jnp.stack([high_residual, low_residual])


def _tridiagonal_top(alphas: Float[Array, "m R"], betas: Float[Array, "m R"]) -> tuple[Array, Array]:
    """Largest eigenvalue of each tridiagonal matrix by bisection on its pivots, and `beta_m |s_m|`."""
    count = alphas.shape[0]
    eps, largest = jnp.finfo(alphas.dtype).eps, jnp.finfo(alphas.dtype).max ** 0.25
    inner = jnp.concatenate([jnp.zeros_like(betas[:1]), betas[:-1]])
    outer = jnp.concatenate([betas[:-1], jnp.zeros_like(betas[:1])])
    upper = jnp.max(alphas + inner + outer, axis=0)
    lower = jnp.max(alphas, axis=0)
    floor = eps * jnp.maximum(jnp.max(jnp.abs(alphas) + inner + outer, axis=0), jnp.finfo(alphas.dtype).tiny)

    squares = inner**2
    unroll = count if count <= 24 else 8

    def above(theta):
        """Whether an eigenvalue lies above theta: whether any pivot is positive."""

        def pivot(carry, row):
            q, found = carry
            alpha, square = row
            q = alpha - theta - square / jnp.where(jnp.abs(q) < floor, -floor, q)
            return (q, found | (q > 0)), None

        first = (jnp.ones_like(theta), jnp.zeros(theta.shape, bool))
        return jax.lax.scan(pivot, first, (alphas, squares), unroll=unroll)[0][1]

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        upward = above(middle)
        return jnp.where(upward, middle, low), jnp.where(upward, high, middle)

    low, high = jax.lax.fori_loop(0, 60 if alphas.dtype == jnp.float64 else 30, halve, (lower, upper))
    theta = (low + high) / 2

    # eigenvector from s_m = 1 up, the way it grows: s_i = -p_{i+1} / beta_i s_{i+1}, p the pivots from below
    def grow(carry, row):
        pivot, s, total = carry
        alpha, beta = row
        s = jnp.minimum(jnp.abs(pivot) / jnp.maximum(beta, floor) * s, largest)
        pivot = alpha - theta - beta**2 / jnp.where(jnp.abs(pivot) < floor, -floor, pivot)
        return (pivot, s, total + s**2), None

    first = (alphas[-1] - theta, jnp.ones_like(theta), jnp.ones_like(theta))
    (_, _, total), _ = jax.lax.scan(grow, first, (alphas[:-1], betas[:-1]), reverse=True, unroll=min(unroll, count - 1))
    return theta, betas[-1] / jnp.sqrt(total) + 4 * floor
