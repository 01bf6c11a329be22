"""What a line of the ledger is: a statement, families of instances, and what is predicted and measured on each.

An entry is one function. It is called once for each family with a random generator that depends on the ledger's seed,
the entry and the family alone, and returns a batch: one predicted and one measured number an instance. Nothing else is
random, so that any instance can be made again from its address `entry:family:index`.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flatmin._core import (
    Free,
    Integer,
    Mapped,
    Optional,
    Real,
    RealArray,
    UsageError,
    checked,
    checked_anywhere,
    choose,
)
from flatmin.experiments.specs import check_slug

if TYPE_CHECKING:
    import xarray as xr

Kind = Literal["value", "upper", "lower", "mean", "probability"]
EPS = float(np.finfo(float).eps)
QUICK_SHARE, QUICK_LEAST = 20, 8


NUMBERS = RealArray(finite=False, host=True, kept=True)


@checked_anywhere(
    predicted=NUMBERS,
    measured=NUMBERS,
    tolerance=NUMBERS,
    applies=Optional(NUMBERS),
    data=Mapped(NUMBERS),
    extra=Mapped(NUMBERS),
)
@dataclasses.dataclass(frozen=True)
class Batch:
    """The instances of one family.

    Attributes:
        predicted: what the statement says, shape (k,).
        measured: what was found, shape (k,); for `probability` 1 where the event happened, else 0.
        tolerance: how far rounding alone may move `measured - predicted`, shape (k,) or a number.
        applies: whether the assumptions are known to hold, shape (k,); None: on all.
        data: what the instances are, arrays with a leading axis of length k, by name.
        extra: further numbers for the figures, shape (k,) each.
    """

    predicted: np.ndarray
    measured: np.ndarray
    tolerance: np.ndarray | float = 0.0
    applies: np.ndarray | None = None
    data: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


SIZE = {"count": Integer(0), "quick": Optional(Integer(0))}


@checked_anywhere(settings=Mapped(Free("arguments of the entry's function")), **SIZE)
@dataclasses.dataclass(frozen=True)
class Family:
    """Instances of one size and one kind of difficulty.

    Attributes:
        label: in words.
        count: how many at full size.
        quick: how many at the quick size; None for a twentieth, at least 8; 0 to leave the family out.
        settings: keyword arguments of the entry's function.
    """

    label: str
    count: int
    quick: int | None
    settings: Mapping[str, Any]

    def instances(self, *, quick: bool) -> int:
        """How many instances at a size."""
        if not quick:
            return self.count
        return min(self.count, max(QUICK_LEAST, self.count // QUICK_SHARE)) if self.quick is None else self.quick


@checked_anywhere(**SIZE)
def family(label: str, count: int, *, quick: int | None = None, **settings: Any) -> Family:
    """A family; see `Family`."""
    return Family(label, count, quick, settings)


@checked_anywhere(margin=Real(0))
@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the ledger.

    Attributes:
        key: unique, lower-case words joined by hyphens.
        source: paper and theorem number.
        statement: what is claimed, with its formula.
        assumptions: when.
        kind: `value` (equality on each instance), `upper` or `lower` (a bound on each), `mean` (the mean of each family
            equals the prediction within `margin`), `probability` (the share of each family is at least the prediction).
        families: the instances.
        make: `make(rng, count, **settings of the family) -> Batch`.
        functions: names of the functions in `theory.STATEMENTS` that are put to the test.
        tight: for bounds: whether equality is attained on some instances, so that a bound 5% tighter would fail.
        margin: for `mean`: the accepted relative deviation, fixed beforehand.
        note: anything a reader must know to judge it.
    """

    key: str
    source: str
    statement: str
    assumptions: str
    kind: Kind
    families: tuple[Family, ...]
    make: Callable[..., Batch]
    functions: tuple[str, ...] = ()
    tight: bool = False
    margin: float = 0.0
    note: str = ""


ENTRIES: dict[str, Entry] = {}


@checked_anywhere(margin=Real(0))
def entry(
    key: str,
    *,
    source: str,
    statement: str,
    assumptions: str,
    kind: Kind,
    families: tuple[Family, ...],
    functions: tuple[str, ...] = (),
    tight: bool = False,
    margin: float = 0.0,
    note: str = "",
) -> Callable[[Callable[..., Batch]], Callable[..., Batch]]:
    """Enter a function into the ledger; see `Entry` for the arguments.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        UsageError: for a key that is taken or not a slug.
    """
    check_slug("key", key)
    if key in ENTRIES:
        raise UsageError(f"key: {key!r} is taken by another entry of the ledger; choose another one")

    def enter(make: Callable[..., Batch]) -> Callable[..., Batch]:
        ENTRIES[key] = Entry(key, source, statement, assumptions, kind, families, make, functions, tight, margin, note)
        return make

    return enter


