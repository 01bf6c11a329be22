"""Riemannian Newton on the interpolating factors of an inner width, and the way to a higher one if that is flatter."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from flatmin._core import Outcome
from flatmin.interpolators._lanczos import smallest_eigenvalue
from flatmin.interpolators._model import At, Layers, Model, flatten, unflatten

RANK_TOLERANCE = 1e-9  # singular values of the Jacobian below this share of the largest count as zero
GAUGE_TOLERANCE = 1e-8  # eigenvalues of the Hessian below this share of the largest count as zero
SWEEPS, ATTEMPTS = 100, 6  # of the search for a further rank-one term
FLOOR, MOST = 1e-6, 1e9
SINGULAR = 1e-14  # eigenvalues of a Gram matrix below this share of the largest are raised to it
TINY = 1e-300  # keeps a division by a vanishing norm finite
DENSE_LIMIT = 1500  # parameters up to which the Hessian is formed
GAUGE_LIMIT = 20_000_000  # numbers up to which a basis of the symmetry is made
CONJUGATE_STEPS = 400  # a Newton step
PATIENCE = 20  # Newton steps without a halving of the projected gradient
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
        curvature_error: residual bound of it, in the same unit.
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
    curvature_error: float
    negative: int
    zero_modes: int
    gauge_modes: int
    kernel_rank: int
    iterations: int
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class _Curvature:
    """The second-order condition at a point.

    Attributes:
        largest: eigenvalue of the Riemannian Hessian in modulus.
        lowest: smallest eigenvalue beyond the zero modes, over the largest; infinite where there is none.
        error: residual of it, over the largest.
        negative: eigenvalues below minus the tolerance (found).
        zero_modes: eigenvalues that are zero to the tolerance (found).
        direction: unit vector along the lowest of all.
    """

    largest: float
    lowest: float
    error: float
    negative: int
    zero_modes: int
    direction: Float[np.ndarray, " p"]

    @property
    def saddle(self) -> bool:
        """Whether there is negative curvature beyond rounding and residual."""
        return self.negative > 0 and self.lowest + self.error < -GAUGE_TOLERANCE


class _Split:
    """Row space of the Jacobian at a point: `J = U diag(s) V^T`, and what is tangent to the set."""

    def __init__(self, at: At, U: np.ndarray, s: np.ndarray, V: np.ndarray):
        self.at, self.trace, self.gradient = at, at.trace, at.gradient
        self.rank = int(np.sum(s > RANK_TOLERANCE * s[0])) if s.size and s[0] > 0 else 0
        self.U, self.s, self.V = U[:, : self.rank], s[: self.rank], V[:, : self.rank]
        self.multipliers = self.U @ ((self.V.T @ self.gradient) / self.s)

    def project(self, x: np.ndarray) -> np.ndarray:
        """The tangent part; done twice, so that it is tangent to rounding."""
        for _ in range(2):
            x = x - self.V @ (self.V.T @ x)
        return x

    @functools.cached_property
    def reduced(self) -> np.ndarray:
        """The tangent part of the gradient."""
        return self.project(self.gradient)

    @property
    def stationarity(self) -> float:
        size = float(np.linalg.norm(self.gradient))
        return float(np.linalg.norm(self.reduced)) / size if size > 0 else 0.0

    def normal_step(self, residuals: np.ndarray) -> np.ndarray:
        """`-J^+ r`."""
        return -self.V @ ((self.U.T @ residuals) / self.s)


class _DenseSplit(_Split):
    """With a basis of the tangent space, in which the Hessian is formed."""

    dense = True

    def __init__(self, at: At):
        U, s, Vt = np.linalg.svd(at.jacobian, full_matrices=True)
        super().__init__(at, U, s, Vt[: len(s)].T)
        self.tangent = Vt[self.rank :].T

    @functools.cached_property
    def eigen(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and vectors of the Riemannian Hessian."""
        H = self.tangent.T @ self.at.hessian(self.multipliers, self.tangent)
        return np.linalg.eigh((H + H.T) / 2)

    def curvature(self) -> _Curvature:
        """From all eigenvalues."""
        spectrum, frame = self.eigen
        largest = float(np.abs(spectrum).max(initial=0.0))
        relative = spectrum / largest if largest > 0 else spectrum
        beyond = relative[np.abs(relative) > GAUGE_TOLERANCE]
        return _Curvature(
            largest,
            float(beyond[0]) if beyond.size else np.inf,
            len(spectrum) * float(np.finfo(float).eps),
            int(np.sum(relative < -GAUGE_TOLERANCE)),
            int(np.sum(np.abs(relative) <= GAUGE_TOLERANCE)),
            self.tangent @ frame[:, 0] if spectrum.size else np.zeros(len(self.gradient)),
        )

    def step(self) -> tuple[np.ndarray, float]:
        """The Newton step, the sign of negative eigenvalues turned round, and the slope along it."""
        spectrum, frame = self.eigen
        largest, along = float(np.abs(spectrum).max(initial=0.0)), frame.T @ (self.tangent.T @ self.gradient)
        curved = np.abs(spectrum) > GAUGE_TOLERANCE * largest
        # what gradient there is along a zero mode is not gauge: go down it
        loose = ~curved & (np.abs(along) > 1e-3 * np.linalg.norm(along))
        y = np.where(
            curved, -along / np.where(curved, np.abs(spectrum), 1), np.where(loose, -along / max(largest, 1e-300), 0)
        )
        return self.tangent @ (frame @ y), float(along @ y)


