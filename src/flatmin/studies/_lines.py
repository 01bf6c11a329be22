"""Where in a file a setting stands: line numbers by path, for the sentences about mistakes."""

import re
from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]
_HEADER = re.compile(r"\s*\[{1,2}\s*(?P<name>[^\]]+?)\s*\]{1,2}\s*(#.*)?$")
_KEY = re.compile(
    r"""\s*(?P<name>(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def _parts(name: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(name))


def toml_lines(text: str) -> dict[Path, int]:
    """Line numbers of tables and settings.

    Args:
        text: a TOML document that parses.

    Returns:
        Line, from 1, by path; settings inside of inline tables are not listed, their line is that of the outer one.
    """
    lines: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            table = _parts(header["name"])
            lines.setdefault(table, number)
        elif found := _KEY.match(line):
            lines.setdefault(table + _parts(found["name"]), number)
    return lines


def yaml_lines(root: Any) -> dict[Path, int]:
    """Line numbers of mappings and settings.

    Args:
        root: the node of a YAML document.

    Returns:
        Line, from 1, by path.
    """
    import yaml

    lines: dict[Path, int] = {}

    def walk(node: Any, path: Path) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*path, str(key.value))
                lines[inner] = key.start_mark.line + 1
                walk(value, inner)

    walk(root, ())
    return lines


def line_of(path: Path, lines: Mapping[Path, int]) -> int | None:
    """The line of a setting, or of the nearest table around it.

    Args:
        path: the setting.
        lines: line by path.

    Returns:
        The line, None if not even its table is listed.
    """
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None
