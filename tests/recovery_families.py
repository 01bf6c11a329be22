"""Every family of convex programmes, with the same programme typed plainly for CVXPY and Clarabel."""

from collections.abc import Callable
from typing import NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

from flatmin import measurements as ms
from flatmin import problems as pb
from flatmin import solvers as sv


def _root(moment):
    values, vectors = np.linalg.eigh(moment)
    return (vectors * np.sqrt(values)) @ vectors.T


def _value(objective, constraints=()):
    return cp.Problem(cp.Minimize(objective), list(constraints)).solve(solver=cp.CLARABEL)


class Instance(NamedTuple):
    """A small programme and its plain twin."""

    program: sv.AbstractProgram
    oracle: Callable[[], float]


def _seen(X, tensor):
    return tensor.reshape(len(tensor), -1) @ cp.vec(X, order="C")


def _general(op, b, rng, kind):
    tensor, b = np.asarray(ms.materialise(op)), np.asarray(b)
    flat = kind.startswith("flat")
    if flat:
        left = _root(np.einsum("iab,icb->ac", tensor, tensor) / len(b))
        right = _root(np.einsum("iab,iac->bc", tensor, tensor) / len(b))
        # Clarabel needs the plain variable: it fails on a weighted norm
        tensor = np.linalg.inv(left) @ tensor @ np.linalg.inv(right)
    X = cp.Variable(tensor.shape[1:])
    norm = cp.normNuc(X)
    make = sv.MinScaledNuclearNorm if flat else sv.MinNuclearNorm
    miss = _seen(X, tensor) - b
    if kind.endswith("square"):
        penalty = rng.uniform(0.1, 1)
        return Instance(
            make(op, b, sv.SquaredLoss(penalty)), lambda: _value(norm + cp.sum_squares(miss) / (2 * penalty))
        )
    if kind.endswith("l1 ball"):
        radius = 0.3 * np.abs(b).sum()
        return Instance(make(op, b, sv.L1Ball(radius)), lambda: _value(norm, [cp.norm1(miss) <= radius]))
    if kind.endswith("l1"):
        weight = rng.uniform(0.1, 0.3)
        return Instance(make(op, b, sv.L1Loss(weight)), lambda: _value(norm + weight * cp.norm1(miss)))
    if kind.endswith("ball"):
        radius = 0.3 * np.linalg.norm(b)
        return Instance(make(op, b, sv.L2Ball(radius)), lambda: _value(norm, [cp.norm(miss) <= radius]))
    return Instance(make(op, b), lambda: _value(norm, [miss == 0]))


def sensing(rng, kind):
    op = ms.dense(jnp.asarray(rng.normal(size=(18, 5, 6))))
    return _general(op, rng.normal(size=18), rng, kind)


def bilinear(rng, kind):
    op = ms.rank_one(jnp.asarray(rng.normal(size=(16, 6, 1)))[:, :, 0], jnp.asarray(rng.normal(size=(16, 5))))
    return _general(op, rng.normal(size=16), rng, kind)


