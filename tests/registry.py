"""One factory per class; the laws in the test files run over the whole product.

Every measurement factory returns the operator and the dense tensor of its `A_i`, built apart from it in NumPy. All
data are float32 numbers, so that an operator in either precision has exactly the same tensor.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flatmin.measurements as fm
from flatmin.parameterizations import AbstractParameterization, DeepMatrix, Hadamard, Quadratic

Built = tuple[fm.AbstractMeasurements, np.ndarray]

ROWS = np.array([0, 2, 1, 2, 0, 1])
COLS = np.array([1, 0, 2, 3, 0, 0])
SQUARE_COLS = np.array([1, 0, 2, 2, 0, 0])


def numbers(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32 numbers, as float64."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(np.float64)


def _tensor(shape) -> np.ndarray:
    return numbers(1, 6, *shape)


def _entry_tensor(rows, cols, shape) -> np.ndarray:
    tensor = np.zeros((len(rows), *shape))
    tensor[np.arange(len(rows)), rows, cols] = 1
    return tensor


def dense_user(dtype, shape) -> Built:
    return fm.dense(jnp.asarray(_tensor(shape), dtype)), _tensor(shape)


def dense_gaussian(dtype, shape) -> Built:
    op = fm.gaussian(jax.random.key(2), 6, shape, jnp.float32)
    tensor = np.asarray(op.tensor, np.float64)
    return fm.dense(jnp.asarray(tensor, dtype)), tensor


def dense_bernoulli(dtype, shape) -> Built:
    op = fm.bernoulli(jax.random.key(3), 6, shape, dtype)
    return op, np.asarray(op.tensor, np.float64)


def entries(dtype, shape) -> Built:
    cols = COLS if shape[1] > 3 else SQUARE_COLS
    return fm.entries(jnp.asarray(ROWS), jnp.asarray(cols), shape), _entry_tensor(ROWS, cols, shape)


def rank_one(dtype, shape) -> Built:
    a, b = numbers(4, 6, shape[0]), numbers(5, 6, shape[1])
    return fm.rank_one(jnp.asarray(a, dtype), jnp.asarray(b, dtype)), np.einsum("ia,ib->iab", a, b)


def symmetric_rank_one(dtype, shape) -> Built:
    x = numbers(6, 6, shape[0])
    return fm.symmetric_rank_one(jnp.asarray(x, dtype)), np.einsum("ia,ib->iab", x, x)


def low_rank(dtype, shape) -> Built:
    a, b = numbers(7, 6, 2, shape[0]), numbers(8, 6, 2, shape[1])
    op = fm.LowRankMeasurements(jnp.asarray(a, dtype), jnp.asarray(b, dtype))
    return op, np.einsum("ija,ijb->iab", a, b)


def regression(dtype, shape) -> Built:
    q, d = shape
    x = numbers(9, 6 // q, d)
    tensor = np.zeros((6, q, d))
    for i in range(6 // q):
        for k in range(q):
            tensor[i * q + k, k] = x[i]
    return fm.regression(jnp.asarray(x, dtype), q), tensor


def identity(dtype, shape) -> Built:
    size = shape[0] * shape[1]
    return fm.identity(shape), np.eye(size).reshape(size, *shape)


def function(dtype, shape) -> Built:
    tensor = numbers(10, 6, *shape)
    return fm.from_function(lambda X: jnp.einsum("iab,ab->i", jnp.asarray(tensor, X.dtype), X), shape), tensor


def _scaled(inner: Callable[..., Built], by_weights: bool = False) -> Callable[..., Built]:
    def build(dtype, shape) -> Built:
        op, tensor = inner(dtype, shape)
        weights = numbers(11, 6)
        if by_weights:
            return fm.scaled(op, jnp.asarray(weights)), tensor * weights[:, None, None]
        return fm.scaled(op, -0.75), tensor * -0.75

    return build


def _stacked(*inner: Callable[..., Built]) -> Callable[..., Built]:
    def build(dtype, shape) -> Built:
        ops, tensors = zip(*(f(dtype, shape) for f in inner), strict=True)
        return fm.stacked(*ops), np.concatenate(tensors)

    return build


def _symmetrised(inner: Callable[..., Built]) -> Callable[..., Built]:
    def build(dtype, shape) -> Built:
        op, tensor = inner(dtype, shape)
        return fm.symmetrised(op), (tensor + tensor.transpose(0, 2, 1)) / 2

    return build


def _selected(inner: Callable[..., Built]) -> Callable[..., Built]:
    def build(dtype, shape) -> Built:
        op, tensor = inner(dtype, shape)
        chosen = np.array([4, 0, 4, 2])
        return fm.SelectedMeasurements(op, jnp.asarray(chosen)), tensor[chosen]

    return build


def _with_moments(inner: Callable[..., Built]) -> Callable[..., Built]:
    def build(dtype, shape) -> Built:
        op, tensor = inner(dtype, shape)
        return fm.with_moments(op), tensor

    return build


ANY_SHAPE: dict[str, Callable[..., Built]] = {
    "dense": dense_user,
    "gaussian": dense_gaussian,
    "bernoulli": dense_bernoulli,
    "entries": entries,
    "rank_one": rank_one,
    "low_rank": low_rank,
    "regression": regression,
    "identity": identity,
    "function": function,
    "scaled_dense": _scaled(dense_user),
    "scaled_entries": _scaled(entries),
    "weighted_dense": _scaled(dense_user, by_weights=True),
    "weighted_low_rank": _scaled(low_rank, by_weights=True),
    "stacked": _stacked(entries, low_rank),
    "selected": _selected(low_rank),
    "with_moments": _with_moments(dense_user),
}

SQUARE_ONLY: dict[str, Callable[..., Built]] = {
    "symmetric_rank_one": symmetric_rank_one,
    "symmetrised_dense": _symmetrised(dense_user),
    "symmetrised_entries": _symmetrised(entries),
    "symmetrised_low_rank": _symmetrised(low_rank),
    "symmetrised_regression": _symmetrised(regression),
    "symmetrised_identity": _symmetrised(identity),
    "symmetrised_function": _symmetrised(function),
    "symmetrised_scaled": _symmetrised(_scaled(dense_user)),
    "symmetrised_stacked": _symmetrised(_stacked(entries, low_rank)),
    "symmetrised_selected": _symmetrised(_selected(dense_user)),
    "symmetrised_with_moments": _symmetrised(_with_moments(dense_user)),
    "symmetrised_twice": _symmetrised(_symmetrised(dense_user)),
}

WIDE, SQUARE, ONE_ROW = (3, 4), (3, 3), (1, 4)

MEASUREMENTS: dict[str, tuple[Callable[..., Built], tuple[int, int]]] = {
    **{f"{name}-3x4": (factory, WIDE) for name, factory in ANY_SHAPE.items()},
    **{f"{name}-3x3": (factory, SQUARE) for name, factory in SQUARE_ONLY.items()},
    "regression-1x4": (regression, ONE_ROW),
    "regression-4x3": (lambda dtype, shape: fewer_samples(dtype), (4, 3)),
}


def fewer_samples(dtype) -> Built:
    """Four outputs of one sample: m < d1 d2, tall."""
    x = numbers(12, 1, 3)
    return fm.regression(jnp.asarray(x, dtype), 4), np.einsum("kl,d->kld", np.eye(4), x[0])


def measurements(name: str, dtype=jnp.float64) -> Built:
    """The registered operator and its tensor."""
    factory, shape = MEASUREMENTS[name]
    return factory(dtype, shape)


PARAMETERIZATIONS: dict[str, Callable[[tuple[int, int]], AbstractParameterization]] = {
    "deep1": lambda shape: DeepMatrix((shape[1], shape[0])),
    "deep2": lambda shape: DeepMatrix((shape[1], 4, shape[0])),
    "deep3": lambda shape: DeepMatrix((shape[1], 4, 3, shape[0])),
    "hadamard1": lambda shape: Hadamard(shape, 1),
    "hadamard3": lambda shape: Hadamard(shape, 3),
    "quadratic": lambda shape: Quadratic(shape[0], 2, 1),
    "quadratic_positive": lambda shape: Quadratic(shape[0], 2),
    "quadratic_negative": lambda shape: Quadratic(shape[0], 0, 2),
}


def parameters(parameterization: AbstractParameterization, seed: int, dtype=jnp.float64):
    """Random parameters of order one."""
    match parameterization:
        case DeepMatrix():
            shapes = parameterization.layer_shapes
        case Hadamard():
            shapes = (parameterization.shape,) * parameterization.depth
        case Quadratic():
            shapes = tuple(
                (parameterization.dimension, k) for k in (parameterization.positive, parameterization.negative)
            )
        case _:
            raise TypeError(parameterization)
    return tuple(jnp.asarray(numbers(100 + 10 * seed + i, *s), dtype) for i, s in enumerate(shapes))


def tangible(tree):
    """The arrays of a pytree, as NumPy."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
