"""Text that tokenizers, files and UTF-8 can hold."""

from __future__ import annotations


def without_surrogates(text: str) -> str:
    """Return a text with `?` for each lone surrogate, half of a character that a tokenizer cut or that JSON spells.

    No tokenizer takes one, and neither does UTF-8.
    """
    return text.encode("utf-8", "replace").decode("utf-8")
