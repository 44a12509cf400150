"""How a model's thoughts stand in its tokens: where they end, what closes one, and whether later prompts hold them."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leafe_verl.core.policy import Message
from leafe_verl.core.thoughts import TAGS, UNSUPPORTED, end_of_thoughts, split_thoughts
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
    left_ids: tuple[int, ...] = ()
    """Tokens that the template leaves in place of an earlier turn's thoughts, as `</think>` in DeepSeek-V3.1's."""

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
    text = str(tokenizer.decode(list(prompt)))
    opened = next((tag for tag in TAGS if text.rstrip().endswith(tag)), None)
    opens = opened or _written_tag(tokenizer)
    opening: tuple[int, ...] = ()
    if opened:
        before = len(text.rstrip()) - len(opened)
        counts = range(len(prompt) + 1)
        number = bisect.bisect_left(counts, before, key=lambda count: len(tokenizer.decode(list(prompt[:count]))))
        opening = tuple(prompt[number:])
    earlier = _render_earlier(tokenizer, opens, options)
    if earlier is None or _THOUGHT in earlier:
        return ThoughtFormat(tokenizer, opens, opening, dropped=False)
    return ThoughtFormat(tokenizer, opens, opening, True, _left_ids(tokenizer, opens, earlier, options))


def unsupported_format(rendered: str) -> str | None:
    """Return the name of a format of thoughts that is not read here, if a template has rendered turns in it."""
    return next((name for mark, name in UNSUPPORTED.items() if mark in rendered), None)


def _written_tag(tokenizer: Any) -> str:
    """Return the tag that the template writes, else one that is a token, else the usual one."""
    template, tokens = str(tokenizer.chat_template), tokenizer.get_vocab()
    return next((tag for place in (template, tokens) for tag in TAGS if tag in place), _DEFAULT)


def _left_ids(tokenizer: Any, opens: str, earlier: str, options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the tokens between the header of an earlier turn and its answer, if they hold one of the tags."""
    prompt = tokenizer.apply_chat_template([_TASK], tokenize=False, add_generation_prompt=True, **options)
    header = prompt.rstrip().removesuffix(opens) if prompt.rstrip().endswith(opens) else prompt
    left = earlier.removeprefix(header).partition(_ANSWER)[0] if earlier.startswith(header) else ""
    if opens in left or TAGS[opens] in left:
        return tuple(tokenizer.encode(left, add_special_tokens=False))
    return ()


def _render_earlier(tokenizer: Any, opens: str, options: Mapping[str, Any]) -> str | None:
    """Return two turns of which the earlier one has a thought, as the model would have written it; None if the template
    refuses them."""
    spoken = f"{opens}\n{_THOUGHT}\n{TAGS[opens]}{_ANSWER}"
    messages = [_TASK, _message("assistant", spoken), _message("user", "2 + 2?")]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))
    except Exception:  # templates raise whatever they like
        return None


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


_TASK = _message("user", "1 + 1?")
