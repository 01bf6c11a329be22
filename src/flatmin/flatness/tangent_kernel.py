"""The tangent kernel `K = J J^T` of the predictions; `(2/m) K` carries the non-zero spectrum where `A*(r) = 0`."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from flatmin._core import Estimate, checked, shown_tuple
from flatmin.flatness.deep_products import Scaled, add, normalise, shift, sum_layers
from flatmin.linalg import extreme_eigenvector, safe_norm
from flatmin.measurements import kernel_form, moment_matrix
from flatmin.parameterizations import DeepMatrix, Sum, check_params
from flatmin.problems import RecoveryProblem


@shown_tuple
class Stationarity(NamedTuple):
    """How far the residual part of the Hessian is from zero.

    Attributes:
        pull: `||A*(r)||_F`.
        scale: `||A*(A(X))||_F + ||A*(b)||_F`, what it is measured against.
    """

    pull: Float[Array, ""]
    scale: Float[Array, ""]


@eqx.filter_jit
def stationarity(problem: RecoveryProblem, params: PyTree) -> Stationarity:
    """The gradient with respect to the matrix, which multiplies every second derivative of `X(params)`.

    Args:
        problem: the recovery problem.
        params: the point.

    Returns:
        Its norm and scale; zero at interpolation and at least-squares minimisers.
    """
    op = problem.measurements
    predictions = problem.predict(params)
    pull = safe_norm(op.adjoint(predictions - problem.targets))
    return Stationarity(pull, safe_norm(op.adjoint(predictions)) + safe_norm(op.adjoint(problem.targets)))


def residual_part_vanishes(problem: RecoveryProblem, params: PyTree) -> bool:
    """Whether `A*(r)` is zero to working precision, so that `H = (2/m) J^T J`."""
    pull, scale = stationarity(problem, params)
    return bool(pull <= float(jnp.finfo(pull.dtype).eps) ** 0.6 * scale)


@eqx.filter_jit
def kernel_matvec(problem: RecoveryProblem, params: PyTree, vector: Float[Array, " m"]) -> Float[Array, " m"]:
    """`(2/m) K v`, without K: one reverse and one forward sweep through `A(X(params))`."""
    pullback = jax.vjp(problem.predict, params)[1](vector)
    return (2 / problem.num_samples) * jax.jvp(problem.predict, (params,), pullback)[1]


@eqx.filter_jit
def kernel_to_params(problem: RecoveryProblem, params: PyTree, vector: Float[Array, " m"]) -> PyTree:
    """`J^T v`: the direction in parameter space of a kernel vector."""
    return jax.vjp(problem.predict, params)[1](vector)[0]


@checked()
@eqx.filter_jit
def tangent_kernel(problem: RecoveryProblem, params: PyTree) -> Float[Array, "m m"]:
    """`K_ij = sum_l <P_l^T A_i Q_l^T, P_l^T A_j Q_l^T>`, the m x m kernel.

    Args:
        problem: the recovery problem.
        params: the point.

    Returns:
        The kernel; for the deep matrix from the Gram forms of the measurements, for a sum the kernels of its parts
        added, else from the dense Jacobian (memory m p).
    """
    params = check_params(problem.parameterization, params)
    return shift(*_scaled_kernel(problem, params))


def _scaled_kernel(problem: RecoveryProblem, params: PyTree) -> Scaled:
    """`(K', e)` with `K = 2^e K'` and entries of K' of order one: nothing leaves the range on the way."""
    parameterization = problem.parameterization
    if isinstance(parameterization, Sum):
        parts = zip(parameterization.parts, params, strict=True)
        kernels = [_scaled_kernel(eqx.tree_at(lambda q: q.parameterization, problem, part), p) for part, p in parts]
        return functools.reduce(add, kernels)
    if isinstance(parameterization, DeepMatrix):
        return _deep_kernel(problem, params)
    jacobian, size = normalise(_dense_jacobian(problem, params))
    return jnp.matmul(jacobian, jacobian.T, precision=jax.lax.Precision.HIGHEST), 2 * size


