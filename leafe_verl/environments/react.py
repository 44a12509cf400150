"""The answer form of ReAct (arXiv 2210.03629): a thought, then a line `Action: ...`."""

from __future__ import annotations

import re

FORM = """\
Each turn, write one thought, and then one action on a line of its own, as in:
Thought: {thought}
Action: {action}"""
NO_ACTION = "No action found, and nothing happened. End your answer with a line `Action: ...` that holds one action."
MAX_CHARACTERS = 300
"""Of an action. No environment has longer ones, and some parsers take minutes over them."""

_ACTION = re.compile(r"^[ \t>*#]*action[ \t*]*:[ \t*]*(\S[^\n]*)$", re.IGNORECASE | re.MULTILINE)


def action_of(answer: str) -> str | None:
    """Return the action of the first line `Action: ...`; None without one.

    The first: what a model writes after it, it has imagined, observations included. White space is made single, and
    what no tokeniser reads is replaced.
    """
    match = _ACTION.search(answer)
    if match is None:
        return None
    text = "".join(each if each.isprintable() else " " for each in match[1].encode("utf-8", "replace").decode())
    return " ".join(text.strip(" *`\"'").split())[:MAX_CHARACTERS] or None
