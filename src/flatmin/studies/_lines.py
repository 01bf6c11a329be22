"""Where in a file a setting stands: line numbers by path, for the sentences about mistakes."""

import tomllib
from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]


def toml_line(text: str, path: Path) -> int | None:
    """The line of a setting, or of the nearest table around it that the file has.

    The document is read again up to each line: the setting begins after the last beginning that parses without it. So
    what a line means is TOML's own business (texts of many lines, dotted names, tables of tables).

    Args:
        text: a TOML document that parses.
        path: names of tables and settings, positions in lists as digits; parts that the file does not have are passed.

    Returns:
        The line, from 1; None if no part of the path is in the file.
    """
    found = _known(tomllib.loads(text), path)
    if not found:
        return None
    lines, start = text.splitlines(), 1
    for number in range(1, len(lines) + 1):
        try:
            part = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue
        if _known(part, found) == found:
            break
        start = number + 1
    while not lines[start - 1].strip() or lines[start - 1].lstrip().startswith("#"):
        start += 1
    return start


def _known(value: Any, path: Path) -> Path:
    """The parts of a path that lead into a document, in order; the others are left out."""
    found: list[str] = []
    for name in path:
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            continue
        found.append(name)
    return tuple(found)


def yaml_lines(root: Any) -> dict[Path, int]:
    """Line numbers of mappings, settings and entries of lists.

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
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                lines[*path, str(i)] = value.start_mark.line + 1
                walk(value, (*path, str(i)))

    walk(root, ())
    return lines


def line_of(path: Path, lines: Mapping[Path, int]) -> int | None:
    """The line of a setting, or of the nearest table around it.

    Args:
        path: the setting; parts that no listed path has are passed.
        lines: line by path.

    Returns:
        The line, None if not even its table is listed.
    """
    found: Path = ()
    for name in path:
        found = (*found, name) if (*found, name) in lines else found
    return lines.get(found)
