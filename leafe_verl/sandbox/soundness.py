"""Refuses asserts that a solution would decide by itself, and asserts that no solution passes.

What an assert uses and nothing else defines is taken for the solution's, and runs beside it. A row that leaves out the
import or the definition of a helper would have the solution compare its own values, and an honest one would not know
the helper's name.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

from leafe_verl.sandbox.asserts import (
    BUILTINS,
    KNOWN_MODULES,
    KNOWN_NAMES,
    bound_names,
    chain_root,
    loaded_names,
)
from leafe_verl.sandbox.raising import SplitRaises, split_test

ADVICE = "define it in test_setup_code, or import it there from a module of Python's own (the sandbox has no others)"
TOLERANCE_ADVICE = "write math.isclose(returned, expected, rel_tol=1e-6)"


def refuse_unsound(text: str, setup: str = "", imported: frozenset[str] = frozenset()) -> None:
    """Raise ValueError, which shows the text, if it is no assert, or none that can be judged with this set-up.

    `imported`: names that are the solution's by an import of its modules. A check may ask them for their verdict, as
    for that of `is_sorted(merge(a, b))`, but not a helper beside them, which runs where the solution can change it.
    """
    split = split_test(text, setup)
    if isinstance(split, SplitRaises):
        return
    written = _read_names(setup)
    calls = [ast.parse(call, mode="eval").body for call in split.calls]
    check = ast.parse(split.check, mode="eval").body
    problem = _member_of_nothing(calls, written | imported) or _own_verdict(calls, check, written, imported)
    problem = problem or _compared_with_itself(calls, check, written | imported)
    if problem := problem or _changed_value(calls, check, setup):
        raise ValueError(f"{text[:200]!r}: {problem}")


def _member_of_nothing(calls: list[ast.expr], written: frozenset[str]) -> str | None:
    """Return what is wrong with a call such as `np.allclose(...)` where nothing defines `np`."""
    for call, root in _calls_of_unknown_names(calls, written):
        first = _first_link(call)
        # A class of the solution may be used without an object of it, and is told by its first letter.
        if isinstance(first, ast.Attribute) and not root[0].isupper():
            advice = TOLERANCE_ADVICE if first.attr == "approx" else ADVICE
            return f"calls {root}.{first.attr}, and nothing defines {root}, so it would be the solution's; {advice}"
    return None


def _first_link(call: ast.expr) -> ast.expr:
    """Return the innermost part of a chain of calls, attributes and subscripts: what is done with its name."""
    link = call
    while isinstance(call, ast.Call | ast.Attribute | ast.Subscript):
        link, call = call, call.func if isinstance(call, ast.Call) else call.value
    return link


def _own_verdict(
    calls: list[ast.expr], check: ast.expr, written: frozenset[str], imported: frozenset[str]
) -> str | None:
    """Return what is wrong with a check like `almost_equal(f(1), 7.25)`, which asks the solution for the verdict."""
    if not _asks_for_truth(check):
        return None
    for call in calls:
        if chain_root(call) in imported:
            continue
        inner = [node for node, _ in _calls_of_unknown_names(_arguments(call), written) if not _makes_object(node)]
        if inner:
            helper, inside = chain_root(call), ast.unparse(inner[0])
            return (
                f"only asks whether {helper} says so of {inside}, and nothing defines {helper}, so it would be the "
                f"solution's; {ADVICE}"
            )
    return None


def _compared_with_itself(calls: list[ast.expr], check: ast.expr, written: frozenset[str]) -> str | None:
    """Return what is wrong with a check like `f(3) == reference(3)`, in which nothing but the solution says a value."""
    outer = {id(call) for call in calls}
    unknown = ((call, root) for call, root in _calls_of_unknown_names(calls, written) if not root[0].isupper())
    roots = sorted({root for call, root in unknown if id(call) in outer})
    values = [node for node in ast.walk(check) if not isinstance(node, ast.Compare | ast.cmpop | ast.expr_context)]
    if len(roots) < 2 or not all(isinstance(node, ast.Name) and node.id.startswith("returned_") for node in values):
        return None
    return f"compares what {' and '.join(roots)} say, and nothing defines any of them; {ADVICE}"


def _arguments(call: ast.expr) -> list[ast.expr]:
    """Return the arguments of every call in a chain of calls, attributes and subscripts."""
    found: list[ast.expr] = []
    while isinstance(call, ast.Call | ast.Attribute | ast.Subscript):
        if isinstance(call, ast.Call):
            found += [*call.args, *(each.value for each in call.keywords)]
        call = call.func if isinstance(call, ast.Call) else call.value
    return found


def _makes_object(call: ast.expr) -> bool:
    """Return whether a call makes an object of a class of the solution's, such as `Node(1)`."""
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id[0].isupper()


