"""The token that ends a turn, and how many tokens hold a text, with vocabularies of words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from leafe_verl.plugin.rollout.turn_end import count_tokens, end_of_turn, special_tokens

WORDS = ["```", "python", "\n", "x = 1", "```\n", "\n```", ")\n```", "```python", "```.", " ", "<|im_end|>", "`", "é"]


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


class Template:
    """A tokenizer of `WORDS` with a chat template that ends an answer as told."""

    eos_token_id, all_special_ids = 0, [0]
    added_tokens_decoder = {
        WORDS.index("<|im_end|>"): SimpleNamespace(special=True),
        WORDS.index("\n"): SimpleNamespace(special=False),
    }

    def __init__(self, ending):
        self.ending = ending

    def apply_chat_template(self, messages, tokenize):
        assert not tokenize
        return "".join(f"<{message['role']}>{message['content']}{self.ending}" for message in messages)

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        return [WORDS.index(word) for word in ("<|im_end|>", "\n", "```") if text.startswith(word)]


@pytest.mark.parametrize("ending, token", [("<|im_end|>\n", "<|im_end|>"), (" <|im_end|>", "<|im_end|>")])
def test_a_turn_ends_as_the_chat_template_ends_it(ending, token):
    assert end_of_turn(Template(ending)) == WORDS.index(token) != Template.eos_token_id


@pytest.mark.parametrize("ending", ["", "\n", "x = 1"])
def test_it_ends_with_the_end_of_the_sequence_if_the_template_has_no_token_for_it(ending):
    assert end_of_turn(Template(ending)) == Template.eos_token_id


def test_an_added_token_need_not_be_special():
    assert special_tokens(Template("")) == {0, WORDS.index("<|im_end|>")}
