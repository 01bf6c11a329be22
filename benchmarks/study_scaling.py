"""Studies: overhead of a cell, two processes against one core, a Dask cluster against its workers.

`python -m benchmarks.study_scaling` on two free cores; a minute and a half.
"""

import os
import subprocess
import sys
import tempfile
import time

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


def timed(spec, workers):
    """Seconds from the first finished cell to the last, and the cells in between: start-up and compilation left out."""
    from flatmin.studies import run_study, study_spec

    times = []

    def note(progress):
        times.append((time.monotonic(), progress.done))

    with tempfile.TemporaryDirectory() as folder:
        run_study(study_spec(spec), folder, workers=workers, batch_size=1, progress=note)
    done = [(t, n) for t, n in times if n > workers * 16]
    return (done[-1][0] - done[0][0]) / (done[-1][1] - done[0][1])


def main():
    if len(sys.argv) > 1:
        spec = {"training": TRAINING, "solving": SOLVING}[sys.argv[1]]
        print(timed(spec, int(sys.argv[2])))
        return
    from flatmin.studies import run_study, study_spec

    tiny = {"name": "tiny", "seeds": 100, "function": {"call": "benchmarks.study_scaling:tiny"}}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run_study(study_spec(tiny | {"axes": {"function.x": list(range(100))}}), folder)
        print(f"10,000 tiny cells: {(time.perf_counter() - began) / 10:.3f} ms a cell")
    for name in ("training", "solving"):
        command = [sys.executable, "-m", "benchmarks.study_scaling", name]
        one = float(subprocess.run(["taskset", "-c", "0", *command, "1"], capture_output=True, check=True).stdout)
        two = float(subprocess.run([*command, "2"], capture_output=True, check=True).stdout)
        print(
            f"{name}: {1e3 * one:.1f} ms a cell on one core, {1e3 * two:.1f} with two processes: {one / two:.2f} times"
        )


def tiny(seed, x=0):
    return x + seed


if __name__ == "__main__":
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    main()
