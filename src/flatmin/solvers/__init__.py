"""Convex programmes over matrices that are seen through measurements, solved with a certified gap."""

from flatmin.solvers._base import AbstractMethod as AbstractMethod
from flatmin.solvers._base import AbstractProgram as AbstractProgram
from flatmin.solvers._base import Auto as Auto
from flatmin.solvers._base import select_method as select_method
from flatmin.solvers._base import solve as solve
from flatmin.solvers.certificate import Certificate as Certificate
from flatmin.solvers.certificate import certify as certify
from flatmin.solvers.closed_form import ClosedForm as ClosedForm
from flatmin.solvers.douglas_rachford import DouglasRachford as DouglasRachford
from flatmin.solvers.programs import MinFrobenius as MinFrobenius
from flatmin.solvers.programs import MinNuclearNorm as MinNuclearNorm
from flatmin.solvers.programs import MinScaledNuclearNorm as MinScaledNuclearNorm
