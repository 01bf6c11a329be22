"""What a solution is: flat, norm-minimal or balanced, and how far from each."""

from flatmin._core.exports import export as _export
from flatmin.diagnosis.quadratic import QuadraticDiagnosis as QuadraticDiagnosis
from flatmin.diagnosis.quadratic import diagnose_quadratic as diagnose_quadratic
from flatmin.diagnosis.triangle import Diagnosis as Diagnosis
from flatmin.diagnosis.triangle import diagnose as diagnose

_export(globals())
