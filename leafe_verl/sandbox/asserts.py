"""Splits an assert into calls of the solution, which are evaluated together with it, and the check of their values."""

from __future__ import annotations

import ast
import builtins
import datetime
import functools
import io
import re
import tokenize
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KNOWN_MODULES = frozenset(
    ("bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools",
     "json", "math", "operator", "random", "re", "statistics", "string", "sys")
)  # fmt: skip
"""Modules that an assert may use without an import in the set-up. Data sets omit imports that the reference solution
has."""
KNOWN_NAMES = {
    **dict.fromkeys(("Counter", "OrderedDict", "defaultdict", "deque"), "collections"),
    **dict.fromkeys(("date", "timedelta", "timezone"), "datetime"),
    **dict.fromkeys(("inf", "isclose", "isinf", "isnan", "nan", "pi", "sqrt"), "math"),
    **{"Decimal": "decimal", "Fraction": "fractions"},
}
"""Names of the library that an assert may use without an import, and their modules. If they were the solution's, a
solution could define what it is compared with. Where an assert calls nothing else, they are the solution's."""
DECIMAL_DIGITS = 4000
"""Python reads and writes decimal integers up to a few more digits than these; see sys.get_int_max_str_digits()."""
DECIMAL_BITS = 13_000
_LONG_DECIMAL = re.compile(rf"[0-9](?:_?[0-9]){{{DECIMAL_DIGITS},}}")
BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True)
class SplitAssert:
    """`assert set(f(1)) == {1}` is the call `f(1)` and the check `set(returned_0) == {1}`."""

    source: str
    calls: tuple[str, ...]
    """Source of each outermost call of the solution, in the order of the text; at least one call. Items of a literal
    that the check needs, too, are written out."""
    names: frozenset[str]
    """What the calls begin with, and the solution therefore has to define: functions or classes."""
    check: str
    """Source of the condition, with `returned_<n>` in the place of call n."""
    expected: str | None
    """Source of the side of a single `==` that does not call the solution; None for any other condition."""
    identities: frozenset[int]
    """Indices of the calls of which the check asks only whether they returned None, True or False, by `is`."""
    literal: bool
    """Whether the check compares a returned value with a literal by `==`, which needs no evaluation."""
    prelude: str
    """Source that the check needs: imports, definitions and literals of the set-up, and imports of KNOWN_MODULES."""


