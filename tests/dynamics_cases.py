"""A small objective with its gradient typed plainly in numpy, shared by the tests of dynamics."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from flatmin._core import AbstractObjective


def traced(kind):
    """Count a trace; on the function itself, which is no part of what an objective computes."""
    traced.counts[kind] += 1


TRACES = traced.counts = {"batch": 0, "full": 0}


class Product(AbstractObjective):
    """`f(u, v) = (1/n) sum_i (<a_i, u * v> - b_i)^2`."""

    A: jax.Array
    b: jax.Array

    @property
    def num_samples(self):
        return self.A.shape[-2]

    def loss(self, params):
        traced("full")
        return jnp.mean((self.A @ (params["u"] * params["v"]) - self.b) ** 2)

    def batch_loss(self, params, indices, label_shift):
        traced("batch")
        targets = self.b[indices] if label_shift is None else self.b[indices] + label_shift
        return jnp.mean((self.A[indices] @ (params["u"] * params["v"]) - targets) ** 2)


def product(seed=0, n=20, d=4, dtype=np.float64):
    rng = np.random.default_rng(seed)
    A, x = rng.normal(size=(n, d)), rng.normal(size=d)
    objective = Product(jnp.asarray(A, dtype), jnp.asarray(A @ x + 0.1 * rng.normal(size=n), dtype))
    params = {"u": jnp.asarray(rng.normal(size=d), dtype), "v": jnp.asarray(rng.normal(size=d), dtype)}
    return objective, params


def numpy_loss_and_gradient(objective, u, v, indices, shift):
    A, b = np.asarray(objective.A), np.asarray(objective.b)
    if indices is not None:
        A, b = A[indices], b[indices] + shift
    r = A @ (u * v) - b
    g = 2 / len(b) * A.T @ r
    return np.mean(r**2), g * v, g * u


def numpy_run(objective, params, steps, draws, rate, noise=None, momentum=0.0, decay=0.0):
    """The rule written out; `draws(k)` gives (indices, normals). Returns params and first bad step or -1."""
    u, v = np.array(params["u"]), np.array(params["v"])
    mu, mv = np.zeros_like(u), np.zeros_like(v)
    for k in range(steps):
        indices, normals = draws(k)
        shift = noise(k) * normals if noise else 0.0
        loss, gu, gv = numpy_loss_and_gradient(objective, u, v, indices, shift)
        if not np.isfinite(loss):
            return {"u": u, "v": v}, k + 1
        mu, mv = momentum * mu + gu + decay * u, momentum * mv + gv + decay * v
        new_u, new_v = u - rate(k) * mu, v - rate(k) * mv
        if not (np.isfinite(new_u).all() and np.isfinite(new_v).all()):
            return {"u": u, "v": v}, k + 1
        u, v = new_u, new_v
    return {"u": u, "v": v}, -1


def draws_of(key, batch_size, n):
    """The documented stream: fold_in, split, indices from one half and normals from the other."""

    def at(k):
        batch_key, noise_key = jax.random.split(jax.random.fold_in(key, k))
        indices = jax.random.randint(batch_key, (batch_size,), 0, n, dtype=jnp.int32)
        return np.asarray(indices), np.asarray(jax.random.normal(noise_key, (batch_size,), jnp.float64))

    return at


def same_bits(a, b):
    a, b = jax.tree.leaves(eqx.filter(a, eqx.is_array)), jax.tree.leaves(eqx.filter(b, eqx.is_array))
    return len(a) == len(b) and all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True)
    )
