"""The answer form of ReAct (arXiv 2210.03629), a thought and then `Action: ...`, and how the action is extracted."""

from __future__ import annotations

import re

FORM = """\
Each turn, write one thought, and then one action on a line of its own, as in:
Thought: {thought}
Action: {action}"""
NO_ACTION = "No action found, and nothing happened. End your answer with a line `Action: ...` that holds one action."
MAX_CHARACTERS = 300
"""Longest action in free words. No environment needs longer ones, and some parsers take minutes for them."""

_LINE = re.compile(r"^[ \t>*#]*action[ \t*]*:[ \t*]*(\S[^\n]*)$", re.IGNORECASE | re.MULTILINE)


def extract_action(answer: str, form: re.Pattern[str] | None = None) -> str | None:
    """Return the action in the line `Action: ...` of an answer; None if there is none.

    A model may go on after its action with imagined observations and actions, so the first such line counts. If
    several follow each other directly, the last of them counts.

    `form`: a pattern for actions that cannot be confused with the words of a thought. The action is then the first
    match in the line; in an answer without such a line, it is the last match. None: the action is the rest of the
    line. Runs of white space become one blank, and characters that a tokenizer refuses are replaced.
    """
    line = _action_line(answer)
    if form is None:
        return _clean(line.strip(" *`\"'"))[:MAX_CHARACTERS] or None if line else None
    found = [match[0] for match in form.finditer(answer if line is None else line)]
    return _clean(found[-1] if line is None else found[0]) if found else None


def _action_line(answer: str) -> str | None:
    found: re.Match[str] | None = None
    for match in _LINE.finditer(answer):
        if found is not None and answer[found.end() : match.start()].strip():
            break
        found = match
    return found[1] if found else None


def _clean(text: str) -> str:
    readable = text.encode("utf-8", "replace").decode()
    return " ".join("".join(each if each.isprintable() else " " for each in readable).split())
