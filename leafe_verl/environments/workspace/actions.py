"""The actions: how an answer is read as one, and what reading, searching and editing do to the files.

Each action is a value with a method that plays it on a folder. What makes no sense raises `Refused`, whose message the
agent reads, and changes nothing.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

from leafe_verl.core.text import without_surrogates
from leafe_verl.core.thoughts import without_thoughts
from leafe_verl.environments.fences import without_warnings
from leafe_verl.environments.react import clean, extract_action
from leafe_verl.environments.workspace.snapshots import MAX_FILE_BYTES, MAX_FILES, Folder, is_plain
from leafe_verl.sandbox import File, Link, cut_middle

SHOWN_LINES = 50
"""Number of lines that one reading shows."""
AROUND = 3
"""Number of lines that are shown before and after an edit."""
SHOWN_FOUND = 20
"""Number of lines that a search shows."""
LINE_CHARACTERS = 160
USAGE = """\
read PATH, or read PATH FIRST-LAST for some of its lines
search TEXT
edit PATH FIRST-LAST, and below it a ``` block that replaces these lines (an empty block deletes them; without line \
numbers the block is the whole file)
test runs the tests"""
NO_ACTION = f"No action found, and nothing happened. End your answer with `Action:` and one of:\n{USAGE}"


class Refused(Exception):
    """An action makes no sense here. The message says why, for the agent."""


@dataclass(frozen=True)
class Read:
    path: str
    first: int | None = None
    last: int | None = None

    def play(self, files: Folder) -> str:
        path, lines = _lines(files, self.path)
        first = self.first or 1
        last = min(self.last or first + SHOWN_LINES - 1, first + SHOWN_LINES - 1, len(lines))
        if lines and not 1 <= first <= len(lines):
            raise Refused(f"{path} has lines 1 to {len(lines)}; {first} is none of them.")
        return _show(path, lines, first, last)


@dataclass(frozen=True)
class Search:
    text: str

    def play(self, files: Folder) -> str:
        found = list(self._found(files))
        if not found:
            raise Refused(f"No line holds {self.text!r}.")
        more = len(found) - SHOWN_FOUND
        return "\n".join([*found[:SHOWN_FOUND], *([f"and {more} more"] if more > 0 else [])])

    def _found(self, files: Folder) -> Iterator[str]:
        for path, node in files.files().items():
            if isinstance(node, Link):
                continue
            for number, line in enumerate(_split(node), start=1):
                if self.text.lower() in line.lower():
                    yield f"{path}:{number}: {cut_middle(line.strip(), LINE_CHARACTERS)}"


@dataclass(frozen=True)
class Edit:
    path: str
    first: int | None
    last: int | None
    text: str
    """The new lines."""

    def play(self, files: Folder) -> tuple[Folder, str]:
        """Return the files with the edit, and the lines around it."""
        path = _resolve(files, self.path)
        file = self._file(files, path)
        before = [] if file is None else _split(file)
        first, last = self._range(path, len(before))
        new = _split_text(without_surrogates(self.text).replace("\r\n", "\n"))
        lines = [*before[: first - 1], *new, *before[last:]]
        if file is not None and lines == before:
            raise Refused(f"Nothing happened: these lines of {path} are like that already.")
        content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        if len(content) > MAX_FILE_BYTES:
            raise Refused(f"{path} would have {len(content)} bytes; {MAX_FILE_BYTES} are allowed.")
        if path.endswith(".py"):
            _require_python(path, content, lines)
        try:
            changed = files.with_node(path, File(content) if file is None else replace(file, content=content))
        except ValueError as problem:
            raise Refused(f"Nothing happened: {problem}.") from None
        last_shown = min(first + len(new) - 1 + AROUND, len(lines))
        return changed, f"Edited.\n{_show(path, lines, max(first - AROUND, 1), last_shown)}"

    def _file(self, files: Folder, path: str) -> File | None:
        """Return the file that is edited; None if the edit makes it."""
        node = files.find(path)
        if isinstance(node, File):
            return node
        if node is not None or not _has_room(files, path):
            raise Refused(f"{path} cannot be a file: it is a folder, or lies below a file.")
        if self.first is not None:
            _refuse_missing(files, path)
        if len(files.files()) >= MAX_FILES:
            raise Refused(f"The repository has {MAX_FILES} files, and no more are allowed.")
        return None

    def _range(self, path: str, length: int) -> tuple[int, int]:
        """Return the numbers of the first and last line that are replaced."""
        if self.first is None:
            return 1, length
        last = self.last or self.first
        if not (1 <= self.first <= length + 1 and self.first <= last):
            raise Refused(f"{path} has lines 1 to {length}; {self.first}-{last} are not lines of it.")
        return self.first, last


@dataclass(frozen=True)
class RunTests:
    """Run the tests. Only the environment can."""


Action = Read | Search | Edit | RunTests

_VERBS = {
    **dict.fromkeys(("read", "open", "view", "cat", "show"), "read"),
    **dict.fromkeys(("search", "grep", "find"), "search"),
    **dict.fromkeys(("edit", "replace", "write", "create"), "edit"),
    **dict.fromkeys(("test", "tests", "run_tests", "run", "pytest", "submit"), "test"),
}
"""Words that models use -> the actions that they mean."""
_COMMAND = re.compile(rf"[\s*_`#>-]*\b({'|'.join(_VERBS)})\b[\s:(\[]*(.*)", re.IGNORECASE | re.DOTALL)
_BARE = re.compile(r"^[ \t*_`#>-]*(?:(?:read|search|edit)\b.+|test\W*)$", re.IGNORECASE | re.MULTILINE)
"""A line that begins with an action, in an answer without `Action:`."""
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\n`]*)(?:\n|\Z)", re.MULTILINE)
_GUTTER = re.compile(r"^ *\d+\| ?", re.MULTILINE)
_AROUND = " \t*_`\"'()[]"


