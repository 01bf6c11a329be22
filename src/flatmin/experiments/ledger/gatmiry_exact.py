"""[G]: what holds without assumptions on the measurements. Lemmas 1, 2, 4, theorems 5 and 7, definition 2."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.random import Generator

from flatmin.experiments.ledger import _deep, _draw
from flatmin.experiments.ledger._draw import nuclear
from flatmin.experiments.ledger._entry import EPS, Batch, entry, family
from flatmin.experiments.ledger._theory import over
from flatmin.measurements import dense
from flatmin.theory import gatmiry2023 as theory

WIDTHS = {
    "depth 2, 4x3": (3, 5, 4),
    "depth 3, unequal widths": (2, 6, 3, 5),
    "depth 5, 3x3": (3, 3, 4, 3, 6, 3),
    "depth 12, 2x3": (3, *(4,) * 11, 2),
}


@entry(
    "gatmiry-lemma-1",
    source="[G, Lemma 1]",
    statement="‖X Y‖∗ ≤ ‖X‖_F ‖Y‖_F.",
    assumptions="any X and Y",
    kind="upper",
    tight=True,
    families=(
        *(family(f"5x4 and 4x6, {kind}", 400, kind=kind, shape=(5, 4, 6)) for kind in _draw.KINDS),
        family("2x7 and 7x3", 400, kind="gaussian", shape=(2, 7, 3)),
        family("equality: U S^½ and S^½ Vᵀ", 400, kind="equal", shape=(5, 4, 6)),
    ),
)
def lemma_1(rng: Generator, count: int, *, kind: str, shape: tuple[int, int, int]) -> Batch:
    """The nuclear norm of products."""
    a, b, c = shape
    if kind == "equal":
        root = np.sqrt(rng.uniform(0.1, 2, size=(count, 1, b)))
        X = _draw.orthonormal(rng, count, a, b) * root
        Y = (_draw.orthonormal(rng, count, c, b) * root).transpose(0, 2, 1)
    else:
        X, Y = _draw.matrices(rng, count, a, b, kind), _draw.matrices(rng, count, b, c, kind)
    predicted = np.sqrt(np.sum(X**2, axis=(1, 2)) * np.sum(Y**2, axis=(1, 2)))
    return Batch(predicted, nuclear(X @ Y), 50 * EPS * predicted, data={"X": X, "Y": Y})


@entry(
    "gatmiry-definition-2",
    source="[G, Def. 2]",
    statement="For p < 1 the Schatten quasi-norm is no norm, but Σ s_j(X+Y)^p ≤ Σ s_j(X)^p + Σ s_j(Y)^p.",
    assumptions="0 < p ≤ 1",
    kind="upper",
    tight=True,
    families=(
        *(
            family(f"4x5, p = {p}, {kind}", 200, p=p, kind=kind)
            for p in (0.3, 0.7)
            for kind in ("gaussian", "deficient")
        ),
        family("p = 0.5, ranges orthogonal", 200, p=0.5, kind="apart"),
    ),
)
def schatten_triangle(rng: Generator, count: int, *, p: float, kind: str) -> Batch:
    """Powers of singular values of sums."""
    if kind == "apart":
        X, Y = np.zeros((2, count, 4, 5))
        X[:, :2, :2], Y[:, 2:, 2:] = rng.normal(size=(count, 2, 2)), rng.normal(size=(count, 2, 3))
    else:
        X, Y = _draw.matrices(rng, count, 4, 5, kind), _draw.matrices(rng, count, 4, 5, kind)

    def power(M: np.ndarray) -> np.ndarray:
        return over(lambda m: theory.schatten(m, p) ** p, M)

    predicted = power(X) + power(Y)
    # a zero singular value comes out as eps times the largest, and its p-th power is not small
    top = np.linalg.norm(X + Y, axis=(1, 2))
    return Batch(predicted, power(X + Y), 8 * (10 * EPS * top) ** p, data={"X": X, "Y": Y})


@entry(
    "gatmiry-lemma-2",
    source="[G, Lemma 2]",
    statement="At zero loss tr H = (2/n) Σᵢ ‖∇ predictionᵢ‖², for deep products (2/n) Σᵢ Σ_l ‖P_lᵀ Aᵢ Q_lᵀ‖²_F.",
    assumptions="zero residual; measured: the trace of the dense Hessian by automatic differentiation",
    kind="value",
    families=(
        family("depth 2, widths 3-2-4", 300, widths=(3, 2, 4), n=5, kind="gaussian"),
        family("depth 3, rank-one first layer", 300, widths=(2, 4, 3, 2), n=3, kind="deficient"),
        family("depth 3, first layer of condition 1e8", 300, quick=0, widths=(2, 4, 3, 2), n=3, kind="ill"),
        family("depth 7, all widths 2", 200, quick=0, widths=(2,) * 8, n=4, kind="gaussian"),
        family("tanh network, not linear", 200, widths=(), n=6, kind="tanh"),
    ),
)
def lemma_2(rng: Generator, count: int, *, widths: Sequence[int], n: int, kind: str) -> Batch:
    """The trace of the Hessian against automatic differentiation."""
    if kind == "tanh":
        U, v, x = rng.normal(size=(count, 4, 3)), rng.normal(size=(count, 4)), rng.normal(size=(count, n, 3))

        hidden = np.tanh(x @ U.transpose(0, 2, 1))
        slopes = (1 - hidden**2) * v[:, None]
        norms = np.sum(hidden**2, axis=(1, 2)) + np.sum(slopes**2 * np.sum(x**2, axis=2)[:, :, None], axis=(1, 2))
        return Batch(
            2 * norms / n, _hessian_traces(_tanh_network, (U, v), x), 1e4 * EPS * norms, data={"U": U, "v": v, "x": x}
        )
    A, W = _draw.measurements(rng, count, n, (widths[-1], widths[0])), _draw.layers(rng, count, widths, kind)

    predicted = _deep.trace(A, W)
    scale = np.sum(_deep.jacobian(np.abs(A), [np.abs(w) for w in W]) ** 2, axis=(1, 2))  # nothing cancels in it
    data = {"A": A} | {f"W_{i + 1}": w for i, w in enumerate(W)}
    return Batch(predicted, _hessian_traces(_deep_product, tuple(W), A), 100 * EPS * scale, data=data)


def _tanh_network(params, inputs):
    return jnp.tanh(inputs @ params[0].T) @ params[1]


def _deep_product(params, inputs):
    product = params[0]
    for factor in params[1:]:
        product = factor @ product
    return jnp.sum(inputs * product[None], axis=(1, 2))


def _hessian_traces(predict, params: tuple[np.ndarray, ...], inputs: np.ndarray) -> np.ndarray:
    """The trace of the dense Hessian of `mean (prediction - label)^2`, labels the predictions at the point itself."""

    @jax.jit
    @jax.vmap
    def one(params, inputs):
        labels = predict(params, inputs)
        flat, unravel = ravel_pytree(params)
        return jnp.trace(jax.hessian(lambda w: jnp.mean((predict(unravel(w), inputs) - labels) ** 2))(flat))

    return np.asarray(one(tuple(map(jnp.asarray, params)), jnp.asarray(inputs)))


def _population_families(count: int, kinds: Sequence[str]):
    return (
        family(
            f"{label}, {kind}",
            count,
            quick=None if label.startswith(("depth 2", "depth 5")) else 0,
            widths=w,
            kind=kind,
        )
        for label, w in WIDTHS.items()
        for kind in kinds
    )


def _population(M: np.ndarray, depth: int) -> np.ndarray:
    return over(lambda size: theory.population_regulariser(size, depth, M.shape[1:]), nuclear(M))


@entry(
    "gatmiry-lemma-4-bound",
    source="[G, Lemma 4]",
    statement="2 Σ_l ‖P_l‖²_F ‖Q_l‖²_F ≥ 2L (d₀ d_L)^(1/L) ‖M‖∗^(2(L−1)/L) for all factors of M.",
    assumptions="none",
    kind="lower",
    tight=True,
    functions=("population_regulariser",),
    families=(
        *_population_families(150, ("gaussian", "deficient", "ill")),
        *_population_families(150, ("near the minimiser",)),
        *_population_families(150, ("minimiser",)),
    ),
)
def lemma_4_bound(rng: Generator, count: int, *, widths: Sequence[int], kind: str) -> Batch:
    """The population functional is never below the closed form."""
    depth, r = len(widths) - 1, min(widths[0], widths[-1])
    if "minimiser" in kind:
        M = _draw.matrices(rng, count, widths[-1], r, "gaussian") @ _draw.matrices(rng, count, r, widths[0], "gaussian")
        W = _deep.population_minimiser(rng, M, widths)
        W = _deep.regauged(rng, W, 0.05) if kind.startswith("near") else W
    else:
        W = _draw.layers(rng, count, widths, kind)
    measured, predicted = _deep.population_trace(W), _population(_deep.end_to_end(W), depth)
    data = {f"W_{i + 1}": w for i, w in enumerate(W)}
    return Batch(predicted, measured, 200 * depth * EPS * measured, data=data)


@entry(
    "gatmiry-lemma-4-value",
    source="[G, Lemma 4]",
    statement="The minimum over the factors of M is 2L (d₀ d_L)^(1/L) ‖M‖∗^(2(L−1)/L), attained by the explicit "
    "factors.",
    assumptions="hidden widths ≥ min(d₀, d_L)",
    kind="value",
    functions=("population_regulariser",),
    families=(*_population_families(150, ("gaussian", "deficient", "ill", "spread")),),
)
def lemma_4_value(rng: Generator, count: int, *, widths: Sequence[int], kind: str) -> Batch:
    """The explicit minimiser attains the closed form, and its product is M."""
    depth = len(widths) - 1
    M = _draw.matrices(rng, count, widths[-1], widths[0], kind)
    W = _deep.population_minimiser(rng, M, widths)
    off = np.linalg.norm(_deep.end_to_end(W) - M, axis=(1, 2)) / np.linalg.norm(M, axis=(1, 2))
    predicted = _population(M, depth)
    measured = np.where(off < 1e3 * depth * EPS, _deep.population_trace(W), np.nan)
    return Batch(predicted, measured, 300 * depth * EPS * predicted, data={"M": M})


THEOREM_5 = (
    family("4x3, 5 Gaussian", 200, shape=(4, 3), n=5, kind="gaussian"),
    family("4x3, one measurement", 200, quick=0, shape=(4, 3), n=1, kind="gaussian"),
    family("4x3, 6 entries: some rows or columns unseen", 200, shape=(4, 3), n=6, kind="entries"),
    family("2x6, 9 bilinear", 200, quick=0, shape=(2, 6), n=9, kind="bilinear"),
    family("5x5, 8 correlated, condition 1e3 on each side", 200, quick=0, shape=(5, 5), n=8, kind="correlated"),
    family("4x3, 5 of condition 1e8 each", 200, quick=0, shape=(4, 3), n=5, kind="ill"),
)


@entry(
    "gatmiry-theorem-5-bound",
    source="[G, Thm 5], [D]",
    statement="Depth 2, any measurements: tr H ≥ 4 ‖D_out^½ M D_in^½‖∗ at all factors of M.",
    assumptions="L = 2",
    kind="lower",
    functions=("depth_two_regulariser",),
    tight=True,
    families=(
        *THEOREM_5,
        family("4x3, 15 Gaussian, at the flat factors", 200, shape=(4, 3), n=15, kind="flat"),
    ),
)
def theorem_5_bound(rng: Generator, count: int, *, shape: tuple[int, int], n: int, kind: str) -> Batch:
    """The depth-two trace is never below the weighted nuclear norm."""
    A = _draw.measurements(rng, count, n, shape, "gaussian" if kind == "flat" else kind)
    W = _draw.layers(rng, count, (shape[1], 5, shape[0]))
    if kind == "flat":
        W = _flat_factors(A, _deep.end_to_end(W))
    measured, M = _deep.trace(A, W), _deep.end_to_end(W)
    predicted = over(lambda a, m: theory.depth_two_regulariser(dense(a), m), A, M)
    # the square root of a moment that should vanish is sqrt(eps) large
    scale = 4 * np.sqrt(EPS) * np.sum(A**2, axis=(1, 2, 3)) / n * nuclear(M)
    singular = n < max(shape) or kind in ("entries", "ill")
    return Batch(
        predicted, measured, scale if singular else 1e3 * EPS * measured, data={"A": A, "W_1": W[0], "W_2": W[1]}
    )


def _flat_factors(A: np.ndarray, M: np.ndarray) -> list[np.ndarray]:
    left, right = (_draw.root(D) for D in _draw.moments(A))
    U, s, Vt = np.linalg.svd(left @ M @ right, full_matrices=False)
    scale = np.sqrt(s)
    W_2 = np.linalg.solve(left, U * scale[:, None, :])
    W_1 = np.linalg.solve(right, Vt.transpose(0, 2, 1) * scale[:, None, :]).transpose(0, 2, 1)
    return [W_1, W_2]


@entry(
    "gatmiry-theorem-5-value",
    source="[G, Thm 5], [D]",
    statement="Depth 2: F(M) = 4 ‖D_out^½ M D_in^½‖∗, attained by D_out^(−½) U S^½ and S^½ Vᵀ D_in^(−½).",
    assumptions="L = 2; D_out and D_in invertible for the minimiser to exist",
    kind="value",
    functions=("depth_two_regulariser",),
    families=(
        family("4x3, 15 Gaussian", 400, shape=(4, 3), n=15, kind="gaussian", rank=3),
        family("2x6, 20 bilinear", 300, quick=0, shape=(2, 6), n=20, kind="bilinear", rank=2),
        family("5x5, 30 correlated, rank-one M", 300, quick=0, shape=(5, 5), n=30, kind="correlated", rank=1),
    ),
)
def theorem_5_value(rng: Generator, count: int, *, shape: tuple[int, int], n: int, kind: str, rank: int) -> Batch:
    """The flat factors attain the weighted nuclear norm."""
    A = _draw.measurements(rng, count, n, shape, kind)
    M = rng.normal(size=(count, shape[0], rank)) @ rng.normal(size=(count, rank, shape[1]))
    predicted = over(lambda a, m: theory.depth_two_regulariser(dense(a), m), A, M)
    spread = np.max([np.linalg.cond(D) for D in _draw.moments(A)], axis=0)
    return Batch(predicted, _deep.trace(A, _flat_factors(A, M)), 300 * EPS * spread * predicted, data={"A": A, "M": M})


@entry(
    "gatmiry-theorem-7-bound",
    source="[G, Thm 7]",
    statement="One measurement: tr H ≥ 2L Σ s_j^(2/L), s_j the singular values of (AᵀM)^(L−1) Aᵀ, at all factors of M.",
    assumptions="n = 1; any depth, shapes and ranks",
    kind="lower",
    functions=("single_measurement_regulariser",),
    tight=True,
    families=(
        *(
            family(
                f"depth {len(w) - 1}, {w[-1]}x{w[0]}, {kind}", 250, quick=None if len(w) < 5 else 0, widths=w, kind=kind
            )
            for w in ((3, 4, 3), (3, 5, 4, 2), (4, 4, 4, 4, 4), (2, *(3,) * 7, 2))
            for kind in ("gaussian", "deficient")
        ),
        family("depth 3, 3x3, at the explicit minimiser", 250, widths=(3, 3, 3, 3), kind="minimiser"),
    ),
)
def theorem_7_bound(rng: Generator, count: int, *, widths: Sequence[int], kind: str) -> Batch:
    """The trace of one measurement is never below the quasi-norm."""
    depth, shape = len(widths) - 1, (widths[-1], widths[0])
    A = _draw.matrices(rng, count, *shape)
    if kind == "minimiser":
        M = _draw.conditioned(rng, count, *shape, 5.0)
        A = _draw.conditioned(rng, count, *shape, 5.0)
        W = list(over(lambda a, m: theory.single_measurement_minimiser(a, m, depth), A, M))
    else:
        W = _draw.layers(rng, count, widths, kind)
    M, measured = _deep.end_to_end(W), _deep.trace(A[:, None], W)
    predicted = over(lambda a, m: theory.single_measurement_regulariser(a, m, depth), A, M)
    if kind == "minimiser":
        slack = 1e5 * EPS * predicted
    else:
        # a singular value that should vanish comes out as eps times the norm of the product's terms
        top = np.linalg.norm(A, axis=(1, 2)) ** depth * np.linalg.norm(M, axis=(1, 2)) ** (depth - 1)
        slack = 2 * depth * min(shape) * (10 * EPS * top) ** (2 / depth)
    data = {"A": A} | {f"W_{i + 1}": w for i, w in enumerate(W)}
    return Batch(predicted, measured, slack, data=data)


def _power_slack(A: np.ndarray, M: np.ndarray, depth: int) -> np.ndarray:
    """Rounding of `2L sum s_j^(2/L)`: s_j is off by eps times the largest for each of the L factors of the product."""
    product = A.transpose(0, 2, 1)
    for _ in range(depth - 1):
        product = (A.transpose(0, 2, 1) @ M) @ product
    s = np.linalg.svd(product, compute_uv=False)
    return 4 * np.sum(s ** (2 / depth) * (30 * depth * EPS * s[:, :1] / s), axis=1)


@entry(
    "gatmiry-theorem-7-value",
    source="[G, Thm 7]",
    statement="One measurement: F(M) = 2L Σ s_j^(2/L), attained by the explicit factors.",
    assumptions="n = 1, A and M square and invertible",
    kind="value",
    functions=("single_measurement_regulariser", "single_measurement_minimiser"),
    families=(
        family("depth 2, 4x4, condition 10", 300, size=4, depth=2, condition=10.0),
        family("depth 4, 3x3, condition 10", 300, quick=0, size=3, depth=4, condition=10.0),
        family("depth 3, 3x3, condition 1000", 300, quick=0, size=3, depth=3, condition=1e3),
        family("depth 8, 2x2, condition 3", 300, quick=0, size=2, depth=8, condition=3.0),
    ),
)
def theorem_7_value(rng: Generator, count: int, *, size: int, depth: int, condition: float) -> Batch:
    """The explicit factors multiply to M and attain the quasi-norm."""
    A, M = (_draw.conditioned(rng, count, size, size, condition) for _ in range(2))
    W = over(lambda a, m: theory.single_measurement_minimiser(a, m, depth), A, M)
    predicted = over(lambda a, m: theory.single_measurement_regulariser(a, m, depth), A, M)
    slack = _power_slack(A, M, depth)
    lost = slack / predicted
    off = np.linalg.norm(_deep.end_to_end(W) - M, axis=(1, 2)) / np.linalg.norm(M, axis=(1, 2))
    measured = np.where(off < lost, _deep.trace(A[:, None], list(W)), np.nan)
    return Batch(predicted, measured, slack, data={"A": A, "M": M})


@entry(
    "gatmiry-theorem-7-example",
    source="[G, Sec 6]",
    statement="A = I and M symmetric positive semidefinite with eigenvalues λ: F(M) = 2L Σ λ^(2(L−1)/L), not a power "
    "of the nuclear norm.",
    assumptions="n = 1, A = I, M ⪰ 0",
    kind="value",
    functions=("single_measurement_regulariser",),
    families=(
        family("4x4, depth 2", 300, size=4, depth=2),
        family("4x4, depth 5", 300, size=4, depth=5),
        family("6x6, depth 20", 300, quick=0, size=6, depth=20),
    ),
)
def theorem_7_example(rng: Generator, count: int, *, size: int, depth: int) -> Batch:
    """The identity as the only measurement."""
    values = rng.uniform(0.5, 2.0, size=(count, size))
    frame = _draw.orthonormal(rng, count, size, size)
    M = (frame * values[:, None]) @ frame.transpose(0, 2, 1)
    predicted = 2 * depth * np.sum(values ** (2 - 2 / depth), axis=1)
    measured = over(lambda m: theory.single_measurement_regulariser(jnp.eye(size), m, depth), M)
    eye = np.broadcast_to(np.eye(size), M.shape)
    return Batch(predicted, measured, _power_slack(eye, M, depth), data={"M": M})
