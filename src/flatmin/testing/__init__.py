"""Laws that a class of one's own has to keep; each raises `AssertionError` with the law that is broken."""

from flatmin._core.exports import export as _export
from flatmin.testing.measurements import measurement_laws as measurement_laws
from flatmin.testing.parameterizations import parameterization_laws as parameterization_laws
from flatmin.testing.rules import rule_laws as rule_laws

_export(globals())
