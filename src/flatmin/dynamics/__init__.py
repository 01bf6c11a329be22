"""Moving params downhill: rules, schedules, compiled runs with records and checkpoints, ensembles."""

from flatmin.dynamics._base import AbstractDynamics as AbstractDynamics
from flatmin.dynamics._base import DynamicsState as DynamicsState
from flatmin.dynamics._base import StepInfo as StepInfo
from flatmin.dynamics._run import TrainResult as TrainResult
from flatmin.dynamics.checkpoint import Checkpoint as Checkpoint
from flatmin.dynamics.descent import GradientDescent as GradientDescent
from flatmin.dynamics.descent import LabelNoiseSGD as LabelNoiseSGD
from flatmin.dynamics.descent import StochasticGradientDescent as StochasticGradientDescent
from flatmin.dynamics.ensemble import train_ensemble as train_ensemble
from flatmin.dynamics.flow import FlowHistory as FlowHistory
from flatmin.dynamics.flow import FlowResult as FlowResult
from flatmin.dynamics.flow import gradient_flow as gradient_flow
from flatmin.dynamics.matched import MatchedRuns as MatchedRuns
from flatmin.dynamics.matched import descent_beside_flow as descent_beside_flow
from flatmin.dynamics.record import History as History
from flatmin.dynamics.record import Record as Record
from flatmin.dynamics.record import log_spaced as log_spaced
from flatmin.dynamics.schedule import AbstractSchedule as AbstractSchedule
from flatmin.dynamics.schedule import Piecewise as Piecewise
from flatmin.dynamics.stability import RunClass as RunClass
from flatmin.dynamics.stability import StabilityReport as StabilityReport
from flatmin.dynamics.stability import classify_run as classify_run
from flatmin.dynamics.stability import progressive_sharpening_rate as progressive_sharpening_rate
from flatmin.dynamics.stability import stability_report as stability_report
from flatmin.dynamics.train import train as train
