"""Deep linear regression under its own name."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import Integer, Optional, SequenceOf, UsageError, checked, choose
from flatmin.measurements import regression
from flatmin.parameterizations import DeepMatrix, deep_matrix, residual_chain
from flatmin.problems.recovery import RecoveryProblem


@checked(widths=Optional(SequenceOf(Integer(1))))
def deep_linear_regression(
    inputs: Float[Array, "n d"],
    outputs: Float[Array, "n ..."],
    *,
    depth: int,
    width: int | None = None,
    widths: tuple[int, ...] | None = None,
    form: str = "mlp",
    readout: Float[Array, "..."] | None = None,
) -> RecoveryProblem:
    """Least squares with a deep linear network: `f(W) = (1/(n q)) ||X (W_L..W_1)^T - Y||^2` [M, Sec 2].

    Starting points: `problem.parameterization.init_params(key, Gaussian(s))`, or `Residual(s)` for the residual form.
    With an activation between the layers: `activated_regression`.

    Args:
        inputs: X, shape (n, d).
        outputs: y, shape (n,), or Y, shape (n, q).
        depth: L.
        width: hidden width; default max(d, q).
        widths: all hidden widths, (d_1, ..., d_{L-1}), instead of one.
        form: `mlp`, or `residual`: square layers and a fixed readout, `P W_L .. W_1` [M, Sec 4].
        readout: P of the residual form, see `residual_chain`.

    Returns:
        The problem; its matrix has shape (q, d).

    Raises:
        UsageError: for mismatched shapes, NaN or infinite data, or widths that do not suit the form.
    """
    inputs, outputs = jnp.asarray(inputs), jnp.asarray(outputs)
    if outputs.ndim not in (1, 2) or inputs.ndim != 2 or outputs.shape[0] != inputs.shape[0]:
        raise UsageError(
            f"inputs, outputs: got shapes {inputs.shape} and {outputs.shape}, expected (n, d) and (n,) or (n, q)"
        )
    choose("form", form, ("mlp", "residual"))
    measurements = regression(inputs, 1 if outputs.ndim == 1 else outputs.shape[1])
    shape = measurements.matrix_shape
    if form == "residual":
        if width is not None or widths is not None:
            raise UsageError("width: the layers of the residual form are d x d; leave width and widths out")
        return RecoveryProblem(measurements, residual_chain(shape, depth, readout), outputs.reshape(-1))
    if readout is not None:
        raise UsageError("readout: an MLP trains its last layer; use form='residual' for a fixed readout")
    if widths is None:
        return RecoveryProblem(measurements, deep_matrix(shape, depth, width), outputs.reshape(-1))
    if width is not None or len(widths) != depth - 1:
        raise UsageError(f"widths: got {widths} for depth {depth}, expected {depth - 1} hidden widths and no width")
    return RecoveryProblem(measurements, DeepMatrix((shape[1], *widths, shape[0])), outputs.reshape(-1))
