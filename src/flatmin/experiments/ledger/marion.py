"""[M]: the sharpness of deep linear regression with one output, its minimisers, and where gradient flow ends."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger import _deep, _draw
from flatmin.experiments.ledger._entry import EPS, Batch, entry, family
from flatmin.experiments.ledger._theory import over
from flatmin.theory import marion2024 as theory

DATA = ("isotropic", "ill", "deficient")


def _inputs(rng: Generator, count: int, n: int, d: int, kind: str) -> np.ndarray:
    X = rng.normal(size=(count, n, d))
    if kind == "ill":
        X = X * np.geomspace(1, 1e-3, d)
    if kind == "deficient":
        X = X[:, :, :2] @ rng.normal(size=(count, 2, d))
    return X


def minimiser(rng: Generator, w: np.ndarray, widths: Sequence[int], spread: float) -> list[np.ndarray]:
    """Factors with the end-to-end vector w: random ones, their last layer corrected so that the product is w."""
    count = len(w)
    W = _draw.layers(rng, count, widths)
    W = [factor * np.exp(spread * rng.normal(size=(count, 1, 1))) for factor in W]
    # w^T = W_L Q: take W_L = w^T Q^+, with Q = W_(L-1) .. W_1 of full column rank
    Q = _deep.end_to_end(W[:-1])
    W[-1] = w[:, None] @ np.linalg.pinv(Q)
    return W


def sharpness_of(X: np.ndarray, W: Sequence[np.ndarray]) -> np.ndarray:
    """`(2/n) lambda_max(J J^T)`, J the gradients of the predictions: the sharpness at a least-squares minimiser."""
    n = X.shape[1]
    J = _deep.jacobian(X[:, :, None, :], W)
    return 2 / n * np.linalg.eigvalsh(J @ J.transpose(0, 2, 1))[:, -1]


def _problem(
    rng: Generator, count: int, n: int, d: int, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, `w*`, `a`, `||w*||` by the library's `regression_constants`."""
    if kind == "eigenvector":  # Σ = diag(1, 1/2, ..), w* along a direction of eigenvalue 1/2: then a = Λ/2
        X = np.sqrt(n) * _draw.orthonormal(rng, count, n, d) * np.sqrt(np.where(np.arange(d) == 0, 1.0, 0.5))
        y = rng.uniform(0.3, 3.0, size=(count, 1)) * X[:, :, 1]
    else:
        X = _inputs(rng, count, n, d, kind)
        y = np.einsum("knd,kd->kn", X, rng.normal(size=(count, d))) + 0.3 * rng.normal(size=(count, n))
    found = over(theory.regression_constants, X, y)
    return X, np.asarray(found.minimiser), np.asarray(found.a), np.asarray(found.w_norm)


def _families(count: int, spread: tuple[float, ...] = (0.0, 1.0)):
    for widths, quick in (((4, 5, 1), None), ((3, 4, 6, 3, 1), None), ((3, *(3,) * 9, 1), 0)):
        for kind in DATA:
            for s in spread:
                balance = "layers of like size" if s == 0 else "layers of very different sizes"
                yield family(
                    f"depth {len(widths) - 1}, {kind} data, {balance}",
                    count,
                    quick=quick if kind != "ill" else 0,
                    widths=widths,
                    kind=kind,
                    spread=s,
                )


@entry(
    "marion-theorem-1",
    source="[M, Thm 1]",
    statement="Every minimiser has the sharpness S ≥ 2 L a ‖w*‖^(2−2/L), a = w*ᵀ Σ w*/‖w*‖².",
    assumptions="one output; any depth and widths; w* the least-squares solution of least norm",
    kind="lower",
    tight=True,
    functions=("sharpness_lower_bound",),
    families=(
        *_families(120),
        family("depth 4, Σ = I, balanced of rank one", 120, widths=(4, 4, 4, 4, 1), kind="whitened", spread=0.0),
        family("depth 4, a = Λ/2, balanced of rank one", 120, widths=(4, 4, 4, 4, 1), kind="eigenvector", spread=0.0),
    ),
)
def theorem_1(rng: Generator, count: int, *, widths: Sequence[int], kind: str, spread: float) -> Batch:
    """The sharpness of minimisers against its lower bound."""
    depth, d = len(widths) - 1, widths[0]
    if kind == "whitened":
        X = np.sqrt(12) * _draw.orthonormal(rng, count, 12, d)
        w = rng.normal(size=(count, d))
        a, size = np.ones(count), np.linalg.norm(w, axis=1)
        W = balanced(rng, w, depth)
    else:
        X, w, a, size = _problem(rng, count, 12, d, kind)
        W = balanced(rng, w, depth) if kind == "eigenvector" else minimiser(rng, w, widths, spread)
    predicted = np.asarray(theory.sharpness_lower_bound(a, size, depth))
    measured = sharpness_of(X, W)
    data = {"X": X} | {f"W_{i + 1}": factor for i, factor in enumerate(W)}
    return Batch(predicted, measured, 1e-11 * measured, data=data)


