"""Finds where an answer with code is over: behind the closing fence of the first block that is a program.

Fences are read as CommonMark reads them: three or more backticks or tildes after at most three blanks, closed by a line
of at least as many of the same and nothing else. Two exceptions are made, since a fence may stand in a docstring, and
models forget to close a block: a block that does not compile goes on behind its closing fence, and a fence with
`python` behind it may begin a block inside another.

In doubt an answer is not over. Whoever cuts it there would lose what was to come; whoever goes on loses some tokens.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON = ("python", "py", "python3")
"""Languages of a block that is code. A block without a language may be code too."""
PAUSES = ("\n```", "\n ```", "\n  ```", "\n   ```")
"""Every closing fence of backticks ends with one of these texts or with more backticks."""
MAX_FENCES = 64
"""Number of fences that are looked at. Without it, an answer of nothing but fences takes quadratic time."""
MAX_OPENINGS = 8
"""Number of latest fences with `python` behind them that a block may begin at."""

_FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`\n]*$)|~{3,})([^\n]*)$", re.MULTILINE)


def find_code_end(answer: str, in_thought: bool = False) -> int | None:
    """Return the number of characters up to the end of the fence that ends the answer; None if it is not over.

    `in_thought` says whether the prompt ends with `<think>`, so that the answer begins inside a thought.
    """
    begin = _end_of_thoughts(answer, in_thought)
    if begin is None:
        return None
    opened: _Fence | None = None
    openings: list[_Fence] = []
    for fence in itertools.islice(_read_fences(answer, begin), MAX_FENCES):
        if opened is not None and not opened.opens_code:
            opened = None if fence.closes(opened) else opened
            continue
        begun = [*openings[-MAX_OPENINGS:], *([opened] if opened else [])]
        if any(fence.closes(each) and _is_program(answer[each.end : fence.begin]) for each in begun):
            return fence.end_of_marks
        if fence.language in PYTHON:
            openings.append(fence)
        if opened is None:
            opened = fence
        elif fence.closes(opened):
            opened = None
    return None


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
        return self.info.split(maxsplit=1)[0].lower() if self.info else ""

    @property
    def opens_code(self) -> bool:
        """Whether a block that begins here may be the answer. Blocks between tildes are not read as code."""
        return self.marks[0] == "`" and self.language in (*PYTHON, "")

    def closes(self, opening: _Fence) -> bool:
        return not self.info and self.marks.startswith(opening.marks)


def _read_fences(answer: str, begin: int) -> Iterator[_Fence]:
    for match in _FENCE.finditer(answer, begin):
        yield _Fence(match[1], match[2].strip(), match.start(), match.end(1), match.end())


def _end_of_thoughts(answer: str, in_thought: bool) -> int | None:
    """Return where the last thought ends, 0 if there is none; None if it has not ended."""
    begin, end = answer.rfind("<think>"), answer.rfind("</think>")
    if begin > end or (in_thought and end < 0):
        return None
    return max(end, 0)


def _is_program(code: str) -> bool:
    """Return whether a block compiles and does more than to import: defines, assigns, calls, loops, ..."""
    try:
        statements = ast.parse(textwrap.dedent(code)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(map(_does_something, statements))


def _does_something(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):  # a docstring, or a word of prose, unless it calls something
        return any(isinstance(each, ast.Call) for each in ast.walk(statement))
    return not isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)
