"""Induced regularisers with a closed form beyond the papers' own, and the bounds that hold for all measurements."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from flatmin.experiments.ledger import _deep, _draw, _flat
from flatmin.experiments.ledger._entry import EPS, Batch, entry, family
from flatmin.experiments.ledger._theory import over
from flatmin.measurements import dense
from flatmin.theory import closed_forms as theory


def _layers(W: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"W_{i + 1}": factor for i, factor in enumerate(W)}


# --- rank one --------------------------------------------------------------------------------------


def _rank_one(rng: Generator, count: int, shape: tuple[int, int], n: int, kind: str):
    return (
        _draw.measurements(rng, count, n, shape, kind),
        rng.normal(size=(count, shape[0])),
        rng.normal(size=(count, shape[1])),
    )


def _widened(rng: Generator, W: Sequence[np.ndarray], width: int) -> list[np.ndarray]:
    """Layers of width 1 in hidden layers of another width: unit vectors between neighbours."""
    count = len(W[0])
    frames = [_draw.orthonormal(rng, count, width, 1) for _ in W[:-1]]
    wide = [frames[0] @ W[0]]
    wide += [
        left @ factor @ right.transpose(0, 2, 1)
        for left, factor, right in zip(frames[1:], W[1:-1], frames[:-1], strict=True)
    ]
    return [*wide, W[-1] @ frames[-1].transpose(0, 2, 1)]


def _three_in_four_regauged(rng: Generator, W: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every fourth network as it is, the others moved along their gauge: the product stays, the trace rises."""
    kept = (np.arange(len(W[0])) % 4 == 0)[:, None, None]
    return [np.where(kept, w, moved) for w, moved in zip(W, _deep.regauged(rng, W, 0.1), strict=True)]


@entry(
    "closed-rank-one-value",
    source="ours",
    statement="F(s u vᵀ) = 2L [(uᵀD_out u)(vᵀD_in v) q(u, v)^(L−2)]^(1/L) s^(2−2/L), attained by the explicit factors, "
    "q(u, v) = (1/n) Σ (uᵀAᵢv)².",
    assumptions="M of rank one; any measurements, any depth ≥ 2",
    kind="value",
    functions=("rank_one_regulariser", "rank_one_minimiser"),
    families=(
        family("depth 3, 4x3, 7 Gaussian", 400, shape=(4, 3), n=7, kind="gaussian", depth=3),
        family("depth 2, 3x5, 10 bilinear", 300, shape=(3, 5), n=10, kind="bilinear", depth=2),
        family("depth 5, 4x4, 9 entries", 300, quick=0, shape=(4, 4), n=9, kind="entries", depth=5),
        family("depth 8, 3x3, 6 correlated", 300, quick=0, shape=(3, 3), n=6, kind="correlated", depth=8),
    ),
)
def rank_one_value(rng: Generator, count: int, *, shape: tuple[int, int], n: int, kind: str, depth: int) -> Batch:
    """The explicit factors multiply to M and attain the value."""
    A, u, v = _rank_one(rng, count, shape, n, kind)
    W = _widened(rng, over(lambda a, x, y: theory.rank_one_minimiser(dense(a), x, y, depth), A, u, v), 3)
    predicted = over(lambda a, x, y: theory.rank_one_regulariser(dense(a), x, y, depth), A, u, v)
    M = u[:, :, None] * v[:, None, :]
    off = np.linalg.norm(_deep.end_to_end(W) - M, axis=(1, 2)) / np.linalg.norm(M, axis=(1, 2))
    measured = np.where(off < 1e-12, _deep.trace(A, W), np.nan)
    return Batch(predicted, measured, 1e3 * depth * EPS * predicted, data={"A": A, "u": u, "v": v})


