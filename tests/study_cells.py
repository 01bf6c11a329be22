"""Functions that studies in the tests call as cells."""

import os
import pathlib
import signal
import time

import numpy as np
from scipy.special import expit


def tiny(seed, x=0.0, y=0):
    return x * 2 + y + seed


def coin(seed, x=0.0, middle=0.5, scale=0.1, row=0):
    """A Bernoulli trial whose probability passes from 0 to 1 along x."""
    p = expit((x - middle) / scale)
    return float(np.random.default_rng([seed, int(1e6 * x), row]).random() < p)


def fussy(seed, x=0):
    if x == 3:
        raise ValueError("x is three\n  and that will not do")
    return x


def counted(seed, x=0, folder=""):
    """Leaves a file a call."""
    path = pathlib.Path(folder) / f"{x}-{seed}-{os.getpid()}-{time.time_ns()}"
    path.touch()
    return x + seed / 10


def deadly(seed, x=0, folder=""):
    """Prints, kills its process (always at x = 2, once at x = 4), raises at x = 5."""
    print("hello", x, flush=True)
    os.write(1, b"raw\n")
    mark = pathlib.Path(folder) / f"dead-{x}"
    if x == 2 or (x == 4 and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if x == 5:
        raise RuntimeError("five")
    return x


def slow(seed, x=0, seconds=0.05):
    time.sleep(seconds)
    return x + seed


def dataset_cell(x, folder, checkpoint, progress):
    """A named cell: a dataset; leaves a file a call in a folder."""
    import xarray as xr

    (pathlib.Path(folder) / f"{x}-{os.getpid()}-{time.time_ns()}").touch()
    progress(1, 2)
    values = np.random.default_rng(x).normal(size=3)
    return xr.Dataset({"v": ("k", values), "x": float(x)}, attrs={"who": f"cell {x}"})


def failing_cell(_checkpoint, _progress):
    from flatmin import JobError

    raise JobError("cells: no luck; try again")


def patient_cell(checkpoint, progress):
    """Counts up to 1000, and goes on from its checkpoint; writes that when it is told to stop."""
    import xarray as xr

    start = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for i in range(start, 1000):
        time.sleep(0.005 if start == 0 else 0)
        try:
            progress(i, 1000)
        except KeyboardInterrupt:
            checkpoint.write_text(str(i))
            raise
    return xr.Dataset({"start": float(start)})


def dying_cell(folder, checkpoint, progress):
    """Kills its process, the first time."""
    mark = pathlib.Path(folder) / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return dataset_cell(7, folder, checkpoint, progress)


def show_modules():
    """Prints the path of modules, a line an entry, once some are imported."""
    import random
    import select
    import sys

    import flatmin

    assert flatmin.__version__
    assert random.Random
    assert select.select
    print(*sys.path, sep="\n")
