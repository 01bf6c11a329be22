"""Peak memory of a run, in units of the measurement array.

One process for each size: import, warm up with a tiny run, reset the kernel's peak, then make the problem, train it
with records, and ask for the Hessian trace. The growth of the peak over the memory before is what the run took, the
measurement array itself and the compilation for its shapes included.
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks._table import Row, Table

TARGET = 3.0
SIZES = {"d = 60, n = 1000": (60, 1000), "d = 100, n = 4000": (100, 4000)}
STAGES = {"build": "problem made", "train": "label-noise SGD with records", "trace": "Hessian trace"}


def _peak(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {field} in /proc/self/status")


def _child(d: int, n: int) -> None:
    import jax

    from flatmin.dynamics import LabelNoiseSGD, Record, train
    from flatmin.flatness import hessian_trace
    from flatmin.parameterizations import Small
    from flatmin.problems import matrix_sensing

    def build(d, n):
        return matrix_sensing(jax.random.key(0), (d, d), 3, n, depth=3).problem

    def descend(problem):
        params = problem.parameterization.init_params(jax.random.key(1), Small(1.0))
        records = {"loss": Record(problem.loss, every=500)}
        dynamics = LabelNoiseSGD(1e-4, min(50, problem.num_samples), 0.1)
        result = train(problem, dynamics, params, steps=1000, key=jax.random.key(2), records=records)
        return jax.block_until_ready(result.params)

    tiny = build(4, 8)
    float(hessian_trace(tiny, descend(tiny)))

    Path("/proc/self/clear_refs").write_text("5")
    before, peaks = _peak("VmRSS"), {}
    problem = jax.block_until_ready(build(d, n))
    peaks["build"] = _peak("VmHWM") - before
    params = descend(problem)
    peaks["train"] = _peak("VmHWM") - before
    float(hessian_trace(problem, params))
    peaks["trace"] = _peak("VmHWM") - before
    print(json.dumps(peaks))


def main(*, quick: bool) -> Table:
    rows = []
    for name, (d, n) in list(SIZES.items())[: 1 if quick else None]:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", str(d), str(n)], check=True, capture_output=True, text=True
        )
        peaks, array = json.loads(done.stdout), 4 * n * d * d
        for stage, words in STAGES.items():
            times = peaks[stage] / array
            target, met = (f"< {TARGET:g}", times < TARGET) if stage == "train" else ("", None)
            rows.append(
                Row(
                    f"{name}: {words}", [f"{array / 1e6:.0f}", f"{peaks[stage] / 1e6:.0f}", f"{times:.2f}"], target, met
                )
            )
    return Table(
        "Peak memory of a run (L = 3, float32)",
        ["array, MB", "growth of the peak so far, MB", "times the array"],
        rows,
        ["The stages follow each other in one process; each line is the peak up to its end."],
    )


if __name__ == "__main__":
    _child(int(sys.argv[1]), int(sys.argv[2]))
