"""Recovery problems and their presets."""

from flatmin._core.exports import export as _export
from flatmin.problems.activated import ActivatedRegression as ActivatedRegression
from flatmin.problems.activated import activated_regression as activated_regression
from flatmin.problems.completion import matrix_completion as matrix_completion
from flatmin.problems.completion import power_law as power_law
from flatmin.problems.deep_regression import deep_linear_regression as deep_linear_regression
from flatmin.problems.outliers import robust_pca as robust_pca
from flatmin.problems.planted import PlantedProblem as PlantedProblem
from flatmin.problems.planted import low_rank_matrix as low_rank_matrix
from flatmin.problems.planted import planted as planted
from flatmin.problems.quadratic import covariance_estimation as covariance_estimation
from flatmin.problems.quadratic import phase_retrieval as phase_retrieval
from flatmin.problems.quadratic import quadratic_network as quadratic_network
from flatmin.problems.recovery import RecoveryProblem as RecoveryProblem
from flatmin.problems.sensing import bilinear_sensing as bilinear_sensing
from flatmin.problems.sensing import matrix_sensing as matrix_sensing
from flatmin.problems.sparse import sparse_recovery as sparse_recovery

_export(globals())
