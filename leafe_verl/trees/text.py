"""Escapes text that UTF-8 cannot encode, and makes a model's text safe to print in a terminal.

Sampled text may hold lone surrogates (half of an emoji that a tokenizer cut), which UTF-8, and so Arrow, cannot encode.
Each is stored as the noncharacter U+FDD0 followed by its four hexadecimal digits. U+FDD0 itself, which Unicode forbids
in interchanged text, is escaped in the same way. All other text is stored unchanged.
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
    """Return text that UTF-8 can encode; `unescape` undoes it."""
    return _UNSTORABLE.sub(lambda found: f"{MARK}{ord(found[0]):04x}", text)


def unescape(text: str) -> str:
    """Return the text that `escape` was given."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text) if MARK in text else text


def map_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return nested dicts and lists with `change` applied to every string in them."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_text(each, change) for key, each in value.items()}
    if (
        isinstance(value, list) and value and not isinstance(value[0], int | float)
    ):  # token lists are long and hold no text
        return [map_text(each, change) for each in value]
    return value


def one_line(text: str, characters: int) -> str:
    """Return text on one printable line, without its middle if it is longer than `characters`."""
    return visible(shorten(" ".join(text.split()), characters))


def visible(text: str) -> str:
    """Return text in which unprintable characters and lone surrogates are replaced, so that no terminal obeys them."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
