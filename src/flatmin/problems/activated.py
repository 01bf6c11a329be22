"""Regression with a multilayer perceptron: the non-linear neighbour of the deep linear problem."""

from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flatmin._core import AbstractObjective, Indices, UsageError, as_real, check_finite, checked, choose
from flatmin.measurements import pick
from flatmin.parameterizations import AbstractScheme, DeepMatrix, check_params
from flatmin.problems.recovery import check_shift

Activation = Literal["gelu", "relu", "tanh"]
_FUNCTIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}


@checked()
class ActivatedRegression(AbstractObjective):
    """`f(W) = (1/(n q)) ||Y - net(X)||^2`, `net(x) = W_L act(W_{L-1} .. act(W_1 x))`; every sum of squares a mean.

    Attributes:
        inputs: X, shape (n, d).
        outputs: Y, shape (n, q).
        layers: the shapes, as a deep matrix.
        activation: `gelu` (tanh form), `relu` or `tanh`.
    """

    inputs: Float[Array, "n d"]
    outputs: Float[Array, "n q"]
    layers: DeepMatrix
    activation: Activation = eqx.field(static=True)

    def __check_init__(self):
        choose("activation", self.activation, get_args(Activation))

    @property
    def num_samples(self) -> int:
        """N q, one loss for each output of each sample."""
        return self.outputs.size

    def init_params(self, key: Key[Array, ""], scheme: AbstractScheme) -> tuple[Array, ...]:
        """Layers by a scheme of the deep matrix."""
        return self.layers.init_params(key, scheme)

    def predict(self, params: tuple[Array, ...]) -> Float[Array, "n q"]:
        """The network's outputs; raises `UsageError` for layers of another number, shape or type."""
        params = check_params(self.layers, params)
        h = self.inputs
        for layer in params[:-1]:
            h = _FUNCTIONS[self.activation](h @ layer.T)
        return h @ params[-1].T

    def loss(self, params: tuple[Array, ...]) -> Float[Array, ""]:
        """The mean of squared residuals."""
        return jnp.mean((self.predict(params) - self.outputs) ** 2)

    def batch_loss(
        self, params: tuple[Array, ...], indices: Int[Array, " B"], label_shift: Float[Array, " B"] | None
    ) -> Float[Array, ""]:
        """Mean of the squared residuals `indices`, counted sample by sample, repeats too.

        Raises:
            UsageError: for indices outside of `[0, n q)`, or a shift of another shape; traced indices outside give NaN.
        """
        indices = Indices("B", below="m").accept("indices", indices, {"m": (self.num_samples, "outputs")})
        residual = pick((self.predict(params) - self.outputs).reshape(-1), indices)
        if label_shift is not None:
            residual = residual - check_shift(label_shift, residual.shape[0])
        return jnp.mean(residual**2)


@checked()
def activated_regression(
    inputs: Float[Array, "n d"],
    outputs: Float[Array, "n ..."],
    *,
    depth: int,
    activation: str,
    width: int | None = None,
) -> ActivatedRegression:
    """Least squares with an MLP; the arguments of `deep_linear_regression` and an activation [M, Sec 5].

    Args:
        inputs: X, shape (n, d).
        outputs: y, shape (n,), or Y, shape (n, q).
        depth: L.
        activation: `gelu`, `relu` or `tanh`.
        width: hidden width; default max(d, q).

    Returns:
        The objective; `flatmin.sharpness(problem.loss, params)` measures it.

    Raises:
        UsageError: for mismatched shapes, NaN or infinite data, an unknown activation.
    """
    X, Y = as_real("inputs", inputs), as_real("outputs", outputs)
    if Y.ndim not in (1, 2) or X.ndim != 2 or Y.shape[0] != X.shape[0]:
        raise UsageError(f"inputs, outputs: got shapes {X.shape} and {Y.shape}, expected (n, d) and (n,) or (n, q)")
    check_finite("inputs", X)
    check_finite("outputs", Y)
    Y = Y.reshape(X.shape[0], -1)
    d, q = X.shape[1], Y.shape[1]
    hidden = max(d, q) if width is None else width
    choose("activation", activation, get_args(Activation))
    return ActivatedRegression(X, Y, DeepMatrix((d, *(hidden,) * (depth - 1), q)), activation)  # pyright: ignore[reportArgumentType]