class _FreeSplit(_Split):
    """With products alone: conjugate gradients for the step, Lanczos for the smallest eigenvalue."""

    dense = False

    def __init__(self, at: At):
        Q, R = np.linalg.qr(at.jacobian.T)
        U, s, Vt = np.linalg.svd(R.T, full_matrices=False)
        super().__init__(at, U, s, Q @ Vt.T)

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """The Riemannian Hessian, x tangent."""
        return self.project(self.at.hessian(self.multipliers, x[:, None])[:, 0])

    def curvature(self) -> _Curvature:
        """Lanczos on what is tangent and no orthogonal symmetry between layers, from a fixed random start."""
        gauge = _gauge_basis(self.at.factors)

        def inside(x: np.ndarray) -> np.ndarray:
            x = self.project(x)
            return x if gauge is None else x - gauge @ (gauge.T @ x)

        size = len(self.gradient)
        inner = size - self.rank - (0 if gauge is None else gauge.shape[1])
        r = self.at.factors[0].shape[0]
        modes = (self.at.depth - 1) * r * (r - 1) // 2
        if inner <= 0:
            return _Curvature(1.0, np.inf, 0.0, 0, modes, np.zeros(size))
        start = inside(np.random.default_rng(0).standard_normal(size))
        found = smallest_eigenvalue(lambda x: inside(self.hessian(inside(x))), start, dimension=inner)
        lowest, error = found.value / found.largest, found.residual / found.largest
        return _Curvature(
            found.largest,
            lowest,
            error,
            int(lowest < -GAUGE_TOLERANCE),
            modes + int(abs(lowest) <= GAUGE_TOLERANCE),
            found.vector,
        )

    def step(self) -> tuple[np.ndarray, float]:
        """The inexact Newton step, ended where curvature is negative, and the slope along it."""
        gradient = self.reduced
        size = float(np.linalg.norm(gradient))
        goal = min(0.1, np.sqrt(self.stationarity)) * size
        x, residual, direction = np.zeros_like(gradient), -gradient, -gradient
        rho = size**2
        for count in range(CONJUGATE_STEPS):
            image = self.hessian(direction)
            curvature = float(direction @ image)
            if curvature <= 1e-14 * np.linalg.norm(direction) * np.linalg.norm(image):
                if count == 0:
                    x = -gradient
                elif curvature < 0:
                    x = x - rho / curvature * direction  # as far as with the sign turned round
                break
            x, residual = x + rho / curvature * direction, residual - rho / curvature * image
            rho, old = float(residual @ residual), rho
            if np.sqrt(rho) <= goal:
                break
            direction = residual + rho / old * direction
        return x, float(gradient @ x)


def _gauge_basis(layers: Layers) -> np.ndarray | None:
    """Orthonormal basis of `(.., Omega W_l, -W_{l+1} Omega, ..)`, Omega antisymmetric; None where it is too large."""
    r, p = layers[0].shape[0], sum(W.size for W in layers)
    count = (len(layers) - 1) * r * (r - 1) // 2
    if count == 0 or count * p > GAUGE_LIMIT:
        return None
    modes, column = np.zeros((count, p)), 0
    for j in range(len(layers) - 1):
        for a, b in zip(*np.triu_indices(r, 1), strict=True):
            moved = [np.zeros_like(W) for W in layers]
            moved[j][a], moved[j][b] = layers[j][b], -layers[j][a]
            moved[j + 1][:, b], moved[j + 1][:, a] = -layers[j + 1][:, a], layers[j + 1][:, b]
            modes[column] = flatten(tuple(moved))
            column += 1
    return np.linalg.qr(modes.T)[0]


