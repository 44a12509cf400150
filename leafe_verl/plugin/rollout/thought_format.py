"""How a model's thoughts stand in its tokens: where they end, what closes one, and whether later prompts hold them."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leafe_verl.core.thoughts import TAGS, end_of_thoughts, split_thoughts
from leafe_verl.plugin.rollout.engine_requests import EngineRequests

_DEFAULT = "<think>"
_THOUGHT, _ANSWER = "Let me count.", "It is two."


@dataclass(frozen=True)
class ThoughtFormat:
    """The answers of a tokenizer and its chat template about thoughts."""

    tokenizer: Any
    """A `TextKeepingTokenizer`."""
    opens: str
    """The tag that opens a thought, a key of TAGS."""
    opening_ids: tuple[int, ...]
    """Tokens at the end of a prompt that open a thought, with the blanks after its tag. Empty: prompts open none."""
    dropped: bool
    """Whether the template leaves out the thoughts of earlier turns."""

    @property
    def closing_ids(self) -> tuple[int, ...]:
        """The tokens that close a thought which reached its limit."""
        return tuple(self.tokenizer.encode(f"\n{TAGS[self.opens]}\n\n", add_special_tokens=False))

    def stop(self, stop_token_ids: Sequence[int], engine: EngineRequests) -> dict[str, Any]:
        """Return parameters with which the engine stops behind the tag that closes a thought, and at given tokens."""
        tag = self.tokenizer.encode(TAGS[self.opens], add_special_tokens=False)
        if len(tag) == 1:  # maybe a special token, which is no part of the text that engines look for texts in
            return {"stop_token_ids": [*stop_token_ids, *tag]}
        given = {"stop_token_ids": list(stop_token_ids)} if stop_token_ids else {}
        return {**given, **engine.stop_behind([TAGS[self.opens]])}

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of a turn without special tokens other than the tags around thoughts."""
        tokenizer = self.tokenizer
        tags = {tokenizer.control[tag]: tag for pair in TAGS.items() for tag in pair if tag in tokenizer.control}
        text, begin = "", 0
        for place, token_id in enumerate(token_ids):
            if token_id in tags:  # decoding may leave it out as a special token
                text += tokenizer.decode(list(token_ids[begin:place]), skip_special_tokens=True) + tags[token_id]
                begin = place + 1
        return text + str(tokenizer.decode(list(token_ids[begin:]), skip_special_tokens=True))

    def split(self, token_ids: Sequence[int], *, opened: bool) -> tuple[str, int]:
        """Return the answer in a turn's tokens, and the number of leading tokens that are thoughts.

        Args:
            opened: Whether the prompt has opened a thought.
        """
        thoughts, answer = split_thoughts(self.text(token_ids), opened=opened)
        if not thoughts:
            return answer, 0
        counts = range(len(token_ids) + 1)
        number = bisect.bisect_right(counts, len(thoughts), key=lambda count: len(self.text(token_ids[:count]))) - 1
        while number and not self.text(token_ids[number - 1 : number]):  # the end of the turn is no thought
            number -= 1
        return answer, number

    def goes_on(self, token_ids: Sequence[int], *, opened: bool) -> bool:
        """Return whether a turn that is not over is within a thought."""
        return end_of_thoughts(self.text(token_ids), opened=opened) is None


def find_thought_format(tokenizer: Any, prompt: Sequence[int], options: Mapping[str, Any]) -> ThoughtFormat:
    """Ask a `TextKeepingTokenizer`. `prompt` are the tokens of any prompt; `options` are those of the chat template."""
    template = str(tokenizer.chat_template)
    opens = next((tag for tag in TAGS if tag in template or tag in tokenizer.get_vocab()), _DEFAULT)
    text = str(tokenizer.decode(list(prompt)))
    opened = next((tag for tag in TAGS if text.rstrip().endswith(tag)), None)
    if opened is None:
        return ThoughtFormat(tokenizer, opens, (), _drops(tokenizer, opens, options))
    before = len(text.rstrip()) - len(opened)
    counts = range(len(prompt) + 1)
    number = bisect.bisect_left(counts, before, key=lambda count: len(tokenizer.decode(list(prompt[:count]))))
    return ThoughtFormat(tokenizer, opened, tuple(prompt[number:]), _drops(tokenizer, opened, options))


def _drops(tokenizer: Any, opens: str, options: Mapping[str, Any]) -> bool:
    """Render an earlier turn with a thought, as the model would have written it."""
    spoken = f"{opens}\n{_THOUGHT}\n{TAGS[opens]}\n\n{_ANSWER}"
    messages = [_message("user", "1 + 1?"), _message("assistant", spoken), _message("user", "2 + 2?")]
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    except Exception:  # templates raise whatever they like
        return False
    return _THOUGHT not in rendered


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
