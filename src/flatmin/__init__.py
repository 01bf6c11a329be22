"""flatmin: find, measure and certify flat minima of factorised models."""

from flatmin import measurements as measurements
from flatmin._core import Estimate as Estimate
from flatmin._core import JobError as JobError
from flatmin._core import Outcome as Outcome
from flatmin._core import Solution as Solution
from flatmin._core import UsageError as UsageError

__version__ = "0.1.0"