class _Path:
    """Points of one inner width, brought back to the set."""

    def __init__(self, model: Model, factors: Layers):
        self.model, self.shapes = model, [W.shape for W in factors]
        tiny = np.finfo(float).tiny
        self.enough = 1e-26 * max(model.energy, tiny)
        self.limit = 1e-18 * max(model.energy, tiny)

    def layers(self, flat: np.ndarray) -> Layers:
        return unflatten(flat, self.shapes)

    def split(self, flat: np.ndarray) -> _DenseSplit | _FreeSplit:
        at = At(self.model, self.layers(flat))
        return _DenseSplit(at) if flat.size <= DENSE_LIMIT else _FreeSplit(at)

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
    symmetry between layers are left alone. Up to `DENSE_LIMIT` parameters the Hessian is formed; beyond, steps are
    those of conjugate gradients, and the smallest eigenvalue is Lanczos', with its residual.

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
        return _result(path, flat, split, None, 0, Outcome.infeasible)
    best, stuck, iterations, curvature = np.inf, 0, 0, None
    for iterations in range(max_iterations + 1):
        share = split.stationarity
        curvature = split.curvature() if split.dense or share <= tolerance else None
        saddle = curvature is not None and curvature.saddle
        if share <= tolerance and not saddle:
            outcome = Outcome.converged
            break
        stuck = 0 if share < 0.5 * best else stuck + 1
        best = min(best, share)
        if iterations == max_iterations or stuck >= PATIENCE:
            # no halving for so long is a stall, whatever the count
            slow = Outcome.stalled if stuck >= PATIENCE // 2 else Outcome.max_iterations
            outcome = Outcome.saddle if share <= tolerance else slow
            break
        if curvature is not None and share <= tolerance:
            step, slope = 1e-2 * np.linalg.norm(flat) * curvature.direction, 0.0
        else:
            step, slope = split.step()
        length = min(1.0, 0.5 * float(np.linalg.norm(flat)) / max(float(np.linalg.norm(step)), 1e-300))
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
    return _result(path, flat, split, curvature or split.curvature(), iterations, outcome)


def _result(
    path: _Path, flat: np.ndarray, split: _Split, curvature: _Curvature | None, iterations: int, outcome: Outcome
) -> NewtonResult:
    layers = path.layers(flat)
    r = layers[0].shape[0]
    return NewtonResult(
        layers,
        split.trace,
        path.loss(path.model.residuals(layers)),
        split.stationarity,
        split.multipliers,
        np.nan if curvature is None else curvature.lowest,
        np.nan if curvature is None else curvature.error,
        0 if curvature is None else curvature.negative,
        0 if curvature is None else curvature.zero_modes,
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
    inverse = [(v / np.sqrt(np.maximum(w, SINGULAR * w[-1] + TINY))) @ v.T for w, v in weights]
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
    """A fixed-point step for `max a . g / sum_l sqrt(a^T rho_l a o_l)`: reweighted least squares.

    Where no Gram matrix sees a side, there is nothing to weigh by, and the side stays as it is.
    """
    sizes = np.sqrt(np.maximum(np.einsum("a,lab,b->l", before, grams, before), TINY))
    values, vectors = np.linalg.eigh(np.einsum("l,lab->ab", np.sqrt(np.maximum(others, 0)) / sizes, grams))
    if not values[-1] > 0:
        return before
    a = vectors @ ((vectors.T @ target) / np.maximum(values, SINGULAR * values[-1]))
    length = np.linalg.norm(a)
    return a / length if np.isfinite(length) and length > 0 else before


def _with_channel(at: At, rho: np.ndarray, kappa: np.ndarray, a: np.ndarray, b: np.ndarray, share: float) -> Layers:
    size = share * float(np.linalg.norm(at.P[0] @ at.factors[0], 2))
    ups = np.einsum("a,lab,b->l", a, rho, a)
    downs = np.einsum("a,lab,b->l", b, kappa, b)
    # where the measurements do not see the channel yet, its cost is of higher order: any moderate balance will do
    ups, downs = (np.maximum(x, FLOOR * x.max() if x.max() > 0 else 1.0) for x in (ups, downs))
    t = np.sqrt(size) * (downs / ups) ** 0.25  # t_1 .. t_{L-1}
    W = list(at.factors)
    layers = [np.vstack([W[0], (size / t[0]) * b])]
    for j in range(1, at.depth - 1):
        grown = np.zeros((W[j].shape[0] + 1, W[j].shape[1] + 1))
        grown[:-1, :-1], grown[-1, -1] = W[j], t[j - 1] / t[j]
        layers.append(grown)
    return (*layers, np.column_stack([W[-1], t[-1] * a]))
