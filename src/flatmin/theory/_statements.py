"""The ledger's index: every theorem is a plain function with its kind, assumptions and source attached."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeVar

Kind = Literal["value", "lower", "upper", "minimiser"]


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a theory function says.

    Attributes:
        name: the function's name.
        kind: whether it gives the exact value, a lower or an upper bound, or a minimiser.
        reference: paper and theorem number.
        assumptions: when it holds.
        function: the function.
    """

    name: str
    kind: Kind
    reference: str
    assumptions: str
    function: Callable[..., Any]


STATEMENTS: dict[str, Statement] = {}

Function = TypeVar("Function", bound=Callable[..., Any])


def statement(kind: Kind, reference: str, assumptions: str) -> Callable[[Function], Function]:
    """Enter a function into `STATEMENTS`; the function itself is unchanged.

    Args:
        kind: value, lower, upper or minimiser.
        reference: paper and theorem number.
        assumptions: when it holds.

    Returns:
        The decorator.
    """

    def enter(function: Function) -> Function:
        name = getattr(function, "__name__", repr(function))
        STATEMENTS[name] = Statement(name, kind, reference, assumptions, function)
        return function

    return enter
