"""What a solution is: flat, norm-minimal or balanced, and how far from each."""

from flatmin.diagnosis.triangle import Diagnosis as Diagnosis
from flatmin.diagnosis.triangle import diagnose as diagnose
