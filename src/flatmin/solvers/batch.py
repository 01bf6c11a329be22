"""Many small instances in one call, each with its own certificate."""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from jaxtyping import ArrayLike

from flatmin._core import (
    Optional,
    Real,
    RealArray,
    SequenceOf,
    Solution,
    UsageError,
    check_positive,
    checked,
)
from flatmin._core.forks import refuse_fork
from flatmin._core.threads import blas_threads
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._gauges import Gauge
from flatmin.solvers._host_solve import HostInstance, spectral
from flatmin.solvers._plain import Plain, to_plain
from flatmin.solvers._reweighted import multiply
from flatmin.solvers._solution import fits_zero, zero
from flatmin.solvers.interior_point import interior_cost, patience
from flatmin.solvers.pursuit import Pursuit


@checked(tolerance=Real(0, above=True), below=Optional(SequenceOf(Real(infinite=True))))
def solve_batch(
    programs: Sequence[AbstractProgram],
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 20_000,
    below: Sequence[float] | None = None,
) -> list[Solution]:
    """Solve many small programmes of the nuclear norm or the trace with an exact fit, such as a cell of [D, Fig 3].

    The same steps as `Pursuit`, all of them on the host: nothing is compiled, so that instances may differ in their
    number of measurements. Certificates are computed in NumPy from each point and its multipliers alone. Never raises
    for an outcome.

    Args:
        programs: the programmes, of any mixture of sizes.
        tolerance: largest accepted relative gap.
        max_iterations: limit of iterations for each.
        below: one value for each programme, such as the norm of the planted truth: a programme is left, as `undercut`,
            as soon as a feasible point is 1e-6 below it, which proves that its minimiser is another one. Minus
            infinity for none.

    Returns:
        One solution for each programme, in order. `stats["pursued"]` says how it was found.

    Raises:
        UsageError: for a tolerance or limit that is not positive, `below` of another length, a programme without a
            proximal map or with another misfit, or measurements that cannot be held as a tensor.
    """
    refuse_fork()
    check_positive("tolerance", tolerance)
    check_positive("max_iterations", max_iterations)
    values = [-math.inf] * len(programs) if below is None else [float(value) for value in below]
    if len(values) != len(programs):
        raise UsageError(f"below: got {len(values)} values for {len(programs)} programmes, expected one for each")
    with blas_threads(1):
        return [
            _solve(program, tolerance, int(max_iterations), None if value == -math.inf else value)
            for program, value in zip(programs, values, strict=True)
        ]


def _solve(program: AbstractProgram, tolerance: float, limit: int, below: float | None) -> Solution:
    plain = to_plain(program)
    instance = HostInstance.of(program, plain, tolerance)
    if instance is None:
        _spectral(program, plain)
        raise UsageError(f"programs: {type(plain.measurements).__name__} is too large for a batch; use solve")
    if fits_zero(program):
        return zero(program, "Pursuit")
    found = instance.by_pursuit()
    if found is not None:
        return found
    if instance.white is None:
        return Pursuit().run(program, tolerance, limit)
    first = min(limit, patience(program.measurements, interior_cost(program, plain)))
    found = instance.by_splitting(first, below, last=first == limit) or instance.by_central_path(first, limit)
    if found is None:
        found = instance.by_splitting(limit, below, last=True)
    return cast("Solution", found)


def _spectral(program: AbstractProgram, plain: Plain) -> Gauge:
    gauge = spectral(program, plain)
    if gauge is None:
        raise UsageError(
            f"programs: got {type(program).__name__} with {type(program.misfit).__name__}, expected a nuclear norm or "
            "a trace with Exact(); use solve"
        )
    return gauge


@checked(matrix=RealArray("d1 d2"))
def value_on_host(program: AbstractProgram, matrix: ArrayLike) -> float:
    """`N(X)` of a programme that `solve_batch` takes, without a compilation for its size.

    Args:
        program: the programme.
        matrix: X, shape (d1, d2).

    Returns:
        The value; infinite where X should be, and is not, positive semidefinite.

    Raises:
        UsageError: for another programme or misfit.
    """
    plain = to_plain(program)
    gauge = _spectral(program, plain)
    scales = [np.asarray(scale) for scale in plain.scales]
    inside = multiply(scales[0], np.asarray(matrix), scales[1]) if scales else np.asarray(matrix)
    return gauge.strict_value(inside)
