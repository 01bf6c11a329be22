"""What describes a study, written and read with checksums: `study.json`, the specs that its folder had, their list.

`SHA256SUMS` lists `study.json` and `specs/*.json`, and carries its own checksum; what it lists is believed only as
listed. A new description is listed beside the old one before it takes its place, so that a kill at any moment leaves a
folder that fits its list. Spec files are also known by their names, which are the ids of what they hold: one that is
not listed, because a kill came before, is believed if its id is right. Segments carry their own checksums.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from flatmin._core import JobError
from flatmin.storage.folders import (
    CHECKSUMS,
    DamagedError,
    checksum_lines,
    checksum_list,
    is_as_listed,
    read_regular,
    replace_file,
)
from flatmin.studies.spec import StudySpec
from flatmin.studies.study import Study

FORMAT = 2
"""Written; 1, without a list of checksums, was written by 0.1 and is read too."""

DESCRIPTION = "study.json"
SPECS = "specs"
TRIES = 3
"""Readings of a description that does not fit its list: another process may have put a new one in its place between."""

_AGAIN = (
    f"restore it, or delete {DESCRIPTION} and {CHECKSUMS} and run the study's file into this folder again: its "
    "finished cells are kept"
)


def read_description(folder: pathlib.Path) -> dict[str, Any]:
    """What `study.json` holds.

    Args:
        folder: of the study.

    Returns:
        Its JSON values.

    Raises:
        JobError: if it is damaged, of another format, or not as listed; the sentence says how to go on.
    """
    path = folder / DESCRIPTION
    listed, plain = None, {}
    for _ in range(TRIES):
        try:
            listed = _listed(folder)
            data = read_regular(path)
            plain = json.loads(data)
            if not isinstance(plain, dict) or "spec" not in plain:
                raise ValueError("no spec")  # noqa: TRY301 - the same sentence as for a damaged file
        except (OSError, ValueError, RecursionError) as error:
            raise JobError(f"study: {path} cannot be read ({_short(error)}); {_AGAIN}") from error
        if listed is None and plain.get("format") == 1:
            return plain
        if listed is not None and (hashlib.sha256(data).hexdigest(), DESCRIPTION) in listed:
            if plain.get("format") in (1, FORMAT):
                return plain
            raise JobError(
                f"study: {path} has format {plain.get('format')}, expected 1 or {FORMAT}; use the flatmin that wrote it"
            )
    if listed is None and plain.get("format") != FORMAT:
        raise JobError(f"study: {path} has format {plain.get('format')}, expected 1 or {FORMAT}; {_AGAIN}")
    what = f"the list {CHECKSUMS} is missing" if listed is None else f"it differs from its checksum in {CHECKSUMS}"
    raise JobError(f"study: {path} is not what was written, {what}; {_AGAIN}")


def described_study(folder: pathlib.Path) -> Study:
    """The study that a folder describes.

    Args:
        folder: of the study.

    Returns:
        The study, whose id is the one that it was stored under.

    Raises:
        JobError: if the description is damaged, or says something that this flatmin does not know or reads otherwise.
    """
    plain = read_description(folder)
    path = folder / DESCRIPTION
    try:
        study = _study(plain)
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise JobError(
            f"study: {path} does not describe a study that this flatmin knows (written by flatmin {_version(plain)}); "
            "run its file again into another folder"
        ) from error
    if study.id != plain.get("id"):
        raise JobError(
            f"study: {path} describes the study {study.id}, but was stored as {plain.get('id')}: it is damaged, or "
            f"flatmin {_version(plain)} read it otherwise; {_AGAIN}"
        )
    return study


def earlier_study(folder: pathlib.Path, identity: str) -> Study | None:
    """A study that the folder had before, by its id.

    Args:
        folder: of the study.
        identity: the id.

    Returns:
        The study; None if its file is not there, not as listed, or holds another.
    """
    name = f"{SPECS}/{identity}.json"
    try:
        data = read_regular(folder / name)
        digests = [digest for digest, listed in _listed(folder) or () if listed == name]
        if digests and hashlib.sha256(data).hexdigest() not in digests:
            return None
        study = _study(json.loads(data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return study if study.id == identity else None


def damaged_specs(folder: pathlib.Path) -> list[str]:
    """Listed specs that are missing or not as listed, and others that are not what their names say.

    Args:
        folder: of the study.

    Returns:
        Relative names.
    """
    try:
        lines = _listed(folder) or []
    except (OSError, ValueError):
        return []  # the description is refused, and says so
    listed = {name: digest for digest, name in lines if name.startswith(f"{SPECS}/")}
    found = [name for name, digest in listed.items() if not is_as_listed(folder, name, digest)]
    others = (f"{SPECS}/{path.name}" for path in (folder / SPECS).glob("*.json") if path.name[0] != ".")
    found += [name for name in others if name not in listed and earlier_study(folder, pathlib.Path(name).stem) is None]
    return sorted(found)


def write_description(folder: pathlib.Path, study: Study) -> None:
    """Make a study the one of its folder; what it had before stays among the specs.

    Args:
        folder: of the study.
        study: the study.

    Raises:
        OSError: if the disk refuses; the folder is as it was, or describes the new study.
    """
    described = json.dumps(description(study), indent=2, ensure_ascii=False).encode()
    spec = f"{SPECS}/{study.id}.json"
    before = _lines(folder)
    if spec not in {name for _, name in before} and earlier_study(folder, study.id) is None:
        replace_file(folder / spec, described)
    listed = {name: digest for digest, name in before if name.startswith(f"{SPECS}/")}
    for path in (folder / SPECS).glob("*.json"):
        name = f"{SPECS}/{path.name}"
        # what is listed stays as listed: a new list must not bless damage
        if name not in listed and path.name[0] != "." and earlier_study(folder, path.stem) is not None:
            listed[name] = hashlib.sha256(read_regular(path)).hexdigest()
    after = [*((digest, name) for name, digest in listed.items()), (hashlib.sha256(described).hexdigest(), DESCRIPTION)]
    present = [line for line in before if line[1] == DESCRIPTION and line not in after]
    path = folder / DESCRIPTION
    if path.is_file() and not before:  # of 0.1: it is listed as it is, until the new one has taken its place
        present = [(hashlib.sha256(read_regular(path)).hexdigest(), DESCRIPTION)]
    if path.is_file() and present:
        _list(folder, [*after, *present])
        replace_file(path, described)
        _list(folder, after)
        return
    if sorted(before) != sorted(after):
        _list(folder, after)
    if not path.is_file() or read_regular(path) != described:
        replace_file(path, described)


def set_specs_aside(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Rename damaged specs and take them from the list, so that they are reported once.

    Args:
        folder: of the study.
        names: relative names.
    """
    gone = set(names)
    if not gone:
        return
    with contextlib.suppress(OSError, ValueError):
        for name in gone:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).rename(folder / f"{name}.damaged")
        _list(folder, [line for line in checksum_lines(read_regular(folder / CHECKSUMS)) if line[1] not in gone])


