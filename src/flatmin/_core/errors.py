"""Error classes and the sentences that go with them.

Three kinds of error exist in flatmin. A *static* mistake (wrong shape, unknown name, negative step
size) raises `UsageError`, a `ValueError`: the sentence names the argument, what was got, what was
expected and what to do. A *traced* value goes through `equinox.error_if`. An *outcome* (did not converge,
diverged) is a code in the result, see `outcomes.py`; asked to raise, it raises `JobError`.
"""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A request that cannot be carried out as written. The command exits with 2."""


class JobError(RuntimeError):
    """A well-formed job that failed while running. The command exits with 1."""


def nearest(name: str, options: Iterable[str]) -> str:
    """End of a sentence for an unknown `name`: the nearest option if one is near, and all of them.

    Args:
        name: what was got.
        options: the names that exist.

    Returns:
        Text such as `did you mean 'nuclear'? (frobenius, nuclear)`.
    """
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    everything = "(" + ", ".join(options) + ")"
    return f"did you mean {close[0]!r}? {everything}" if close else f"choose one of {everything}"


def choose(argument: str, name: str, options: Iterable[str]) -> str:
    """Return `name` if it is one of `options`.

    Args:
        argument: the argument's name, for the sentence.
        name: what was got.
        options: the names that exist.

    Returns:
        `name`, unchanged.

    Raises:
        UsageError: if it is not among the options; the nearest is suggested.
    """
    options = list(options)
    if name not in options:
        raise UsageError(f"{argument}: {name!r} is not known; {nearest(str(name), options)}")
    return name
