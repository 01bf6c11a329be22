"""Trace and residuals of factors of any inner width, with first and second derivatives, in NumPy.

Everything depends on the measurements through two arrays: their matrix (k, d1 d2), k <= min(m, d1 d2) rows being
enough, and the fourth moment `sum_i A_i (x) A_i`, as a matrix that maps the upper triangle of a symmetric T to that of
`sum_i A_i T A_i^T`. Written by hand, because a new inner width is then no new compilation.
"""

import numpy as np
from jaxtyping import Float

from flatmin.measurements import AbstractMeasurements, materialise

Layers = tuple[Float[np.ndarray, "_ _"], ...]
ENTRIES_LIMIT = 4000  # d1 d2 up to which the fourth moment is made: (d1 d2)^2 numbers, of which a quarter is kept
BATCH = 128  # directions differentiated along at the same time


def fits(measurements: AbstractMeasurements) -> bool:
    """Whether the arrays above are of a reasonable size."""
    d1, d2 = measurements.matrix_shape
    return d1 * d2 <= ENTRIES_LIMIT and measurements.num_measurements * d1 * d2 <= 5e7


class Model:
    """A recovery problem of deep products, for dense second-order work.

    Args:
        measurements: the operator.
        targets: b, attainable.
    """

    def __init__(self, measurements: AbstractMeasurements, targets: Float[np.ndarray, " m"]):
        self.shape = measurements.matrix_shape
        self.count = measurements.num_measurements
        d1, d2 = self.shape
        rows, self.targets = np.asarray(materialise(measurements)).reshape(self.count, -1), np.asarray(targets)
        self.energy = float(np.mean(self.targets**2))
        if self.count > d1 * d2:
            basis, rows = np.linalg.qr(rows)
            self.targets = basis.T @ self.targets
        self.rows = rows
        moment = (rows.T @ rows).reshape(d1, d2, d1, d2)
        self._out, self._into = _Triangle(d1), _Triangle(d2)
        (a, c), (b, d) = (self._out.rows[:, None], self._out.cols[:, None]), (self._into.rows, self._into.cols)
        self.fourth = (moment[a, b, c, d] + moment[c, b, a, d]) / 2

    def residuals(self, factors: Layers) -> Float[np.ndarray, " k"]:
        """`A(E(W)) - b`, k numbers with the norm of all m."""
        return self.rows @ product(factors).ravel() - self.targets

    def row_grams(self, T: Float[np.ndarray, "... d2 d2"]) -> Float[np.ndarray, "... d1 d1"]:
        """`sum_i A_i T A_i^T` for symmetric T."""
        return self._out.unpack(self._into.pack(T) @ self.fourth.T)

    def col_grams(self, S: Float[np.ndarray, "... d1 d1"]) -> Float[np.ndarray, "... d2 d2"]:
        """`sum_i A_i^T S A_i` for symmetric S."""
        return self._into.unpack(self._out.pack(S) @ self.fourth)


class _Triangle:
    """Symmetric matrices as their entries on and above the diagonal."""

    def __init__(self, size: int):
        self.size = size
        self.rows, self.cols = np.triu_indices(size)
        self._weights = np.where(self.rows == self.cols, 1.0, 2.0)

    def pack(self, S: np.ndarray) -> np.ndarray:
        """Pairs counted twice."""
        return S[..., self.rows, self.cols] * self._weights

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """Each entry at both of its places."""
        S = np.empty((*packed.shape[:-1], self.size, self.size))
        S[..., self.rows, self.cols] = packed
        S[..., self.cols, self.rows] = packed
        return S


def product(factors: Layers) -> Float[np.ndarray, "d_L d_0"]:
    """`W_L ... W_1`."""
    matrix = factors[0]
    for layer in factors[1:]:
        matrix = layer @ matrix
    return matrix


def flatten(factors: Layers) -> Float[np.ndarray, " p"]:
    """All entries in one vector."""
    return np.concatenate([W.ravel() for W in factors])


def unflatten(
    vector: Float[np.ndarray, "... p"], shapes: list[tuple[int, int]]
) -> tuple[Float[np.ndarray, "... _ _"], ...]:
    """The factors of a vector; leading axes are kept."""
    ends = np.cumsum([a * b for a, b in shapes])
    parts = np.split(vector, ends[:-1], axis=-1)
    return tuple(part.reshape(*vector.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True))


def _t(X: np.ndarray) -> np.ndarray:
    return np.swapaxes(X, -1, -2)


