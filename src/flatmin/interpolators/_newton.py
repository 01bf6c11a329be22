"""Riemannian Newton on the interpolating factors of an inner width, and the way to a higher one if that is flatter."""

import dataclasses

import numpy as np
from jaxtyping import Float

from flatmin._core import Outcome
from flatmin.interpolators._model import At, Layers, Model, flatten, unflatten

RANK_TOLERANCE = 1e-9  # singular values of the Jacobian below this share of the largest count as zero
GAUGE_TOLERANCE = 1e-8  # eigenvalues of the Hessian below this share of the largest count as zero
SWEEPS, ATTEMPTS = 100, 6  # of the search for a further rank-one term
FLOOR, MOST = 1e-6, 1e9
SIZES = (1e-3, 1e-1, 1e-5)  # of the term, relative to the matrix


@dataclasses.dataclass(frozen=True)
class NewtonResult:
    """A stationary point of the trace among interpolating factors of one inner width.

    Attributes:
        factors: `(W_1, ..., W_L)`.
        trace: tr H there.
        loss: the mean of squared residuals there.
        stationarity: `||P_T grad tr|| / ||grad tr||`.
        multipliers: y with `grad tr = J^T y` up to the tangent part, of least norm.
        curvature: smallest eigenvalue of the Riemannian Hessian beyond the zero modes, over the largest; infinite where
            there are only zero modes.
        negative: eigenvalues below minus the tolerance.
        zero_modes: eigenvalues that are zero to the tolerance.
        gauge_modes: `(L-1) r (r-1) / 2`, the zero modes that the orthogonal symmetry between layers makes.
        kernel_rank: rank of the Jacobian of the residuals.
        iterations: Newton steps.
        outcome: `converged`, `saddle`, `stalled`, `max_iterations`, or `infeasible` (no interpolating factors of this
            width near the start).
    """

    factors: Layers
    trace: float
    loss: float
    stationarity: float
    multipliers: Float[np.ndarray, " k"]
    curvature: float
    negative: int
    zero_modes: int
    gauge_modes: int
    kernel_rank: int
    iterations: int
    outcome: Outcome


