"""From the instances of an entry to its verdict.

Every instance is turned into one number, its score: `|measured - predicted| / tolerance` for equalities, the ratio
measured / predicted (rounding taken off in the statement's favour) for bounds. The claim is decided by the worst.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import t as student

from flatmin._core.intervals import wilson
from flatmin.experiments.claims import Claim
from flatmin.experiments.ledger._entry import Entry
from flatmin.experiments.numbers import format_number

if TYPE_CHECKING:
    import xarray as xr

Mutation = Literal["none", "shift", "swap"]
LEVEL = 0.99
_SHIFT = {"value": 1.05, "upper": 0.95, "lower": 1.05, "probability": 1.0}


def mutation_of(found: Entry) -> Mutation:
    """The change of a statement that must turn its verdict: 5% where it is an equality or tight, else the direction.

    Args:
        found: the entry.

    Returns:
        What to pass to `decide`.
    """
    return "swap" if found.kind == "probability" or (found.kind in ("upper", "lower") and not found.tight) else "shift"


def decide(found: Entry, table: "xr.Dataset", mutation: Mutation = "none") -> Claim:
    """The claim of an entry.

    Args:
        found: the entry.
        table: its instances, from `measure_entry`.
        mutation: a falsified statement instead of the true one: `shift` moves the prediction by 5% (bounds: to the
            tighter side; means: by two and a half margins), `swap` turns the inequality. For tests that no check is
            vacuous.

    Returns:
        The claim; NaN measurements count as not measured, and such a claim does not hold.
    """
    kind = found.kind
    if mutation == "swap":
        kind = {"upper": "lower", "lower": "upper"}.get(kind, kind)
    shift = 1 + 2.5 * found.margin if found.kind == "mean" else _SHIFT[found.kind]
    predicted = table.predicted.values * (shift if mutation == "shift" else 1.0)
    applies = table.applies.values
    if not applies.any():
        return Claim.at_most(
            1.0, measured=np.nan, **_words(found, "no instance", "the assumptions hold on no instance")
        )
    measured, tolerance = table.measured.values, table.tolerance.values
    if kind == "mean":
        return _mean(found, table, predicted)
    if kind == "probability":
        return _probability(found, table, 1 - measured if mutation == "swap" else measured)
    score = scores(kind, predicted, measured, tolerance)
    kept = score[applies]
    worst = float(np.min(kept) if kind == "lower" else np.max(kept)) if not np.isnan(kept).any() else np.nan
    words = {
        "value": "|measured − predicted| ≤ rounding, on every instance",
        "upper": "measured / predicted ≤ 1, on every instance",
        "lower": "measured / predicted ≥ 1, on every instance",
    }[kind]
    note = _counts(table) + _worst(found, table, score, kind)
    fields = {"measured": worst, "interval": (float(np.min(kept)), float(np.max(kept))), **_words(found, words, note)}
    return Claim.at_least(1.0, **fields) if kind == "lower" else Claim.at_most(1.0, **fields)


def scores(kind: str, predicted: np.ndarray, measured: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """One number an instance; the statement holds there where it is at most 1 (`lower`: at least 1).

    Args:
        kind: `value`, `upper` or `lower`.
        predicted: shape (k,).
        measured: shape (k,).
        tolerance: shape (k,).

    Returns:
        `|m - p| / tol`; for bounds `1 + (m -+ tol - p) / |p|`, which is the ratio of the two for p > 0.
    """
    if kind == "value":
        return np.abs(measured - predicted) / np.maximum(tolerance, np.finfo(float).tiny)
    sign = 1 if kind == "upper" else -1
    size = np.maximum(np.maximum(np.abs(predicted), tolerance), np.finfo(float).tiny)
    return 1 + (measured - sign * tolerance - predicted) / size


def failures(found: Entry, table: "xr.Dataset") -> np.ndarray:
    """Positions in the table of the instances on which a statement about each instance fails.

    Args:
        found: an entry of the kind `value`, `upper` or `lower`.
        table: its instances.

    Returns:
        The positions, worst first; empty for statements about means and shares.
    """
    if found.kind in ("mean", "probability"):
        return np.array([], int)
    score = scores(found.kind, table.predicted.values, table.measured.values, table.tolerance.values)
    excess = 1 - score if found.kind == "lower" else score - 1
    bad = np.flatnonzero(table.applies.values & ~(excess <= 0))
    return bad[np.argsort(-np.nan_to_num(excess[bad], nan=np.inf))]


def address(found: Entry, table: "xr.Dataset", position: int) -> str:
    """How an instance is called.

    Args:
        found: the entry.
        table: its instances.
        position: position in the table.

    Returns:
        `entry:family:index`, for `rebuild` and `flatmin verify-theory --instance`.
    """
    return f"{found.key}:{int(table.family[position])}:{int(table['index'][position])}"


def _mean(found: Entry, table: "xr.Dataset", predicted: np.ndarray) -> Claim:
    """Each family's mean of measured / predicted, with its interval inside of the margin."""
    means, ends = [], []
    for ratio in _by_family(table, table.measured.values / predicted):
        half = student.ppf((1 + LEVEL) / 2, ratio.size - 1) * ratio.std(ddof=1) / np.sqrt(ratio.size)
        means.append(float(ratio.mean()))
        ends.append((float(ratio.mean() - half), float(ratio.mean() + half)))
    interval = (min(low for low, _ in ends), max(high for _, high in ends))
    low, high = 1 - found.margin, 1 + found.margin
    words = f"mean of measured / predicted in [{format_number(low)}, {format_number(high)}]"
    note = _counts(table) + f"interval: {LEVEL:.0%} of the mean, the widest over the families"
    return Claim.within(low, high, measured=tuple(means), interval=interval, **_words(found, words, note))