def balanced(rng: Generator, w: np.ndarray, depth: int) -> list[np.ndarray]:
    """Layers of rank one, equal norms and aligned singular vectors, all widths d."""
    count, d = w.shape
    size = np.linalg.norm(w, axis=1) ** (1 / depth)
    frames = [w / np.linalg.norm(w, axis=1, keepdims=True)]
    frames += [_draw.orthonormal(rng, count, d, 1)[:, :, 0] for _ in range(depth - 1)]
    W = [size[:, None, None] * b[:, :, None] * a[:, None, :] for a, b in itertools.pairwise(frames)]
    return [*W, size[:, None, None] * frames[-1][:, None, :]]


@entry(
    "marion-minimiser-bound",
    source="ours, sharpening [M, Thm 1]",
    statement="Every minimiser has the sharpness S ≥ 2 L ‖Σw‖^(2/L) (wᵀΣw)^(1−2/L).",
    assumptions="one output; w any least-squares solution, Σ may be singular",
    kind="lower",
    tight=True,
    functions=("minimiser_sharpness_lower_bound",),
    families=(
        *_families(120),
        family("depth 4, Σ = I, balanced of rank one", 120, widths=(4, 4, 4, 4, 1), kind="whitened", spread=0.0),
    ),
)
def minimiser_bound(rng: Generator, count: int, *, widths: Sequence[int], kind: str, spread: float) -> Batch:
    """The sharper lower bound."""
    depth, d = len(widths) - 1, widths[0]
    if kind == "whitened":
        X = np.sqrt(12) * _draw.orthonormal(rng, count, 12, d)
        w = rng.normal(size=(count, d))
        W = balanced(rng, w, depth)
    else:
        X, w, _, _ = _problem(rng, count, 12, d, kind)
        if kind == "deficient":  # another minimiser: move along the null space of the data
            G = rng.normal(size=w.shape)
            w = w + G - np.einsum("kdn,kn->kd", np.linalg.pinv(X), np.einsum("knd,kd->kn", X, G))
        W = minimiser(rng, w, widths, spread)
    covariance = X.transpose(0, 2, 1) @ X / X.shape[1]
    predicted = over(lambda s, v: theory.minimiser_sharpness_lower_bound(s, v, depth), covariance, w)
    measured = sharpness_of(X, W)
    data = {"X": X} | {f"W_{i + 1}": factor for i, factor in enumerate(W)}
    return Batch(predicted, measured, 1e-10 * measured, data=data)


@entry(
    "marion-critical-rate",
    source="[M, Thm 1]",
    statement="No minimiser is linearly stable under gradient descent with a step size beyond η* = 1/(L a "
    "‖w*‖^(2−2/L)): 2/S ≤ η*.",
    assumptions="as theorem 1; measured: the largest stable step size 2/S",
    kind="upper",
    tight=True,
    functions=("critical_learning_rate",),
    families=(
        *_families(80),
        family("depth 4, Σ = I, balanced of rank one", 80, widths=(4, 4, 4, 4, 1), kind="whitened", spread=0.0),
    ),
)
def critical_rate(rng: Generator, count: int, *, widths: Sequence[int], kind: str, spread: float) -> Batch:
    """The largest stable step size at minimisers."""
    found = theorem_1(rng, count, widths=widths, kind=kind, spread=spread)
    X, depth = found.data["X"], len(widths) - 1
    covariance = X.transpose(0, 2, 1) @ X / X.shape[1]
    w = _deep.end_to_end([found.data[f"W_{i + 1}"] for i in range(depth)])[:, 0]
    size = np.linalg.norm(w, axis=1)
    a = np.einsum("kd,kde,ke->k", w, covariance, w) / size**2
    predicted = np.asarray(theory.critical_learning_rate(a, size, depth))
    return Batch(predicted, 2 / found.measured, 1e-11 * predicted, data=found.data)


