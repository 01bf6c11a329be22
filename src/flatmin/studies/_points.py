"""Quantities at a point of a planted problem, for one compiled call over many."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from flatmin._core import AbstractObjective, UsageError
from flatmin.flatness import Dense, sharpness
from flatmin.flatness.trace_forms import block_traces
from flatmin.problems import PlantedProblem, RecoveryProblem

DENSE_LIMIT = 400
"""Parameters up to which the sharpness of many runs is measured along their training, by dense Hessians."""


def in_float64(tree: PyTree) -> PyTree:
    """The tree with its floating point arrays in float64."""
    return _cast(tree, jnp.float64)


def in_float32(tree: PyTree) -> PyTree:
    """The tree with its floating point arrays in float32."""
    return _cast(tree, jnp.float32)


def _cast(tree: PyTree, dtype) -> PyTree:
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


class Observed(AbstractObjective):
    """What a training descends, and what is measured along it.

    Attributes:
        problem: the problem in the precision of the training.
        instance: the planted problem in float64, for the measurements.
        names: the quantities.
        threshold: largest relative error of a recovered truth.
    """

    problem: RecoveryProblem
    instance: PlantedProblem
    names: tuple[str, ...] = eqx.field(static=True)
    threshold: float = eqx.field(static=True)

    @property
    def num_samples(self) -> int:
        """`m`."""
        return self.problem.num_samples

    def loss(self, params: PyTree) -> Float[Array, ""]:
        """The problem's."""
        return self.problem.loss(params)

    def batch_loss(self, params: PyTree, indices: Array, label_shift: Array | None) -> Float[Array, ""]:
        """The problem's."""
        return self.problem.batch_loss(params, indices, label_shift)

    def quantities(self, params: PyTree) -> dict[str, Array]:
        """The quantities at a point, float64; estimates bring their `NAME_error`."""
        return quantities_at(self.instance, in_float64(params), self.names, self.threshold)


def quantities_at(
    instance: PlantedProblem, params: PyTree, names: tuple[str, ...], threshold: float
) -> dict[str, Float[Array, ""]]:
    """Quantities of a point.

    Args:
        instance: the planted problem, float64.
        params: the point, float64.
        names: which, of `POINT`.
        threshold: largest relative error of a recovered truth.

    Returns:
        Scalar by name, with `NAME_error` for those that have one.

    Raises:
        UsageError: if a quantity needs what the problem does not have.
    """
    problem = instance.problem
    matrix = problem.matrix(params)
    found: dict[str, Array] = {}
    spectral = bool({"nuclear_norm", "operator_norm", "stable_rank"} & set(names))
    singular = jnp.linalg.svd(matrix, compute_uv=False) if spectral else jnp.zeros(1)
    for name in names:
        match name:
            case "loss":
                found[name] = problem.loss(params)
            case "test_loss":
                if instance.held_out is None:
                    raise UsageError("test_loss: nothing is held out; set problem.held_out to a number of measurements")
                found[name] = instance.held_out.loss(params)
            case "trace":
                blocks = block_traces(problem, params)
                rounding = 50 * max(*problem.measurements.matrix_shape, 4) * jnp.finfo(blocks.dtype).eps
                found[name], found["trace_error"] = jnp.sum(blocks), rounding * jnp.sum(jnp.abs(blocks))
            case "sharpness":
                size = sum(leaf.size for leaf in jax.tree.leaves(params))
                if size > DENSE_LIMIT:
                    raise UsageError(
                        f"sharpness: the problem has {size} parameters, along a training up to {DENSE_LIMIT} are "
                        "taken; record the trace, and measure the sharpness at the end"
                    )
                estimate = sharpness(problem, params, Dense())
                found[name], found["sharpness_error"] = estimate.value, estimate.error
            case "nuclear_norm":
                found[name] = jnp.sum(singular)
            case "operator_norm":
                found[name] = singular[0]
            case "stable_rank":
                # of the zero matrix: 0
                top = jnp.where(singular[0] > 0, singular[0], 1.0)
                found[name] = jnp.sum((singular / top) ** 2)
            case "frobenius_norm":
                found[name] = jnp.linalg.norm(matrix)
            case "relative_error":
                found[name] = instance.relative_error(matrix)
            case "recovered":
                error = instance.relative_error(matrix)
                found[name] = jnp.where(jnp.isnan(error), jnp.nan, jnp.where(error <= threshold, 1.0, 0.0))
    return found
