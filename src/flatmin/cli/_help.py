"""What `--help` of every command shows: whole sentences, an example, the exit codes."""

import inspect
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

EXIT_CODES = "Exit codes: 0 done; 1 it failed, or the answer is not what was asked for; 2 wrong use; 130 interrupted."


Verb = Callable[..., Any]


def verb(
    app: typer.Typer, *examples: str, name: str | None = None, cls: type[TyperCommand] | None = None
) -> Callable[[Verb], Verb]:
    """Register a function as a command; the first line of its docstring stands whole in the list of commands.

    Args:
        app: where.
        *examples: what one could type.
        name: the command's name; default: the function's.
        cls: the command's class, where its options are not those of the function.

    Returns:
        A decorator that leaves the function as it is.
    """
    lines = "\n".join(f"  {example}" for example in examples)
    word = "Example" if len(examples) == 1 else "Examples"

    def registered(function: Verb) -> Verb:
        first = inspect.getdoc(function).splitlines()[0]  # pyright: ignore[reportOptionalMemberAccess]
        app.command(name=name, cls=cls, short_help=first, epilog=f"\b\n{word}:\n{lines}\n\n{EXIT_CODES}")(function)
        return function

    return registered
