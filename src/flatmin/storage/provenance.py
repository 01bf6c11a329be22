"""Where a run was made: versions, device, code state, command. Recorded, never hashed."""

import datetime as dt
import importlib.metadata
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
from typing import Any


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


def git_state(path: pathlib.Path) -> str | None:
    """The commit that holds `path`, with ` (modified)` when tracked files differ from it.

    Args:
        path: a folder, or a file that must be tracked.

    Returns:
        The commit's hash, or None outside of a repository.
    """
    git = shutil.which("git")
    folder = path if path.is_dir() else path.parent
    if git is None or (path.is_file() and _git(git, folder, "ls-files", "--error-unmatch", path.name) is None):
        return None
    commit = _git(git, folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + (" (modified)" if _git(git, folder, "status", "--porcelain", "-uno") else "")


def _git(git: str, folder: pathlib.Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command, no shell
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
