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

EXCEPTIONS = {
    name: each.__name__
    for name, each in vars(builtins).items()
    if isinstance(each, type) and issubclass(each, BaseException)
}
"""Python's own exceptions by all their names -> the name that the process tells: IOError is OSError."""


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
            names = [EXCEPTIONS.get(each.id) if isinstance(each, ast.Name) else None for each in named]
            if known := frozenset(filter(None, names)):
                return None if None in names else _split_call(text.strip(), call, known, wanted)
    return None


def _split_call(source: str, call: ast.Call, exceptions: frozenset[str], wanted: bool) -> SplitRaises:
    return SplitRaises(
        source=source,
        calls=(ast.unparse(call),),
        names=frozenset(filter(None, [chain_root(call)])),
        check="True",
        expected=None,
        identities=frozenset(),
        literal=True,
        prelude="",
        exceptions=exceptions,
        wanted=wanted,
    )