def make_batch(found: Entry, number: int, *, seed: int, quick: bool) -> Batch:
    """All instances of one family, always the same for the same arguments.

    Args:
        found: the entry.
        number: position of the family.
        seed: the ledger's seed.
        quick: whether at the quick size.

    Returns:
        The batch.
    """
    chosen = found.families[number]
    rng = np.random.default_rng([seed, zlib.crc32(found.key.encode()), number])
    with np.errstate(all="ignore"):
        return found.make(rng, chosen.instances(quick=quick), **chosen.settings)


@checked()
def measure_entry(found: Entry, *, seed: int, quick: bool) -> "xr.Dataset":
    """Every instance of an entry, as a table.

    Args:
        found: the entry.
        seed: the ledger's seed.
        quick: whether at the quick size.

    Returns:
        `predicted`, `measured`, `tolerance`, `applies`, `family`, `index` over `instance`, and the extra numbers; the
        attribute `families` has the labels.
    """
    import xarray as xr

    columns: dict[str, list[np.ndarray]] = {}
    for number, chosen in enumerate(found.families):
        k = chosen.instances(quick=quick)
        if k == 0:
            continue
        batch = make_batch(found, number, seed=seed, quick=quick)
        row = {
            "predicted": np.asarray(batch.predicted, float),
            "measured": np.asarray(batch.measured, float),
            "tolerance": np.asarray(batch.tolerance, float),
            "applies": np.asarray(True if batch.applies is None else batch.applies, bool),
            "family": np.asarray(number),
            "index": np.arange(k),
        } | {f"extra_{name}": np.asarray(value, float) for name, value in batch.extra.items()}
        for name, value in row.items():
            columns.setdefault(name, []).append(np.broadcast_to(value, (k,)))
    data = {name: ("instance", np.concatenate(parts)) for name, parts in columns.items()}
    return xr.Dataset(data, attrs={"families": [f.label for f in found.families], "entry": found.key})


@dataclasses.dataclass(frozen=True)
class Instance:
    """One instance of the ledger, made again.

    Attributes:
        address: `entry:family:index`.
        entry: the line of the ledger.
        family: label of the family.
        predicted: what the statement says.
        measured: what was found.
        tolerance: what rounding may account for.
        applies: whether the assumptions are known to hold.
        data: its arrays by name.
    """

    address: str
    entry: Entry
    family: str
    predicted: float
    measured: float
    tolerance: float
    applies: bool
    data: dict[str, np.ndarray]


@checked()
def rebuild(address: str, *, seed: int = 0, quick: bool = False) -> Instance:
    """Make one instance of the ledger again, with its matrices.

    Args:
        address: `entry:family:index`, as the report shows it.
        seed: the ledger's seed.
        quick: whether the address is of a run with `--quick`.

    Returns:
        The instance.

    Raises:
        UsageError: for an address that does not exist.
    """
    parts = address.split(":")
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 10 for part in parts[1:]):
        raise UsageError(
            f"address: got {address!r:.60}, expected ENTRY:FAMILY:INDEX, such as gatmiry-lemma-1:0:17; reports show "
            "them"
        )
    found = ENTRIES[choose("address", parts[0], ENTRIES)]
    number, index = int(parts[1]), int(parts[2])
    if number >= len(found.families):
        raise UsageError(f"address: {found.key} has the families 0 to {len(found.families) - 1}, got {number}")
    count = found.families[number].instances(quick=quick)
    if index >= count:
        size = "quick" if quick else "full"
        raise UsageError(
            f"address: family {number} of {found.key} has {count} instance(s) at the {size} size, got index {index}; "
            "give the size and the seed of the run"
        )
    batch = make_batch(found, number, seed=seed, quick=quick)

    def pick(values: Any) -> Any:
        return np.broadcast_to(values, (count,))[index]

    return Instance(
        address=address,
        entry=found,
        family=found.families[number].label,
        predicted=float(pick(batch.predicted)),
        measured=float(pick(batch.measured)),
        tolerance=float(pick(batch.tolerance)),
        applies=bool(pick(True if batch.applies is None else batch.applies)),
        data={name: np.asarray(array[index]) for name, array in batch.data.items()},
    )
