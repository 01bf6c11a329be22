"""Studies: grids of cells, computed once, stored durably, resumed bit for bit."""

from flatmin._core.app import PACKAGES as _PACKAGES  # noqa: F401  # says what is missing
from flatmin._core.exports import export as _export
from flatmin.studies._segments import DONE as DONE
from flatmin.studies._segments import FAILED as FAILED
from flatmin.studies.engine import Progress as Progress
from flatmin.studies.engine import Summary as Summary
from flatmin.studies.engine import run_study as run_study
from flatmin.studies.opening import find_store as find_store
from flatmin.studies.reading import load_spec as load_spec
from flatmin.studies.reading import study_spec as study_spec
from flatmin.studies.spec import StudySpec as StudySpec
from flatmin.studies.study import Study as Study
from flatmin.studies.study import plan as plan

_export(globals())
