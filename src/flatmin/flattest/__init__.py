"""The flattest interpolator itself: the induced regulariser, the direct solver, the flow that label noise follows."""

from flatmin.flattest.regulariser import InducedRegulariser as InducedRegulariser
from flatmin.flattest.regulariser import induced_regulariser as induced_regulariser
