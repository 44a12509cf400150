"""The part of a set-up that runs beside a solution.

What only the checks need stays away from it: a solution could return the value that it is to be compared with, or ask
the reference that makes it.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Sequence

from leafe_verl.sandbox.asserts import SplitAssert, bound_names, loaded_names

TYPE_MAKERS = frozenset({"namedtuple", "NamedTuple", "NewType", "TypedDict", "Enum"})
"""Calls that make a type. Types stay, since a solution may return their values."""


def solution_setup(setup: str, asserts: Sequence[SplitAssert], others: Sequence[SplitAssert] = ()) -> str:
    """Return a set-up without what a check, or a call of another run, needs and the calls of `asserts` do not.

    `others`: the asserts of the task that are judged in another run.
    """
    calls = tuple(call for split in asserts for call in split.calls)
    checks = tuple(split.check for split in (*asserts, *others))
    elsewhere = tuple(call for split in others for call in split.calls)
    return _without_secrets(setup, calls, checks, elsewhere) if setup.strip() else setup


@functools.lru_cache(maxsize=256)  # a task's asserts are judged once for each of its attempts
def _without_secrets(setup: str, calls: tuple[str, ...], checks: tuple[str, ...], elsewhere: tuple[str, ...]) -> str:
    body = ast.parse(setup.replace("\r\n", "\n")).body
    compared = _closure(body, checks) - _closure(body, calls)
    needed = _closure(body, calls, lambda each: _changed_here(each, compared))
    asked = [ast.parse(text, mode="eval") for text in (*checks, *elsewhere)]
    secret = frozenset().union(*map(_bound_here, body)) & _closure(body, (*checks, *elsewhere)) - needed
    kept = [
        each
        for each in body
        if (_bound_here(each) | _changed_here(each, compared)) & needed or not _is_secret(each, secret, asked)
    ]
    return setup if len(kept) == len(body) else "\n".join(map(ast.unparse, kept))


def _is_secret(statement: ast.stmt, secret: frozenset[str], asked: Iterable[ast.expr | ast.Expression]) -> bool:
    """Return whether a statement binds nothing but secret names, or needs one of them."""
    if isinstance(statement, ast.ClassDef):
        return statement.name in secret and _only_holds_values(statement, asked)
    if isinstance(statement, ast.Import | ast.ImportFrom) or _makes_type(statement):
        return False
    bound = _bound_here(statement)
    return bool(loaded_names(statement) & secret) or (bool(bound) and bound <= secret)


def _only_holds_values(definition: ast.ClassDef, asked: Iterable[ast.AST]) -> bool:
    """Return whether expressions use a class for its values alone. A solution may return objects of any other one."""
    if definition.bases or definition.keywords or definition.decorator_list:
        return False
    values = frozenset().union(*(bound_names(each) for each in definition.body if isinstance(each, ast.Assign)))
    nodes = [node for expression in asked for node in ast.walk(expression)]
    owners = {id(node.value) for node in nodes if isinstance(node, ast.Attribute) and node.attr in values}
    uses = [node for node in nodes if isinstance(node, ast.Name) and node.id == definition.name]
    return all(id(use) in owners for use in uses)


def _makes_type(statement: ast.stmt) -> bool:
    if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call)):
        return False
    maker = statement.value.func
    name = maker.attr if isinstance(maker, ast.Attribute) else maker.id if isinstance(maker, ast.Name) else ""
    return name in TYPE_MAKERS


def _closure(
    body: Iterable[ast.stmt],
    expressions: Iterable[str],
    changed_here: Callable[[ast.stmt], frozenset[str]] = lambda statement: frozenset(),
) -> frozenset[str]:
    """Return the names that expressions need, with what the statements need that bind or change these names."""
    needed = frozenset().union(*(loaded_names(ast.parse(text, mode="eval")) for text in expressions))
    makers = [(_bound_here(each) | changed_here(each), loaded_names(each)) for each in body]
    while more := frozenset().union(*(loaded for made, loaded in makers if made & needed)) - needed:
        needed |= more
    return needed


def _changed_here(statement: ast.stmt, compared: frozenset[str]) -> frozenset[str]:
    """Return the names whose objects a statement changes, as `a.next = b` changes a.

    Where that cannot be told, as for `join(a, b)`, all names that it needs, if no check has what one of them holds.
    """
    if isinstance(statement, ast.Assign):
        return frozenset().union(*map(_roots, statement.targets))
    if isinstance(statement, ast.AugAssign | ast.AnnAssign):
        return _roots(statement.target)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        if isinstance(statement.value.func, ast.Attribute):
            return _roots(statement.value.func)
    elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
        return frozenset()
    loaded = loaded_names(statement)
    return frozenset() if loaded & compared else loaded


def _roots(target: ast.expr) -> frozenset[str]:
    """Return the names that the attributes and items of an assignment's target belong to."""
    if isinstance(target, ast.Tuple | ast.List):
        return frozenset().union(*map(_roots, target.elts))
    while isinstance(target, ast.Attribute | ast.Subscript | ast.Starred | ast.Call):
        target = target.func if isinstance(target, ast.Call) else target.value
    return frozenset({target.id}) if isinstance(target, ast.Name) else frozenset()


def _bound_here(statement: ast.stmt) -> frozenset[str]:
    """Return the names that a statement binds in the module."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return frozenset({statement.name})
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return frozenset(alias.asname or alias.name.split(".")[0] for alias in statement.names)
    return bound_names(statement)
