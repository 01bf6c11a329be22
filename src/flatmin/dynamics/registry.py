"""The names of the rules: what a study may write."""

from collections.abc import Callable
from typing import TypeVar

from flatmin._core import Text, UsageError, checked
from flatmin._core.values import described
from flatmin.dynamics._base import AbstractDynamics

Rule = TypeVar("Rule", bound=type[AbstractDynamics])

RULES: dict[str, type[AbstractDynamics]] = {}
"""Class by name."""


@checked(name=Text(1))
def register(name: str) -> Callable[[Rule], Rule]:
    """Give a rule a name, above its class; the settings that a study may write are its fields.

    Args:
        name: the name.

    Returns:
        A decorator.

    Raises:
        UsageError: if another class has the name.
    """

    def named(rule: Rule) -> Rule:
        if not (isinstance(rule, type) and issubclass(rule, AbstractDynamics)):
            raise UsageError(f"rule: got {described(rule)}, expected a class of rules; stand above one")
        if RULES.setdefault(name, rule).__qualname__ != rule.__qualname__:
            raise UsageError(f"name: {name!r} is the rule {RULES[name].__name__} already; choose another")
        RULES[name] = rule
        return rule

    return named
