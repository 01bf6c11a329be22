"""One small instance solved on the host: nothing is compiled, so that many of different sizes cost their arithmetic."""

import dataclasses
import functools
import time

import jax.numpy as jnp
import numpy as np

from flatmin._core import Certificate, Outcome, Solution
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._gauges import Gauge
from flatmin.solvers._host import SMALL, HostMap, host_map
from flatmin.solvers._host_splitting import Found, White, split, whiten
from flatmin.solvers._interior import ROOMY
from flatmin.solvers._plain import Plain
from flatmin.solvers._pursue import Pursued, pursue
from flatmin.solvers._reduced import face_solution
from flatmin.solvers._reweighted import multiply
from flatmin.solvers._solution import certified
from flatmin.solvers.certificate import CertifiedPoint
from flatmin.solvers.interior_point import MAX_ENTRIES, central_points, interior_cost
from flatmin.solvers.misfits import Exact

STEPS = 200
"""Newton steps along the central path that are tried at most; 20 to 60 are usual."""


def is_small(plain: Plain) -> bool:
    """Whether an instance of the plain form is solved without compiling anything."""
    d1, d2 = plain.measurements.matrix_shape
    return plain.measurements.num_measurements * d1 * d2 <= SMALL


def spectral(program: AbstractProgram, plain: Plain) -> Gauge | None:
    """The gauge on the host, of a programme of the nuclear norm or the trace with an exact fit; None for others."""
    return plain.gauge if isinstance(program.misfit, Exact) and plain.gauge.spectral else None


@dataclasses.dataclass(frozen=True)
class HostInstance:
    """A programme with its plain form in NumPy, and the ways to solve it.

    Attributes:
        program: the programme; its targets are not zero.
        plain: its plain form.
        gauge: the plain gauge.
        op: the plain measurements.
        tolerance: largest accepted relative gap.
        began: when.
    """

    program: AbstractProgram
    plain: Plain
    gauge: Gauge
    op: HostMap
    tolerance: float
    began: float

    @classmethod
    def of(cls, program: AbstractProgram, plain: Plain, tolerance: float) -> "HostInstance | None":
        """The instance; None for other programmes, and for measurements that cannot be held as a tensor."""
        gauge, op = spectral(program, plain), host_map(plain.measurements)
        return None if gauge is None or op is None else cls(program, plain, gauge, op, tolerance, time.perf_counter())

    @property
    def targets(self) -> np.ndarray:
        """B."""
        return np.asarray(self.program.targets)

    @functools.cached_property
    def pursued(self) -> Pursued | None:
        """A low-rank matrix that fits."""
        shape, gauge = self.program.measurements.matrix_shape, self.gauge
        return pursue(self.op, self.targets, shape, symmetric=gauge.symmetric, one_sided=gauge.one_sided)

    @functools.cached_property
    def white(self) -> White | None:
        """The measurements, orthonormal; None where they depend on each other."""
        return whiten(self.op, self.targets, self.program.measurements.matrix_shape)

    def finished(self, found: Found, method: str, shortfall: Outcome = Outcome.stalled) -> Solution:
        """A solution for what was found, accepted or not."""
        return certified(
            self.program,
            certificate_on_host(self.op, self.plain, self.targets, self.gauge, found.matrix, found.dual),
            self.tolerance,
            method=method,
            iterations=found.iterations,
            shortfall=Outcome.undercut if found.undercut else shortfall,
            stats={
                "pursued": method == "Pursuit",
                "polished": False,
                "seconds": {"total": time.perf_counter() - self.began},
            },
        )

    def by_pursuit(self) -> Solution | None:
        """The low-rank interpolant, if its multipliers prove it a minimiser."""
        found = self.pursued
        if found is None or found.dual is None:
            return None
        matrix = found.tangent.left @ found.tangent.right.T
        solution = self.finished(Found(matrix, found.dual, found.steps, undercut=False), "Pursuit")
        return solution if solution.outcome.success else None

    def by_central_path(self, before: int = 0, most: int = STEPS) -> Solution | None:
        """The end of the central path, if it is accepted, or the solution within a face that it points to."""
        white, gauge = self.white, self.gauge
        if white is None or interior_cost(self.program, self.plain).entries > MAX_ENTRIES:
            return None
        scale = float(np.linalg.norm(white.targets))
        for roomy in ROOMY if gauge.one_sided else ROOMY[:1]:
            points, steps = central_points(
                white.tensor(),
                white.targets / scale,
                symmetric=gauge.symmetric,
                one_sided=gauge.one_sided,
                tolerance=self.tolerance,
                max_steps=most,
                roomy=roomy,
            )
            for matrix, weights in reversed(points):
                found = Found(scale * matrix, white.multipliers(weights), before + steps, undercut=False)
                central = self.finished(found, "InteriorPoint")
                if central.outcome.success:
                    return central
            candidates = [scale * matrix for matrix, _ in reversed(points)]
            reduced = face_solution(self.program, self.plain, candidates, self.tolerance, before + steps)
            if reduced is not None:
                return reduced
        return None

    def by_splitting(self, limit: int, below: float | None, *, last: bool) -> Solution | None:
        """Douglas-Rachford; the point reached where `last`, else only an accepted or undercut one."""
        if self.white is None:
            return None
        found = split(
            self.op,
            self.white,
            self.gauge,
            tolerance=0.5 * self.tolerance,
            max_iterations=limit,
            below=below,
            interpolant=None if self.pursued is None else self.pursued.tangent,
        )
        shortfall = Outcome.max_iterations if found.iterations >= limit else Outcome.stalled
        solution = self.finished(found, "DouglasRachford", shortfall)
        return solution if last or solution.outcome.success or solution.outcome is Outcome.undercut else None


def certificate_on_host(
    op: HostMap, plain: Plain, targets: np.ndarray, gauge: Gauge, matrix: np.ndarray, dual: np.ndarray
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
    matrix = gauge.into_domain(matrix)
    dual = dual / max(1.0, float(gauge.polar(op.adjoint(dual))))
    if not targets @ dual > 0:
        dual = np.zeros_like(dual)
    primal, bound = gauge.strict_value(matrix), float(targets @ dual)
    residual = float(np.linalg.norm(op.forward(matrix) - targets) / np.linalg.norm(targets))
    scales = [np.asarray(scale) for scale in plain.inverse_scales]
    left = multiply(scales[0], matrix, scales[1]) if scales else matrix
    return CertifiedPoint(jnp.asarray(left), jnp.asarray(dual), Certificate.between(primal, bound, residual))