@entry(
    "closed-rank-one-bound",
    source="ours",
    statement="No factors of s u vᵀ have a trace below 2L [(uᵀD_out u)(vᵀD_in v) q(u, v)^(L−2)]^(1/L) s^(2−2/L).",
    assumptions="M of rank one; any measurements, depth and widths",
    kind="lower",
    tight=True,
    functions=("rank_one_regulariser",),
    families=(
        family(
            "depth 3, 4x3, the explicit factors and gauges of them", 300, shape=(4, 3), n=7, kind="gaussian", depth=3
        ),
        family("depth 3, 3x4, one factor of rank one", 300, shape=(3, 4), n=6, kind="entries", depth=3, position=1),
        family("depth 5, 4x3, one factor of rank one", 300, shape=(4, 3), n=9, kind="bilinear", depth=5, position=2),
    ),
)
def rank_one_bound(
    rng: Generator, count: int, *, shape: tuple[int, int], n: int, kind: str, depth: int, position: int | None = None
) -> Batch:
    """Factors of a matrix of rank one: gauges of the flattest, or random ones of which one has rank one."""
    A, u, v = _rank_one(rng, count, shape, n, kind)
    if position is None:
        W = _widened(rng, over(lambda a, x, y: theory.rank_one_minimiser(dense(a), x, y, depth), A, u, v), 3)
        W = [
            np.where((np.arange(count) % 4 == 0)[:, None, None], w, g)
            for w, g in zip(W, _deep.regauged(rng, W, 0.1), strict=True)
        ]
    else:
        W = _draw.layers(rng, count, (shape[1], *(4,) * (depth - 1), shape[0]))
        x, y = rng.normal(size=(count, 4, 1)), rng.normal(size=(count, 1, 4))
        W[position] = x @ y
        P, Q = _deep.partial_products(W)[position]
        u, v = (P @ x)[:, :, 0], (y @ Q)[:, 0, :]
    predicted = over(lambda a, s, t: theory.rank_one_regulariser(dense(a), s, t, depth), A, u, v)
    measured = _deep.trace(A, W)
    return Batch(predicted, measured, 1e-12 * measured, data={"A": A} | _layers(W))


# --- completion: rectangles --------------------------------------------------------------------------

Sizes = Sequence[tuple[int, int]]


def _entries(shape: tuple[int, int], rectangles: Sequence[tuple[slice, slice]], count: int) -> np.ndarray:
    """The unit matrices of the entries of all rectangles, shape (count, n, d1, d2)."""
    eye = np.eye(shape[0] * shape[1]).reshape(*shape, *shape)
    units = np.concatenate([eye[rows, cols].reshape(-1, *shape) for rows, cols in rectangles])
    return np.broadcast_to(units, (count, *units.shape))


def _diagonal(sizes: Sizes) -> list[tuple[slice, slice]]:
    """Rectangles of these sizes, one after the other in rows and columns."""
    ends = np.cumsum([(0, 0), *sizes], axis=0)
    return [(slice(a[0], b[0]), slice(a[1], b[1])) for a, b in itertools.pairwise(ends)]


