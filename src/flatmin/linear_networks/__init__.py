"""Batches of small regression networks trained side by side: one output, hundreds of runs, one compilation.

`flatmin.dynamics` runs any rule on any objective; this room runs one rule, gradient descent, on one family of
problems, and is 20 to 100 times faster on it. What makes it fast, and why it is a room of its own:

- a linear network sees its data only through `Sigma = X^T X / n` and `w*`, so a step costs O(L d^2), whatever n;
- the gradient of a layer is the outer product of two vectors, found by a recursion down and one up: no matrix product;
- the run is the last axis of every array, so that each instruction works on neighbouring runs;
- runs are cut into blocks that fit a core's cache, one block a thread.

Everything is compared with plain loops and autodiff in the tests.
"""

from flatmin._core.exports import export as _export
from flatmin.linear_networks.curvature import HessianEnds as HessianEnds
from flatmin.linear_networks.curvature import hessian_ends as hessian_ends
from flatmin.linear_networks.curvature import lanczos_ends as lanczos_ends
from flatmin.linear_networks.curvature import minimiser_sharpness as minimiser_sharpness
from flatmin.linear_networks.data import RegressionData as RegressionData
from flatmin.linear_networks.data import regression_data as regression_data
from flatmin.linear_networks.descent import Descent as Descent
from flatmin.linear_networks.descent import descend as descend
from flatmin.linear_networks.network import Network as Network
from flatmin.linear_networks.network import Weights as Weights

_export(globals())
