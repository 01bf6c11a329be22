"""What an experiment claims, by number.

A claim is decided by its constructor (`at_most`, `at_least`, `within`) from the *worst* end of the
measured interval against a bound fixed beforehand, so that verdict, margin and number cannot disagree.
NaN means not measured, and a claim that was not measured does not hold.
"""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, ValidationError, model_validator

from flatmin._core import AnyOf, JobError, Optional, Real, SequenceOf, checked_anywhere
from flatmin._core.models import Mistake, Model
from flatmin._core.text import printable
from flatmin.experiments.numbers import ANY_NUMBER, format_interval, format_number

if TYPE_CHECKING:
    from rich.table import Table


LIMIT = Real(infinite=True)
MEASURED = AnyOf(ANY_NUMBER, SequenceOf(ANY_NUMBER))
INTERVAL = Optional(SequenceOf(ANY_NUMBER, 2))


class Claim(Model):
    """A statement of a paper beside the number that was measured for it.

    Attributes:
        name: short, unique within a run, such as `trace-falls`.
        statement: the claim in one sentence.
        source: where it is made, such as `Theorem 3.1`.
        predicted: what is expected, in words or as a formula with its value.
        measured: the number, or one number a seed. NaN = not measured.
        interval: the range of the measurement (over seeds, or a confidence interval); the note says which.
        margin: how far inside the accepted range the worst end of the interval lies, in the units of
            `measured`; negative when outside, NaN when unknown.
        holds: the verdict.
        note: anything a reader must know to judge it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    statement: str
    source: str
    predicted: str
    measured: float | tuple[float, ...]
    interval: tuple[float, float] | None = None
    margin: float = math.nan
    holds: bool
    note: str = ""

    @model_validator(mode="after")
    def _verdict_fits_the_numbers(self) -> "Claim":
        if self.holds and not self.was_measured:
            raise Mistake(
                ("holds",), f"claim {self.name!r} holds but was not measured (NaN); measure it or set holds=False"
            )
        if self.holds and self.margin < 0:
            raise Mistake(("margin",), f"claim {self.name!r} holds with the negative margin {self.margin}")
        return self

    @property
    def values(self) -> tuple[float, ...]:
        """The measured numbers, always as a tuple."""
        return self.measured if isinstance(self.measured, tuple) else (self.measured,)

    @property
    def was_measured(self) -> bool:
        """Whether there is a number, and none is NaN."""
        return len(self.values) > 0 and not any(math.isnan(v) for v in self.values)

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `not measured`."""
        if not self.was_measured:
            return "not measured"
        return "holds" if self.holds else "does not hold"

    @property
    def measured_text(self) -> str:
        """The measured numbers and their interval as one text."""
        numbers = ", ".join(format_number(v) for v in self.values)
        return f"{numbers} {format_interval(self.interval)}".rstrip()

    @classmethod
    @checked_anywhere(limit=LIMIT)
    def at_most(cls, limit: float, **fields: Any) -> "Claim":
        """A claim that holds when all that was measured is `<= limit`.

        Args:
            limit: the bound, fixed beforehand.
            **fields: the other fields, without `margin` and `holds`.

        Returns:
            The decided claim; its margin is `limit - worst`.
        """
        return cls.within(-math.inf, limit, **fields)

    @classmethod
    @checked_anywhere(limit=LIMIT)
    def at_least(cls, limit: float, **fields: Any) -> "Claim":
        """A claim that holds when all that was measured is `>= limit`.

        Args:
            limit: the bound, fixed beforehand.
            **fields: the other fields, without `margin` and `holds`.

        Returns:
            The decided claim; its margin is `worst - limit`.
        """
        return cls.within(limit, math.inf, **fields)

    @classmethod
    @checked_anywhere(low=LIMIT, high=LIMIT)
    def within(cls, low: float, high: float, **fields: Any) -> "Claim":
        """A claim that holds when all that was measured lies in `[low, high]`.

        Args:
            low: lower bound, fixed beforehand.
            high: upper bound, fixed beforehand.
            **fields: the other fields, without `margin` and `holds`.

        Returns:
            The decided claim; its margin is the distance of the worst value to the nearer bound.
        """
        for name, domain in (("measured", MEASURED), ("interval", INTERVAL)):
            if name in fields:
                fields[name] = domain.accept(name, fields[name], {})
        measured = fields.get("measured", math.nan)
        values = measured if isinstance(measured, tuple) else (measured,)
        values += fields.get("interval") or ()
        known = len(values) > 0 and not any(math.isnan(v) for v in values)
        margin = min(min(high - v, v - low) for v in values) if known else math.nan
        return cls(margin=margin, holds=known and margin >= 0, **fields)


@checked_anywhere()
def claims_to_json(claims: Sequence[Claim]) -> str:
    """Claims as JSON text (NaN and infinities as strings, so that any reader takes it).

    Args:
        claims: the claims.

    Returns:
        A JSON list.
    """
    return json.dumps([json.loads(c.model_dump_json()) for c in claims], indent=2, ensure_ascii=False)


@checked_anywhere()
def claims_from_json(text: str) -> tuple[Claim, ...]:
    """The claims that `claims_to_json` wrote.

    Args:
        text: a JSON list.

    Returns:
        The claims.

    Raises:
        JobError: if the text is not such a list.
    """
    try:
        return tuple(Claim.model_validate_json(json.dumps(entry)) for entry in json.loads(text))
    except (ValidationError, ValueError, TypeError) as error:
        raise JobError(f"claims: the text is not a list of claims ({type(error).__name__}: {error})") from error


@checked_anywhere()
def claims_table(claims: Sequence[Claim], title: str = "Claims") -> "Table":
    """The claims for the terminal; fits 80 columns, uses 120 well.

    Args:
        claims: the claims.
        title: heading above the table.

    Returns:
        A rich table; print it with `rich.print`.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    marks = {
        "holds": ("✓ holds", "green"),
        "does not hold": ("✗ fails", "bold red"),
        "not measured": ("– no data", "yellow"),
    }
    table = Table(
        title=Text(printable(title)), title_justify="left", box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False
    )
    table.add_column("verdict", no_wrap=True, min_width=9)
    table.add_column("claim", ratio=5, overflow="fold")
    table.add_column("predicted", ratio=3, overflow="fold")
    table.add_column("measured", ratio=3, overflow="fold")
    for claim in claims:
        mark, style = marks[claim.verdict]
        text = Text(printable(claim.name), style="bold")
        text.append(f"\n{printable(claim.statement)}", style="not bold")
        details = "; ".join(part for part in (claim.source, claim.note) if part)
        if details:
            text.append(f"\n{printable(details)}", style="not bold dim")
        measured = claim.measured_text
        if not math.isnan(claim.margin):
            measured += f"\nmargin {format_number(claim.margin, 3)}"
        table.add_row(Text(mark, style=style), text, Text(printable(claim.predicted)), Text(measured))
    return table
