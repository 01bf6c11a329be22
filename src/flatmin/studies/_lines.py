"""Where in a file a setting stands: line numbers by path, for the sentences about mistakes."""

import tomllib
from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]


_CLOSING = ("]", '"""', "'''")
"""What the last line of a statement of several lines must hold: only lists and long texts go over lines."""


def toml_lines(text: str) -> dict[Path, int]:
    """Line numbers of tables and settings.

    The document is cut into its statements: each is the shortest run of lines that TOML itself reads. So what a line
    means (texts of many lines, dotted and quoted names, lists of tables) is TOML's business alone.

    Args:
        text: a TOML document that parses.

    Returns:
        Line, from 1, where the statement begins, by path; entries of lists by their position as digits.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    start = 0
    while start < len(lines):
        statement, end = _statement(lines, start)
        if lines[start].lstrip().startswith("["):
            table = _header(statement, counts)
            for known in range(1, len(table) + 1):
                found.setdefault(table[:known], start + 1)
        else:
            _enter(statement, table, start + 1, found)
        start = end
    return found


def _statement(lines: list[str], start: int) -> tuple[dict[str, Any], int]:
    """The statement that begins at a line, read alone, and the line after it."""
    for end in range(start + 1, len(lines) + 1):
        if end == start + 1 or any(mark in lines[end - 1] for mark in _CLOSING):
            try:
                return tomllib.loads("\n".join(lines[start:end])), end
            except tomllib.TOMLDecodeError:
                continue
    return {}, len(lines)


def _header(statement: Any, counts: dict[Path, int]) -> Path:
    """The table that a header opens: within lists of tables the last one, by its position."""
    table: Path = ()
    while statement:
        ((name, statement),) = statement.items()
        table = (*table, name)
        if isinstance(statement, list):
            counts[table] = counts.get(table, 0) + 1
            (statement,) = statement
        if table in counts:
            table = (*table, str(counts[table] - 1))
    return table


def _enter(value: Any, path: Path, line: int, found: dict[Path, int]) -> None:
    if path not in found and path:
        found[path] = line
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in inside:
        _enter(inner, (*path, str(name)), line, found)


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
