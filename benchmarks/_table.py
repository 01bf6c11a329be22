"""What a benchmark hands back, and how it is printed."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: the contestant, or the quantity.
        values: the cells after the name, as text.
        target: the target in words, empty for none.
        met: whether it was met, `None` without a target.
    """

    name: str
    values: list[str]
    target: str = ""
    met: bool | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A benchmark's result.

    Attributes:
        title: what was measured.
        columns: names of the cells between name and target.
        rows: the lines.
        notes: sentences below the table.
    """

    title: str
    columns: list[str]
    rows: list[Row]
    notes: list[str]

    def markdown(self) -> str:
        heads = ["", *self.columns, "target", ""]
        verdicts = {True: "met", False: "**missed**", None: ""}
        lines = [heads, ["---"] * len(heads)]
        lines += [[row.name, *row.values, row.target, verdicts[row.met]] for row in self.rows]
        body = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return "\n\n".join([f"## {self.title}", body, *self.notes])


def timing_rows(
    times: dict[str, list[float]],
    names: dict[str, str],
    threads: dict[str, int],
    targets: dict[str, float],
    extra: dict[str, str] | None = None,
    *,
    unit: float = 1e3,
) -> list[Row]:
    """Median, best and the ratio to the first side, for each side.

    Args:
        times: side -> seconds of each round; the first side is ours.
        names: side -> its name in the table.
        threads: side -> its thread count.
        targets: side -> the ratio to reach.
        extra: side -> one more cell.
        unit: times are multiplied by it; 1e3 for milliseconds.

    Returns:
        The rows.
    """
    import statistics

    from benchmarks._measure import ratio

    ours = next(iter(times))
    rows = []
    for side, seconds in times.items():
        middle, low, high = ratio(seconds, times[ours])
        cells = [
            str(threads[side]),
            f"{unit * statistics.median(seconds):.3g}",
            f"{unit * min(seconds):.3g}",
            f"{min(seconds) / min(times[ours]):.2f}",
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
            *([] if extra is None else [extra[side]]),
        ]
        target = targets.get(side)
        words, met = ("", None) if target is None else (f">= {target:g}", middle >= target)
        rows.append(Row(names[side], cells, words, met))
    return rows
