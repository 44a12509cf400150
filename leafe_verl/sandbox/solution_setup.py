"""The part of a set-up that runs beside a solution.

What only the checks need stays away from it: a solution could return the value that it is to be compared with, or ask
the reference that makes it.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Sequence

from leafe_verl.sandbox.asserts import SplitAssert, bound_names, loaded_names

TYPE_MAKERS = frozenset({"namedtuple", "NamedTuple", "NewType", "TypedDict", "Enum"})
"""Calls that make a type. Types stay, since a solution may return their values."""


def solution_setup(setup: str, asserts: Sequence[SplitAssert]) -> str:
    """Return a set-up without the statements that the checks of `asserts` need and their calls do not."""
    calls = tuple(call for split in asserts for call in split.calls)
    return _without_secrets(setup, calls, tuple(split.check for split in asserts)) if setup.strip() else setup


@functools.lru_cache(maxsize=256)  # a task's asserts are judged once for each of its attempts
def _without_secrets(setup: str, calls: tuple[str, ...], checks: tuple[str, ...]) -> str:
    body = ast.parse(setup.replace("\r\n", "\n")).body
    needed = _closure(body, calls)
    secret = frozenset().union(*map(_bound_here, body)) & _closure(body, checks) - needed
    kept = [each for each in body if _bound_here(each) & needed or not _is_secret(each, secret)]
    return setup if len(kept) == len(body) else "\n".join(map(ast.unparse, kept))


def _is_secret(statement: ast.stmt, secret: frozenset[str]) -> bool:
    """Return whether a statement binds nothing but secret names, or needs one of them."""
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.ClassDef) or _makes_type(statement):
        return False
    bound = _bound_here(statement)
    return bool(loaded_names(statement) & secret) or (bool(bound) and bound <= secret)


def _makes_type(statement: ast.stmt) -> bool:
    if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call)):
        return False
    maker = statement.value.func
    name = maker.attr if isinstance(maker, ast.Attribute) else maker.id if isinstance(maker, ast.Name) else ""
    return name in TYPE_MAKERS


def _closure(body: Iterable[ast.stmt], expressions: Iterable[str]) -> frozenset[str]:
    """Return the names that expressions need, with those that the statements which bind these need in turn."""
    needed = frozenset().union(*(loaded_names(ast.parse(text, mode="eval")) for text in expressions))
    while more := frozenset().union(*(loaded_names(each) for each in body if _bound_here(each) & needed)) - needed:
        needed |= more
    return needed


def _bound_here(statement: ast.stmt) -> frozenset[str]:
    """Return the names that a statement binds in the module."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return frozenset({statement.name})
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return frozenset(alias.asname or alias.name.split(".")[0] for alias in statement.names)
    return bound_names(statement)
