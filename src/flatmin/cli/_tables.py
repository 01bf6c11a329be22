"""What the commands print at their end."""

import math
from collections.abc import Iterable
from typing import Any

from flatmin._core.text import printable
from flatmin.cli._streams import say
from flatmin.experiments import Claim, Run, format_number

_MARKS = {
    "holds": ("✓ holds", "green"),
    "does not hold": ("✗ fails", "bold red"),
    "not measured": ("– no data", "yellow"),
}


def console() -> Any:
    """A console on standard output that never cuts paths or wraps where nobody reads."""
    import sys

    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=False)


def print_claims(claims: Iterable[Claim]) -> None:
    """One line a claim: verdict, name, predicted, measured, margin.

    Args:
        claims: the claims.
    """
    claims = list(claims)
    if not claims:
        return
    table = _table("verdict", "claim", "predicted", "measured", "margin")
    for claim in claims:
        mark, style = _MARKS[claim.verdict]
        margin = "" if math.isnan(claim.margin) else format_number(claim.margin, 3)
        table.add_row(_text(mark, style), _text(claim.name), _text(claim.predicted), _text(claim.measured_text), margin)
    console().print(table)
    held = sum(claim.holds for claim in claims)
    print_lines([f"{held} of {len(claims)} claims hold."])


def print_values(rows: Iterable[tuple[str, str]]) -> None:
    """A table of two columns.

    Args:
        rows: name and value.
    """
    table = _table("quantity", "value", show_header=False)
    for name, value in rows:
        table.add_row(_text(name, "bold"), _text(value))
    console().print(table)


def print_run(run: Run, *, is_new: bool) -> None:
    """Where the run lies, and whether it was computed now.

    Args:
        run: the run.
        is_new: whether it was computed now.
    """
    seconds = float(run.provenance.get("seconds", math.nan))
    how = f"computed in {format_number(seconds, 3)} s" if is_new else "found, not recomputed"
    print_lines([f"Run {run.experiment.name}-{run.id}: {how}.", f"Report: {run.path / 'report.html'}"])


def print_lines(lines: Iterable[str]) -> None:
    """Plain lines, never wrapped.

    Args:
        lines: the lines.
    """
    for line in lines:
        say(line)


def print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """A table of texts.

    Args:
        header: one text a column.
        rows: texts.
    """
    table = _table(*header)
    for row in rows:
        table.add_row(*map(_text, row))
    console().print(table)


def _table(*header: str, show_header: bool = True) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=show_header)
    for name in header:
        table.add_column(_text(name), overflow="fold", no_wrap=name in ("verdict", "id"))
    return table


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(printable(text), style=style)
