"""Standard streams as they may be: closed, without an encoding for every character, or with nobody who reads on."""

import codecs
import contextlib
import errno
import io
import os
import sys
from typing import Any

_PLAIN = {
    "×": "x", "✓": "+", "✗": "x", "–": "-", "—": "-", "−": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "…": "...",
    "≤": "<=", "≥": ">=", "‖": "||", "∗": "*", "½": "1/2", "∞": "inf", "·": ".", "→": "->", "±": "+-", "≈": "~",
    "√": "sqrt", "∈": "in", "∇": "grad", "∂": "d", "ᵀ": "^T", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta",
    "ε": "eps", "η": "eta", "θ": "theta", "κ": "kappa", "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "ω": "omega", "Σ": "sum", "⊤": "^T",
}  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_PLAINLY = "flatmin.plainly"


def prepare_streams() -> None:
    """Make the standard streams usable; the first thing that the command does.

    Those that are closed lead to nowhere, as with `/dev/null`; otherwise the next file that is opened would take their
    number, and whatever is printed would be written into it. Characters that an encoding lacks are spelt with others.
    A reader that goes away (`| head`) ends neither the work nor its exit code.
    """
    codecs.register_error(_PLAINLY, _plainly)
    for number in range(3):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            raw = open(number, "wb", closefd=False)  # noqa: SIM115 - for the life of the process
            new = _Patient(raw, encoding="utf-8", errors=_PLAINLY, line_buffering=True)
        elif type(stream) is io.TextIOWrapper and stream is getattr(sys, f"__{name}__") and _number(stream) == number:
            lines, through, encoding = stream.line_buffering, stream.write_through, stream.encoding
            stream.flush()
            new = _Patient(
                stream.detach(), encoding=encoding, errors=_PLAINLY, line_buffering=lines, write_through=through
            )
        else:  # captured by a test or a notebook
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=_PLAINLY)
            continue
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def say(line: str, *, error: bool = False) -> None:
    """Print a line, never wrapped.

    Args:
        line: the line.
        error: whether it goes to standard error.
    """
    if not line.isprintable():
        from flatmin._core.text import printable  # that room loads JAX, which `--help` need not wait for

        line = printable(line)
    print(line, file=sys.stderr if error else sys.stdout, flush=True)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """For `codecs`: what cannot be encoded, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain, raised = [], error.start > 0 and error.object[error.start - 1] in _RAISED
    for character in error.object[error.start : error.end]:
        if character in _RAISED:
            plain.append(("" if raised else "^") + _RAISED[character])
        else:
            plain.append(_PLAIN.get(character) or character.encode("unicode_escape").decode("ascii"))
        raised = character in _RAISED
    return "".join(plain), error.end


def _number(stream: Any) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return -1


class _Patient(io.TextIOWrapper):
    """A stream that goes on into nowhere once nobody reads it."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._turn_away(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._turn_away(error)
            super().flush()

    def _turn_away(self, error: OSError) -> None:
        if error.errno not in (errno.EPIPE, errno.ESHUTDOWN):
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
