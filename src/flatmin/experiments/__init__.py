"""How an experiment is described, run once, stored and found again."""

from flatmin._core.app import PACKAGES as _PACKAGES  # noqa: F401  # says what is missing
from flatmin._core.exports import export as _export
from flatmin.experiments.certificates import Certificate as Certificate
from flatmin.experiments.claims import Claim as Claim
from flatmin.experiments.claims import claims_from_json as claims_from_json
from flatmin.experiments.claims import claims_table as claims_table
from flatmin.experiments.claims import claims_to_json as claims_to_json
from flatmin.experiments.numbers import format_interval as format_interval
from flatmin.experiments.numbers import format_number as format_number
from flatmin.experiments.runs import Run as Run
from flatmin.experiments.runs import RunContent as RunContent
from flatmin.experiments.runs import find_problems as find_problems
from flatmin.experiments.runs import find_runs as find_runs
from flatmin.experiments.runs import is_complete as is_complete
from flatmin.experiments.runs import load_run as load_run
from flatmin.experiments.runs import obtain_run as obtain_run
from flatmin.experiments.runs import rewrite_derived as rewrite_derived
from flatmin.experiments.specs import Experiment as Experiment
from flatmin.experiments.specs import RunSpec as RunSpec
from flatmin.experiments.specs import Setting as Setting
from flatmin.experiments.specs import run_id as run_id
from flatmin.experiments.specs import setting as setting
from flatmin.experiments.specs import settings_of as settings_of

_export(globals())