def _deep_kernel(problem: RecoveryProblem, params: tuple[Array, ...]) -> Scaled:
    op = problem.measurements
    signs = jnp.where(jnp.arange(op.num_measurements) % 2 == 0, 1, -1).astype(params[0].dtype)
    size = normalise(op.adjoint(signs))[1]  # of the A_i, up to a small factor

    def kernel(S: Array | None, T: Array | None) -> Array:
        left = jnp.eye(op.matrix_shape[0], dtype=params[0].dtype) if S is None else S
        return kernel_form(op, shift(left, -2 * size), T).astype(params[0].dtype)

    total, exponent = sum_layers(kernel, params)
    return total, exponent + 2 * size


def _dense_jacobian(problem: RecoveryProblem, params: PyTree) -> Float[Array, "m p"]:
    leaves = jax.tree.leaves(jax.jacrev(problem.predict)(params))
    return jnp.concatenate([leaf.reshape(problem.num_samples, -1) for leaf in leaves], axis=1)


@checked()
@eqx.filter_jit
def gauss_newton_spectrum(problem: RecoveryProblem, params: PyTree) -> Float[Array, " k"]:
    """Eigenvalues of `(2/m) K` on its smallest side, ascending; everything else in the spectrum is zero.

    For the deep matrix with `m > d1 d2` the side is `C^{1/2} (sum_l S_l (x) T_l) C^{1/2}` with `C = A* A`; for
    univariate regression that is `2 Sigma^{1/2} T Sigma^{1/2}`, d x d [M, Sec 3].

    Args:
        problem: the recovery problem.
        params: the point.

    Returns:
        k = min(m, d1 d2) eigenvalues for the deep matrix, else min(m, p).
    """
    params = check_params(problem.parameterization, params)
    m = problem.num_samples
    d1, d2 = problem.measurements.matrix_shape
    exponent = jnp.zeros((), jnp.int32)
    if isinstance(problem.parameterization, DeepMatrix) and m > d1 * d2:
        eye = (jnp.eye(d1, dtype=params[0].dtype), jnp.eye(d2, dtype=params[0].dtype))
        outer, exponent = sum_layers(
            lambda S, T: jnp.kron(eye[0] if S is None else S, eye[1] if T is None else T), params
        )
        values, vectors = jnp.linalg.eigh(moment_matrix(problem.measurements))
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]
        small = root.T @ outer @ root
    elif isinstance(problem.parameterization, DeepMatrix) or m <= sum(x.size for x in jax.tree.leaves(params)):
        small, exponent = _scaled_kernel(problem, params)
    else:
        jacobian, size = normalise(_dense_jacobian(problem, params))
        exponent = 2 * size
        small = jnp.matmul(jacobian.T, jacobian, precision=jax.lax.Precision.HIGHEST)
    small, extra = normalise((small + small.T) / 2)  # the eigensolver loses digits near the ends of the range
    return shift((2 / m) * jnp.linalg.eigvalsh(small), exponent + extra)


def kernel_direction(problem: RecoveryProblem, params: PyTree, dtype: jnp.dtype, key: Array) -> tuple[Array, int]:
    """The parameter direction `J^T u` of the top eigenvector u of K, by Lanczos.

    Args:
        problem: the recovery problem.
        params: the point.
        dtype: type of the direction.
        key: random key of the starting vector.

    Returns:
        The direction and the products spent; where J = 0 every direction is an eigenvector of the zero Hessian.
    """
    u, matvecs = extreme_eigenvector(lambda v: kernel_matvec(problem, params, v), problem.num_samples, dtype, key=key)
    direction = ravel_pytree(kernel_to_params(problem, params, u.astype(dtype)))[0]
    return jnp.where(jnp.max(jnp.abs(direction)) > 0, direction, jnp.ones_like(direction)), matvecs


def stationary_spectrum(problem: RecoveryProblem, params: PyTree) -> Estimate:
    """`gauss_newton_spectrum` with the first-order bound of its rounding, `10 k eps max |lambda|`, for each value."""
    values = gauss_newton_spectrum(problem, params)
    error = 10 * values.shape[0] * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    return Estimate(values, jnp.full_like(values, error), "rounding", "tangent kernel")
