"""Plain form: every programme as a gauge without weights, seen through reweighted measurements."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from flatmin._core import UsageError
from flatmin.measurements import AbstractMeasurements
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._gauges import Gauge
from flatmin.solvers._reweighted import EntryWeighted, ReweightedMeasurements, multiply
from flatmin.solvers.entrywise import MinWeightedLp
from flatmin.solvers.programs import MinNorm
from flatmin.solvers.robust import RobustPCA


class Plain(NamedTuple):
    """`min N(X') + h(A'(X') - b)`, `A'_i = left^{-1} A_i right^{-1}`, so that `X' = left X right`.

    Attributes:
        measurements: `A'`.
        gauge: N.
        scales: `left` and `right`; vectors stand for diagonals; entrywise scales alone for a Hadamard family.
        inverse_scales: their inverses.
    """

    measurements: AbstractMeasurements
    gauge: Gauge
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


@functools.singledispatch
def to_plain(program: AbstractProgram) -> Plain:
    """The plain form of a programme.

    Raises:
        UsageError: for a programme that has none.
    """
    raise _no_plain_form(program)


def _no_plain_form(program: AbstractProgram) -> UsageError:
    return UsageError(
        f"method: got DouglasRachford for {type(program).__name__}, expected MinNuclearNorm or another programme with "
        "a proximal map (to_plain); use Auto()"
    )


@to_plain.register
def _(program: MinNorm) -> Plain:
    if program.norm_name != "nuclear":
        raise _no_plain_form(program)
    roots, inverses = program.roots, program.inverse_roots
    if all(root.ndim == 1 and bool(np.all(np.asarray(root) == 1)) for root in roots):
        return Plain(program.measurements, program.gauge, (), ())
    return Plain(ReweightedMeasurements(program.measurements, *inverses), program.gauge, roots, inverses)


@to_plain.register
def _(program: RobustPCA) -> Plain:
    return Plain(program.measurements, Gauge(), (), ())


@to_plain.register
def _(program: MinWeightedLp) -> Plain:
    if program.power != 1:
        raise UsageError(
            f"method: got DouglasRachford for a power of {program.power:g}, expected 1 (two factors); use Auto()"
        )
    inverse = 1 / program.weights
    return Plain(EntryWeighted(program.measurements, inverse), Gauge("entries"), (program.weights,), (inverse,))
