"""The command. Each file here parses and calls one verb; this one turns what goes wrong into a sentence and a code.

Exit codes: 0 done; 1 a well-formed job failed, or its answer is not what was asked for; 2 the request cannot be carried
out as written; 130 interrupted. `FLATMIN_DEBUG=1` shows the traceback.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

WRONG_USE, FAILED, INTERRUPTED = 2, 1, 130
_INTERRUPTED = "interrupted; finished pieces are kept, start the same command again to go on"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows the command's name; default: that of the process.

    Returns:
        The exit code.

    Raises:
        UsageError: for arguments that are no list of texts.
    """
    from flatmin.cli._streams import prepare_streams

    prepare_streams()
    given = sys.argv[1:] if arguments is None else arguments
    if not isinstance(given, list | tuple) or not all(isinstance(argument, str) for argument in given):
        from flatmin._core import UsageError
        from flatmin._core.values import described

        raise UsageError(f"arguments: got {described(given)}, expected a list of texts such as ['recover', 'data.csv']")
    given = list(given)
    try:
        code = _run(given)
        sys.stdout.flush()
    except OSError as error:  # nobody can be told where standard error is full too
        with contextlib.suppress(OSError):
            _tell(f"output: cannot be written ({error.strerror or error}); what was computed is stored")
        _leave_if_full()
        return FAILED
    return code


def _run(given: list[str]) -> int:
    try:
        from flatmin.cli._app import app
    except ModuleNotFoundError as error:
        if str(error.name).startswith("flatmin"):
            raise
        _tell(f"the command needs {error.name!r}, which is not installed; pip install 'flatmin[app]'")
        return FAILED

    if given in ([], ["study"]):  # without a verb it explains itself
        given.append("--help")
    try:
        code = app(given, prog_name="flatmin", standalone_mode=False)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    except BaseException as error:
        if os.environ.get("FLATMIN_DEBUG") == "1":
            raise
        code, sentence = _explain(error)
        _tell(sentence)
        _leave_if_abandoned(error, code)
        return code
    if code == INTERRUPTED:  # typer turns Ctrl-C outside of a computation into this code
        _tell(_INTERRUPTED)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _tell(sentence: str) -> None:
    from flatmin.cli._streams import say

    say(f"flatmin: {sentence}", error=True)


def _leave_if_full() -> None:
    """What is still to be written to a full disk must not be tried again at the exit: the code would be another."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _explain(error: BaseException) -> tuple[int, str]:
    import typer

    from flatmin._core.errors import JobError, UsageError
    from flatmin.cli._background import Interrupted

    click_error = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    if isinstance(error, KeyboardInterrupt | Interrupted | typer.Abort):
        return INTERRUPTED, _INTERRUPTED
    if isinstance(error, click_error):
        return WRONG_USE, _one_line(error.format_message())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(error, UsageError):
        return WRONG_USE, _one_line(str(error))
    if isinstance(error, JobError) or (isinstance(error, ImportError) and "pip install" in str(error)):
        return FAILED, _one_line(str(error))
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return FAILED, "the machine has not enough memory for this problem; use fewer measurements or a smaller matrix"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return FAILED, f"{where}{error.strerror or error}; check the path, the permissions and the free space"
    if type(error).__name__ == "ValidationError":
        return WRONG_USE, _first_of(error)
    what = f"unexpected {type(error).__name__}: {_one_line(str(error))}"
    advice = "report it with the output of the same command under FLATMIN_DEBUG=1"
    return FAILED, f"{what}; this is a mistake in flatmin, please {advice}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_of(error: BaseException) -> str:
    first = error.errors()[0]  # pyright: ignore[reportAttributeAccessIssue]
    name = ".".join(str(part) for part in first["loc"]) or "spec"
    return _one_line(f"{name}: got {first['input']!r:.60}, {first['msg'][0].lower()}{first['msg'][1:]}")


def _leave_if_abandoned(error: BaseException, code: int) -> None:
    """End the process if an interrupted computation is still inside compiled code: the exit would wait for it."""
    from flatmin.cli._background import Interrupted

    if isinstance(error, Interrupted) and error.abandoned:
        sys.stdout.flush()
        os._exit(code)
