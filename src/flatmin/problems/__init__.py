"""Recovery problems and their presets."""

from flatmin.problems.activated import ActivatedRegression as ActivatedRegression
from flatmin.problems.activated import activated_regression as activated_regression
from flatmin.problems.planted import PlantedProblem as PlantedProblem
from flatmin.problems.planted import bilinear_sensing as bilinear_sensing
from flatmin.problems.planted import deep_linear_regression as deep_linear_regression
from flatmin.problems.planted import low_rank_matrix as low_rank_matrix
from flatmin.problems.planted import matrix_completion as matrix_completion
from flatmin.problems.planted import matrix_sensing as matrix_sensing
from flatmin.problems.planted import planted as planted
from flatmin.problems.planted import quadratic_network as quadratic_network
from flatmin.problems.recovery import RecoveryProblem as RecoveryProblem
