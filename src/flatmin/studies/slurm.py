"""A job script for a cluster that runs SLURM: an array of shares."""

import pathlib
import shlex

from flatmin._core import UsageError
from flatmin.storage.folders import replace_file
from flatmin.studies.spec import StudySpec

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=1-{jobs}
#SBATCH --cpus-per-task={workers}
#SBATCH --time=24:00:00
#SBATCH --output={log}
# Each job takes its share of the cells and adds it to the same folder. Submit the script again to go on after a time
# limit or a failure: finished cells are never computed again.
set -e
cd -- {here}
flatmin study run --out={out} --shard="$SLURM_ARRAY_TASK_ID/{jobs}" --workers={workers} -- {file}
"""


def write_slurm(file: pathlib.Path, spec: StudySpec, out: pathlib.Path, jobs: int, workers: int) -> pathlib.Path:
    """Write `NAME.sbatch` in the current folder.

    Args:
        file: the study's file.
        spec: what it holds.
        out: the folder of studies, on a disk that all jobs see.
        jobs: number of jobs.
        workers: processes of each.

    Returns:
        The script.

    Raises:
        UsageError: for an adaptive study, whose shares are not independent, and for names that no line of a script can
            hold.
    """
    if spec.adaptive is not None:
        raise UsageError("slurm: an adaptive study decides as it goes and has no shares; use --scheduler instead")
    here = pathlib.Path.cwd()
    for argument, path in (("file", file), ("out", out), ("slurm", here)):
        if not str(path).isprintable():
            what = "the working directory" if argument == "slurm" else "the path"
            raise UsageError(
                f"{argument}: got {what} {str(path)!r}, expected no line breaks or other control characters in a job "
                "script; rename it"
            )
    log = out / spec.name / "logs"
    text = SCRIPT.format(
        name=spec.name,
        jobs=jobs,
        workers=workers,
        log=_directive(f"{str(log).replace('%', '%%')}/%a.log"),
        here=shlex.quote(str(here)),
        out=shlex.quote(str(out)),
        file=shlex.quote(str(file)),
    )
    log.mkdir(parents=True, exist_ok=True)
    path = pathlib.Path(f"{spec.name}.sbatch")
    replace_file(path, text.encode())
    return path


def _directive(text: str) -> str:
    """A value in a line that SLURM reads, and no shell: in quotes, with the backslash as the mark of what follows."""
    if all(c.isalnum() or c in "/._-%+=,:@" for c in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
