"""Where flatness-seeking dynamics drift along the zero-loss set: rates of the leading order.

Normalisation: `f(W) = (1/n) sum_i (prediction_i(W) - b_i)^2`, `H` its Hessian at zero loss, `P_T` the projection on the
tangent space of the zero-loss set. Each rate is the factor c with which one step moves params, to leading order in the
step size, by `-c P_T grad R`; the regulariser R is named in each function. The rates do not depend on the
normalisation of f, because R carries it. Common derivation: near a point of the set write the offset as d. A step
along `grad f` moves the point along the set by `-eta/2 P_T grad_W <d d^T, H(W)>`, so that all is decided by the second
moment of the offset at which the gradient is taken.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from flatmin._core import UsageError, checked, is_traced
from flatmin.theory._statements import statement


@checked()
@statement("value", "[Damian, Ma, Lee 2021], [Li, Wang, Arora 2022]", "zero loss, eta lambda_max(H) -> 0; R = tr H")
def label_noise_drift_rate(learning_rate: ArrayLike, noise: ArrayLike, batch_size: int) -> Float[Array, "..."]:
    """`c = eta^2 sigma^2 / (2 B)` of label-noise SGD, R = tr H.

    The gradient noise `(2/B) sum xi_i J_i` has the covariance `(2 sigma^2 / B) H`. The offset in a direction of
    curvature lambda then has the variance `eta^2 (2 sigma^2 lambda / B) / (eta lambda (2 - eta lambda))`, which tends
    to `eta sigma^2 / B`.

    Args:
        learning_rate: eta.
        noise: sigma, the standard deviation of the label noise.
        batch_size: B.

    Returns:
        The rate.

    Raises:
        UsageError: for a step size that is not positive or a batch size < 1.
    """
    return jnp.asarray(learning_rate) ** 2 * jnp.asarray(noise) ** 2 / (2 * batch_size)


@checked()
@statement("value", "[Wen, Ma, Li 2023]", "zero loss, batch of one, eta max ||grad prediction_i||^2 -> 0; R = tr H")
def one_sample_sharpness_aware_drift_rate(learning_rate: ArrayLike, radius: ArrayLike) -> Float[Array, "..."]:
    """`c = eta rho^2 / 2` of one-sample sharpness-aware descent, R = tr H.

    The gradient of sample i is taken at the offset `+- rho J_i / ||J_i||`, the top direction of the sample's own
    Hessian `2 J_i J_i^T`; the mean over samples of the gradients of their largest eigenvalues is that of `tr H`.

    Args:
        learning_rate: eta.
        radius: rho.

    Returns:
        The rate.

    Raises:
        UsageError: for a step size that is not positive.
    """
    return jnp.asarray(learning_rate) * jnp.asarray(radius) ** 2 / 2


@checked()
@statement("value", "[Wen, Ma, Li 2023]; finite-step factor derived here", "zero loss, simple largest eigenvalue")
def sharpness_aware_drift_rate(
    learning_rate: ArrayLike, radius: ArrayLike, sharpness: ArrayLike = 0.0
) -> Float[Array, "..."]:
    """`c = (eta rho^2 / 2) / (1 - eta S / 2)^2` of full-batch sharpness-aware descent, R = lambda_max(H).

    The offset turns into the top direction and there jumps from one side to the other: `d' = d - eta S (d + rho
    sign d) = -d` at `|d| = eta S rho / (2 - eta S)`. The gradient is taken at `|d| + rho = rho / (1 - eta S / 2)`. With
    S = 0 it is the limit `eta rho^2 / 2` of the paper.

    Args:
        learning_rate: eta.
        radius: rho.
        sharpness: S = lambda_max(H), below 2 / eta; 0 for the limit of small steps.

    Returns:
        The rate.

    Raises:
        UsageError: for a step size that is not positive, a negative radius, or a sharpness outside [0, 2 / eta).
    """
    if not is_traced(learning_rate, sharpness) and np.any(np.asarray(learning_rate) * np.asarray(sharpness) >= 2):
        raise UsageError(
            f"sharpness: got {sharpness}, expected S < 2 / learning_rate; beyond it the offset does not stay bounded"
        )
    eta = jnp.asarray(learning_rate)
    return eta * jnp.asarray(radius) ** 2 / 2 / (1 - eta * jnp.asarray(sharpness) / 2) ** 2


@checked()
@statement(
    "value", "[Arora, Li, Panigrahi 2022]", "zero loss, simple largest eigenvalue, eta -> 0; R = log lambda_max(H)"
)
def normalised_descent_drift_rate(learning_rate: ArrayLike) -> Float[Array, "..."]:
    """`c = eta^2 / 4` of normalised gradient descent, R = log lambda_max(H).

    The offset jumps along the top direction between a and a - eta, for some a in (0, eta); a step moves the point
    by `-(eta / 2) |d| P_T grad log lambda_max`, and the mean of |d| over the two is eta / 2 for every a.

    Args:
        learning_rate: eta, the length of a step.

    Returns:
        The rate.

    Raises:
        UsageError: for a step size that is not positive.
    """
    return jnp.asarray(learning_rate) ** 2 / 4
