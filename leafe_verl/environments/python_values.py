"""Evaluates Python expressions of data sets that stand for plain values, without running code."""

from __future__ import annotations

import ast
import collections
import math
from collections.abc import Callable, Mapping
from typing import Any

NAMES: Mapping[str, Any] = {"inf": math.inf, "nan": math.nan}
CALLS: Mapping[str, Callable[..., Any]] = {
    "set": set,
    "frozenset": frozenset,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "complex": complex,
    "float": float,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "deque": collections.deque,
}
"""Calls that stand for a value."""


def parse_expression(source: str) -> ast.expr:
    """Return the expression. Raises ValueError if it does not parse."""
    try:
        return ast.parse(source, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{source[:80]!r} does not parse: {error}") from None


def evaluate(node: ast.expr) -> Any:
    """Return the value of an expression of literals, of NAMES and of CALLS. Raises ValueError for any other one."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(evaluate(each) for each in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {evaluate(key): evaluate(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.Name) and node.id in NAMES:
        return NAMES[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _number(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):  # 1 + 2j
        left, right = _number(node.left), _number(node.right)
        return left + right if isinstance(node.op, ast.Add) else left - right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS and not node.keywords:
        return CALLS[node.func.id](*map(evaluate, node.args))
    raise ValueError(f"{ast.unparse(node)[:80]!r} is no plain value")


def _number(node: ast.expr) -> Any:
    value = evaluate(node)
    if not isinstance(value, int | float | complex):
        raise ValueError(f"{ast.unparse(node)[:80]!r} is no number")
    return value
