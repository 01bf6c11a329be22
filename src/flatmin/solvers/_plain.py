"""Plain form: every programme as a gauge without weights, seen through reweighted measurements."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import UsageError
from flatmin.measurements import AbstractMeasurements
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._gauges import AbstractGauge, Entrywise, Nuclear, SymmetricNuclear, Trace
from flatmin.solvers._reweighted import EntryWeighted, ReweightedMeasurements, multiply
from flatmin.solvers.entrywise import MinWeightedLp
from flatmin.solvers.programs import MinNuclearNorm, MinScaledNuclearNorm
from flatmin.solvers.robust import RobustPCA
from flatmin.solvers.symmetric import MinSymmetricNuclearNorm, MinTrace


class Plain(NamedTuple):
    """`min N(X') + h(A'(X') - b)`, `A'_i = left^{-1} A_i right^{-1}`, so that `X' = left X right`.

    Attributes:
        measurements: `A'`.
        gauge: N.
        scales: `left` and `right`; vectors stand for diagonals; entrywise scales alone for a Hadamard family.
        inverse_scales: their inverses.
    """

    measurements: AbstractMeasurements
    gauge: AbstractGauge
    scales: tuple[Array, ...]
    inverse_scales: tuple[Array, ...]

    def enter(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, "d1 d2"]:
        """`X' = left X right`."""
        return _apply(self.scales, matrix)

    def leave(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, "d1 d2"]:
        """`X = left^{-1} X' right^{-1}`."""
        return _apply(self.inverse_scales, matrix)


def _apply(scales: tuple[Array, ...], matrix: Array) -> Array:
    match scales:
        case ():
            return matrix
        case (entrywise,):
            return entrywise * matrix
        case (left, right):
            return multiply(left, matrix, right)
    raise ValueError(scales)


def _weighted(op: AbstractMeasurements, gauge: AbstractGauge, scales, inverses) -> Plain:
    if all(bool(jnp.all(scale == 1)) for scale in scales if scale.ndim == 1) and scales[0].ndim == scales[1].ndim == 1:
        return Plain(op, gauge, (), ())
    return Plain(ReweightedMeasurements(op, *inverses), gauge, scales, inverses)


@functools.singledispatch
def to_plain(program: AbstractProgram) -> Plain:
    """The plain form of a programme.

    Raises:
        UsageError: for a programme that has none.
    """
    raise UsageError(
        f"method: got DouglasRachford for {type(program).__name__}, expected MinNuclearNorm or another programme with "
        "a proximal map (to_plain); use Auto()"
    )


@to_plain.register
def _(program: MinNuclearNorm) -> Plain:
    return Plain(program.measurements, Nuclear(), (), ())


@to_plain.register
def _(program: RobustPCA) -> Plain:
    return Plain(program.measurements, Nuclear(), (), ())


@to_plain.register
def _(program: MinScaledNuclearNorm) -> Plain:
    return _weighted(program.measurements, Nuclear(), program.roots, program.inverse_roots)


@to_plain.register
def _(program: MinSymmetricNuclearNorm) -> Plain:
    roots, inverses = (program.root,) * 2, (program.inverse_root,) * 2
    return _weighted(program.measurements, SymmetricNuclear(), roots, inverses)


@to_plain.register
def _(program: MinTrace) -> Plain:
    return _weighted(program.measurements, Trace(), (program.root,) * 2, (program.inverse_root,) * 2)


@to_plain.register
def _(program: MinWeightedLp) -> Plain:
    if program.power != 1:
        raise UsageError(
            f"method: got DouglasRachford for a power of {program.power:g}, expected 1 (two factors); use Auto()"
        )
    inverse = 1 / program.weights
    return Plain(EntryWeighted(program.measurements, inverse), Entrywise(), (program.weights,), (inverse,))
