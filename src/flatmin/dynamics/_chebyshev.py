"""Coefficients of the Runge-Kutta-Chebyshev method of order two.

An explicit method of s stages whose stability interval on the negative real axis, about `0.65 s^2`, grows with the
square of the work: made for gradient flows, which are moderately stiff and have real spectra. Formulas of Sommeijer,
Shampine and Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comput. Appl. Math. 88 (1998), Section 2.
"""

import functools
import math

import numpy as np
from jaxtyping import Float

DAMPING = 2 / 13
MOST_STAGES = 40


def stages_for(radius: float) -> int:
    """Fewest stages that are stable for `step size * spectral radius = radius`.

    Args:
        radius: a non-negative number.

    Returns:
        From 2 to `MOST_STAGES`.
    """
    return min(MOST_STAGES, max(2, math.ceil(math.sqrt(1 + 1.54 * radius))))


def stable_radius(stages: int) -> float:
    """The largest `step size * spectral radius` for which s stages are stable."""
    return (stages**2 - 1) / 1.54


@functools.cache
def coefficients(stages: int) -> Float[np.ndarray, "stages 5"]:
    """`(mu, nu, mu~, gamma~, c)` of the stages 1..s; the last is the solution, c its time as a part of the step.

    `Y_1 = Y_0 + mu~_1 h F_0` and `Y_j = (1 - mu_j - nu_j) Y_0 + mu_j Y_{j-1} + nu_j Y_{j-2} + mu~_j h F_{j-1} +
    gamma~_j h F_0`.

    Args:
        stages: s >= 2.

    Returns:
        One row a stage.
    """
    w0 = 1 + DAMPING / stages**2
    T, dT, ddT = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for j in range(2, stages + 1):
        T.append(2 * w0 * T[j - 1] - T[j - 2])
        dT.append(2 * T[j - 1] + 2 * w0 * dT[j - 1] - dT[j - 2])
        ddT.append(4 * dT[j - 1] + 2 * w0 * ddT[j - 1] - ddT[j - 2])
    w1 = dT[-1] / ddT[-1]
    b = [0.0, 0.0, *(ddT[j] / dT[j] ** 2 for j in range(2, stages + 1))]
    b[0] = b[1] = b[2]
    rows = [(0.0, 0.0, b[1] * w1, 0.0, w1 * ddT[2] / dT[2] / (4 * w0))]
    for j in range(2, stages + 1):
        mu, nu = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2]
        mu_tilde = 2 * b[j] * w1 / b[j - 1]
        gamma = -(1 - b[j - 1] * T[j - 1]) * mu_tilde
        rows.append((mu, nu, mu_tilde, gamma, w1 * ddT[j] / dT[j]))
    return np.asarray(rows)
