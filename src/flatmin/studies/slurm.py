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
#SBATCH --output={log}/%a.log
# Each job takes its share of the cells and adds it to the same folder. Submit the script again to go on after a time
# limit or a failure: finished cells are never computed again.
set -e
cd {here}
{command} --shard "$SLURM_ARRAY_TASK_ID/{jobs}" --workers {workers}
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
        UsageError: for an adaptive study, whose shares are not independent.
    """
    if spec.adaptive is not None:
        raise UsageError("slurm: an adaptive study decides as it goes and has no shares; use --scheduler instead")
    log = out / spec.name / "logs"
    log.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["flatmin", "study", "run", str(file), "--out", str(out)])
    text = SCRIPT.format(
        name=spec.name,
        jobs=jobs,
        workers=workers,
        log=shlex.quote(str(log)),
        here=shlex.quote(str(pathlib.Path.cwd())),
        command=command,
    )
    path = pathlib.Path(f"{spec.name}.sbatch")
    replace_file(path, text.encode())
    return path
