"""Flatness of a point: traces, sharpness and spectra, exact where a closed form exists."""

from flatmin._core.exports import export as _export
from flatmin.flatness.curvature_range import CurvatureRange as CurvatureRange
from flatmin.flatness.curvature_range import curvature_range as curvature_range
from flatmin.flatness.curvature_range import hessian_ends as hessian_ends
from flatmin.flatness.mean_square import sgd_stability_threshold as sgd_stability_threshold
from flatmin.flatness.methods import AbstractEndsMethod as AbstractEndsMethod
from flatmin.flatness.methods import AbstractMethod as AbstractMethod
from flatmin.flatness.methods import AbstractSpectrumMethod as AbstractSpectrumMethod
from flatmin.flatness.methods import AbstractTraceMethod as AbstractTraceMethod
from flatmin.flatness.methods import Auto as Auto
from flatmin.flatness.methods import Dense as Dense
from flatmin.flatness.methods import Exact as Exact
from flatmin.flatness.methods import Hutchinson as Hutchinson
from flatmin.flatness.methods import HutchPlusPlus as HutchPlusPlus
from flatmin.flatness.methods import Lanczos as Lanczos
from flatmin.flatness.methods import TangentKernel as TangentKernel
from flatmin.flatness.methods import XTrace as XTrace
from flatmin.flatness.select import select_method as select_method
from flatmin.flatness.select import sharpness_method as sharpness_method
from flatmin.flatness.select import trace_method as trace_method
from flatmin.flatness.sharpness import lowest_curvature as lowest_curvature
from flatmin.flatness.sharpness import sharpness as sharpness
from flatmin.flatness.spectrum import spectral_density as spectral_density
from flatmin.flatness.spectrum import spectrum as spectrum
from flatmin.flatness.tangent_kernel import gauss_newton_spectrum as gauss_newton_spectrum
from flatmin.flatness.tangent_kernel import tangent_kernel as tangent_kernel
from flatmin.flatness.trace import hessian_trace as hessian_trace
from flatmin.flatness.trace import scaled_trace as scaled_trace
from flatmin.flatness.trace_forms import block_traces as block_traces
from flatmin.flatness.trace_forms import register_block_traces as register_block_traces

_export(globals())
