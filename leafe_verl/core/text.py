"""Text that tokenizers, files and UTF-8 can hold, and numbers with their nouns."""

from __future__ import annotations


def without_surrogates(text: str) -> str:
    """Return a text with `?` for each lone surrogate, half of a character that a tokenizer cut or that JSON spells.

    No tokenizer takes one, and neither does UTF-8.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in `1 task` and `2 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
