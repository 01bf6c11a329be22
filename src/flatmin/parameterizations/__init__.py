"""Parameterizations of a matrix and how their parameters start."""

from flatmin._core.exports import export as _export
from flatmin.parameterizations._base import AbstractParameterization as AbstractParameterization
from flatmin.parameterizations.alignment import alignment as alignment
from flatmin.parameterizations.alignment import balance_sides as balance_sides
from flatmin.parameterizations.alignment import balancedness as balancedness
from flatmin.parameterizations.alignment import neighbour_cosines as neighbour_cosines
from flatmin.parameterizations.alignment import rank_one_distances as rank_one_distances
from flatmin.parameterizations.alignment import stable_ranks as stable_ranks
from flatmin.parameterizations.deep_matrix import DeepMatrix as DeepMatrix
from flatmin.parameterizations.deep_matrix import deep_matrix as deep_matrix
from flatmin.parameterizations.hadamard import Hadamard as Hadamard
from flatmin.parameterizations.params import check_factors as check_factors
from flatmin.parameterizations.params import check_params as check_params
from flatmin.parameterizations.params import params_shape as params_shape
from flatmin.parameterizations.quadratic import Quadratic as Quadratic
from flatmin.parameterizations.residual_chain import ResidualChain as ResidualChain
from flatmin.parameterizations.residual_chain import residual_chain as residual_chain
from flatmin.parameterizations.schemes import AbstractScheme as AbstractScheme
from flatmin.parameterizations.schemes import Balanced as Balanced
from flatmin.parameterizations.schemes import Flattest as Flattest
from flatmin.parameterizations.schemes import Gaussian as Gaussian
from flatmin.parameterizations.schemes import Orthogonal as Orthogonal
from flatmin.parameterizations.schemes import Residual as Residual
from flatmin.parameterizations.schemes import Small as Small
from flatmin.parameterizations.sum import Sum as Sum

_export(globals())
