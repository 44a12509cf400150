"""How ALFWorld's games want to be told where an object goes: some say `move O to R`, earlier ones `put O in/on R`."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOVE, PUT = "move O to R", "put O in/on R"
_PUT_TEMPLATE = re.compile(r"put \{\w+\} in/on \{\w+\}")
_PLACING = re.compile(
    r"(?:put|move|place)\s+(?P<object>.+?)\s+(?:in ?/ ?on|on ?/ ?in|into|onto|in|on|to|inside)\s+(?P<receptacle>.+)"
)
_ARTICLES = re.compile(r"\b(?:the|a|an)\s+")


def placing_form(grammar: str) -> str:
    """Return the form in which a game, given by its grammar, is told to place an object: MOVE or PUT."""
    return PUT if _PUT_TEMPLATE.search(grammar) else MOVE


def as_offered(command: str, admissible: Iterable[str]) -> str:
    """Return the admissible command that means the same as `command`; `command` itself if there is none.

    Letters' case, articles, a full stop at the end and the form of placing an object make no difference.
    """
    offered = list(admissible)
    if command in offered:
        return command
    meaning = _meaning(command)
    return next((each for each in offered if _meaning(each) == meaning), command)


def _meaning(command: str) -> tuple[str, ...]:
    plain = _ARTICLES.sub("", " ".join(command.lower().split()).rstrip(" .!"))
    placing = _PLACING.fullmatch(plain)
    return ("place", placing["object"], placing["receptacle"]) if placing else (plain,)