def parse_action(answer: str) -> Action:
    """Return the action in an answer. Raises Refused if there is none.

    It stands behind `Action:`; in an answer without that, in the first line that begins with an action's word. Marks
    around words, other words for the same action, and the form of a call, as in `read("a.py", 3)`, are understood.
    """
    answer = without_thoughts(answer)
    words = extract_action(answer)
    if not words:
        bare = _BARE.search(answer)
        words = clean(bare[0]) if bare else ""
    command = _COMMAND.match(words)
    if command is None:
        raise Refused(NO_ACTION)
    verb, rest = _VERBS[command[1].lower()], command[2]
    if verb == "test":
        return RunTests()
    if verb == "search":
        if not (text := rest.strip(_AROUND)):
            raise Refused("search needs a text, as in: search TEXT")
        return Search(text)
    path, numbers = _arguments(rest)
    if verb == "read":
        return Read(path, *numbers)
    return Edit(path, *numbers, _block_below(answer, command[1], path))


def describe(action: Action) -> str:
    """Return an action in the words that it is called by, for a summary of past steps."""
    if isinstance(action, RunTests):
        return "test"
    if isinstance(action, Search):
        return f"search {action.text}"
    lines = "" if action.first is None else f" {action.first}-{action.last or action.first}"
    if isinstance(action, Read):
        return f"read {action.path}{lines}"
    return f"edit {action.path}{lines}\n```\n{action.text}```"


def _arguments(rest: str) -> tuple[str, tuple[int | None, int | None]]:
    """Return the path, and the numbers of the first and last line, of the words behind an action's."""
    words = re.findall(r"[^\s,()\[\]\"'`*]+", rest)
    if not words:
        raise Refused("The action needs a path, as in: read PATH")
    path = re.sub(r"^(?:\./|/)+", "", re.sub(r"^(?:path|file)=", "", words[0]).replace("\\", "/"))
    path, _, behind = path.partition(":")
    numbers = [int(each) for each in re.findall(r"\d{1,6}", " ".join([behind, *words[1:]]))]
    return path, (*numbers[:2], *[None] * (2 - len(numbers)))  # type: ignore[return-value]


