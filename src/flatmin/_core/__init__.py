"""Results, outcomes, errors and the objective protocol; imported by every room, imports none."""

from flatmin._core.checks import as_real as as_real
from flatmin._core.checks import check_at_least as check_at_least
from flatmin._core.checks import check_finite as check_finite
from flatmin._core.checks import check_positive as check_positive
from flatmin._core.checks import check_shape as check_shape
from flatmin._core.checks import is_traced as is_traced
from flatmin._core.checks import require_float64 as require_float64
from flatmin._core.display import Shown as Shown
from flatmin._core.errors import JobError as JobError
from flatmin._core.errors import UsageError as UsageError
from flatmin._core.errors import choose as choose
from flatmin._core.errors import nearest as nearest
from flatmin._core.objective import AbstractObjective as AbstractObjective
from flatmin._core.objective import FunctionObjective as FunctionObjective
from flatmin._core.objective import Objective as Objective
from flatmin._core.objective import as_objective as as_objective
from flatmin._core.outcomes import Outcome as Outcome
from flatmin._core.results import Estimate as Estimate
from flatmin._core.results import Result as Result
from flatmin._core.results import Solution as Solution
