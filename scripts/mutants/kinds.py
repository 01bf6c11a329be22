"""The mutations of a source file, by kind, as replacements of text."""

import ast
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator

_SWAPPED = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}
_NEARLY = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
_TWINS = {"maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max", "all": "any", "any": "all"}
# calls whose arguments may be exchanged without a change, or whose exchange no test need see
_SYMMETRIC = {"maximum", "minimum", "max", "min", "isinstance", "getattr", "hasattr", "isclose", "allclose", "add"}
_SYMMETRIC |= {"gcd", "array_equal", "logical_and", "logical_or", "vdot", "cast", "field", "join", "hypot"}


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One change of one file.

    Attributes:
        file: path from the root of the checkout.
        kind: what sort of change.
        scope: the function or class around it.
        start, end: the replaced bytes.
        old, new: text before and after.
    """

    file: str
    kind: str
    scope: str
    start: int
    end: int
    old: str
    new: str

    @property
    def name(self) -> str:
        """Eight hexadecimal digits that stay while the text around them does not change, wherever it moves to."""
        words = repr((self.file, self.kind, self.scope, self.old, self.new))
        return hashlib.sha256(words.encode()).hexdigest()[:8]

    def line(self, source: bytes) -> int:
        """The line of the file, from 1."""
        return source.count(b"\n", 0, self.start) + 1

    def apply(self, source: bytes) -> bytes:
        """The file with the change."""
        return source[: self.start] + self.new.encode() + source[self.end :]


class _Finder:
    def __init__(self, file: str, source: bytes):
        self.file, self.source = file, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode()

    def change(self, kind: str, scope: str, node: ast.AST, new: str) -> Mutation:
        start, end = self.span(node)
        return Mutation(self.file, kind, scope, start, end, self.text(node), new)

    def walk(self, node: ast.AST, scope: str) -> Iterator[Mutation]:
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.AnnAssign) and not getattr(
            node, "value", None
        ):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}" if scope else node.name
            for child in node.body:
                yield from self.walk(child, scope)
            return
        if scope:
            yield from self.at(node, scope)
        if isinstance(node, ast.Raise | ast.JoinedStr):
            return
        for name, value in ast.iter_fields(node):
            if name == "annotation":
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self.walk(child, scope)

    def at(self, node: ast.AST, scope: str) -> Iterator[Mutation]:
        text = self.text
        match node:
            case ast.BinOp(left, ast.Add() | ast.Sub(), right) if not _is_text(left) and not _is_text(right):
                yield self.change("sign", scope, node, f"{text(left)} {_SWAPPED[type(node.op)]} {_closed(right, text)}")
            case ast.BinOp(left, ast.Mult() | ast.Div(), right) if not _is_text(left):
                swapped = _SWAPPED[type(node.op)]
                yield self.change("factor", scope, node, f"{_closed(left, text)} {swapped} {_closed(right, text)}")
                for side in (left, right):
                    if isinstance(side, ast.Constant) and side.value in (2, 0.5, 4, 3):
                        yield self.change("factor", scope, side, "1")
            case ast.BinOp(left, ast.MatMult(), right):
                yield self.change("transpose", scope, node, f"{_closed(right, text)} @ {_closed(left, text)}")
            case ast.BinOp(left, ast.Pow(), ast.Constant(2)):
                yield self.change("factor", scope, node, text(left))
            case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
                yield self.change("sign", scope, node, text(operand))
            case ast.Attribute(value, "T" | "mT"):
                yield self.change("transpose", scope, node, text(value))
            case ast.Compare(left, [operator], [right]) if type(operator) in _NEARLY:
                changed = f"{text(left)} {_NEARLY[type(operator)]} {text(right)}"
                yield self.change("off by one", scope, node, changed)
            case ast.Subscript(_, ast.Slice(lower, upper)):
                for bound in (lower, upper):
                    if bound is not None:
                        yield self.change("off by one", scope, bound, f"{_closed(bound, text)} + 1")
            case ast.Call(ast.Name("range"), [*_, last], []):
                yield self.change("off by one", scope, last, f"{_closed(last, text)} - 1")
            case ast.If(test, [ast.Raise()], []):
                yield self.change("dropped check", scope, test, "False")
            case ast.Expr(ast.Call(ast.Name(called))) if called.startswith(("check_", "_check")):
                yield self.change("dropped check", scope, node, "pass")
            case ast.Call(function, [first, second, *_]) if _may_swap(function, first, second):
                start, end = self.span(first)[0], self.span(second)[1]
                between = self.source[self.span(first)[1] : self.span(second)[0]].decode()
                swapped = text(second) + between + text(first)
                yield Mutation(
                    self.file, "swapped arguments", scope, start, end, self.source[start:end].decode(), swapped
                )
        if isinstance(node, ast.Call) and (twin := _TWINS.get(_name(node.func) or "")):
            start, end = self.span(node.func)
            old = self.source[start:end].decode()
            new = old[: len(old) - len(_name(node.func))] + twin
            yield Mutation(self.file, "extreme", scope, start, end, old, new)
        if isinstance(node, ast.If) and not isinstance(node.body[0], ast.Raise):
            yield self.change("condition", scope, node.test, f"not ({text(node.test)})")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _closed(node: ast.AST, text) -> str:
    return f"({text(node)})" if isinstance(node, ast.BinOp | ast.UnaryOp | ast.IfExp | ast.Compare) else text(node)


def _name(function: ast.AST) -> str | None:
    return getattr(function, "id", None) or getattr(function, "attr", None)


def _may_swap(function: ast.AST, first: ast.AST, second: ast.AST) -> bool:
    plain = (ast.Name, ast.Attribute, ast.BinOp, ast.Subscript)
    if _name(function) in _SYMMETRIC:
        return False
    return isinstance(first, plain) and isinstance(second, plain) and ast.dump(first) != ast.dump(second)


def find_mutations(root: pathlib.Path, file: str) -> list[Mutation]:
    """All mutations of a file, except of messages, annotations and what stands outside of functions and classes.

    Args:
        root: the checkout.
        file: the path from there.

    Returns:
        In the order of the text.
    """
    source = (root / file).read_bytes()
    return list(_Finder(file, source).walk(ast.parse(source), ""))


def is_change(root: pathlib.Path, mutation: Mutation) -> bool:
    """Whether it can be parsed, and is another program."""
    source = (root / mutation.file).read_bytes()
    try:
        return ast.dump(ast.parse(mutation.apply(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False
