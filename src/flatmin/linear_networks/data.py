"""The data of a univariate regression, as the engine needs them."""

import dataclasses

import numpy as np
from jaxtyping import ArrayLike

from flatmin._core import RealArray, UsageError, check_finite, checked


@dataclasses.dataclass(frozen=True)
class RegressionData:
    """Inputs, outputs and what follows from them, all float64 on the host.

    Attributes:
        inputs: X, shape (n, d).
        outputs: y, shape (n,).
        covariance: `Sigma = X^T X / n`, shape (d, d).
        solution: `w*`, the least-squares solution of smallest norm, shape (d,).
        least_loss: `(1/n) ||X w* - y||^2`.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    covariance: np.ndarray
    solution: np.ndarray
    least_loss: float

    @property
    def dimension(self) -> int:
        """d, the number of features."""
        return self.inputs.shape[1]

    @property
    def alignment(self) -> float:
        """`a = w*^T Sigma w* / ||w*||^2`; NaN when `w* = 0`, where it is not defined [M, Thm 1]."""
        squared = float(self.solution @ self.solution)
        return float(self.solution @ self.covariance @ self.solution) / squared if squared > 0 else float("nan")

    @property
    def top_eigenvalue(self) -> float:
        """`Lambda = lambda_max(Sigma)`."""
        return float(np.linalg.eigvalsh(self.covariance)[-1])

    @property
    def solution_norm(self) -> float:
        """`||w*||`."""
        return float(np.linalg.norm(self.solution))


@checked(inputs=RealArray("n d", host=True, nonempty=True), outputs=RealArray("n", host=True))
def regression_data(inputs: ArrayLike, outputs: ArrayLike) -> RegressionData:
    """The data of `f(w) = (1/n) ||X w - y||^2`.

    Args:
        inputs: X, shape (n, d).
        outputs: y, shape (n,).

    Returns:
        The data with their covariance and least-squares solution.

    Raises:
        UsageError: for shapes that do not fit, no data, NaN or infinite values.
    """
    X, y = np.asarray(inputs, dtype=np.float64), np.asarray(outputs, dtype=np.float64)
    if X.ndim != 2 or y.shape != X.shape[:1] or X.size == 0:
        raise UsageError(f"inputs, outputs: got shapes {X.shape} and {y.shape}, expected (n, d) and (n,), not empty")
    check_finite("inputs", X)
    check_finite("outputs", y)
    solution = np.linalg.lstsq(X, y, rcond=None)[0]
    residual = X @ solution - y
    return RegressionData(X, y, X.T @ X / len(y), solution, float(residual @ residual / len(y)))
