"""The measurements and the matrices of the exploration, and the values of F on them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from flatmin._core import choose
from flatmin.experiments.regulariser.spec import ENSEMBLES, ExploreRegulariser
from flatmin.interpolators import induced_regulariser, single_measurement_values
from flatmin.measurements import (
    AbstractMeasurements,
    bilinear_gaussian,
    col_gram,
    dense,
    entries,
    gaussian,
    row_gram,
    with_moments,
)

DECAY = 100.0  # condition number of each side's covariance in the correlated ensemble
SLACK = 10.0  # units of rounding taken off singular values, where a lower end is wanted
POWERS = np.geomspace(0.25, 4.0, 241)  # exponents p among which fits choose


def measurements_of(spec: ExploreRegulariser, ensemble: str) -> AbstractMeasurements:
    """The measurements of an ensemble, the same for every depth.

    Args:
        spec: the settings.
        ensemble: its name.

    Returns:
        Measurements that see every row and column.

    Raises:
        UsageError: for an unknown name.
    """
    choose("ensembles", ensemble, ENSEMBLES)
    shape = (spec.rows, spec.columns)
    key = jax.random.fold_in(jax.random.key(spec.seed), 100 + ENSEMBLES.index(ensemble))
    first, second, third = jax.random.split(key, 3)
    match ensemble:
        case "gaussian, many":
            op = gaussian(first, spec.many, shape)
        case "gaussian, few":
            op = gaussian(first, spec.few, shape)
        case "one":
            op = gaussian(first, 1, shape)
        case "bilinear":
            op = bilinear_gaussian(first, spec.rows * spec.columns, shape)
        case "correlated":
            out, into = (_covariance_root(k, d) for k, d in ((second, shape[0]), (third, shape[1])))
            op = dense(jnp.einsum("ab,ibc,cd->iad", out, gaussian(first, spec.many, shape).tensor, into))
        case "entries":
            op = _some_entries(first, shape)
        case _:
            op = _diagonals(shape)
    return with_moments(op)


def _covariance_root(key: Key[Array, ""], size: int) -> Float[Array, "d d"]:
    frame = jax.random.orthogonal(key, size)
    return frame @ jnp.diag(jnp.geomspace(1.0, DECAY**-0.5, size)) @ frame.T


def _some_entries(key: Key[Array, ""], shape: tuple[int, int]) -> AbstractMeasurements:
    """About half of the entries: one in each row and column, and others at random."""
    seen = np.asarray(jax.random.uniform(key, shape)) < 0.4
    for i in range(max(shape)):
        seen[i % shape[0], i % shape[1]] = True
    rows, cols = np.nonzero(seen)
    return entries(jnp.asarray(rows), jnp.asarray(cols), shape)


def _diagonals(shape: tuple[int, int]) -> AbstractMeasurements:
    """The sums along all diagonals: the coordinates of Toeplitz matrices."""
    return dense(jnp.stack([jnp.eye(*shape, k=k) for k in range(-shape[0] + 1, shape[1])]))


def matrices_of(spec: ExploreRegulariser) -> Float[np.ndarray, "n d1 d2"]:
    """Matrices of unit Frobenius norm: all ranks in turn, singular values from equal to far apart, random frames.

    Args:
        spec: the settings.

    Returns:
        The matrices, the same for every ensemble and depth.
    """
    rng = np.random.default_rng([spec.seed, 7])
    shape, most = (spec.rows, spec.columns), min(spec.rows, spec.columns)
    drawn = []
    for i in range(spec.matrices):
        rank = 1 + i % most
        s = np.zeros(most)
        s[:rank] = 10 ** (-rng.uniform(0, 2) * np.sort(rng.uniform(0, 1, rank)))
        U, _ = np.linalg.qr(rng.standard_normal((shape[0], most)))
        V, _ = np.linalg.qr(rng.standard_normal((shape[1], most)))
        drawn.append((U * (s / np.linalg.norm(s))) @ V.T)
    return np.stack(drawn)


def values_of(spec: ExploreRegulariser, ensemble: str, progress: Callable[[int, int], None]) -> xr.Dataset:
    """F on all matrices and depths, with its proven interval, and what the candidates are made of.

    Args:
        spec: the settings.
        ensemble: the name of the measurements.
        progress: called with (done, all).

    Returns:
        Over (depth, matrix): `value`, `lower`, `mean_single`, `mean_single_lower` (rounding taken off each singular
        value), `geometric_single`; over (matrix, power): `schatten`,
        `weighted_schatten` (of `D_out^{1/2} M D_in^{1/2}`); over matrix: `rank`, `effective_rank`; and `moment`, which
        is tr D_out.
    """
    op, matrices = measurements_of(spec, ensemble), matrices_of(spec)
    m = op.num_measurements
    out, into = np.asarray(row_gram(op)) / m, np.asarray(col_gram(op)) / m
    shape = (len(spec.depths), spec.matrices)
    value, lower, mean_single, mean_single_lower, geometric_single = np.full((5, *shape), np.nan)
    sides = [_root(D) for D in (out, into)]
    total = len(spec.depths) * spec.matrices
    for i, depth in enumerate(spec.depths):
        singles = np.stack([single_measurement_values(op, M, depth) for M in matrices])
        mean_single[i] = singles.mean(1)
        mean_single_lower[i] = [single_measurement_values(op, M, depth, slack=SLACK).mean() for M in matrices]
        with np.errstate(divide="ignore"):
            geometric_single[i] = np.exp(np.log(singles).mean(1))
        for j, M in enumerate(matrices):
            found = induced_regulariser(op, jnp.asarray(M), depth)
            value[i, j], lower[i, j] = found.value, found.lower
            progress(i * spec.matrices + j, total)
    spectra = np.linalg.svd(matrices, compute_uv=False)
    return xr.Dataset(
        {
            "value": (("depth", "matrix"), value),
            "lower": (("depth", "matrix"), lower),
            "mean_single": (("depth", "matrix"), mean_single),
            "mean_single_lower": (("depth", "matrix"), mean_single_lower),
            "geometric_single": (("depth", "matrix"), geometric_single),
            "weighted_schatten": (
                ("matrix", "power"),
                np.stack([_schatten(sides[0] @ M @ sides[1]) for M in matrices]),
            ),
            "schatten": (("matrix", "power"), np.stack([_schatten(M) for M in matrices])),
            "rank": ("matrix", (spectra > 1e-10).sum(1)),
            "effective_rank": ("matrix", spectra.sum(1) ** 2),
            "moment": ((), float(np.trace(out))),
            "measurements": ((), m),
        },
        coords={"depth": list(spec.depths), "matrix": np.arange(spec.matrices), "power": POWERS},
    )


def _root(D: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((D + D.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _schatten(M: np.ndarray) -> Float[np.ndarray, " powers"]:
    """`||M||_{S_p}` for all exponents."""
    s = np.linalg.svd(M, compute_uv=False)
    s = s[s > 1e-12 * s[0]]
    return s[0] * np.sum((s[None] / s[0]) ** POWERS[:, None], axis=1) ** (1 / POWERS)
