"""Where a turn is over, in tokens, if it is known in characters."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence


def count_tokens(decode: Callable[[Sequence[int]], str], token_ids: Sequence[int], characters: int) -> int | None:
    """Return how many leading tokens hold the first `characters` of a text; None if they hold more than blanks beside.

    The tokens cannot be looked at one by one: a character may be spread over several of them.
    """
    text = decode(token_ids)[:characters]
    counts = range(len(token_ids) + 1)
    count = bisect.bisect_left(counts, True, key=lambda number: decode(token_ids[:number])[:characters] == text)
    return None if decode(token_ids[:count])[characters:].strip() else count