def _block_layers(parts: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Networks side by side: every layer block diagonal."""
    layers = []
    for factors in zip(*parts, strict=True):
        count = len(factors[0])
        rows, cols = np.sum([f.shape[1:] for f in factors], axis=0)
        layer = np.zeros((count, rows, cols))
        for f, (r, c) in zip(factors, _diagonal([f.shape[1:] for f in factors]), strict=True):
            layer[:, r, c] = f
        layers.append(layer)
    return layers


def _block_minimiser(rng: Generator, M: np.ndarray, rectangles: Sequence[tuple[slice, slice]], depth: int):
    parts = []
    for rows, cols in rectangles:
        block = M[:, rows, cols]
        d1, d2 = block.shape[1:]
        parts.append(_deep.population_minimiser(rng, block, (d2, *(min(d1, d2),) * (depth - 1), d1)))
    return _block_layers(parts)


@entry(
    "closed-blocks-value",
    source="ours",
    statement="Completion on disjoint blocks R_k × C_k, M zero elsewhere: F(M) = (2L/n) Σ_k (|R_k||C_k|)^(1/L) "
    "‖M_k‖∗^(2−2/L), attained by the population minimisers of the blocks side by side.",
    assumptions="entries seen: a union of rectangles with disjoint rows and columns; hidden widths at least rank M",
    kind="value",
    functions=("block_completion_regulariser",),
    families=(
        family("depth 3, blocks 2x2 and 1x3", 300, sizes=((2, 2), (1, 3)), depth=3),
        family("depth 2, blocks 3x2, 1x1 and 1x1", 300, sizes=((3, 2), (1, 1), (1, 1)), depth=2),
        family("depth 6, blocks 2x3 and 2x2", 300, quick=0, sizes=((2, 3), (2, 2)), depth=6),
    ),
)
def blocks_value(rng: Generator, count: int, *, sizes: Sizes, depth: int) -> Batch:
    """Block-diagonal networks attain the sum over the blocks."""
    rows, cols = np.sum(sizes, axis=0).tolist()
    shape = (rows, cols)
    where = _diagonal(sizes)
    A = _entries(shape, where, count)
    M = np.einsum("kn,knij->kij", rng.normal(size=A.shape[:2]), A)
    n = A.shape[1]
    predicted = over(lambda m: theory.block_completion_regulariser([m[r, c] for r, c in where], n, depth), M)
    W = _block_minimiser(rng, M, where, depth)
    off = np.linalg.norm(_deep.end_to_end(W) - M, axis=(1, 2)) / np.linalg.norm(M, axis=(1, 2))
    measured = np.where(off < 1e-12, _deep.trace(A, W), np.nan)
    return Batch(predicted, measured, 1e3 * depth * EPS * predicted, data={"M": M} | _layers(W))


@entry(
    "closed-rectangles-bound",
    source="ours",
    statement="Completion, any partition of the entries seen into rectangles that are fully seen: tr H ≥ (2L/n) Σ "
    "(|R||C|)^(1/L) ‖Y_RC‖∗^(2−2/L) at all parameters, Y their matrix.",
    assumptions="any depth ≥ 2 and widths",
    kind="lower",
    tight=True,
    functions=("rectangle_lower_bound", "block_completion_regulariser"),
    families=(
        family("depth 3, disjoint blocks, their minimiser and gauges of it", 300, depth=3, kind="blocks"),
        family("depth 3, 5x5 in rows, random layers", 300, depth=3, kind="rows"),
        family("depth 4, 4x4, an L of two rectangles, random layers", 300, depth=4, kind="corner"),
    ),
)
def rectangles_bound(rng: Generator, count: int, *, depth: int, kind: str) -> Batch:
    """Random layers and flat ones, on masks that fall into rectangles."""
    if kind == "blocks":
        shape, where = (4, 5), _diagonal(((2, 2), (2, 3)))
    elif kind == "rows":
        shape, where = (5, 5), [(slice(i, i + 1), slice(0, 2 + i % 3)) for i in range(5)]
    else:
        shape, where = (4, 4), [(slice(0, 4), slice(0, 2)), (slice(0, 2), slice(2, 4))]
    A = _entries(shape, where, count)
    if kind == "blocks":
        M = np.einsum("kn,knij->kij", rng.normal(size=A.shape[:2]), A)
        W = _block_minimiser(rng, M, where, depth)
        W = [
            np.where((np.arange(count) % 4 == 0)[:, None, None], w, g)
            for w, g in zip(W, _deep.regauged(rng, W, 0.1), strict=True)
        ]
    else:
        W = _draw.layers(rng, count, (shape[1], *(5,) * (depth - 1), shape[0]))
    Y, n = _deep.end_to_end(W), A.shape[1]
    predicted = over(lambda m: theory.rectangle_lower_bound([m[r, c] for r, c in where], n, depth), Y)
    measured = _deep.trace(A, W)
    return Batch(predicted, measured, 1e-12 * measured, data={"A": A} | _layers(W))


# --- whitened sandwich --------------------------------------------------------------------------------


def _product_measurements(rng: Generator, count: int, shape: tuple[int, int]) -> np.ndarray:
    """`a_j b_k^T` for all pairs of 5 vectors a and 4 vectors b: fourth moments factor, second ones are anisotropic."""
    a = rng.normal(size=(count, 5, shape[0])) * np.geomspace(1, 4, shape[0])
    b = rng.normal(size=(count, 4, shape[1])) * np.geomspace(3, 1, shape[1])
    return np.einsum("kjr,klc->kjlrc", a, b).reshape(count, 20, *shape)


def _whitened_terms(A: np.ndarray, M: np.ndarray, depth: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The factors of M that are flattest where fourth moments factor, and the L terms of their trace."""
    left, right = (_draw.root(D) for D in _draw.moments(A))
    U, s, Vt = np.linalg.svd(left @ M @ right, full_matrices=False)
    half = np.sqrt(s)[:, None, :]
    W = [half.transpose(0, 2, 1) * np.linalg.solve(right, Vt.transpose(0, 2, 1)).transpose(0, 2, 1)]
    W += [np.broadcast_to(np.eye(s.shape[1]), (len(s), s.shape[1], s.shape[1]))] * (depth - 2)
    W += [np.linalg.solve(left, U * half)]
    blocks = [
        2
        / A.shape[1]
        * np.sum((P.transpose(0, 2, 1)[:, None] @ A @ Q.transpose(0, 2, 1)[:, None]) ** 2, axis=(1, 2, 3))
        for P, Q in _deep.partial_products(W)
    ]
    return W, np.stack(blocks)


def _rescaled_trace(blocks: np.ndarray) -> np.ndarray:
    """The smallest trace over scalings of the layers with product 1: L times the geometric mean of the terms."""
    return len(blocks) * np.exp(np.mean(np.log(blocks), axis=0))


def _kappa(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and largest `tr(D_out) q / ((u^T D_out u)(v^T D_in v))` of 2 x 2 measurements, by a grid of angles.

    On the unit circles the ratio is smooth: the grid of 400 x 400 angles misses its extremes by less than 1e-4 of them
    on these measurements, and that is added on either side.
    """
    angles = np.linspace(0, np.pi, 400, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    D_out, D_in = _draw.moments(A)
    low, high = [], []
    for a, out, inner in zip(A, D_out, D_in, strict=True):
        seen = np.einsum("pi,nij,qj->npq", circle, a, circle)
        above = np.einsum("pi,ij,pj->p", circle, out, circle)
        below = np.einsum("pi,ij,pj->p", circle, inner, circle)
        ratio = np.trace(out) * np.mean(seen**2, axis=0) / (above[:, None] * below[None, :])
        low.append(ratio.min())
        high.append(ratio.max())
    return np.array(low) * (1 - 1e-3), np.array(high) * (1 + 1e-3)


@entry(
    "closed-whitened-value",
    source="ours",
    statement="Where fourth moments factor: F(M) = 2L (tr D_out)^((2−L)/L) ‖D_out^½ M D_in^½‖∗^(2−2/L), at any depth.",
    assumptions="q(u, v) tr D_out = (uᵀD_out u)(vᵀD_in v); at depth 2 any measurements",
    kind="value",
    functions=("whitened_regulariser",),
    families=(
        family("depth 3, 3x2, all products of 5 and 4 vectors", 300, depth=3, shape=(3, 2), kind="products"),
        family("depth 6, 3x3, all products of 5 and 4 vectors", 300, quick=0, depth=6, shape=(3, 3), kind="products"),
        family("depth 2, 3x4, 15 Gaussian", 300, depth=2, shape=(3, 4), kind="gaussian"),
    ),
)
def whitened_value(rng: Generator, count: int, *, depth: int, shape: tuple[int, int], kind: str) -> Batch:
    """The whitened factors attain the whitened norm."""
    A = (
        _product_measurements(rng, count, shape)
        if kind == "products"
        else _draw.measurements(rng, count, 15, shape, kind)
    )
    M = rng.normal(size=(count, *shape))
    predicted = over(lambda a, m: theory.whitened_regulariser(dense(a), m, depth), A, M)
    measured = _rescaled_trace(_whitened_terms(A, M, depth)[1])
    spread = np.max([np.linalg.cond(D) for D in _draw.moments(A)], axis=0)
    return Batch(predicted, measured, 300 * EPS * spread * predicted, data={"A": A, "M": M})


def _sandwich(rng: Generator, count: int, depth: int, *, flattest: bool):
    A = _draw.measurements(rng, count, 6, (2, 2))
    W = _draw.layers(rng, count, (2, *(3,) * (depth - 1), 2))
    if flattest:
        W, blocks = _whitened_terms(A, _deep.end_to_end(W), depth)
        return A, W, _deep.end_to_end(W), _rescaled_trace(blocks)
    return A, W, _deep.end_to_end(W), _deep.trace(A, W)


@entry(
    "closed-whitened-lower",
    source="ours",
    statement="κ₋^((L−2)/L) 2L (tr D_out)^((2−L)/L) ‖M‖_w^(2−2/L) ≤ tr H at all factors of M, κ₋ the least of "
    "tr(D_out) q(u, v)/((uᵀD_out u)(vᵀD_in v)).",
    assumptions="any measurements; depth ≥ 2",
    kind="lower",
    tight=True,
    functions=("whitened_lower",),
    families=(
        family("depth 3, 2x2, 6 Gaussian, random layers", 120, depth=3, kind="random"),
        family("depth 5, 2x2, 6 Gaussian, random layers", 120, quick=0, depth=5, kind="random"),
        family("depth 2, 2x2, 6 Gaussian, whitened factors", 120, depth=2, kind="flattest"),
    ),
)
def whitened_lower(rng: Generator, count: int, *, depth: int, kind: str) -> Batch:
    """The lower half, at random layers, and at depth 2 with equality."""
    A, W, M, measured = _sandwich(rng, count, depth, flattest=kind == "flattest")
    low, _ = _kappa(A)
    predicted = over(lambda a, m, k: theory.whitened_lower(dense(a), m, depth, k), A, M, low)
    return Batch(predicted, measured, 1e-10 * measured, data={"A": A, "M": M, "kappa": low} | _layers(W))


@entry(
    "closed-whitened-upper",
    source="ours",
    statement="F(M) ≤ κ₊^((L−2)/L) 2L (tr D_out)^((2−L)/L) ‖M‖_w^(2−2/L), κ₊ the largest of "
    "tr(D_out) q(u, v)/((uᵀD_out u)(vᵀD_in v)).",
    assumptions="any measurements; depth ≥ 2",
    kind="upper",
    tight=True,
    functions=("whitened_upper",),
    families=(
        family("depth 3, 2x2, 6 Gaussian", 120, depth=3),
        family("depth 5, 2x2, 6 Gaussian", 120, quick=0, depth=5),
        family("depth 2, 2x2, 6 Gaussian", 120, depth=2),
    ),
)
def whitened_upper(rng: Generator, count: int, *, depth: int) -> Batch:
    """The trace at the whitened factors, layers rescaled: an upper end of F."""
    A, _, M, measured = _sandwich(rng, count, depth, flattest=True)
    _, high = _kappa(A)
    predicted = over(lambda a, m, k: theory.whitened_upper(dense(a), m, depth, k), A, M, high)
    return Batch(predicted, measured, 1e-10 * measured, data={"A": A, "M": M, "kappa": high})


@entry(
    "closed-whitened-ratio",
    source="ours",
    statement="‖M_flat‖_w / min ‖M‖_w ≤ (κ₊/κ₋)^((L−2)/(2(L−1))) over interpolators.",
    assumptions="any measurements; M_flat with the least F among the interpolators; depth ≥ 2",
    kind="upper",
    tight=True,
    functions=("whitened_norm_ratio",),
    families=(
        family("depth 2, 2x2, 3 Gaussian", 60, depth=2),
        family("depth 3, 2x2, 3 Gaussian", 40, quick=4, depth=3),
    ),
)
def whitened_ratio(rng: Generator, count: int, *, depth: int) -> Batch:
    """Three measurements of four unknowns: a line of interpolators, searched for the least F and the least norm."""
    A = _draw.measurements(rng, count, 3, (2, 2))
    start = rng.normal(size=(count, 2, 2))
    direction = np.linalg.svd(A.reshape(count, 3, 4))[2][:, 3].reshape(count, 2, 2)
    left, right = (_draw.root(D) for D in _draw.moments(A))
    reach = 10 * np.linalg.norm(start, axis=(1, 2))

    def norm(X: np.ndarray) -> np.ndarray:
        return _draw.nuclear(left @ X @ right)

    least = _draw.least_on_lines(start, direction, norm, reach)
    at = least
    if depth > 2:
        lines = zip(A, start, direction, reach, strict=True)
        at = np.array([_flat.flattest_on_line(*line, depth)[0] for line in lines])
    measured = norm(start + at[:, None, None] * direction) / norm(start + least[:, None, None] * direction)
    low, high = _kappa(A)
    predicted = over(lambda a, b: theory.whitened_norm_ratio(depth, a, b), low, high)
    return Batch(predicted, measured, 1e-6, data={"A": A, "start": start, "kappa": np.stack([low, high], axis=1)})
