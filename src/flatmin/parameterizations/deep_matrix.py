"""The deep matrix factorisation `M = W_L ... W_1`."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from flatmin._core import UsageError, check_shape, checked, is_traced
from flatmin.parameterizations._base import AbstractParameterization, unknown_scheme
from flatmin.parameterizations.params import check_params, params_shape, shapes
from flatmin.parameterizations.schemes import (
    AbstractScheme,
    Balanced,
    Flattest,
    Gaussian,
    Orthogonal,
    Residual,
    Small,
)

SCAN_DEPTH = 16  # from this depth on, equal hidden layers are scanned

Layers = tuple[Float[Array, "_ _"], ...]


@checked()
class DeepMatrix(AbstractParameterization):
    """`E(W) = W_L ... W_1` with `W_l` of shape `(d_l, d_{l-1})`; params are the tuple `(W_1, ..., W_L)`.

    Attributes:
        widths: `(d_0, ..., d_L)`; the matrix has shape `(d_L, d_0)`. A hidden width below `min(d_0, d_L)` makes it a
            model of low rank: `(d, r, d)` is `U V^T`. Traces and eigenvalues are right at all widths; what needs every
            matrix to be reached (the flattest interpolator, flat programmes) says so.
    """

    widths: tuple[int, ...] = eqx.field(static=True)

    def __check_init__(self):
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise UsageError(
                f"widths: got {self.widths}, expected (d_0, ..., d_L) with at least two entries, all at least 1"
            )

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d_L, d_0)`."""
        return self.widths[-1], self.widths[0]

    @property
    def depth(self) -> int:
        """L, the number of factors."""
        return len(self.widths) - 1

    @property
    def max_rank(self) -> int:
        """The smallest width: the largest rank that the product can have."""
        return min(self.widths)

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes `(d_l, d_{l-1})` of the factors, first to last."""
        return tuple(zip(self.widths[1:], self.widths[:-1], strict=True))

    def matrix(self, params: PyTree) -> Float[Array, "d_L d_0"]:
        """The product, multiplied from its thinner end; deep stacks of equal layers are scanned to compile in O(1).

        Raises:
            UsageError: for params of another number, shape or type.
        """
        params = check_params(self, params)
        hidden = params[1:-1]
        if len(params) >= SCAN_DEPTH and len({layer.shape for layer in hidden}) == 1:
            stacked = jnp.stack(hidden)
            if self.widths[-1] <= self.widths[0]:
                left = jax.lax.scan(lambda P, W: (P @ W, None), params[-1], stacked, reverse=True)[0]
                return left @ params[0]
            return params[-1] @ jax.lax.scan(lambda Q, W: (W @ Q, None), params[0], stacked)[0]
        if self.widths[-1] <= self.widths[0]:
            product = params[-1]
            for layer in params[-2::-1]:
                product = product @ layer
        else:
            product = params[0]
            for layer in params[1:]:
                product = layer @ product
        return product

    @checked()
    def init_params(self, key: Key[Array, ""], scheme: AbstractScheme) -> Layers:
        """Factors by `Gaussian`, `Small`, `Orthogonal`, `Residual`, `Balanced` or `Flattest`.

        Args:
            key: random key; `Balanced` and `Flattest` use it for the free orthonormal frames.
            scheme: the scheme.

        Returns:
            The tuple of factors.

        Raises:
            UsageError: for an unknown scheme, a matrix of the wrong shape, or one of higher rank than the widths allow.
        """
        keys = jax.random.split(key, self.depth)
        match scheme:
            case Gaussian():
                return tuple(
                    scheme.scale * jax.random.normal(k, s) for k, s in zip(keys, self.layer_shapes, strict=True)
                )
            case Small():
                return tuple(
                    scheme.scale / s[1] ** 0.5 * jax.random.normal(k, s)
                    for k, s in zip(keys, self.layer_shapes, strict=True)
                )
            case Orthogonal():
                return tuple(scheme.gain * _semi_orthogonal(k, s) for k, s in zip(keys, self.layer_shapes, strict=True))
            case Residual():
                return tuple(
                    jnp.eye(*s) + scheme.scale / (self.depth * s[1]) ** 0.5 * jax.random.normal(k, s)
                    for k, s in zip(keys, self.layer_shapes, strict=True)
                )
            case Balanced():
                return self._from_svd(keys, scheme.matrix, _balanced_scales)
            case Flattest():
                return self._from_svd(keys, scheme.matrix, _flattest_scales)
            case _:
                raise unknown_scheme(self, scheme, "Gaussian, Small, Orthogonal, Residual, Balanced, Flattest")

    def _from_svd(self, keys, matrix: Float[Array, "d_L d_0"], scales) -> Layers:
        """`W_1 = O_1 D_1 V^T`, `W_l = O_l D_l O_{l-1}^T`, `W_L = U D_L O_{L-1}^T`, with the diagonals from `scales`."""
        check_shape("matrix", matrix, self.matrix_shape)
        U, s, Vt = jnp.linalg.svd(matrix, full_matrices=False)
        # computed zeros first: to the power 1/L they would be far from zero
        s = jnp.where(s > max(matrix.shape) * jnp.finfo(s.dtype).eps * s[0], s, 0)
        k = self.max_rank
        if k < s.shape[0]:
            U, s, Vt = U[:, :k], self._reachable(s), Vt[:k]
        inner = [_semi_orthogonal(k, (width, s.shape[0])) for k, width in zip(keys, self.widths[1:-1], strict=False)]
        frames = [Vt.T, *inner, U]
        diagonals = scales(s, self.widths)
        return tuple(
            ((frames[i + 1] * diagonals[i][None, :]) @ frames[i].T).astype(matrix.dtype) for i in range(self.depth)
        )

    def _reachable(self, s: Float[Array, " r"]) -> Float[Array, " k"]:
        """The first k singular values, where the others are zero."""
        k = self.max_rank
        sentence = f"the smallest of the widths {self.widths}: widen the hidden layers, or give a matrix of that rank"
        if is_traced(s):
            return eqx.error_if(s[:k], s[k] > 0, f"matrix: has a rank above {k}, {sentence}")
        if float(s[k]) > 0:
            raise UsageError(f"matrix: has rank {int(jnp.sum(s > 0))}, expected at most {k}, {sentence}")
        return s[:k]


@params_shape.register
def _(parameterization: DeepMatrix):
    return shapes(*parameterization.layer_shapes)


@checked()
def deep_matrix(matrix_shape: tuple[int, int], depth: int, width: int | None = None) -> DeepMatrix:
    """A deep factorisation with equal hidden widths.

    Args:
        matrix_shape: (d_L, d_0).
        depth: L >= 1.
        width: hidden width; below min(d_0, d_L) the matrix has at most this rank; default: max(d_0, d_L).

    Returns:
        The parameterization.

    Raises:
        UsageError: for a depth or a width below 1.
    """
    if depth < 1:
        raise UsageError(f"depth: got {depth}, expected at least 1")
    d_out, d_in = matrix_shape
    hidden = max(d_out, d_in) if width is None else width
    return DeepMatrix((int(d_in), *(int(hidden),) * (depth - 1), int(d_out)))


def _semi_orthogonal(key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "a b"]:
    """A Haar-distributed matrix with orthonormal columns (rows, if wide)."""
    return jax.random.orthogonal(key, max(shape), shape=())[: shape[0], : shape[1]]


def _balanced_scales(s: Float[Array, " r"], widths: tuple[int, ...]) -> list[Array]:
    depth = len(widths) - 1
    return [s ** (1 / depth)] * depth


def _flattest_scales(s: Float[Array, " r"], widths: tuple[int, ...]) -> list[Array]:
    # [G, Lemma 4]: k = (d_0 d_L ||M||_*^{L-2})^{-1/L}; W_1 = sqrt(d_0 k) O_1 S^{1/2} V^T,
    # W_l = sqrt(||M||_* k) O_l O_{l-1}^T, W_L = sqrt(d_L k) U S^{1/2} O_{L-1}^T
    depth, d_in, d_out = len(widths) - 1, widths[0], widths[-1]
    if depth == 1:
        return [s]
    nuclear = jnp.sum(s)
    safe = jnp.where(nuclear > 0, nuclear, 1)
    k = (d_in * d_out) ** (-1 / depth) * safe ** (-(depth - 2) / depth)
    middle = jnp.where(s > 0, jnp.sqrt(safe * k), 0)
    return [jnp.sqrt(d_in * k * s), *[middle] * (depth - 2), jnp.sqrt(d_out * k * s)]
