"""Runs: computed once, stored whole, found again.

    OUT/<experiment>-<id>/
        spec.json      the spec, its settings with their origin, and where it was made
        claims.json    claims and certificates
        data/*.nc      the labelled arrays behind each figure (NaN = not measured)
        <other files>  what the experiment itself hands over, such as a recovered matrix
        figures/, report.html   derived: can be rebuilt from the files above
        SHA256SUMS     checksums of all of them

What is read back (spec, claims, data, other files) is compared with its checksum first; `spec.json` names these files.
Format 1, without these names, was written by 0.1 and is read too.

A failed computation leaves `<experiment>-<id>.failed.json` beside; it is never taken for a result.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import time
import traceback
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from flatmin._core import JobError, UsageError, checked_anywhere, choose
from flatmin.experiments.certificates import Certificate
from flatmin.experiments.claims import Claim, claims_from_json, claims_to_json
from flatmin.experiments.contents import RunContent, check_content
from flatmin.experiments.specs import Experiment, Setting, canonical_spec, run_id, settings_of
from flatmin.storage.folders import (
    CHECKSUMS,
    DamagedError,
    is_as_listed,
    read_checksums,
    read_regular,
    replace_file,
    stage_path,
    staged_folder,
    write_checksums,
)
from flatmin.storage.netcdf import read_netcdf, write_netcdf
from flatmin.storage.provenance import provenance
from flatmin.storage.sealed import seal_json, unseal_json
from flatmin.studies.cells import OtherSharesError

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 2
"""Written; 1, which did not name its files in `spec.json`, is read too."""

DEFAULT_OUT = "runs"
_DESCRIBING = ("spec.json", "claims.json")


@dataclasses.dataclass(frozen=True)
class Run:
    """A stored run.

    Attributes:
        path: its folder.
        experiment: what kind of run it is.
        id: its identity, see `run_id`.
        spec: the canonical spec; `MySpec.model_validate(run.spec)` gives the typed one.
        settings: the spec line by line, with origins.
        provenance: where and when it was made.
        claims: its claims.
        certificates: its certificates.
        files: names of the files that hold its results; None if an earlier version wrote it.
        answer: what came out, in a sentence or two; empty where the claims say it.
    """

    path: pathlib.Path
    experiment: Experiment
    id: str
    spec: dict[str, Any]
    settings: tuple[Setting, ...]
    provenance: dict[str, Any]
    claims: tuple[Claim, ...]
    certificates: tuple[Certificate, ...]
    files: tuple[str, ...] | None = None
    answer: str = ""

    @property
    def data_names(self) -> tuple[str, ...]:
        """Names of the stored datasets."""
        if self.files is not None:
            found = (pathlib.PurePosixPath(name) for name in self.files)
            return tuple(sorted(p.stem for p in found if p.parts[0] == "data"))
        return tuple(sorted(p.stem for p in (self.path / "data").glob("*.nc")))

    @checked_anywhere()
    def dataset(self, name: str) -> "xr.Dataset":
        """One dataset, read into memory.

        Args:
            name: one of `data_names`.

        Returns:
            The dataset.

        Raises:
            JobError: if the file cannot be read.
        """
        choose("name", name, self.data_names)
        return read_netcdf(self.path / "data" / f"{name}.nc")


@checked_anywhere()
def obtain_run(
    experiment: Experiment,
    spec: BaseModel,
    compute: Callable[[Any], RunContent],
    *,
    out: str | pathlib.Path = DEFAULT_OUT,
    render: Callable[[Run, pathlib.Path], None] | None = None,
) -> tuple[Run, bool]:
    """The run of this spec: found if it is finished, else computed and stored.

    Args:
        experiment: the kind of run.
        spec: the spec; with the experiment's name and version it makes the id.
        compute: called with the spec when the run is not there.
        out: the folder of runs.
        render: called with the stored run and the folder in which to write derived files (figures, page).

    Returns:
        The run, and whether it was computed now.

    Raises:
        JobError: if the disk refuses, or a folder with this id exists and is damaged.
        OtherSharesError: if only a share of the cells was asked for, and others are not finished.
    """
    identity = run_id(experiment.name, experiment.version, spec)
    target = pathlib.Path(out) / f"{experiment.name}-{identity}"
    if target.exists():
        run = load_run(target)
        if (run.experiment.name, run.id) != (experiment.name, identity):
            raise JobError(
                f"run: {target} holds the run {run.experiment.name}-{run.id}; somebody renamed it, so give it its name "
                "back or delete it, and start again"
            )
        return run, False
    started = time.monotonic()
    failure = target.with_name(f"{target.name}.failed.json")
    try:
        content = compute(spec)
        check_content(content)
    except OtherSharesError:  # nothing failed: this share of the cells is finished
        raise
    except Exception as error:
        _record_failure(failure, experiment, spec, error)
        raise
    description = {
        "format": FORMAT,
        "id": identity,
        "experiment": dataclasses.asdict(experiment),
        "spec": canonical_spec(spec),
        "settings": [dataclasses.asdict(s) for s in settings_of(spec)],
        "provenance": {
            **provenance(),
            "seconds": round(time.monotonic() - started, 3),
        },
        "files": sorted([*(f"data/{name}.nc" for name in content.datasets), *content.files]),
    }
    with staged_folder(target) as stage:
        _write_content(stage, description, content)
        if render is not None:
            render(_read(stage), stage)
    failure.unlink(missing_ok=True)
    return load_run(target), True


@checked_anywhere()
def load_run(path: str | pathlib.Path, *, verify: bool = True) -> Run:
    """Read a stored run.

    Args:
        path: its folder.
        verify: compare all evidence (data and other files too) with its checksums first, not only spec and claims.

    Returns:
        The run.

    Raises:
        UsageError: if this is not a folder that flatmin wrote.
        JobError: if it is one, but files are missing or changed.
    """
    folder = pathlib.Path(path)
    if not (folder / CHECKSUMS).is_file() or not (folder / "spec.json").is_file():
        what = "no such folder" if not folder.exists() else "a folder without spec.json and SHA256SUMS"
        raise UsageError(f"run: got {folder} ({what}), expected a finished run; list them with find_runs")
    changed = changed_files(folder) if verify else changed_files(folder, _DESCRIBING)
    _refuse_damage(folder, [name for name in changed if not _is_derived(name)])
    run = _read(folder)
    if run.files is not None:
        try:
            listed = read_checksums(folder, sealed=True)
        except (DamagedError, OSError):
            listed = {}
        _refuse_damage(folder, [name for name in run.files if name not in listed] if listed else [CHECKSUMS])
    return run


def _refuse_damage(folder: pathlib.Path, names: list[str]) -> None:
    if names:
        raise JobError(
            f"run: {folder} is damaged, {', '.join(names)} missing or different from the checksum; "
            "delete the folder and run it again"
        )


@checked_anywhere()
def is_complete(path: str | pathlib.Path) -> bool:
    """Whether a folder is a finished run with nothing missing or changed.

    Args:
        path: the folder.

    Returns:
        True for a run that `load_run` accepts.
    """
    try:
        load_run(path)
    except (UsageError, JobError):
        return False
    return True


@checked_anywhere()
def find_runs(out: str | pathlib.Path = DEFAULT_OUT) -> list[Run]:
    """All finished runs in a folder, oldest first; checksums are compared only when one is loaded.

    Args:
        out: the folder of runs.

    Returns:
        The runs; folders that are not readable runs are left out, `find_problems` names them.
    """
    runs = [found for found in _scan(out) if isinstance(found, Run)]
    return sorted(runs, key=lambda run: (run.provenance.get("date", ""), run.path.name))


@checked_anywhere()
def find_problems(out: str | pathlib.Path = DEFAULT_OUT) -> list[str]:
    """One sentence for each folder that is not a readable run and each recorded failure.

    Args:
        out: the folder of runs.

    Returns:
        The sentences.
    """
    return [found for found in _scan(out) if isinstance(found, str)]


def changed_files(folder: pathlib.Path, names: Collection[str] = ()) -> list[str]:
    """Names of the listed files that are missing, differ from their checksum or are links.

    Args:
        folder: a run's folder.
        names: look at these only; none for all.

    Returns:
        Relative names, that of the list itself where it is damaged; empty when all is as written.
    """
    try:
        listed = dict.fromkeys(_DESCRIBING, "") | read_checksums(folder)
    except (DamagedError, OSError):
        return [CHECKSUMS]
    return [n for n, digest in listed.items() if (not names or n in names) and not is_as_listed(folder, n, digest)]


@checked_anywhere()
def rewrite_derived(run: Run, render: Callable[[Run, pathlib.Path], None]) -> None:
    """Rebuild figures and page of a finished run from its data; the evidence is not touched.

    Args:
        run: the run.
        render: called with the run and a folder in which to write the derived files.

    Raises:
        JobError: if the disk refuses; the old files stay.
        UsageError: if `render` writes over evidence.
    """
    load_run(run.path)  # new checksums must not bless damaged evidence
    stage = stage_path(run.path)
    try:
        stage.mkdir()
        render(run, stage)
        files = {p.relative_to(stage).as_posix(): p for p in stage.rglob("*") if p.is_file()}
        evidence = sorted(name for name in files if not _is_derived(name))
        if evidence:
            raise UsageError(f"render: got {', '.join(evidence)}, expected figures/ and report.html only")
        for name, file in files.items():
            place = (run.path / name).parent
            if place.is_symlink():  # of a folder from elsewhere: it would be written to where that leads
                place.unlink()
            place.mkdir(exist_ok=True)
            replace_file(run.path / name, file.read_bytes())
        write_checksums(run.path)
    except OSError as error:
        raise JobError(
            f"run: could not rewrite {run.path} ({error.strerror or error}); free space and try again"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _is_derived(name: str) -> bool:
    return name.startswith("figures/") or name == "report.html"


def _write_content(folder: pathlib.Path, description: dict[str, Any], content: RunContent) -> None:
    claims = {
        "answer": content.answer,
        "claims": json.loads(claims_to_json(content.claims)),
        "certificates": [json.loads(c.model_dump_json()) for c in content.certificates],
    }
    for name, plain in (("spec.json", description), ("claims.json", claims)):
        (folder / name).write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "data").mkdir()
    for name, dataset in content.datasets.items():
        write_netcdf(dataset, folder / "data" / f"{name}.nc")
    for name, plain_bytes in content.files.items():
        (folder / name).write_bytes(plain_bytes)


def _read(folder: pathlib.Path) -> Run:
    try:
        plain = json.loads(read_regular(folder / "spec.json"))
        results = json.loads(read_regular(folder / "claims.json"))
        if plain["format"] not in (1, FORMAT):
            raise JobError(
                f"run: {folder} has format {plain['format']}, expected 1 or {FORMAT}; read it with the flatmin "
                f"that wrote it ({plain['provenance']['versions']['flatmin']})"
            )
        experiment = TypeAdapter(Experiment).validate_json(json.dumps(plain["experiment"]), strict=True)
        run = Run(
            path=folder,
            experiment=experiment,
            id=_of_type("id", plain["id"], str),
            spec=_of_type("spec", plain["spec"], dict),
            settings=tuple(TypeAdapter(Setting).validate_json(json.dumps(s), strict=True) for s in plain["settings"]),
            provenance=_checked_provenance(plain["provenance"]),
            claims=claims_from_json(json.dumps(results["claims"])),
            certificates=tuple(Certificate.model_validate_json(json.dumps(c)) for c in results["certificates"]),
            files=tuple(plain["files"]) if plain["format"] > 1 else None,
            answer=_of_type("answer", results.get("answer", ""), str),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
        raise JobError(
            f"run: {folder} cannot be read ({type(error).__name__}: {error}); "
            "it is damaged or was not written by flatmin"
        ) from error
    if run_id(experiment.name, experiment.version, run.spec) != run.id:
        raise JobError(f"run: {folder} has a spec that does not belong to its id {run.id}; it was edited by hand")
    return run


def _of_type(name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name} holds {type(value).__name__}")
    return value


def _checked_provenance(plain: Any) -> dict[str, Any]:
    """Where a run was made, with the types that pages and tables rely on."""
    _of_type("provenance", plain, dict)
    for name in ("date", "command", "platform", "device"):
        _of_type(name, plain.get(name, ""), str)
    for name in ("versions", "git"):
        for value in _of_type(name, plain.get(name) or {}, dict).values():
            _of_type(name, value, (str, type(None)))
    seconds = plain.get("seconds", 0.0)
    if seconds is not None and isinstance(_of_type("seconds", seconds, (int, float)), bool):
        raise TypeError("seconds holds bool")
    _of_type("float64", plain.get("float64"), (bool, type(None)))
    return plain


def _scan(out: str | pathlib.Path) -> list[Run | str]:
    found: list[Run | str] = []
    for path in sorted(pathlib.Path(out).glob("*")) if pathlib.Path(out).is_dir() else []:
        if path.name.endswith(".failed.json"):
            found.append(_failure_sentence(path))
        elif path.is_dir() and not path.name.startswith("."):
            try:
                found.append(load_run(path, verify=False))
            except (UsageError, JobError) as error:
                found.append(str(error))
    return found


_RECORD = ("experiment", "spec", "error", "traceback", "provenance")


def _record_failure(path: pathlib.Path, experiment: Experiment, spec: BaseModel, error: Exception) -> None:
    record = {
        "experiment": dataclasses.asdict(experiment),
        "spec": canonical_spec(spec),
        "error": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exception(error),
        "provenance": provenance(),
    }
    with contextlib.suppress(OSError):  # the error itself matters more than its record
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, seal_json(record))


def _failure_sentence(path: pathlib.Path) -> str:
    try:
        record = unseal_json(read_regular(path), _RECORD)
        name, date = path.name.removesuffix(".failed.json"), record["provenance"]["date"]
        return f"run: {name} failed on {date} ({record['error']}); start it again to retry"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"run: {path} is not a readable record of a failure; delete it"
