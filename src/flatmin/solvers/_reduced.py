"""A solution of a trace programme over the face that holds all that fits, as a `Solution`."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from flatmin._core import Certificate, Outcome, Solution
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._faces import on_exposed_face
from flatmin.solvers._host import host_map
from flatmin.solvers._host_splitting import as_tensor
from flatmin.solvers._plain import Plain
from flatmin.solvers._solution import RESIDUAL, certified
from flatmin.solvers.certificate import CertifiedPoint
from flatmin.solvers.misfits import Exact


def face_solution(
    program: AbstractProgram, plain: Plain, points: Iterable[np.ndarray], tolerance: float, iterations: int
) -> Solution | None:
    """Solve over the range of one of the points, where that is proved to hold every positive semidefinite fit.

    Args:
        program: the programme; any but a trace with an exact fit has no such solution.
        plain: its plain form.
        points: points that may fit, in plain coordinates.
        tolerance: largest accepted relative gap.
        iterations: spent so far.

    Returns:
        The certified solution, or None. Its dual value is a bound for all that lies in the face, and `certify`, which
        knows nothing of faces, proves less. `stats["face"]` holds the dimension, and of the proof that all that fits
        lies in it: `proof`, y with `A*(y) >= 0` and `b.y = 0`; `smallest`, the least eigenvalue of
        `D^{-1} A*(y) D^{-1}` off the face, the largest being 1; `error`, what is not 0 but should be.
    """
    if not plain.gauge.one_sided or not isinstance(program.misfit, Exact):
        return None
    op, targets = host_map(plain.measurements), np.asarray(program.targets)
    if op is None:
        return None
    found = on_exposed_face(as_tensor(op, targets.size), targets, points, tolerance)
    if found is None or found.gap > tolerance or found.residual > RESIDUAL:
        return None
    matrix = plain.leave(jnp.asarray(found.matrix))
    dual = jnp.asarray(found.dual)
    face = found.face
    stated = {
        "dimension": face.basis.shape[1],
        "proof": jnp.asarray(face.proof),
        "smallest": face.smallest,
        "error": face.error,
    }
    return certified(
        program,
        CertifiedPoint(matrix, dual, Certificate.between(found.value, found.bound, found.residual)),
        tolerance,
        method="FacialReduction",
        iterations=iterations + found.steps,
        shortfall=Outcome.stalled,
        stats={"face": stated, "pursued": False},
    )
