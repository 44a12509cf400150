"""Chooses the block of an answer that is judged, and says why.

There is one order of reasons for functions that tests call, and one for programs. The best reason wins, and of blocks
with the same reason the last one is judged, since a model corrects itself by writing again. Nothing else counts: not
what a block says about itself, and nothing of the hidden tests. What the block uses and does not define is taken from
earlier blocks, since models put imports and helpers into blocks of their own.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from leafe_verl.core.thoughts import without_thoughts
from leafe_verl.environments.blocks import find_stubs, join_blocks
from leafe_verl.environments.fences import (
    Block,
    does_something,
    is_program,
    parse,
    read_blocks,
    read_outside,
    read_symbols,
)

READS = frozenset({"input", "stdin", "open", "fileinput", "read"})
WRITES = frozenset({"print", "stdout", "write", "writelines"})
"""Names of which a program that reads its input, or writes, uses at least one."""
GIVEN = frozenset((*dir(builtins), "__file__", "exit", "quit"))
"""Names that every module has."""


_CODE_BEGINS = re.compile(
    r"(?:def|class|async def|import|from|if|for|while|try|with|print)\b|@|[^\W\d]\w*(?:, *\w+)* *=[^=]"
)
"""The beginning of a line in which code may begin."""
_MARK = re.compile(r"\s*(?:\[/?[A-Z]+\]|</?\w+>)?\s*")
"""A line of nothing but a mark around code, some of which compile, such as `[BEGIN]`; or a blank one."""
MOST_BEGINS, MOST_CUTS = 8, 16
"""Number of places at which code is looked for in an answer without fences, and of places at which it may end."""


class Choice(IntEnum):
    """Why a block is judged, from the least to the most that can be said for one."""

    NOTHING = 0
    """There is no code."""
    WHOLE_ANSWER = 1
    """There is no block, so the whole answer is taken for the code, but for words or tags before and behind it."""
    BROKEN = 2
    """The block does not compile, or does nothing."""
    OTHER = 3
    """The block compiles, but nothing of what follows is true of it."""
    DEFINES_OTHERS = 4
    """It defines a function or class, but none that the tests call."""
    STUB = 5
    """It defines what the tests call by nothing: a body of `pass`, `...` or a docstring, or `f = f`. Models show such
    signatures and usages behind their solution."""
    BROKEN_DEFINITION = 6
    """It does not compile, and begins the definition of what the tests call."""
    DEFINES_SOME = 7
    """It defines a part of what the tests call."""
    DEFINES_ALL = 8
    """It defines all that the tests call."""
    RUNS = 9
    """It is a program that runs something, but uses names that it does not define."""
    COMPLETE = 10
    """It is a program that defines every name that it uses."""
    WRITES = 11
    """The same, and it writes."""
    READS_AND_WRITES = 12
    """The same, and it reads its input and writes."""


@dataclass(frozen=True)
class Extraction:
    """The code in an answer."""

    code: str
    """Empty if the answer holds none."""
    choice: Choice
    """Why this code was chosen."""


def extract_function(answer: str, names: frozenset[str]) -> Extraction:
    """Return the code in an answer that is to define `names`, which the tests call: a function, or a class."""
    return _choose(answer, lambda block: _value_of_definitions(block, names), Choice.DEFINES_SOME)


def extract_program(answer: str) -> Extraction:
    """Return the code in an answer that is to be a whole program."""
    return _choose(answer, _value_of_program, Choice.RUNS)


def _choose(answer: str, value: Callable[[Block], Choice], enough: Choice) -> Extraction:
    """Return the best code; what is not `enough` gives way to code between fences that are no right ones."""
    answer = without_thoughts(answer)
    found = _choose_block(answer, value)
    whole = found.choice is Choice.WHOLE_ANSWER and is_program(found.code)
    if whole or found.choice >= enough or not ("`" in answer or "~" in answer):
        return found
    blocks, outside = read_outside(answer)
    bare = _without_prose(outside)
    again = _best([Block(bare, False, is_program(bare), 0, 0), *blocks], value)
    return again if again.choice >= enough else found


def _choose_block(answer: str, value: Callable[[Block], Choice]) -> Extraction:
    # Fences around code do not compile, and those within a text of the code belong to it.
    blocks = [] if is_program(answer) else read_blocks(answer)
    if not blocks:
        none = not answer.strip() or (not is_program(answer) and "```" in answer)
        return Extraction("", Choice.NOTHING) if none else Extraction(_without_prose(answer), Choice.WHOLE_ANSWER)
    return _best(blocks, value)


def _best(blocks: Sequence[Block], value: Callable[[Block], Choice]) -> Extraction:
    values = [(value(block), block.tagged, place) for place, block in enumerate(blocks)]
    choice, _, place = max(values)
    return Extraction(_with_its_names(blocks[place], blocks[:place]), choice)


def _without_prose(answer: str) -> str:
    """Return the longest run of lines of an answer without fences that compiles and does something.

    It is the whole answer if there is none, or if that compiles. Models put code between words, or between tags of
    their own such as `[PYTHON]` and `[BEGIN]`.
    """
    lines = answer.splitlines(keepends=True)
    while lines and (marks := [place for place in (0, -1) if _MARK.fullmatch(lines[place])]):
        del lines[marks[0]]
    if is_program(bare := "".join(lines)):
        return bare
    begins = [number for number, line in enumerate(lines) if _CODE_BEGINS.match(line)][:MOST_BEGINS]
    runs = ["".join(lines[begin:end]) for begin in begins if (end := _end_of_code(lines, begin)) > begin]
    return max((run for run in runs if is_program(run)), key=len, default=answer)


def _end_of_code(lines: Sequence[str], begin: int) -> int:
    """Return the index behind the last line with which the code that begins in a line compiles."""
    end = len(lines)
    for _ in range(MOST_CUTS):
        try:
            ast.parse("".join(lines[begin:end]))
        except SyntaxError as error:
            end = begin + min(max((error.lineno or 1) - 1, 0), end - begin - 1)
        except (ValueError, RecursionError, MemoryError):
            return begin
        else:
            return end
    return begin


def _with_its_names(chosen: Block, earlier: Sequence[Block]) -> str:
    """Return a block's code behind that of earlier blocks which define or import what it uses and does not define.

    A block that writes something by itself is a demonstration, and left out.
    """
    scope, parts = _read_scope(chosen.code), [chosen.code]
    missing = scope.missing if scope else frozenset()
    for block in reversed(earlier):
        found = _read_scope(block.code) if missing else None
        if found and found.defined & missing and not (found.runs and found.used & WRITES):
            missing = (missing - found.defined) | found.missing
            parts.insert(0, block.code)
    return join_blocks(parts)


def _value_of_definitions(block: Block, names: frozenset[str]) -> Choice:
    scope = _read_scope(block.code)
    if scope is None:
        return Choice.BROKEN_DEFINITION if names and _begins_one_of(names, block.code) else Choice.BROKEN
    defined = names & scope.defined
    if done := defined - scope.stubs:
        return Choice.DEFINES_ALL if done == names else Choice.DEFINES_SOME
    if defined:
        return Choice.STUB
    if scope.defines_callables:
        return Choice.DEFINES_OTHERS
    return Choice.OTHER if block.complete else Choice.BROKEN


def _value_of_program(block: Block) -> Choice:
    scope = _read_scope(block.code)
    if scope is None or not block.complete:
        return Choice.BROKEN
    if not scope.runs:
        return Choice.OTHER
    if scope.missing:
        return Choice.RUNS
    if not scope.used & WRITES:
        return Choice.COMPLETE
    return Choice.READS_AND_WRITES if scope.used & READS else Choice.WRITES


def _begins_one_of(names: frozenset[str], code: str) -> bool:
    named = "|".join(map(re.escape, sorted(names)))
    return re.search(rf"^(?:async +)?(?:(?:def|class) +(?:{named})\b|(?:{named}) *=)", code, re.MULTILINE) is not None


@dataclass(frozen=True)
class _Scope:
    """What the names in a block of code are."""

    defined: frozenset[str]
    """Names that the module binds. An import counts only from the standard library: a test that imports the solution
    does not define it."""
    stubs: frozenset[str]
    """Those that the module binds to nothing but a stub."""
    missing: frozenset[str]
    """Names that are used somewhere, and that neither the module nor Python defines."""
    used: frozenset[str]
    """Every name and attribute that is used."""
    defines_callables: bool
    """Whether the module defines a function or a class."""
    runs: bool
    """Whether the module does more than to define and to import."""


def _read_scope(code: str) -> _Scope | None:
    """Return what the names in code are; None if it does not compile."""
    tree = parse(code)
    if tree is None:
        return None
    table = read_symbols(code)
    imported, takes_all = _read_imports(tree)
    top = {symbol.get_name(): symbol for symbol in table.get_symbols()}
    defined = {name for name, symbol in top.items() if symbol.is_assigned()} | {*_bound_by_global(table)}
    defined |= {name for name in imported if name in top and top[name].is_imported()}
    missing = frozenset() if takes_all else frozenset(_global_names(table)) - defined - GIVEN
    stubs = find_stubs(tree) - imported
    return _Scope(frozenset(defined), stubs, missing, frozenset(_used_names(tree)), *_read_statements(tree))


def _read_imports(tree: ast.Module) -> tuple[frozenset[str], bool]:
    """Return the names that are imported from the standard library, and whether some module's every name is."""
    imported, takes_all = set(), False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {each.asname or each.name.split(".")[0] for each in node.names if _is_library(each.name)}
        elif isinstance(node, ast.ImportFrom) and not node.level and _is_library(node.module or ""):
            imported |= {each.asname or each.name for each in node.names}
            takes_all = takes_all or node.names[0].name == "*"
    return frozenset(imported), takes_all


def _is_library(module: str) -> bool:
    return module.split(".")[0] in sys.stdlib_module_names


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """Yield the names that a scope or one within it takes from the module. Scopes may be nested deeper than calls."""
    waiting = [table]
    while waiting:
        scope = waiting.pop()
        top = scope.get_type() == "module"
        for symbol in scope.get_symbols():
            if symbol.is_referenced() and (top or symbol.is_global()):
                yield symbol.get_name()
        waiting += scope.get_children()


def _bound_by_global(table: symtable.SymbolTable) -> Iterator[str]:
    """Yield the names that a function binds in the module, as `global n; n = 1` does."""
    waiting = table.get_children()
    while waiting:
        scope = waiting.pop()
        for symbol in scope.get_symbols():
            if symbol.is_declared_global() and symbol.is_assigned():
                yield symbol.get_name()
        waiting += scope.get_children()


def _used_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name


def _read_statements(tree: ast.Module) -> tuple[bool, bool]:
    """Return whether a module defines a function or class, and whether it does something else that counts."""
    definitions = [isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for each in tree.body]
    others = [each for each, defines in zip(tree.body, definitions, strict=True) if not defines]
    return any(definitions), any(map(does_something, others))
