"""The papers, one package each: spec, computation, figures, claims."""

from flatmin.experiments.papers._paper import MODULES as MODULES
from flatmin.experiments.papers._paper import Paper as Paper
from flatmin.experiments.papers._paper import modules as modules
from flatmin.experiments.papers._paper import paper as paper
