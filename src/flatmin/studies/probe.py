"""How long a study takes and what it needs: a few blocks are timed in a process of their own."""

import dataclasses
import json
import subprocess
import sys
import threading
from typing import Any

import numpy as np

from flatmin._core import JobError
from flatmin.studies._children import answers_only, python_command, worker_environment
from flatmin.studies._segments import FAILED, decode
from flatmin.studies._worker import receive, send
from flatmin.studies.executors import pipe
from flatmin.studies.spec import StudySpec
from flatmin.studies.study import Study

PATIENCE = 60.0
"""Seconds after which a probe is given up."""

STEPS = 1024
"""Training steps of a probe: one chunk, as in `train`, so that two of them need no other program."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a probe found.

    Attributes:
        block_seconds: of one block once it is compiled, mean over the probed groups.
        first_seconds: of the first block of a group, compilation included.
        blocks: number of blocks to compute.
        compilations: number of programs among them, each compiled once.
        memory: bytes of a process.
        failures: sentences of probed cells that cannot be computed.
        gave_up: whether the probe took longer than `PATIENCE`.
    """

    block_seconds: float
    first_seconds: float
    blocks: int
    compilations: int
    memory: int
    failures: tuple[str, ...] = ()
    gave_up: bool = False

    def seconds(self, workers: int) -> float:
        """Estimated wall time.

        Args:
            workers: processes.

        Returns:
            Seconds; processes share the compiled programs.
        """
        if not self.compilations:
            return max(self.first_seconds - self.block_seconds, 0.0) + self.blocks * self.block_seconds / workers
        compiling = self.compilations * max(self.first_seconds - self.block_seconds, 0.0)
        return compiling / min(workers, max(self.compilations, 1)) + self.blocks * self.block_seconds / workers


def probe(study: Study, blocks: int, compilations: int) -> Estimate:
    """Time the first, the middle and the last group of a study.

    Args:
        study: the study.
        blocks: number of blocks that are to be computed.
        compilations: number of programs that they need.

    Returns:
        The estimate.
    """
    chosen = sorted({0, study.blocks.groups // 2, study.blocks.groups - 1})
    short, scale = _shortened(study)
    process = subprocess.Popen(  # noqa: S603 - our own command, no shell
        python_command("flatmin.studies.probe:probe_main", user_code=study.spec.function is not None),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=worker_environment(),
    )
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    found: list[tuple[float, float, float]] = []
    failures: list[str] = []
    memory, gave_up = 0, False
    requests, answers = pipe(process.stdin), pipe(process.stdout)
    try:
        for group in chosen:
            request = [[_plain(study.spec), study.width], [_plain(s) for s in short], group * study.blocks.per_group]
            send(requests, json.dumps(request).encode())
            answer = json.loads(receive(answers))
            memory = max(memory, answer["memory"])
            failures += [reason for reason in answer["failures"] if reason not in failures]
            found.append((answer["first"], *answer["times"]))
    except (EOFError, OSError) as error:
        gave_up = True
        if not found and process.poll() not in (-9, None):
            raise JobError("probe: the process that times a block died; run with --workers 1 to see why") from error
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        requests.close()
        answers.close()
    if not found:
        return Estimate(np.nan, np.nan, blocks, compilations, memory, tuple(failures), gave_up=True)
    first, low, high = np.mean(found, axis=0)
    per_block = low + (high - low) * scale
    return Estimate(
        float(per_block), float(first - low + per_block), blocks, compilations, memory, tuple(failures), gave_up
    )


def _shortened(study: Study) -> tuple[tuple[StudySpec, StudySpec], float]:
    """The study with few steps and with fewer, and how often their difference goes into the rest."""
    spec = study.spec
    steps = spec.stopping.steps
    # to the last step: how early cells are done is not known before
    late = spec.stopping.model_copy(update=dict.fromkeys(("loss", "gradient", "check_every")))
    spec = spec.model_copy(update={"stopping": late}) if spec.stopping.early else spec
    if spec.dynamics is None or steps <= 3 * STEPS:
        return (spec, spec), 0.0
    both = [
        spec.model_copy(
            update={
                "stopping": spec.stopping.model_copy(update={"steps": n}),
                "measure": spec.measure.model_copy(update={"every": None, "record": ()}),
            }
        )
        for n in (STEPS, 2 * STEPS)
    ]
    return (both[0], both[1]), (steps - STEPS) / STEPS


def _plain(spec: StudySpec) -> Any:
    return spec.model_dump(mode="json", by_alias=True, exclude_unset=True)


def probe_main() -> None:
    """The process that computes and times; answers requests on its standard input."""
    import os
    import resource
    import time

    out = os.fdopen(answers_only(), "wb")
    from flatmin._core.threads import blas_threads
    from flatmin.studies._batches import compute_batch

    with blas_threads(1):
        while True:
            try:
                (_, width), specs, block = json.loads(receive(sys.stdin.buffer))
            except EOFError:
                return
            failures: list[str] = []

            def timed(spec: Any, width: int = width, block: int = block, failures: list[str] = failures) -> float:
                study = Study(StudySpec.model_validate(spec), width)
                began = time.perf_counter()
                segment = decode(compute_batch(study, (block,)))
                if (segment.states == FAILED).any():
                    failures.extend(list(dict.fromkeys(segment.reasons.values()))[:3])
                return time.perf_counter() - began

            first = timed(specs[0])
            times = [timed(spec) for spec in specs]
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            memory = used * (1 if sys.platform == "darwin" else 1024)
            send(out, json.dumps({"first": first, "times": times, "memory": memory, "failures": failures}).encode())