def split_assert(text: str, setup: str = "") -> SplitAssert:
    """Split the source of one assert. Names that are not in Python, KNOWN_MODULES or `setup` belong to the solution.

    Raises ValueError, which shows the text, if it is not an assert or does not call the solution.
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r:.200} is a {type(text).__name__}; expected the source of an assert")
    try:
        return _split(text, setup)
    except (ValueError, RecursionError, MemoryError) as problem:  # the last two: nested too deeply for the parser
        raise ValueError(f"{text[:200]!r}: {problem or type(problem).__name__}") from None


@functools.lru_cache(maxsize=1024)  # a task's asserts are judged once for each of its attempts
def _split(text: str, setup: str) -> SplitAssert:
    known = _read_setup(setup)
    condition = _LongIntegers().visit(_condition(text))
    calls = _Calls(condition, known.names | KNOWN_MODULES | KNOWN_NAMES.keys() | BUILTINS)
    check = calls.visit(condition)
    if not calls.sources and (shadowed := _first_known_call(condition)):
        # The solution is named like something of Python's, as in `assert sum(10, 15) == 6`.
        calls = _Calls(condition, calls.known - {shadowed})
        check = calls.visit(condition)
    if not calls.sources:
        raise ValueError("calls nothing of the solution")
    if unknown := calls.unknown_names(check):
        raise ValueError(f"uses {', '.join(unknown)} outside a call of the solution; the set-up does not define it")
    if "datetime" not in known.names and _means_the_class(check):
        check = _DatetimeOfModule().visit(check)
    expected, literal = _expected(check)
    shared = {name: value for name, value in known.untouched.items() if name in loaded_names(check)}
    return SplitAssert(
        text.strip(),
        tuple(_with_items_written_out(source, shared) for source in calls.sources),
        frozenset(calls.names),
        ast.unparse(check),
        expected,
        _identities(check),
        literal,
        known.prelude_for(check),
    )


def _condition(text: str) -> ast.expr:
    try:
        body = ast.parse(_with_hexadecimals(text.strip())).body
    except SyntaxError as error:
        raise ValueError(f"does not parse: {error.msg}") from None
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise ValueError("expected one assert statement")
    return body[0].test


class _LongInteger(int):
    """An integer that is written out in hexadecimal digits, of which Python reads and writes any number."""

    def __repr__(self) -> str:
        return hex(self)


class _LongIntegers(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if type(node.value) is int and node.value.bit_length() > DECIMAL_BITS:
            return ast.Constant(_LongInteger(node.value))
        return node


def _with_hexadecimals(text: str) -> str:
    """Return a text with every decimal integer that Python refuses for its length in hexadecimal digits.

    What looks like one within a string is left alone.
    """
    if len(text) <= DECIMAL_DIGITS or not _LONG_DECIMAL.search(text):
        return text
    lines = text.splitlines(keepends=True)
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(text).readline))):
        if token.type == tokenize.NUMBER and _LONG_DECIMAL.fullmatch(token.string):
            (row, begin), (_, end) = token.start, token.end
            lines[row - 1] = f"{lines[row - 1][:begin]}{hex(_read_decimal(token.string))}{lines[row - 1][end:]}"
    return "".join(lines)


def _read_decimal(digits: str) -> int:
    value, digits = 0, digits.replace("_", "")
    for begin in range(0, len(digits), DECIMAL_DIGITS):
        piece = digits[begin : begin + DECIMAL_DIGITS]
        value = value * 10 ** len(piece) + int(piece)
    return value


class _Calls(ast.NodeTransformer):
    """Replaces the calls of the solution in a condition by placeholders, and collects their sources."""

    def __init__(self, condition: ast.expr, known: frozenset[str]) -> None:
        self.known = known
        self.bound = bound_names(condition)
        self.sources: list[str] = []
        self.names: list[str] = []

    def visit(self, node: ast.AST) -> ast.AST:
        root = chain_root(node)
        if root is None or root in self.known | self.bound:
            return self.generic_visit(node)
        if captured := sorted(loaded_names(node) & (self.bound - bound_names(node))):
            raise ValueError(
                f"calls {root} with the loop variable {', '.join(captured)}, so that the call cannot be told from "
                "what it is compared with; write the calls out"
            )
        self.names.append(root)
        self.sources.append(ast.unparse(node))
        return ast.Name(f"returned_{len(self.sources) - 1}", ast.Load())

    def unknown_names(self, check: ast.AST) -> list[str]:
        returned = {f"returned_{index}" for index in range(len(self.sources))}
        return sorted(loaded_names(check) - self.known - self.bound - returned)


def chain_root(node: ast.AST) -> str | None:
    """Return the name at the start of a chain of calls, attributes and subscripts; None if it has no call."""
    called = False
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        called = called or isinstance(node, ast.Call)
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if called and isinstance(node, ast.Name) else None


def bound_names(node: ast.AST) -> frozenset[str]:
    """Return the names that comprehensions, lambdas and := bind within the assert."""
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return frozenset(stored | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)})


def loaded_names(node: ast.AST) -> frozenset[str]:
    return frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))


def _with_items_written_out(call: str, literals: Mapping[str, Any]) -> str:
    """Return a call with items of literals, such as `cases["in"]`, in full, so that it needs nothing beside them."""
    return ast.unparse(_Items(literals).visit(ast.parse(call, mode="eval"))) if literals else call


class _Items(ast.NodeTransformer):
    def __init__(self, literals: Mapping[str, Any]) -> None:
        self.literals = literals

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        try:
            return ast.parse(repr(self._value(node)), mode="eval").body
        except (KeyError, IndexError, TypeError, ValueError, SyntaxError):  # no item of a literal
            return self.generic_visit(node)

    def _value(self, node: ast.expr) -> Any:
        """Return the value of a name, or of an item of one. Raises what a lookup raises, or ValueError."""
        if isinstance(node, ast.Name):
            return self.literals[node.id]
        if isinstance(node, ast.Subscript):
            return self._value(node.value)[ast.literal_eval(node.slice)]
        raise ValueError(node)


def _first_known_call(condition: ast.expr) -> str | None:
    for node in ast.walk(condition):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in BUILTINS | set(KNOWN_NAMES)
        ):
            return node.func.id
    return None


def _identities(check: ast.AST) -> frozenset[int]:
    found = set()
    for node in ast.walk(check):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Is | ast.IsNot):
            left, right = node.left, node.comparators[0]
            if isinstance(left, ast.Name) and isinstance(right, ast.Constant) and left.id.startswith("returned_"):
                found.add(int(left.id.removeprefix("returned_")))
    return frozenset(found)


def _expected(check: ast.AST) -> tuple[str | None, bool]:
    if not (isinstance(check, ast.Compare) and len(check.ops) == 1 and isinstance(check.ops[0], ast.Eq)):
        return None, False
    for returned, other in ((check.left, check.comparators[0]), (check.comparators[0], check.left)):
        if not any(name.startswith("returned_") for name in loaded_names(other)):
            source = ast.unparse(other)
            return source, isinstance(returned, ast.Name) and _is_literal(source)
    return None, False


def _is_literal(source: str) -> bool:
    try:
        ast.literal_eval(source)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


@dataclass(frozen=True)
class _Known:
    """The parts of a set-up that a check may use, because they do not need the solution."""

    names: frozenset[str]
    source: str
    untouched: Mapping[str, Any]
    """The values of literals that are named once, where they are bound, so that nothing in the set-up changes them."""

    def prelude_for(self, check: ast.AST) -> str:
        loaded = loaded_names(check) - self.names
        imports = [f"import {module}" for module in sorted(loaded & KNOWN_MODULES)]
        imports += [f"from {KNOWN_NAMES[name]} import {name}" for name in sorted(loaded & KNOWN_NAMES.keys())]
        return "\n".join([*imports, self.source]).strip()


class _DatetimeOfModule(ast.NodeTransformer):
    """Writes `datetime.datetime` for `datetime`, since the checks of a task share their imports."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Attribute(node, "datetime", ast.Load()) if node.id == "datetime" else node


def _means_the_class(check: ast.AST) -> bool:
    """Return whether `datetime` is the class and not the module: it is called, or has what the module has not."""
    for node in ast.walk(check):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "datetime":
            return True
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "datetime":
            return not hasattr(datetime, node.attr)
    return False


@functools.lru_cache(maxsize=64)
def _read_setup(setup: str) -> _Known:
    """Return a set-up's imports, definitions and literals. The rest may need the solution, as in `root = Node(1)`."""
    try:
        body = ast.parse(setup.replace("\r\n", "\n")).body
    except SyntaxError as error:
        raise ValueError(f"the set-up {setup[:200]!r} does not parse: {error.msg}") from None
    names: set[str] = set()
    kept = []
    for node in body:
        found = _defined_names(node)
        names |= found
        kept += [ast.unparse(node)] if found else []
    return _Known(frozenset(names), "\n".join(kept), _untouched_literals(body))


def _untouched_literals(body: Sequence[ast.stmt]) -> dict[str, Any]:
    named = Counter(node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {
        name: ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign)
        for name in _defined_names(node)
        if named[name] == 1
    }


def _defined_names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign) and _is_literal(ast.unparse(node.value)):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()
