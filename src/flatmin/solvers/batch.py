"""Many small instances in one call, each with its own certificate."""

import functools
import math
import time
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from flatmin._core import (
    Certificate,
    Optional,
    Outcome,
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
from flatmin.solvers._gauges import Nuclear, SymmetricNuclear, Trace
from flatmin.solvers._host import HostMap, host_map, multiply
from flatmin.solvers._host_splitting import Found, Spectral, split, whiten
from flatmin.solvers._interior import ROOMY
from flatmin.solvers._plain import Plain, to_plain
from flatmin.solvers._reduced import face_solution
from flatmin.solvers._solution import certified, fits_zero, zero
from flatmin.solvers.certificate import CertifiedPoint
from flatmin.solvers.interior_point import MAX_ENTRIES, central_points, interior_cost, patience
from flatmin.solvers.misfits import Exact
from flatmin.solvers.pursuit import Pursuit, pursue


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


def _solve(program: AbstractProgram, tolerance: float, max_iterations: int, below: float | None) -> Solution:
    plain, gauge = _spectral(program)
    one_sided = gauge.one_sided
    op = host_map(plain.measurements)
    if op is None:
        raise UsageError(f"programs: {type(plain.measurements).__name__} is too large for a batch; use solve")
    targets = np.asarray(program.targets)
    if fits_zero(program):
        return zero(program, "solve_batch")
    began = time.perf_counter()
    shape = program.measurements.matrix_shape
    prove = functools.partial(certificate_on_host, op, plain, targets, gauge)
    pursued = pursue(op, targets, shape, symmetric=gauge.symmetric, one_sided=one_sided)

    def finished(found: Found, *, by_pursuit: bool = False) -> Solution:
        limited = Outcome.max_iterations if found.iterations >= max_iterations else Outcome.stalled
        return certified(
            program,
            prove(found.matrix, found.dual),
            tolerance,
            method="solve_batch",
            iterations=found.iterations,
            shortfall=Outcome.undercut if found.undercut else limited,
            stats={"pursued": by_pursuit, "seconds": {"total": time.perf_counter() - began}},
        )

    if pursued is not None and pursued.dual is not None:
        matrix = pursued.tangent.left @ pursued.tangent.right.T
        solution = finished(Found(matrix, pursued.dual, pursued.steps, undercut=False), by_pursuit=True)
        if solution.outcome.success:
            return solution
    white = whiten(op, targets, shape)
    if white is None:
        return Pursuit().run(program, tolerance, max_iterations)
    splitting = functools.partial(
        split,
        op,
        white,
        gauge,
        tolerance=0.5 * tolerance,
        below=below,
        interpolant=None if pursued is None else pursued.tangent,
    )
    needed = interior_cost(program, plain)
    first = min(max_iterations, patience(program.measurements, needed))
    solution = finished(splitting(max_iterations=first))
    if solution.outcome.success or solution.outcome is Outcome.undercut or first == max_iterations:
        return solution
    if needed.entries <= MAX_ENTRIES:
        scale = float(np.linalg.norm(white.targets))
        for roomy in ROOMY if one_sided else ROOMY[:1]:
            points, steps = central_points(
                white.tensor(),
                white.targets / scale,
                symmetric=gauge.symmetric,
                one_sided=one_sided,
                tolerance=tolerance,
                max_steps=max_iterations,
                roomy=roomy,
            )
            for matrix, weights in reversed(points):
                central = finished(Found(scale * matrix, white.multipliers(weights), first + steps, undercut=False))
                if central.outcome.success:
                    return central
            candidates = [scale * matrix for matrix, _ in reversed(points)]
            reduced = face_solution(program, plain, candidates, tolerance, first + steps)
            if reduced is not None:
                return reduced
    return finished(splitting(max_iterations=max_iterations))


def _spectral(program: AbstractProgram) -> tuple[Plain, Spectral]:
    """The plain form and its gauge on the host."""
    plain = to_plain(program)
    if not isinstance(program.misfit, Exact) or not isinstance(plain.gauge, Nuclear | SymmetricNuclear | Trace):
        raise UsageError(
            f"programs: got {type(program).__name__} with {type(program.misfit).__name__}, expected a nuclear norm or "
            "a trace with Exact(); use solve"
        )
    one_sided = isinstance(plain.gauge, Trace)
    return plain, Spectral(symmetric=one_sided or isinstance(plain.gauge, SymmetricNuclear), one_sided=one_sided)


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
    plain, gauge = _spectral(program)
    scales = [np.asarray(scale) for scale in plain.scales]
    inside = multiply(scales[0], np.asarray(matrix), scales[1]) if scales else np.asarray(matrix)
    return gauge.value(inside)


def certificate_on_host(
    op: HostMap, plain: Plain, targets: np.ndarray, gauge: Spectral, matrix: np.ndarray, dual: np.ndarray
) -> CertifiedPoint:
    """What a point and multipliers of a plain programme prove: `certify` without compilation.

    Args:
        op: the plain measurements.
        plain: the plain form, to return to the user's coordinates.
        targets: b.
        gauge: the plain gauge.
        matrix: X', in plain coordinates.
        dual: y.

    Returns:
        The certificate, its matrix in the user's coordinates.
    """
    if gauge.symmetric:
        matrix = (matrix + matrix.T) / 2
    if gauge.one_sided:
        values, vectors = np.linalg.eigh(matrix)
        matrix = (vectors * np.maximum(values, 0)) @ vectors.T
    dual = dual / max(1.0, gauge.polar(op.adjoint(dual)))
    if not targets @ dual > 0:
        dual = np.zeros_like(dual)
    primal, bound = gauge.value(matrix), float(targets @ dual)
    residual = float(np.linalg.norm(op.forward(matrix) - targets) / np.linalg.norm(targets))
    scales = [np.asarray(scale) for scale in plain.inverse_scales]
    left = multiply(scales[0], matrix, scales[1]) if scales else matrix
    return CertifiedPoint(jnp.asarray(left), jnp.asarray(dual), Certificate.between(primal, bound, residual))