def _probability(found: Entry, table: "xr.Dataset", hits: np.ndarray) -> Claim:
    shares, ends = [], []
    for values in _by_family(table, hits):
        if np.isnan(values).any():
            shares.append(np.nan)
            continue
        share, low, high = wilson(int(values.sum()), values.size)
        shares.append(share)
        ends.append((low, high))
    least = float(table.predicted.values[0])
    words = f"share of instances ≥ {format_number(least)}"
    note = _counts(table) + "interval: 95% (Wilson), the widest over the families"
    interval = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None
    return Claim.at_least(least, measured=tuple(shares), interval=interval, **_words(found, words, note))


def _by_family(table: "xr.Dataset", values: np.ndarray) -> list[np.ndarray]:
    family, applies = table.family.values, table.applies.values
    return [values[(family == number) & applies] for number in np.unique(family[applies])]


def _words(found: Entry, predicted: str, note: str) -> dict[str, str]:
    statement = f"{found.statement} Assumes: {found.assumptions}."
    notes = "; ".join(part for part in (found.note, note) if part)
    return {
        "name": found.key,
        "statement": statement,
        "source": found.source,
        "predicted": predicted,
        "note": notes,
    }


def _counts(table: "xr.Dataset") -> str:
    count, inside = table.sizes["instance"], int(table.applies.values.sum())
    families = len(np.unique(table.family.values))
    text = f"{count:,} instances of {families} families" if families > 1 else f"{count:,} instances"
    if inside < count:
        text += f", the assumptions known to hold on {inside:,}"
    return text + "; "


def _worst(found: Entry, table: "xr.Dataset", score: np.ndarray, kind: str) -> str:
    bad = failures(found, table)
    if bad.size:
        at, name = int(bad[0]), address(found, table, int(bad[0]))
        return (
            f"FAILS on {bad.size:,}, worst {name} (predicted {table.predicted.values[at]:.6g}, measured "
            f"{table.measured.values[at]:.6g}): make it again with flatmin verify-theory --instance {name}"
        )
    kept = np.where(table.applies.values, score, np.nan)
    at = int(np.nanargmin(kept) if kind == "lower" else np.nanargmax(kept))
    text = "score: error in units of its rounding bound; " if kind == "value" else ""
    if kind == "value":
        size = np.maximum(np.abs(table.predicted.values), np.finfo(float).tiny)
        relative = np.abs(table.measured.values - table.predicted.values) / size
        relative = np.where(table.applies.values & (table.predicted.values != 0), relative, 0)
        text += f"largest relative error {format_number(float(relative.max()), 2)}; "
    outside = ~table.applies.values
    if outside.any():
        beyond = int(np.sum(score[outside] >= 1) if kind == "lower" else np.sum(score[outside] <= 1))
        text += f"beyond the assumptions it holds on {beyond:,} of {int(outside.sum()):,}; "
    return f"{text}worst: {address(found, table, at)}"
