"""Text that UTF-8 cannot hold, kept without loss; and text of a model, shown in a terminal.

Sampled text may hold lone surrogates (half of an emoji, which a tokenizer cut); UTF-8, and so Arrow, cannot. Each is
stored as the noncharacter U+FDD0 and its four hexadecimal digits; U+FDD0 itself, which Unicode keeps out of
interchanged text, is stored likewise. All other text is stored as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from leafe_verl.core.reflection import shorten

MARK = "\ufdd0"
_UNSTORABLE = re.compile(f"[\ud800-\udfff{MARK}]")
_ESCAPE = re.compile(f"{MARK}([0-9a-f]{{4}})")


def escape(text: str) -> str:
    return _UNSTORABLE.sub(lambda found: f"{MARK}{ord(found[0]):04x}", text)


def unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text) if MARK in text else text


def map_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return nested dicts and lists with `change` applied to every string in them."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_text(each, change) for key, each in value.items()}
    if isinstance(value, list) and value and not isinstance(value[0], int | float):  # token lists are long
        return [map_text(each, change) for each in value]
    return value


def one_line(text: str, characters: int) -> str:
    """One line for a terminal, which must not obey what a model wrote; beyond `characters` the middle is left out."""
    return visible(shorten(" ".join(text.split()), characters))


def visible(text: str) -> str:
    """The text with a mark for every character that shows nothing, moves what is around it, or is half of a pair."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
