"""Reads the fenced blocks of code in an answer, and finds where the answer is over: behind the first that is a program.

Fences are read as CommonMark reads them: three or more backticks or tildes after at most three blanks, closed by a line
of at least as many of the same and nothing else. Two exceptions are made, since a fence may stand in a docstring, and
models forget to close a block: a block that does not compile goes on behind its closing fence, and a fence with
`python` behind it may begin a block inside another, unless it stands in a string.

In doubt an answer is not over. Whoever cuts it there would lose what was to come; whoever goes on loses some tokens.
What an answer's blocks are worth, and which of them is judged, says extraction.py.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import os
import re
import symtable
import textwrap
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from leafe_verl.core.thoughts import end_of_thoughts

PYTHON = ("python", "py", "ipython")
"""Languages of a block that is code; a version behind them, as in `python3`, is left out. A block without a language
may be code too."""
MARKDOWN = ("markdown", "md")
PAUSES = ("\n```", "\n ```", "\n  ```", "\n   ```")
"""Every closing fence of backticks ends with one of these texts or with more backticks."""
MAX_FENCES = 64
"""Number of fences that are looked at. Without it, an answer of nothing but fences takes quadratic time."""
MAX_CUTS = 8
"""Number of last empty lines at which an unclosed block may end."""
MAX_OPENINGS = 8
"""Number of latest fences with `python` behind them that a block may begin at."""

_FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`\n]*$)|~{3,})([^\n]*)$", re.MULTILINE)
_INDENTED_FENCE = re.compile(r"^[ \t]*(`{3,}(?=[^`\n]*$)|~{3,})([^\n]*)$", re.MULTILINE)
_GLUED_FENCE = re.compile(r"(?<=[^\s`])[ \t]*+(`{3,}+(?:py\w*+)?[ \t]*+)$", re.MULTILINE | re.IGNORECASE)
_EMPTY_LINE = re.compile(r"\n(?=[ \t\r]*\n\S)")
_LANGUAGE = re.compile(r"[{.]*([a-z+#-]+)[0-9.]*(?![a-z])")


@dataclass(frozen=True)
class Block:
    """A block of code in an answer. Places are counted in characters of the answer."""

    code: str
    tagged: bool
    """Whether `python` stands behind its opening fence."""
    complete: bool
    """Whether the code compiles and does more than to import."""
    begin: int
    """Where its opening fence begins."""
    end: int
    """Where the marks of its closing fence end; the answer's length if the block is not closed."""


def find_code_end(answer: str, in_thought: bool = False) -> int | None:
    """Return the number of characters up to the end of the fence that ends the answer; None if it is not over.

    `in_thought` says whether the prompt has opened a thought, so that the answer begins inside one.
    """
    begin = end_of_thoughts(answer, opened=in_thought)
    if begin is None:
        return None
    return next((block.end for block in _read_programs(answer, begin)), None)


def read_blocks(answer: str) -> list[Block]:
    """Return the blocks of code in an answer without thoughts, in their order: the complete ones and the others.

    If none is complete, fences are read more widely: they may be indented as far as one likes, stand in a string that
    is never closed, or in a block of Markdown.
    """
    blocks = _read_all(answer, widely=False)
    return blocks if any(block.complete for block in blocks) else _read_all(answer, widely=True) or blocks


def read_outside(answer: str) -> tuple[list[Block], str]:
    """Return the blocks of an answer whose fences may also end a line of words, and the text outside of these blocks.

    The text has no lines of fences, so that it holds what stands between fences that were not read.
    """
    answer = _GLUED_FENCE.sub(r"\n\1", answer)
    blocks = _read_all(answer, widely=True)
    ends = [0, *(block.end for block in blocks)]
    begins = [*(block.begin for block in blocks), len(answer)]
    outside = "\n".join(answer[end:begin] for end, begin in zip(ends, begins, strict=True))
    return blocks, _INDENTED_FENCE.sub("", outside)


def _read_all(answer: str, widely: bool) -> list[Block]:
    blocks, begin = list[Block](), 0
    for program in _read_programs(answer, 0, widely):
        blocks += [*_read_others(answer, begin, program.begin, widely), program]
        begin = program.end
    return blocks + list(_read_others(answer, begin, len(answer), widely))


def _read_programs(answer: str, begin: int, widely: bool = False) -> Iterator[Block]:
    """Yield each closed block that is complete, as soon as the fence is read that closes it."""
    opened: _Fence | None = None
    openings: list[_Fence] = []
    for fence in itertools.islice(_read_fences(answer, begin, widely), MAX_FENCES):
        if opened is not None and not opened.opens_code:
            opened = None if fence.closes(opened) else opened
            continue
        begun = [*openings[-MAX_OPENINGS:], *([opened] if opened and opened not in openings else [])]
        program, in_string = _close(answer, fence, begun, widely)
        if program is not None:
            yield program
            opened, openings = None, []
            continue
        if fence.language in PYTHON:
            openings.append(fence)
        if opened is None:
            opened = fence
        elif fence.closes(opened) and not in_string:
            opened = None


def _close(answer: str, fence: _Fence, begun: list[_Fence], widely: bool) -> tuple[Block | None, bool]:
    """Return the longest program that a fence closes, and whether the fence stands in a string of a block."""
    for opening in begun:
        if not fence.closes(opening):
            continue
        code = opening.code_until(answer, fence.begin)
        if is_program(code):
            tagged = opening.language in PYTHON
            return Block(code, tagged, True, opening.begin, fence.end_of_marks), False
        if not widely and _ends_in_string(code):
            return None, True
    return None, False


