"""Seeded defects: what a tired author might have written instead of a small part of correct code.

A defect replaces the source of one node of the syntax tree and leaves the rest, comments too, as it was.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

COMPARISONS: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
OPERATORS: Mapping[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.FloorDiv),
    ast.FloorDiv: (ast.Mod, ast.Div),
    ast.Div: (ast.FloorDiv, ast.Mult),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
}
EXCHANGED = (
    ("min", "max"), ("any", "all"), ("ljust", "rjust"), ("lstrip", "rstrip"), ("startswith", "endswith"),
)  # fmt: skip
FUNCTIONS = {**dict(EXCHANGED), **{second: first for first, second in EXCHANGED}, "sorted": "list", "popleft": "pop"}
"""Names of functions and methods -> another that takes the same arguments."""


@dataclass(frozen=True)
class Defect:
    kind: str
    """What kind of mistake it is, as one of KINDS."""
    line: int
    """Number of the first line that differs, from 1."""
    source: str
    """The module with the defect."""


def find_defects(source: str) -> Iterator[Defect]:
    """Yield every defect that can be put into a module, in the order of the kinds and of the text."""
    tree = ast.parse(source)
    for kind, replacements in KINDS.items():
        for node in _nodes(tree):
            for other in replacements(node, tree):
                changed = _without(source, node) if other is None else _replaced(source, node, ast.unparse(other))
                if changed != source:
                    yield Defect(kind, node.lineno, changed)  # type: ignore[attr-defined]


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those within f-strings, whose places Python tells rightly only from 3.12 on."""
    waiting = [tree]
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, ast.JoinedStr):
            waiting += ast.iter_child_nodes(node)


def _replaced(source: str, node: ast.AST, text: str) -> str:
    """Return the source with other code in the place of a node."""
    lines = source.splitlines(keepends=True)
    first, last = node.lineno - 1, node.end_lineno - 1  # type: ignore[attr-defined]
    # The columns count bytes.
    before = lines[first].encode()[: node.col_offset].decode()  # type: ignore[attr-defined]
    after = lines[last].encode()[node.end_col_offset :].decode()  # type: ignore[attr-defined]
    if isinstance(node, ast.stmt):
        text = text.replace("\n", "\n" + before)
    return "".join([*lines[:first], before + text + after, *lines[last + 1 :]])


def _without(source: str, statement: ast.AST) -> str:
    """Return the source without a statement; with `pass` in its place where it is the only one of its block."""
    lines = source.splitlines(keepends=True)
    first, last = statement.lineno - 1, statement.end_lineno  # type: ignore[attr-defined]
    shorter = "".join([*lines[:first], *lines[last:]])
    try:
        ast.parse(shorter)
    except SyntaxError:
        return _replaced(source, statement, "pass")
    return shorter


# --- Kinds: each yields what may stand for a node. ---


def off_by_one(node: ast.AST, tree: ast.Module) -> Iterator[ast.AST]:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)
        if node.value > 0:
            yield ast.Constant(node.value - 1)


def swapped_comparison(node: ast.AST, tree: ast.Module) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            for other in COMPARISONS.get(type(operator), ()):
                changed = copy.deepcopy(node)
                changed.ops[index] = other()
                yield changed


def wrong_operator(node: ast.AST, tree: ast.Module) -> Iterator[ast.AST]:
    if isinstance(node, ast.BinOp | ast.AugAssign):
        for other in OPERATORS.get(type(node.op), ()):
            changed = copy.deepcopy(node)
            changed.op = other()
            yield changed
    elif isinstance(node, ast.BoolOp):
        changed_bool = copy.deepcopy(node)
        changed_bool.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield changed_bool
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand


def dropped_branch(node: ast.AST, tree: ast.Module) -> Iterator[ast.AST | None]:
    if isinstance(node, ast.If):
        if not node.orelse:
            yield None
        elif not isinstance(node.orelse[0], ast.If):
            changed = copy.deepcopy(node)
            changed.orelse = []
            yield changed
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse


def dropped_statement(node: ast.AST, tree: ast.Module) -> Iterator[ast.AST | None]:
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if is_call or isinstance(node, ast.AugAssign | ast.Delete | ast.Continue):
        yield None


def wrong_variable(node: ast.AST, tree: ast.Module) -> Iterator[ast.AST]:
    """Another argument of the same function stands for an argument."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        names = _arguments_around(tree, node)
        if node.id in names:
            yield from (ast.Name(name, ast.Load()) for name in names if name not in (node.id, "self"))


def swapped_arguments(node: ast.AST, tree: ast.Module) -> Iterator[ast.AST]:
    if isinstance(node, ast.Call) and len(node.args) == 2 and not any(isinstance(a, ast.Starred) for a in node.args):
        changed = copy.deepcopy(node)
        changed.args.reverse()
        yield changed


def wrong_function(node: ast.AST, tree: ast.Module) -> Iterator[ast.AST]:
    if isinstance(node, ast.Name) and node.id in FUNCTIONS and isinstance(node.ctx, ast.Load):
        yield ast.Name(FUNCTIONS[node.id], ast.Load())
    elif isinstance(node, ast.Attribute) and node.attr in FUNCTIONS:
        yield ast.Attribute(node.value, FUNCTIONS[node.attr], ast.Load())


def _arguments_around(tree: ast.Module, node: ast.AST) -> list[str]:
    """Return the names of the arguments of the function that a node stands in."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and any(each is node for each in ast.walk(function)):
            return [argument.arg for argument in function.args.args]
    return []


KINDS: Mapping[str, Callable[[ast.AST, ast.Module], Iterator[ast.AST | None]]] = {
    function.__name__: function
    for function in (
        off_by_one,
        swapped_comparison,
        wrong_operator,
        dropped_branch,
        dropped_statement,
        wrong_variable,
        swapped_arguments,
        wrong_function,
    )
}