def description(study: Study) -> dict[str, Any]:
    """What `study.json` holds."""
    return {
        "format": FORMAT,
        "id": study.id,
        "width": study.width,
        "versions": _versions(),
        "spec": study.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
    }


def _study(plain: dict[str, Any]) -> Study:
    return Study(StudySpec.model_validate(plain["spec"]), int(plain["width"]))


def _version(plain: dict[str, Any]) -> str:
    versions = plain.get("versions")
    return str(versions.get("flatmin", "?")) if isinstance(versions, dict) else "?"


def _versions() -> dict[str, str]:
    import importlib.metadata

    import flatmin

    return {"flatmin": flatmin.__version__} | {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "numpy")}


def _list(folder: pathlib.Path, lines: Iterable[tuple[str, str]]) -> None:
    replace_file(folder / CHECKSUMS, checksum_list(sorted(lines, key=lambda line: (line[1], line[0]))))


def _listed(folder: pathlib.Path) -> list[tuple[str, str]] | None:
    """The lines of the list, None if there is none."""
    try:
        return checksum_lines(read_regular(folder / CHECKSUMS), sealed=True)
    except FileNotFoundError:
        return None


def _lines(folder: pathlib.Path) -> list[tuple[str, str]]:
    try:
        return _listed(folder) or []
    except DamagedError:  # of a folder without a description, or it would have been refused
        return []


def _short(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
