"""Low-rank recovery in the manner of scikit-learn, each fit with its certificate and its flatness.

Needs scikit-learn: `pip install 'flatmin[sklearn]'`.
"""

try:
    import sklearn as _sklearn
except ImportError as _error:
    raise ImportError(
        "flatmin.estimators needs scikit-learn 1.6 or later, which is not installed; pip install 'flatmin[sklearn]'"
    ) from _error
if tuple(int(part) for part in _sklearn.__version__.split(".")[:2]) < (1, 6):
    raise ImportError(
        f"flatmin.estimators needs scikit-learn 1.6 or later, got {_sklearn.__version__}; "
        "pip install --upgrade 'flatmin[sklearn]'"
    )

from flatmin._core.exports import export as _export
from flatmin.estimators._results import Flatness as Flatness
from flatmin.estimators._results import Proof as Proof
from flatmin.estimators.completion import FlatCompletion as FlatCompletion
from flatmin.estimators.completion import NuclearCompletion as NuclearCompletion
from flatmin.estimators.covariance import FlatCovariance as FlatCovariance
from flatmin.estimators.robust import FlatRobustPCA as FlatRobustPCA

_export(globals())
