"""Studies: overhead of a cell, a million cells, two processes against one core, a Dask cluster against its workers.

`python -m benchmarks study_scaling` on two free cores; five minutes.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from benchmarks._table import Row, Table

TRAINING = {
    "name": "scaling",
    "seeds": 32,
    "problem": {"preset": "matrix_sensing", "matrix_shape": [20, 20], "rank": 2, "num_measurements": 200},
    "dynamics": {"rule": "label_noise_sgd", "batch_size": 20, "noise": 0.1},
    "stopping": {"steps": 4000},
    "measure": {"quantities": ["loss", "trace"]},
    "axes": {"dynamics.learning_rate": {"from": 0.001, "to": 0.01, "count": 6}},
    "batching": {"width": 16},
}
SOLVING = {
    "name": "solving",
    "seeds": 12,
    "problem": {"preset": "matrix_sensing", "matrix_shape": [20, 20], "rank": 2},
    "solver": {"program": "min_nuclear_norm"},
    "measure": {"quantities": ["recovered"]},
    "axes": {"problem.num_measurements": {"from": 100, "to": 180, "step": 8}},
}
MILLION = """\
name = "million"
seeds = {seeds}
[function]
call = "benchmarks.study_scaling:tiny"
[axes]
"function.x" = {{ from = 0, to = 1, count = 100 }}
"""


def tiny(seed, x=0):
    return x + seed


def second(seed, x=0):
    time.sleep(1)
    return x + seed


def spec_of(call: str, count: int, seeds: int) -> dict:
    function = {"call": f"benchmarks.study_scaling:{call}"}
    return {"name": call, "seeds": seeds, "function": function, "axes": {"function.x": list(range(count))}}


def run(spec: dict, **how) -> tuple[list[tuple[float, int]], float]:
    """When how many cells were finished, and the wall time from the call on."""
    from flatmin.studies import run_study, study_spec

    times = []
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        run_study(study_spec(spec), folder, progress=lambda state: times.append((time.monotonic(), state.done)), **how)
        return times, time.monotonic() - began


def seconds_a_cell(name: str, workers: int) -> float:
    """From the first finished cells to the last: start-up and compilation left out."""
    times, _ = run({"training": TRAINING, "solving": SOLVING}[name], workers=workers, batch_size=1)
    done = [(t, n) for t, n in times if n > workers * 16]
    return (done[-1][0] - done[0][0]) / (done[-1][1] - done[0][1])


def check(seeds: int) -> tuple[float, float]:
    """Seconds and megabytes of `flatmin study check` for 100 values and so many seeds."""
    from flatmin.cli import main as command

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "million.toml"
        path.write_text(MILLION.format(seeds=seeds))
        began = time.perf_counter()
        code = command(["study", "check", str(path), "--no-probe", "--out", folder])
    if code:
        raise RuntimeError("the check failed")
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def child(*arguments: str, core: int | None = None):
    """What a process of its own finds, as JSON on its last line; on one core if it is named."""
    bound = [] if core is None else ["taskset", "-c", str(core)]
    command = [*bound, sys.executable, "-m", "benchmarks.study_scaling", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(*, quick: bool) -> Table:
    rows = []
    cells = 1_000 if quick else 10_000
    overhead = 1e3 * child("overhead", str(cells)) / cells
    rows.append(Row(f"{cells:,} tiny cells: ms a cell", [f"{overhead:.3f}"], "< 2", overhead < 2))
    (few, small), (seconds, large) = child("check", "10"), child("check", "10000")
    rows.append(Row("check of 1,000,000 cells: s", [f"{seconds:.2f}"], "< 10", seconds < 10))
    words = f"{large:.0f} ({small:.0f} for 1,000 cells, in {few:.2f} s)"
    rows.append(Row("check of 1,000,000 cells: MB, peak", [words], "+ < 10", large - small < 10))
    for name in ("training", "solving"):
        one = child("cell", name, "1", core=0)
        two = child("cell", name, "2")
        words = f"{one / two:.2f} ({1e3 * one:.1f} ms a cell, {1e3 * two:.1f})"
        rows.append(Row(f"two processes to one core, {name} cells", [words], ">= 1.8", one / two >= 1.8))
    seeds = 4 if quick else 20
    computing, whole = child("dask", str(seeds))
    ideal = 10 * seeds / 2
    rows.append(
        Row(
            f"Dask, two local workers, {10 * seeds} cells of one second: share of the ideal time",
            [f"{ideal / computing:.3f} ({computing:.1f} s; {whole:.1f} s with the cluster's start and end)"],
            ">= 0.85",
            ideal / computing >= 0.85,
        )
    )
    return Table("Studies", ["measured"], rows, [])


def _child(what: str, *arguments: str) -> None:
    match what:
        case "overhead":
            count = int(arguments[0])
            found = run(spec_of("tiny", 100, count // 100))[1]
        case "check":
            found = check(int(arguments[0]))
        case "cell":
            found = seconds_a_cell(arguments[0], int(arguments[1]))
        case _:
            times, whole = run(spec_of("second", 10, int(arguments[0])), scheduler="local", workers=2)
            found = times[-1][0] - times[0][0], whole
    print(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    _child(*sys.argv[1:])