class _Split:
    """Row space and null space of the Jacobian at a point."""

    def __init__(self, at: At):
        self.at, self.trace, self.gradient = at, at.trace, at.gradient
        U, s, Vt = np.linalg.svd(at.jacobian, full_matrices=True)
        self.rank = int(np.sum(s > RANK_TOLERANCE * s[0])) if s.size and s[0] > 0 else 0
        self.U, self.s, self.V = U[:, : self.rank], s[: self.rank], Vt[: self.rank].T
        self.tangent = Vt[self.rank :].T
        self.multipliers = self.U @ ((self.V.T @ self.gradient) / self.s)
        self.reduced = self.tangent.T @ self.gradient

    @property
    def stationarity(self) -> float:
        size = float(np.linalg.norm(self.gradient))
        return float(np.linalg.norm(self.reduced)) / size if size > 0 else 0.0

    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and vectors of the Riemannian Hessian in the tangent space."""
        Z = self.tangent
        H = Z.T @ self.at.hessian(self.multipliers, Z)
        return np.linalg.eigh((H + H.T) / 2)

    def normal_step(self, residuals: np.ndarray) -> np.ndarray:
        """`-J^+ r`."""
        return -self.V @ ((self.U.T @ residuals) / self.s)


class _Path:
    """Points of one inner width, brought back to the set."""

    def __init__(self, model: Model, factors: Layers):
        self.model, self.shapes = model, [W.shape for W in factors]
        tiny = np.finfo(float).tiny
        self.enough = 1e-26 * max(model.energy, tiny)
        self.limit = 1e-18 * max(model.energy, tiny)

    def layers(self, flat: np.ndarray) -> Layers:
        return unflatten(flat, self.shapes)

    def split(self, flat: np.ndarray) -> _Split:
        return _Split(At(self.model, self.layers(flat)))

    def loss(self, residuals: np.ndarray) -> float:
        return float(residuals @ residuals) / self.model.count

    def feasible(self, flat: np.ndarray, split: _Split | None) -> tuple[np.ndarray, float]:
        """Gauss-Newton steps: chords with the Jacobian of `split` while these contract, else a new one each time."""
        residuals = self.model.residuals(self.layers(flat))
        loss = self.loss(residuals)
        for _ in range(60):
            if loss <= self.enough or not np.isfinite(loss):
                break
            step = (split or self.split(flat)).normal_step(residuals)
            for length in (1.0, 0.25, 0.0625):
                moved = flat + length * step
                new = self.model.residuals(self.layers(moved))
                if self.loss(new) < 0.7 * loss or split is not None:
                    break
            if not self.loss(new) < 0.7 * loss:
                if split is None:
                    break
                split = None
                continue
            flat, residuals, loss = moved, new, self.loss(new)
        return flat, loss


def minimise_at_width(model: Model, factors: Layers, *, tolerance: float, max_iterations: int = 80) -> NewtonResult:
    """Newton steps `-(Z^T H Z)^+ Z^T grad` in the tangent space, each followed by Gauss-Newton steps back to the set.

    H is the Hessian of the Lagrangian `tr - y . r`, whose restriction to the tangent space is the Riemannian Hessian.
    Along directions of negative curvature the sign of the eigenvalue is turned round; the zero modes of the orthogonal
    symmetry between layers are left alone.

    Args:
        model: trace and residuals.
        factors: the start, near the set.
        tolerance: of the stationarity.
        max_iterations: Newton steps at most.

    Returns:
        The point, with its first and second order conditions.
    """
    path = _Path(model, factors)
    flat, loss = path.feasible(flatten(factors), None)
    split, outcome = path.split(flat), Outcome.max_iterations
    if not loss <= path.limit:
        outcome, max_iterations = Outcome.infeasible, 0
    best, stuck, iterations, spectrum = np.inf, 0, 0, np.zeros(0)
    for iterations in range(max_iterations + 1):
        spectrum, frame = split.spectrum()
        share, largest = split.stationarity, float(np.abs(spectrum).max(initial=0.0))
        saddle = bool(spectrum.size) and spectrum[0] < -GAUGE_TOLERANCE * largest
        if outcome is Outcome.infeasible:
            break
        if share <= tolerance and not saddle:
            outcome = Outcome.converged
            break
        stuck = 0 if share < 0.5 * best else stuck + 1
        best = min(best, share)
        if iterations == max_iterations or stuck >= 20:
            outcome = Outcome.saddle if share <= tolerance else Outcome.stalled if stuck >= 20 else outcome
            break
        step, slope = _direction(split, spectrum, frame, tolerance)
        step = step if slope else 1e-2 * np.linalg.norm(flat) * step
        length = min(1.0, 0.5 * np.linalg.norm(flat) / max(np.linalg.norm(step), 1e-300))
        while length > 1e-8:
            tried, loss = path.feasible(flat + length * step, split)
            if loss <= path.limit:
                trace = At(model, path.layers(tried)).trace
                if trace <= split.trace * (1 + 1e-13) + 1e-4 * length * slope:
                    break
            length /= 2
        else:
            outcome = Outcome.saddle if share <= tolerance else Outcome.stalled
            break
        flat, split = tried, path.split(tried)
    return _result(path, flat, split, spectrum, iterations, outcome)


def _direction(split: _Split, spectrum: np.ndarray, frame: np.ndarray, tolerance: float) -> tuple[np.ndarray, float]:
    """The step and its slope; at a stationary saddle a unit vector along the lowest curvature, and 0."""
    Z = split.tangent
    if split.stationarity <= tolerance:
        return Z @ frame[:, 0], 0.0
    largest, along = float(np.abs(spectrum).max(initial=0.0)), frame.T @ split.reduced
    curved = np.abs(spectrum) > GAUGE_TOLERANCE * largest
    # what gradient there is along a zero mode is not gauge: go down it
    loose = ~curved & (np.abs(along) > 1e-3 * np.linalg.norm(along))
    y = np.where(
        curved, -along / np.where(curved, np.abs(spectrum), 1), np.where(loose, -along / max(largest, 1e-300), 0)
    )
    return Z @ (frame @ y), float(along @ y)


def _result(path: _Path, flat, split: _Split, spectrum, iterations: int, outcome: Outcome) -> NewtonResult:
    largest = float(np.abs(spectrum).max(initial=0.0))
    relative = spectrum / largest if largest > 0 else spectrum
    beyond = relative[np.abs(relative) > GAUGE_TOLERANCE]
    layers = path.layers(flat)
    r = layers[0].shape[0]
    return NewtonResult(
        layers,
        split.trace,
        path.loss(path.model.residuals(layers)),
        split.stationarity,
        split.multipliers,
        float(beyond[0]) if beyond.size else np.inf,
        int(np.sum(relative < -GAUGE_TOLERANCE)),
        int(np.sum(np.abs(relative) <= GAUGE_TOLERANCE)),
        (len(layers) - 1) * r * (r - 1) // 2,
        split.rank,
        iterations,
        outcome,
    )


def escape(model: Model, result: NewtonResult, rng: np.random.Generator) -> tuple[float, list[Layers]]:
    """The steepest way to a matrix of one rank more, to first order.

    A further channel `P_l <- [P_l, t_l a]`, `Q_{l+1} <- [Q_{l+1}; s_l b^T]`, `t_l s_l = c` adds `c a b^T` to the matrix
    and, for the best `t_l`, `(4/m) c sum_{l<L} sqrt(a^T rho_l a  b^T kappa_{l+1} b)` to the trace,
    `rho_l = sum A_i Q_l^T Q_l A_i^T`, `kappa_l = sum A_i^T P_l P_l^T A_i`; the multipliers y pay `c a^T A*(y) b` for
    it. Where the ratio of payment to cost exceeds 1 for some a, b, the point is no minimum over matrices of higher
    rank. (At depth 2 the largest ratio is `||D_out^{-1/2} A*(y) D_in^{-1/2}||_op / 4`: dual feasibility.)

    Args:
        model: trace and residuals.
        result: a stationary point.
        rng: of the starts of the search, which alternates between a and b.

    Returns:
        The largest ratio found (from below), and factors with such a term added, in a few sizes.
    """
    at = At(model, result.factors)
    pull = (result.multipliers @ model.rows).reshape(model.shape)
    rho, kappa = at.rho[:-1], at.kappa[1:]
    weights = [np.linalg.eigh(np.sum(x, axis=0)) for x in (rho, kappa)]
    inverse = [(v / np.sqrt(np.maximum(w, 1e-14 * w[-1]))) @ v.T for w, v in weights]
    U, _, Vt = np.linalg.svd(inverse[0] @ pull @ inverse[1])
    guesses = [inverse[1] @ Vt[j] for j in range(min(ATTEMPTS, len(Vt)))]
    guesses += [rng.standard_normal(model.shape[1]) for _ in range(ATTEMPTS)]
    best, pair = -np.inf, (U[:, 0], Vt[0])
    for guess in guesses:
        b, a = guess, pull @ guess
        for _ in range(SWEEPS):
            a = _best_side(pull @ b, rho, np.einsum("a,lab,b->l", b, kappa, b), a)
            b = _best_side(pull.T @ a, kappa, np.einsum("a,lab,b->l", a, rho, a), b)
        terms = np.einsum("a,lab,b->l", a, rho, a) * np.einsum("a,lab,b->l", b, kappa, b)
        cost = 2 * at.scale * np.sum(np.sqrt(np.maximum(terms, 0)))
        payment = float(a @ pull @ b)
        ratio = payment / max(float(cost), abs(payment) / MOST, np.finfo(float).tiny)
        if ratio > best:
            best, pair = ratio, (a / np.linalg.norm(a), b / np.linalg.norm(b))
    return best, [_with_channel(at, rho, kappa, *pair, size) for size in SIZES]


def _best_side(target: np.ndarray, grams: np.ndarray, others: np.ndarray, before: np.ndarray) -> np.ndarray:
    """A fixed-point step for `max a . g / sum_l sqrt(a^T rho_l a o_l)`: reweighted least squares."""
    sizes = np.sqrt(np.maximum(np.einsum("a,lab,b->l", before, grams, before), 1e-300))
    matrix = np.einsum("l,lab->ab", np.sqrt(np.maximum(others, 0)) / sizes, grams)
    matrix += 1e-14 * np.trace(matrix) * np.eye(len(matrix))
    a = np.linalg.solve(matrix, target)
    return a / max(np.linalg.norm(a), 1e-300)


def _with_channel(at: At, rho: np.ndarray, kappa: np.ndarray, a: np.ndarray, b: np.ndarray, share: float) -> Layers:
    size = share * float(np.linalg.norm(at.P[0] @ at.factors[0], 2))
    ups = np.einsum("a,lab,b->l", a, rho, a)
    downs = np.einsum("a,lab,b->l", b, kappa, b)
    # where the measurements do not see the channel yet, its cost is of higher order: any moderate balance will do
    ups, downs = np.maximum(ups, FLOOR * ups.max()), np.maximum(downs, FLOOR * downs.max())
    t = np.sqrt(size) * (downs / ups) ** 0.25  # t_1 .. t_{L-1}
    W = list(at.factors)
    layers = [np.vstack([W[0], (size / t[0]) * b])]
    for j in range(1, at.depth - 1):
        grown = np.zeros((W[j].shape[0] + 1, W[j].shape[1] + 1))
        grown[:-1, :-1], grown[-1, -1] = W[j], t[j - 1] / t[j]
        layers.append(grown)
    return (*layers, np.column_stack([W[-1], t[-1] * a]))
