"""The flattest interpolator itself: the induced regulariser, the direct solver, the flow that label noise follows."""

from flatmin._core.exports import export as _export
from flatmin.interpolators.bounds import LowerBound as LowerBound
from flatmin.interpolators.bounds import RipEstimate as RipEstimate
from flatmin.interpolators.bounds import lower_bound as lower_bound
from flatmin.interpolators.bounds import rip_estimate as rip_estimate
from flatmin.interpolators.bounds import single_measurement_flattest as single_measurement_flattest
from flatmin.interpolators.flow import follow_trace as follow_trace
from flatmin.interpolators.flow import label_noise_time as label_noise_time
from flatmin.interpolators.regulariser import InducedRegulariser as InducedRegulariser
from flatmin.interpolators.regulariser import induced_regulariser as induced_regulariser
from flatmin.interpolators.regulariser import single_measurement_values as single_measurement_values
from flatmin.interpolators.solution import FlattestSolution as FlattestSolution
from flatmin.interpolators.solver import flattest as flattest

_export(globals())
