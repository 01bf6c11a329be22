"""What a computation hands over to be stored."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from flatmin._core import Foreign, Mapped, UsageError, checked_anywhere
from flatmin._core.values import described
from flatmin.experiments.certificates import Certificate
from flatmin.experiments.claims import Claim
from flatmin.storage.folders import CHECKSUMS

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RESERVED = {"spec.json", "claims.json", "data", "figures", "report.html", CHECKSUMS}


@checked_anywhere(datasets=Mapped(Foreign("xarray.Dataset")))
@dataclasses.dataclass(frozen=True)
class RunContent:
    """What a computation hands over to be stored.

    Attributes:
        datasets: xarray datasets by name; each becomes `data/<name>.nc`.
        claims: the decided claims.
        certificates: certificates of the convex solves.
        files: further results by file name, such as `matrix.npy`, stored beside `spec.json` as they are.
        answer: what came out, in a sentence or two; it stands first on the page.
    """

    datasets: Mapping[str, Any]
    claims: tuple[Claim, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    answer: str = ""


def check_content(content: Any) -> None:
    """Refuse what cannot be stored.

    Args:
        content: what a computation returned.

    Raises:
        UsageError: for anything but a `RunContent`, claims of one name, and names that are no names of files.
    """
    if not isinstance(content, RunContent):
        raise UsageError(f"compute: returned {described(content)}, expected a RunContent")
    names = [c.name for c in content.claims]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise UsageError(f"claims: got {', '.join(repeated)} more than once, expected unique names")
    for name in content.datasets:
        if not _FILE_NAME.fullmatch(name):
            raise UsageError(f"datasets: got the name {name!r}, expected letters, digits, '-', '_' and '.'; rename it")
    for name in content.files:
        if not _FILE_NAME.fullmatch(name) or name in _RESERVED:
            raise UsageError(
                f"files: got the name {name!r}, expected letters, digits, '-', '_' and '.', and none of "
                f"{', '.join(sorted(_RESERVED))}; rename it"
            )
