"""Completion of large sparse data: factors instead of a matrix, sweeps of least squares, a certificate without d1 x d2.

Host code over `numpy` and `scipy.sparse`, in float64 whatever JAX is set to. Memory is O(m + (d1 + d2) k).
"""

from flatmin.solvers.large.certificate import CertifiedFactors as CertifiedFactors
from flatmin.solvers.large.certificate import CertifiedFactors as LargeCertificate  # noqa: F401 the old name
from flatmin.solvers.large.certificate import certify_large as certify_large
from flatmin.solvers.large.method import Progress as Progress
from flatmin.solvers.large.method import complete as complete
from flatmin.solvers.large.method import largest_penalty as largest_penalty
from flatmin.solvers.large.problem import LargeCompletion as LargeCompletion
from flatmin.solvers.large.problem import large_completion as large_completion
from flatmin.solvers.large.solution import FactoredSolution as FactoredSolution
from flatmin.solvers.large.spectral import SpectralBound as SpectralBound
from flatmin.solvers.large.spectral import spectral_bound as spectral_bound
from flatmin.solvers.large.sweeps import project_rows as project_rows