class At:
    """A model at a point: partial products `P_l`, `Q_l`, their Grams and what the measurements make of these."""

    def __init__(self, model: Model, factors: Layers):
        self.model, self.factors, self.depth = model, factors, len(factors)
        d1, d2 = model.shape
        lefts, rights = [np.eye(d1)], [np.eye(d2)]
        for W in factors[:0:-1]:
            lefts.append(lefts[-1] @ W)
        for W in factors[:-1]:
            rights.append(W @ rights[-1])
        self.P, self.Q = lefts[::-1], rights
        S, T = np.stack([P @ P.T for P in self.P]), np.stack([Q.T @ Q for Q in self.Q])
        self.rho, self.kappa = model.row_grams(T), model.col_grams(S)
        self.scale = 2 / model.count
        self.trace = self.scale * float(np.vdot(S, self.rho))

    @property
    def gradient(self) -> Float[np.ndarray, " p"]:
        """Gradient of the trace."""
        left = [2 * self.scale * rho @ P for rho, P in zip(self.rho, self.P, strict=True)]
        right = [2 * self.scale * Q @ kappa for Q, kappa in zip(self.Q, self.kappa, strict=True)]
        return flatten(tuple(self._pull_back(left, right)))

    def _pull_back(self, left: list, right: list) -> list[np.ndarray]:
        """From derivatives with respect to all `P_l`, `Q_l` to those with respect to the factors."""
        W, P, Q, L = self.factors, self.P, self.Q, self.depth
        grads = [np.zeros(layer.shape) for layer in W]
        carried = left[0]
        for j in range(1, L):  # P_{l-1} = P_l W_l
            grads[j] = grads[j] + P[j].T @ carried
            carried = left[j] + carried @ W[j].T
        carried = right[-1]
        for j in range(L - 2, -1, -1):  # Q_{l+1} = W_l Q_l
            grads[j] = grads[j] + carried @ Q[j].T
            carried = right[j] + W[j].T @ carried
        return grads

    @property
    def jacobian(self) -> Float[np.ndarray, "k p"]:
        """`P_l^T A_i Q_l^T` for all i and l."""
        d1, d2 = self.model.shape
        A = self.model.rows.reshape(-1, d1, d2)
        return np.concatenate(
            [(P.T @ A @ Q.T).reshape(len(A), -1) for P, Q in zip(self.P, self.Q, strict=True)], axis=1
        )

    def hessian(self, multipliers: Float[np.ndarray, " k"], directions: Float[np.ndarray, "p t"]) -> np.ndarray:
        """`H Z` for the Hessian H of `tr - y . r` and the columns of Z, shape (p, t)."""
        pull = (multipliers @ self.model.rows).reshape(self.model.shape)
        parts = [self._directional(pull, directions[:, i : i + BATCH].T) for i in range(0, directions.shape[1], BATCH)]
        return np.concatenate(parts).T if parts else np.zeros((directions.shape[0], 0))

    def _directional(self, pull: np.ndarray, directions: np.ndarray) -> np.ndarray:
        W, P, Q, L = self.factors, self.P, self.Q, self.depth
        dW = unflatten(directions, [layer.shape for layer in W])
        count = len(directions)
        dP: list[np.ndarray] = [np.zeros((count, *P[-1].shape))]
        for j in range(L - 1, 0, -1):
            dP.append(dP[-1] @ W[j] + P[j] @ dW[j])
        dP.reverse()
        dQ: list[np.ndarray] = [np.zeros((count, *Q[0].shape))]
        for j in range(L - 1):
            dQ.append(dW[j] @ Q[j] + W[j] @ dQ[-1])
        dleft, dright, left, right = [], [], [], []
        dS, dT = np.stack([x @ P[j].T for j, x in enumerate(dP)]), np.stack([_t(x) @ Q[j] for j, x in enumerate(dQ)])
        drho, dkappa = self.model.row_grams(dT + _t(dT)), self.model.col_grams(dS + _t(dS))
        for j in range(L):
            dleft.append(2 * self.scale * (drho[j] @ P[j] + self.rho[j] @ dP[j]))
            dright.append(2 * self.scale * (Q[j] @ dkappa[j] + dQ[j] @ self.kappa[j]))
            left.append(2 * self.scale * self.rho[j] @ P[j])
            right.append(2 * self.scale * Q[j] @ self.kappa[j])
        images = [np.zeros((count, *layer.shape)) for layer in W]
        carried, dcarried = left[0], dleft[0]
        for j in range(1, L):
            images[j] += P[j].T @ dcarried + _t(dP[j]) @ carried
            carried, dcarried = left[j] + carried @ W[j].T, dleft[j] + dcarried @ W[j].T + carried @ _t(dW[j])
        carried, dcarried = right[-1], dright[-1]
        for j in range(L - 2, -1, -1):
            images[j] += dcarried @ Q[j].T + carried @ _t(dQ[j])
            carried, dcarried = right[j] + W[j].T @ carried, dright[j] + W[j].T @ dcarried + _t(dW[j]) @ carried
        for j in range(L):
            images[j] -= _t(dP[j]) @ pull @ Q[j].T + P[j].T @ pull @ _t(dQ[j])
        return np.concatenate([image.reshape(count, -1) for image in images], axis=1)
