"""The smallest trace over one fibre `{W_L ... W_1 = M}`, as a geodesically convex problem.

Write `M = U N^T` with orthonormal U of r = rank(M) columns. By `P_l Q_{l+1} = M` every point of the fibre has
`Q_{l+1}^T Q_{l+1} >= M^T (P_l P_l^T)^+ M`, with equality where the factors carry nothing but M; and of all
`S_l = P_l P_l^T` with the same `U^T S_l^+ U = X_l^{-1}` the smallest is `U X_l U^T`. So, for hidden widths >= r,

    F(M) = inf { (2/m) phi(X) : X_1, ..., X_{L-1} positive definite, r x r },
    phi(X) = tr(X_1 D) + sum_{l=2}^{L-1} sum_i tr(X_l C_i X_{l-1}^{-1} C_i^T) + tr(X_{L-1}^{-1} E),
    D = U^T (sum A_i A_i^T) U,  C_i = U^T A_i N,  E = N^T (sum A_i^T A_i) N.

Along a geodesic `X_l(t) = R_l e^{t H_l} R_l^T` phi is a sum of exponentials `c_k e^{a_k t}` with `c_k >= 0`: it is
convex, so that every stationary point is a global minimum, and where its second derivative is at least lambda for all
unit H the minimum lies within about `||grad||^2 / (2 lambda)` of the value (`gap_bound`).
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from flatmin._core import Outcome

Matrix = Float[np.ndarray, "r r"]
DENSE_LIMIT = 700  # unknowns up to which the Hessian is formed


@dataclasses.dataclass(frozen=True)
class ChainResult:
    """A minimiser of phi.

    Attributes:
        value: phi there.
        roots: `R_l` with `X_l = R_l R_l^T`, l = 1..L-1.
        gradient: Frobenius norm of the Riemannian gradient, all blocks together.
        curvature: smallest eigenvalue of the Riemannian Hessian; NaN where it was not computed.
        curvature_error: residual bound of that eigenvalue.
        iterations: Newton steps.
        outcome: `converged`, `max_iterations`, or `stalled`.
    """

    value: float
    roots: tuple[Matrix, ...]
    gradient: float
    curvature: float
    curvature_error: float
    iterations: int
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class Chain:
    """The data of phi.

    Attributes:
        first: D, (r, r), psd.
        middle: `C_i`, shape (k, r, r); any list with the same `sum_i C_i X C_i^T` for all X.
        last: E, (r, r), psd.
        depth: L >= 2.
    """

    first: Matrix
    middle: Float[np.ndarray, "k r r"]
    last: Matrix
    depth: int

    @property
    def size(self) -> int:
        """R."""
        return self.first.shape[0]


class _Point:
    """phi in coordinates where the point is the identity: `G_{l,i} = R_l^T C_i R_{l-1}^{-T}`."""

    def __init__(self, first: Matrix, middles: list[np.ndarray], last: Matrix):
        self.first, self.middles, self.last = first, middles, last
        # from the left: sum_i G_{l,i} G_{l,i}^T; from the right: sum_i G_{l+1,i}^T G_{l+1,i}
        self.rises = [first, *(np.einsum("iab,icb->ac", G, G, optimize=True) for G in middles)]
        self.falls = [*(np.einsum("iab,iac->bc", G, G, optimize=True) for G in middles), last]

    @property
    def value(self) -> float:
        return float(sum(np.trace(rise) for rise in self.rises) + np.trace(self.last))

    @property
    def gradient(self) -> list[Matrix]:
        return [rise - fall for rise, fall in zip(self.rises, self.falls, strict=True)]

    def hessian(self, H: list[Matrix]) -> list[Matrix]:
        """The gradient of `H -> (1/2) sum_{l,i} ||H_l G_{l,i} - G_{l,i} H_{l-1}||_F^2`."""
        images = []
        for h, rise, fall in zip(H, self.rises, self.falls, strict=True):
            whole = rise + fall
            images.append((h @ whole + whole @ h) / 2)
        for j, G in enumerate(self.middles):
            images[j + 1] = images[j + 1] - _sandwich(G, H[j])
            images[j] = images[j] - _sandwich(G.transpose(0, 2, 1), H[j + 1])
        return [(image + image.T) / 2 for image in images]

    def moved(self, H: list[Matrix]) -> "_Point":
        """The point `e^{H_l}`, and its coordinates."""
        half = [_exponential(h / 2) for h in H]
        inverse = [_exponential(-h / 2) for h in H]
        middles = [half[j + 1] @ G @ inverse[j] for j, G in enumerate(self.middles)]
        return _Point(_congruent(half[0], self.first), middles, _congruent(inverse[-1], self.last))


def _sandwich(G: np.ndarray, H: Matrix) -> Matrix:
    """`sum_i G_i H G_i^T`."""
    return np.einsum("iab,icb->ac", G @ H, G, optimize=True)


def _congruent(R: Matrix, S: Matrix) -> Matrix:
    moved = R @ S @ R.T
    return (moved + moved.T) / 2


def _exponential(H: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(H)
    return (vectors * np.exp(values)) @ vectors.T


def _norm(H: list[Matrix]) -> float:
    return float(np.sqrt(sum(np.vdot(h, h) for h in H)))


def minimise_chain(
    chain: Chain, start: list[Matrix], *, tolerance: float = 1e-13, max_iterations: int = 100, sweeps: int = 3
) -> ChainResult:
    """Newton's method along geodesics, after a few sweeps of exact minimisation over one `X_l` at a time.

    For fixed neighbours the best `X_l` is a matrix geometric mean. phi is self-concordant along geodesics, so Newton
    steps with a line search converge from everywhere, and quadratically at the end.

    Args:
        chain: the problem.
        start: first `R_l`, l = 1..L-1, invertible.
        tolerance: of the Riemannian gradient, relative to the value.
        max_iterations: Newton steps at most.
        sweeps: of block minimisation.

    Returns:
        The minimiser, with the smallest eigenvalue of the Hessian there.
    """
    roots = [np.array(R, dtype=float) for R in start]
    inverses = [np.linalg.inv(R) for R in roots]
    middles = [roots[j + 1].T @ chain.middle @ inverses[j].T for j in range(chain.depth - 2)]
    point = _Point(_congruent(roots[0].T, chain.first), middles, _congruent(inverses[-1], chain.last))
    for _ in range(sweeps):
        for layer in range(chain.depth - 1):
            H = [np.zeros_like(R) for R in roots]
            H[layer] = _log_mean(point.rises[layer], point.falls[layer])
            point, roots = point.moved(H), _follow(roots, H)
    outcome, iterations, best_gradient = Outcome.max_iterations, 0, np.inf
    stuck = 0
    for iterations in range(max_iterations + 1):
        gradient = point.gradient
        size = _norm(gradient)
        if size <= tolerance * point.value:
            outcome = Outcome.converged
            break
        stuck = 0 if size < 0.5 * best_gradient else stuck + 1
        best_gradient = min(best_gradient, size)
        if stuck >= 8 and size <= 1e-9 * point.value:  # rounding of the gradient itself
            outcome = Outcome.stalled
            break
        if iterations == max_iterations:
            break
        H = _newton_direction(point, gradient)
        slope = sum(float(np.vdot(g, h)) for g, h in zip(gradient, H, strict=True))
        length = min(1.0, 4.0 / max(_norm(H), 1e-300))  # no step multiplies a size by more than e^4
        while length > 1e-10:
            tried = point.moved([length * h for h in H])
            rounding = 1e-14 * point.value
            if np.isfinite(tried.value) and tried.value <= point.value + 1e-4 * length * slope + rounding:
                break
            length /= 2
        else:
            outcome = Outcome.stalled
            break
        point, roots = tried, _follow(roots, [length * h for h in H])
    curvature, error = _smallest_curvature(point)
    return ChainResult(point.value, tuple(roots), _norm(point.gradient), curvature, error, iterations, outcome)


def gap_bound(result: ChainResult) -> float:
    """How far the infimum of phi can lie below the value.

    Along unit-speed geodesics the exponents `a_k` are differences of eigenvalues of neighbouring H, at most sqrt(2)
    apart, so that `phi''(t) >= lambda e^{-sqrt(2) t}`; integrating twice from the slope `-||grad||` gives, with
    `u = sqrt(2) ||grad|| / lambda < 1`, the bound `(lambda / 2) (u + (1 - u) log(1 - u))`.

    Args:
        result: of `minimise_chain`.

    Returns:
        The bound; infinite where the curvature is not known to be positive enough.
    """
    least = result.curvature - result.curvature_error
    if not least > 0:
        return np.inf
    u = np.sqrt(2) * result.gradient / least
    if not u < 1:
        return np.inf
    # u + (1 - u) log(1 - u), without cancellation for small u
    series = u**2 / 2 * (1 + u / 3) if u < 1e-4 else u + (1 - u) * np.log1p(-u)
    return float(least / 2 * series * (1 + 1e-8))


def _follow(roots: list[Matrix], H: list[Matrix]) -> list[Matrix]:
    return [R @ _exponential(h / 2) for R, h in zip(roots, H, strict=True)]


def _log_mean(rise: Matrix, fall: Matrix) -> Matrix:
    """`log(rise^{-1} # fall)`: the minimiser of `tr(e^H rise) + tr(e^{-H} fall)`."""
    scale = max(np.trace(rise), np.trace(fall), np.finfo(float).tiny)
    values, vectors = np.linalg.eigh(rise)
    values = np.sqrt(np.maximum(values, 1e-12 * scale))
    root, inverse = (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
    inner, frame = np.linalg.eigh(_congruent(root, fall))
    inner = np.sqrt(np.maximum(inner, 1e-24 * scale**2))
    mean = _congruent(inverse, (frame * inner) @ frame.T)
    values, vectors = np.linalg.eigh(mean)
    return (vectors * np.log(np.maximum(values, 1e-300))) @ vectors.T


def _unknowns(r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, cols = np.triu_indices(r)
    return rows, cols, np.where(rows == cols, 1.0, np.sqrt(2.0))


def _pack(H: list[Matrix]) -> np.ndarray:
    rows, cols, weights = _unknowns(H[0].shape[0])
    return np.concatenate([h[rows, cols] * weights for h in H])


def _unpack(vector: np.ndarray, r: int) -> list[Matrix]:
    rows, cols, weights = _unknowns(r)
    blocks = []
    for part in vector.reshape(-1, len(rows)):
        h = np.zeros((r, r))
        h[rows, cols] = part / weights
        h[cols, rows] = h[rows, cols]
        blocks.append(h)
    return blocks


def _dense_hessian(point: _Point) -> np.ndarray:
    r, layers = point.first.shape[0], len(point.rises)
    size = layers * (r * (r + 1) // 2)
    columns = [_pack(point.hessian(_unpack(unit, r))) for unit in np.eye(size)]
    dense = np.stack(columns, axis=1)
    return (dense + dense.T) / 2


def _newton_direction(point: _Point, gradient: list[Matrix]) -> list[Matrix]:
    r = point.first.shape[0]
    target = -_pack(gradient)
    if len(target) <= DENSE_LIMIT:
        values, vectors = np.linalg.eigh(_dense_hessian(point))
        floor = 1e-13 * values[-1]
        return _unpack(vectors @ ((vectors.T @ target) / np.maximum(values, floor)), r)
    return _unpack(_conjugate_gradients(point, target), r)


def _conjugate_gradients(point: _Point, target: np.ndarray) -> np.ndarray:
    """Preconditioned by the blocks of the diagonal, which are Sylvester operators."""
    r = point.first.shape[0]
    frames = [np.linalg.eigh(rise + fall) for rise, fall in zip(point.rises, point.falls, strict=True)]

    def precondition(vector):
        blocks = []
        for h, (values, vectors) in zip(_unpack(vector, r), frames, strict=True):
            inner = vectors.T @ h @ vectors
            sums = np.maximum((values[:, None] + values[None, :]) / 2, 1e-14 * values[-1])
            blocks.append(vectors @ (inner / sums) @ vectors.T)
        return _pack(blocks)

    x = np.zeros_like(target)
    residual, z = target, precondition(target)
    direction, rho = z, float(target @ z)
    goal = min(0.1, np.sqrt(np.linalg.norm(target) / point.value)) * np.linalg.norm(target)
    for _ in range(400):
        image = _pack(point.hessian(_unpack(direction, r)))
        curvature = float(direction @ image)
        if curvature <= 0:
            break
        x, residual = x + rho / curvature * direction, residual - rho / curvature * image
        if np.linalg.norm(residual) <= goal:
            break
        z = precondition(residual)
        rho, old = float(residual @ z), rho
        direction = z + rho / old * direction
    return x if np.any(x) else precondition(target)


def _smallest_curvature(point: _Point) -> tuple[float, float]:
    r, layers = point.first.shape[0], len(point.rises)
    size = layers * (r * (r + 1) // 2)
    if size <= DENSE_LIMIT:
        values = np.linalg.eigvalsh(_dense_hessian(point))
        return float(values[0]), float(4 * size * np.finfo(float).eps * values[-1])
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    operator = LinearOperator((size, size), matvec=lambda v: _pack(point.hessian(_unpack(v.ravel(), r))))  # pyright: ignore[reportCallIssue]
    try:
        values, vectors = eigsh(operator, k=1, which="SA", ncv=60, maxiter=60, tol=1e-3)  # pyright: ignore[reportArgumentType]
    except ArpackNoConvergence:
        return np.nan, np.nan
    residual = np.linalg.norm(operator @ vectors[:, 0] - values[0] * vectors[:, 0])
    return float(values[0]), float(residual)
