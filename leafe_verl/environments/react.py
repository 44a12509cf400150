"""The answer form of ReAct (arXiv 2210.03629), of every environment with commands: a thought, then `Action: ...`."""

from __future__ import annotations

import re

FORM = """\
Each turn, write one thought, and then one action on a line of its own, as in:
Thought: {thought}
Action: {action}"""
NO_ACTION = "No action found, and nothing happened. End your answer with a line `Action: ...` that holds one action."
MAX_CHARACTERS = 300
"""Of an action in free words. No environment has longer ones, and some parsers take minutes over them."""

_LINE = re.compile(r"^[ \t>*#]*action[ \t*]*:[ \t*]*(\S[^\n]*)$", re.IGNORECASE | re.MULTILINE)


def extract_action(answer: str, form: re.Pattern[str] | None = None) -> str | None:
    """Return the action of the line `Action: ...`; None without one.

    What a model writes after its action it has imagined, observations included, so that only its first such line
    counts; of several in a row, the last.

    `form`: what an action looks like, where that cannot be taken for words of a thought. The line then holds the first
    match, and an answer without such a line its last one. None: the action is the rest of the line. White space is
    made single, and what no tokeniser reads is replaced.
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