def _read_others(answer: str, begin: int, end: int, widely: bool) -> Iterator[Block]:
    """Yield the blocks in a part of an answer where no complete block is closed: broken ones, and an unclosed one."""
    opened: _Fence | None = None
    for fence in itertools.islice(_read_fences(answer[:end], begin, widely), MAX_FENCES):
        if opened is None:
            if fence.opens_code and is_program(fence.code_until(answer, end)):  # fences in it stand in strings
                yield from _broken(answer, fence, end, end)
                return
            opened = fence
        elif fence.closes(opened) or (opened.opens_code and fence.language in PYTHON):
            yield from _broken(answer, opened, fence.begin, fence.end_of_marks)
            opened = fence if not fence.closes(opened) else None
    if opened is not None:
        yield from _broken(answer, opened, end, end)


def _broken(answer: str, opening: _Fence, code_end: int, end: int) -> Iterator[Block]:
    """Yield the block that an opening fence begins, if it is one of code and holds any.

    Its closing fence may stand at the end of the last line of code.
    """
    code = opening.code_until(answer, code_end)
    if not (opening.opens_code or opening.language in PYTHON) or not code.strip():
        return
    cut = code.partition(opening.marks)[0]
    if cut != code and is_program(cut):
        code = cut
    elif code_end == end:
        code = _without_prose(code)
    yield Block(code, opening.language in PYTHON, is_program(code), opening.begin, end)


def _without_prose(code: str) -> str:
    """Return an unclosed block up to the last empty line before which it is a program; all of it if there is none."""
    ends = [match.end() for match in _EMPTY_LINE.finditer(code)][-MAX_CUTS:]
    whole = is_program(code)
    return next((code[:end] for end in reversed(ends) if not whole and is_program(code[:end])), code)


@dataclass(frozen=True)
class _Fence:
    """One line with a fence. Places are counted in characters of the answer."""

    marks: str
    """The backticks or tildes."""
    info: str
    """What follows them on the line."""
    begin: int
    end_of_marks: int
    end: int

    @property
    def language(self) -> str:
        """The first word behind the marks without a version: `python` of `Python3`; empty without one."""
        found = _LANGUAGE.match(self.info.lower())
        return found[1].rstrip("-") if found else self.info.lower()

    @property
    def opens_code(self) -> bool:
        """Whether a block that begins here may be the answer. Blocks between tildes are not read as code."""
        return self.marks[0] == "`" and self.language in (*PYTHON, "")

    def closes(self, opening: _Fence) -> bool:
        return not self.info and self.marks.startswith(opening.marks)

    def code_until(self, answer: str, end: int) -> str:
        """Return the code from here to `end`, without the indentation of this fence or of all the code."""
        indent = self.end_of_marks - len(self.marks) - self.begin
        code = answer[self.end + 1 : end]
        if indent:
            code = re.sub(rf"^[ \t]{{1,{indent}}}", "", code, flags=re.MULTILINE)
        return textwrap.dedent(code) if code[:1] in " \t" else code


def _read_fences(answer: str, begin: int, widely: bool) -> Iterator[_Fence]:
    for match in (_INDENTED_FENCE if widely else _FENCE).finditer(answer, begin):
        fence = _Fence(match[1], match[2].strip(), match.start(), match.end(1), match.end())
        if not (widely and fence.language in MARKDOWN):
            yield fence


def _ends_in_string(code: str) -> bool:
    """Return whether code ends within a text between triple quotes, as a docstring, and is right up to there."""
    return any(parse(code + quotes) is not None for quotes in ('"""', "'''"))


def is_program(code: str) -> bool:
    """Return whether a block compiles and does more than to import: defines, assigns, calls, loops, ..."""
    tree = parse(code)
    return tree is not None and any(map(does_something, tree.body))


def parse(code: str) -> ast.Module | None:
    """Return the syntax tree of a module; None if it does not compile, as the inner lines of a function do not.

    Nothing is compiled: each way out of nested `finally` clauses is compiled anew, which takes exponential time.
    """
    try:
        with without_warnings():
            tree = ast.parse(code)
        read_symbols(code)  # finds what the parser lets pass, such as a parameter that is there twice
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return None if _leaves_what_is_not_there(tree) else tree


def read_symbols(code: str) -> symtable.SymbolTable:
    """Return the names of a module. Raises what `parse` returns None for."""
    with without_warnings():
        return symtable.symtable(code, "<answer>", "exec")


_quiet = threading.Lock()
"""Environments are played in threads, and what warnings.catch_warnings restores belongs to all of them."""


def _renew_lock() -> None:
    """Replace the lock in a forked copy of this process: a thread that only the original has may have held it."""
    global _quiet
    _quiet = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keep Python's warnings about what a model wrote from the log."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _leaves_what_is_not_there(tree: ast.Module) -> bool:
    """Return whether a statement leaves a function or a loop that it is not in, which the parser lets pass."""
    waiting: list[tuple[ast.AST, bool, bool]] = [(tree, False, False)]
    while waiting:
        node, in_function, in_loop = waiting.pop()
        if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom | ast.Await) and not in_function:
            return True
        if isinstance(node, ast.Break | ast.Continue) and not in_loop:
            return True
        repeated = {id(each) for each in node.body} if isinstance(node, ast.For | ast.AsyncFor | ast.While) else set()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            in_function, in_loop = not isinstance(node, ast.ClassDef), False
        waiting += [(each, in_function, in_loop or id(each) in repeated) for each in ast.iter_child_nodes(node)]
    return False


def does_something(statement: ast.stmt) -> bool:
    """Return whether a statement defines, assigns, calls, loops, ..."""
    if isinstance(statement, ast.Expr):  # a docstring, or a word of prose, unless it calls something
        return any(isinstance(each, ast.Call) for each in ast.walk(statement))
    return not isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)