@entry(
    "marion-balanced-sharpness",
    source="[M, Sec 3]",
    statement="A balanced minimiser of rank one has S = 2 ‖w‖^(2−2/L) λ_max(Σ + (L−1) Σ^½ u uᵀ Σ^½), u = w/‖w‖.",
    assumptions="one output; balanced layers of rank one",
    kind="value",
    functions=("balanced_rank_one_sharpness",),
    families=tuple(
        family(f"depth {depth}, d = {d}, {kind} data", 200, quick=None if depth < 5 else 0, depth=depth, d=d, kind=kind)
        for depth, d in ((2, 5), (4, 3), (12, 3))
        for kind in DATA
    ),
)
def balanced_sharpness(rng: Generator, count: int, *, depth: int, d: int, kind: str) -> Batch:
    """The sharpness where gradient flow from small initialisation ends."""
    X = _inputs(rng, count, 12, d, kind)
    w = rng.normal(size=(count, d))
    covariance = X.transpose(0, 2, 1) @ X / 12
    predicted = over(lambda s, v: theory.balanced_rank_one_sharpness(s, v, depth), covariance, w)
    W = balanced(rng, w, depth)
    data = {"X": X, "w": w}
    return Batch(predicted, sharpness_of(X, W), 300 * depth * EPS * predicted, data=data)


@entry(
    "marion-flow-end",
    source="[M, Sec 3]",
    statement="Gradient flow from a small initialisation ends at S ≤ 8 L Λ ‖w*‖^(2−2/L), Λ = λ_max(Σ).",
    assumptions="small Gaussian initialisation; the flow reaches a minimum (gradient below 1e-7); integrated by "
    "gradient descent at a twentieth of the stable step",
    kind="upper",
    functions=("flow_sharpness_upper_bound",),
    families=tuple(
        family(f"depth {depth}, d = {d}, {kind} data", 60, quick=8 if depth == 2 else 0, depth=depth, d=d, kind=kind)
        for depth, d in ((2, 4), (3, 3), (4, 3))
        for kind in ("isotropic", "deficient")
    ),
)
def flow_end(rng: Generator, count: int, *, depth: int, d: int, kind: str) -> Batch:
    """Where gradient flow ends, and that its layers are nearly of rank one there."""
    X = _inputs(rng, count, 20, d, kind)
    X /= np.sqrt(np.linalg.eigvalsh(X.transpose(0, 2, 1) @ X / 20)[:, -1])[:, None, None]
    truth = rng.normal(size=(count, d))
    y = np.einsum("knd,kd->kn", X, truth / np.linalg.norm(truth, axis=1, keepdims=True)) + 0.1 * rng.normal(
        size=(count, 20)
    )
    found = over(theory.regression_constants, X, y)
    scale = {2: 0.05, 3: 0.15, 4: 0.25}[depth]
    widths = (*(d,) * depth, 1)
    W = [scale * rng.normal(size=(count, b, a)) for a, b in itertools.pairwise(widths)]
    covariance, moment = X.transpose(0, 2, 1) @ X / 20, np.einsum("knd,kn->kd", X, y) / 20
    step = 0.05 / (depth * np.maximum(1.0, found.w_norm) ** (2 - 2 / depth))[:, None, None]
    slopes = W
    for k in range(40_000):
        pull = 2 * (_deep.end_to_end(W) @ covariance - moment[:, None])
        slopes = [P.transpose(0, 2, 1) @ pull @ Q.transpose(0, 2, 1) for P, Q in _deep.partial_products(W)]
        W = [factor - step * slope for factor, slope in zip(W, slopes, strict=True)]
        if k % 500 == 0 and max(np.abs(slope).max() for slope in slopes) < 1e-8:
            break
    gradient = np.max([np.abs(slope).max(axis=(1, 2)) for slope in slopes], axis=0)
    predicted = np.asarray(theory.flow_sharpness_upper_bound(found.lambda_max, depth, found.w_norm))
    second = [np.linalg.svd(factor, compute_uv=False) for factor in W[:-1]]
    rest = np.max([s[:, 1] / s[:, 0] for s in second], axis=0)
    data = {"X": X, "y": y} | {f"W_{i + 1}": factor for i, factor in enumerate(W)}
    return Batch(
        predicted, sharpness_of(X, W), 1e-6 * predicted, applies=gradient < 1e-7, data=data, extra={"rank_one": rest}
    )
