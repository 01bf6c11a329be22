"""Print the newest Python here that pyproject.toml declares, if it is newer than the one that runs this.

Looked for on the PATH and among the versions of pyenv.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib


def declared() -> list[tuple[int, int]]:
    """The Python versions among the classifiers, newest first."""
    project = tomllib.loads(pathlib.Path(__file__).parent.parent.joinpath("pyproject.toml").read_text())["project"]
    found = (re.fullmatch(r"Programming Language :: Python :: (\d+)\.(\d+)", line) for line in project["classifiers"])
    return sorted(((int(m[1]), int(m[2])) for m in found if m), reverse=True)


def installed(version: tuple[int, int]) -> str | None:
    """A Python of this version that runs, or None."""
    name = "python{}.{}".format(*version)
    root = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    candidates = [*sorted(root.glob(f"versions/{version[0]}.{version[1]}*/bin/{name}")), shutil.which(name)]
    for candidate in filter(None, candidates):
        # a shim of pyenv is there for versions that are not
        if subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    return None


if __name__ == "__main__":
    newer = (installed(version) for version in declared() if version > sys.version_info[:2])
    print(next(filter(None, newer), ""))
