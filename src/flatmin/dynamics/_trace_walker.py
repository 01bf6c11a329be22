"""The compiled pieces of the trace flow, with the state that only its speed depends on."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from flatmin._core import UsageError
from flatmin.dynamics._chebyshev import MOST_STAGES, coefficients, stages_for
from flatmin.dynamics.zero_loss import (
    Residual,
    Retraction,
    cast,
    formed_kernel,
    kernel_inverse,
    project,
    retract,
    tree_add,
    tree_norm,
)

LOSS_TOLERANCE = 5e-17  # to which the retraction works
LOSS_LIMIT = 1e-16  # above which a step is refused
FORMED_LIMIT = 1500  # measurements up to which the kernel is formed, to make conjugate gradients short
LIGHT_FROM = 2**20  # numbers in the residual map from which slopes are computed in single precision
DOUBLE_TOLERANCE = 1e-9  # of kernel solves in double precision
FORMING = 0.1  # what forming the kernel costs, in products with it a measurement: it is done in blocks
LIGHT_SHARE = 1e-3  # part of the gradient that is tangent below which `auto` goes over to double precision


class _Field(eqx.Module):
    """The vector field; a pytree, so that a new problem of equal shape is no new trace."""

    trace: Callable[[PyTree], Any]
    residual: Residual

    def slope(
        self, params: PyTree, inverse: Array | None, guess: Array, tolerance: float, size: Array | None = None
    ) -> tuple:
        """`(-P_T grad tr, multipliers, ||J grad tr||, products, ||P_T grad tr|| / ||grad tr||)`."""
        gradient = jax.grad(lambda p: jnp.asarray(self.trace(p)))(params)
        split = project(self.residual, params, gradient, inverse=inverse, start=guess, size=size, tolerance=tolerance)
        whole = tree_norm(gradient)
        share = tree_norm(split.tangent) / jnp.where(whole > 0, whole, 1)
        return jax.tree.map(jnp.negative, split.tangent), split.multipliers, split.size, split.iterations, share


@eqx.filter_jit
def _slope(field: _Field, params: PyTree, inverse: Array | None, guess: Array, tolerance: float) -> tuple:
    return field.slope(params, inverse, guess, tolerance)


@eqx.filter_jit
def _stages(
    field: _Field,
    start: PyTree,
    first: PyTree,
    guess: Array,
    size: Array,
    inverse: Array | None,
    step: Array,
    table: Float[Array, "most 5"],
    stages: Array,
    tolerance: float,
) -> tuple[PyTree, Array, Array]:
    """One step: its end (as a displacement of the start), the largest observed stiffness, products."""
    zero = jax.tree.map(jnp.zeros_like, start)
    one = tree_add(zero, step * table[0, 2], first)  # all stages are kept as displacements: no cancellation

    def body(j, state):
        before, last, guess, radius, products = state
        slope, guess, _, count, _ = field.slope(tree_add(start, 1.0, last), inverse, guess, tolerance, size)
        change, moved = tree_norm(tree_add(slope, -1.0, first)), tree_norm(last)
        radius = jnp.maximum(radius, change / jnp.where(moved > 0, moved, 1))
        mu, nu, mu_tilde, gamma = (table[j, k] for k in range(4))
        new = jax.tree.map(
            lambda a, b, f, f0: mu * a + nu * b + step * (mu_tilde * f + gamma * f0), last, before, slope, first
        )
        return last, new, guess, radius, products + count

    init = (zero, one, guess, jnp.zeros((), step.dtype), jnp.zeros((), jnp.int32))
    _, end, _, radius, products = jax.lax.fori_loop(1, stages, body, init)
    return end, radius, products


@eqx.filter_jit
def _retract(residual: Residual, params: PyTree, light: Residual | None, inverse: Array | None) -> Retraction:
    return retract(residual, params, light=light, inverse=inverse, tolerance=LOSS_TOLERANCE)


@eqx.filter_jit
def _inverse(residual: Residual, params: PyTree) -> Array:
    return kernel_inverse(formed_kernel(residual, params))


@eqx.filter_jit
def value_of(fn: Callable[[PyTree], PyTree], params: PyTree) -> PyTree:
    """`fn(params)`, compiled."""
    return jax.tree.map(jnp.asarray, fn(params))


@eqx.filter_jit
def _error(step: Array, moved: PyTree, first: PyTree, last: PyTree) -> Array:
    """Norm of `(12 (y_n - y_{n+1}) + 6 h (F_n + F_{n+1})) / 15`."""
    return tree_norm(jax.tree.map(lambda d, f, g: (-12 * d + 6 * step * (f + g)) / 15, moved, first, last))


class Walker:
    """The compiled pieces with the state that only speed depends on: approximate inverse, stiffness, counts."""

    def __init__(self, trace: Callable, residual: Residual, kernel_solve: str, precision: str):
        numbers = sum(x.size for x in jax.tree.leaves((trace, residual)) if eqx.is_array(x))
        light = precision == "float32" or (precision == "auto" and numbers >= LIGHT_FROM)
        self.dtype, self._auto = jnp.dtype(jnp.float32 if light else jnp.float64), precision == "auto"
        self.trace, self.residual = trace, residual
        self.field = cast(_Field(trace, residual), self.dtype)
        self.kernel_solve, self.inverse = kernel_solve, None
        self.radius, self.loss = 0.0, math.nan
        self.slopes = self.products = self.formed = 0
        self._fresh, self._excess = math.inf, 0.0
        self.solve_tolerance = 1e-5 if light else DOUBLE_TOLERANCE

    @property
    def _light(self) -> Residual | None:
        return self.field.residual if self.dtype == jnp.float32 else None

    def changes_precision(self, share: float) -> bool:
        """Whether the slopes should be in double precision from here on."""
        return self._auto and self.dtype == jnp.float32 and share < LIGHT_SHARE

    def to_double(self, params: PyTree) -> None:
        """Go over to it."""
        self.dtype, self.field = jnp.dtype(jnp.float64), _Field(self.trace, self.residual)
        self.solve_tolerance = DOUBLE_TOLERANCE
        self.form(params)

    def begin(self, params: PyTree) -> tuple[PyTree, float]:
        """The start, on the set."""
        residuals = value_of(self.residual, params)
        size = self._size = residuals.shape[0]
        if self.kernel_solve == "auto":
            self.kernel_solve = "preconditioned" if size <= FORMED_LIMIT else "cg"
        loss = float(jnp.mean(residuals**2))
        if not math.isfinite(loss):
            raise UsageError("params: the residuals there are not finite; start from smaller params")
        self.form(params)
        back = _retract(self.residual, params, self._light, self.inverse)
        if not float(back.loss) <= LOSS_LIMIT:
            # far from the set Gauss-Newton may need the kernel of where it is now
            self.form(back.params)
            exact = _inverse(self.residual, back.params) if size <= FORMED_LIMIT else None
            back = _retract(self.residual, back.params, None, exact)
        if not float(back.loss) <= LOSS_LIMIT:
            raise UsageError(
                f"params: no point of zero loss was found near them (loss {float(back.loss):.1e} after projecting); "
                "start from an interpolating point, or make the targets attainable"
            )
        self.loss = float(back.loss)
        if loss > 1e-2:
            self.form(back.params)
        return back.params, loss

    def form(self, params: PyTree) -> None:
        """A new approximate inverse, where they are used."""
        if self.kernel_solve == "preconditioned":
            self.inverse = _inverse(self.field.residual, cast(params, self.dtype))
            self.formed += 1
            self._fresh, self._excess = math.inf, 0.0

    def refresh(self, params: PyTree, products: int) -> None:
        """A new approximate inverse once the products that a fresh one would have saved outweigh its making."""
        self._fresh = min(self._fresh, products)
        self._excess += products - self._fresh
        if self._excess > FORMING * self._size:
            self.form(params)

    def slope(self, params: PyTree, guess: Array | None) -> "Slope":
        """Slope, multipliers and stationarity."""
        light = cast(params, self.dtype)
        if guess is None:
            guess = jnp.zeros(jax.eval_shape(self.residual, params).shape, self.dtype)
        value, multipliers, size, count, share = _slope(self.field, light, self.inverse, guess, self.solve_tolerance)
        self.slopes += 1
        self.products += int(count)
        return Slope(value, multipliers, size, float(share))

    def attempt(self, params: PyTree, here: "Slope", length: float) -> tuple["Attempt | None", float]:
        """One Runge-Kutta-Chebyshev step and the way back to the set; None if that is not reached. With its error."""
        stages = stages_for(1.2 * length * self.radius)
        table = np.zeros((MOST_STAGES, 5))
        table[:stages] = coefficients(stages)
        end, radius, count = _stages(
            self.field,
            cast(params, self.dtype),
            here.slope,
            here.multipliers,
            here.size,
            self.inverse,
            jnp.asarray(length, self.dtype),
            jnp.asarray(table, self.dtype),
            jnp.asarray(stages),
            self.solve_tolerance,
        )
        self.slopes += stages - 1
        self.products += int(count)
        if math.isfinite(float(radius)):
            self.radius = max(0.9 * self.radius, float(radius))
        back = _retract(self.residual, tree_add(params, 1.0, end), self._light, self.inverse)
        self.products += int(back.iterations)
        loss = float(back.loss)
        if not loss <= LOSS_LIMIT:
            return None, math.inf
        there = self.slope(back.params, here.multipliers)
        moved = cast(jax.tree.map(jnp.subtract, back.params, params), self.dtype)
        error = float(_error(jnp.asarray(length, self.dtype), moved, here.slope, there.slope))
        return Attempt(back.params, there, loss), error


class Slope(NamedTuple):
    """The slope at a point.

    Attributes:
        slope: `-P_T grad tr`, in the precision of the slopes.
        multipliers: `(J J^T)^+ J grad tr`.
        size: `||J grad tr||`.
        share: `||P_T grad tr|| / ||grad tr||`.
    """

    slope: PyTree
    multipliers: Array
    size: Array
    share: float


class Attempt(NamedTuple):
    """The end of a step, on the set."""

    params: PyTree
    there: Slope
    loss: float
