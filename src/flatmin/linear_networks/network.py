"""The networks of the engine and their weights in batch-last layout."""

from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from flatmin._core import Optional, RealArray, UsageError, check_at_least, checked, choose, require_float64

Form = Literal["mlp", "residual"]
Activation = Literal["identity", "gelu", "relu", "tanh"]


@checked()
class Weights(eqx.Module):
    """Weights of many runs; the run is the last axis. Stored so that the equal layers are one array.

    Attributes:
        first: `W_1`, shape (w, d, runs), where the width differs from d; else None and `W_1` is `inner[0]`.
        inner: the square layers, shape (layers, w, w, runs).
        last: `W_L` of an MLP, shape (w, runs); None in the residual form, whose output vector is fixed.
    """

    first: Float[Array, "w d runs"] | None
    inner: Float[Array, "k w w runs"]
    last: Float[Array, "w runs"] | None

    @property
    def runs(self) -> int:
        """The number of runs."""
        return self.inner.shape[-1]

    @property
    def layers(self) -> tuple[Float[Array, "d_out d_in runs"], ...]:
        """`(W_1, ..., W_L)`, each of shape (d_out, d_in, runs)."""
        before = () if self.first is None else (self.first,)
        after = () if self.last is None else (self.last[None],)
        return (*before, *self.inner, *after)

    def of_run(self, run: int) -> tuple[Float[Array, "d_out d_in"], ...]:
        """The layers of one run."""
        return tuple(layer[..., run] for layer in self.layers)


@checked(output_vector=Optional(RealArray("dimension", host=True)))
class Network(eqx.Module):
    """A network with one output: `W_L .. W_1 x`, `p^T W_L .. W_1 x`, or an MLP with an activation [M, Sec 2, 5].

    Attributes:
        dimension: d, the number of features.
        depth: L, the number of trained layers.
        width: hidden width w; d in the residual form.
        form: `"mlp"` (`W_L` of shape (1, w)) or `"residual"` (square layers, output through a fixed unit vector p).
        activation: between the layers of an MLP; `"gelu"` is the tanh form, as `jax.nn.gelu`.
        output_vector: p of the residual form, shape (d,); None for an MLP.
    """

    dimension: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    form: Form = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    output_vector: np.ndarray | None

    def __init__(
        self,
        dimension: int,
        depth: int,
        *,
        width: int | None = None,
        form: Form = "mlp",
        activation: Activation = "identity",
        output_vector: ArrayLike | None = None,
    ):
        """Check the sizes; the fixed output vector of the residual form defaults to `(1, .., 1) / sqrt(d)`."""
        check_at_least("dimension", dimension, 1)
        check_at_least("depth", depth, 1)
        choose("form", form, get_args(Form))
        choose("activation", activation, get_args(Activation))
        width = dimension if width is None else width
        check_at_least("width", width, 1)
        residual = form == "residual"
        if residual and (width != dimension or activation != "identity"):
            raise UsageError(
                f"form: the residual form has width d = {dimension} and no activation, got width {width} and "
                f"activation {activation!r}; use form='mlp'"
            )
        if not residual and output_vector is not None:
            raise UsageError("output_vector: an MLP trains its last layer; use form='residual' for a fixed one")
        unit = None
        if residual:
            vector = np.ones(dimension) if output_vector is None else np.asarray(output_vector, dtype=np.float64)
            if vector.shape != (dimension,) or not np.linalg.norm(vector) > 0:
                raise UsageError(
                    f"output_vector: got shape {vector.shape}, expected ({dimension},) and a norm above zero"
                )
            unit = vector / np.linalg.norm(vector)
        self.dimension, self.depth, self.width = int(dimension), int(depth), int(width)
        self.form, self.activation, self.output_vector = form, activation, unit

    @property
    def num_parameters(self) -> int:
        """The number of weights of one run."""
        if self.form == "residual":
            return self.depth * self.width**2
        if self.depth == 1:
            return self.dimension
        return self.dimension * self.width + (self.depth - 2) * self.width**2 + self.width

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """`(d_out, d_in)` of the trained layers, first to last."""
        if self.form == "residual":
            return ((self.width, self.width),) * self.depth
        widths = (self.dimension, *(self.width,) * (self.depth - 1), 1)
        return tuple(zip(widths[1:], widths[:-1], strict=True))

    def initial(self, key: Key[Array, ""], scales: ArrayLike, dtype: str = "float32") -> Weights:
        """Random weights: entries `s N(0, 1)`, or `W_l = I + s / sqrt(L d) N_l` in the residual form [M, Sec 5].

        Args:
            key: random key; run r uses `fold_in(key, r)`, so that its weights do not depend on the other runs.
            scales: s of each run, shape (runs,).
            dtype: `float32` or `float64`.

        Returns:
            The weights.

        Raises:
            UsageError: for scales that are not a vector, or float64 while JAX is limited to 32 bits.
        """
        scales = jnp.asarray(scales, dtype=dtype)
        if scales.ndim != 1:
            raise UsageError(f"scales: got shape {scales.shape}, expected (runs,)")
        if dtype == "float64":
            require_float64("dtype", scales)

        def draw(run):
            keys = jax.random.split(jax.random.fold_in(key, run), self.depth)
            return tuple(jax.random.normal(k, s, scales.dtype) for k, s in zip(keys, self.layer_shapes, strict=True))

        noise = jax.vmap(draw, out_axes=-1)(jnp.arange(scales.shape[0]))
        if self.form == "residual":
            factor = scales / (self.depth * self.dimension) ** 0.5
            eye = jnp.eye(self.dimension, dtype=scales.dtype)[..., None]
            return self.pack(tuple(eye + factor[None, None] * layer for layer in noise))
        return self.pack(tuple(scales[None, None] * layer for layer in noise))

    def pack(self, layers: tuple[Array, ...]) -> Weights:
        """Layers `(W_1, .., W_L)` of shape (d_out, d_in, runs) as `Weights`.

        Args:
            layers: the layers.

        Returns:
            The weights.

        Raises:
            UsageError: for shapes that are not this network's.
        """
        got = tuple(tuple(layer.shape[:-1]) for layer in layers)
        if got != self.layer_shapes:
            raise UsageError(f"layers: got shapes {got} before the run axis, expected {self.layer_shapes}")
        last = None
        if self.form == "mlp":
            layers, last = layers[:-1], layers[-1][0]
        first = None
        if layers and self.width != self.dimension:
            first, layers = layers[0], layers[1:]
        runs = (last if last is not None else layers[0]).shape[-1]
        dtype = (last if last is not None else layers[0]).dtype
        width = self.width if self.depth > 1 or self.form == "residual" else self.dimension
        inner = jnp.stack(list(layers)) if layers else jnp.zeros((0, width, width, runs), dtype)
        return Weights(first, inner, last)