def _block_below(answer: str, verb: str, path: str) -> str:
    """Return the first block below an edit, without line numbers that it may have been copied with.

    The edit is the one with the label `Action:` before it, if there is one: a thought may speak of it as well.
    """
    places = list(re.finditer(rf"\b{verb}\b[^\n]*{re.escape(path)}", answer))
    labelled = [each for each in places if re.search(r"action[\W\d]*$", answer[: each.start()], re.IGNORECASE)]
    line = next(iter(labelled or places), None)
    opening = _FENCE.search(answer, line.end() if line else 0)
    if opening is None:
        raise Refused("edit needs the new lines in a ``` block below the action.")
    text = _read_block(answer, opening, is_python=path.endswith(".py"))
    filled = [line for line in _split_text(text) if line.strip()]
    if not filled:
        return ""
    return _GUTTER.sub("", text) if all(map(_GUTTER.match, filled)) else text


def _read_block(answer: str, opening: re.Match[str], is_python: bool) -> str:
    """Return the text of the block that a fence opens, to the end of the answer if nothing closes it.

    A line of at least as many of the same marks closes it. Python goes on behind one as long as it is none, since a
    docstring may hold fences. Raises Refused where another text holds a fence that opens a block of its own.
    """
    ends = list[int]()
    for fence in _FENCE.finditer(answer, opening.end()):
        if not fence[1].startswith(opening[1]):
            continue
        if fence[2].strip():
            if not is_python:
                line, marks = fence[0].strip(), opening[1][0] * (len(opening[1]) + 1)
                raise Refused(f"The text holds a line {line!r:.40}. Put it between lines of {marks} instead.")
            continue
        ends.append(fence.start())
        if not is_python or _is_python(answer[opening.end() : ends[-1]]):
            return answer[opening.end() : ends[-1]]
    return answer[opening.end() : ends[0] if ends else len(answer)]


def _is_python(text: str) -> bool:
    try:
        with without_warnings():
            ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _resolve(files: Folder, path: str) -> str:
    found = files.resolve(path) if is_plain(path) else None
    if found is None:
        raise Refused(f"{path!r:.80} leads out of the repository.")
    return found


def _lines(files: Folder, path: str) -> tuple[str, list[str]]:
    path = _resolve(files, path)
    node = files.find(path)
    if not isinstance(node, File):
        _refuse_missing(files, path)
    return path, _split(node)


def _refuse_missing(files: Folder, path: str) -> NoReturn:
    raise Refused(f"There is no file {path!r:.80}. The files are:\n{list_files(files)}")


def list_files(files: Folder) -> str:
    """Return the paths, one a line, with the number of lines or what a link points to."""
    lines = []
    for path, node in files.files().items():
        told = f"-> {node.target}" if isinstance(node, Link) else f"({len(_split(node))} lines)"
        lines.append(f"{path} {told}")
    return "\n".join(lines)


def _has_room(files: Folder, path: str) -> bool:
    """Return whether all that is above a path is a folder, or nothing yet."""
    names = path.split("/")
    return all(isinstance(files.find("/".join(names[:end])), Folder | None) for end in range(1, len(names)))


def _show(path: str, lines: list[str], first: int, last: int) -> str:
    shown = [f"{number}| {lines[number - 1]}" for number in range(first, last + 1)]
    return "\n".join([f"{path}, lines {first} to {last} of {len(lines)}:", *shown])


def _split(file: File) -> list[str]:
    """Return the lines. Bytes that are no text become half a surrogate pair each, and are written as they were."""
    return _split_text(file.content.decode("utf-8", "surrogateescape"))


def _split_text(text: str) -> list[str]:
    """Return the lines. `str.splitlines` would also split at what may stand in a string of Python, such as U+2028."""
    return text.removesuffix("\n").split("\n") if text else []


def _require_python(path: str, content: bytes, lines: list[str]) -> None:
    try:
        with without_warnings():
            ast.parse(content)
    except SyntaxError as error:
        number = error.lineno or 1
        line = lines[number - 1] if number <= len(lines) else ""
        raise Refused(
            f"Nothing happened: {path} would not be Python any more ({error.msg}). Its line {number} would be:\n"
            f"{cut_middle(line, LINE_CHARACTERS)}"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"Nothing happened: {path} would not be Python any more ({type(error).__name__}).") from None
