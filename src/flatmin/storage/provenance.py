"""Where a run was made: versions, device, code state, command. Recorded, never hashed."""

import datetime as dt
import importlib.metadata
import pathlib
import platform
import shlex
import sys
from typing import Any

from flatmin.storage.git import git_state


def provenance() -> dict[str, Any]:
    """Versions, platform, device, git state, command line and date of this process.

    Returns:
        A dictionary of texts and flags that JSON can hold.
    """
    import jax

    import flatmin

    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "flatmin": flatmin.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy", "equinox")},
        },
        "platform": platform.platform(),
        "device": f"{jax.default_backend()}: {jax.devices()[0].device_kind}",
        "float64": bool(jax.config.read("jax_enable_x64")),
        "git": {
            "flatmin": git_state(pathlib.Path(flatmin.__file__)),
            "working directory": git_state(pathlib.Path.cwd()),
        },
    }
