"""A commented study to start from."""

TEMPLATE = """\
# A study: every combination of the axes below is a cell. Check it, run it, look at it:
#   flatmin study check {name}.toml
#   flatmin study run {name}.toml
#   flatmin study report {name}.toml
name = "{name}"                  # also the folder's name
title = "Label noise and step sizes"
seeds = 4                        # the last axis; or {{ first = 10, count = 4 }}
precision = "float64"            # of the training; what is measured is always float64

[problem]                        # the settings of a preset in flatmin.problems:
preset = "matrix_sensing"        # matrix_sensing, bilinear_sensing, matrix_completion, robust_pca, sparse_recovery,
matrix_shape = [8, 8]            # quadratic_network, covariance_estimation, phase_retrieval
rank = 1
num_measurements = 40

# [parameterization]             # instead of the preset's own: deep_matrix, residual_chain, hadamard, quadratic
# kind = "deep_matrix"
# depth = 3

[start]                          # gaussian, small, orthogonal, residual; balanced and flattest factorise the truth
scheme = "gaussian"
scale = 0.3

[dynamics]                       # gradient_descent, sgd, label_noise_sgd; or a [solver] with a program; or neither
rule = "label_noise_sgd"
batch_size = 5

[stopping]
steps = 2000                     # a [solver] takes tolerance and max_iterations
# loss = 1e-10                   # a cell is done as soon as its loss is at most this,
# gradient = 1e-6                # or the norm of its gradient is;
# check_every = 100              # it is looked at after every so many steps

[measure]
quantities = ["loss", "trace", "nuclear_norm", "relative_error"]
record = ["loss", "trace"]       # also along the training,
every = 200                      # after every so many steps

[axes]                           # any setting by its dotted name: a list, or from/to with a count or a step
"dynamics.learning_rate" = {{ from = 0.005, to = 0.02, count = 3, spacing = "log" }}
"dynamics.noise" = [0.0, 0.1]
"problem.depth" = [2, 3]

# [random]                       # random axes: each sample draws all of them
# samples = 20
# [random.draw]
# "start.scale" = {{ distribution = "log_uniform", low = 0.1, high = 1.0 }}

# [adaptive]                     # spend trials (seeds) near a transition only
# axis = "problem.num_measurements"
# quantity = "recovered"
"""
