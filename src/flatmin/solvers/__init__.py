"""Convex programmes over matrices that are seen through measurements, solved with a certified gap."""

from flatmin._core import Certificate as Certificate
from flatmin._core.exports import export as _export
from flatmin.solvers._base import AbstractMethod as AbstractMethod
from flatmin.solvers._base import AbstractProgram as AbstractProgram
from flatmin.solvers._base import Auto as Auto
from flatmin.solvers._base import select_method as select_method
from flatmin.solvers._base import solve as solve
from flatmin.solvers.batch import solve_batch as solve_batch
from flatmin.solvers.batch import value_on_host as value_on_host
from flatmin.solvers.certificate import CertifiedPoint as CertifiedPoint
from flatmin.solvers.certificate import certify as certify
from flatmin.solvers.closed_form import ClosedForm as ClosedForm
from flatmin.solvers.douglas_rachford import DouglasRachford as DouglasRachford
from flatmin.solvers.entrywise import MinWeightedLp as MinWeightedLp
from flatmin.solvers.factored import Factored as Factored
from flatmin.solvers.flat import flat_program as flat_program
from flatmin.solvers.interior_point import InteriorPoint as InteriorPoint
from flatmin.solvers.linear_programming import Simplex as Simplex
from flatmin.solvers.lp_newton import DualNewton as DualNewton
from flatmin.solvers.misfits import AbstractMisfit as AbstractMisfit
from flatmin.solvers.misfits import Exact as Exact
from flatmin.solvers.misfits import HuberLoss as HuberLoss
from flatmin.solvers.misfits import L1Ball as L1Ball
from flatmin.solvers.misfits import L1Loss as L1Loss
from flatmin.solvers.misfits import L2Ball as L2Ball
from flatmin.solvers.misfits import SquaredLoss as SquaredLoss
from flatmin.solvers.programs import MinFrobenius as MinFrobenius
from flatmin.solvers.programs import MinNorm as MinNorm
from flatmin.solvers.programs import MinNuclearNorm as MinNuclearNorm
from flatmin.solvers.programs import MinScaledNuclearNorm as MinScaledNuclearNorm
from flatmin.solvers.programs import MinSymmetricNuclearNorm as MinSymmetricNuclearNorm
from flatmin.solvers.programs import MinTrace as MinTrace
from flatmin.solvers.pursuit import Pursuit as Pursuit
from flatmin.solvers.robust import RobustPCA as RobustPCA
from flatmin.solvers.robust import default_penalty as default_penalty
from flatmin.solvers.robust import noise_norm as noise_norm
from flatmin.solvers.robust_pursuit import RobustPursuit as RobustPursuit

_export(globals())
