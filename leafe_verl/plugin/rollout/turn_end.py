"""Where a turn is over, in tokens: the tokens that stand for no text, and those that hold so many characters."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Sequence
from typing import Any


@functools.lru_cache(maxsize=16)
def special_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that stand for no text, such as those that end a turn."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | {*tokenizer.all_special_ids, tokenizer.eos_token_id})


def count_tokens(decode: Callable[[Sequence[int]], str], token_ids: Sequence[int], characters: int) -> int | None:
    """Return how many leading tokens hold the first `characters` of a text; None if they hold more than blanks beside.

    The tokens cannot be looked at one by one: a character may be spread over several of them.
    """
    text = decode(token_ids)[:characters]
    counts = range(len(token_ids) + 1)
    count = bisect.bisect_left(counts, True, key=lambda number: decode(token_ids[:number])[:characters] == text)
    return None if decode(token_ids[:count])[characters:].strip() else count
