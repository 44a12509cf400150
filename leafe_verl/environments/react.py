"""The answer form of ReAct (arXiv 2210.03629), a thought and then `Action: ...`, and how the action is extracted."""

from __future__ import annotations

import re
from collections.abc import Sequence

from leafe_verl.core.text import without_surrogates

FORM = """\
Each turn, write one thought, and then one action on a line of its own, as in:
Thought: {thought}
Action: {action}"""
NO_ACTION = "No action found, and nothing happened. End your answer with a line `Action: ...` that holds one action."
MAX_CHARACTERS = 300
"""Longest action in free words. No environment needs longer ones, and some parsers take minutes for them."""

_MARKS = r"[\s*_`>#()\[\]•+-]*"
"""White space, and the marks of Markdown and brackets that models put around labels."""
_NUMBER = rf"(?:\d{{1,4}}[.\d]{{0,5}}{_MARKS})?"
_COLON = "[:：﹕︰∶꞉]+"
"""A colon as models write it, of which some look alike. Models trained on other text write two."""
_LABEL = re.compile(
    rf"{_MARKS}{_NUMBER}action{_MARKS}{_NUMBER}(?:{_COLON}\s*[*_`]*\s*(?P<words>.*)|$)", re.IGNORECASE | re.DOTALL
)
"""A line that begins with the label of an action, such as `Action: look`, `**Action 1:** look` or `### Action`."""
_OTHER_LABEL = re.compile(rf"{_MARKS}(?:thought|observation|reflection|answer){_MARKS}{_NUMBER}{_COLON}", re.IGNORECASE)
_BEHIND_THOUGHT = re.compile(rf"(?<=[\s.!?])(?=\*{{0,2}}Action(?:[ _]?\d{{1,4}})?\*{{0,2}} ?{_COLON})")
"""Where a label stands behind a thought in the same line. It is written with a capital letter, unlike in prose."""
_TAGGED = re.compile(r"<action>(.*?)(?:</action>|$)", re.IGNORECASE | re.DOTALL)
"""An action between tags, as models write it that other trainers have taught that form."""
_BRACKETED = re.compile(r"\[([^\[\]]*)\]|<([^<>]*)>")
"""An action in brackets, which models copy from descriptions of forms."""
_FENCE = re.compile(r"\s*(?:```|~~~)")
_AROUND = " *_`\"'“”‘’「」"
"""Marks around an action that are not a part of it."""
LINES_BELOW = 4
"""Lines below a label in which its action may stand: a blank line and an opening fence may come before it."""


def extract_action(
    answer: str, form: re.Pattern[str] | None = None, longest: int | None = MAX_CHARACTERS
) -> str | None:
    """Return the action in the line `Action: ...` of an answer; None if there is none.

    The label is read as models write it: numbered, in bold, as a heading, with a full-width colon, with the action in
    the line below, behind a thought in the same line, or as tags around the action. A model may go on after its action
    with imagined observations and actions, so the first such line counts. If several follow each other directly, the
    last of them counts.

    `form`: a pattern for actions that cannot be confused with the words of a thought. The action is then the first
    match in the line; in an answer without such a line, it is the last match. None: the action is the rest of the
    line, and cut to `longest` characters; None does not cut it. Runs of white space become one blank, and characters
    that a tokenizer refuses are replaced.
    """
    lines = _lines(answer)
    label = _find_label(lines)
    if form is None:
        words = "" if label is None else _words_of(lines, label)
        return clean(_without_brackets(words.strip(_AROUND)))[:longest].strip() or None
    if label is None:
        return _last(form, answer)
    words = _words_in(lines[label])
    found = form.search(words or "\n".join(lines[label + 1 :]))
    if found is None:
        return None if words else _last(form, answer)
    return clean(found[0])


def extract_command(answer: str) -> str | None:
    """Return the action in free words, without the full stop that some models end it with; None if there is none."""
    action = extract_action(answer)
    return action and (action.rstrip(" .。") or None)


def _lines(answer: str) -> list[str]:
    """Return the lines of an answer, with every label of an action at the beginning of one."""
    tagged = _TAGGED.sub(r"\nAction: \1\n", answer) if "<action>" in answer.lower() else answer
    lines = tagged.replace("\r", "\n").split("\n")
    parts = [_BEHIND_THOUGHT.split(line, 1) if _OTHER_LABEL.match(line) else [line] for line in lines]
    return [part for line in parts for part in line]


def _without_brackets(words: str) -> str:
    found = _BRACKETED.fullmatch(words)
    return words if found is None else (found[1] or found[2] or "").strip(_AROUND)


def _find_label(lines: Sequence[str]) -> int | None:
    """Return the index of the line with the label that counts; None if there is none with an action."""
    found: int | None = None
    for index, line in enumerate(lines):
        if _LABEL.match(line):
            found = index if found is None or _words_of(lines, index) else found
        elif found is not None and line.strip():
            break
    return found


def _words_in(line: str) -> str:
    label = _LABEL.match(line)
    return ((label["words"] if label else None) or "").strip()


def _words_of(lines: Sequence[str], index: int) -> str:
    """Return the action of the label in a line: the rest of the line, or the first words below, in a fence or not."""
    if words := _words_in(lines[index]):
        return words
    for line in lines[index + 1 : index + 1 + LINES_BELOW]:
        if _LABEL.match(line) or _OTHER_LABEL.match(line):
            break
        if line.strip() and not _FENCE.match(line):
            return line.strip()
    return ""


def _last(form: re.Pattern[str], answer: str) -> str | None:
    found = [match[0] for match in form.finditer(answer)]
    return clean(found[-1]) if found else None


def clean(text: str) -> str:
    """Return a text in one line, with single blanks and without characters that a tokenizer refuses."""
    printable = (each if each.isprintable() else " " for each in without_surrogates(text))
    return " ".join("".join(printable).split())
