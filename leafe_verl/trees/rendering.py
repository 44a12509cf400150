"""Reads a row of an export as a trainer does, and says whether it would train what was trained on here.

TRL renders the prompt and the whole conversation, and trains on what the second has beyond the first. verl renders each
message alone, trains on those of the assistant, and refuses a row whose whole conversation renders to other tokens
(`MultiTurnSFTDataset` in verl/utils/dataset/multiturn_sft_dataset.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leafe_verl.core.policy import Message
from leafe_verl.core.thoughts import TAGS

VERBATIM = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""The chat template of verbatim rows, whose messages hold the rendered text."""

OTHER_TOKENS = "other_tokens"
CONTROL_TOKENS = "control_tokens"
THOUGHTS = "thoughts"
REASONS = {
    OTHER_TOKENS: "the chat template renders what is trained on otherwise than it was sampled, or refuses it",
    CONTROL_TOKENS: "the trainer would read other control tokens: a text spells one, or earlier thoughts are left out",
    THOUGHTS: "they hold thoughts, and only a tokenizer can say whether the chat template keeps them; name it with "
    "--tokenizer",
}
"""Why a row is left out, by the name under which such rows are counted."""

_SPELLED = re.compile(r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|<(?:start|end)_of_turn>|\[/?INST\]")
"""Texts that are control tokens in most tokenizers."""


@dataclass(frozen=True)
class Trained:
    """Tokens, and which of them are trained on: 1 for those that are."""

    token_ids: tuple[int, ...]
    mask: tuple[int, ...]


def spells_control_token(messages: Sequence[Message]) -> bool:
    """Return whether a text holds what most tokenizers read as a control token."""
    return any(_SPELLED.search(message["content"]) for message in messages)


class RowReader:
    """A tokenizer, with its own chat template or with that of verbatim rows."""

    def __init__(self, tokenizer: Any, *, verbatim: bool) -> None:
        self._tokenizer = tokenizer
        self._template: dict[str, str] = {"chat_template": VERBATIM} if verbatim else {}
        written = str(tokenizer.chat_template)
        self._control = {
            token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special or token.content in written
        }

    @classmethod
    def load(cls, path: str, *, verbatim: bool) -> RowReader:
        """Return the reader of a tokenizer's folder or of a name on the hub. Raises ValueError if there is none."""
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ValueError(f"--tokenizer {path} needs transformers: pip install transformers") from error
        try:
            return cls(AutoTokenizer.from_pretrained(path), verbatim=verbatim)
        except (OSError, ValueError) as error:
            raise ValueError(f"--tokenizer {path}: no tokenizer there ({error})") from error

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, with all special tokens."""
        return str(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def problem(self, row: dict[str, Any], wanted: Trained) -> str | None:
        """Return why a trainer would not train on `wanted`, a key of REASONS; None if it would, in these tokens or in
        others of the same text."""
        try:
            read = self._read_as_trl(row) if "completion" in row else self._read_as_verl(row["messages"])
        except Exception:  # templates raise whatever they like
            return OTHER_TOKENS
        if read is None or self._text(read) != self._text(wanted):
            return OTHER_TOKENS
        return None if self._marks(read) == self._marks(wanted) else CONTROL_TOKENS

    def _read_as_trl(self, row: dict[str, Any]) -> Trained | None:
        prompt = self._render(row["prompt"], add_generation_prompt=True)
        whole = self._render([*row["prompt"], *row["completion"]])
        mask = [0] * len(prompt) + [1] * (len(whole) - len(prompt))
        return Trained(tuple(whole), tuple(mask)) if whole[: len(prompt)] == prompt else None

    def _read_as_verl(self, messages: Sequence[Message]) -> Trained | None:
        empty: Message = {"role": "user", "content": ""}
        one, two = self._render([empty]), self._render([empty, empty])
        system, header = one[: 2 * len(one) - len(two)], self._render([empty], add_generation_prompt=True)[len(one) :]
        token_ids: list[int] = []
        mask: list[int] = []
        for place, message in enumerate(messages):
            own = self._render([message])[len(system) if place and message["role"] != "system" else 0 :]
            is_answer = message["role"] == "assistant"
            token_ids += own
            mask += [0] * len(header) + [1] * (len(own) - len(header)) if is_answer else [0] * len(own)
        return Trained(tuple(token_ids), tuple(mask)) if token_ids == self._render(messages) else None

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> list[int]:
        return list(
            self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=True,
                return_dict=False,
                add_generation_prompt=add_generation_prompt,
                **self._template,
            )
        )

    def _text(self, read: Trained) -> str:
        """The trained text without blanks: templates write a line break behind an end of turn, which is trained on."""
        trained = [token_id for token_id, each in zip(read.token_ids, read.mask, strict=True) if each]
        return "".join(self.decode(trained).split())

    def _marks(self, read: Trained) -> list[int | str]:
        """The control tokens in the order in which they stand, and the tags of thoughts that are text."""
        control: list[int | str] = [token_id for token_id in read.token_ids if token_id in self._control]
        text = self.decode(read.token_ids)
        return [*control, *(f"{text.count(tag)} {tag}" for pair in TAGS.items() for tag in pair)]
