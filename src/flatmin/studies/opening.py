"""Finding and making the folder of a study, and refusing one that does not fit."""

import pathlib

import numpy as np

from flatmin._core import JobError, UsageError, checked_anywhere
from flatmin.storage.folders import CHECKSUMS
from flatmin.studies._manifest import DESCRIPTION, described_study, read_description, write_description
from flatmin.studies._segments import DONE
from flatmin.studies.spec import StudySpec
from flatmin.studies.store import Store, in_use
from flatmin.studies.study import Study, plan

_OURS = ("segments", "specs", "running", "logs", CHECKSUMS)
"""What a folder holds whose making was interrupted."""


@checked_anywhere()
def find_store(folder: pathlib.Path) -> Store:
    """The study in a folder.

    Args:
        folder: the folder.

    Returns:
        Its store.

    Raises:
        UsageError: if it holds no study.
        JobError: if its description is damaged or of another format.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        what = "holds no study" if folder.is_dir() else "does not exist"
        raise UsageError(
            f"study: {folder} {what}; give a study's file or folder, or start one with `flatmin study run`"
        )
    return Store(folder, described_study(folder))


def open_store(folder: pathlib.Path, spec: StudySpec, *, accept_changes: bool = False) -> Store:
    """The store of a spec in a folder, made if it is not there.

    Args:
        folder: the folder.
        spec: the spec.
        accept_changes: go on although finished cells lose their place or another version computed them.

    Returns:
        The store, ready to be written to.

    Raises:
        UsageError: for a folder of something else, an edited spec that loses finished cells, another version.
        JobError: if the folder cannot be written, or is too small for the study.
    """
    path = folder / DESCRIPTION
    width, state = None, None
    if path.is_file():
        plain = read_description(folder)
        try:
            width = int(plain["width"])
            state = (plain["id"], plain["versions"]["flatmin"])
        except (KeyError, TypeError, ValueError):
            described_study(folder)  # says what is wrong with it
            raise
    elif folder.is_dir() and any(path.name not in _OURS and path.name[0] != "." for path in folder.iterdir()):
        raise UsageError(f"out: {folder} is not empty and holds no study; choose another folder with --out")
    study = plan(spec, width)
    store = Store(folder, study)
    if state is not None:
        if state[0] != study.id and (mark := next(iter(store.others()), None)):
            raise in_use(folder, mark)
        _check_version(folder, state[1], accept_changes)
        if state[0] != study.id and not accept_changes:
            _check_edit(folder, store)
    check_room(folder, study)
    try:
        for name in ("segments", "specs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        write_description(folder, study)
    except OSError as error:
        raise JobError(
            f"out: cannot write to {folder} ({error.strerror or error}); choose another folder with --out"
        ) from error
    return store


def _check_version(folder: pathlib.Path, stored: str | None, accepted: bool) -> None:
    import flatmin

    if stored != flatmin.__version__ and not accepted:
        raise UsageError(
            f"out: {folder} was computed by flatmin {stored}, this is {flatmin.__version__}, and results may differ; "
            "install that version, choose another folder with --out, or mix them with --accept-changes"
        )


def _check_edit(folder: pathlib.Path, store: Store) -> None:
    before = find_store(folder)
    finished, kept = count_valid(before, store)
    if kept < finished:
        raise UsageError(
            f"file: the spec was edited after the run in {folder}: {kept} of {finished} finished cells are still "
            f"valid, {finished - kept} would not be used; choose another folder with --out, or go on with "
            "--accept-changes"
        )


def count_valid(before: Store, after: Store) -> tuple[int, int]:
    """How many cells are finished in a folder, and how many of them a changed spec has too.

    Args:
        before: the store as it is.
        after: the same folder with the changed spec.

    Returns:
        Finished, and still valid.
    """
    return before.read(values=False).count(DONE), after.read(values=False).count(DONE)


MOST_LOOKED_AT = 64
"""Kinds of cells that `check_cells` builds; each takes hundredths of a second."""


def check_cells(study: Study) -> list[str]:
    """Why cells cannot run: settings that do not suit each other, or more memory than there is; nothing is computed.

    Args:
        study: the study; of one with more than `MOST_LOOKED_AT` kinds of cells, as many are looked at.

    Returns:
        A sentence for each reason, where some cells can run.

    Raises:
        UsageError: if none of those looked at can.
    """
    if study.spec.function is not None:
        return []
    from flatmin.studies._training import check_tables

    groups = np.unique(np.linspace(0, study.blocks.groups - 1, MOST_LOOKED_AT).round().astype(int))
    reasons: dict[str, int] = {}
    for group in groups:
        cell = int(study.blocks.cells(int(group) * study.blocks.per_group)[0])
        try:
            check_tables(study.spec.settings(study.values(cell)))
        except (UsageError, JobError) as error:
            reasons[str(error)] = reasons.get(str(error), 0) + 1
    if reasons and sum(reasons.values()) == len(groups):
        raise UsageError(next(iter(reasons)))
    return [f"{count} of {len(groups)} kinds of cells cannot run: {reason}" for reason, count in reasons.items()]


def check_room(folder: pathlib.Path, study: Study) -> None:
    """Refuse a study that the disk, or an array over all cells, cannot hold.

    Args:
        folder: where it shall be.
        study: the study.

    Raises:
        UsageError: with the size and the room there is.
    """
    import shutil

    size = study.grid.size * study.bytes_per_cell
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise UsageError(
            f"axes: {study.grid.size:,} cells take {size / 1e9:,.1f} GB, and {existing} has {free / 1e9:,.1f} GB free; "
            "take fewer values, record less, or choose another disk with --out"
        )
