"""`python -m benchmarks [names] [--quick]`: run, print the tables, write RESULTS.md (not with --quick or names)."""

import argparse
import importlib
import importlib.metadata
import os
import platform
from pathlib import Path

NAMES = [
    "label_noise_sgd",
    "trace_flow",
    "hessian_trace",
    "memory",
    "deep_regression",
    "recovery",
    "large_completion",
    "study_scaling",
]
PACKAGES = [
    "jax",
    "equinox",
    "torch",
    "pyhessian",
    "curvlinops-for-pytorch",
    "cvxpy",
    "scs",
    "clarabel",
    "pyproximal",
    "qolmat",
]


def machine() -> str:
    """The machine in general words, and the versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    busy, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return (
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {versions}. Load average at the "
        f"end {busy:.1f}, of which the benchmarks themselves make one to {cores}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a smoke test of under a minute; its numbers mean little")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"names: got {sorted(unknown)}, expected some of {NAMES}")
    parts = []
    for name in arguments.names or NAMES:
        parts.append(importlib.import_module(f"benchmarks.{name}").main(quick=arguments.quick).markdown())
        print(parts[-1], end="\n\n", flush=True)
    if not arguments.names and not arguments.quick:
        text = "\n\n".join(["# Benchmarks", "Tables of `python -m benchmarks`.", machine(), *parts])
        Path(__file__).with_name("RESULTS.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
