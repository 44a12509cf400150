"""Where a turn is over, in tokens: the token that ends it, and the tokens that hold so many characters of it."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Sequence
from typing import Any

MARK = "answer"
"""A message that stands in for an answer."""


@functools.lru_cache(maxsize=16)
def end_of_turn(tokenizer: Any) -> int:
    """Return the token that the chat template puts behind an answer; the tokenizer's end of sequence if it puts none.

    They differ where a base model's tokenizer has a chat template: `<|im_end|>` and `<|endoftext|>`, for example.
    """
    conversation = [{"role": "user", "content": "question"}, {"role": "assistant", "content": MARK}]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False)
    behind = tokenizer.encode(rendered.rpartition(MARK)[2].lstrip(), add_special_tokens=False)
    return int(behind[0] if behind and behind[0] in special_tokens(tokenizer) else tokenizer.eos_token_id)


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