def _asks_for_truth(check: ast.expr) -> bool:
    """Return whether a check holds nothing to compare with but True, False and None."""
    for node in ast.walk(check):
        if isinstance(node, ast.Constant) and not isinstance(node.value, bool | None):
            return False
        if isinstance(node, ast.Compare) and not any(
            isinstance(side, ast.Constant) for side in (node.left, *node.comparators)
        ):
            return False
    return True


def _changed_value(calls: list[ast.expr], check: ast.expr, setup: str) -> str | None:
    """Return what is wrong if a part of the check asks what a call has made of a value of the set-up."""
    given = _read_changeable(setup) & frozenset().union(*map(loaded_names, calls))
    for part in _parts(check):
        names = loaded_names(part)
        if (changed := sorted(names & given)) and not any(name.startswith("returned_") for name in names):
            return (
                f"asks for {changed[0]} of the set-up, which a call may have changed, in `{ast.unparse(part)}`; the "
                "check has it as the set-up has it, so only ask for what a call returns"
            )
    return None


def _parts(check: ast.expr) -> Iterator[ast.expr]:
    """Yield the conditions that `and`, `or` and `not` join."""
    if isinstance(check, ast.BoolOp):
        for value in check.values:
            yield from _parts(value)
    elif isinstance(check, ast.UnaryOp) and isinstance(check.op, ast.Not):
        yield from _parts(check.operand)
    else:
        yield check


def _calls_of_unknown_names(nodes: list[ast.expr], written: frozenset[str]) -> Iterator[tuple[ast.expr, str]]:
    """Yield each chain of calls whose first name neither Python nor the set-up nor the expression defines."""
    for outer in nodes:
        known = written | KNOWN_MODULES | KNOWN_NAMES.keys() | BUILTINS | bound_names(outer)
        for node in ast.walk(outer):
            root = chain_root(node)
            if root is not None and root not in known and isinstance(node, ast.expr):
                yield node, root


def imported_names(source: str) -> frozenset[str]:
    """Return the names that a source imports."""
    imports = (node for node in ast.walk(_parse(source)) if isinstance(node, ast.Import | ast.ImportFrom))
    return frozenset(alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names)


@functools.lru_cache(maxsize=64)
def _read_names(setup: str) -> frozenset[str]:
    """Return every name that a set-up binds, also those whose values need the solution, as in `root = Node(1)`."""
    names = set(bound_names(_parse(setup)))
    for node in ast.walk(_parse(setup)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
    return frozenset(names) | imported_names(setup)


@functools.lru_cache(maxsize=64)
def _read_changeable(setup: str) -> frozenset[str]:
    """Return the names to which a set-up assigns a literal that can be changed in place."""
    return frozenset(
        target.id
        for node in _parse(setup).body
        if isinstance(node, ast.Assign)
        and any(isinstance(each, ast.List | ast.Dict | ast.Set) for each in ast.walk(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    )


def _parse(setup: str) -> ast.Module:
    return ast.parse(setup.replace("\r\n", "\n"))