def completion(rng, kind):
    # one entry of each row and column, and others up to a fixed number
    order = np.concatenate([np.arange(6) * 6 + np.arange(6), rng.permutation(36)])
    places = np.sort(list(dict.fromkeys(order.tolist()))[:20])
    op = ms.entries(jnp.asarray(places // 6), jnp.asarray(places % 6), (6, 6))
    return _general(op, rng.normal(size=20), rng, kind)


def quadratic(rng, kind):
    d, m = 5, 11
    x, U = rng.normal(size=(m, d)), rng.normal(size=(d, 3))
    positive = "trace" in kind
    truth = (U * ([1, 1, 1] if positive else [1, 1, -1])) @ U.T
    b = np.einsum("ia,ab,ib->i", x, truth, x)
    moment = np.einsum("ia,i,ib->ab", x, np.sum(x**2, 1), x) / m
    inverse = np.linalg.inv(_root(moment)) if "flat" in kind else np.eye(d)
    tensor = np.einsum("ia,ib->iab", x @ inverse, x @ inverse)
    X = cp.Variable((d, d), PSD=True) if positive else cp.Variable((d, d), symmetric=True)
    miss = _seen(X, tensor) - b
    norm = cp.trace(X) if positive else cp.normNuc(X)
    make = sv.MinTrace if positive else sv.MinSymmetricNuclearNorm
    op, scaled = ms.symmetric_rank_one(jnp.asarray(x)), "flat" in kind
    if kind.endswith("l1"):
        return Instance(make(op, b, sv.L1Loss(0.2), scaled=scaled), lambda: _value(norm + 0.2 * cp.norm1(miss)))
    if kind.endswith("square"):
        return Instance(make(op, b, sv.SquaredLoss(0.5), scaled=scaled), lambda: _value(norm + cp.sum_squares(miss)))
    return Instance(make(op, b, scaled=scaled), lambda: _value(norm, [miss == 0]))


def robust(rng, kind):
    Y = rng.normal(size=(7, 1)) @ rng.normal(size=(1, 6)) + 0.02 * rng.normal(size=(7, 6))
    Y[rng.random((7, 6)) < 0.15] += 3
    X = cp.Variable((7, 6))
    mask = np.ones((7, 6), bool)
    if "masked" in kind:
        mask.flat[rng.permutation(42)[:8]] = False
    charge = cp.sum(cp.abs(cp.multiply(mask.astype(float), X - Y)))
    seen = mask if "masked" in kind else None
    if "radius" in kind:
        radius = 0.4 * np.abs(Y[mask]).sum()
        return Instance(sv.RobustPCA(Y, radius=radius, mask=seen), lambda: _value(cp.normNuc(X), [charge <= radius]))
    penalty = rng.uniform(0.3, 0.6)
    return Instance(sv.RobustPCA(Y, penalty=penalty, mask=seen), lambda: _value(cp.normNuc(X) + penalty * charge))


def sparse(rng, kind):
    depth = int(kind.split()[1])
    A, b = rng.normal(size=(9, 20)), rng.normal(size=9)
    weights, p = np.mean(A**2, 0), 2 - 2 / depth
    x = cp.Variable(20)
    op = ms.dense(jnp.asarray(A)[:, :, None])
    if kind.endswith("l1"):
        program = sv.MinWeightedLp(op, b, sv.L1Loss(0.3), depth=depth)
        return Instance(program, lambda: _value(weights @ cp.abs(x) + 0.3 * cp.norm1(A @ x - b)))
    if kind.endswith("l1 ball"):
        radius = 0.3 * np.abs(b).sum()
        program = sv.MinWeightedLp(op, b, sv.L1Ball(radius), depth=depth)
        return Instance(program, lambda: _value(weights @ cp.abs(x), [cp.norm1(A @ x - b) <= radius]))
    if kind.endswith("square"):
        penalty = rng.uniform(0.1, 1)
        norm = cp.pnorm(cp.multiply(weights ** (1 / p), x), p, approx=False)
        program = sv.MinWeightedLp(op, b, sv.SquaredLoss(penalty), depth=depth)
        return Instance(program, lambda: _value(norm + cp.sum_squares(A @ x - b) / (2 * penalty)))
    size = cp.sum(cp.multiply(weights, cp.power(cp.abs(x), p)))
    if kind.endswith("ball"):
        radius = 0.3 * np.linalg.norm(b)
        program = sv.MinWeightedLp(op, b, sv.L2Ball(radius), depth=depth)
        return Instance(program, lambda: _value(size, [cp.norm(A @ x - b) <= radius]) ** (1 / p))
    return Instance(sv.MinWeightedLp(op, b, depth=depth), lambda: _value(size, [A @ x == b]) ** (1 / p))


FAMILIES = {
    f"{family.__name__} {kind}": (family, kind)
    for family, kinds in {
        sensing: ("nuclear", "flat", "nuclear square", "flat square", "nuclear ball", "nuclear l1", "flat l1 ball"),
        bilinear: ("nuclear", "flat", "flat ball"),
        completion: ("nuclear", "flat", "nuclear square", "flat ball"),
        quadratic: ("nuclear", "flat", "trace", "flat trace", "trace square", "flat l1", "trace l1"),
        robust: ("penalty", "radius", "masked penalty"),
        sparse: ("depth 2", "depth 3", "depth 6", "depth 3 square", "depth 5 ball", "depth 2 l1", "depth 2 l1 ball"),
    }.items()
    for kind in kinds
}


def instance(name: str, seed: int) -> Instance:
    """The instance of a family with a seed."""
    family, kind = FAMILIES[name]
    return family(np.random.default_rng(seed), kind)


class Planted(NamedTuple):
    """A preset well above its threshold, and the programme that should return its truth."""

    draw: Callable[[jax.Array], pb.PlantedProblem]
    program: Callable[[pb.PlantedProblem], sv.AbstractProgram]


def _flat(planted):
    problem = planted.problem
    return sv.flat_program(problem.parameterization, problem.measurements, problem.targets)


def _nuclear(planted):
    return sv.MinNuclearNorm(planted.problem.measurements, planted.problem.targets)


def _robust(planted):
    return sv.RobustPCA(planted.truth + planted.outliers, radius=jnp.abs(planted.outliers).sum())


PLANTED = {
    "sensing": Planted(lambda key: pb.matrix_sensing(key, (16, 14), 2, 224), _nuclear),
    "sensing flat": Planted(lambda key: pb.matrix_sensing(key, (16, 14), 2, 224), _flat),
    "bilinear flat": Planted(lambda key: pb.bilinear_sensing(key, (16, 14), 2, 224), _flat),
    "completion": Planted(lambda key: pb.matrix_completion(key, (36, 34), 2, 0.7), _nuclear),
    "non-uniform completion flat": Planted(
        lambda key: pb.matrix_completion(
            key, (36, 34), 2, 0.75, row_weights=pb.power_law(36, 0.3), col_weights=pb.power_law(34, 0.3)
        ),
        _flat,
    ),
    "robust PCA": Planted(lambda key: pb.robust_pca(key, (50, 45), 2, 0.05), _robust),
    "covariance flat": Planted(lambda key: pb.covariance_estimation(key, 14, 2, 100), _flat),
    "phase retrieval flat": Planted(lambda key: pb.phase_retrieval(key, 14, 80), _flat),
    "quadratic network flat": Planted(lambda key: pb.quadratic_network(key, 14, 105, positive=2, negative=1), _flat),
    "sparse": Planted(lambda key: pb.sparse_recovery(key, 60, 3, 40), _flat),
}
