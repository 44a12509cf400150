"""Joins blocks of code to one module, and finds what a block only sketches."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from leafe_verl.environments.fences import parse

FUTURE = "__future__"


def join_blocks(parts: Sequence[str]) -> str:
    """Return the code of blocks, one behind the other. Imports from `__future__`, which must come first, do."""
    if not any(_read_futures(part) for part in parts[1:]):
        return "\n".join(parts)
    names = dict.fromkeys(alias.name for part in parts for node in _read_futures(part) for alias in node.names)
    return "\n".join([f"from {FUTURE} import {', '.join(names)}", *map(_without_futures, parts)])


def _read_futures(code: str) -> list[ast.ImportFrom]:
    tree = parse(code)
    body = [] if tree is None else tree.body
    return [node for node in body if isinstance(node, ast.ImportFrom) and node.module == FUTURE]


def _without_futures(code: str) -> str:
    """Return code with `pass` in the place of each import from `__future__`, so that its lines keep their numbers."""
    lines = code.encode().splitlines(keepends=True)  # the parser counts columns in bytes
    for node in reversed(_read_futures(code)):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        begin, end = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        lines[first : last + 1] = [begin + b"pass" + end, *[b"\n"] * (last - first)]
    return b"".join(lines).decode()


def find_stubs(tree: ast.Module) -> frozenset[str]:
    """Return the names that statements of a module define by a stub, and no other of its statements binds.

    What is imported does not count as bound here.
    """
    stubs = [name for node in tree.body if (name := _stub(node)) is not None]
    others = [node for node in tree.body if _stub(node) is None]
    return frozenset(stubs) - {name for node in others for name in _bound_names(node)}


def _stub(node: ast.stmt) -> str | None:
    """Return the name that a statement defines by a stub; None if it is none."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name if all(map(_does_nothing, node.body)) else None
    if isinstance(node, ast.ClassDef):
        # A class without methods is often meant so, as that of an exception is.
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        return node.name if methods and all(_stub(each) or _does_nothing(each) for each in node.body) else None
    match node:
        case ast.Assign([ast.Name(name)], ast.Name(value)) if name == value:
            return name
    return None


def _does_nothing(node: ast.stmt) -> bool:
    """Return whether a statement is `pass`, `...`, a text, or says that something is still to be written."""
    match node:
        case ast.Pass() | ast.Expr(ast.Constant()):
            return True
        case ast.Raise(ast.Name("NotImplementedError") | ast.Call(ast.Name("NotImplementedError"))):
            return True
    return False


def _bound_names(node: ast.stmt) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield each.name
        elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id
