"""Print pip constraints that pin every dependency of the core and of `app` to its lower bound in pyproject.toml."""

import pathlib
import re
import tomllib


def lowest(requirement: str) -> str:
    """`name==version` from `name>=version,...`.

    Args:
        requirement: a line of pyproject's dependencies.

    Returns:
        The pinned line.

    Raises:
        SystemExit: if the requirement has no lower bound.
    """
    found = re.fullmatch(r"([A-Za-z0-9_.\-]+)(?:\[.*\])?>=([0-9.]+)(?:,.*)?", requirement)
    if found is None:
        raise SystemExit(f"pyproject.toml: {requirement!r} has no lower bound; write name>=version")
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    project = tomllib.loads(pathlib.Path(__file__).parent.parent.joinpath("pyproject.toml").read_text())["project"]
    print("\n".join(lowest(line) for line in project["dependencies"] + project["optional-dependencies"]["app"]))
