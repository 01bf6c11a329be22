"""Programme, method, and the one verb between them.

A programme says *what*: `min N(X) + h(A(X) - b)` for a gauge N and a misfit h, which is the constraint `A(X) = b`
unless said otherwise. With the polar `N°(Z) = max { <Z, X> : N(X) <= 1 }` its dual is `max b.y - h*(y) s.t.
N°(A*(y)) <= 1`, so N, N°, h and h* are all that a certificate needs. A method says *how*.
"""

import abc
import contextlib
import functools
import math
from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float

from flatmin._core import (
    Real,
    Solution,
    UsageError,
    check_finite,
    check_positive,
    check_shape,
    checked,
    is_traced,
    require_float64,
)
from flatmin._core.forks import refuse_fork
from flatmin._core.programs import let_go_of_programs
from flatmin._core.threads import blas_threads
from flatmin.measurements import AbstractMeasurements
from flatmin.solvers.misfits import AbstractMisfit

ONE_THREAD = 250_000
"""Cells of a matrix up to which, and the square of a number of measurements up to which, one thread of linear algebra
is the fastest: decompositions of 500 x 500 gain little from a second one, and smaller ones lose."""


class AbstractProgram(eqx.Module):
    """`min N(X) + h(A(X) - b)`.

    Attributes:
        measurements: `A`, in float64.
        targets: `b`, shape (m,), finite, float64.
        misfit: h.
        objective: what N is called.
    """

    measurements: eqx.AbstractVar[AbstractMeasurements]
    targets: eqx.AbstractVar[Array]
    misfit: eqx.AbstractVar[AbstractMisfit]
    objective: ClassVar[str] = "objective"

    def __check_init__(self):
        if not isinstance(self.measurements, AbstractMeasurements):
            raise UsageError(
                f"measurements: got {type(self.measurements).__name__}, expected measurements such as gaussian(...)"
            )
        if not isinstance(self.misfit, AbstractMisfit):
            raise UsageError(
                f"misfit: got {type(self.misfit).__name__}, expected a misfit such as Exact() or L2Ball(1)"
            )
        if is_traced(self.targets, *_floats(self.measurements)):
            raise UsageError(
                "targets, measurements: got traced values, expected arrays; a solve decides on the host when to stop: "
                "call it outside jit, vmap and grad"
            )
        check_shape("targets", self.targets, (self.measurements.num_measurements,))
        require_float64(type(self).__name__, self.targets, *_floats(self.measurements))
        check_finite("targets", self.targets)

    @abc.abstractmethod
    def norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """The objective `N(X)`."""

    @abc.abstractmethod
    def polar_norm(self, matrix: Float[Array, "d1 d2"]) -> Float[Array, ""]:
        """`N°(Z) = max { <Z, X> : N(X) <= 1 }`."""


def check_program(program: AbstractProgram) -> None:
    """Refuse anything but a programme.

    Raises:
        UsageError: naming what was got.
    """
    if not isinstance(program, AbstractProgram):
        raise UsageError(
            f"program: got {type(program).__name__}, expected a programme such as MinNuclearNorm(measurements, targets)"
        )


def refuse_start(method: str, start: Solution | None) -> None:
    """For methods that begin at nothing but the programme.

    Raises:
        UsageError: if a start was given.
    """
    if start is not None:
        raise UsageError(
            f"start: got a solution, expected None: {method} has no use for a start; leave it out, or use "
            "DouglasRachford() where the programme has a proximal map"
        )


def _floats(measurements: AbstractMeasurements) -> list[Array]:
    return jax.tree.leaves(eqx.filter(measurements, eqx.is_inexact_array))


class AbstractMethod(eqx.Module):
    """A way to solve some programmes."""

    @abc.abstractmethod
    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Solve, and return whatever was reached: never raises for an outcome."""


class Auto(AbstractMethod):
    """Let `select_method` choose."""

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Run the method chosen by `select_method`."""
        return select_method(program).run(program, tolerance, max_iterations, start)


@checked()
@functools.singledispatch
def select_method(program: AbstractProgram) -> AbstractMethod:
    """The method that `Auto` would use; nothing is run.

    Args:
        program: the programme.

    Returns:
        A method, ready to pass to `solve`.

    Raises:
        UsageError: if no method is known for this kind of programme.
    """
    raise UsageError(
        f"program: no method is known for {type(program).__name__}; register one with select_method.register"
    )


_AUTO = Auto()


@checked(tolerance=Real(0, above=True))
def solve(
    program: AbstractProgram,
    method: AbstractMethod = _AUTO,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 20_000,
    start: Solution | None = None,
    throw: bool = True,
) -> Solution:
    """Solve a convex programme and certify the answer.

    The result is accepted only on its certificate, recomputed from the point and the multipliers alone: relative
    gap `<= tolerance` and relative residual `<= 1e-10` (see `certify`).

    Args:
        program: what to solve.
        method: how; `Auto()` asks `select_method(program)`.
        tolerance: largest accepted relative gap `|primal - dual| / max(|primal|, tiny)`.
        max_iterations: limit for iterative methods.
        start: a solution of a similar programme to start from; never trusted, only nearer.
        throw: raise on any outcome but success; otherwise the outcome is a code in the result.

    Returns:
        The solution: matrix, dual, both values, gap, residual, rank with its tolerance, iterations, outcome, and in
        `stats` the singular values and the seconds spent in each part.

    Raises:
        UsageError: for a tolerance or a limit that is not positive, a start of another shape, or a method that cannot
            solve the programme.
        JobError: if `throw` and the outcome is not a success.
    """
    refuse_fork()
    check_program(program)
    if not isinstance(method, AbstractMethod):
        raise UsageError(f"method: got {type(method).__name__}, expected a method such as Auto() or DouglasRachford()")
    check_positive("tolerance", tolerance)
    check_positive("max_iterations", max_iterations)
    let_go_of_programs()
    if start is not None:
        if not isinstance(start, Solution):
            raise UsageError(f"start: got {type(start).__name__}, expected a Solution of a similar programme, or None")
        check_shape("start.matrix", start.matrix, program.measurements.matrix_shape)
        check_shape("start.dual", start.dual, program.targets.shape)
    few = math.prod(program.measurements.matrix_shape) <= ONE_THREAD and program.targets.size <= ONE_THREAD**0.5
    with blas_threads(1) if few else contextlib.nullcontext():
        solution = method.run(program, float(tolerance), int(max_iterations), start)
    return solution.raise_if_failed() if throw else solution
