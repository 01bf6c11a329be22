"""What can be measured in a cell: names, meanings, units; the arithmetic is in `_points.py` and `_solving.py`."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number that is kept of a cell.

    Attributes:
        description: what it is.
        unit: its unit; empty for pure numbers.
        error: what the companion `NAME_error` is, for those that have one.
        log: whether a report shows it on a logarithmic scale.
    """

    description: str
    unit: str = ""
    error: str = ""
    log: bool = False


_RECOVERED = Quantity("truth recovered to the threshold (1) or not (0), undecided cells left out")
_ERROR = Quantity("relative error ‖X − M*‖ / ‖M*‖", log=True)
_NUCLEAR = Quantity("nuclear norm of X")

POINT: Mapping[str, Quantity] = {
    "loss": Quantity("mean of squared residuals", log=True),
    "test_loss": Quantity("mean of squared residuals on held-out measurements", log=True),
    "trace": Quantity("trace of the Hessian, closed form", error="rounding"),
    "sharpness": Quantity("largest eigenvalue of the Hessian", error="residual bound"),
    "nuclear_norm": _NUCLEAR,
    "frobenius_norm": Quantity("Frobenius norm of X"),
    "operator_norm": Quantity("largest singular value of X"),
    "stable_rank": Quantity("‖X‖_F² / ‖X‖_op²"),
    "relative_error": _ERROR,
    "recovered": _RECOVERED,
}
"""Measured at a point: of a training, or of the start where there is none."""

SOLVER: Mapping[str, Quantity] = {
    "value": Quantity("norm that the programme minimises", error="certified distance to the optimum"),
    "gap": Quantity("certified relative duality gap", log=True),
    "residual": Quantity("relative violation of the constraints", log=True),
    "iterations": Quantity("iterations of the method"),
    "nuclear_norm": _NUCLEAR,
    "relative_error": _ERROR,
    "recovered": _RECOVERED,
}
"""Measured of a convex solve."""


def known_quantities() -> list[str]:
    """All names."""
    return sorted({*POINT, *SOLVER})
