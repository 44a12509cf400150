"""Which tokens stand for no text, and how many tokens hold a text, with vocabularies of words."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from leafe_verl.plugin.rollout.turn_end import count_tokens, special_tokens

WORDS = ["```", "python", "\n", "x = 1", "```\n", "\n```", ")\n```", "```python", "```.", " ", "<|im_end|>", "`", "é"]


@dataclass(frozen=True, eq=False)
class Tokenizer:
    eos_token_id: int
    all_special_ids: tuple[int, ...]
    added_tokens_decoder: dict[int, SimpleNamespace]


def decode(token_ids):
    return "".join(WORDS[number] for number in token_ids)


@pytest.mark.parametrize(
    "words, kept",
    [
        (["```", "python", "\n", "x = 1", "\n", "```", "\n", "x = 1"], 6),
        (["```python", "\n", "x = 1", "\n```", "\n", "```python"], 4),
        (["```python", "\n", "x = 1", "\n", "```\n", "x = 1"], 5),  # the token holds a line break beside the fence
        (["```python", "\n", "x = 1", "\n", "`", "`", "`"], 7),
        (["```python", "\n", "é", "\n", "```"], 5),
        (["```python", "\n", "x = 1", "\n", "```.", "\n"], None),  # no token ends where the fence ends
        (["```python", "\n", "x = 1", "\n", "```python", "\n"], None),
    ],
)
def test_the_tokens_that_hold_a_text_are_kept_whole(words, kept):
    token_ids = [WORDS.index(word) for word in words]
    end = decode(token_ids).index("```", 3) + 3
    assert count_tokens(decode, token_ids, end) == kept


def test_a_character_may_be_spread_over_tokens():
    pieces = ["é".encode()[:1], "é".encode()[1:], b"\n```"]

    def decode(token_ids):
        return b"".join(pieces[number] for number in token_ids).decode("utf-8", "replace")

    assert [count_tokens(decode, [0, 1, 2], characters) for characters in (0, 1, 5)] == [0, 2, 3]


def test_an_added_token_need_not_be_special():
    added = {WORDS.index("<|im_end|>"): SimpleNamespace(special=True), 2: SimpleNamespace(special=False)}
    tokenizer = Tokenizer(eos_token_id=0, all_special_ids=(0,), added_tokens_decoder=added)
    assert special_tokens(tokenizer) == {0, WORDS.index("<|im_end|>")}
