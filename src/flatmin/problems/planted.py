"""Planted instances: a problem whose ground truth is known, under the names people know."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from flatmin._core import UsageError, check_at_least, choose
from flatmin.measurements import (
    AbstractMeasurements,
    bernoulli,
    bilinear_gaussian,
    entries,
    gaussian,
    regression,
    symmetric_rank_one,
)
from flatmin.parameterizations import AbstractParameterization, DeepMatrix, Quadratic, deep_matrix, residual_chain
from flatmin.problems.recovery import RecoveryProblem


class PlantedProblem(eqx.Module):
    """A recovery problem and the matrix that made its targets.

    Attributes:
        problem: the problem, with targets `A(M*) + noise`.
        truth: `M*`, shape (d1, d2).
    """

    problem: RecoveryProblem
    truth: Float[Array, "d1 d2"]

    def squared_error(self, params: PyTree) -> Float[Array, ""]:
        """`||X(params) - M*||_F^2`; for Gaussian measurements this is the population loss [G, Sec 5.3]."""
        return jnp.sum((self.problem.matrix(params) - self.truth) ** 2)


def low_rank_matrix(
    key: Key[Array, ""], matrix_shape: tuple[int, int], rank: int, norm: float | None = 1.0
) -> Float[Array, "d1 d2"]:
    """`M* = M_1 M_2` with N(0, 1) factors (d1, r) and (r, d2), scaled to `||M*||_F = norm` [G, Sec 7].

    Args:
        key: random key.
        matrix_shape: (d1, d2).
        rank: r, from 1 to min(d1, d2).
        norm: the Frobenius norm; None leaves the product unscaled.

    Returns:
        The matrix.

    Raises:
        UsageError: for a rank that is out of range.
    """
    d1, d2 = matrix_shape
    if not 1 <= rank <= min(d1, d2):
        raise UsageError(f"rank: got {rank}, expected 1 <= rank <= min(d1, d2) = {min(d1, d2)}")
    left, right = jax.random.split(key)
    matrix = jax.random.normal(left, (d1, rank)) @ jax.random.normal(right, (rank, d2))
    return matrix if norm is None else matrix * (norm / jnp.linalg.norm(matrix))


def planted(
    key: Key[Array, ""],
    measurements: AbstractMeasurements,
    parameterization: AbstractParameterization,
    truth: Float[Array, "d1 d2"],
    noise: float = 0.0,
) -> PlantedProblem:
    """Targets `b = A(M*) + noise * N(0, 1)` for a given truth.

    Args:
        key: random key of the noise.
        measurements: the operator.
        parameterization: the map params -> X.
        truth: M*, shape (d1, d2).
        noise: standard deviation of the target noise, >= 0.

    Returns:
        The planted problem.

    Raises:
        UsageError: for negative noise or shapes that do not fit.
    """
    check_at_least("noise", noise, 0)
    targets = measurements.forward(truth)
    if noise:
        targets = targets + noise * jax.random.normal(key, targets.shape)
    return PlantedProblem(RecoveryProblem(measurements, parameterization, targets), truth)


def matrix_sensing(
    key: Key[Array, ""],
    matrix_shape: tuple[int, int],
    rank: int,
    num_measurements: int,
    *,
    depth: int = 2,
    width: int | None = None,
    ensemble: str = "gaussian",
    noise: float = 0.0,
) -> PlantedProblem:
    """Deep matrix factorisation from random linear measurements of a rank-r matrix of unit norm [G, Sec 7].

    Args:
        key: random key.
        matrix_shape: (d1, d2).
        rank: r of the truth.
        num_measurements: m.
        depth: L of the factorisation.
        width: hidden width; default max(d1, d2).
        ensemble: "gaussian", "bernoulli" or "bilinear".
        noise: standard deviation of the target noise.

    Returns:
        The planted problem.

    Raises:
        UsageError: for sizes, ranks, noise or names out of range.
    """
    draw = {"gaussian": gaussian, "bernoulli": bernoulli, "bilinear": bilinear_gaussian}
    choose("ensemble", ensemble, draw)
    measure_key, truth_key, noise_key = jax.random.split(key, 3)
    truth = low_rank_matrix(truth_key, matrix_shape, rank)
    measurements = draw[ensemble](measure_key, num_measurements, matrix_shape)
    return planted(noise_key, measurements, deep_matrix(matrix_shape, depth, width), truth, noise)


def bilinear_sensing(
    key: Key[Array, ""],
    matrix_shape: tuple[int, int],
    rank: int,
    num_measurements: int,
    *,
    depth: int = 2,
    noise: float = 0.0,
) -> PlantedProblem:
    """`matrix_sensing` with `A_i = a_i b_i^T`; the same arguments, result and errors.

    Args:
        key: random key.
        matrix_shape: (d1, d2).
        rank: r of the truth.
        num_measurements: m.
        depth: L of the factorisation.
        noise: standard deviation of the target noise.

    Returns:
        The planted problem.
    """
    return matrix_sensing(key, matrix_shape, rank, num_measurements, depth=depth, ensemble="bilinear", noise=noise)


def matrix_completion(
    key: Key[Array, ""],
    matrix_shape: tuple[int, int],
    rank: int,
    fraction: float,
    *,
    depth: int = 2,
    noise: float = 0.0,
) -> PlantedProblem:
    """Completion of a rank-r matrix of unit norm, each entry seen with probability `fraction` [D, Sec 3].

    Args:
        key: random key.
        matrix_shape: (d1, d2).
        rank: r of the truth.
        fraction: probability that an entry is seen, in (0, 1].
        depth: L of the factorisation.
        noise: standard deviation of the target noise.

    Returns:
        The planted problem; the number of entries is random.

    Raises:
        UsageError: for values out of range, or if no entry was seen.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"fraction: got {fraction}, expected a probability in (0, 1]")
    mask_key, truth_key, noise_key = jax.random.split(key, 3)
    truth = low_rank_matrix(truth_key, matrix_shape, rank)
    rows, cols = jnp.nonzero(jax.random.bernoulli(mask_key, fraction, matrix_shape))
    return planted(noise_key, entries(rows, cols, matrix_shape), deep_matrix(matrix_shape, depth), truth, noise)


def quadratic_network(
    key: Key[Array, ""],
    dimension: int,
    num_samples: int,
    *,
    positive: int,
    negative: int,
    units: tuple[int, int] | None = None,
    noise: float = 0.0,
) -> PlantedProblem:
    """A one-hidden-layer quadratic network on Gaussian inputs, taught by a smaller one [D, Sec 4].

    Args:
        key: random key.
        dimension: d.
        num_samples: m.
        positive: units of weight +1 in the teacher.
        negative: units of weight -1 in the teacher.
        units: (k1, k2) of the student; default (d, d).
        noise: standard deviation of the target noise.

    Returns:
        The planted problem; the teacher's matrix has unit Frobenius norm.

    Raises:
        UsageError: for sizes or noise out of range.
    """
    check_at_least("num_samples", num_samples, 1)
    input_key, plus_key, minus_key, noise_key = jax.random.split(key, 4)
    teacher = Quadratic(dimension, positive, negative)
    truth = teacher.matrix(
        (
            jax.random.normal(plus_key, (dimension, positive)),
            jax.random.normal(minus_key, (dimension, negative)),
        )
    )
    truth = truth / jnp.linalg.norm(truth)
    measurements = symmetric_rank_one(jax.random.normal(input_key, (num_samples, dimension)))
    student = Quadratic(dimension, *(units or (dimension, dimension)))
    return planted(noise_key, measurements, student, truth, noise)


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
