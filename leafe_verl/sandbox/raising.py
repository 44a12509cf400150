"""Splits the assert that a call raises, for which Python itself has no expression:

    assert raises(ValueError, f("x"))               f("x") raises a ValueError, or what is derived from it
    assert raises((ValueError, KeyError), f("x"))   either of them
    assert not raises(ValueError, f("0"))           it raises nothing at all

The process of the solution evaluates nothing but the call. A helper that caught the exception there would give a mere
True, which whatever the solution puts in the helper's place gives as well.
"""

from __future__ import annotations

import ast
import builtins
import functools
from dataclasses import dataclass

from leafe_verl.sandbox.asserts import SplitAssert, chain_root, split_assert

EXCEPTIONS = frozenset(
    name for name, each in vars(builtins).items() if isinstance(each, type) and issubclass(each, BaseException)
)


@dataclass(frozen=True)
class SplitRaises(SplitAssert):
    """`assert raises(ValueError, f(1))` is the call `f(1)`, and has no check of a value."""

    exceptions: frozenset[str] = frozenset()
    """Names of Python's own exceptions, of which the call is to raise one."""
    wanted: bool = True
    """Whether the call is to raise; False for `not raises`."""


def split_test(text: str, setup: str = "") -> SplitAssert:
    """Split the source of one assert as `split_assert` does, or as SplitRaises if it says that a call raises."""
    raising = _split_raises(text) if isinstance(text, str) and "raises" in text else None
    return raising or split_assert(text, setup)


@functools.lru_cache(maxsize=1024)  # a task's asserts are judged once for each of its attempts
def _split_raises(text: str) -> SplitRaises | None:
    try:
        (node,) = ast.parse(text.strip()).body
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # `split_assert` says what is wrong
        return None
    condition = node.test if isinstance(node, ast.Assert) else None
    wanted = not (isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not))
    match condition if wanted else condition.operand:  # type: ignore[union-attr]
        case ast.Call(ast.Name("raises"), [kinds, ast.Call() as call], []):
            named = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
            names = frozenset(each.id for each in named if isinstance(each, ast.Name) and each.id in EXCEPTIONS)
            if names and len(names) == len(named):
                of, nothing = frozenset(filter(None, [chain_root(call)])), frozenset[int]()
                call_only = (text.strip(), (ast.unparse(call),), of, "True", None, nothing, True, "")
                return SplitRaises(*call_only, names, wanted)
    return None
