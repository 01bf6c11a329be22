"""The programme that a parameterization's flat solutions solve."""

import functools

from jaxtyping import ArrayLike

from flatmin._core import RealArray, UsageError, checked
from flatmin.measurements import AbstractMeasurements
from flatmin.parameterizations import AbstractParameterization, DeepMatrix, Hadamard, Quadratic
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers.entrywise import MinWeightedLp
from flatmin.solvers.misfits import AbstractMisfit
from flatmin.solvers.programs import MinScaledNuclearNorm, MinSymmetricNuclearNorm, MinTrace


@checked(targets=RealArray("m"))
@functools.singledispatch
def flat_program(
    parameterization: AbstractParameterization,
    measurements: AbstractMeasurements,
    targets: ArrayLike,
    misfit: AbstractMisfit | None = None,
) -> AbstractProgram:
    """The convex programme whose minimisers are the matrices of the flattest interpolating parameters.

    Two factors: `MinScaledNuclearNorm`; quadratic networks: `MinSymmetricNuclearNorm`, or `MinTrace` without negative
    units, both scaled; Hadamard factors: `MinWeightedLp`. The width is taken to suffice: the solution's rank (the
    numbers of its positive and negative eigenvalues) must not exceed the units there are.

    Args:
        parameterization: the map from parameters to the matrix.
        measurements: A, in float64.
        targets: b, shape (m,).
        misfit: what to charge for `A(X) - b`; default an exact fit.

    Returns:
        The programme, for `solve`.

    Raises:
        UsageError: for a parameterization whose flat solutions are not known to be a convex programme, and as the
            programme itself.
    """
    raise UsageError(
        f"parameterization: no convex programme is known for the flat solutions of {type(parameterization).__name__}; "
        "expected a deep matrix of depth 2, Quadratic or Hadamard"
    )


@flat_program.register
def _(parameterization: DeepMatrix, measurements, targets, misfit=None):
    depth = len(parameterization.widths) - 1
    if depth != 2:
        raise UsageError(
            f"parameterization: got a deep matrix of depth {depth}, expected 2; other depths have no closed form"
        )
    if parameterization.max_rank < min(parameterization.matrix_shape):
        raise UsageError(
            f"parameterization: got widths {parameterization.widths}, expected a hidden width of at least "
            f"{min(parameterization.matrix_shape)}; the theorem needs every matrix to be reached: widen it"
        )
    return MinScaledNuclearNorm(measurements, targets, misfit)


@flat_program.register
def _(parameterization: Quadratic, measurements, targets, misfit=None):
    if parameterization.negative == 0:
        return MinTrace(measurements, targets, misfit, scaled=True)
    return MinSymmetricNuclearNorm(measurements, targets, misfit, scaled=True)


@flat_program.register
def _(parameterization: Hadamard, measurements, targets, misfit=None):
    return MinWeightedLp(measurements, targets, misfit, depth=parameterization.depth)
