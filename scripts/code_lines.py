"""Lines of code by room: without blank lines, comments and docstrings. `make lines`."""

import ast
import collections
import io
import pathlib
import sys
import tokenize

ROOT = pathlib.Path(__file__).parent.parent / "src"
_SPACE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(text: str) -> int:
    """Lines of Python that hold code.

    Args:
        text: a module.

    Returns:
        Their number; strings that stand alone (docstrings, of attributes too) do not count.
    """
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented |= set(range(node.lineno, node.end_lineno + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SPACE:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - documented)


def main() -> int:
    """Print the rooms, the largest first, what is no Python beside them, and the sum of the code."""
    rooms: collections.Counter[str] = collections.Counter()
    others: collections.Counter[str] = collections.Counter()
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        room = parts[1] if len(parts) > 2 else "."
        if path.suffix == ".py":
            rooms[room] += code_lines(path.read_text(encoding="utf-8"))
        elif path.suffix in (".js", ".css", ".html"):
            others[f"{room} ({path.suffix[1:]}, all lines)"] += len(path.read_text(encoding="utf-8").splitlines())
    for name, count in [*rooms.most_common(), *others.most_common()]:
        sys.stdout.write(f"{count:7,} {name}\n")
    sys.stdout.write(f"{rooms.total():7,} lines of code\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
