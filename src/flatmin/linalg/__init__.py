"""Matrix-free linear algebra: matvec in, estimate with its error out."""

from flatmin._core.exports import export as _export
from flatmin.linalg.curvature import FlatHessian as FlatHessian
from flatmin.linalg.curvature import check_point as check_point
from flatmin.linalg.curvature import flat_hessian as flat_hessian
from flatmin.linalg.density import SpectralDensity as SpectralDensity
from flatmin.linalg.density import lanczos_density as lanczos_density
from flatmin.linalg.eigen import eigenpair_residual as eigenpair_residual
from flatmin.linalg.eigen import extreme_eigenvector as extreme_eigenvector
from flatmin.linalg.eigen import extreme_eigenvectors as extreme_eigenvectors
from flatmin.linalg.lanczos import Ends as Ends
from flatmin.linalg.lanczos import lanczos_ends as lanczos_ends
from flatmin.linalg.programs import compiled as compiled
from flatmin.linalg.scale import safe_norm as safe_norm
from flatmin.linalg.trace import calibrated as calibrated
from flatmin.linalg.trace import exact_trace as exact_trace
from flatmin.linalg.trace import hutch_plus_plus as hutch_plus_plus
from flatmin.linalg.trace import hutchinson as hutchinson
from flatmin.linalg.trace import xtrace as xtrace

_export(globals())
